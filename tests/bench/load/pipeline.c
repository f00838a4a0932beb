/* Sends one message again and again, so many at a time, and counts answers.
 *
 *     pipeline HOST PORT FILE IN_FLIGHT CONNECTIONS CALLS FIRST WALLETS PROTOCOL ANSWER
 *
 * FILE       the bytes of one call; marks in it are replaced, see common.h
 * IN_FLIGHT  calls at once, over all connections
 * FIRST      number of the first call
 * PROTOCOL   resp (Valkey: answers are bulk strings) or http1 (answers have a Content-Length)
 * ANSWER     what every good answer contains
 *
 * Prints one line of JSON. Answers come in the order of a connection's calls in both protocols. */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common.h"

enum { IN_FLIGHT_MAX = 1024, CONNECTIONS_MAX = 256, BUFFER = 1 << 18 };

struct connection {
    int descriptor;
    uint8_t out[BUFFER], in[BUFFER + 1];
    size_t out_from, out_to, in_to;
    uint64_t sent_ns[IN_FLIGHT_MAX];
    uint64_t sent, answered;
};

static struct message message;
static struct histogram histogram;
static uint64_t calls, first, wallets, sent, answered, failed, bytes_in, bytes_out;
static const char *answer;
static size_t (*next_answer)(const uint8_t *, size_t, size_t *);

/* The size of the first answer in some bytes, 0 when it is not whole; where its content begins. */
static size_t resp_answer(const uint8_t *bytes, size_t size, size_t *content) {
    const uint8_t *line = memchr(bytes, '\n', size);
    if (line == NULL) return 0;
    *content = bytes[0] == '$' ? (size_t)(line - bytes) + 1 : 0;
    size_t whole = (size_t)(line - bytes) + 1;
    if (bytes[0] == '$') whole += strtoul((const char *)bytes + 1, NULL, 10) + 2;
    return whole <= size ? whole : 0;
}

static size_t http1_answer(const uint8_t *bytes, size_t size, size_t *content) {
    const uint8_t *end = memmem(bytes, size, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    size_t head = (size_t)(end - bytes) + 4, length = 0;
    for (const uint8_t *at = bytes; at < end; at = (const uint8_t *)memchr(at, '\n', (size_t)(end - at) + 4) + 1)
        if (strncasecmp((const char *)at, "content-length:", 15) == 0) length = strtoul((const char *)at + 15, NULL, 10);
    *content = head;
    return head + length <= size ? head + length : 0;
}

static void write_some(struct connection *c, uint64_t in_flight_max) {
    while (sent < calls && c->sent - c->answered < in_flight_max && c->out_to + message.size <= BUFFER) {
        message_number(&message, first + sent++, wallets);
        memcpy(c->out + c->out_to, message.bytes, message.size);
        c->out_to += message.size;
        c->sent_ns[c->sent++ % IN_FLIGHT_MAX] = now_ns();
    }
    while (c->out_from < c->out_to) {
        ssize_t written = send(c->descriptor, c->out + c->out_from, c->out_to - c->out_from, 0);
        if (written < 0 && errno == EAGAIN) return;
        if (written < 0) die("send: %s", strerror(errno));
        c->out_from += (size_t)written;
        bytes_out += (uint64_t)written;
    }
    c->out_from = c->out_to = 0;
}

static void read_some(struct connection *c) {
    ssize_t got = recv(c->descriptor, c->in + c->in_to, BUFFER - c->in_to, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("the connection ended after %llu answers", (unsigned long long)answered);
    c->in_to += (size_t)got;
    bytes_in += (uint64_t)got;
    c->in[c->in_to] = 0;
    size_t from = 0, size, content = 0;
    while (from < c->in_to && (size = next_answer(c->in + from, c->in_to - from, &content)) > 0) {
        histogram_add(&histogram, now_ns() - c->sent_ns[c->answered++ % IN_FLIGHT_MAX]);
        answered++;
        if (memmem(c->in + from + content, size - content, answer, strlen(answer)) == NULL && failed++ == 0)
            fprintf(stderr, "first bad answer: %.*s\n", (int)(size < 300 ? size : 300), (char *)c->in + from);
        from += size;
    }
    memmove(c->in, c->in + from, c->in_to - from);
    c->in_to -= from;
}

int main(int count, char **arguments) {
    if (count != 11) die("usage: pipeline HOST PORT FILE IN_FLIGHT CONNECTIONS CALLS FIRST WALLETS PROTOCOL ANSWER");
    message_read(&message, arguments[3]);
    uint64_t in_flight = strtoull(arguments[4], NULL, 10);
    int connections = atoi(arguments[5]);
    calls = strtoull(arguments[6], NULL, 10);
    first = strtoull(arguments[7], NULL, 10);
    wallets = strtoull(arguments[8], NULL, 10);
    next_answer = strcmp(arguments[9], "resp") == 0 ? resp_answer : http1_answer;
    answer = arguments[10];
    if (connections < 1 || connections > CONNECTIONS_MAX) die("CONNECTIONS must be 1..%d", CONNECTIONS_MAX);
    uint64_t each = in_flight / (uint64_t)connections;
    if (each < 1 || each > IN_FLIGHT_MAX) die("IN_FLIGHT must be 1..%d per connection", IN_FLIGHT_MAX);

    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct pollfd waiting[CONNECTIONS_MAX];
    for (int n = 0; n < connections; n++) all[n].descriptor = connect_to(arguments[1], atoi(arguments[2]));
    uint64_t started_ns = now_ns();
    while (answered < calls) {
        for (int n = 0; n < connections; n++) {
            write_some(&all[n], each);
            waiting[n] = (struct pollfd){
                .fd = all[n].descriptor, .events = (short)(POLLIN | (all[n].out_to ? POLLOUT : 0)),
            };
        }
        poll(waiting, (nfds_t)connections, -1);
        for (int n = 0; n < connections; n++)
            if (waiting[n].revents) read_some(&all[n]);
    }
    struct totals totals = {
        .calls = answered, .failed = failed, .messages = answered, .bytes_in = bytes_in, .bytes_out = bytes_out,
        .seconds = (double)(now_ns() - started_ns) / 1e9,
    };
    print_result(&histogram, &totals);
    return 0;
}
