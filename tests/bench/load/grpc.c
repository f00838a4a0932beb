/* gRPC calls, so many at a time: a client that costs the machine next to nothing.
 *
 *     grpc MODE HOST PORT CONCURRENCY CONNECTIONS CALLS FIRST WALLETS RATE AUTHORIZATION PATH FILE ANSWER_HEX ...
 *
 * MODE           unary     a call is a message of its own
 *                batch:N   N calls are one message, a BatchRequest; CONCURRENCY counts messages
 *                session   calls go over one Session per connection; what begins together is one message
 * CALLS          in all, whatever the mode
 * FIRST          number of the first call
 * RATE           calls per second at most; 0: as fast as they are answered
 * AUTHORIZATION  the header; -: none
 * PATH           /drawdown.v1.AuthorizationService/Authorize; of a Session and a Batch, that one's
 * FILE           the message of one call, without gRPC's own five bytes; for batch and session an Operation. Marks in
 *                it are replaced, see common.h
 * ANSWER_HEX     the first bytes of every good answer's message
 *
 * More PATH FILE ANSWER_HEX are further steps of each call with the same number: a Commit after its Authorize. Prints
 * one line of JSON; a latency is that of all steps of a call, in a batch that of its message. */

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "http2.h"

enum {
    CONNECTIONS_MAX = 64,
    STEPS_MAX = 4,
    ANSWER_MAX = 16,
    BATCH_MAX = 256,            /* operations of a message, as many as the server takes */
    SEND_MAX = 32 * 1024,       /* bytes of a message; half of the smallest window */
    PREFIX = 5,                 /* bytes before the message in gRPC's data */
    OVERHEAD = 32,              /* bytes around an operation, at most */
    PACE_MS = 1,                /* with a rate: how often to look for what is due */
    ERROR_FIELD = 7,            /* of OperationResult */
};

enum mode { UNARY, BATCH, SESSION };

struct step { struct headers headers; struct message message; uint8_t answer[ANSWER_MAX]; size_t answer_size; };

/* A call under way, or room for one. In a session its place is the tag, else that of its stream. */
struct slot { int is_taken, is_sent, step; uint64_t number, started_ns, good; };

struct field { uint32_t number; uint64_t value; const uint8_t *bytes; };

static enum mode mode;
static struct step steps[STEPS_MAX];
static struct slot slots[CONNECTIONS_MAX][STREAMS_MAX];
static int step_count;
static struct histogram histogram;
static uint64_t batch = 1, calls, first, wallets, rate, started_ns, sent, answered, failed, messages;

/* --- protobuf ---------------------------------------------------------------------------------------------------- */

static uint64_t read_varint(const uint8_t **at, const uint8_t *end) {
    uint64_t value = 0;
    for (int shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) break;
    }
    return value;
}

/* The next field of a message: a number, or `value` bytes. 0: there is none. */
static int next_field(const uint8_t **at, const uint8_t *end, struct field *field) {
    if (*at >= end) return 0;
    uint64_t key = read_varint(at, end);
    field->number = (uint32_t)(key >> 3);
    field->value = read_varint(at, end);
    field->bytes = *at;
    if ((key & 7) == 0) return 1;
    if ((key & 7) != 2 || field->value > (uint64_t)(end - *at)) die("an answer is no message of ours");
    *at += field->value;
    return 1;
}

static size_t put_varint(uint8_t *at, uint64_t value) {
    size_t size = 0;
    for (; value > 0x7f; value >>= 7) at[size++] = (uint8_t)(value | 0x80);
    at[size++] = (uint8_t)value;
    return size;
}

/* One field of bytes. */
static size_t put_bytes(uint8_t *at, int number, const uint8_t *bytes, size_t length) {
    size_t size = put_varint(at, (uint64_t)number << 3 | 2);
    size += put_varint(at + size, length);
    memcpy(at + size, bytes, length);
    return size + length;
}

static int is_good(const uint8_t *bytes, size_t size, const struct step *step) {
    static int is_shown;
    if (size >= step->answer_size && memcmp(bytes, step->answer, step->answer_size) == 0) return 1;
    if (!is_shown++) fprintf(stderr, "first bad answer: ");
    for (size_t n = 0; is_shown == 1 && n < size && n < 300; n++)
        fputc(bytes[n] >= ' ' && bytes[n] <= '~' ? bytes[n] : '.', stderr);
    return 0;
}

/* An OperationResult has one field, which is the answer of the call alone, or an error. */
static int is_good_result(const uint8_t *bytes, size_t size, const struct step *step) {
    const uint8_t *at = bytes;
    struct field field;
    if (!next_field(&at, bytes + size, &field)) return 0;
    return is_good(field.bytes, field.value, step) && field.number != ERROR_FIELD;
}

/* --- what is sent ------------------------------------------------------------------------------------------------ */

/* The next calls take a slot, if there are any left, and if it is time for them. */
static int take(struct slot *slot) {
    if (slot->is_taken) return !slot->is_sent;
    uint64_t now = now_ns();
    if (sent == calls || (rate && sent >= (uint64_t)((double)(now - started_ns) * 1e-9 * (double)rate))) return 0;
    *slot = (struct slot){.is_taken = 1, .number = first + sent, .started_ns = now};
    sent += batch;
    return 1;
}

static const struct message *numbered(const struct slot *slot, uint64_t by) {
    struct message *message = &steps[slot->step].message;
    message_number(message, slot->number + by, wallets);
    return message;
}

/* A call alone, or a Batch: a stream of its own. */
static void send_alone(struct connection *c, int place) {
    static uint8_t data[PREFIX + SEND_MAX];
    struct slot *slot = &slots[c->number][place];
    struct stream *stream = &c->streams[place];
    size_t size = 0;
    if (!take(slot)) return;
    for (uint64_t n = 0; n < batch; n++) {
        const struct message *message = numbered(slot, n);
        if (size + message->size + OVERHEAD > SEND_MAX) die("a message would be larger than %d bytes", SEND_MAX);
        if (mode == BATCH) {
            size += put_bytes(data + PREFIX + size, 1, message->bytes, message->size);
        } else {
            memcpy(data + PREFIX, message->bytes, message->size);
            size = message->size;
        }
    }
    if (stream->id == 0 && !http2_begin(c, stream, &steps[slot->step].headers)) return;
    slot->is_sent = http2_send(c, stream, data, size, 1);
}

/* A SessionOperation: tag, operation, and a timeout, as our own clients send them. */
static size_t put_operation(uint8_t *at, int place, const struct message *message) {
    static const uint8_t timeout[] = {8, 30};
    static uint8_t operation[SEND_MAX + OVERHEAD];
    size_t size = put_varint(operation, 1 << 3);
    size += put_varint(operation + size, (uint64_t)place + 1);
    size += put_bytes(operation + size, 2, message->bytes, message->size);
    size += put_bytes(operation + size, 3, timeout, sizeof timeout);
    return put_bytes(at, 1, operation, size);
}

static void send_together(struct connection *c, int places) {
    static uint8_t data[PREFIX + SEND_MAX];
    struct stream *stream = &c->streams[0];
    struct slot *taken[STREAMS_MAX];
    size_t size = 0;
    int count = 0;
    for (int place = 0; place < places; place++) {
        struct slot *slot = &slots[c->number][place];
        if (size + steps[slot->step].message.size + OVERHEAD > SEND_MAX) break;
        if (!take(slot)) continue;
        size += put_operation(data + PREFIX + size, place, numbered(slot, 0));
        taken[count++] = slot;
    }
    if (count == 0 || !http2_send(c, stream, data, size, 0)) return;
    while (count > 0) taken[--count]->is_sent = 1;
}

static void send_all(struct connection *c, int places) {
    if (mode == SESSION) {
        send_together(c, places);
    } else {
        for (int place = 0; place < places; place++) send_alone(c, place);
    }
    http2_write(c);
}

/* --- what is answered -------------------------------------------------------------------------------------------- */

/* So many calls of a slot were answered, and its message is over. */
static void answer(struct slot *slot, uint64_t good) {
    slot->is_sent = 0;
    if (good == batch && slot->step + 1 < step_count) {
        slot->step++;
        slot->good = 0;
        return;
    }
    histogram_add(&histogram, now_ns() - slot->started_ns);
    answered += batch;
    failed += batch - good;
    slot->is_taken = 0;
}

static void read_session(struct connection *c, const uint8_t *bytes, size_t size) {
    struct field result, field;
    for (const uint8_t *at = bytes; next_field(&at, bytes + size, &result);) {
        if (result.number != 1) die("the server is about to end");
        uint64_t tag = 0;
        struct field of_result = {0};
        for (const uint8_t *in = result.bytes; next_field(&in, result.bytes + result.value, &field);) {
            if (field.number == 1) tag = field.value;
            if (field.number == 2) of_result = field;
        }
        if (tag < 1 || tag > STREAMS_MAX || !slots[c->number][tag - 1].is_sent) die("nothing has tag %d", (int)tag);
        struct slot *slot = &slots[c->number][tag - 1];
        answer(slot, (uint64_t)is_good_result(of_result.bytes, of_result.value, &steps[slot->step]));
    }
}

static void on_message(struct connection *c, struct stream *stream, const uint8_t *bytes, size_t size) {
    struct slot *slot = &slots[c->number][stream - c->streams];
    struct field field;
    messages++;
    if (mode == SESSION) {
        read_session(c, bytes, size);
    } else if (mode == UNARY) {
        slot->good = (uint64_t)is_good(bytes, size, &steps[slot->step]);
    } else {
        for (const uint8_t *at = bytes; next_field(&at, bytes + size, &field);)
            slot->good += (uint64_t)is_good_result(field.bytes, field.value, &steps[slot->step]);
    }
}

static void on_end(struct connection *c, struct stream *stream) {
    struct slot *slot = &slots[c->number][stream - c->streams];
    if (mode != SESSION)
        answer(slot, slot->good);
    else if (answered < calls)
        die("the session ended after %llu answers", (unsigned long long)answered);
}

/* --- the run ----------------------------------------------------------------------------------------------------- */

static void read_mode(const char *text) {
    if (strcmp(text, "session") == 0) mode = SESSION;
    else if (strncmp(text, "batch:", 6) == 0) mode = BATCH, batch = strtoull(text + 6, NULL, 10);
    else if (strcmp(text, "unary") != 0) die("MODE must be unary, batch:N or session");
    if (batch < 1 || batch > BATCH_MAX) die("a batch has 1..%d calls", BATCH_MAX);
}

static void read_steps(char **arguments, const char *authority, const char *authorization) {
    for (; arguments[0] != NULL; arguments += 3) {
        if (step_count == STEPS_MAX) die("there are more than %d steps", STEPS_MAX);
        struct step *step = &steps[step_count++];
        http2_build(&step->headers, arguments[0], authority, authorization);
        message_read(&step->message, arguments[1]);
        for (const char *hex = arguments[2]; hex[0] && hex[1] && step->answer_size < ANSWER_MAX; hex += 2)
            sscanf(hex, "%2hhx", &step->answer[step->answer_size++]);
    }
}

static const struct handlers handlers = {on_message, on_end};

static void run(struct connection *all, int connections, int concurrency) {
    struct pollfd waiting[CONNECTIONS_MAX];
    while (answered < calls) {
        for (int n = 0; n < connections; n++) {
            send_all(&all[n], concurrency / connections + (n < concurrency % connections));
            waiting[n] = (struct pollfd){.fd = all[n].descriptor, .events = POLLIN};
            if (all[n].out_to) waiting[n].events |= POLLOUT;
        }
        poll(waiting, (nfds_t)connections, rate ? PACE_MS : -1);
        for (int n = 0; n < connections; n++)
            if (waiting[n].revents) http2_read(&all[n], &handlers);
    }
}

/* The server answers what is under way, and there is nothing under way. */
static void half_close(struct connection *c) {
    http2_end(c, &c->streams[0]);
    while (c->streams[0].id != 0) {
        http2_write(c);
        struct pollfd waiting = {.fd = c->descriptor, .events = (short)(POLLIN | (c->out_to ? POLLOUT : 0))};
        poll(&waiting, 1, -1);
        if (waiting.revents & ~POLLOUT) http2_read(c, &handlers);
    }
}

int main(int count, char **arguments) {
    if (count < 14 || count % 3 != 2)
        die("usage: grpc MODE HOST PORT CONCURRENCY CONNECTIONS CALLS FIRST WALLETS RATE AUTHORIZATION "
            "PATH FILE ANSWER_HEX ...");
    read_mode(arguments[1]);
    const char *host = arguments[2], *authorization = strcmp(arguments[10], "-") ? arguments[10] : NULL;
    int port = atoi(arguments[3]), concurrency = atoi(arguments[4]), connections = atoi(arguments[5]);
    calls = strtoull(arguments[6], NULL, 10);
    first = strtoull(arguments[7], NULL, 10);
    wallets = strtoull(arguments[8], NULL, 10);
    rate = strtoull(arguments[9], NULL, 10);
    if (calls % batch) die("CALLS must be whole batches");
    if (connections < 1 || connections > CONNECTIONS_MAX) die("CONNECTIONS must be 1..%d", CONNECTIONS_MAX);
    if (concurrency < connections || concurrency > connections * STREAMS_MAX) die("CONCURRENCY does not fit");
    char authority[64];
    snprintf(authority, sizeof authority, "%s:%d", host, port);
    read_steps(arguments + 11, authority, authorization);

    struct connection *all = calloc((size_t)connections, sizeof *all);
    for (int n = 0; n < connections; n++) {
        all[n].number = n;
        http2_open(&all[n], host, port);
        if (mode == SESSION) http2_begin(&all[n], &all[n].streams[0], &steps[0].headers);
    }
    started_ns = now_ns();
    run(all, connections, concurrency);
    struct totals totals = {
        .calls = answered, .failed = failed, .messages = messages, .seconds = (double)(now_ns() - started_ns) / 1e9,
    };
    for (int n = 0; n < connections; n++) {
        if (mode == SESSION) half_close(&all[n]);
        totals.bytes_in += all[n].bytes_in;
        totals.bytes_out += all[n].bytes_out;
    }
    print_result(&histogram, &totals);
    return 0;
}
