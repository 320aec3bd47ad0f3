/* What survives: restarts, groups, full disks, older and newer databases. SPDX-License-Identifier: Apache-2.0 */
#include "tests/server/store_helpers.h"

#include "schema/sql.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FARM RF_AUTO(farm_destroy) struct farm *f = farm_create()
#define LEASE RF_AUTO(rf_wire_lease_finish) struct rf_wire_lease

static void worker_delivers_to_the_restarted_server(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 161, 0), *w = farm_worker(f, "w", 'a');
    LEASE lease = farm_claim(f, w);
    farm_put_outputs(f, &lease);
    f->now += 29000;
    farm_reopen(f);
    farm_tick(f, 29999);           /* the lease began afresh with the server */
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_OK);
    assert_int_equal(farm_complete(f, &lease), RF_OK);
    LEASE next = farm_claim(f, w); /* the worker is still known */
    assert_true(next.lease > lease.lease);
    farm_put_outputs(f, &next);
    assert_int_equal(farm_complete(f, &next), RF_OK);
    farm_finish_job(f, w);
    assert_int_equal(farm_state(f, id), RF_JOB_COMPLETED);
}

static void lease_numbers_grow_over_restarts(void **state)
{
    FARM;
    int64_t last = 0;
    for (int i = 0; i < 3; i++) {
        const char *id = farm_submit(f, "", 5, 0), *w = farm_worker(f, "w", 0);
        LEASE lease = farm_claim(f, w);
        assert_true(lease.lease > last);
        last = lease.lease;
        assert_int_equal(rf_store_delete(f->s, id, f->now, NULL), RF_OK); /* not even a trace of it left */
        farm_reopen(f);
    }
}

static void ids_grow_although_the_clock_goes_back(void **state)
{
    FARM;
    char ids[3][RF_JOB_ID_SIZE];
    strcpy(ids[0], farm_submit(f, "", 5, 0));
    f->now -= 500000;
    strcpy(ids[1], farm_submit(f, "", 5, 0));
    farm_reopen(f);
    strcpy(ids[2], farm_submit(f, "", 5, 0));
    assert_true(strcmp(ids[0], ids[1]) < 0);
    assert_true(strcmp(ids[1], ids[2]) < 0);
}

static void queue_backoff_pause_and_counts_survive_a_restart(void **state)
{
    FARM;
    const char *low = farm_submit(f, "", 5, 0), *w = farm_worker(f, "w", 0);
    LEASE lease = farm_claim(f, w);
    assert_int_equal(farm_fail(f, &lease, "io", true), RF_OK);
    const char *high = farm_submit(f, "", 5, 9);
    assert_int_equal(rf_store_pause(f->s, true, f->now, NULL), RF_OK);
    farm_reopen(f);
    LEASE none = {0};
    struct rf_store_counts counts;
    farm_tick(f, 1);
    rf_store_counts(f->s, &counts);
    assert_true(counts.paused);
    assert_int_equal(counts.jobs[RF_JOB_QUEUED], 1);
    assert_int_equal(counts.jobs[RF_JOB_IN_PROGRESS], 1);
    assert_int_equal(counts.n_workers, 1); /* nobody could hear it; it is not lost for that */
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
    assert_int_equal(rf_store_pause(f->s, false, f->now, NULL), RF_OK);
    LEASE first = farm_claim(f, w);
    assert_string_equal(first.job_id, high);
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND); /* still backing off */
    f->now += 2000;
    LEASE second = farm_claim(f, w);
    assert_string_equal(second.job_id, low);
    assert_int_equal(second.attempt, 2);
}

static void settled_weights_survive_a_restart(void **state)
{
    FARM;
    farm_submit(f, "", 161, 0);
    const char *a = farm_worker(f, "a", 'a'), *b = farm_worker(f, "b", 'b');
    LEASE first = farm_claim(f, a), none = {0};
    farm_put_outputs(f, &first);
    assert_int_equal(farm_complete(f, &first), RF_OK);
    farm_reopen(f);
    assert_int_equal(farm_try_claim(f, b, &none), RF_ERR_NOT_FOUND);
    LEASE second = farm_claim(f, a);
    farm_put_outputs(f, &second);
    assert_int_equal(farm_complete(f, &second), RF_OK);
    LEASE last = farm_claim(f, b); /* joining needs no weights */
    assert_int_equal(last.kind, RF_TASK_ASSEMBLE);
}

static void known_models_survive_a_restart(void **state)
{
    FARM;
    farm_worker_with(f, "w", "big", 'a', 81);
    farm_worker_with(f, "v", "small", 'b', 41);
    farm_reopen(f);
    struct rf_known_model *m = NULL;
    assert_int_equal(rf_store_model(f->s, "small", &m, NULL), RF_OK);
    assert_int_equal(m->model.max_segment_frames, 41);
    assert_int_equal(m->n_alive, 1);
    rf_known_model_destroy(&m);
    assert_int_equal(rf_store_model(f->s, NULL, &m, NULL), RF_OK);
    assert_string_equal(m->model.name, "big");
    rf_known_model_destroy(&m);
    assert_int_equal(rf_store_model(f->s, "other", &m, NULL), RF_ERR_NOT_FOUND);
}

/* ---- many callers ---- */

struct crowd {
    struct farm *f;
    struct rf_request *request;
    int n_ok;
    pthread_mutex_t lock;
};

static void *submit_fifty(void *arg)
{
    struct crowd *c = arg;
    for (int i = 0; i < 50; i++) {
        char id[RF_JOB_ID_SIZE];
        bool ok = rf_store_submit(c->f->s, c->request, c->f->now, id, NULL) == RF_OK;
        pthread_mutex_lock(&c->lock);
        c->n_ok += ok;
        pthread_mutex_unlock(&c->lock);
    }
    return NULL;
}

static void many_threads_submit_and_nothing_is_lost_or_doubled(void **state)
{
    FARM;
    struct crowd c = {f, farm_request("x", "", 5), 0, PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[8];
    for (size_t i = 0; i < RF_COUNT_OF(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit_fifty, &c), 0);
    for (size_t i = 0; i < RF_COUNT_OF(threads); i++)
        pthread_join(threads[i], NULL);
    rf_request_destroy(&c.request);
    assert_int_equal(c.n_ok, 400);
    farm_reopen(f);
    struct rf_store_counts counts;
    rf_store_counts(f->s, &counts);
    assert_int_equal(counts.jobs[RF_JOB_QUEUED], 400);
    RF_AUTO(rf_page_destroy) struct rf_page *page = NULL;
    struct rf_query query = {.limit = 1000, .ascending = true};
    assert_int_equal(rf_store_list(f->s, &query, &page, NULL), RF_OK);
    assert_int_equal(page->n_jobs, 400);
    for (int i = 1; i < 400; i++)
        assert_true(strcmp(page->jobs[i - 1]->id, page->jobs[i]->id) < 0);
}

/* ---- batches and keys ---- */

static void batch_answers_per_line_and_atomic_takes_all_or_none(void **state)
{
    FARM;
    RF_AUTO(rf_request_destroy) struct rf_request *good = farm_request("x", "", 5);
    RF_AUTO(rf_request_destroy) struct rf_request *bad = farm_request("x", "", 5);
    bad->n_frames = 6;
    struct rf_store_counts counts;
    for (int atomic = 1; atomic >= 0; atomic--) {
        struct rf_submit jobs[3] = {{.request = good}, {.request = bad}, {.request = good}};
        struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = f->now,
                           .u.submit = {.jobs = jobs, .n_jobs = 3, .atomic = atomic}};
        assert_int_equal(rf_store_run(f->s, &op, NULL), atomic ? RF_ERR_INVALID : RF_OK);
        assert_int_equal(jobs[0].code, atomic ? RF_ERR_CANCELLED : RF_OK);
        assert_int_equal(jobs[1].code, RF_ERR_INVALID);
        assert_int_equal(jobs[2].code, atomic ? RF_ERR_CANCELLED : RF_OK);
        rf_store_counts(f->s, &counts);
        assert_int_equal(counts.jobs[RF_JOB_QUEUED], atomic ? 0 : 2);
        farm_reopen(f);
        rf_store_counts(f->s, &counts);
        assert_int_equal(counts.jobs[RF_JOB_QUEUED], atomic ? 0 : 2);
    }
}

static void same_key_makes_one_job_and_another_request_under_it_is_refused(void **state)
{
    FARM;
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("x", "", 5);
    uint8_t print[32] = {1}, other[32] = {2};
    struct rf_submit jobs[3] = {{.request = r, .key = "k", .fingerprint = print},
                                {.request = r, .key = "k", .fingerprint = print},
                                {.request = r, .key = "k", .fingerprint = other}};
    struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = f->now, .u.submit = {.jobs = jobs, .n_jobs = 3}};
    assert_int_equal(rf_store_run(f->s, &op, NULL), RF_OK);
    assert_false(jobs[0].replayed);
    assert_true(jobs[1].replayed);
    assert_string_equal(jobs[0].id, jobs[1].id);
    assert_int_equal(jobs[2].code, RF_ERR_CONFLICT);
    farm_reopen(f);
    farm_tick(f, 86400000 - 1);
    struct rf_submit again = {.request = r, .key = "k", .fingerprint = print};
    struct rf_op one = {.kind = RF_OP_SUBMIT, .now_ms = f->now, .u.submit = {.jobs = &again, .n_jobs = 1}};
    assert_int_equal(rf_store_run(f->s, &one, NULL), RF_OK);
    assert_true(again.replayed);
    farm_tick(f, 120000); /* a day later it is forgotten */
    again = (struct rf_submit){.request = r, .key = "k", .fingerprint = other};
    one.now_ms = f->now;
    assert_int_equal(rf_store_run(f->s, &one, NULL), RF_OK);
    assert_false(again.replayed);
}

static void key_of_a_deleted_job_is_free(void **state)
{
    FARM;
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("x", "", 5);
    uint8_t print[32] = {1};
    for (int i = 0; i < 2; i++) {
        struct rf_submit job = {.request = r, .key = "k", .fingerprint = print};
        struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = f->now, .u.submit = {.jobs = &job, .n_jobs = 1}};
        assert_int_equal(rf_store_run(f->s, &op, NULL), RF_OK);
        assert_false(job.replayed);
        assert_int_equal(rf_store_delete(f->s, job.id, f->now, NULL), RF_OK);
    }
}

static void queue_has_a_limit(void **state)
{
    FARM;
    f->config.max_unfinished = 3;
    farm_reopen(f);
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("x", "", 5);
    struct rf_submit jobs[5];
    for (int i = 0; i < 5; i++)
        jobs[i] = (struct rf_submit){.request = r};
    struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = f->now, .u.submit = {.jobs = jobs, .n_jobs = 5}};
    assert_int_equal(rf_store_run(f->s, &op, NULL), RF_OK);
    assert_int_equal(jobs[2].code, RF_OK);
    assert_int_equal(jobs[3].code, RF_ERR_LIMIT);
    assert_int_equal(jobs[4].code, RF_ERR_LIMIT);
}

/* ---- full disk ---- */

static void small_disk(struct rf_store_config *config)
{
    config->max_pages = 60;
}

static void full_disk_refuses_new_jobs_and_loses_no_old_ones(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create_with(small_disk);
    const char *w = farm_worker(f, "w", 0);
    char text[2001];
    memset(text, 'x', 2000);
    text[2000] = '\0';
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request(text, "", 5);
    int64_t n_ok = 0;
    struct rf_err err = {0};
    enum rf_code rc;
    while ((rc = rf_store_submit(f->s, r, f->now, NULL, &err)) == RF_OK)
        n_ok++;
    assert_int_equal(rc, RF_ERR_NO_SPACE);
    assert_non_null(strstr(err.msg, "full"));
    assert_true(n_ok > 5);
    struct rf_store_counts counts;
    rf_store_counts(f->s, &counts);
    assert_int_equal(counts.jobs[RF_JOB_QUEUED], n_ok); /* memory agrees with the disk */
    struct rf_wire_lease lease = {0};
    if (farm_try_claim(f, w, &lease) == RF_OK) /* an update in place may still fit */
        rf_wire_lease_finish(&lease);
    assert_int_equal(rf_store_check(f->s, NULL), RF_OK);
    farm_reopen(f);
    rf_store_counts(f->s, &counts);
    assert_int_equal(counts.jobs[RF_JOB_QUEUED] + counts.jobs[RF_JOB_IN_PROGRESS], n_ok);
}

struct answers {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int n_done;
    bool at_gate, gate_open;
};

static void count_answer(struct rf_op *op)
{
    struct answers *a = op->ctx;
    pthread_mutex_lock(&a->lock);
    a->n_done++;
    pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->lock);
}

/* Keeps the writer busy until everything else is posted, so that it is one group for certain. */
static void wait_at_the_gate(struct rf_op *op)
{
    struct answers *a = op->ctx;
    pthread_mutex_lock(&a->lock);
    a->at_gate = true;
    pthread_cond_broadcast(&a->cond);
    while (!a->gate_open)
        pthread_cond_wait(&a->cond, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

static void post(struct farm *f, struct answers *a, struct rf_op *op)
{
    op->now_ms = f->now;
    op->ctx = a;
    op->done = op->done ? op->done : count_answer;
    rf_store_post(f->s, op);
}

/* A group of: cancel, claim, `bad`, delete, `worse`, a claim that parks. The two bad ones fail with `fate`, nothing else does. */
static void group_around(struct farm *f, struct rf_op *bad, struct rf_op *worse, enum rf_code fate)
{
    const char *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    const char *first = farm_submit(f, "", 5, 0), *second = farm_submit(f, "", 5, 0), *third = farm_submit(f, "", 5, 0);
    struct answers a = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false, false};
    struct rf_op gate = {.kind = RF_OP_TICK, .done = wait_at_the_gate};
    struct rf_op cancel = {.kind = RF_OP_CANCEL, .u.job.id = first};
    struct rf_op claim = {.kind = RF_OP_CLAIM, .u.claim.worker_id = w};
    struct rf_op remove = {.kind = RF_OP_DELETE, .u.job.id = third};
    struct rf_op parked = {.kind = RF_OP_CLAIM, .u.claim = {.worker_id = v, .wait_ms = 1000}};
    struct rf_op *ops[] = {&cancel, &claim, bad, &remove, worse, &parked};
    post(f, &a, &gate);
    pthread_mutex_lock(&a.lock);
    while (!a.at_gate)
        pthread_cond_wait(&a.cond, &a.lock);
    pthread_mutex_unlock(&a.lock);
    for (size_t i = 0; i < RF_COUNT_OF(ops); i++)
        post(f, &a, ops[i]);
    pthread_mutex_lock(&a.lock);
    a.gate_open = true;
    pthread_cond_broadcast(&a.cond);
    while (a.n_done < 5) /* all but the parked claim */
        pthread_cond_wait(&a.cond, &a.lock);
    pthread_mutex_unlock(&a.lock);
    assert_int_equal(bad->code, fate);
    assert_int_equal(worse->code, fate);
    assert_int_equal(cancel.code, RF_OK);
    assert_int_equal(claim.code, RF_OK);
    assert_int_equal(remove.code, RF_OK);
    assert_string_equal(claim.u.claim.lease.job_id, second);
    assert_int_equal(farm_heartbeat(f, &claim.u.claim.lease, NULL), RF_OK);
    rf_wire_lease_finish(&claim.u.claim.lease);
    assert_int_equal(farm_state(f, first), RF_JOB_CANCELLED);
    struct rf_store_counts counts;
    rf_store_counts(f->s, &counts);
    assert_int_equal(counts.jobs[RF_JOB_QUEUED], 0);
    assert_int_equal(counts.jobs[RF_JOB_IN_PROGRESS], 1);
    farm_tick(f, 1000); /* the parked one was not forgotten */
    assert_int_equal(a.n_done, 6);
    assert_int_equal(parked.code, RF_ERR_NOT_FOUND);
}

static void full_disk_fails_the_submits_of_a_group_and_nothing_else(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create_with(small_disk);
    char text[30001];
    memset(text, 'x', 30000);
    text[30000] = '\0';
    RF_AUTO(rf_request_destroy) struct rf_request *huge = farm_request(text, "", 5);
    RF_AUTO(rf_request_destroy) struct rf_request *little = farm_request("x", "", 5);
    struct rf_submit jobs[10], late = {.request = little};
    for (int i = 0; i < 10; i++)
        jobs[i] = (struct rf_submit){.request = huge};
    struct rf_op bad = {.kind = RF_OP_SUBMIT, .u.submit = {.jobs = jobs, .n_jobs = 10}};
    struct rf_op worse = {.kind = RF_OP_SUBMIT, .u.submit = {.jobs = &late, .n_jobs = 1}};
    group_around(f, &bad, &worse, RF_ERR_NO_SPACE); /* `worse` might fit, but is not tried: the disk is full for all alike */
    assert_int_equal(jobs[9].code, RF_ERR_NO_SPACE);
}

static void failing_statement_fails_its_own_op_and_nothing_else(void **state)
{
    FARM;
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("x", "", 5);
    struct rf_submit twins[2] = {{.request = r}, {.request = r}};
    strcpy(twins[0].id, farm_submit(f, "", 5, 0)); /* an id that is taken, as no caller should have it */
    strcpy(twins[1].id, twins[0].id);
    farm_finish_job(f, farm_worker(f, "w", 0));
    struct rf_op bad = {.kind = RF_OP_SUBMIT, .u.submit = {.jobs = &twins[0], .n_jobs = 1}};
    struct rf_op worse = {.kind = RF_OP_SUBMIT, .u.submit = {.jobs = &twins[1], .n_jobs = 1}};
    group_around(f, &bad, &worse, RF_ERR_IO);
    assert_int_equal(farm_state(f, twins[0].id), RF_JOB_COMPLETED);
}

/* ---- versions ---- */

static int64_t user_version(const char *path, const char *then)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    int64_t version = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    if (then != NULL)
        assert_int_equal(sqlite3_exec(db, then, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    return version;
}

static void empty_database_is_upgraded_and_a_newer_one_refused(void **state)
{
    FARM;
    rf_store_destroy(&f->s);
    assert_int_equal(user_version(f->db, "PRAGMA user_version = 99"), rf_n_migrations);
    struct rf_err err = {0};
    struct rf_store *s = NULL;
    assert_int_equal(rf_store_open(&f->config, &s, &err), RF_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "newer framefarm"));
    assert_null(s);
    RF_AUTO(rf_free) char *back = rf_asprintf("PRAGMA user_version = %d", rf_n_migrations);
    user_version(f->db, back);
    farm_reopen(f);
}

static void database_of_somebody_else_is_left_alone(void **state)
{
    FARM;
    rf_store_destroy(&f->s);
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/other.db", f->dir);
    user_version(path, "CREATE TABLE letters (text)");
    f->config.path = path;
    struct rf_err err = {0};
    assert_int_equal(rf_store_open(&f->config, &f->s, &err), RF_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "not one of framefarm's"));
    RF_AUTO(rf_free) char *text = rf_asprintf("%s/text.db", f->dir);
    FILE *file = fopen(text, "w");
    for (int i = 0; i < 200; i++)
        fputs("this is no database at all\n", file);
    fclose(file);
    f->config.path = text;
    assert_int_equal(rf_store_open(&f->config, &f->s, &err), RF_ERR_FORMAT);
}

static void second_server_on_the_same_database_is_refused(void **state)
{
    FARM;
    struct rf_err err = {0};
    struct rf_store *s = NULL;
    assert_int_equal(rf_store_open(&f->config, &s, &err), RF_ERR_IO);
    assert_non_null(strstr(err.msg, "another server"));
}

static void backup_is_a_whole_database(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0);
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/backup.db", f->dir);
    assert_int_equal(rf_store_backup(f->s, path, NULL), RF_OK);
    rf_store_delete(f->s, id, f->now, NULL);
    rf_store_destroy(&f->s);
    f->config.path = path;
    farm_reopen(f);
    assert_int_equal(farm_state(f, id), RF_JOB_QUEUED);
    assert_int_equal(rf_store_check(f->s, NULL), RF_OK);
}

/* ---- clocks ---- */

static void believe_no_jumps(struct rf_store_config *config)
{
    config->clock_jump_ms = 15000;
}

static void jumping_clock_ends_no_lease(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create_with(believe_no_jumps);
    farm_submit(f, "", 5, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "w", 0));
    farm_tick(f, 3600000);   /* the laptop slept an hour */
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_OK);
    farm_tick(f, -7200000);  /* somebody set the clock */
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_OK);
    for (int i = 0; i < 29; i++)
        farm_tick(f, 1000);
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_OK);
    for (int i = 0; i < 30; i++)
        farm_tick(f, 1000);
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_ERR_CONFLICT); /* but real silence does */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worker_delivers_to_the_restarted_server),
        cmocka_unit_test(lease_numbers_grow_over_restarts),
        cmocka_unit_test(ids_grow_although_the_clock_goes_back),
        cmocka_unit_test(queue_backoff_pause_and_counts_survive_a_restart),
        cmocka_unit_test(settled_weights_survive_a_restart),
        cmocka_unit_test(known_models_survive_a_restart),
        cmocka_unit_test(many_threads_submit_and_nothing_is_lost_or_doubled),
        cmocka_unit_test(batch_answers_per_line_and_atomic_takes_all_or_none),
        cmocka_unit_test(same_key_makes_one_job_and_another_request_under_it_is_refused),
        cmocka_unit_test(key_of_a_deleted_job_is_free),
        cmocka_unit_test(queue_has_a_limit),
        cmocka_unit_test(full_disk_refuses_new_jobs_and_loses_no_old_ones),
        cmocka_unit_test(full_disk_fails_the_submits_of_a_group_and_nothing_else),
        cmocka_unit_test(failing_statement_fails_its_own_op_and_nothing_else),
        cmocka_unit_test(empty_database_is_upgraded_and_a_newer_one_refused),
        cmocka_unit_test(database_of_somebody_else_is_left_alone),
        cmocka_unit_test(second_server_on_the_same_database_is_refused),
        cmocka_unit_test(backup_is_a_whole_database),
        cmocka_unit_test(jumping_clock_ends_no_lease),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
