/* An OpenAI server that computes nothing: one thread, one epoll, any number of ports.
 *
 *   stub PORTS        listens on that many free ports of 127.0.0.1 and prints them, one line
 *
 * It answers as an untouched vLLM server does, token ids included where a request asks for them
 * (`return_token_ids`). A stream's tokens come `gap_us` microseconds apart, a member of the
 * request's body; without it, one each turn of the loop. The text of a token is the time at which
 * it was written (CLOCK_MONOTONIC, ns) and its position: " 123456789.0"; with a `words` in the
 * request's body, a seed, it is a word (`words.h`). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "words.h"

enum { IN_LIMIT = 1 << 20, OUT_LIMIT = 1 << 22, EVENTS = 1024, MAX_PORTS = 64 };

typedef struct {
    int fd, port;
    char *in, *out;
    size_t n_in, in_room, n_out, out_room;
    int wants_out;
    /* the stream that is being written, if `left` > 0 */
    int left, sent, ids, chat, usage;
    int64_t gap_ns, due_ns;
    long number, words;
    int at; /* where it stands in the heap or the list, -1: in neither */
} Conn;

static int epfd, n_ports, running[MAX_PORTS];
static long answers, number;
static Conn **heap, **ready;
static int n_heap, heap_room, n_ready, ready_room;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *grown(void *old, size_t size) {
    void *got = realloc(old, size);
    if (!got) { perror("stub"); exit(1); }
    return got;
}

/* ---- streams that wait for their time: a binary heap -------------------------------------- */

static void place(Conn *c, int at) { heap[at] = c; c->at = at; }

static void sift(int at) {
    Conn *c = heap[at];
    while (at > 0 && heap[(at - 1) / 2]->due_ns > c->due_ns) {
        place(heap[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    for (int child; (child = 2 * at + 1) < n_heap; at = child) {
        if (child + 1 < n_heap && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
        if (heap[child]->due_ns >= c->due_ns) break;
        place(heap[child], at);
    }
    place(c, at);
}

static void wait_for_time(Conn *c) {
    if (n_heap == heap_room) heap = grown(heap, (heap_room = heap_room * 2 + 64) * sizeof *heap);
    place(c, n_heap++);
    sift(c->at);
}

static void leave_heap(Conn *c) {
    int at = c->at;
    c->at = -1;
    if (at == --n_heap) return;
    place(heap[n_heap], at);
    sift(at);
}

static void wait_for_turn(Conn *c) {
    if (n_ready == ready_room) ready = grown(ready, (ready_room = ready_room * 2 + 64) * sizeof *ready);
    ready[c->at = n_ready++] = c;
}

static void leave_ready(Conn *c) {
    ready[c->at] = ready[--n_ready];
    ready[c->at]->at = c->at;
    c->at = -1;
}

/* ---- writing ------------------------------------------------------------------------------- */

static void drop(Conn *c) {
    if (c->at >= 0) { if (c->gap_ns) leave_heap(c); else leave_ready(c); }
    if (c->left) running[c->port]--;
    c->left = 0;
    if (c->fd >= 0) close(c->fd);
    c->fd = -1; /* freed after the turn's events: see `main` */
}

static void listen_to(Conn *c, int out) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), .data.ptr = c};
    if (c->wants_out != out && c->fd >= 0) epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &e);
    c->wants_out = out;
}

static void put(Conn *c, const char *data, size_t n) {
    if (c->fd < 0) return;
    if (!c->n_out) {
        ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) { drop(c); return; }
        if (sent > 0) { data += sent; n -= sent; }
        if (!n) return;
    }
    if (c->n_out + n > OUT_LIMIT) { drop(c); return; }
    if (c->n_out + n > c->out_room) c->out = grown(c->out, c->out_room = (c->n_out + n) * 2);
    memcpy(c->out + c->n_out, data, n);
    c->n_out += n;
    listen_to(c, 1);
}

static void flush(Conn *c) {
    ssize_t sent = send(c->fd, c->out, c->n_out, MSG_NOSIGNAL);
    if (sent < 0) { if (errno != EAGAIN) drop(c); return; }
    memmove(c->out, c->out + sent, c->n_out -= sent);
    if (!c->n_out) { free(c->out); c->out = NULL; c->out_room = 0; listen_to(c, 0); }
}

static void answer(Conn *c, const char *type, const char *body) {
    char head[256];
    size_t n = strlen(body);
    int h = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", type, n);
    char *whole = grown(NULL, h + n);
    memcpy(whole, head, h);
    memcpy(whole + h, body, n);
    put(c, whole, h + n);
    free(whole);
}

static int event(Conn *c, char *to, size_t room) {
    int last = c->left == 1, i = c->sent, n;
    const char *finish = last ? "\"length\"" : "null";
    char ids[64] = "null", text[64];
    int word = c->words ? word_number(c->words, i) : i;
    if (c->ids) snprintf(ids, sizeof ids, "[%d]", 1000 + word);
    if (c->words) write_word(text, sizeof text, word);
    else snprintf(text, sizeof text, " %lld.%d", (long long)now_ns(), i);
    if (c->chat)
        n = snprintf(to, room, "data: {\"id\":\"chatcmpl-%ld\",\"object\":\"chat.completion.chunk\",\"created\":1,"
            "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,"
            "\"finish_reason\":%s%s,\"token_ids\":%s}]}\n\n", c->number, text, finish,
            last ? ",\"stop_reason\":null" : "", ids);
    else
        n = snprintf(to, room, "data: {\"id\":\"cmpl-%ld\",\"object\":\"text_completion\",\"created\":1,"
            "\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,"
            "\"finish_reason\":%s,\"stop_reason\":null,\"prompt_token_ids\":%s,\"token_ids\":%s}]}\n\n",
            c->number, text, finish, c->ids && !i ? "[1,2]" : "null", ids);
    return n;
}

static int chunk(char *to, size_t room, const char *data, int n) {
    return snprintf(to, room, "%x\r\n%.*s\r\n", n, n, data);
}

/* Write the stream's next token; what ends it goes out with the last, as vLLM's two writes do. */
static void token(Conn *c) {
    char data[1024], out[4096];
    int n = chunk(out, sizeof out, data, event(c, data, sizeof data));
    c->sent++;
    if (!--c->left) {
        if (c->usage) {
            int u = snprintf(data, sizeof data, "data: {\"id\":\"cmpl-%ld\",\"object\":\"%s\",\"created\":1,\"model\":\"m\","
                "\"choices\":[],\"usage\":{\"prompt_tokens\":2,\"total_tokens\":%d,\"completion_tokens\":%d}}\n\n",
                c->number, c->chat ? "chat.completion.chunk" : "text_completion", c->sent + 2, c->sent);
            n += chunk(out + n, sizeof out - n, data, u);
        }
        n += chunk(out + n, sizeof out - n, "data: [DONE]\n\n", 14);
        n += snprintf(out + n, sizeof out - n, "0\r\n\r\n");
        running[c->port]--;
        if (c->at >= 0) { if (c->gap_ns) leave_heap(c); else leave_ready(c); }
        put(c, out, n);
        return;
    }
    put(c, out, n);
    if (c->fd < 0) return;
    if (c->gap_ns) {
        c->due_ns += c->gap_ns;
        if (c->at < 0) wait_for_time(c); else sift(c->at);
    } else if (c->at < 0)
        wait_for_turn(c);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Where a member's value begins in a JSON object without nesting to speak of; NULL: not there. */
static const char *member(const char *body, const char *name) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", name);
    const char *at = strstr(body, quoted);
    if (!at) return NULL;
    at += strlen(quoted);
    at += strspn(at, " \t");
    if (*at != ':') return NULL;
    return at + 1 + strspn(at + 1, " \t");
}

static int is_true(const char *body, const char *name) {
    const char *at = member(body, name);
    return at && !strncmp(at, "true", 4);
}

static long count(const char *body, const char *name, long otherwise) {
    const char *at = member(body, name);
    return at && *at >= '0' && *at <= '9' ? atol(at) : otherwise;
}

static void whole(Conn *c, int tokens, int chat, int ids) {
    size_t room = tokens * 40 + 1024, n = 0;
    char *out = grown(NULL, room);
    n += snprintf(out + n, room - n, "{\"id\":\"%s-%ld\",\"object\":\"%s\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,%s\"",
        chat ? "chatcmpl" : "cmpl", ++number, chat ? "chat.completion" : "text_completion",
        chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    for (int i = 0; i < tokens; i++) n += snprintf(out + n, room - n, " hello");
    n += snprintf(out + n, room - n, "\"%s,\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null,\"token_ids\":", chat ? "}" : "");
    if (ids) {
        for (int i = 0; i < tokens; i++) n += snprintf(out + n, room - n, "%c%d", i ? ',' : '[', 1000 + i);
        n += snprintf(out + n, room - n, "]");
    } else
        n += snprintf(out + n, room - n, "null");
    n += snprintf(out + n, room - n, "}],\"usage\":{\"prompt_tokens\":2,\"total_tokens\":%d,\"completion_tokens\":%d}}", tokens + 2, tokens);
    answer(c, "application/json", out);
    free(out);
}

static void complete(Conn *c, const char *body, int chat) {
    long tokens = count(body, "max_tokens", count(body, "max_completion_tokens", 16));
    answers++;
    if (!is_true(body, "stream")) { whole(c, tokens, chat, is_true(body, "return_token_ids")); return; }
    c->left = tokens > 0 ? tokens : 1;
    c->sent = 0;
    c->chat = chat;
    c->ids = is_true(body, "return_token_ids");
    c->usage = is_true(body, "include_usage");
    c->words = count(body, "words", 0);
    c->gap_ns = count(body, "gap_us", 0) * 1000;
    c->due_ns = now_ns();
    c->number = ++number;
    running[c->port]++;
    char out[1024], data[512];
    int n = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nserver: uvicorn\r\n"
        "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    if (chat) {
        int role = snprintf(data, sizeof data, "data: {\"id\":\"chatcmpl-%ld\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\","
            "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
            "\"prompt_token_ids\":%s}\n\n", c->number, c->ids ? "[1,2]" : "null");
        n += chunk(out + n, sizeof out - n, data, role);
    }
    put(c, out, n);
    if (c->fd >= 0) token(c);
}

static void metrics(Conn *c) {
    char page[1024];
    snprintf(page, sizeof page,
        "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} %d\n"
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 0\n"
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.01\n"
        "vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"10000000\"} 1\n",
        running[c->port]);
    answer(c, "text/plain; version=0.0.4; charset=utf-8", page);
}

/* Answer the request at the front, if it is whole. Return how many bytes it had. */
static size_t one(Conn *c) {
    char *end = memmem(c->in, c->n_in, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = end + 4 - c->in, n_body = 0;
    *end = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    if (length) n_body = strtoul(length + 17, NULL, 10);
    int expects = strcasestr(c->in, "\r\nexpect: 100-continue") != NULL;
    *end = '\r';
    if (c->n_in < head + n_body) {
        if (expects && c->n_in == head) put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        return 0;
    }
    char *path = memchr(c->in, ' ', head), *body = c->in + head, kept = body[n_body];
    if (!path++) { drop(c); return 0; }
    body[n_body] = 0; /* there is room for it */
    if (!strncmp(path, "/v1/completions", 15)) complete(c, body, 0);
    else if (!strncmp(path, "/v1/chat/completions", 20)) complete(c, body, 1);
    else if (!strncmp(path, "/v1/models", 10))
        answer(c, "application/json", "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1,"
            "\"owned_by\":\"vllm\",\"root\":\"m\",\"parent\":null,\"max_model_len\":131072}]}");
    else if (!strncmp(path, "/metrics", 8)) metrics(c);
    else if (!strncmp(path, "/version", 8)) answer(c, "application/json", "{\"version\":\"0.32.0\"}");
    else if (!strncmp(path, "/health", 7)) answer(c, "application/json", "");
    else if (c->fd >= 0) {
        static const char none[] = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 22\r\n\r\n{\"detail\":\"Not Found\"}";
        put(c, none, sizeof none - 1);
    }
    if (c->fd >= 0) body[n_body] = kept;
    return head + n_body;
}

static void take(Conn *c) {
    if (c->n_in + 16384 + 1 > c->in_room) {
        if (c->n_in > IN_LIMIT) { drop(c); return; }
        c->in = grown(c->in, c->in_room = c->n_in * 2 + 16384 + 1);
    }
    ssize_t got = recv(c->fd, c->in + c->n_in, c->in_room - c->n_in - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { drop(c); return; }
    c->n_in += got;
    for (size_t n; c->fd >= 0 && !c->left && c->n_in && (n = one(c));)
        memmove(c->in, c->in + n, c->n_in -= n);
    if (c->fd >= 0 && !c->n_in) { free(c->in); c->in = NULL; c->in_room = 0; }
}

static int open_port(int *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&a, n) || listen(fd, 4096) || getsockname(fd, (void *)&a, &n)) { perror("stub"); exit(1); }
    *port = ntohs(a.sin_port);
    return fd;
}

int main(int argc, char **argv) {
    Conn doors[MAX_PORTS] = {0};
    struct epoll_event events[EVENTS];
    Conn **gone = NULL;
    int n_gone = 0, gone_room = 0;
    n_ports = argc > 1 ? atoi(argv[1]) : 1;
    if (n_ports < 1 || n_ports > MAX_PORTS) { fprintf(stderr, "usage: stub PORTS\n"); return 2; }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    epfd = epoll_create1(0);
    for (int i = 0; i < n_ports; i++) {
        int port;
        doors[i].fd = open_port(&port);
        doors[i].port = i;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &doors[i]};
        epoll_ctl(epfd, EPOLL_CTL_ADD, doors[i].fd, &e);
        printf("%d%c", port, i + 1 < n_ports ? ' ' : '\n');
    }
    fflush(stdout);
    for (;;) {
        int wait_ms = -1;
        struct timespec left = {0, 0};
        if (!n_ready && n_heap) {
            int64_t ns = heap[0]->due_ns - now_ns();
            if (ns > 0) left = (struct timespec){ns / 1000000000, ns % 1000000000};
            wait_ms = 0;
        }
        int n = epoll_pwait2(epfd, events, EVENTS, n_ready || !wait_ms ? &left : NULL, NULL);
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (c >= doors && c < doors + MAX_PORTS) {
                for (int fd; (fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                    int one = 1;
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    Conn *made = grown(NULL, sizeof *made);
                    *made = (Conn){.fd = fd, .port = c->port, .at = -1};
                    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = made};
                    epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e);
                }
                continue;
            }
            if (c->fd >= 0 && events[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) drop(c);
            if (c->fd >= 0 && events[i].events & EPOLLOUT && c->n_out) flush(c);
            if (c->fd >= 0 && events[i].events & EPOLLIN) take(c);
            if (c->fd < 0) {
                if (n_gone == gone_room) gone = grown(gone, (gone_room = gone_room * 2 + 64) * sizeof *gone);
                gone[n_gone++] = c;
            }
        }
        int64_t now = now_ns();
        while (n_heap && heap[0]->due_ns <= now) {
            Conn *c = heap[0];
            token(c);
            if (c->fd < 0) { free(c->in); free(c->out); free(c); }
        }
        for (int i = n_ready - 1; i >= 0; i--) {
            if (i >= n_ready) continue;
            Conn *c = ready[i];
            token(c);
            if (c->fd < 0) { free(c->in); free(c->out); free(c); }
        }
        while (n_gone) {
            Conn *c = gone[--n_gone];
            free(c->in); free(c->out); free(c);
        }
    }
}
