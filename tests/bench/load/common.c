#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
        + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int connect_to(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("%s is no IPv4 address", host);
    int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof address) != 0)
        die("cannot connect to %s:%d: %s", host, port, strerror(errno));
    int on = 1;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(descriptor, F_SETFL, O_NONBLOCK);
    return descriptor;
}

void message_read(struct message *message, const char *file) {
    FILE *stream = fopen(file, "rb");
    if (stream == NULL) die("cannot open %s: %s", file, strerror(errno));
    message->size = fread(message->bytes, 1, sizeof message->bytes, stream);
    if (message->size == 0 || !feof(stream)) die("%s must have 1..%d bytes", file, MESSAGE_MAX - 1);
    fclose(stream);
    message->run_count = 0;
    for (size_t at = 0; at < message->size;) {
        uint8_t mark = message->bytes[at];
        size_t end = at;
        while (end < message->size && message->bytes[end] == mark) end++;
        /* Shorter runs are content: a length that happens to be 64, an id with an '@'. */
        if ((mark == '@' || mark == '~') && end - at >= 4) {
            if (message->run_count == RUNS_MAX) die("%s has more than %d runs of marks", file, RUNS_MAX);
            message->runs[message->run_count].at = at;
            message->runs[message->run_count].length = end - at;
            message->runs[message->run_count++].is_wallet = mark == '~';
        }
        at = end;
    }
}

void message_number(struct message *message, uint64_t number, uint64_t wallets) {
    /* A multiplier without a common factor with any power of ten: neighbours in time use wallets far apart. */
    uint64_t wallet = number * 7919 % wallets;
    for (int run = 0; run < message->run_count; run++) {
        uint64_t rest = message->runs[run].is_wallet ? wallet : number;
        uint8_t *at = message->bytes + message->runs[run].at;
        for (size_t digit = message->runs[run].length; digit-- > 0; rest /= 10) at[digit] = (uint8_t)('0' + rest % 10);
    }
}

/* Buckets grow by a 64th of their value: at most 1.6 % off, up to 2^64 ns. */
static int bucket_of(uint64_t ns) {
    if (ns < 128) return (int)ns;
    int exponent = 63 - __builtin_clzll(ns);
    return (exponent - 6) * 64 + (int)(ns >> (exponent - 6));
}

static uint64_t value_of(int bucket) {
    if (bucket < 128) return (uint64_t)bucket;
    int exponent = bucket / 64 - 1;
    return ((uint64_t)(bucket % 64) + 64) << exponent;
}

void histogram_add(struct histogram *histogram, uint64_t ns) {
    histogram->counts[bucket_of(ns)]++;
    histogram->total++;
    if (ns > histogram->largest_ns) histogram->largest_ns = ns;
}

uint64_t histogram_at(const struct histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)(share * (double)histogram->total), seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if ((seen += histogram->counts[bucket]) > wanted) return value_of(bucket);
    return histogram->largest_ns;
}

void print_result(const struct histogram *histogram, const struct totals *totals) {
    printf("{\"calls\": %llu, \"failed\": %llu, \"messages\": %llu, \"bytes_in\": %llu, \"bytes_out\": %llu, "
           "\"seconds\": %.6f, \"cpu_seconds\": %.6f, \"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, "
           "\"p999_us\": %.2f, \"max_us\": %.2f}\n",
           (unsigned long long)totals->calls, (unsigned long long)totals->failed,
           (unsigned long long)totals->messages, (unsigned long long)totals->bytes_in,
           (unsigned long long)totals->bytes_out, totals->seconds, cpu_seconds(),
           (double)histogram_at(histogram, 0.5) / 1e3, (double)histogram_at(histogram, 0.9) / 1e3,
           (double)histogram_at(histogram, 0.99) / 1e3, (double)histogram_at(histogram, 0.999) / 1e3,
           (double)histogram->largest_ns / 1e3);
}
