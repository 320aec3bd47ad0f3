/* The store: every job, durably, and who works on what. The only door to the database.
 *
 * Writing. One thread owns the writing connection. Callers fill a struct rf_op and post it; the thread takes all that
 * wait, runs them in one transaction, commits once (WAL, synchronous=FULL: the sync is shared, which is where the speed
 * comes from) and then calls each op's `done`. An op is therefore on disk when `done` hears of it. Ops run in the order
 * they were posted. When a group fails as a whole (disk full), it is rolled back, what memory holds is read again from
 * disk, and the ops run once more one by one, so that one that cannot be done does not take its neighbours along.
 *
 * Reading. rf_store_get() and friends use a pool of read-only connections and see the last commit; any thread.
 *
 * Memory. Unfinished jobs are also kept in memory in the order they will be handed out (server/schedule.h), rebuilt from disk
 * at start: handing out a task costs O(log n) and finished jobs cost nothing. Counts are kept, never counted.
 *
 * A job's tasks are a chain, so a job needs one number to say how far it is: every task before `task` is done, every one
 * after it is blocked, and only that one can be leased. The states are drawn in schema/api.md.
 *
 * Time is always passed in (`now_ms`, Unix milliseconds); nothing here reads a clock.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_STORE_H
#define RF_SERVER_STORE_H

#include "schema/request.h"
#include "schema/wire.h"
#include "server/token.h"

#define RF_MAX_BATCH 10000        /* jobs in one submit op */
#define RF_QUEUE_LIST_MAX 5000    /* waiting jobs that are listed in the queue's order */
#define RF_KEY_MAX 255            /* bytes of an idempotency key */

enum rf_job_state { RF_JOB_QUEUED, RF_JOB_IN_PROGRESS, RF_JOB_COMPLETED, RF_JOB_FAILED, RF_JOB_CANCELLED, RF_JOB_STATE_COUNT };
const char *rf_job_state_name(enum rf_job_state state);
enum rf_job_state rf_job_state_from_name(const char *name); /* RF_JOB_STATE_COUNT when unknown */

enum rf_task_state { RF_TASK_BLOCKED, RF_TASK_READY, RF_TASK_LEASED, RF_TASK_DONE, RF_TASK_FAILED, RF_TASK_CANCELLED,
                     RF_TASK_STATE_COUNT };
const char *rf_task_state_name(enum rf_task_state state);

enum rf_outcome { RF_OUTCOME_DONE, RF_OUTCOME_FAILED, RF_OUTCOME_EXPIRED, RF_OUTCOME_RELEASED, RF_OUTCOME_CANCELLED,
                  RF_OUTCOME_COUNT };
const char *rf_outcome_name(enum rf_outcome outcome);

/* ---- events: told after the commit, on the writer thread ---- */

enum rf_event_kind {
    RF_EVENT_JOB_CREATED, RF_EVENT_JOB_CHANGED, /* started, next task, priority, moved, retry, attempt lost */
    RF_EVENT_JOB_PROGRESS,                      /* a heartbeat came; not on disk */
    RF_EVENT_JOB_FINISHED, RF_EVENT_JOB_DELETED,
    RF_EVENT_WORKER,                            /* id is the worker's */
    RF_EVENT_QUEUE,                             /* paused or resumed, disk low or well again; id is "" */
    RF_EVENT_KIND_COUNT
};
struct rf_event {
    enum rf_event_kind kind;
    char id[RF_WORKER_ID_SIZE];   /* job or worker */
    int64_t now_ms;
};

/* ---- opening ---- */

/* Zero means the default in brackets. Strings are borrowed for the call. */
struct rf_store_config {
    const char *path;             /* of the database; its folder exists */
    int64_t now_ms;
    int64_t lease_ms;             /* [30000] */
    int64_t heartbeat_ms;         /* [5000] told to workers */
    int max_attempts;             /* [3] per task; releases are not counted */
    int64_t backoff_ms;           /* [2000] doubles per attempt … */
    int64_t backoff_max_ms;       /* [300000] … up to this */
    int64_t worker_lost_ms;       /* [90000] without a sign of life a worker counts as gone */
    int64_t key_keep_ms;          /* [86400000] how long an idempotency key is remembered */
    int64_t max_unfinished;       /* [1000000] jobs; beyond it submit answers RF_ERR_LIMIT */
    /* A clock that jumps ahead by more than this between two ops stops counting against leases: server or machine
     * slept, nobody could heartbeat. It never runs backwards for them either. [0: every step is believed] */
    int64_t clock_jump_ms;
    int64_t keep_ms;              /* [0: for ever] how long files of finished jobs stay; only to tell when they expire */
    int64_t max_pages;            /* [0: none] cap on the database's size, for tests of a full disk */
    bool trust_outputs;           /* benchmarks: `complete` does not check that the task's files arrived, submit not that
                                     the disk has room for them */
    void (*on_event)(void *ctx, const struct rf_event *event);
    void *event_ctx;
};

struct rf_store;

/* Opens or creates the database, upgrades an older one in a transaction, reads the unfinished jobs, gives every lease found
 * a fresh deadline of now_ms + lease_ms (the workers kept rendering while we were away; one that says nothing over several
 * starts gets half of that each time), starts the writer thread.
 *   RF_ERR_FORMAT    made by a newer version, or damaged; the message says which
 *   RF_ERR_IO        cannot be opened or written; another server has it open */
enum rf_code rf_store_open(const struct rf_store_config *config, struct rf_store **ret_store, struct rf_err *err);
/* Commits and answers what was posted, ends parked claims with RF_ERR_NOT_FOUND, closes. */
void rf_store_destroy(struct rf_store **store);

/* ---- ops ---- */

enum rf_op_kind {
    RF_OP_SUBMIT, RF_OP_CANCEL, RF_OP_DELETE, RF_OP_RETRY, RF_OP_PRIORITY, RF_OP_MOVE,
    RF_OP_REGISTER, RF_OP_LEAVE, RF_OP_DIED, RF_OP_DRAIN, RF_OP_CLAIM, RF_OP_UNPARK, RF_OP_HEARTBEAT, RF_OP_COMPLETE, RF_OP_FAIL,
    RF_OP_RELEASE, RF_OP_CHECK_LEASE, RF_OP_PUT_FILE, RF_OP_FORGET_FILES, RF_OP_PAUSE, RF_OP_TICK, RF_OP_DELIVERY, RF_OP_EXPIRE,
    RF_OP_DISK,
    RF_OP_KIND_COUNT
};

/* A file that lies whole and synced in the job's folder under disk_name (server/files.h), to be made known by an op. */
struct rf_file {
    char name[RF_FILE_NAME_SIZE];      /* as in api.md: input, video.mp4, … */
    char disk_name[RF_FILE_NAME_SIZE + 16];
    int64_t size_bytes;
    char sha256[RF_SHA256_SIZE];
    char content_type[64];             /* of `input`, as sent; "" otherwise */
    int64_t created_ms;
};

/* One job to submit. In: request (resolved, borrowed until done), the rest optional. Out: id, code, err, replayed. */
struct rf_submit {
    const struct rf_request *request;
    const struct rf_file *input;       /* its start image; then `id` must be set, from rf_store_new_id() */
    const char *key;                   /* Idempotency-Key, at most RF_KEY_MAX bytes; NULL: none */
    const uint8_t *fingerprint;        /* with a key: 32 bytes, hash of what was asked */
    const char *remixed_from;          /* job id or NULL */
    char id[RF_JOB_ID_SIZE];           /* in when not "", out always: the new job, or the earlier one of the same key */
    enum rf_code code;                 /* RF_ERR_CONFLICT: the key was used for something else. RF_ERR_LIMIT: full */
    bool replayed;                     /* the key was known: `id` is that job, nothing was added */
    struct rf_err err;
    char *prepared_;                   /* the store's: filled by rf_store_post(), freed before done */
};

/* Fill kind, now_ms, done, ctx and the union's member of that kind; zero the rest. Everything an op points at is
 * borrowed until `done`, which owns the op again and may free it. `done` runs on the writer thread: be short, post
 * further ops if you like, never wait. code and err are the outcome. */
struct rf_op {
    enum rf_op_kind kind;
    int64_t now_ms;
    void (*done)(struct rf_op *op);
    void *ctx;
    enum rf_code code;
    struct rf_err err;
    union {
        /* All in one transaction. `atomic`: one bad job and none is added (the others then say RF_ERR_CANCELLED);
         * op.code is RF_OK when at least one was added or replayed. */
        struct { struct rf_submit *jobs; int n_jobs; bool atomic; } submit;

        /* CANCEL  RF_ERR_CONFLICT: already completed or failed. Cancelled twice is RF_OK.
         * DELETE  cancels what runs, forgets everything; files go at the next rf_files_collect().
         * RETRY   failed or cancelled -> queued; done segments stay done, unless no living worker has the weights they
         *         were rendered with: then it starts over. RF_ERR_CONFLICT: in another state.
         * PRIORITY  RF_ERR_CONFLICT: finished.
         * MOVE    directly before (`after`: behind) the job `beside`, at its priority. RF_ERR_CONFLICT: one of them does
         *         not wait (any more), they are two users', or more than RF_QUEUE_LIST_MAX lie between them.
         *         RF_ERR_INVALID: both are the same. All: RF_ERR_NOT_FOUND. */
        struct { const char *id; int priority; const char *beside; bool after; } job;

        /* Out: worker_id. The op keeps nothing of `message`. RF_ERR_INVALID: protocol differs. */
        struct { const struct rf_wire_register *message; char worker_id[RF_WORKER_ID_SIZE]; } reg;

        /* LEAVE   what it held is released, as by RELEASE.   DRAIN  on: it gets nothing new; what it holds it finishes.
         * RF_ERR_NOT_FOUND: no such worker. */
        struct { const char *id; bool on; } worker;

        /* The process of a worker has ended without a goodbye: what it held is tried again without waiting for the lease.
         * name, host and pid as it registered; `how` is for people. Nothing known of it: RF_OK. */
        struct { const char *name, *host, *how; int64_t pid; } died;

        /* The next task for this worker, leased to it. Nothing there: with wait_ms > 0 the op is parked until there is (or
         * a TICK finds wait_ms over), so that many idle workers cost nothing and a new job wakes only one; a second
         * claim of the same worker ends its first. Out: lease (rf_wire_lease_finish()).
         * `device` is remembered as what it told at now_ms.
         *   RF_ERR_NOT_FOUND  nothing to do: normal, do not log.   RF_ERR_CONFLICT  unknown worker: it must register */
        struct { const char *worker_id; int64_t wait_ms; struct rf_wire_gauges device; struct rf_wire_lease lease; } claim;

        /* Ends a parked claim with RF_ERR_CANCELLED (its connection is gone). Compares addresses only, so it is harmless
         * when that claim has been answered meanwhile. */
        struct { struct rf_op *parked; } unpark;

        /* Progress and a new deadline, kept in memory only (but for the first after a restart: the holder has been heard): after a restart every lease starts afresh anyway, so a
         * deadline on disk could only be wrong. Out: cancel (the job is cancelled or gone: stop), lease_ms.
         *   RF_ERR_CONFLICT  the lease is not the task's current one */
        struct { const char *task_id; const struct rf_wire_heartbeat *message; bool cancel; int64_t lease_ms; } heartbeat;

        /* COMPLETE  with the same lease again: RF_OK again. RF_ERR_INVALID: a file of the task has not been put.
         * FAIL      retried after a backoff, or the job fails: not retryable, or the cap on attempts is reached.
         *           no_memory: first again at once with small_memory, then on another worker, then the job fails.
         * RELEASE   back to ready, not counted as an attempt. For all three:
         *   RF_ERR_CONFLICT  the lease is not the current one (any more); a cancelled job says so */
        struct { const char *task_id; const struct rf_wire_report *report; } report;

        /* CHECK_LEASE  before taking an upload: RF_OK or RF_ERR_CONFLICT.
         * PUT_FILE     records the file for the holder of the lease; one of the same name is replaced (and collected
         *              later). On RF_ERR_CONFLICT the file stays unknown: remove it with rf_files_remove(). */
        struct { const char *task_id; int64_t lease; const struct rf_file *file; } file;

        /* Rows of files that rf_store_gone_files() listed and that are off the disk now. */
        struct { const int64_t *rows; int n_rows; } forget;

        struct { bool on; } pause;

        /* EXPIRE  files of these finished jobs are not needed any more; the records stay. Others are passed over.
         * DISK    how it is about space: submits that find too little get RF_ERR_NO_SPACE, below the floor nothing is
         *         handed out. Before the first of these nothing is known and nothing refused. */
        struct { const int64_t *rows; int n_rows; } expire;
        struct { int64_t free_bytes, floor_bytes; } disk;

        /* How an attempt to tell a webhook went. next_ms 0: settled, delivered or given up. */
        struct { int64_t row, next_ms; int attempts; bool delivered; const char *error; } delivery;

        /* Once a second or so: ends leases past their deadline, parked claims past their wait, old keys, lost workers;
         * readies tasks whose backoff is over. Out: next_ms, when the next such thing is due (INT64_MAX: nothing). */
        struct { int64_t next_ms; int n_expired; } tick;
    } u;
    struct rf_op *next_;               /* the store's */
    int64_t deadline_ms_;              /* the store's: end of a parked claim's wait */
    char *prepared_[3];                /* the store's: texts made by rf_store_post(), so that the writer need not */
};

/* Any thread. Never waits for the disk. */
void rf_store_post(struct rf_store *s, struct rf_op *op);
/* Posts and waits; op->done is overwritten. Returns op->code, and `err` when not NULL. Not from a `done`. */
enum rf_code rf_store_run(struct rf_store *s, struct rf_op *op, struct rf_err *err);

/* A job id that no other job will get; for submits whose start image is written first. Any thread. */
void rf_store_new_id(struct rf_store *s, int64_t now_ms, char ret_id[RF_JOB_ID_SIZE]);

/* ---- the same, blocking, for tests and the supervisor ---- */

enum rf_code rf_store_submit(struct rf_store *s, const struct rf_request *request, int64_t now_ms,
                             char ret_id[RF_JOB_ID_SIZE], struct rf_err *err);
enum rf_code rf_store_register(struct rf_store *s, const struct rf_wire_register *message, int64_t now_ms,
                               char ret_worker_id[RF_WORKER_ID_SIZE], struct rf_err *err);
enum rf_code rf_store_claim(struct rf_store *s, const char *worker_id, int64_t now_ms, struct rf_wire_lease *ret_lease,
                            struct rf_err *err);
enum rf_code rf_store_heartbeat(struct rf_store *s, const char *task_id, const struct rf_wire_heartbeat *message,
                                int64_t now_ms, bool *ret_cancel, struct rf_err *err);
enum rf_code rf_store_report(struct rf_store *s, const char *task_id, const struct rf_wire_report *report, int64_t now_ms,
                             struct rf_err *err);
enum rf_code rf_store_put_file(struct rf_store *s, const char *task_id, int64_t lease, const struct rf_file *file,
                               int64_t now_ms, struct rf_err *err);
enum rf_code rf_store_cancel(struct rf_store *s, const char *id, int64_t now_ms, struct rf_err *err);
enum rf_code rf_store_delete(struct rf_store *s, const char *id, int64_t now_ms, struct rf_err *err);
enum rf_code rf_store_retry(struct rf_store *s, const char *id, int64_t now_ms, struct rf_err *err);
enum rf_code rf_store_set_priority(struct rf_store *s, const char *id, int priority, int64_t now_ms, struct rf_err *err);
/* See RF_OP_MOVE. */
enum rf_code rf_store_move(struct rf_store *s, const char *id, const char *beside, bool after, int64_t now_ms,
                           struct rf_err *err);
enum rf_code rf_store_pause(struct rf_store *s, bool on, int64_t now_ms, struct rf_err *err);
enum rf_code rf_store_tick(struct rf_store *s, int64_t now_ms, int64_t *ret_next_ms, struct rf_err *err);

/* ---- reading: any thread ---- */

struct rf_attempt {
    int task, attempt;            /* attempt from 1 within its task */
    int64_t lease, started_ms, ended_ms;
    enum rf_outcome outcome;
    char *worker;                 /* its name */
    char *code, *message;         /* of a failed one; "" otherwise */
    char *notes_text;             /* JSON array of strings; "" = none */
};

struct rf_task {
    enum rf_task_kind kind;
    enum rf_task_state state;
    int attempt;                  /* the running or last one, 0 = none yet */
    char *worker;                 /* name of the running or last one, NULL = none yet */
    char stage[RF_STAGE_NAME_SIZE];
    int step, steps;
    double fraction;              /* 0..1 */
};

struct rf_stage_seconds {
    char stage[RF_STAGE_NAME_SIZE];
    double seconds;
};

/* One job as last committed (progress: as last heard). */
struct rf_job {
    char id[RF_JOB_ID_SIZE];
    enum rf_job_state state;
    struct rf_request *request;   /* resolved */
    int priority;                 /* current; the request keeps the one asked for */
    int64_t created_ms, started_ms, finished_ms; /* 0 = not yet */
    int64_t expires_ms;           /* when its files go, or went; 0 = never */
    bool expired;                 /* they went */
    char *error_code, *error_message;            /* of a failed or cancelled one; NULL otherwise */
    char *remixed_from;           /* NULL = none */
    char *made_with_text;         /* JSON: worker, device, precision, build, hash of the weights; NULL until its first
                                     segment is done */
    int n_tasks;                  /* segments + 1 */
    struct rf_task *tasks;        /* [n_tasks] */
    double progress;              /* 0..1 over all tasks */
    int64_t queue_position;       /* 1 = next; 0 = not waiting */
    bool nobody_can_run;          /* waiting, and no living worker has what it needs */
    /* Of an unfinished one, 0 = not known: nothing like it was measured, nobody can run it, or the queue is paused. In
     * four of five cases it ends within expected_error_ms of the time said. */
    int64_t expected_start_ms, expected_end_ms, expected_error_ms;
    struct rf_wire_result result; /* of the finished file; zeros before */
    /* Only when asked for (RF_WITH_…): */
    struct rf_attempt *attempts;
    int n_attempts;
    struct rf_file *files;
    int n_files;
    struct rf_stage_seconds *stages; /* sums over finished attempts, "queue" included once it has begun */
    int n_stages;
};
void rf_job_destroy(struct rf_job **job);

enum { RF_WITH_ATTEMPTS = 1, RF_WITH_FILES = 2, RF_WITH_STAGES = 4, RF_WITH_ALL = 7 };

/*   RF_ERR_NOT_FOUND  no such job */
enum rf_code rf_store_get(struct rf_store *s, const char *id, unsigned with, struct rf_job **ret_job, struct rf_err *err);

/* Fills in what only memory knows of an unfinished job, without touching the database: queue_position, nobody_can_run and
 * expected_…. With id "": of job->request, were it submitted now. Nothing is changed when the job is not unfinished. */
void rf_store_expect(struct rf_store *s, struct rf_job *job);
/* Plays the queue forward for those, when somebody asked since the last time: call it about once a second from a thread that
 * nobody waits for. Without it a request does so. */
void rf_store_forecast(struct rf_store *s);

/* Zero means no filter. Filters are joined by "and". Stable: a page never repeats or skips a job that was there before the
 * first page and stayed. */
struct rf_query {
    unsigned states;              /* bit 1 << rf_job_state; 0 = all */
    const char *user, *model;     /* exactly */
    const char *text;             /* the prompt contains it (ASCII case is ignored) */
    const char *after;            /* id of the last job already seen */
    bool ascending;               /* default: newest first */
    /* Instead: waiting jobs in the order of the queue, those of the first RF_QUEUE_LIST_MAX that the other filters let
     * through (`states`, `text` and times are not looked at). The queue moves, so a page may repeat or skip. */
    bool by_queue;
    int64_t created_from_ms, created_to_ms; /* created in [from, to); to 0: no end */
    int limit;                    /* 0..1000 */
    unsigned with;
};
struct rf_page {
    struct rf_job **jobs;
    int n_jobs;
    bool has_more;
};
void rf_page_destroy(struct rf_page **page);
/*   RF_ERR_NOT_FOUND  `after` names no job; with by_queue: none that waits */
enum rf_code rf_store_list(struct rf_store *s, const struct rf_query *query, struct rf_page **ret_page, struct rf_err *err);

/*   RF_ERR_NOT_FOUND  no such job, or it has no such file (yet) */
enum rf_code rf_store_file(struct rf_store *s, const char *id, const char *name, struct rf_file *ret_file,
                           struct rf_err *err);

/* Finished attempts' timings, oldest first, one call each. id NULL: of all jobs finished in [from_ms, to_ms). Returning
 * false ends the walk. */
struct rf_timing_row {
    char id[RF_JOB_ID_SIZE];
    int task, attempt;
    const char *worker;
    enum rf_outcome outcome;
    struct rf_wire_timing timing;
};
enum rf_code rf_store_timings(struct rf_store *s, const char *id, int64_t from_ms, int64_t to_ms,
                              bool (*row)(void *ctx, const struct rf_timing_row *timing), void *ctx, struct rf_err *err);

/* Kept in memory: costs nothing. */
struct rf_store_counts {
    int64_t jobs[RF_JOB_STATE_COUNT];
    int64_t leased;               /* tasks in workers' hands */
    int64_t n_workers;            /* alive */
    bool paused;
    bool disk_low;
    int64_t disk_free_bytes, disk_floor_bytes, disk_reserved_bytes; /* as of the last DISK op */
    int64_t last_hour[RF_JOB_STATE_COUNT]; /* jobs that ended within 3600 s of the last rf_store_count_hour() */
};
void rf_store_counts(struct rf_store *s, struct rf_store_counts *ret_counts);
/* Counts anew how many jobs ended in the hour before now_ms. Call it every few seconds from a thread that nobody waits for. */
enum rf_code rf_store_count_hour(struct rf_store *s, int64_t now_ms, struct rf_err *err);

/* How many jobs ended in each of the last n_hours hours of Unix time; the newest, the one that now_ms lies in, stands last.
 * Deleted jobs are not counted, nor those that were tried again and have not ended again. Reads the database: not on a
 * thread that others wait for. */
struct rf_hour {
    int64_t start_ms;
    int64_t ended[RF_JOB_STATE_COUNT];
};
enum rf_code rf_store_hours(struct rf_store *s, int64_t now_ms, int n_hours, struct rf_hour *ret_hours,
                            struct rf_err *err);

enum rf_worker_state { RF_WORKER_IDLE, RF_WORKER_BUSY, RF_WORKER_DRAINING, RF_WORKER_LOST, RF_WORKER_LEFT, RF_WORKER_STATE_COUNT };
const char *rf_worker_state_name(enum rf_worker_state state);
struct rf_worker {
    char id[RF_WORKER_ID_SIZE];
    enum rf_worker_state state;
    char *name, *build, *host, *device_kind, *device_name, *precision;
    int64_t pid, memory_bytes, registered_ms, seen_ms;
    char task_id[RF_TASK_ID_SIZE];/* what it holds, "" = nothing */
    struct rf_wire_gauges gauges; /* of its device, as it told last; nothing of one that is lost or has left */
    int64_t gauges_ms;            /* when that was */
    char *models_text;            /* JSON array as registered */
    int64_t n_done, n_failed;     /* tasks, since it registered */
};
struct rf_workers {
    struct rf_worker *workers;
    int n_workers;
};
void rf_workers_destroy(struct rf_workers **workers);
/* Those alive, and those lost or gone within the last day; oldest first. */
void rf_store_workers(struct rf_store *s, struct rf_workers **ret_workers);

/* What is known of a model, from its newest registration (kept over restarts). `name` NULL or "": the model first
 * registered among those a living worker has, otherwise among all.
 *   ret_model         shared, not to be changed; give back with rf_known_model_destroy()
 *   RF_ERR_NOT_FOUND  no worker ever had it (then rf_model_defaults_builtin is all there is) */
struct rf_known_model {
    struct rf_wire_model model;
    int n_alive;                  /* workers that have it now */
};
enum rf_code rf_store_model(struct rf_store *s, const char *name, struct rf_known_model **ret_model, struct rf_err *err);
void rf_known_model_destroy(struct rf_known_model **model);
/* All known ones; ret_models is an array of pointers, each to be destroyed, then free() it. */
void rf_store_models(struct rf_store *s, struct rf_known_model ***ret_models, int *ret_n);

/* ---- upkeep ---- */

/* Files that no job needs any more (replaced, or their job is deleted or done with them), oldest first.
 *   ret_files  array of *ret_n; free() it */
struct rf_gone_file {
    int64_t row;
    char job_id[RF_JOB_ID_SIZE];
    char disk_name[RF_FILE_NAME_SIZE + 16];
};
enum rf_code rf_store_gone_files(struct rf_store *s, int limit, struct rf_gone_file **ret_files, int *ret_n,
                                 struct rf_err *err);
/* Finished jobs whose files should go, oldest end first: those that ended before `before_ms` (0: none for that), and as
 * many more as brings the files of finished jobs down to keep_bytes (0: none for that; reads the whole table of files).
 *   ret_rows  array of *ret_n; free() it */
enum rf_code rf_store_expirable(struct rf_store *s, int64_t before_ms, int64_t keep_bytes, int limit, int64_t **ret_rows,
                                int *ret_n, struct rf_err *err);
/* Ids of jobs that ended before `before_ms`, oldest first; free() the array. */
enum rf_code rf_store_ended_before(struct rf_store *s, int64_t before_ms, int limit, char (**ret_ids)[RF_JOB_ID_SIZE],
                                   int *ret_n, struct rf_err *err);

/* Endings of jobs that a webhook is still to be told of and whose time has come, longest overdue first.
 *   ret_list  array of *ret_n; free each url and the list */
struct rf_delivery {
    int64_t row, created_ms;
    char event_id[40];
    char job_id[RF_JOB_ID_SIZE];
    bool completed;
    int attempts;                 /* so far */
    char *url;
};
enum rf_code rf_store_deliveries(struct rf_store *s, int64_t now_ms, int limit, struct rf_delivery **ret_list, int *ret_n,
                                 struct rf_err *err);

/* Whether a file on disk is known under this name; for the sweep of orphans. */
enum rf_code rf_store_disk_name_known(struct rf_store *s, const char *job_id, const char *disk_name, bool *ret_known,
                                      struct rf_err *err);
/* A whole, consistent copy while the store runs (SQLite's backup interface). */
enum rf_code rf_store_backup(struct rf_store *s, const char *path, struct rf_err *err);
/* All tokens, when the number of changes differs from *generation (start with -1), which is then set; otherwise *ret_tokens
 * is NULL. free() them. */
enum rf_code rf_store_tokens(struct rf_store *s, int64_t *generation, struct rf_token **ret_tokens, int *ret_n,
                             struct rf_err *err);
/* A row of the settings; false: not there, or not readable now. */
bool rf_store_setting(struct rf_store *s, const char *name, char *ret_value, size_t room);
/* PRAGMA integrity_check; RF_ERR_FORMAT with SQLite's first complaint. */
enum rf_code rf_store_check(struct rf_store *s, struct rf_err *err);

#endif
