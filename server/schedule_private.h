/* What the files of the scheduler share. SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_SCHED_PRIVATE_H
#define RF_SERVER_SCHED_PRIVATE_H

#include "server/schedule.h"

#define RF_SHARE_SLOTS 1024
#define RF_WORKER_SLOTS 4096

struct rf_bucket {
    int priority, index;          /* index: in its level */
    struct rf_lane *lane;
    struct rf_share *share;
    struct rf_live_job *root;
    struct rf_bucket *next_of_share;
};

struct rf_level {
    int priority;
    int64_t n_jobs;
    struct rf_bucket **buckets;
    int n_buckets, capacity;
};

struct rf_heap {
    struct rf_live_job **jobs;
    int n, capacity;
};

struct rf_sched {
    struct rf_live_job **map;
    size_t map_size;
    int64_t n_jobs, n_ready, reserved_bytes;
    struct rf_level levels[201];  /* those in use, highest priority first; priorities are -100..100 */
    int n_levels;
    struct rf_heap waiting, leased;
    struct rf_share *shares[RF_SHARE_SLOTS];
    double served_last;
    struct rf_lane *lanes, *anywhere;
    struct rf_live_worker *workers[RF_WORKER_SLOTS];
    uint64_t epoch;               /* counts changes among workers */
};

uint32_t rf_sched_hash(const char *text);
struct rf_lane *rf_sched_lane_ref(struct rf_sched *s, const char *model, const char *hash, const char *precision);
void rf_sched_lane_unref(struct rf_sched *s, struct rf_lane *lane);
/* Where the job's next task can run. */
struct rf_lane *rf_sched_lane_of(struct rf_sched *s, const struct rf_live_job *job);
/* The worker has what the lane asks for. */
bool rf_sched_fits(const struct rf_live_worker *w, const struct rf_lane *lane);
/* Besides the lane: not to be avoided while others could do it, and its segments are not too long for the worker. */
bool rf_sched_may_have(struct rf_sched *s, struct rf_live_job *job, const struct rf_live_worker *w);
void rf_sched_free_workers(struct rf_sched *s);
/* Takes the job out of where it is. */
void rf_sched_leave_place(struct rf_sched *s, struct rf_live_job *job);

#endif
