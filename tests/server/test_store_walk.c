/* Random walks: events in any order against the real store, beside a model of a few lines that knows only the promises.
 * A seed repeats a walk: test_store_walk [SEED [STEPS]]. SPDX-License-Identifier: Apache-2.0 */
#include "tests/server/store_helpers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_JOBS 24
#define N_WORKERS 4

static uint64_t seed = 1;
static int n_steps = 600;
static int n_moved; /* in all walks: one alone may never find two that wait */

/* What an outsider knows of a job. */
struct model_job {
    char id[RF_JOB_ID_SIZE];
    int user;
    int n_tasks, n_done;          /* segments and assembly that were answered as complete */
    bool begun;                   /* a lease has been handed out since it was last queued */
    bool ended, deleted;
    enum rf_job_state end;
    int64_t lease;                /* the newest that was handed out; 0: handed back, failed or ended */
    int index, worker;            /* … for this task, to this one */
    int n_starts;                 /* of the server since its holder was last heard */
    int64_t deadline;
};

struct hand {                     /* what a worker believes to hold, right or wrong */
    struct rf_wire_lease lease;
    bool full;
    int job;
};

struct walk {
    struct farm *f;
    struct model_job jobs[MAX_JOBS];
    int n_jobs;
    char workers[N_WORKERS][RF_WORKER_ID_SIZE];
    int64_t pids[N_WORKERS], last_pid;
    struct hand hands[3 * N_WORKERS]; /* old leases are kept around to be tried again */
    int64_t last_lease;
    uint64_t random;
    int n_completed, n_expired, n_refused, n_lost;
};

static uint32_t roll(struct walk *w, uint32_t n)
{
    w->random = w->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(w->random >> 33) % n;
}

static int find_job(struct walk *w, const char *id)
{
    for (int i = 0; i < w->n_jobs; i++)
        if (strcmp(w->jobs[i].id, id) == 0)
            return i;
    fail_msg("a lease for a job nobody submitted: %s", id);
    return -1;
}

static void submit(struct walk *w)
{
    static const int lengths[] = {5, 81, 161};
    static const char *const users[] = {"", "ann", "ben"};
    int length = lengths[roll(w, 3)];
    if (w->n_jobs == MAX_JOBS)
        return;
    struct model_job *job = &w->jobs[w->n_jobs++];
    *job = (struct model_job){.n_tasks = length == 161 ? 3 : 2, .user = (int)roll(w, 3)};
    strcpy(job->id, farm_submit(w->f, users[job->user], length, (int)roll(w, 3) - 1));
}

/* Promises 2 to 4 at the moment of handing out: the number is new, the task is the next undone one, nobody else has a live
 * lease on it, and the job has not ended. */
static void claim(struct walk *w)
{
    struct hand *hand = &w->hands[roll(w, RF_COUNT_OF(w->hands))];
    struct rf_wire_lease lease = {0};
    int worker = (int)roll(w, N_WORKERS);
    if (farm_try_claim(w->f, w->workers[worker], &lease) != RF_OK)
        return;
    struct model_job *job = &w->jobs[find_job(w, lease.job_id)];
    assert_true(lease.lease > w->last_lease);
    w->last_lease = lease.lease;
    assert_false(job->ended);
    assert_int_equal(lease.index, job->n_done);
    assert_int_equal(job->lease, 0);
    job->lease = lease.lease;
    job->index = lease.index;
    job->worker = worker;
    job->n_starts = 0;
    job->begun = true;
    job->deadline = w->f->now + 30000;
    rf_wire_lease_finish(&hand->lease);
    *hand = (struct hand){lease, true, find_job(w, lease.job_id)};
}

static bool is_current(const struct walk *w, const struct hand *hand)
{
    const struct model_job *job = &w->jobs[hand->job];
    return !job->ended && job->lease == hand->lease.lease;
}

static void learn_end(struct walk *w, struct model_job *job)
{
    if (job->deleted)
        return;
    enum rf_job_state state = farm_state(w->f, job->id);
    if (state >= RF_JOB_COMPLETED) {
        assert_true(!job->ended || job->end == state); /* once ended, it stays what it is */
        assert_true(state != RF_JOB_COMPLETED || job->n_done == job->n_tasks);
        job->ended = true;
        job->end = state;
    } else {
        assert_false(job->ended);
    }
}

static void report(struct walk *w, uint32_t what)
{
    struct hand *hand = &w->hands[roll(w, RF_COUNT_OF(w->hands))];
    if (!hand->full)
        return;
    struct model_job *job = &w->jobs[hand->job];
    bool current = is_current(w, hand), cancel = false;
    enum rf_code rc = RF_OK;
    if (what == 0) {
        rc = farm_heartbeat(w->f, &hand->lease, &cancel);
        if (current) {
            assert_int_equal(rc, RF_OK);
            assert_false(cancel);
            job->n_starts = 0;
            job->deadline = w->f->now + 30000;
        } else {
            assert_true(rc == RF_ERR_CONFLICT || cancel);
        }
        return;
    }
    if (current && what == 1)
        farm_put_outputs(w->f, &hand->lease);
    static const char *const codes[] = {"io", "no_memory", "device", "format"};
    rc = what == 1 ? farm_complete(w->f, &hand->lease) : what == 2 ? farm_fail(w->f, &hand->lease, codes[roll(w, 4)], true)
                                                                  : farm_release(w->f, &hand->lease);
    if (current) {
        assert_int_equal(rc, RF_OK);
        job->lease = 0;
        job->n_done += what == 1;
        w->n_completed += what == 1 && job->n_done == job->n_tasks;
    } else {
        w->n_refused += rc == RF_ERR_CONFLICT; /* or RF_OK, when it is the very report that ended the lease */
    }
    learn_end(w, job);
    if (current && what == 1 && job->n_done == job->n_tasks)
        assert_int_equal(job->end, RF_JOB_COMPLETED);
}

static void pass_time(struct walk *w)
{
    static const int64_t steps[] = {1, 1500, 2500, 4000, 7000, 31000};
    farm_tick(w->f, steps[roll(w, 6)]);
    for (int i = 0; i < w->n_jobs; i++) {
        struct model_job *job = &w->jobs[i];
        if (!job->ended && job->lease != 0 && w->f->now >= job->deadline) {
            job->lease = 0;
            w->n_expired++;
        }
        learn_end(w, job);
    }
}

static void restart(struct walk *w)
{
    farm_reopen(w->f);
    for (int i = 0; i < w->n_jobs; i++) {
        struct model_job *job = &w->jobs[i];
        if (job->lease != 0) /* the whole time again, but half as long each time that its holder was not heard between */
            job->deadline = w->f->now + (30000 >> job->n_starts++);
        learn_end(w, job);
    }
}

static void steer(struct walk *w, uint32_t what)
{
    if (w->n_jobs == 0)
        return;
    struct model_job *job = &w->jobs[roll(w, (uint32_t)w->n_jobs)];
    enum rf_code expected = RF_OK, rc = RF_OK;
    if (what == 0) {
        expected = job->deleted ? RF_ERR_NOT_FOUND : job->ended && job->end != RF_JOB_CANCELLED ? RF_ERR_CONFLICT : RF_OK;
        rc = rf_store_cancel(w->f->s, job->id, w->f->now, NULL);
        job->lease = rc == RF_OK ? 0 : job->lease;
    } else if (what == 1) {
        expected = job->deleted ? RF_ERR_NOT_FOUND : RF_OK;
        rc = rf_store_delete(w->f->s, job->id, w->f->now, NULL);
        job->deleted = job->ended = true;
    } else if (what == 2) {
        bool can = job->ended && !job->deleted && job->end != RF_JOB_COMPLETED;
        expected = job->deleted ? RF_ERR_NOT_FOUND : can ? RF_OK : RF_ERR_CONFLICT;
        rc = rf_store_retry(w->f->s, job->id, w->f->now, NULL);
        if (can) {
            RF_AUTO(rf_job_destroy) struct rf_job *now = farm_job(w->f, job->id);
            job->ended = job->begun = false;
            job->lease = 0;
            if (now->tasks[0].state != RF_TASK_DONE) /* its weights are gone: it starts over */
                job->n_done = 0;
        }
    } else {
        expected = job->deleted ? RF_ERR_NOT_FOUND : job->ended ? RF_ERR_CONFLICT : RF_OK;
        rc = rf_store_set_priority(w->f->s, job->id, (int)roll(w, 5) - 2, w->f->now, NULL);
    }
    assert_int_equal(rc, expected);
    learn_end(w, job);
    assert_true(what != 0 || rc != RF_OK || job->end == RF_JOB_CANCELLED);
}

static enum rf_code movable(const struct model_job *job)
{
    return job->deleted ? RF_ERR_NOT_FOUND : job->ended || job->begun ? RF_ERR_CONFLICT : RF_OK;
}

/* A job to be moved, or beside which: mostly one that can be (few wait at a time), of this user (-1: any). */
static const struct model_job *pick(struct walk *w, int user)
{
    uint32_t n = (uint32_t)w->n_jobs, at = roll(w, n);
    bool any = roll(w, 4) == 0;
    for (uint32_t i = 0; i < n && !any; i++) {
        const struct model_job *job = &w->jobs[(at + i) % n];
        if (movable(job) == RF_OK && (user < 0 || job->user == user))
            return job;
    }
    return &w->jobs[at];
}

/* Only waiting jobs of one user have an order among themselves; in it, the one stands where it was put. */
static void move(struct walk *w)
{
    if (w->n_jobs == 0)
        return;
    const struct model_job *job = pick(w, -1), *beside = pick(w, job->user);
    bool after = roll(w, 2);
    enum rf_code expected = movable(job) != RF_OK ? movable(job) : movable(beside);
    if (expected == RF_OK)
        expected = job == beside ? RF_ERR_INVALID : job->user != beside->user ? RF_ERR_CONFLICT : RF_OK;
    assert_int_equal(rf_store_move(w->f->s, job->id, beside->id, after, w->f->now, NULL), expected);
    if (expected != RF_OK)
        return;
    RF_AUTO(rf_job_destroy) struct rf_job *moved = farm_job(w->f, job->id), *other = farm_job(w->f, beside->id);
    assert_true(after ? moved->queue_position > other->queue_position : moved->queue_position < other->queue_position);
    assert_int_equal(moved->priority, other->priority);
    n_moved++;
}

static void register_worker(struct walk *w, int i)
{
    char name[16];
    snprintf(name, sizeof name, "w%d", i);
    w->pids[i] = ++w->last_pid;
    /* two kinds of weights, so that settling is walked through as well */
    strcpy(w->workers[i], farm_worker_process(w->f, name, "ab"[i % 2], w->pids[i]));
}

/* What it held is free at once, and what others hold is not; somebody of its name takes its place. */
static void die(struct walk *w)
{
    int i = (int)roll(w, N_WORKERS);
    char name[16];
    snprintf(name, sizeof name, "w%d", i);
    struct rf_op died = {.kind = RF_OP_DIED, .now_ms = w->f->now,
                         .u.died = {.name = name, .host = "here", .how = "signal 9", .pid = w->pids[i]}};
    struct rf_store_counts counts;
    assert_int_equal(rf_store_run(w->f->s, &died, NULL), RF_OK);
    int n_held = 0;
    for (int k = 0; k < w->n_jobs; k++) {
        struct model_job *job = &w->jobs[k];
        if (!job->ended && job->lease != 0 && job->worker == i) {
            job->lease = 0;
            w->n_lost++;
        }
        learn_end(w, job);
        n_held += !job->ended && job->lease != 0;
    }
    rf_store_counts(w->f->s, &counts);
    assert_int_equal(counts.leased, n_held);
    register_worker(w, i);
}

/* Whatever happened: with a healthy worker of each kind (a job begun with some weights waits for them) and time, every job
 * ends. */
static void nothing_is_stuck(struct walk *w)
{
    const char *healthy[] = {farm_worker(w->f, "healthy-a", 'a'), farm_worker(w->f, "healthy-b", 'b')};
    for (int idle = 0; idle < 200;) {
        struct rf_wire_lease lease = {0};
        if (farm_try_claim(w->f, healthy[0], &lease) != RF_OK && farm_try_claim(w->f, healthy[1], &lease) != RF_OK) {
            farm_tick(w->f, 5000);
            idle++;
            continue;
        }
        farm_put_outputs(w->f, &lease);
        assert_int_equal(farm_complete(w->f, &lease), RF_OK);
        rf_wire_lease_finish(&lease);
    }
    struct rf_store_counts counts;
    rf_store_counts(w->f->s, &counts);
    assert_int_equal(counts.jobs[RF_JOB_QUEUED], 0);
    assert_int_equal(counts.jobs[RF_JOB_IN_PROGRESS], 0);
    assert_int_equal(counts.leased, 0);
    int64_t ended = 0, n_there = 0;
    for (int i = 0; i < w->n_jobs; i++)
        n_there += !w->jobs[i].deleted;
    for (int i = RF_JOB_COMPLETED; i < RF_JOB_STATE_COUNT; i++)
        ended += counts.jobs[i];
    assert_int_equal(ended, n_there);
    assert_int_equal(rf_store_check(w->f->s, NULL), RF_OK);
}

static void every_order_of_events_keeps_the_promises(void **state)
{
    struct walk *w = rf_new(struct walk);
    w->random = seed;
    w->f = farm_create();
    for (int i = 0; i < N_WORKERS; i++)
        register_worker(w, i);
    for (int i = 0; i < MAX_JOBS / 2; i++) /* more than the workers soon get to, so that some wait and can be moved */
        submit(w);
    int n_restarts = 0;
    for (int i = 0; i < n_steps; i++) {
        uint32_t what = roll(w, 100);
        if (what < 8)
            submit(w);
        else if (what < 38)
            claim(w);
        else if (what < 78)
            report(w, roll(w, 8) < 4 ? 1 : roll(w, 3) == 0 ? 2 : roll(w, 2) * 3);
        else if (what < 85)
            pass_time(w);
        else if (what < 87)
            die(w);
        else if (what < 91)
            for (int k = 0; k < 6; k++) /* few of them find two that wait */
                move(w);
        else if (what < 97)
            steer(w, roll(w, 12) == 0 ? 1 : roll(w, 3) == 0 ? 2 : roll(w, 2) ? 3 : roll(w, 4) ? 3 : 0);
        else if (what < 98)
            restart(w), n_restarts++;
        else if (w->n_jobs == MAX_JOBS) /* begin anew: forget the ended ones */
            for (int k = 0; k < w->n_jobs; k++)
                if (w->jobs[k].ended) {
                    struct model_job last = w->jobs[w->n_jobs - 1];
                    for (size_t h = 0; h < RF_COUNT_OF(w->hands); h++)
                        if (w->hands[h].full && (w->hands[h].job == k || w->hands[h].job == w->n_jobs - 1)) {
                            rf_wire_lease_finish(&w->hands[h].lease);
                            w->hands[h].full = false;
                            /* a live lease that its worker forgot: it will expire, which is walked as well */
                        }
                    if (!w->jobs[k].deleted)
                        assert_int_equal(rf_store_delete(w->f->s, w->jobs[k].id, w->f->now, NULL), RF_OK);
                    w->jobs[k--] = last;
                    w->n_jobs--;
                }
    }
    nothing_is_stuck(w);
    print_message("seed %llu: %d steps, %d jobs completed, %d leases expired, %d lost with their worker, %d stale "
                  "calls refused, %d moves in all, %d restarts\n", (unsigned long long)seed, n_steps, w->n_completed,
                  w->n_expired, w->n_lost, w->n_refused, n_moved, n_restarts);
    assert_true(w->n_completed > 0 && w->n_expired > 0 && w->n_refused > 0 && w->n_lost > 0); /* it went somewhere */
    for (size_t h = 0; h < RF_COUNT_OF(w->hands); h++)
        rf_wire_lease_finish(&w->hands[h].lease);
    farm_destroy(&w->f);
    free(w);
    seed++;
}

static void the_walks_moved_jobs(void **state)
{
    assert_true(n_moved > 0);
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    n_steps = argc > 2 ? atoi(argv[2]) : n_steps;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order_of_events_keeps_the_promises),
        cmocka_unit_test(every_order_of_events_keeps_the_promises),
        cmocka_unit_test(every_order_of_events_keeps_the_promises),
        cmocka_unit_test(the_walks_moved_jobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
