#include "http2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common.h"

enum {
    HEAD = 9,                   /* bytes before the payload of a frame */
    PREFIX = 5,                 /* bytes before the message in gRPC's data */
    FRAME_MAX = 16384,          /* every server takes as much */
    FIRST_WINDOW = 65535,       /* until the server says otherwise */
    WINDOW = 0x7fffffff,
    WINDOW_REFILL = 1 << 30,
    DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8,
    END_STREAM = 1, ACK = 1, END_HEADERS = 4,
    INITIAL_WINDOW_SIZE = 4,
};

static void put_string(struct headers *headers, const char *text) {
    size_t length = strlen(text);
    if (length > 126) die("%s is longer than a header of ours may be", text);
    headers->bytes[headers->size++] = (uint8_t)length;
    memcpy(headers->bytes + headers->size, text, length);
    headers->size += length;
}

/* A header with a name of HPACK's static table, or one spelled out. */
static void put_header(struct headers *headers, int indexed, const char *name, const char *value) {
    if (indexed >= 15) {
        headers->bytes[headers->size++] = 0x0f;
        headers->bytes[headers->size++] = (uint8_t)(indexed - 15);
    } else {
        headers->bytes[headers->size++] = (uint8_t)indexed;
    }
    if (indexed == 0) put_string(headers, name);
    put_string(headers, value);
}

void http2_build(struct headers *headers, const char *path, const char *authority, const char *authorization) {
    headers->bytes[headers->size++] = 0x83;   /* :method POST */
    headers->bytes[headers->size++] = 0x86;   /* :scheme http */
    put_header(headers, 4, NULL, path);
    put_header(headers, 1, NULL, authority);
    put_header(headers, 31, NULL, "application/grpc");
    put_header(headers, 0, "te", "trailers");
    put_header(headers, 0, "grpc-timeout", "60S");
    if (authorization != NULL) put_header(headers, 23, NULL, authorization);
}

static uint32_t number_of(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
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

static void put_window(struct connection *c, uint32_t stream, uint32_t by) {
    uint8_t payload[4] = {(uint8_t)(by >> 24), (uint8_t)(by >> 16), (uint8_t)(by >> 8), (uint8_t)by};
    put_frame(c, WINDOW_UPDATE, 0, stream, payload, sizeof payload);
}

void http2_open(struct connection *c, const char *host, int port) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    uint8_t settings[6] = {0, INITIAL_WINDOW_SIZE, 0x7f, 0xff, 0xff, 0xff};   /* of every stream: all there is */
    c->descriptor = connect_to(host, port);
    c->next_id = 1;
    c->send_window = c->stream_window = FIRST_WINDOW;
    memcpy(c->out, preface, sizeof preface - 1);
    c->out_to = sizeof preface - 1;
    put_frame(c, SETTINGS, 0, 0, settings, sizeof settings);
    put_window(c, 0, WINDOW - FIRST_WINDOW);
}

int http2_begin(struct connection *c, struct stream *stream, const struct headers *headers) {
    if (c->out_to + headers->size + HEAD > BUFFER) return 0;
    stream->id = c->next_id;
    stream->send_window = c->stream_window;
    stream->unacknowledged = stream->in_size = 0;
    c->next_id += 2;
    put_frame(c, HEADERS, END_HEADERS, stream->id, headers->bytes, headers->size);
    return 1;
}

int http2_send(struct connection *c, struct stream *stream, uint8_t *data, size_t size, int is_last) {
    uint8_t prefix[PREFIX] = {0, (uint8_t)(size >> 24), (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size};
    size_t whole = PREFIX + size, frames = whole / FRAME_MAX + 1;
    if ((int64_t)whole > c->send_window || (int64_t)whole > stream->send_window) return 0;
    if (c->out_to + whole + frames * HEAD > BUFFER) return 0;
    memcpy(data, prefix, PREFIX);
    for (size_t from = 0; from < whole; from += FRAME_MAX) {
        size_t part = whole - from < FRAME_MAX ? whole - from : FRAME_MAX;
        put_frame(c, DATA, is_last && from + part == whole ? END_STREAM : 0, stream->id, data + from, part);
    }
    c->send_window -= (int64_t)whole;
    stream->send_window -= (int64_t)whole;
    return 1;
}

void http2_end(struct connection *c, struct stream *stream) {
    put_frame(c, DATA, END_STREAM, stream->id, "", 0);
}

static struct stream *find_stream(struct connection *c, uint32_t id) {
    for (int n = 0; id != 0 && n < STREAMS_MAX; n++)
        if (c->streams[n].id == id) return &c->streams[n];
    return NULL;
}

static void read_settings(struct connection *c, const uint8_t *payload, size_t size) {
    for (size_t at = 0; at + 6 <= size; at += 6) {
        if (((int)payload[at] << 8 | payload[at + 1]) != INITIAL_WINDOW_SIZE) continue;
        int64_t window = number_of(payload + at + 2), by = window - c->stream_window;
        c->stream_window = window;
        for (int n = 0; n < STREAMS_MAX; n++) c->streams[n].send_window += by;
    }
    put_frame(c, SETTINGS, ACK, 0, "", 0);
}

static void refill(struct connection *c, uint32_t stream, uint64_t *unacknowledged, size_t size) {
    *unacknowledged += size;
    if (*unacknowledged < WINDOW_REFILL) return;
    put_window(c, stream, (uint32_t)*unacknowledged);
    *unacknowledged = 0;
}

/* Data may cut messages anywhere. */
static void read_data(
    struct connection *c, struct stream *stream, const uint8_t *payload, size_t size, const struct handlers *handlers) {
    if (stream->in_size + size > stream->in_room) {
        stream->in_room = 2 * (stream->in_size + size);
        stream->in = realloc(stream->in, stream->in_room);
        if (stream->in == NULL) die("there is no memory left");
    }
    memcpy(stream->in + stream->in_size, payload, size);
    stream->in_size += size;
    size_t from = 0;
    while (stream->in_size - from >= PREFIX) {
        size_t length = number_of(stream->in + from + 1);
        if (stream->in_size - from < PREFIX + length) break;
        handlers->message(c, stream, stream->in + from + PREFIX, length);
        from += PREFIX + length;
    }
    stream->in_size -= from;
    memmove(stream->in, stream->in + from, stream->in_size);
}

static void read_frame(
    struct connection *c, int type, int flags, uint32_t id, const uint8_t *payload, size_t size,
    const struct handlers *handlers) {
    struct stream *stream = find_stream(c, id);
    if (type == SETTINGS && !(flags & ACK)) read_settings(c, payload, size);
    if (type == PING && !(flags & ACK)) put_frame(c, PING, ACK, 0, payload, size);
    if (type == GOAWAY) die("the server said goodbye");
    if (type == WINDOW_UPDATE && id == 0) c->send_window += number_of(payload) & 0x7fffffff;
    if (type == WINDOW_UPDATE && stream) stream->send_window += number_of(payload) & 0x7fffffff;
    if (type == DATA) {
        refill(c, 0, &c->unacknowledged, size);
        if (stream) {
            refill(c, id, &stream->unacknowledged, size);
            read_data(c, stream, payload, size, handlers);
        }
    }
    if (stream && (type == RST_STREAM || ((type == HEADERS || type == DATA) && (flags & END_STREAM)))) {
        stream->id = 0;
        handlers->end(c, stream);
    }
}

void http2_read(struct connection *c, const struct handlers *handlers) {
    ssize_t got = recv(c->descriptor, c->in + c->in_to, BUFFER - c->in_to, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("the server closed the connection");
    c->bytes_in += (uint64_t)got;
    c->in_to += (size_t)got;
    size_t from = 0;
    while (c->in_to - from >= HEAD) {
        const uint8_t *at = c->in + from;
        size_t size = (size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2];
        if (c->in_to - from < HEAD + size) break;
        read_frame(c, at[3], at[4], number_of(at + 5) & 0x7fffffff, at + HEAD, size, handlers);
        from += HEAD + size;
    }
    memmove(c->in, c->in + from, c->in_to - from);
    c->in_to -= from;
}

void http2_write(struct connection *c) {
    while (c->out_from < c->out_to) {
        ssize_t written = send(c->descriptor, c->out + c->out_from, c->out_to - c->out_from, 0);
        if (written < 0 && errno == EAGAIN) return;
        if (written < 0) die("send: %s", strerror(errno));
        c->out_from += (size_t)written;
        c->bytes_out += (uint64_t)written;
    }
    c->out_from = c->out_to = 0;
}
