/* The token path of plain HTTP streams: chunks of events from instances to clients.
 *
 * Does what `connection.py`, `response.py`, `leg_filter.py` and `client.py` do for nearly every
 * token, byte for byte, and nothing else: whatever is not exactly that is handed back untouched.
 * No allocation per token once the buffers have grown; no call blocks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_PER_TURN = 256, READ_BYTES = 64 * 1024, KEPT_BYTES = 8 * 1024 };
enum { INPUT_LIMIT_BYTES = 256 * 1024 };
enum hide { HIDE_NOTHING, HIDE_NULLED, HIDE_REMOVED };

typedef struct {
    char *at;
    size_t size, room;
} buffer;

typedef struct stream {
    int upstream, client, plugged, stopped;
    ino_t client_inode;
    enum hide hide;
    buffer input;  /* bytes as they were read, from the start of a chunk */
    buffer body;   /* events not passed on yet, as the instance sent them */
    buffer kept;   /* events passed on, as the instance sent them */
    buffer unsent; /* what the client's socket did not take */
    double last_at;
    struct stream *next_free;
    int number;
} stream;

typedef struct {
    int epoll;
    stream **streams;
    int count, room;
    stream *free;
    buffer out;
    char *read;
    int32_t stopped[EVENTS_PER_TURN], full[EVENTS_PER_TURN];
    int32_t n_stopped, n_full;
} pump;

/* Read no more of a stream. */
void pump_leave(pump *p, int number) {
    stream *s = p->streams[number];
    if (s->upstream >= 0) epoll_ctl(p->epoll, EPOLL_CTL_DEL, s->upstream, NULL);
    s->upstream = -1;
    s->stopped = 1;
}

static int reserve(buffer *b, size_t more) {
    if (b->room - b->size >= more) return 1;
    size_t room = b->room ? b->room : 512;
    while (room - b->size < more) room *= 2;
    char *at = realloc(b->at, room);
    if (!at) return 0;
    b->at = at;
    b->room = room;
    return 1;
}

static int add(buffer *b, const char *data, size_t size) {
    if (!reserve(b, size)) return 0;
    memcpy(b->at + b->size, data, size);
    b->size += size;
    return 1;
}

static void drop(buffer *b, size_t size) {
    memmove(b->at, b->at + size, b->size - size);
    b->size -= size;
}

static void empty(buffer *b) {
    free(b->at);
    *b = (buffer){0};
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int holds(const char *data, size_t size, const char *mark) {
    return memmem(data, size, mark, strlen(mark)) != NULL;
}

static int before(const char *start, const char *at, const char *word) {
    size_t size = strlen(word);
    return (size_t)(at - start) >= size && !memcmp(at - size, word, size);
}

/* Where the member that ends with `token_ids":` at `name` begins; NULL if that is none. */
static const char *member(const char *start, const char *name, enum hide hide) {
    int comma = hide == HIDE_REMOVED;
    if (before(start, name, comma ? ",\"" : "\"")) return name - (comma ? 2 : 1);
    if (before(start, name, comma ? ",\"prompt_" : "\"prompt_")) return name - (comma ? 9 : 8);
    return NULL;
}

/* Append events without the token ids that the client did not ask for. */
static int hide_ids(buffer *out, const char *data, size_t size, enum hide hide) {
    static const char NAME[] = "token_ids\":";
    const char *end = data + size, *from = data, *look = data, *name;
    if (hide == HIDE_NOTHING) return add(out, data, size);
    while ((name = memmem(look, (size_t)(end - look), NAME, sizeof NAME - 1))) {
        const char *value = name + sizeof NAME - 1, *after = NULL;
        /* What was cut already cannot begin another match. */
        const char *begin = member(from, name, hide);
        look = value;
        if (!begin) continue;
        if (value < end && *value == '[') {
            const char *close = memchr(value, ']', (size_t)(end - value));
            if (close) after = close + 1;
        } else if (hide == HIDE_REMOVED && end - value >= 4 && !memcmp(value, "null", 4)) {
            after = value + 4;
        }
        if (!after) continue;
        const char *upto = hide == HIDE_REMOVED ? begin : value;
        if (!add(out, from, (size_t)(upto - from))) return 0;
        if (hide == HIDE_NULLED && !add(out, "null", 4)) return 0;
        from = look = after;
    }
    return add(out, from, (size_t)(end - from));
}

/* The size of the chunk at `at`, whose line ends before `*line`; -1: incomplete, -2: not plain. */
static long chunk(const char *at, const char *end, const char **line) {
    long size = 0;
    const char *c = at;
    for (; c < end && c - at < 8; c++) {
        int digit;
        if (*c >= '0' && *c <= '9') digit = *c - '0';
        else if (*c >= 'a' && *c <= 'f') digit = *c - 'a' + 10;
        else if (*c >= 'A' && *c <= 'F') digit = *c - 'A' + 10;
        else break;
        size = size * 16 + digit;
    }
    if (c == end) return c - at < 8 ? -1 : -2;
    if (c == at || *c != '\r' || size == 0) return -2;
    if (c + 1 == end) return -1;
    if (c[1] != '\n') return -2;
    *line = c + 2;
    return size;
}

/* Move whole chunks from the input to the body. False: what comes next is not plain. */
static int unframe(stream *s) {
    const char *at = s->input.at, *end = at + s->input.size;
    int plain = 1;
    while (at < end) {
        const char *data;
        long size = chunk(at, end, &data);
        if (size == -1 || (size > 0 && end - data < size + 2)) break;
        if (size < 0 || data[size] != '\r' || data[size + 1] != '\n') {
            plain = 0;
            break;
        }
        if (!add(&s->body, data, (size_t)size)) {
            plain = 0;
            break;
        }
        at = data + size + 2;
    }
    drop(&s->input, (size_t)(at - s->input.at));
    return plain && s->input.size <= INPUT_LIMIT_BYTES;
}

/* Whether the client's descriptor is still its socket: whoever closes it may have told nobody yet,
 * and the number may be another client's by now. */
static int is_open(const stream *s) {
    struct stat now;
    return !fstat(s->client, &now) && now.st_ino == s->client_inode;
}

/* Pass whole events on. False: they are not plain, or the client did not take all. */
static int pass_on(pump *p, stream *s) {
    const char *data = s->body.at;
    size_t size = s->body.size;
    if (size < 2 || data[size - 1] != '\n' || data[size - 2] != '\n')
        return size <= INPUT_LIMIT_BYTES;
    if (holds(data, size, "\"error\"")) return 0;
    if (s->plugged && holds(data, size, "\"stop_reason\":\"")) return 0;
    if (s->hide == HIDE_NULLED && holds(data, size, "\"delta\":{}")) return 0;
    enum { HEAD = 18 };
    p->out.size = HEAD;
    if (!hide_ids(&p->out, data, size, s->hide) || !reserve(&p->out, 2)) return 0;
    if (!add(&s->kept, data, size)) return 0;
    s->body.size = 0;
    size_t length = p->out.size - HEAD;
    if (!length) return 1;
    memcpy(p->out.at + p->out.size, "\r\n", 2);
    char head[HEAD + 1];
    int head_size = snprintf(head, sizeof head, "%zx\r\n", length);
    char *out = p->out.at + HEAD - head_size;
    memcpy(out, head, (size_t)head_size);
    length += (size_t)head_size + 2;
    s->last_at = now();
    ssize_t sent = is_open(s) ? send(s->client, out, length, MSG_DONTWAIT | MSG_NOSIGNAL) : -1;
    if (sent == (ssize_t)length) return 1;
    if (sent < 0) sent = 0; /* an error is found by whoever writes the rest */
    return add(&s->unsent, out + sent, length - (size_t)sent) && 0;
}

static void stop(pump *p, stream *s) {
    if (s->stopped) return;
    pump_leave(p, s->number);
    p->stopped[p->n_stopped++] = s->number;
}

pump *pump_new(void) {
    pump *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    p->read = malloc(READ_BYTES);
    if (p->epoll < 0 || !p->read || !reserve(&p->out, READ_BYTES)) {
        if (p->epoll >= 0) close(p->epoll);
        free(p->read);
        free(p);
        return NULL;
    }
    return p;
}

void pump_free(pump *p) {
    for (int i = 0; i < p->count; i++) {
        stream *s = p->streams[i];
        empty(&s->input);
        empty(&s->body);
        empty(&s->kept);
        empty(&s->unsent);
        free(s);
    }
    close(p->epoll);
    free(p->streams);
    free(p->read);
    empty(&p->out);
    free(p);
}

int pump_fd(pump *p) { return p->epoll; }

static stream *place(pump *p) {
    stream *s = p->free;
    if (s) {
        p->free = s->next_free;
        return s;
    }
    if (p->count == p->room) {
        int room = p->room ? 2 * p->room : 64;
        stream **streams = realloc(p->streams, (size_t)room * sizeof *streams);
        if (!streams) return NULL;
        p->streams = streams;
        p->room = room;
    }
    s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->number = p->count;
    s->upstream = -1;
    p->streams[p->count++] = s;
    return s;
}

/* Pass on what comes at one socket to the other. -1: it cannot be done. The upstream socket may be
 * closed only after `pump_leave`. */
int pump_add(pump *p, int upstream, int client, int hide, int plugged) {
    stream *s = place(p);
    if (!s) return -1;
    struct stat seen;
    s->upstream = upstream;
    s->client = client;
    s->hide = (enum hide)hide;
    s->plugged = plugged;
    s->stopped = 0;
    s->last_at = now();
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = s};
    if (fstat(client, &seen) || epoll_ctl(p->epoll, EPOLL_CTL_ADD, upstream, &e)) {
        s->upstream = -1;
        s->next_free = p->free;
        p->free = s;
        return -1;
    }
    s->client_inode = seen.st_ino;
    return s->number;
}

/* End a stream; what it held must have been taken. */
void pump_remove(pump *p, int number) {
    stream *s = p->streams[number];
    pump_leave(p, number);
    empty(&s->input);
    empty(&s->body);
    empty(&s->kept);
    empty(&s->unsent);
    s->next_free = p->free;
    p->free = s;
}

/* Pass on what has come. Returns how many streams have stopped (`pump_stopped`). */
int pump_turn(pump *p) {
    struct epoll_event events[EVENTS_PER_TURN];
    p->n_stopped = p->n_full = 0;
    int ready = epoll_wait(p->epoll, events, EVENTS_PER_TURN, 0);
    for (int i = 0; i < ready; i++) {
        stream *s = events[i].data.ptr;
        if (s->stopped) continue;
        ssize_t got = recv(s->upstream, p->read, READ_BYTES, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (got <= 0) { /* the end, or an error: whoever reads next finds it again */
            stop(p, s);
            continue;
        }
        if (!add(&s->input, p->read, (size_t)got)) {
            /* Out of memory with bytes in hand: the stream is cut rather than served with a hole. */
            shutdown(s->upstream, SHUT_RDWR);
            stop(p, s);
            continue;
        }
        int plain = unframe(s);
        if (!pass_on(p, s) || !plain) stop(p, s);
        else if (s->kept.size > KEPT_BYTES) p->full[p->n_full++] = s->number;
    }
    return p->n_stopped + p->n_full;
}

int pump_n_stopped(pump *p) { return p->n_stopped; }
int pump_n_full(pump *p) { return p->n_full; }
int32_t *pump_stopped(pump *p) { return p->stopped; }
int32_t *pump_full(pump *p) { return p->full; }
double pump_last_at(pump *p, int number) { return p->streams[number]->last_at; }

static buffer *part(pump *p, int number, int which) {
    stream *s = p->streams[number];
    buffer *parts[] = {&s->kept, &s->unsent, &s->body, &s->input};
    return parts[which];
}

/* Put what was read before into a part. 0: no memory. */
int pump_put(pump *p, int number, int which, const char *data, size_t size) {
    return add(part(p, number, which), data, size);
}

size_t pump_size(pump *p, int number, int which) { return part(p, number, which)->size; }
const char *pump_data(pump *p, int number, int which) { return part(p, number, which)->at; }
void pump_clear(pump *p, int number, int which) { empty(part(p, number, which)); }
