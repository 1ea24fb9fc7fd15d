/* Load on an OpenAI server: one thread, one epoll, keep-alive connections.
 *
 *   load port=P [conns=64] [requests=1000] [tokens=16] [gap_us=0] [stream=1] [chat=0] [ids=0]
 *        [burst=0] [ramp_us=0] [prompt=900] [sources=1] [timeout_s=60] [words=0]
 *
 * Each connection asks again as soon as it has its answer, until `requests` were sent; with
 * `burst`, all ask at the same moment and wait for each other before they ask again. `ramp_us`
 * spreads the first requests evenly over that time. Connections come from 127.0.0.1 to
 * 127.0.0.`sources`. Streams must come from `stub`: the text of a token says when it was written
 * and which it is, so every token is checked and timed; with `words` it is a word (`words.h`), checked
 * but not timed. Prints "open" once every connection has
 * had its first token, and one JSON object at the end: "first" is the time to the first token,
 * "forward" from a token's writing to its reading, "steady" the same of tokens after "open". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
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

enum { FIRST_SEED = 1000000, EVENTS = 512, READ = 1 << 16, HEAD_LIMIT = 4096 };
typedef enum { HEAD, BY_LENGTH, SIZE, DATA, DATA_END, TRAILER } State;

typedef struct {
    int fd, busy, had_first, status, done, tokens, chunked;
    State state;
    int64_t sent_ns;
    size_t left; /* of a body, or of a chunk */
    size_t n_kept, room;
    char *kept; /* a part of the head, of a line, or of a chunk's size */
} Conn;

typedef struct { int64_t *at; size_t n, room; } Series;

static long conns = 64, requests = 1000, tokens = 16, gap_us, stream = 1, chat, ids, burst, ramp_us,
            prompt = 900, sources = 1, timeout_s = 60, words, port;
static struct { const char *name; long *value; } OPTIONS[] = {
    {"conns", &conns}, {"requests", &requests}, {"tokens", &tokens}, {"gap_us", &gap_us}, {"stream", &stream},
    {"chat", &chat}, {"ids", &ids}, {"burst", &burst}, {"ramp_us", &ramp_us}, {"prompt", &prompt},
    {"sources", &sources}, {"timeout_s", &timeout_s}, {"words", &words}, {"port", &port}};

static Series first_ns, forward_ns, steady_ns, whole_ns;
static Conn *all;
static char *request, *seed, buffer[READ], failure[300];
static size_t n_request;
static int epfd;
static long started, ended, failed, n_first, in_flight, n_tokens;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void add(Series *s, int64_t value) {
    if (s->n == s->room) {
        s->at = realloc(s->at, (s->room = s->room * 2 + 1024) * sizeof *s->at);
        if (!s->at) { perror("load"); exit(1); }
    }
    s->at[s->n++] = value;
}

static int before(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void show(const char *name, Series *s) {
    static const double SHARES[] = {0.5, 0.9, 0.99, 0.999, 1.0};
    static const char *NAMES[] = {"p50", "p90", "p99", "p999", "max"};
    qsort(s->at, s->n, sizeof *s->at, before);
    printf(",\"%s_ms\":{", name);
    for (int i = 0; i < 5; i++) {
        size_t at = s->n ? (size_t)(SHARES[i] * (s->n - 1) + 0.5) : 0;
        printf("%s\"%s\":%.6g", i ? "," : "", NAMES[i], s->n ? s->at[at] / 1e6 : -1.0);
    }
    printf("}");
}

static void note(const char *what, const char *more, size_t n) {
    if (failure[0]) return;
    int at = snprintf(failure, sizeof failure, "%s ", what);
    for (size_t i = 0; i < n && at < 280; i++)
        failure[at++] = more[i] < ' ' || more[i] == '"' || more[i] == '\\' ? ' ' : more[i];
    failure[at] = 0;
}

static void connect_it(Conn *c, int i) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)}, from = {.sin_family = AF_INET};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + i % sources);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) { perror("load: socket"); exit(1); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (sources > 1) {
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (void *)&from, sizeof from)) { perror("load: bind"); exit(1); }
    }
    if (connect(c->fd, (void *)&to, sizeof to)) { perror("load: connect"); exit(1); }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &e);
}

static void hang_up(Conn *c) {
    close(c->fd);
    c->fd = -1;
}

static void ask(Conn *c) {
    if (c->fd < 0) connect_it(c, c - all);
    *c = (Conn){.fd = c->fd, .kept = c->kept, .room = c->room, .busy = 1, .had_first = c->had_first};
    started++;
    in_flight++;
    for (long left = FIRST_SEED + (c - all), i = 6; seed && i >= 0; left /= 10) seed[i--] = '0' + left % 10;
    c->sent_ns = now_ns();
    if (send(c->fd, request, n_request, MSG_NOSIGNAL) != (ssize_t)n_request) note("cannot send", "", 0);
}

static void finish(Conn *c, int good) {
    c->busy = 0;
    in_flight--;
    ended++;
    if (!good) { failed++; hang_up(c); }
    else add(&whole_ns, now_ns() - c->sent_ns);
    c->n_kept = 0;
    if (!burst && started < requests) ask(c);
}

static int fail(Conn *c, const char *what, const char *more, size_t n) {
    note(what, more, n);
    finish(c, 0);
    return 0;
}

/* The first token, or the head of an answer that is not streamed, has come. */
static void had_first(Conn *c, int64_t now) {
    add(&first_ns, now - c->sent_ns);
    if (c->had_first) return;
    c->had_first = 1;
    if (++n_first == conns) { printf("open\n"); fflush(stdout); }
}

static int line(Conn *c, const char *at, size_t n, int64_t now) {
    if (n < 6 || memcmp(at, "data: ", 6)) return n <= 1 || at[0] == ':' || fail(c, "odd line:", at, n);
    if (n >= 12 && !memcmp(at + 6, "[DONE]", 6)) { c->done = 1; return 1; }
    static const char TEXT[] = "\"text\":\" ", CONTENT[] = "\"content\":\" ";
    char expected[32];
    const char *text = chat ? memmem(at, n, CONTENT, sizeof CONTENT - 1) : memmem(at, n, TEXT, sizeof TEXT - 1);
    if (!text) return !memmem(at, n, "\"error\"", 7) || fail(c, "an error:", at, n);
    if (words) {
        text += (chat ? sizeof CONTENT : sizeof TEXT) - 2;
        int long_ = write_word(expected, sizeof expected, word_number(FIRST_SEED + (c - all), c->tokens));
        if (memcmp(text, expected, long_) || text[long_] != '"') return fail(c, "lost or doubled token:", at, n);
        if (!c->tokens++) had_first(c, now);
        n_tokens++;
        return 1;
    }
    char *end;
    int64_t sent = strtoll(text + (chat ? sizeof CONTENT : sizeof TEXT) - 1, &end, 10);
    if (*end != '.' || atoi(end + 1) != c->tokens) return fail(c, "lost or doubled token:", at, n);
    if (!c->tokens++) had_first(c, now);
    n_tokens++;
    add(&forward_ns, now - sent);
    if (n_first == conns) add(&steady_ns, now - sent);
    return 1;
}

static int keep(Conn *c, const char *at, size_t n) {
    if (c->n_kept + n + 1 > c->room) {
        if (c->n_kept + n > HEAD_LIMIT * 4) return fail(c, "too long:", at, n);
        c->kept = realloc(c->kept, c->room = c->n_kept + n + 257);
    }
    memcpy(c->kept + c->n_kept, at, n);
    c->kept[c->n_kept += n] = 0;
    return 1;
}

static int body(Conn *c, const char *at, size_t n, int64_t now) {
    if (!stream || c->status != 200) return 1;
    while (n) {
        const char *nl = memchr(at, '\n', n);
        size_t part = nl ? (size_t)(nl - at) : n;
        if (!nl || c->n_kept) {
            if (!keep(c, at, part)) return 0;
            if (!nl) return 1;
            if (!line(c, c->kept, c->n_kept, now)) return 0;
            c->n_kept = 0;
        } else if (!line(c, at, part, now))
            return 0;
        at += part + 1;
        n -= part + 1;
    }
    return 1;
}

/* All of an answer has come. Return 0: what else was read is not looked at. */
static int answered(Conn *c, const char *rest, size_t n) {
    if (n) return fail(c, "bytes after an answer:", rest, n);
    if (c->status != 200) return fail(c, "not 200", "", 0);
    if (stream && (!c->done || c->tokens != tokens)) return fail(c, "the stream ended early", "", 0);
    finish(c, 1);
    return 0;
}

static int head(Conn *c, int64_t now) {
    c->status = atoi(c->kept + 9);
    if (c->status == 100) { c->n_kept = 0; return 1; }
    if (c->status != 200) note("HTTP", c->kept + 9, c->n_kept < 200 ? c->n_kept - 9 : 190);
    char *length = strcasestr(c->kept, "\r\ncontent-length:");
    c->chunked = strcasestr(c->kept, "\r\ntransfer-encoding: chunked") != NULL;
    if (!length && !c->chunked) return fail(c, "neither length nor chunks:", c->kept, 100);
    c->left = length ? strtoul(length + 17, NULL, 10) : 0;
    c->state = c->chunked ? SIZE : BY_LENGTH;
    c->n_kept = 0;
    if (!stream) had_first(c, now);
    return 1;
}

static void feed(Conn *c, const char *at, size_t n, int64_t now) {
    static char size[32];
    while (n || (c->state == BY_LENGTH && !c->left)) {
        size_t part = n;
        switch (c->state) {
        case HEAD: {
            size_t had = c->n_kept, from = had > 3 ? had - 3 : 0;
            if (part > HEAD_LIMIT) part = HEAD_LIMIT;
            if (!keep(c, at, part)) return;
            char *end = strstr(c->kept + from, "\r\n\r\n");
            if (!end) break;
            c->n_kept = end + 4 - c->kept;
            c->kept[c->n_kept] = 0;
            part = c->n_kept - had;
            if (!head(c, now)) return;
            break;
        }
        case BY_LENGTH:
            if (part > c->left) part = c->left;
            if (!body(c, at, part, now)) return;
            if (!(c->left -= part)) { answered(c, at + part, n - part); return; }
            break;
        case SIZE: { /* the digits are gathered in `left`; a line that began stays kept */
            const char *nl = memchr(at, '\n', n);
            part = nl ? (size_t)(nl - at) + 1 : n;
            for (size_t i = 0; i < part; i++) {
                size[0] = at[i];
                if (size[0] != '\r' && size[0] != '\n') c->left = c->left * 16 + strtoul(size, NULL, 16);
            }
            if (nl) c->state = c->left ? DATA : TRAILER;
            break;
        }
        case DATA:
            if (part > c->left) part = c->left;
            if (!body(c, at, part, now)) return;
            if (!(c->left -= part)) { c->state = DATA_END; c->left = 2; }
            break;
        case DATA_END:
        case TRAILER:
            if (c->state == TRAILER && !c->left) c->left = 2;
            if (part > c->left) part = c->left;
            if (!(c->left -= part)) {
                if (c->state == TRAILER) { answered(c, at + part, n - part); return; }
                c->state = SIZE;
            }
            break;
        }
        at += part;
        n -= part;
    }
}

static void read_it(Conn *c) {
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n > 0 && c->busy) { feed(c, buffer, n, now_ns()); return; }
    if (c->busy) fail(c, n ? "connection reset" : "connection closed", "", 0);
    else hang_up(c); /* between two answers: opened again when needed */
}

static void compose(void) {
    char *text = malloc(prompt + 600), *hello = malloc(prompt + 7);
    hello[0] = 0;
    for (long i = 0; i + 6 <= prompt; i += 6) memcpy(hello + i, "Hello ", 7);
    int n = snprintf(text, prompt + 600, chat ? "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],"
        "\"max_tokens\":%ld,\"temperature\":0%s%s" : "{\"model\":\"m\",\"prompt\":\"%s\",\"max_tokens\":%ld,\"temperature\":0%s%s",
        hello, tokens, stream ? ",\"stream\":true" : "", ids ? ",\"return_token_ids\":true" : "");
    if (gap_us) n += sprintf(text + n, ",\"gap_us\":%ld", gap_us);
    if (words) n += sprintf(text + n, ",\"words\":%d", FIRST_SEED);
    n += sprintf(text + n, "}");
    request = malloc(n + 400);
    n_request = sprintf(request, "POST /v1/%s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nContent-Type: application/json\r\nAccept: */*\r\n"
        "User-Agent: load\r\nContent-Length: %d\r\n\r\n%s", chat ? "chat/completions" : "completions", port, n, text);
    if (words) seed = request + n_request - 8;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        size_t o = 0, n = sizeof OPTIONS / sizeof *OPTIONS;
        if (value) *value++ = 0;
        while (value && o < n && strcmp(OPTIONS[o].name, argv[i])) o++;
        if (!value || o == n) { fprintf(stderr, "load: no such option: %s\n", argv[i]); return 2; }
        *OPTIONS[o].value = atol(value);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    compose();
    epfd = epoll_create1(0);
    all = calloc(conns, sizeof *all);
    for (long i = 0; i < conns; i++) all[i].fd = -1;
    if (!ramp_us) for (long i = 0; i < conns; i++) connect_it(&all[i], i);
    struct epoll_event events[EVENTS];
    int64_t began = now_ns(), until = began + timeout_s * 1000000000LL, now;
    long opened = 0;
    while (ended < requests && (now = now_ns()) < until) {
        long due = ramp_us ? (now - began) / 1000 * conns / ramp_us + 1 : conns;
        while (opened < conns && opened < due && started < requests) ask(&all[opened++]);
        if (burst && opened == conns && !in_flight)
            for (long i = 0; i < conns && started < requests; i++) ask(&all[i]);
        int n = epoll_wait(epfd, events, EVENTS, opened < conns ? 1 : 1000);
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (c->fd >= 0) read_it(c);
        }
    }
    double wall_s = (now_ns() - began) / 1e9;
    if (ended < requests) note("not finished in time", "", 0);
    printf("{\"requests\":%ld,\"failed\":%ld,\"tokens\":%ld,\"wall_s\":%.6g,\"failure\":\"%s\"", ended,
        failed + requests - ended, n_tokens, wall_s, failure);
    show("first", &first_ns);
    show("whole", &whole_ns);
    show("forward", &forward_ns);
    show("steady", &steady_ns);
    printf("}\n");
    return 0;
}
