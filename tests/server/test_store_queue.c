/* Who gets what next, who waits for it, and how the queue is shown. SPDX-License-Identifier: Apache-2.0 */
#include "tests/server/store_helpers.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define FARM RF_AUTO(farm_destroy) struct farm *f = farm_create()
#define LEASE RF_AUTO(rf_wire_lease_finish) struct rf_wire_lease

/* ---- order ---- */

static void assert_next(struct farm *f, const char *worker, const char *job_id)
{
    LEASE lease = farm_claim(f, worker);
    assert_string_equal(lease.job_id, job_id);
}

static void higher_priority_goes_first_then_age(void **state)
{
    FARM;
    const char *w = farm_worker(f, "w", 0);
    const char *old = farm_submit(f, "", 5, 0), *young = farm_submit(f, "", 5, 0), *high = farm_submit(f, "", 5, 1);
    assert_next(f, w, high);
    assert_next(f, w, old);
    assert_next(f, w, young);
}

static void changed_priority_moves_a_job(void **state)
{
    FARM;
    const char *w = farm_worker(f, "w", 0);
    const char *a = farm_submit(f, "", 5, 0), *b = farm_submit(f, "", 5, 0);
    assert_int_equal(rf_store_set_priority(f->s, b, 100, f->now, NULL), RF_OK);
    assert_int_equal(rf_store_set_priority(f->s, b, 101, f->now, NULL), RF_ERR_INVALID);
    assert_next(f, w, b);
    assert_next(f, w, a);
}

static void users_take_turns_whoever_came_first(void **state)
{
    FARM;
    const char *w = farm_worker(f, "w", 0);
    const char *ann[4], *ben[2];
    for (int i = 0; i < 4; i++)
        ann[i] = farm_submit(f, "ann", 5, 0);
    for (int i = 0; i < 2; i++)
        ben[i] = farm_submit(f, "ben", 5, 0);
    assert_next(f, w, ann[0]);
    assert_next(f, w, ben[0]);
    assert_next(f, w, ann[1]);
    assert_next(f, w, ben[1]);
    assert_next(f, w, ann[2]);
}

static void long_jobs_weigh_more_in_the_share(void **state)
{
    FARM;
    const char *w = farm_worker(f, "w", 0);
    const char *big = farm_submit(f, "ann", 81, 0), *big2 = farm_submit(f, "ann", 81, 0);
    const char *small[4];
    for (int i = 0; i < 4; i++)
        small[i] = farm_submit(f, "ben", 41, 0);
    assert_next(f, w, big);
    assert_next(f, w, small[0]);
    assert_next(f, w, small[1]);
    assert_next(f, w, big2); /* 81 against 82 */
    assert_next(f, w, small[2]);
}

static void newcomer_starts_level_with_the_others(void **state)
{
    FARM;
    const char *w = farm_worker(f, "w", 0), *ann[6];
    for (int i = 0; i < 6; i++)
        ann[i] = farm_submit(f, "ann", 5, 0);
    for (int i = 0; i < 4; i++)
        assert_next(f, w, ann[i]);
    const char *ben = farm_submit(f, "ben", 5, 0), *ben2 = farm_submit(f, "ben", 5, 0);
    assert_next(f, w, ben);
    assert_next(f, w, ann[4]); /* absence earned ben one turn, not four */
    assert_next(f, w, ben2);
}

static void begun_job_goes_before_its_users_older_ones(void **state)
{
    FARM;
    const char *w = farm_worker(f, "w", 0);
    const char *old = farm_submit(f, "", 5, 0), *begun = farm_submit(f, "", 161, 1);
    LEASE lease = farm_claim(f, w);
    assert_string_equal(lease.job_id, begun);
    assert_int_equal(rf_store_set_priority(f->s, begun, 0, f->now, NULL), RF_OK);
    farm_put_outputs(f, &lease);
    assert_int_equal(farm_complete(f, &lease), RF_OK);
    assert_next(f, w, begun);
    assert_next(f, w, old);
}

static void worker_gets_only_what_it_can_run(void **state)
{
    FARM;
    const char *other = farm_worker_with(f, "o", "another", 0, 81);
    const char *narrow = farm_worker_with(f, "n", "m", 0, 41);
    const char *id = farm_submit(f, "", 81, 0);
    LEASE none = {0};
    assert_int_equal(farm_try_claim(f, other, &none), RF_ERR_NOT_FOUND);
    assert_int_equal(farm_try_claim(f, narrow, &none), RF_ERR_NOT_FOUND);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_false(job->nobody_can_run); /* `narrow` has the model; lengths are not looked at for this */
    assert_next(f, farm_worker(f, "w", 0), id);
}

static void segments_of_a_job_come_from_the_same_weights(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 241, 0), *a = farm_worker(f, "a", 'a'), *b = farm_worker(f, "b", 'b');
    LEASE first = farm_claim(f, b), none = {0};
    farm_put_outputs(f, &first);
    assert_int_equal(farm_complete(f, &first), RF_OK);
    assert_int_equal(farm_try_claim(f, a, &none), RF_ERR_NOT_FOUND);
    struct rf_op leave = {.kind = RF_OP_LEAVE, .now_ms = f->now, .u.worker.id = b};
    assert_int_equal(rf_store_run(f->s, &leave, NULL), RF_OK);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_true(job->nobody_can_run);
    assert_non_null(strstr(job->made_with_text, "bbbb"));
    assert_next(f, farm_worker(f, "b2", 'b'), id);
}

static void paused_queue_and_drained_worker_give_nothing_new(void **state)
{
    FARM;
    farm_submit(f, "", 161, 0);
    const char *w = farm_worker(f, "w", 0);
    LEASE lease = farm_claim(f, w), none = {0};
    struct rf_op drain = {.kind = RF_OP_DRAIN, .now_ms = f->now, .u.worker = {.id = w, .on = true}};
    assert_int_equal(rf_store_run(f->s, &drain, NULL), RF_OK);
    farm_put_outputs(f, &lease);
    assert_int_equal(farm_complete(f, &lease), RF_OK); /* what it holds it finishes */
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
    drain.u.worker.on = false;
    assert_int_equal(rf_store_run(f->s, &drain, NULL), RF_OK);
    assert_int_equal(rf_store_pause(f->s, true, f->now, NULL), RF_OK);
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
    assert_int_equal(rf_store_pause(f->s, false, f->now, NULL), RF_OK);
    LEASE second = farm_claim(f, w);
    assert_int_equal(second.index, 1);
}

static void position_counts_those_ahead(void **state)
{
    FARM;
    const char *ids[] = {farm_submit(f, "ann", 5, 0), farm_submit(f, "ann", 5, 0), farm_submit(f, "ann", 5, 0),
                         farm_submit(f, "ben", 5, 0), farm_submit(f, "cat", 5, 7)};
    const int64_t expected[] = {2, 4, 5, 3, 1};
    for (size_t i = 0; i < RF_COUNT_OF(ids); i++) {
        RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, ids[i]);
        assert_int_equal(job->queue_position, expected[i]);
    }
    const char *w = farm_worker(f, "w", 0);
    const int order[] = {4, 0, 3, 1, 2}; /* and that is how they go */
    for (size_t i = 0; i < RF_COUNT_OF(order); i++)
        assert_next(f, w, ids[order[i]]);
}

static void assert_order(struct farm *f, const char *const *ids, const int *order, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, ids[order[i]]);
        assert_int_equal(job->queue_position, i + 1);
    }
}

static void moved_job_stands_beside_the_other_and_the_rest_keeps_its_order(void **state)
{
    FARM;
    const char *ids[5];
    for (int i = 0; i < 5; i++)
        ids[i] = farm_submit(f, "ann", 5, 0);
    static const struct {
        int job, beside;
        bool after;
        int order[5];
    } moves[] = {{3, 1, false, {0, 3, 1, 2, 4}}, {0, 2, false, {3, 1, 0, 2, 4}}, {3, 4, true, {1, 0, 2, 4, 3}},
                 {2, 1, true, {1, 2, 0, 4, 3}},  {0, 4, false, {1, 2, 0, 4, 3}}, {3, 1, false, {3, 1, 2, 0, 4}}};
    for (size_t i = 0; i < RF_COUNT_OF(moves); i++) {
        assert_int_equal(rf_store_move(f->s, ids[moves[i].job], ids[moves[i].beside], moves[i].after, f->now, NULL), RF_OK);
        assert_order(f, ids, moves[i].order, 5);
    }
    farm_reopen(f);
    assert_order(f, ids, moves[5].order, 5);
    const char *w = farm_worker(f, "w", 0);
    for (int i = 0; i < 5; i++)
        assert_next(f, w, ids[moves[5].order[i]]);
}

static void moved_job_takes_the_priority_of_its_new_place(void **state)
{
    FARM;
    const char *ids[] = {farm_submit(f, "", 5, 0), farm_submit(f, "", 5, 3), farm_submit(f, "", 5, 3),
                         farm_submit(f, "", 5, -1)};
    assert_int_equal(rf_store_move(f->s, ids[3], ids[2], false, f->now, NULL), RF_OK);
    assert_order(f, ids, (const int[]){1, 3, 2, 0}, 4);
    assert_int_equal(rf_store_move(f->s, ids[1], ids[0], true, f->now, NULL), RF_OK);
    assert_order(f, ids, (const int[]){3, 2, 0, 1}, 4);
    farm_reopen(f);
    assert_order(f, ids, (const int[]){3, 2, 0, 1}, 4);
}

static void moving_leaves_other_users_their_turns(void **state)
{
    FARM;
    const char *ids[] = {farm_submit(f, "ann", 5, 0), farm_submit(f, "ann", 5, 0), farm_submit(f, "ben", 5, 0),
                         farm_submit(f, "ann", 5, 0)};
    assert_order(f, ids, (const int[]){0, 2, 1, 3}, 4);
    assert_int_equal(rf_store_move(f->s, ids[3], ids[0], false, f->now, NULL), RF_OK);
    assert_order(f, ids, (const int[]){3, 2, 0, 1}, 4);
    assert_int_equal(rf_store_move(f->s, ids[2], ids[3], false, f->now, NULL), RF_ERR_CONFLICT);
    assert_order(f, ids, (const int[]){3, 2, 0, 1}, 4);
}

static void only_waiting_jobs_are_moved(void **state)
{
    FARM;
    const char *w = farm_worker(f, "w", 0);
    const char *begun = farm_submit(f, "", 5, 0), *a = farm_submit(f, "", 5, 0), *b = farm_submit(f, "", 5, 0);
    LEASE lease = farm_claim(f, w);
    assert_string_equal(lease.job_id, begun);
    assert_int_equal(rf_store_move(f->s, b, begun, false, f->now, NULL), RF_ERR_CONFLICT);
    assert_int_equal(rf_store_move(f->s, begun, b, false, f->now, NULL), RF_ERR_CONFLICT);
    assert_int_equal(rf_store_move(f->s, a, a, false, f->now, NULL), RF_ERR_INVALID);
    assert_int_equal(rf_store_move(f->s, a, "video_00000000000000000000000001", false, f->now, NULL), RF_ERR_NOT_FOUND);
    assert_int_equal(rf_store_cancel(f->s, b, f->now, NULL), RF_OK);
    assert_int_equal(rf_store_move(f->s, a, b, false, f->now, NULL), RF_ERR_CONFLICT);
}

static void users_jobs_for_two_models_stand_in_one_line(void **state)
{
    FARM;
    const char *wide = farm_worker_with(f, "wide", "m", 0, 81);
    const char *ids[4];
    for (int i = 0; i < 4; i++) {
        RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("p", i == 3 ? "ben" : "ann", 5);
        snprintf(r->model, sizeof r->model, "%s", i == 1 ? "n" : "m");
        static char text[4][RF_JOB_ID_SIZE];
        assert_int_equal(rf_store_submit(f->s, r, f->now, text[i], NULL), RF_OK);
        ids[i] = text[i];
    }
    assert_order(f, ids, (const int[]){0, 3, 1, 2}, 4);
    assert_int_equal(rf_store_move(f->s, ids[2], ids[1], false, f->now, NULL), RF_OK);
    assert_order(f, ids, (const int[]){0, 3, 2, 1}, 4);
    assert_next(f, wide, ids[0]);
}

/* ---- parked claims ---- */

struct parked {
    struct rf_op op;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void note_done(struct rf_op *op)
{
    struct parked *p = op->ctx;
    pthread_mutex_lock(&p->lock);
    p->done = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

static void park(struct farm *f, struct parked *p, const char *worker, int64_t wait_ms)
{
    *p = (struct parked){.op = {.kind = RF_OP_CLAIM, .now_ms = f->now, .done = note_done, .ctx = p,
                                .u.claim = {.worker_id = worker, .wait_ms = wait_ms}},
                         .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    rf_store_post(f->s, &p->op);
}

static enum rf_code await(struct parked *p)
{
    pthread_mutex_lock(&p->lock);
    while (!p->done)
        pthread_cond_wait(&p->cond, &p->lock);
    pthread_mutex_unlock(&p->lock);
    rf_wire_lease_finish(&p->op.u.claim.lease);
    return p->op.code;
}

static bool answered(struct farm *f, struct parked *p)
{
    farm_tick(f, 0); /* whatever was posted before is through now */
    pthread_mutex_lock(&p->lock);
    bool done = p->done;
    pthread_mutex_unlock(&p->lock);
    return done;
}

static void new_job_wakes_the_one_who_waits_longest(void **state)
{
    FARM;
    struct parked a, b;
    park(f, &a, farm_worker(f, "a", 0), 30000);
    park(f, &b, farm_worker(f, "b", 0), 30000);
    farm_submit(f, "", 5, 0);
    assert_int_equal(await(&a), RF_OK);
    assert_false(answered(f, &b));
    farm_tick(f, 30000);
    assert_int_equal(await(&b), RF_ERR_NOT_FOUND);
}

static void finished_segment_wakes_a_waiter_for_the_next(void **state)
{
    FARM;
    farm_submit(f, "", 161, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "a", 0));
    struct parked b;
    park(f, &b, farm_worker(f, "b", 0), 30000);
    farm_put_outputs(f, &lease);
    assert_int_equal(farm_complete(f, &lease), RF_OK);
    assert_int_equal(await(&b), RF_OK);
}

static void end_of_a_backoff_wakes_a_waiter(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "a", 0);
    LEASE lease = farm_claim(f, w);
    struct parked p;
    assert_int_equal(farm_fail(f, &lease, "io", true), RF_OK);
    park(f, &p, w, 30000);
    farm_tick(f, 1999);
    assert_false(answered(f, &p));
    farm_tick(f, 1);
    assert_int_equal(await(&p), RF_OK);
}

static void asking_again_ends_the_first_claim(void **state)
{
    FARM;
    const char *w = farm_worker(f, "a", 0);
    struct parked first, second;
    park(f, &first, w, 30000);
    park(f, &second, w, 30000);
    assert_int_equal(await(&first), RF_ERR_NOT_FOUND);
    farm_submit(f, "", 5, 0);
    assert_int_equal(await(&second), RF_OK);
}

static void unparked_claim_gets_nothing(void **state)
{
    FARM;
    struct parked p;
    park(f, &p, farm_worker(f, "a", 0), 30000);
    struct rf_op unpark = {.kind = RF_OP_UNPARK, .now_ms = f->now, .u.unpark.parked = &p.op};
    assert_int_equal(rf_store_run(f->s, &unpark, NULL), RF_OK);
    assert_int_equal(await(&p), RF_ERR_CANCELLED);
    assert_int_equal(rf_store_run(f->s, &unpark, NULL), RF_OK); /* harmless */
}

static void closing_the_store_answers_those_who_wait(void **state)
{
    FARM;
    struct parked p;
    park(f, &p, farm_worker(f, "a", 0), 30000);
    rf_store_destroy(&f->s);
    assert_int_equal(await(&p), RF_ERR_NOT_FOUND);
}

/* ---- workers ---- */

static void silent_worker_is_lost_and_comes_back_by_calling(void **state)
{
    FARM;
    const char *w = farm_worker(f, "a", 0);
    farm_tick(f, 90001);
    RF_AUTO(rf_workers_destroy) struct rf_workers *list = NULL;
    rf_store_workers(f->s, &list);
    assert_int_equal(list->n_workers, 1);
    assert_int_equal(list->workers[0].state, RF_WORKER_LOST);
    LEASE none = {0};
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
    rf_workers_destroy(&list);
    rf_store_workers(f->s, &list);
    assert_int_equal(list->workers[0].state, RF_WORKER_IDLE);
    farm_tick(f, 90001);
    farm_tick(f, 86400001);
    rf_workers_destroy(&list);
    rf_store_workers(f->s, &list);
    assert_int_equal(list->n_workers, 0); /* forgotten after a day */
}

static void working_worker_shows_its_task(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "a", 0));
    RF_AUTO(rf_workers_destroy) struct rf_workers *list = NULL;
    rf_store_workers(f->s, &list);
    assert_int_equal(list->workers[0].state, RF_WORKER_BUSY);
    assert_string_equal(list->workers[0].task_id, lease.task_id);
    assert_non_null(strstr(list->workers[0].models_text, "\"name\":\"m\""));
}

/* ---- lists ---- */

static int walk(struct farm *f, struct rf_query query, const char **ret_ids)
{
    int n = 0;
    static char ids[64][RF_JOB_ID_SIZE];
    for (bool more = true; more;) {
        RF_AUTO(rf_page_destroy) struct rf_page *page = NULL;
        assert_int_equal(rf_store_list(f->s, &query, &page, NULL), RF_OK);
        for (int i = 0; i < page->n_jobs; i++, n++) {
            strcpy(ids[n], page->jobs[i]->id);
            ret_ids[n] = ids[n];
        }
        query.after = n > 0 ? ids[n - 1] : NULL;
        more = page->has_more;
    }
    return n;
}

static void pages_neither_repeat_nor_skip_while_jobs_come_and_go(void **state)
{
    FARM;
    char ids[10][RF_JOB_ID_SIZE];
    for (int i = 0; i < 10; i++)
        strcpy(ids[i], farm_submit(f, "", 5, 0));
    struct rf_query query = {.limit = 4};
    RF_AUTO(rf_page_destroy) struct rf_page *page = NULL;
    assert_int_equal(rf_store_list(f->s, &query, &page, NULL), RF_OK);
    assert_string_equal(page->jobs[0]->id, ids[9]);
    assert_true(page->has_more);
    query.after = page->jobs[3]->id;
    farm_submit(f, "", 5, 0);                         /* a new one goes in front */
    rf_store_delete(f->s, ids[8], f->now, NULL);      /* one already seen goes away */
    rf_store_cancel(f->s, ids[3], f->now, NULL);
    struct rf_page *next = NULL;
    assert_int_equal(rf_store_list(f->s, &query, &next, NULL), RF_OK);
    assert_int_equal(next->n_jobs, 4);
    for (int i = 0; i < 4; i++)
        assert_string_equal(next->jobs[i]->id, ids[5 - i]);
    rf_page_destroy(&next);
    query.after = "video_00000000000000000000000000";
    assert_int_equal(rf_store_list(f->s, &query, &next, NULL), RF_ERR_NOT_FOUND);
}

static void filters_are_joined_and_keep_their_order(void **state)
{
    FARM;
    char ids[12][RF_JOB_ID_SIZE];
    for (int i = 0; i < 12; i++)
        strcpy(ids[i], farm_submit(f, i % 2 ? "ann" : "", 5, 0));
    for (int i = 0; i < 12; i += 3)
        rf_store_cancel(f->s, ids[i], f->now, NULL); /* 0 3 6 9 */
    LEASE lease = farm_claim(f, farm_worker(f, "w", 0));
    assert_string_equal(lease.job_id, ids[1]); /* 0 is cancelled */
    const char *got[64];
    assert_int_equal(walk(f, (struct rf_query){.limit = 3, .user = "ann"}, got), 6);
    assert_string_equal(got[0], ids[11]);
    assert_int_equal(walk(f, (struct rf_query){.limit = 1, .user = "ann", .states = 1u << RF_JOB_CANCELLED}, got), 2);
    assert_string_equal(got[0], ids[9]);
    assert_string_equal(got[1], ids[3]);
    unsigned both = 1u << RF_JOB_CANCELLED | 1u << RF_JOB_IN_PROGRESS;
    assert_int_equal(walk(f, (struct rf_query){.limit = 2, .states = both, .ascending = true}, got), 5);
    for (int i = 1; i < 5; i++)
        assert_true(strcmp(got[i - 1], got[i]) < 0);
    assert_int_equal(walk(f, (struct rf_query){.limit = 5, .user = ""}, got), 6);
    assert_int_equal(walk(f, (struct rf_query){.limit = 5, .model = "m"}, got), 12);
    assert_int_equal(walk(f, (struct rf_query){.limit = 5, .model = "n"}, got), 0);
    assert_int_equal(walk(f, (struct rf_query){.limit = 5, .text = "RED"}, got), 12);
    assert_int_equal(walk(f, (struct rf_query){.limit = 5, .text = "r_d"}, got), 0); /* no wildcard */
    assert_int_equal(walk(f, (struct rf_query){.limit = 5, .text = "seed"}, got), 0); /* prompts only */
}

static bool count_row(void *ctx, const struct rf_timing_row *row)
{
    (*(int *)ctx)++;
    return true;
}

static void timings_are_told_one_by_one(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0);
    f->now += 1500;
    farm_finish_job(f, farm_worker(f, "w", 0));
    int n = 0;
    assert_int_equal(rf_store_timings(f->s, id, 0, 0, count_row, &n, NULL), RF_OK);
    assert_int_equal(n, 7); /* queue, and three for each of two tasks */
    n = 0;
    assert_int_equal(rf_store_timings(f->s, NULL, f->now, f->now + 1, count_row, &n, NULL), RF_OK);
    assert_int_equal(n, 7);
    n = 0;
    assert_int_equal(rf_store_timings(f->s, NULL, 0, f->now, count_row, &n, NULL), RF_OK);
    assert_int_equal(n, 0);
    assert_int_equal(rf_store_timings(f->s, "video_00000000000000000000000001", 0, 0, count_row, &n, NULL),
                     RF_ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(higher_priority_goes_first_then_age),
        cmocka_unit_test(changed_priority_moves_a_job),
        cmocka_unit_test(users_take_turns_whoever_came_first),
        cmocka_unit_test(long_jobs_weigh_more_in_the_share),
        cmocka_unit_test(newcomer_starts_level_with_the_others),
        cmocka_unit_test(begun_job_goes_before_its_users_older_ones),
        cmocka_unit_test(worker_gets_only_what_it_can_run),
        cmocka_unit_test(segments_of_a_job_come_from_the_same_weights),
        cmocka_unit_test(paused_queue_and_drained_worker_give_nothing_new),
        cmocka_unit_test(position_counts_those_ahead),
        cmocka_unit_test(moved_job_stands_beside_the_other_and_the_rest_keeps_its_order),
        cmocka_unit_test(moved_job_takes_the_priority_of_its_new_place),
        cmocka_unit_test(moving_leaves_other_users_their_turns),
        cmocka_unit_test(only_waiting_jobs_are_moved),
        cmocka_unit_test(users_jobs_for_two_models_stand_in_one_line),
        cmocka_unit_test(new_job_wakes_the_one_who_waits_longest),
        cmocka_unit_test(finished_segment_wakes_a_waiter_for_the_next),
        cmocka_unit_test(end_of_a_backoff_wakes_a_waiter),
        cmocka_unit_test(asking_again_ends_the_first_claim),
        cmocka_unit_test(unparked_claim_gets_nothing),
        cmocka_unit_test(closing_the_store_answers_those_who_wait),
        cmocka_unit_test(silent_worker_is_lost_and_comes_back_by_calling),
        cmocka_unit_test(working_worker_shows_its_task),
        cmocka_unit_test(pages_neither_repeat_nor_skip_while_jobs_come_and_go),
        cmocka_unit_test(filters_are_joined_and_keep_their_order),
        cmocka_unit_test(timings_are_told_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
