/* How long things take and when jobs will end: the curve, the queue played forward, and both inside the store.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/eta_queue.h"
#include "server/schedule.h"
#include "tests/server/store_helpers.h"

#include <math.h>
#include <string.h>

/* Numbers that are the same in every run. */
static double uniform(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(*seed >> 11) / (double)(UINT64_C(1) << 53);
}

/* About normal, with this spread. */
static double noise(uint64_t *seed, double spread)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += uniform(seed);
    return spread * sum;
}

static void assert_near(double value, double wanted, double part)
{
    if (!(fabs(value - wanted) <= part * fabs(wanted)))
        fail_msg("%g is not within %g %% of %g", value, 100 * part, wanted);
}

static double truth(double n)
{
    return 2 + 1e-4 * n + 3e-9 * n * n;
}

static const double lengths[] = {8e3, 2e4, 4e4, 8e4, 1.6e5};

static double seconds_at(struct rf_fit *f, double n)
{
    struct rf_guess g;
    assert_true(rf_fit_at(f, n, &g));
    return g.seconds;
}

/* ---- the curve ---- */

static void nothing_measured_is_nothing_known(void **state)
{
    static struct rf_fit f = {.square_at = 30000};
    struct rf_guess g;
    assert_false(rf_fit_at(&f, 1000, &g));
    rf_fit_add(&f, 1000, NAN);
    rf_fit_add(&f, 0, 1);
    rf_fit_add(&f, 1000, -1);
    assert_false(rf_fit_at(&f, 1000, &g));
}

static void curve_is_found_behind_noise(void **state)
{
    static struct rf_fit f = {.square_at = 30000};
    uint64_t seed = 1;
    for (int i = 0; i < 60; i++)
        rf_fit_add(&f, lengths[i % 5], truth(lengths[i % 5]) * (1 + noise(&seed, 0.03)));
    for (int i = 0; i < 5; i++)
        assert_near(seconds_at(&f, lengths[i]), truth(lengths[i]), 0.03); /* measured: 0.6 % at most */
    assert_near(seconds_at(&f, 1.2e5), truth(1.2e5), 0.03);
}

static void outliers_do_not_move_the_curve(void **state)
{
    static struct rf_fit f = {.square_at = 30000};
    uint64_t seed = 2;
    for (int i = 0; i < 75; i++) {
        double t = truth(lengths[i % 5]) * (1 + noise(&seed, 0.03));
        rf_fit_add(&f, lengths[i % 5], i % 4 == 0 ? 5 * t : t);
    }
    for (int i = 0; i < 5; i++)
        assert_near(seconds_at(&f, lengths[i]), truth(lengths[i]), 0.06); /* measured: 4.9 %; the mean: 100 % */
}

static void one_measurement_follows_the_cost_law(void **state)
{
    /* Measured on one H200 at 832x1216: one pass at 81 frames and at 161. */
    static struct rf_fit f = {.square_at = 30000};
    rf_fit_add(&f, 21 * 52 * 76, 13.6);
    assert_near(seconds_at(&f, 21 * 52 * 76), 13.6, 0.001);
    assert_near(seconds_at(&f, 41 * 52 * 76), 45.1, 0.01);
    struct rf_guess at, beyond;
    rf_fit_at(&f, 21 * 52 * 76, &at);
    rf_fit_at(&f, 41 * 52 * 76, &beyond);
    assert_true(beyond.error / beyond.seconds > at.error / at.seconds); /* it knows that it knows less there */
}

static void two_lengths_outweigh_the_law(void **state)
{
    static struct rf_fit linear = {.square_at = 30000}, square = {.square_at = 30000};
    rf_fit_add(&linear, 1e5, 10);
    rf_fit_add(&linear, 2e5, 20);
    assert_near(seconds_at(&linear, 1e5), 10, 0.05);
    assert_near(seconds_at(&linear, 2e5), 20, 0.05);
    rf_fit_add(&square, 1e5, 10);
    rf_fit_add(&square, 2e5, 40);
    assert_near(seconds_at(&square, 1e5), 10, 0.05);
    assert_near(seconds_at(&square, 2e5), 40, 0.05);
}

static void curve_never_bends_down(void **state)
{
    static struct rf_fit f = {.square_at = 30000};
    for (int i = 0; i < 10; i++)
        for (int k = 0; k < 5; k++)
            rf_fit_add(&f, lengths[k], 10 - k); /* longer and faster: a machine that got quicker meanwhile */
    seconds_at(&f, 1);
    assert_true(f.a >= 0 && f.b >= 0 && f.c >= 0);
    assert_true(seconds_at(&f, 1e6) >= seconds_at(&f, 1e5));
}

static void error_covers_four_of_five(void **state)
{
    static struct rf_fit f = {.square_at = 30000};
    uint64_t seed = 3;
    for (int i = 0; i < 80; i++)
        rf_fit_add(&f, lengths[i % 5], truth(lengths[i % 5]) * (1 + noise(&seed, 0.1)));
    int n_inside = 0;
    for (int i = 0; i < 1000; i++) {
        struct rf_guess g;
        rf_fit_at(&f, lengths[i % 5], &g);
        n_inside += fabs(truth(lengths[i % 5]) * (1 + noise(&seed, 0.1)) - g.seconds) <= g.error;
    }
    assert_in_range(n_inside, 750, 880); /* measured: 840 */
}

static void new_lengths_push_out_the_least_seen(void **state)
{
    static struct rf_fit f = {.square_at = 30000};
    for (int i = 0; i < 1000; i++)
        rf_fit_add(&f, 1000 + i, 1);
    assert_int_equal(f.n_cells, RF_FIT_CELLS);
    assert_int_equal(rf_fit_count(&f), RF_FIT_CELLS);
    assert_true(isfinite(seconds_at(&f, 1000)));
}

static void guidance_doubles_the_passes_of_its_expert(void **state)
{
    assert_int_equal(rf_eta_passes(4, 2, 1, 1), 4);
    assert_int_equal(rf_eta_passes(40, 15, 3.5, 1), 15 + 50);
    assert_int_equal(rf_eta_passes(40, 15, 1, 3.5), 30 + 25);
    assert_int_equal(rf_eta_passes(4, 100, 3, 3), 8);
}

static void few_steps_tell_what_many_take(void **state)
{
    struct rf_eta *e = rf_eta_create();
    int kind = rf_eta_kind(e, "cuda", "one", "bf16");
    assert_int_equal(rf_eta_kind(e, "cuda", "two", "bf16"), kind + 1);
    assert_int_equal(rf_eta_kind(e, "cuda", "one", "bf16"), kind);
    struct rf_eta_work w = {.width = 832, .height = 480, .n_frames = 81, .fps = 16, .n_passes = 4};
    struct rf_eta_taken t = {.all = 4 * 5 + 3 + 30, .passes = 4 * 5, .load = 30};
    struct rf_guess g;
    assert_false(rf_eta_guess(e, kind, "m", &w, &g));
    rf_eta_learn(e, kind, "m", &w, &t);
    t.all -= 30; /* the second finds the model loaded */
    t.load = 0;
    rf_eta_learn(e, kind, "m", &w, &t);
    assert_true(rf_eta_guess(e, kind, "m", &w, &g));
    assert_near(g.seconds, 4 * 5 + 3, 0.01);
    w.n_passes = 80;
    assert_true(rf_eta_guess(e, kind, "m", &w, &g));
    assert_near(g.seconds, 80 * 5 + 3, 0.01);
    assert_false(rf_eta_guess(e, kind + 1, "m", &w, &g)); /* the other device has done nothing yet */
    assert_false(rf_eta_guess(e, kind, "other", &w, &g));
    rf_eta_destroy(&e);
}

/* ---- the queue, played forward ---- */

/* Ten seconds a segment, one for assembling; with a seed, off by a fifth or so. */
static bool ten_seconds(void *ctx, int class, const struct rf_queue_job *job, struct rf_guess *ret)
{
    uint64_t *seed = ctx;
    double mean = job->task == job->n_tasks - 1 ? 1 : 10;
    *ret = (struct rf_guess){mean * (seed != NULL ? fmax(0.1, 1 + noise(seed, 0.2)) : 1), 0.256 * mean};
    return true;
}

static struct rf_queue_job clip(int64_t row, int share)
{
    return (struct rf_queue_job){.row = row, .share = share, .lane = 1, .n_tasks = 2, .n_steps = 4,
                                 .max_segment_frames = 81, .class = -1,
                                 .work = {.width = 64, .height = 64, .n_frames = 81, .fps = 16, .n_passes = 4}};
}

struct stage {                    /* one class of workers that can do everything */
    struct rf_queue q;
    struct rf_queue_fit fit[2];
    double served[4];
    int n_idle[1];
};

static void run(struct stage *s, struct rf_queue_job *jobs, int n_jobs, int n_workers, uint64_t *seed)
{
    free(s->q.starts);
    s->fit[1] = (struct rf_queue_fit){81, 1};
    memset(s->served, 0, sizeof s->served);
    s->n_idle[0] = n_workers;
    bool paused = s->q.paused;
    s->q = (struct rf_queue){.jobs = jobs, .n_jobs = n_jobs, .served = s->served, .n_shares = 4, .n_idle = s->n_idle,
                             .n_classes = 1, .fit = s->fit, .n_lanes = 2, .guess = ten_seconds, .ctx = seed,
                             .paused = paused};
    rf_queue_run(&s->q);
}

static void jobs_follow_one_another_on_one_worker(void **state)
{
    struct stage s = {.q.paused = false};
    struct rf_queue_job jobs[] = {clip(2, 0), clip(1, 0), clip(3, 0)};
    jobs[2].priority = 5;
    run(&s, jobs, 3, 1, NULL);
    assert_true(jobs[2].start_s == 0 && jobs[2].end_s == 11);   /* priority */
    assert_true(jobs[1].start_s == 11 && jobs[1].end_s == 22);  /* then age */
    assert_true(jobs[0].start_s == 22 && jobs[0].end_s == 33);
    assert_true(jobs[0].error_s > jobs[1].error_s);
    assert_true(s.q.free_s == 33 && s.q.n_starts == 3);
    free(s.q.starts);
}

static void two_workers_share_and_users_take_turns(void **state)
{
    struct stage s = {.q.paused = false};
    struct rf_queue_job jobs[] = {clip(1, 0), clip(2, 0), clip(3, 0), clip(4, 1)};
    run(&s, jobs, 4, 2, NULL);
    assert_true(jobs[0].start_s == 0 && jobs[3].start_s == 0); /* the other user's before the first one's second */
    assert_true(jobs[1].end_s == 22 && jobs[2].end_s == 22);
    free(s.q.starts);
}

static void users_take_turns_again_and_again(void **state)
{
    struct stage s = {.q.paused = false};
    struct rf_queue_job jobs[] = {clip(1, 0), clip(2, 0), clip(3, 0), clip(4, 1), clip(5, 1), clip(6, 1)};
    const int order[] = {0, 3, 1, 4, 2, 5};
    const double starts[] = {0, 10, 22, 32, 44, 54}; /* who has had less goes before the other's assembling */
    run(&s, jobs, 6, 1, NULL);
    for (int i = 0; i < 6; i++)
        assert_true(jobs[order[i]].start_s == starts[i]);
    free(s.q.starts);
}

static void front_of_the_queue_has_room_for_every_user(void **state)
{
    struct rf_sched *s = rf_sched_create();
    struct rf_live_job *front[10];
    for (int i = 0; i < 103; i++) {
        struct rf_live_job *job = rf_new(struct rf_live_job);
        *job = (struct rf_live_job){.row = i + 1, .n_tasks = 2, .n_frames = 81, .priority = i == 102 ? 1 : 0};
        rf_sched_add(s, job, i < 100 ? "many" : "few", "m", NULL, NULL);
        rf_sched_make_ready(s, job);
    }
    int64_t rows = 0;
    assert_int_equal(rf_sched_front(s, 10, front), 10); /* 103 by priority, 101, 102, and turns of the other */
    for (int i = 0; i < 10; i++)
        rows += front[i]->row;
    assert_int_equal(rows, 103 + 101 + 102 + 1 + 2 + 3 + 4 + 5 + 6 + 7);
    rf_sched_destroy(&s);
}

static void what_runs_ends_first_and_its_worker_goes_on(void **state)
{
    struct stage s = {.q.paused = false};
    struct rf_queue_job jobs[] = {clip(1, 0), clip(2, 0)};
    jobs[0].begun = true;
    jobs[0].class = 0;
    jobs[0].class_stays = true;
    jobs[0].left = (struct rf_guess){4, 1};
    run(&s, jobs, 2, 0, NULL);
    assert_true(isnan(jobs[0].start_s) && jobs[0].end_s == 5);
    assert_true(jobs[1].start_s == 5 && jobs[1].end_s == 16);
    jobs[0] = clip(1, 0);
    jobs[1] = clip(2, 0);
    jobs[0].begun = true;
    jobs[0].class = 0;
    jobs[0].left = (struct rf_guess){4, 1};
    run(&s, jobs, 2, 0, NULL);                                  /* the worker is draining */
    assert_true(isnan(jobs[0].end_s) && isnan(jobs[1].start_s)); /* nobody is left to assemble it */
    free(s.q.starts);
}

static void paused_queue_starts_nothing(void **state)
{
    struct stage s = {.q.paused = true};
    struct rf_queue_job jobs[] = {clip(1, 0)};
    run(&s, jobs, 1, 1, NULL);
    assert_true(isnan(jobs[0].start_s) && isnan(jobs[0].end_s) && s.q.n_starts == 0);
    free(s.q.starts);
}

static void too_long_segments_wait_for_ever(void **state)
{
    struct stage s = {.q.paused = false};
    struct rf_queue_job jobs[] = {clip(1, 0), clip(2, 1)};
    jobs[0].work.n_frames = jobs[0].max_segment_frames = 161;
    run(&s, jobs, 2, 1, NULL);
    assert_true(isnan(jobs[0].start_s) && jobs[1].end_s == 11);
    free(s.q.starts);
}

static void errors_of_a_whole_queue_cover_four_of_five(void **state)
{
    static struct rf_queue_job expected[60], real[60];
    struct stage s = {.q.paused = false};
    uint64_t seed = 7;
    int n_inside = 0, n_all = 0;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 60; i++)
            expected[i] = real[i] = clip(i + 1, i % 3);
        run(&s, expected, 60, 3, NULL);
        run(&s, real, 60, 3, &seed);
        for (int i = 0; i < 60; i++, n_all++)
            n_inside += fabs(real[i].end_s - expected[i].end_s) <= expected[i].error_s;
    }
    assert_in_range(100 * n_inside / n_all, 75, 90); /* measured: 83 */
    free(s.q.starts);
}

/* ---- inside the store ---- */

/* Claims and completes one task that takes this long. True: it was the last of its job. */
static bool work(struct farm *f, const char *worker, int64_t takes_ms)
{
    struct rf_wire_lease lease = farm_claim(f, worker);
    farm_put_outputs(f, &lease);
    farm_tick(f, takes_ms);
    assert_int_equal(farm_complete(f, &lease), RF_OK);
    bool last = lease.kind == RF_TASK_ASSEMBLE;
    rf_wire_lease_finish(&lease);
    return last;
}

/* One clip of 81 frames, rendered in 20 s and assembled in 1 s. */
static void measure_one(struct farm *f, const char *worker)
{
    farm_submit(f, "", 81, 0);
    work(f, worker, 20000);
    work(f, worker, 1000);
    farm_tick(f, 1000);
}

static void assert_times(struct farm *f, const char *id, int64_t start_ms, int64_t end_ms)
{
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    int64_t start = job->expected_start_ms ? job->expected_start_ms - f->now : 0;
    int64_t end = job->expected_end_ms ? job->expected_end_ms - f->now : 0;
    if (llabs(start - start_ms) > 200 || llabs(end - end_ms) > 200)
        fail_msg("from now: start %lld, end %lld; wanted %lld, %lld", (long long)start, (long long)end,
                 (long long)start_ms, (long long)end_ms);
}

static void assert_unknown(struct farm *f, const char *id)
{
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->expected_start_ms, 0);
    assert_int_equal(job->expected_end_ms, 0);
    assert_int_equal(job->expected_error_ms, 0);
}

static void first_job_has_no_times_the_second_has(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create();
    const char *w = farm_worker(f, "w", 'a');
    const char *id = farm_submit(f, "", 81, 0);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->expected_end_ms, 0);
    work(f, w, 20000);
    work(f, w, 1000);
    farm_tick(f, 1000);
    const char *first = farm_submit(f, "", 81, 0), *second = farm_submit(f, "", 161, 0);
    farm_tick(f, 1000);
    assert_times(f, first, 0, 21000);
    assert_times(f, second, 21000, 21000 + 40000 + 1950); /* two segments of 81; assembling costs by length */
}

static void running_jobs_end_follows_what_its_worker_tells(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create();
    const char *w = farm_worker(f, "w", 'a');
    measure_one(f, w);
    const char *id = farm_submit(f, "", 81, 0), *next = farm_submit(f, "", 81, 0);
    struct rf_wire_lease lease = farm_claim(f, w);
    farm_tick(f, 2000);
    assert_times(f, id, 0, 19000);
    farm_tick(f, 18000);
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_OK); /* half is done after 20 s: 30 s in all */
    farm_tick(f, 1000);
    assert_times(f, id, 0, 9000 + 1000);
    assert_times(f, next, 10000, 31000);
    rf_wire_lease_finish(&lease);
}

static void what_nobody_can_run_or_is_held_has_no_times(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create();
    const char *w = farm_worker(f, "w", 'a');
    measure_one(f, w);
    const char *id = farm_submit(f, "", 81, 0);
    farm_tick(f, 1000);
    assert_times(f, id, 0, 21000);
    assert_int_equal(rf_store_pause(f->s, true, f->now, NULL), RF_OK);
    farm_tick(f, 1000);
    assert_unknown(f, id);
    assert_int_equal(rf_store_pause(f->s, false, f->now, NULL), RF_OK);
    farm_tick(f, 1000);
    assert_times(f, id, 0, 21000);
    struct rf_op leave = {.kind = RF_OP_LEAVE, .now_ms = f->now, .u.worker.id = w};
    assert_int_equal(rf_store_run(f->s, &leave, NULL), RF_OK);
    farm_tick(f, 1000);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_true(job->nobody_can_run);
    assert_unknown(f, id);
}

static void restarted_server_knows_what_was_measured(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create();
    measure_one(f, farm_worker(f, "w", 'a'));
    farm_reopen(f);
    farm_worker(f, "another of its kind", 'a');
    const char *id = farm_submit(f, "", 81, 0), *second = farm_submit(f, "", 81, 0), *third = farm_submit(f, "", 81, 0);
    farm_tick(f, 1000);
    assert_times(f, id, 0, 21000);
    assert_times(f, second, 0, 21000); /* the first worker is still counted as here */
    assert_times(f, third, 21000, 42000);
}

static void plan_is_told_when_it_would_end(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create();
    const char *w = farm_worker(f, "w", 'a');
    measure_one(f, w);
    farm_submit(f, "", 81, 0);
    farm_submit(f, "ann", 81, 0);
    farm_tick(f, 1000);
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("x", "", 81);
    struct rf_job plan = {.state = RF_JOB_QUEUED, .request = r};
    rf_store_expect(f->s, &plan);
    assert_int_equal(plan.queue_position, 3);
    assert_in_range(plan.expected_start_ms - f->now, 41900, 42100);
    assert_in_range(plan.expected_end_ms - f->now, 62900, 63100);
    assert_true(plan.expected_error_ms > 0);
    r->priority = 1;
    plan = (struct rf_job){.state = RF_JOB_QUEUED, .request = r};
    rf_store_expect(f->s, &plan);
    assert_int_equal(plan.queue_position, 1);
    assert_in_range(plan.expected_end_ms - f->now, 20900, 21100);
    struct rf_store_counts counts;
    rf_store_counts(f->s, &counts);
    assert_int_equal(counts.jobs[RF_JOB_QUEUED], 2); /* nothing was added */
}

static void jobs_far_behind_go_on_at_the_rate_of_the_front(void **state)
{
    RF_AUTO(farm_destroy) struct farm *f = farm_create();
    measure_one(f, farm_worker(f, "w", 'a'));
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("x", "", 81);
    static struct rf_submit jobs[3000];
    memset(jobs, 0, sizeof jobs);
    for (int i = 0; i < 3000; i++)
        jobs[i].request = r;
    struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = f->now, .u.submit = {.jobs = jobs, .n_jobs = 3000}};
    assert_int_equal(rf_store_run(f->s, &op, NULL), RF_OK);
    farm_tick(f, 1000);
    RF_AUTO(rf_job_destroy) struct rf_job *near = farm_job(f, jobs[999].id), *far = farm_job(f, jobs[2999].id);
    assert_near((double)(near->expected_end_ms - f->now), 1000 * 21000.0, 0.01);
    assert_near((double)(far->expected_end_ms - f->now), 3000 * 21000.0, 0.01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_measured_is_nothing_known),
        cmocka_unit_test(curve_is_found_behind_noise),
        cmocka_unit_test(outliers_do_not_move_the_curve),
        cmocka_unit_test(one_measurement_follows_the_cost_law),
        cmocka_unit_test(two_lengths_outweigh_the_law),
        cmocka_unit_test(curve_never_bends_down),
        cmocka_unit_test(error_covers_four_of_five),
        cmocka_unit_test(new_lengths_push_out_the_least_seen),
        cmocka_unit_test(guidance_doubles_the_passes_of_its_expert),
        cmocka_unit_test(few_steps_tell_what_many_take),
        cmocka_unit_test(jobs_follow_one_another_on_one_worker),
        cmocka_unit_test(two_workers_share_and_users_take_turns),
        cmocka_unit_test(users_take_turns_again_and_again),
        cmocka_unit_test(front_of_the_queue_has_room_for_every_user),
        cmocka_unit_test(what_runs_ends_first_and_its_worker_goes_on),
        cmocka_unit_test(paused_queue_starts_nothing),
        cmocka_unit_test(too_long_segments_wait_for_ever),
        cmocka_unit_test(errors_of_a_whole_queue_cover_four_of_five),
        cmocka_unit_test(first_job_has_no_times_the_second_has),
        cmocka_unit_test(running_jobs_end_follows_what_its_worker_tells),
        cmocka_unit_test(what_nobody_can_run_or_is_held_has_no_times),
        cmocka_unit_test(restarted_server_knows_what_was_measured),
        cmocka_unit_test(plan_is_told_when_it_would_end),
        cmocka_unit_test(jobs_far_behind_go_on_at_the_rate_of_the_front),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
