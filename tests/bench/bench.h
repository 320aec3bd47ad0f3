/* What the scenarios of bench_http share: the server under test, the farm's messages as a worker sends them, and a row
 * of the table.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_BENCH_BENCH_H
#define RF_BENCH_BENCH_H

#include "tests/bench/load.h"

struct rf_bench {
    int port, pid;                  /* of the server, on this machine */
    const char *folder;             /* where its database is: the sync rate is measured there */
    double seconds;                 /* of each measurement */
    int64_t n_failed;               /* answers that were not as they should be; makes the exit status */
};

struct rf_use { double cpu_s, rss_bytes; };

struct rf_use rf_bench_use(const struct rf_bench *b);       /* of the server, so far */
double rf_bench_load(void);                                 /* of the machine, last minute */
/* 4 KiB blocks appended, each synced: what a commit costs at least. Per second, over about 0.3 s. */
double rf_bench_sync_rate(const struct rf_bench *b);
void rf_bench_header(void);
/* One row: n done in seconds and how long each took; the server's CPU since `before` over the n_all done since then (0:
 * left out); syncs a second (0: left out). */
void rf_bench_row(const struct rf_bench *b, const char *what, int n_peers, int64_t n, double seconds,
                  const struct rf_hist *h, int64_t n_all, struct rf_use before, double syncs);
/* Notes an answer that should not be; the first few are printed. */
void rf_bench_bad(struct rf_bench *b, const struct rf_peer *p, const char *doing);

/* ---- messages; each returns its length ---- */

int rf_bench_job(char *to, size_t room, int64_t number);    /* JSON of one create, its prompt unlike all others */
int64_t rf_bench_job_number(const char *lease_body);        /* back from a lease; -1 */
int rf_bench_register(char *to, size_t room, const char *name, int pid);
int rf_bench_lease(char *to, size_t room, const char *worker_id, int wait_ms);
int rf_bench_heartbeat(char *to, size_t room, const char *worker_id, int64_t lease, double fraction);
int rf_bench_complete(char *to, size_t room, const char *worker_id, int64_t lease);
int rf_bench_complete_bare(char *to, size_t room, const char *worker_id, int64_t lease); /* without timings */
/* The text or number behind a key of an answer, by search: our server writes no spaces. False: not there. */
bool rf_bench_find(const char *body, const char *key, char *to, size_t room);

struct rf_bench_task { char id[64]; int64_t lease; };
bool rf_bench_read_lease(const struct rf_peer *p, struct rf_bench_task *ret_task);

/* Submits jobs in batches of 1000 until n are queued. */
void rf_bench_fill(struct rf_bench *b, int64_t n);
/* Registers workers `prefix`0… over a few connections; ret_ids has room for n ids of 64 bytes. */
void rf_bench_workers(struct rf_bench *b, const char *prefix, int n, char (*ret_ids)[64]);

/* ---- scenarios ---- */

void rf_bench_farm(struct rf_bench *b, int n_workers);      /* bench_farm.c */

#endif
