/* A load generator for the benchmarks: many keep-alive HTTP connections on one thread, timers, and histograms. It knows
 * just enough HTTP for our own server (answers carry Content-Length) and only ever connects to 127.0.0.1.
 * Failures of the machine (no descriptors, a refused connection) end the program: a benchmark has nothing to save.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_BENCH_LOAD_H
#define RF_BENCH_LOAD_H

#include "schema/base.h"

/* ---- how long things took ---- */

/* Counts by length, in steps of under one percent from 1 us up. */
struct rf_hist {
    int64_t n, count[32 * 128];
    double max_s;
};

void rf_hist_add(struct rf_hist *h, double seconds);
/* The length that `share` (0 to 1) of all stay under; 0 when there are none. */
double rf_hist_at(const struct rf_hist *h, double share);

double rf_bench_now(void);          /* seconds, monotonic */

/* ---- the loop ---- */

struct rf_load;

struct rf_timer {
    double at;
    void (*fire)(struct rf_timer *t);
    void *ctx;
    struct rf_timer *next;
    bool armed;
};

struct rf_load *rf_load_create(int port);
void rf_load_destroy(struct rf_load **load); /* closes its connections */
/* Runs until *stop or until_s (rf_bench_now), whichever comes first. */
void rf_load_run(struct rf_load *load, double until_s, const bool *stop);
/* At most 80 s ahead; fires up to 5 ms late. */
void rf_load_timer(struct rf_load *load, struct rf_timer *t, double after_s);

/* ---- one connection ---- */

struct rf_peer {
    void *ctx;
    void (*answered)(struct rf_peer *p);
    /* the latest answer, valid within answered() */
    int status;
    const char *body;               /* NUL-terminated */
    size_t body_n;
    double sent_s, first_byte_s, whole_s; /* when the request left, when the answer began, when it was there */
    bool busy;                      /* a request is under way */
    /* private */
    struct rf_load *load;
    struct rf_peer *next;
    int fd;
    char *out, *in;
    size_t out_n, out_room, out_sent, in_n, in_room, head_n, answer_n;
    bool wants_write;
};

/* Connects now. */
struct rf_peer *rf_peer_create(struct rf_load *load, void (*answered)(struct rf_peer *p), void *ctx);
/* One request at a time. `body` NULL: none. */
void rf_peer_send(struct rf_peer *p, const char *method, const char *path, const char *type, const char *body,
                  size_t n);

#endif
