/* gRPC calls over HTTP/2 in plain text, so many at a time: a client that costs the machine next to nothing.
 *
 *     grpc HOST PORT PATH FILE CONCURRENCY CONNECTIONS CALLS FIRST WALLETS ANSWER_HEX [AUTHORIZATION]
 *
 * PATH         /drawdown.v1.AuthorizationService/Authorize
 * FILE         the message of one call, without gRPC's own five bytes; marks in it are replaced, see common.h
 * CONCURRENCY  calls at once, over all connections
 * FIRST        number of the first call
 * ANSWER_HEX   the first bytes of every good answer's message
 *
 * Prints one line of JSON. What it speaks is the little of RFC 9113 that a gRPC server needs to hear: headers as
 * literals, no Huffman, no priorities; of the answers it reads the first bytes of the data and the end of the stream. */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common.h"

enum {
    CONNECTIONS_MAX = 64,
    STREAMS_MAX = 256,          /* of one connection; the server allows as many */
    BUFFER = 1 << 20,
    HEAD = 9,                   /* bytes before the payload of a frame */
    PREFIX = 5,                 /* bytes before the message in gRPC's data */
    WINDOW = 0x7fffffff,
    WINDOW_REFILL = 1 << 30,
    DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8,
    END_STREAM = 1, ACK = 1, END_HEADERS = 4,
    ANSWER_MAX = 16,
};

struct stream { uint32_t id; uint64_t sent_ns; int is_good; };

struct connection {
    int descriptor;
    uint8_t in[BUFFER], out[BUFFER];
    size_t in_to, out_from, out_to;
    uint32_t next_id;
    int64_t send_window;
    uint64_t unacknowledged;    /* bytes of data since the last refill of the server's window */
    struct stream streams[STREAMS_MAX];
};

static struct message message;
static struct histogram histogram;
static uint8_t head[512], answer[ANSWER_MAX];
static size_t head_size, answer_size;
static uint64_t calls, first, wallets, sent, answered, failed;

static void put_string(const char *text) {
    size_t length = strlen(text);
    if (length > 126) die("%s is longer than a header of ours may be", text);
    head[head_size++] = (uint8_t)length;
    memcpy(head + head_size, text, length);
    head_size += length;
}

/* A header with a name of HPACK's static table, or one spelled out. */
static void put_header(int indexed, const char *name, const char *value) {
    if (indexed >= 15) {
        head[head_size++] = 0x0f;
        head[head_size++] = (uint8_t)(indexed - 15);
    } else {
        head[head_size++] = (uint8_t)indexed;
    }
    if (indexed == 0) put_string(name);
    put_string(value);
}

static void build_head(const char *path, const char *authority, const char *authorization) {
    head[head_size++] = 0x83;   /* :method POST */
    head[head_size++] = 0x86;   /* :scheme http */
    put_header(4, NULL, path);
    put_header(1, NULL, authority);
    put_header(31, NULL, "application/grpc");
    put_header(0, "te", "trailers");
    put_header(0, "grpc-timeout", "20S");
    if (authorization != NULL) put_header(23, NULL, authorization);
}

static void put_frame(struct connection *c, int type, int flags, uint32_t stream, const void *payload, size_t size) {
    if (c->out_to + HEAD + size > BUFFER) die("the server does not read");
    uint8_t *at = c->out + c->out_to;
    uint8_t frame[HEAD] = {
        (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size, (uint8_t)type, (uint8_t)flags,
        (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream,
    };
    memcpy(at, frame, HEAD);
    memcpy(at + HEAD, payload, size);
    c->out_to += HEAD + size;
}

static void put_window(struct connection *c, uint32_t by) {
    uint8_t payload[4] = {(uint8_t)(by >> 24), (uint8_t)(by >> 16), (uint8_t)(by >> 8), (uint8_t)by};
    put_frame(c, WINDOW_UPDATE, 0, 0, payload, sizeof payload);
}

static void open_connection(struct connection *c, const char *host, int port) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    uint8_t settings[6] = {0, 4, 0x7f, 0xff, 0xff, 0xff};   /* the initial window of every stream: all there is */
    c->descriptor = connect_to(host, port);
    c->next_id = 1;
    c->send_window = 65535;
    memcpy(c->out, preface, sizeof preface - 1);
    c->out_to = sizeof preface - 1;
    put_frame(c, SETTINGS, 0, 0, settings, sizeof settings);
    put_window(c, WINDOW - 65535);
}

static int begin_call(struct connection *c, struct stream *stream) {
    size_t size = PREFIX + message.size;
    if (sent == calls || c->send_window < (int64_t)size || c->out_to + head_size + size + 2 * HEAD > BUFFER) return 0;
    uint8_t data[PREFIX + MESSAGE_MAX] = {
        0, (uint8_t)(message.size >> 24), (uint8_t)(message.size >> 16), (uint8_t)(message.size >> 8), (uint8_t)message.size,
    };
    message_number(&message, first + sent++, wallets);
    memcpy(data + PREFIX, message.bytes, message.size);
    *stream = (struct stream){.id = c->next_id, .sent_ns = now_ns()};
    c->next_id += 2;
    put_frame(c, HEADERS, END_HEADERS, stream->id, head, head_size);
    put_frame(c, DATA, END_STREAM, stream->id, data, size);
    c->send_window -= (int64_t)size;
    return 1;
}

static struct stream *find_stream(struct connection *c, uint32_t id) {
    for (int n = 0; n < STREAMS_MAX; n++)
        if (c->streams[n].id == id) return &c->streams[n];
    return NULL;
}

static void end_call(struct stream *stream) {
    histogram_add(&histogram, now_ns() - stream->sent_ns);
    answered++;
    if (!stream->is_good) failed++;
    stream->id = 0;
}

static void read_frame(struct connection *c, int type, int flags, uint32_t id, const uint8_t *payload, size_t size) {
    struct stream *stream = id ? find_stream(c, id) : NULL;
    if (type == SETTINGS && !(flags & ACK)) put_frame(c, SETTINGS, ACK, 0, "", 0);
    if (type == PING && !(flags & ACK)) put_frame(c, PING, ACK, 0, payload, size);
    if (type == GOAWAY) die("the server said goodbye");
    if (type == WINDOW_UPDATE && id == 0)
        c->send_window += (int64_t)(((uint32_t)payload[0] & 0x7f) << 24 | payload[1] << 16 | payload[2] << 8 | payload[3]);
    if (type == DATA) {
        c->unacknowledged += size;
        if (stream && size >= PREFIX + answer_size && memcmp(payload + PREFIX, answer, answer_size) == 0) stream->is_good = 1;
        if (c->unacknowledged >= WINDOW_REFILL) {
            put_window(c, (uint32_t)c->unacknowledged);
            c->unacknowledged = 0;
        }
    }
    if (stream && (type == RST_STREAM || ((type == HEADERS || type == DATA) && (flags & END_STREAM)))) end_call(stream);
}

static void read_some(struct connection *c) {
    ssize_t got = recv(c->descriptor, c->in + c->in_to, BUFFER - c->in_to, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("the connection ended after %llu answers", (unsigned long long)answered);
    c->in_to += (size_t)got;
    size_t from = 0;
    while (c->in_to - from >= HEAD) {
        const uint8_t *at = c->in + from;
        size_t size = (size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2];
        if (c->in_to - from < HEAD + size) break;
        uint32_t id = ((uint32_t)at[5] & 0x7f) << 24 | (uint32_t)at[6] << 16 | (uint32_t)at[7] << 8 | at[8];
        read_frame(c, at[3], at[4], id, at + HEAD, size);
        from += HEAD + size;
    }
    memmove(c->in, c->in + from, c->in_to - from);
    c->in_to -= from;
}

static void write_some(struct connection *c) {
    while (c->out_from < c->out_to) {
        ssize_t written = send(c->descriptor, c->out + c->out_from, c->out_to - c->out_from, 0);
        if (written < 0 && errno == EAGAIN) return;
        if (written < 0) die("send: %s", strerror(errno));
        c->out_from += (size_t)written;
    }
    c->out_from = c->out_to = 0;
}

int main(int count, char **arguments) {
    if (count != 11 && count != 12)
        die("usage: grpc HOST PORT PATH FILE CONCURRENCY CONNECTIONS CALLS FIRST WALLETS ANSWER_HEX [AUTHORIZATION]");
    const char *host = arguments[1];
    int port = atoi(arguments[2]), concurrency = atoi(arguments[5]), connections = atoi(arguments[6]);
    message_read(&message, arguments[4]);
    calls = strtoull(arguments[7], NULL, 10);
    first = strtoull(arguments[8], NULL, 10);
    wallets = strtoull(arguments[9], NULL, 10);
    for (const char *hex = arguments[10]; hex[0] && hex[1] && answer_size < ANSWER_MAX; hex += 2)
        sscanf(hex, "%2hhx", &answer[answer_size++]);
    if (connections < 1 || connections > CONNECTIONS_MAX) die("CONNECTIONS must be 1..%d", CONNECTIONS_MAX);
    if (concurrency < connections || concurrency > connections * STREAMS_MAX) die("CONCURRENCY does not fit");
    char authority[64];
    snprintf(authority, sizeof authority, "%s:%d", host, port);
    build_head(arguments[3], authority, count == 12 ? arguments[11] : NULL);

    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct pollfd waiting[CONNECTIONS_MAX];
    for (int n = 0; n < connections; n++) open_connection(&all[n], host, port);
    uint64_t started_ns = now_ns();
    while (answered < calls) {
        for (int n = 0; n < connections; n++) {
            struct connection *c = &all[n];
            int streams = concurrency / connections + (n < concurrency % connections);
            for (int s = 0; s < streams; s++)
                if (c->streams[s].id == 0 && !begin_call(c, &c->streams[s])) break;
            write_some(c);
            waiting[n] = (struct pollfd){.fd = c->descriptor, .events = (short)(POLLIN | (c->out_to ? POLLOUT : 0))};
        }
        poll(waiting, (nfds_t)connections, -1);
        for (int n = 0; n < connections; n++)
            if (waiting[n].revents) read_some(&all[n]);
    }
    print_result(&histogram, failed, (double)(now_ns() - started_ns) / 1e9);
    return 0;
}
