/* The order of work: every unfinished job in memory, and which of them a worker gets next.
 *
 * A pure structure: no database, no clock, no thread of its own (the store locks it). A live job is in exactly one place:
 *     ready    in a bucket, waiting for a worker
 *     waiting  in a heap by the end of its backoff
 *     leased   in a heap by the deadline of its lease
 * The order among ready ones:
 *   1. priority, higher first;
 *   2. fair share: the user who has been given the least work so far. Work is counted in pixels times frames times
 *      steps. Somebody new starts level with the one served last, so absence earns nothing;
 *   3. within a user: jobs already begun, then by their turn, which is their age until somebody moves one.
 * So a user with a 60-segment job and one with a single clip take turns, whoever came first. A bucket holds the jobs of one
 * priority, one user and one lane; a lane is what a worker must have to run them.
 * Costs: O(log n) in jobs, linear in the number of users who wait at one priority.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_SCHED_H
#define RF_SERVER_SCHED_H

#include "server/store.h"

/* What a job's next task asks of a worker: model "" = any; hash and precision "" = not settled yet. */
struct rf_lane {
    char *model, *hash, *precision;
    int n_jobs;
    int n_capable;               /* workers, valid for capable_epoch */
    uint64_t capable_epoch;
    struct rf_lane *next;
};

struct rf_share {
    char *user;
    double served;
    int n_jobs, n_active;        /* live; ready or leased */
    uint64_t copied;             /* of the newest copy it is in: number, and its index there (store_expect.c) */
    int index;
    struct rf_bucket *buckets;
    struct rf_share *next;
};

/* The lease that a job is under, and what its holder last told. */
struct rf_run {
    int64_t lease, leased_ms, told_ms;
    char worker_id[RF_WORKER_ID_SIZE];
    char stage[RF_STAGE_NAME_SIZE];
    int step, steps;
    double fraction;
    bool unheard;                /* found at our start; its holder has not spoken since */
};

enum rf_place { RF_PLACE_NONE, RF_PLACE_READY, RF_PLACE_WAITING, RF_PLACE_LEASED };

struct rf_live_job {
    int64_t row;
    int64_t turn;                /* among those of its user and priority; a row number, its own or one it got by a move */
    uint64_t tail;
    int64_t due_ms;              /* end of the backoff, or of the lease */
    int priority, task, n_tasks, attempts, n_no_memory;
    int width, height, n_frames, fps, n_steps, max_segment_frames;
    int n_passes;                /* through the transformer, per segment (server/eta.h) */
    int64_t reserved_bytes;      /* of disk, until it ends */
    bool has_image, begun;       /* begun: in_progress; goes ahead of its user's queued ones */
    char *avoid;                 /* worker id or NULL */
    struct rf_run *run;          /* NULL unless leased */
    struct rf_share *share;
    struct rf_lane *lane;        /* of its segments; the assemble task runs anywhere */
    /* where it is */
    enum rf_place place;
    struct rf_bucket *bucket;
    struct rf_live_job *left, *right;
    uint32_t weight, n_below;    /* treap: heap key; jobs in this subtree */
    int heap_index;
};

struct rf_live_worker {
    char id[RF_WORKER_ID_SIZE];
    enum rf_worker_state state;  /* never BUSY here: that follows from n_held */
    struct rf_wire_register *reg;
    char *registration_text;
    int64_t registered_ms, seen_ms, seen_wall_ms;
    int n_held;
    int class;                   /* of workers that can do the same equally fast, from 1; 0: not looked up (store_expect.c) */
    char task_id[RF_TASK_ID_SIZE]; /* the newest it was given */
    struct rf_wire_gauges gauges;  /* of its device, as told at gauges_ms, by a heartbeat or as it asked for work */
    int64_t gauges_ms;
    int64_t n_done, n_failed;
    struct rf_op *parked;
    struct rf_live_worker *next_parked, *prev_parked;
    struct rf_live_worker *next; /* in its hash chain */
};

struct rf_sched;

struct rf_sched *rf_sched_create(void);
void rf_sched_destroy(struct rf_sched **s);
void rf_sched_clear_jobs(struct rf_sched *s);

/* `job` (rf_new) now belongs to the scheduler; it is in no place yet. hash and precision may be NULL. */
void rf_sched_add(struct rf_sched *s, struct rf_live_job *job, const char *user, const char *model, const char *hash,
                  const char *precision);
void rf_sched_remove(struct rf_sched *s, struct rf_live_job *job);
struct rf_live_job *rf_sched_find(struct rf_sched *s, int64_t row);
int64_t rf_sched_n_jobs(const struct rf_sched *s);
int64_t rf_sched_reserved_bytes(const struct rf_sched *s); /* of all live jobs */
int64_t rf_sched_n_leased(const struct rf_sched *s);

/* Moves. From any place; leased needs job->run. Leaving `leased` frees run. */
void rf_sched_make_ready(struct rf_sched *s, struct rf_live_job *job);
void rf_sched_make_waiting(struct rf_sched *s, struct rf_live_job *job, int64_t due_ms);
void rf_sched_make_leased(struct rf_sched *s, struct rf_live_job *job, struct rf_run *run, int64_t due_ms);
void rf_sched_extend(struct rf_sched *s, struct rf_live_job *job, int64_t due_ms);
void rf_sched_set_priority(struct rf_sched *s, struct rf_live_job *job, int priority);
/* Puts `job` directly before (or after) `other`, at its priority. Both are ready, not begun, of one user, not the same.
 * The jobs in between hand their turns on by one, so no two ever have the same. ret_changed: those whose turn is a new
 * one, `job` among them; free() it. Returns how many; -1: more than `limit`, and nothing was moved. */
int rf_sched_move(struct rf_sched *s, struct rf_live_job *job, struct rf_live_job *other, bool after, int limit,
                  struct rf_live_job ***ret_changed);
/* From now on only workers with exactly these weights. In any place but ready. */
void rf_sched_settle(struct rf_sched *s, struct rf_live_job *job, const char *hash, const char *precision);

/* Waiting jobs whose time has come are made ready; returns how many. */
int rf_sched_wake(struct rf_sched *s, int64_t now_ms);
/* A lease past its deadline, or NULL. */
struct rf_live_job *rf_sched_overdue(struct rf_sched *s, int64_t now_ms);
/* The i-th leased job, in no order; NULL past the end. */
struct rf_live_job *rf_sched_leased(struct rf_sched *s, int i);
/* When the next wake or deadline is due; INT64_MAX: never. */
int64_t rf_sched_next_due(const struct rf_sched *s);

/* The next job for this worker, still ready; NULL: none. */
struct rf_live_job *rf_sched_pick(struct rf_sched *s, const struct rf_live_worker *w);
bool rf_sched_any_ready(const struct rf_sched *s);
/* 1 = next, were every worker able to run everything and users took turns; 0: not ready. */
int64_t rf_sched_position(struct rf_sched *s, const struct rf_live_job *job);
/* Up to `limit` ready jobs, of each user and lane the first ones; whoever is among the first `limit` in the queue is among
 * them. In no order. */
int rf_sched_front(struct rf_sched *s, int limit, struct rf_live_job **ret_jobs);
int64_t rf_sched_n_ready(const struct rf_sched *s);
/* The i-th job in its backoff, in no order; NULL past the end. */
struct rf_live_job *rf_sched_waiting(struct rf_sched *s, int i);
/* No worker that is here has what the job's next task needs. */
bool rf_sched_nobody_can_run(struct rf_sched *s, struct rf_live_job *job);
/* The worker's model for this job; NULL: cannot run it. An assemble task gives any model; check job->task for that. */
bool rf_sched_can_run(const struct rf_live_worker *w, const struct rf_live_job *job, const struct rf_wire_model **ret_model);

/* Takes ownership. */
void rf_sched_add_worker(struct rf_sched *s, struct rf_live_worker *w);
struct rf_live_worker *rf_sched_find_worker(struct rf_sched *s, const char *id);
void rf_sched_remove_worker(struct rf_sched *s, struct rf_live_worker *w);
/* To be called after a change of any worker's state, so that what is known about lanes is worked out again. */
void rf_sched_workers_changed(struct rf_sched *s);
/* Grows with every change among workers; never 0. */
uint64_t rf_sched_workers_epoch(const struct rf_sched *s);
/* Calls `each` for every worker; it must not add or remove any. */
void rf_sched_each_worker(struct rf_sched *s, void (*each)(void *ctx, struct rf_live_worker *w), void *ctx);

#endif
