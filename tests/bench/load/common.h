/* What both load generators share: messages with numbers in them, sockets, a histogram, one line of JSON. */

#ifndef DRAWDOWN_BENCH_COMMON_H
#define DRAWDOWN_BENCH_COMMON_H

#include <stddef.h>
#include <stdint.h>

enum {
    RUNS_MAX = 16,              /* runs of marks in one message; ours have up to four */
    MESSAGE_MAX = 64 * 1024,    /* bytes of a message, as large as the server takes */
    BUCKETS = 4096,             /* of the histogram */
};

/* A message whose runs of '@' are replaced by the number of the call, and whose runs of '~' by a number below a limit
 * that is derived from it: the hold, and one of the wallets. Both are padded with zeros, so that lengths stay. */
struct message {
    uint8_t bytes[MESSAGE_MAX];
    size_t size;
    struct { size_t at, length; int is_wallet; } runs[RUNS_MAX];
    int run_count;
};

void message_read(struct message *message, const char *file);
void message_number(struct message *message, uint64_t number, uint64_t wallets);

struct histogram {
    uint64_t counts[BUCKETS];
    uint64_t total;
    uint64_t largest_ns;
};

void histogram_add(struct histogram *histogram, uint64_t ns);
uint64_t histogram_at(const struct histogram *histogram, double share);

int connect_to(const char *host, int port);
uint64_t now_ns(void);
double cpu_seconds(void);
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Of one run. `messages` are those that answers came in; bytes are those of the sockets. */
struct totals { uint64_t calls, failed, messages, bytes_in, bytes_out; double seconds; };

void print_result(const struct histogram *histogram, const struct totals *totals);

#endif
