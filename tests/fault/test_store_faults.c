/* Faults that need an exact moment: a clock that goes back while the server is away, a disk that is full when lease
 * numbers are reserved. Both were found by test_promises.py first. SPDX-License-Identifier: Apache-2.0 */
#include "tests/server/store_helpers.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#define FARM RF_AUTO(farm_destroy) struct farm *f = farm_create()
#define LEASE RF_AUTO(rf_wire_lease_finish) struct rf_wire_lease
#define DAY_MS INT64_C(86400000)

static void backoff_is_no_longer_when_the_clock_went_back_during_a_restart(void **state)
{
    FARM;
    f->now += 2 * DAY_MS;
    farm_reopen(f);
    farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "w", 'a');
    LEASE lease = farm_claim(f, w);
    assert_int_equal(farm_fail(f, &lease, "io", true), RF_OK);
    f->now -= DAY_MS;
    farm_reopen(f);
    farm_tick(f, 1999);
    LEASE none = {0};
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
    farm_tick(f, 1);
    LEASE again = farm_claim(f, w);
    assert_true(again.lease > lease.lease);
}

static void set_pages(struct farm *f, int64_t n)
{
    f->config.max_pages = n;
    farm_reopen(f);
}

static int64_t count_pages(struct farm *f)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;
    assert_int_equal(sqlite3_open_v2(f->db, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA page_count", -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

struct group {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool at_gate, gate_open, done;
    struct rf_op gate, claim, submit;
    struct rf_submit job;
};

static void wait_at_the_gate(struct rf_op *op)
{
    struct group *g = op->ctx;
    pthread_mutex_lock(&g->lock);
    g->at_gate = true;
    pthread_cond_broadcast(&g->cond);
    while (!g->gate_open)
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void nothing(struct rf_op *op)
{
}

static void last_is_done(struct rf_op *op)
{
    struct group *g = op->ctx;
    pthread_mutex_lock(&g->lock);
    g->done = true;
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

/* Claim and submit in one group: the writer waits at the gate until both are posted. */
static void run_as_one_group(struct farm *f, struct group *g)
{
    g->gate = (struct rf_op){.kind = RF_OP_TICK, .now_ms = f->now, .done = wait_at_the_gate, .ctx = g};
    rf_store_post(f->s, &g->gate);
    pthread_mutex_lock(&g->lock);
    while (!g->at_gate)
        pthread_cond_wait(&g->cond, &g->lock);
    rf_store_post(f->s, &g->claim);
    rf_store_post(f->s, &g->submit);
    g->gate_open = true;
    pthread_cond_broadcast(&g->cond);
    while (!g->done)
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

/* A group of a claim, which works, and a submit of 60,000 letters, which the disk has no room for. */
static void claim_while_the_disk_is_full(struct farm *f, const char *w, struct group *g)
{
    set_pages(f, count_pages(f) + 6); /* room for a claim */
    RF_AUTO(rf_free) char *long_prompt = rf_new_array(char, 60000);
    memset(long_prompt, 'x', 59999);
    long_prompt[59999] = '\0';
    RF_AUTO(rf_request_destroy) struct rf_request *big = farm_request("a red circle", "", 5);
    free(big->prompt);
    big->prompt = rf_strdup(long_prompt);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->cond, NULL);
    g->claim = (struct rf_op){.kind = RF_OP_CLAIM, .now_ms = f->now, .done = nothing, .u.claim.worker_id = w};
    g->job.request = big;
    g->submit = (struct rf_op){.kind = RF_OP_SUBMIT, .now_ms = f->now, .done = last_is_done, .ctx = g,
                               .u.submit = {.jobs = &g->job, .n_jobs = 1}};
    run_as_one_group(f, g);
    assert_int_not_equal(g->submit.code, RF_OK);
    pthread_cond_destroy(&g->cond);
    pthread_mutex_destroy(&g->lock);
}

static void fill_queue(struct farm *f)
{
    for (int i = 0; i < 40; i++)
        farm_submit(f, "", 5, 0);
}

/* The first claim of a server's life reserves numbers; when the group it is in fails, the reservation is rolled back
 * with it, and must be made again before a number is used. */
static void lease_numbers_do_not_repeat_after_a_full_disk_and_a_kill(void **state)
{
    FARM;
    RF_AUTO(rf_free) struct group *g = rf_new(struct group);
    fill_queue(f);
    const char *w = farm_worker(f, "w", 'a');
    claim_while_the_disk_is_full(f, w, g);
    int64_t highest = g->claim.code == RF_OK ? g->claim.u.claim.lease.lease : 0;
    for (int i = 0; i < 3; i++) {
        LEASE lease = {0};
        if (farm_try_claim(f, w, &lease) == RF_OK)
            highest = lease.lease > highest ? lease.lease : highest;
    }
    assert_true(highest > 0);
    set_pages(f, 0); /* the numbers that memory knew are forgotten; the disk's count */
    LEASE next = farm_claim(f, w);
    assert_true(next.lease > highest);
    rf_wire_lease_finish(&g->claim.u.claim.lease);
}

/* The submit's failure throws away what memory knows, but not the news of the claim, which is on disk. */
static void events_of_what_was_saved_are_told_though_a_later_op_fails(void **state)
{
    FARM;
    RF_AUTO(rf_free) struct group *g = rf_new(struct group);
    fill_queue(f);
    const char *w = farm_worker(f, "w", 'a');
    int n_before = f->n_events[RF_EVENT_JOB_CHANGED];
    claim_while_the_disk_is_full(f, w, g);
    assert_int_equal(g->claim.code, RF_OK);
    assert_int_equal(f->n_events[RF_EVENT_JOB_CHANGED], n_before + 1);
    rf_wire_lease_finish(&g->claim.u.claim.lease);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backoff_is_no_longer_when_the_clock_went_back_during_a_restart),
        cmocka_unit_test(lease_numbers_do_not_repeat_after_a_full_disk_and_a_kill),
        cmocka_unit_test(events_of_what_was_saved_are_told_though_a_later_op_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
