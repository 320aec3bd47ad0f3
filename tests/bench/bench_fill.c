/* A database with very many finished jobs, in a minute instead of hours: bench_fill FILE JOBS
 * One job goes the real way through the store, then its rows are copied with new ids, ten seconds apart. What a job
 * looks like on disk is so whatever the store makes it; only the names of id and time columns are known here.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store.h"

#include "server/id.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const int64_t step_ms = 10000;

static void must(enum rf_code rc, const struct rf_err *err)
{
    if (rc == RF_OK)
        return;
    fprintf(stderr, "bench_fill: %s\n", err->msg);
    exit(1);
}

static void sql(sqlite3 *db, const char *text)
{
    if (sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK)
        return;
    fprintf(stderr, "bench_fill: %s: %s\n", text, sqlite3_errmsg(db));
    exit(1);
}

/* One completed job, through the front door. */
static void make_one(const char *path, int64_t now_ms, char ret_id[RF_JOB_ID_SIZE])
{
    struct rf_err err = {0};
    struct rf_store *s = NULL;
    const struct rf_store_config config = {.path = path, .now_ms = now_ms, .trust_outputs = true};
    must(rf_store_open(&config, &s, &err), &err);
    struct rf_wire_model m = {.name = (char *)"demo",
                              .hash = (char *)"b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c",
                              .takes_text = true, .max_segment_frames = 81,
                              .defaults = {.name = "demo", .width = 192, .height = 128}};
    struct rf_wire_register reg = {.protocol = RF_PROTOCOL, .name = (char *)"fill", .device_kind = (char *)"cpu",
                                   .models = &m, .n_models = 1};
    char worker_id[RF_WORKER_ID_SIZE];
    must(rf_store_register(s, &reg, now_ms, worker_id, &err), &err);
    struct rf_request *r = rf_request_create();
    free(r->prompt);
    r->prompt = rf_strdup("number 7: a red circle moves left over a blue background while a small green triangle "
                          "turns slowly");
    r->given = 1;
    must(rf_request_resolve(r, &m.defaults, 42, NULL, NULL, &err), &err);
    struct rf_submit job = {.request = r};
    struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = now_ms, .u.submit = {.jobs = &job, .n_jobs = 1}};
    must(rf_store_run(s, &op, &err), &err);
    memcpy(ret_id, job.id, RF_JOB_ID_SIZE);
    static struct rf_wire_timing timings[] = {{"load", -1, 0, 0.5}, {"text", -1, 0, 0.02}, {"high_noise", 0, 0, 3.1},
        {"high_noise", 1, 0, 3.2}, {"low_noise", 2, 0, 3.3}, {"low_noise", 3, 0, 3.4}, {"decode", -1, 0, 1.25}};
    for (int i = 0; i < 2; i++) {
        struct rf_op claim = {.kind = RF_OP_CLAIM, .now_ms = now_ms + i, .u.claim.worker_id = worker_id};
        must(rf_store_run(s, &claim, &err), &err);
        struct rf_wire_report done = {.kind = RF_REPORT_COMPLETE, .lease = claim.u.claim.lease.lease,
                                      .timings = timings, .n_timings = 7,
                                      .result = {.n_frames = 162, .width = 192, .height = 128, .fps = 32}};
        memcpy(done.worker_id, worker_id, sizeof done.worker_id);
        struct rf_file file = {.name = "video.mp4", .disk_name = "video.mp4.1", .size_bytes = 100000};
        memset(file.sha256, 'a', 64);
        if (i == 1)
            must(rf_store_put_file(s, claim.u.claim.lease.task_id, done.lease, &file, now_ms, &err), &err);
        must(rf_store_report(s, claim.u.claim.lease.task_id, &done, now_ms + i, &err), &err);
        rf_wire_lease_finish(&claim.u.claim.lease);
    }
    struct rf_op leave = {.kind = RF_OP_LEAVE, .now_ms = now_ms, .u.worker.id = worker_id};
    must(rf_store_run(s, &leave, &err), &err);
    rf_request_destroy(&r);
    rf_store_destroy(&s);
}

static void copy_jobs(const char *path, int64_t row, int64_t n)
{
    sqlite3 *db = NULL;
    if (sqlite3_open(path, &db) != SQLITE_OK)
        exit(1);
    char text[512];
    sql(db, "PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; PRAGMA cache_size = -262144; BEGIN");
    long long id = row;
    snprintf(text, sizeof text, "CREATE TEMP TABLE j AS SELECT * FROM jobs WHERE row = %lld;"
             "CREATE TEMP TABLE a AS SELECT * FROM attempts WHERE job = %lld;"
             "CREATE TEMP TABLE f AS SELECT * FROM files WHERE job = %lld", id, id, id);
    sql(db, text);
    static const char *const steps[] = {
        "UPDATE j SET row = row - (?1 << 20), tail = (tail + 7919) & 0x7fffffffffffffff, created_ms = created_ms - ?1, "
            "started_ms = started_ms - ?1, finished_ms = finished_ms - ?1",
        "UPDATE a SET job = job - (?1 << 20), started_ms = started_ms - ?1, ended_ms = ended_ms - ?1",
        "UPDATE f SET row = row - 1, job = job - (?1 << 20), job_id = 'of job ' || job, "
            "created_ms = created_ms - ?1",
        "INSERT INTO jobs SELECT * FROM j", "INSERT INTO attempts SELECT * FROM a",
        "INSERT INTO files SELECT * FROM f"};
    sqlite3_stmt *stmts[RF_COUNT_OF(steps)];
    for (size_t k = 0; k < RF_COUNT_OF(steps); k++)
        if (sqlite3_prepare_v2(db, steps[k], -1, &stmts[k], NULL) != SQLITE_OK) {
            fprintf(stderr, "bench_fill: %s: %s\n", steps[k], sqlite3_errmsg(db));
            exit(1);
        }
    for (int64_t i = 1; i < n; i++)
        for (size_t k = 0; k < RF_COUNT_OF(steps); k++) {
            sqlite3_bind_int64(stmts[k], 1, step_ms);
            if (sqlite3_step(stmts[k]) != SQLITE_DONE) {
                fprintf(stderr, "bench_fill: %s: %s\n", steps[k], sqlite3_errmsg(db));
                exit(1);
            }
            sqlite3_reset(stmts[k]);
        }
    for (size_t k = 0; k < RF_COUNT_OF(steps); k++)
        sqlite3_finalize(stmts[k]);
    sql(db, "COMMIT");
    sqlite3_close(db);
}

int main(int argc, char **argv)
{
    int64_t n = argc == 3 ? atoll(argv[2]) : 0;
    if (n < 1 || n > 10000000) {
        fprintf(stderr, "usage: bench_fill FILE JOBS     (1 to 10,000,000)\n");
        return 2;
    }
    struct timespec now, end;
    clock_gettime(CLOCK_REALTIME, &now);
    char id[RF_JOB_ID_SIZE];
    struct rf_id parsed;
    make_one(argv[1], (int64_t)now.tv_sec * 1000, id);
    RF_ASSERT(rf_id_parse(id, &parsed));
    copy_jobs(argv[1], parsed.row, n);
    clock_gettime(CLOCK_REALTIME, &end);
    printf("%lld finished jobs in %lld s\n", (long long)n, (long long)(end.tv_sec - now.tv_sec));
    return 0;
}
