/* What the files of the store share; nobody else includes this.
 *     store.c         opening, closing, the public ways in
 *     store_db.c      SQLite: statements, migrations, loading, checkpoints
 *     store_group.c   a group of ops: one transaction, one sync, the answers; and what happens when that fails
 *     store_job.c     submit, cancel, delete, retry, priority, move
 *     store_task.c    claim, heartbeat, complete, fail, release, expiry
 *     store_worker.c  register, leave, drain, parked claims, pause, tick
 *     store_model.c   what is known of models; the lists of workers and models
 *     store_read.c    connections for reading; one job as a snapshot
 *     store_expect.c  when jobs will start and end
 *     store_learn.c   kinds of workers, and what tasks took on them
 *     store_queue.c   pages of the queue
 *     store_list.c    pages of jobs, files, timings, backup
 *     store_admin.c   what the program's commands do beside a running server
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_STORE_PRIVATE_H
#define RF_SERVER_STORE_PRIVATE_H

#include "server/id.h"
#include "server/schedule.h"
#include "server/store.h"
#include "server/writer.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

/* The writer's statements, prepared once. Their text is in store_db.c. */
enum rf_sql {
    SQL_BEGIN, SQL_COMMIT, SQL_ROLLBACK, SQL_INSERT_JOB, SQL_INSERT_FILE, SQL_KEY_FIND, SQL_KEY_PUT, SQL_KEY_SWEEP, SQL_CLAIM,
    SQL_CLAIM_NEXT, SQL_REQUEST, SQL_INSERT_ATTEMPT, SQL_NEXT_TASK, SQL_NEXT_TASK_SETTLED, SQL_FINISH, SQL_BACK, SQL_RETRY, SQL_START_OVER, SQL_PRIORITY, SQL_TURN, SQL_DELETE_JOB,
    SQL_DELETE_ATTEMPTS, SQL_GONE_ALL, SQL_GONE_NAME, SQL_GONE_SCRATCH, SQL_FILE_THERE, SQL_LOAD_ONE, SQL_LOAD_ALL,
    SQL_JOB_STATE, SQL_ATTEMPT_OUTCOME, SQL_FORGET_FILE, SQL_SETTING_PUT, SQL_META_PUT, SQL_WORKER_PUT, SQL_WORKER_STATE,
    SQL_WORKER_DELETE, SQL_MODEL_PUT, SQL_SAVEPOINT, SQL_SAVEPOINT_KEEP, SQL_SAVEPOINT_UNDO,
    SQL_HEARD, SQL_WEBHOOK_PUT, SQL_WEBHOOK_DELETE, SQL_DELIVERY_ADD, SQL_DELIVERY_PUT, SQL_DELIVERY_SWEEP, SQL_EXPIRE,
    SQL_COUNT
};

#define RF_READERS 8             /* connections kept open for reading; more threads at once open their own */

struct rf_expect;
struct rf_reader;

struct rf_store {
    struct rf_store_config config;  /* defaults filled in; path is our own copy */
    char *path;
    int lock_fd;                    /* one server per database */
    struct rf_writer *writer;

    /* Ids are minted and posted under one lock, so that jobs enter the table in the order of their ids. */
    pthread_mutex_t mint_lock;
    int64_t last_row;

    /* The writer thread's alone. */
    sqlite3 *db;
    sqlite3_stmt *sql[SQL_COUNT];
    bool in_transaction, sql_failed;
    struct rf_err sql_err;
    int64_t next_lease, lease_ceiling;
    int64_t clock_last_ms, clock_skew_ms; /* see rf_store_clock() */
    int64_t wall_ms;                /* now_ms of the latest op: a parked claim's own is old when its turn comes */
    int64_t next_sweep_ms;
    struct rf_op *answered, **answered_last;
    struct rf_event *events;
    int n_events, events_capacity;
    int n_sure;                     /* of them: what they tell is on disk, whatever becomes of the rest */
    int wal_pages, wal_next_try;    /* in the log now; in it before the writer tries (again) to start it anew */
    bool fresh;                     /* something became ready: look at the parked claims */
    struct rf_live_worker *parked_first, *parked_last;

    /* Read by everybody, under the lock. */
    pthread_mutex_t lock;
    struct rf_sched *sched;
    int64_t n_jobs[RF_JOB_STATE_COUNT];
    bool paused;
    bool disk_known, disk_low;      /* low: nothing is handed out until there is room again */
    int64_t disk_free_bytes, disk_floor_bytes;
    int64_t last_hour[RF_JOB_STATE_COUNT];
    struct rf_expect *expect;       /* store_expect.h */

    /* By first registration. Changed by the writer alone, under models_lock, which every submit takes: the lock above is
     * held for as long as an op takes. */
    pthread_mutex_t models_lock;
    struct rf_known_model **models;
    int n_models;
    uint64_t models_epoch;          /* of the workers that n_alive counts; 0: count again */

    pthread_mutex_t readers_lock;
    struct rf_reader *readers[RF_READERS];
    int n_readers;

    /* The thread that moves the write-ahead log into the database, so that no commit has to wait for it. */
    pthread_t checkpointer;
    bool has_checkpointer, checkpoint_wanted, checkpoint_ending;
    atomic_int wal_moved;           /* pages of the log that are in the database by now */
    pthread_mutex_t checkpoint_pass; /* held while it moves */
    pthread_mutex_t checkpoint_lock;
    pthread_cond_t checkpoint_cond;
};

/* ---- store_db.c ---- */

enum rf_code rf_db_open(struct rf_store *s, struct rf_err *err);     /* writer connection, migrations, statements */
enum rf_code rf_db_load(struct rf_store *s, struct rf_err *err);     /* everything that memory holds */
enum rf_code rf_db_load_jobs(struct rf_store *s, struct rf_err *err);/* unfinished jobs and counts alone */
void rf_db_close(struct rf_store *s);
enum rf_code rf_db_fail(sqlite3 *db, struct rf_err *err, const char *doing);
/* One job into memory, from the row. False: not there, or failed (then sql_failed is set). */
bool rf_db_load_one(struct rf_store *s, int64_t row, int64_t now_ms);
void rf_db_start_checkpointer(struct rf_store *s);

/* The statement, reset. */
sqlite3_stmt *rf_sql(struct rf_store *s, enum rf_sql id);
/* Runs a bound statement that changes something, inside the group's transaction. False: failed, sql_failed is set and the
 * group will be rolled back; return from the op at once. */
bool rf_sql_run(struct rf_store *s, sqlite3_stmt *stmt);
/* One step of a reading statement: true for a row. Reset it afterwards. */
bool rf_sql_row(struct rf_store *s, sqlite3_stmt *stmt);
bool rf_sql_begin(struct rf_store *s);
bool rf_sql_commit(struct rf_store *s);
void rf_sql_rollback(struct rf_store *s);
void rf_bind_text(sqlite3_stmt *stmt, int index, const char *text); /* NULL binds NULL; borrowed until the reset */

/* ---- store_list.c, store_admin.c: on any connection ---- */

enum rf_code rf_db_backup(sqlite3 *db, const char *path, struct rf_err *err);
enum rf_code rf_db_check(sqlite3 *db, const char *pragma, struct rf_err *err); /* integrity_check or quick_check */
enum rf_code rf_db_tokens(sqlite3 *db, struct rf_token **ret_tokens, int *ret_n, struct rf_err *err);

/* ---- store_group.c ---- */

void rf_group_run(void *store, struct rf_op *ops);
void rf_group_event(struct rf_store *s, enum rf_event_kind kind, const char *id, int64_t now_ms);
void rf_group_job_event(struct rf_store *s, enum rf_event_kind kind, const struct rf_live_job *job, int64_t now_ms);
void rf_group_answer(struct rf_store *s, struct rf_op *op); /* to be told after the commit */

/* The lease's own time: now_ms, unless the clock jumped (rf_store_config.clock_jump_ms). Deadlines and backoffs count in
 * it; what people see counts in now_ms. */
int64_t rf_store_clock(struct rf_store *s, int64_t now_ms);
/* A count went from one state to another; RF_JOB_STATE_COUNT stands for nowhere. */
void rf_store_count(struct rf_store *s, enum rf_job_state from, enum rf_job_state to);

/* ---- ops; each fills op->code and op->err. Called with the lock held ---- */

void rf_op_submit(struct rf_store *s, struct rf_op *op);
void rf_op_cancel(struct rf_store *s, struct rf_op *op);
void rf_op_delete(struct rf_store *s, struct rf_op *op);
void rf_op_retry(struct rf_store *s, struct rf_op *op);
void rf_op_priority(struct rf_store *s, struct rf_op *op);
void rf_op_move(struct rf_store *s, struct rf_op *op);
void rf_op_heartbeat(struct rf_store *s, struct rf_op *op);
void rf_op_report(struct rf_store *s, struct rf_op *op);
void rf_op_check_lease(struct rf_store *s, struct rf_op *op);
void rf_op_put_file(struct rf_store *s, struct rf_op *op);
void rf_op_forget_files(struct rf_store *s, struct rf_op *op);
void rf_op_register(struct rf_store *s, struct rf_op *op);
void rf_op_leave(struct rf_store *s, struct rf_op *op);
void rf_op_died(struct rf_store *s, struct rf_op *op);
void rf_op_drain(struct rf_store *s, struct rf_op *op);
void rf_op_pause(struct rf_store *s, struct rf_op *op);
void rf_op_tick(struct rf_store *s, struct rf_op *op);
void rf_op_delivery(struct rf_store *s, struct rf_op *op);
void rf_op_expire(struct rf_store *s, struct rf_op *op);
void rf_op_disk(struct rf_store *s, struct rf_op *op);
void rf_op_unpark(struct rf_store *s, struct rf_op *op);
/* False: parked, to be answered later. */
bool rf_op_claim(struct rf_store *s, struct rf_op *op);
void rf_serve_parked(struct rf_store *s);
void rf_park(struct rf_store *s, struct rf_live_worker *w, struct rf_op *op);
struct rf_op *rf_unpark_worker(struct rf_store *s, struct rf_live_worker *w);

/* ---- shared steps ---- */

/* The texts that the writer needs, made on the poster's thread; and their end. */
void rf_job_prepare(struct rf_op *op);
void rf_task_prepare(struct rf_op *op);
void rf_worker_prepare(struct rf_op *op);
void rf_op_unprepare(struct rf_op *op);

/* Hands `job` to `w` in op->u.claim.lease. */
void rf_task_give(struct rf_store *s, struct rf_op *op, struct rf_live_worker *w, struct rf_live_job *job);
/* How a lease ends. Texts may be NULL. */
struct rf_ending {
    enum rf_outcome outcome;
    const char *code, *message, *notes, *timings;
};
/* Writes the attempt down and frees the worker; the job is still in its place. False: sql_failed. */
bool rf_task_end_lease(struct rf_store *s, struct rf_live_job *job, const struct rf_ending *end, int64_t now_ms);
/* How long a task rests after its n-th failed attempt. */
int64_t rf_task_backoff_ms(const struct rf_store *s, int n_attempts);
/* After that: another try, now or later, or the end of the job. */
bool rf_task_retry_or_fail(struct rf_store *s, struct rf_live_job *job, const struct rf_ending *end, bool retryable,
                           const char *worker_id, const char *worker_name, int64_t now_ms);
bool rf_task_release(struct rf_store *s, struct rf_live_job *job, int64_t now_ms);
bool rf_file_insert(struct rf_store *s, int64_t row, const char *job_id, int64_t lease, const struct rf_file *file);
/* Ends the job in `state` and forgets it. `job` is gone afterwards. */
bool rf_job_finish(struct rf_store *s, struct rf_live_job *job, enum rf_job_state state, const char *result,
                   const char *error_code, const char *error_message, int64_t now_ms);
/* A sign of life. NULL: unknown. Somebody lost comes back by it; somebody who left does not. */
struct rf_live_worker *rf_worker_touch(struct rf_store *s, const char *id, int64_t now_ms);
void rf_worker_told(struct rf_live_worker *w, const struct rf_wire_gauges *device, int64_t now_ms);

void rf_readers_close(struct rf_store *s);
/* Keeps the newest of each name in memory. */
void rf_model_learn(struct rf_store *s, const struct rf_wire_model *model);
/* Counts each model's workers anew if any came or went. The writer, or before there is one. */
void rf_models_refresh(struct rf_store *s);

#endif
