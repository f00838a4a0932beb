/* The little of RFC 9113 that a gRPC server needs to hear from a client in plain text: headers as literals, no Huffman,
 * no priorities; of the answers the messages, and the end of each stream. */

#ifndef DRAWDOWN_BENCH_HTTP2_H
#define DRAWDOWN_BENCH_HTTP2_H

#include <stddef.h>
#include <stdint.h>

enum {
    STREAMS_MAX = 256,          /* of one connection; the server allows as many */
    BUFFER = 1 << 20,
    HEADERS_MAX = 512,
};

struct headers { uint8_t bytes[HEADERS_MAX]; size_t size; };

struct stream {
    uint32_t id;                /* 0: not open */
    int64_t send_window;
    uint64_t unacknowledged;    /* bytes of data since the last refill of the server's window */
    uint8_t *in;                /* the part of a message that has come */
    size_t in_size, in_room;
};

struct connection {
    int number, descriptor;
    uint8_t in[BUFFER], out[BUFFER];
    size_t in_to, out_from, out_to;
    uint32_t next_id;
    int64_t send_window, stream_window;
    uint64_t unacknowledged, bytes_in, bytes_out;
    struct stream streams[STREAMS_MAX];
};

/* What is told: a whole message without gRPC's own five bytes; a stream that the server has ended. */
struct handlers {
    void (*message)(struct connection *, struct stream *, const uint8_t *bytes, size_t size);
    void (*end)(struct connection *, struct stream *);
};

void http2_build(struct headers *headers, const char *path, const char *authority, const char *authorization);
void http2_open(struct connection *c, const char *host, int port);
/* 0: there is no room now. The message's bytes begin 5 bytes after `data`, where gRPC's own go. */
int http2_begin(struct connection *c, struct stream *stream, const struct headers *headers);
int http2_send(struct connection *c, struct stream *stream, uint8_t *data, size_t size, int is_last);
void http2_end(struct connection *c, struct stream *stream);
void http2_write(struct connection *c);
void http2_read(struct connection *c, const struct handlers *handlers);

#endif
