/* The life of a job, transition by transition, as schema/api.md draws it. SPDX-License-Identifier: Apache-2.0 */
#include "tests/server/store_helpers.h"

#include <math.h>
#include <string.h>

#define FARM RF_AUTO(farm_destroy) struct farm *f = farm_create()
#define LEASE RF_AUTO(rf_wire_lease_finish) struct rf_wire_lease

static void submitted_job_is_queued_with_its_request(void **state)
{
    FARM;
    const char *id = farm_submit(f, "ann", 161, 3);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_string_equal(job->id, id);
    assert_int_equal(job->state, RF_JOB_QUEUED);
    assert_string_equal(job->request->prompt, "a red circle");
    assert_string_equal(job->request->user, "ann");
    assert_int_equal(job->request->seed, 42 >> 11);
    assert_int_equal(job->priority, 3);
    assert_int_equal(job->created_ms, f->now);
    assert_int_equal(job->n_tasks, 3);
    assert_int_equal(job->tasks[0].state, RF_TASK_READY);
    assert_int_equal(job->tasks[2].state, RF_TASK_BLOCKED);
    assert_int_equal(job->queue_position, 1);
    assert_true(job->nobody_can_run);
    assert_int_equal(f->n_events[RF_EVENT_JOB_CREATED], 1);
}

static void chain_of_tasks_runs_to_completion(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 161, 0), *w = farm_worker(f, "w", 'a');
    LEASE first = farm_claim(f, w);
    assert_int_equal(first.kind, RF_TASK_SEGMENT);
    assert_int_equal(first.n_segments, 2);
    assert_int_equal(first.n_frames, 81);
    assert_int_equal(first.n_frames_out, 161);
    assert_string_equal(first.start_image, "");
    assert_non_null(strstr(first.request_text, "\"num_frames\":161"));
    assert_int_equal(farm_state(f, id), RF_JOB_IN_PROGRESS);
    LEASE none = {0};
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND); /* the second is blocked */
    farm_put_outputs(f, &first);
    assert_int_equal(farm_complete(f, &first), RF_OK);
    LEASE second = farm_claim(f, w);
    assert_true(second.lease > first.lease);
    assert_int_equal(second.first_frame, 80);
    assert_string_equal(second.start_image, "last-0.png");
    farm_put_outputs(f, &second);
    assert_int_equal(farm_complete(f, &second), RF_OK);
    LEASE third = farm_claim(f, w);
    assert_int_equal(third.kind, RF_TASK_ASSEMBLE);
    assert_int_equal(third.n_frames_out, 322);
    farm_put_outputs(f, &third);
    f->now += 5;
    assert_int_equal(farm_complete(f, &third), RF_OK);

    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->state, RF_JOB_COMPLETED);
    assert_int_equal(job->finished_ms, f->now);
    assert_int_equal(job->result.width, 64);
    assert_true(isnan(job->result.colour_shift));
    assert_int_equal(job->n_attempts, 3);
    assert_string_equal(job->attempts[0].notes_text, "[\"a note\"]");
    assert_non_null(strstr(job->made_with_text, "\"worker\":\"w\""));
    assert_true(job->progress > 0.999);
    assert_int_equal(job->n_files, 2); /* the segments' files went with the end */
    assert_string_equal(job->stages[0].stage, "queue");
    assert_string_equal(job->stages[1].stage, "high_noise");
    assert_true(fabs(job->stages[1].seconds - 6) < 1e-9);
    assert_int_equal(f->n_events[RF_EVENT_JOB_FINISHED], 1);
}

static void completing_twice_with_the_same_lease_is_answered_the_same(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "w", 0));
    farm_put_outputs(f, &lease);
    assert_int_equal(farm_complete(f, &lease), RF_OK);
    assert_int_equal(farm_complete(f, &lease), RF_OK);
    assert_int_equal(farm_fail(f, &lease, "io", true), RF_ERR_CONFLICT); /* but it cannot change its mind */
}

static void complete_without_the_files_is_refused_and_can_be_repaired(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 161, 0), *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    LEASE dead = farm_claim(f, w);
    farm_put_outputs(f, &dead);
    farm_tick(f, 40000);
    farm_tick(f, 40000);
    LEASE lease = farm_claim(f, v);
    assert_int_equal(farm_complete(f, &lease), RF_ERR_INVALID); /* the dead one's files do not count */
    assert_int_equal(farm_state(f, id), RF_JOB_IN_PROGRESS);
    farm_put_outputs(f, &lease);
    assert_int_equal(farm_complete(f, &lease), RF_OK);
}

static void late_worker_cannot_change_anything(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0), *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    LEASE old = farm_claim(f, w);
    farm_tick(f, 30000);               /* exactly the deadline */
    farm_tick(f, 2000);                /* the backoff */
    LEASE fresh = farm_claim(f, v);
    assert_true(fresh.lease > old.lease);
    assert_int_equal(fresh.attempt, 2);
    struct rf_file file = {.name = "segment-0.mp4", .disk_name = "0000000000000-segment-0.mp4"};
    assert_int_equal(rf_store_put_file(f->s, old.task_id, old.lease, &file, f->now, NULL), RF_ERR_CONFLICT);
    assert_int_equal(farm_heartbeat(f, &old, NULL), RF_ERR_CONFLICT);
    assert_int_equal(farm_complete(f, &old), RF_ERR_CONFLICT);
    assert_int_equal(farm_fail(f, &old, "io", true), RF_ERR_CONFLICT);
    assert_int_equal(farm_release(f, &old), RF_ERR_CONFLICT);
    farm_put_outputs(f, &fresh);
    struct rf_wire_lease elsewhere = fresh; /* the right number, but of another task */
    elsewhere.task_id[strlen(elsewhere.task_id) - 1] = '1';
    assert_int_equal(farm_complete(f, &elsewhere), RF_ERR_CONFLICT);
    assert_int_equal(farm_complete(f, &fresh), RF_OK);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->n_attempts, 2);
    assert_int_equal(job->attempts[0].outcome, RF_OUTCOME_EXPIRED);
    assert_string_equal(job->attempts[0].worker, "w");
    assert_string_equal(job->attempts[1].worker, "v");
}

static void lease_lives_until_its_last_millisecond_and_heartbeats_extend_it(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "w", 0));
    farm_tick(f, 29999);
    bool cancel = true;
    assert_int_equal(farm_heartbeat(f, &lease, &cancel), RF_OK);
    assert_false(cancel);
    farm_tick(f, 29999);
    farm_put_outputs(f, &lease);
    farm_tick(f, 1);
    assert_int_equal(farm_complete(f, &lease), RF_ERR_CONFLICT);
}

static void heartbeat_shows_as_progress(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 81, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "w", 0));
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_OK);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->tasks[0].state, RF_TASK_LEASED);
    assert_string_equal(job->tasks[0].stage, "low_noise");
    assert_string_equal(job->tasks[0].worker, "w");
    assert_int_equal(job->tasks[0].step, 1);
    assert_true(fabs(job->progress - 0.49) < 1e-9);
}

static void attempts_are_capped(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0), *w = farm_worker(f, "w", 0);
    for (int i = 1; i <= 3; i++) {
        LEASE lease = farm_claim(f, w);
        assert_int_equal(lease.attempt, i);
        assert_int_equal(farm_fail(f, &lease, "device", true), RF_OK);
        farm_tick(f, 60000);
    }
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->state, RF_JOB_FAILED);
    assert_string_equal(job->error_code, "device");
    assert_string_equal(job->error_message, "segment 0 failed 3 times, the last time on worker w: it broke");
    assert_int_equal(job->tasks[0].state, RF_TASK_FAILED);
    LEASE none = {0};
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
}

static void job_that_kills_its_workers_stops(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0);
    const char *w[] = {farm_worker(f, "w", 0), farm_worker(f, "v", 0), farm_worker(f, "u", 0)};
    for (int i = 0; i < 3; i++) {
        LEASE lease = farm_claim(f, w[i]);
        assert_int_equal(lease.attempt, i + 1);
        farm_tick(f, 31000);
        farm_tick(f, 31000);
    }
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->state, RF_JOB_FAILED);
    assert_string_equal(job->error_code, "worker_lost");
}

static void failure_that_cannot_be_retried_ends_the_job_at_once(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0), *other = farm_submit(f, "", 5, 0), *w = farm_worker(f, "w", 0);
    LEASE lease = farm_claim(f, w);
    assert_int_equal(farm_fail(f, &lease, "format", true), RF_OK); /* the code says no, whatever the flag says */
    assert_int_equal(farm_state(f, id), RF_JOB_FAILED);
    LEASE second = farm_claim(f, w);
    assert_int_equal(farm_fail(f, &second, "io", false), RF_OK);
    assert_int_equal(farm_state(f, other), RF_JOB_FAILED);
}

static void failed_task_waits_out_a_growing_backoff(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "w", 0);
    for (int64_t wait = 2000; wait <= 4000; wait *= 2) {
        LEASE lease = farm_claim(f, w), none = {0};
        int64_t next = 0;
        assert_int_equal(farm_fail(f, &lease, "io", true), RF_OK);
        assert_int_equal(rf_store_tick(f->s, f->now, &next, NULL), RF_OK);
        assert_int_equal(next, f->now + wait);
        f->now += wait - 1;
        assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
        f->now += 1;
    }
}

static void retry_goes_to_another_worker_while_there_is_one(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    LEASE lease = farm_claim(f, w), none = {0};
    assert_int_equal(farm_fail(f, &lease, "io", true), RF_OK);
    farm_tick(f, 2000);
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
    struct rf_op leave = {.kind = RF_OP_LEAVE, .now_ms = f->now, .u.worker.id = v};
    assert_int_equal(rf_store_run(f->s, &leave, NULL), RF_OK);
    LEASE again = farm_claim(f, w); /* now it is the only one */
    assert_int_equal(again.attempt, 2);
}

static void out_of_memory_is_tried_smaller_then_elsewhere_then_fails(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0), *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    LEASE first = farm_claim(f, w);
    assert_false(first.small_memory);
    assert_int_equal(farm_fail(f, &first, "no_memory", true), RF_OK);
    LEASE second = farm_claim(f, w); /* at once, by anybody */
    assert_true(second.small_memory);
    assert_int_equal(farm_fail(f, &second, "no_memory", true), RF_OK);
    farm_tick(f, 10000);
    LEASE none = {0};
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
    LEASE third = farm_claim(f, v);
    assert_true(third.small_memory);
    assert_int_equal(farm_fail(f, &third, "no_memory", true), RF_OK);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->state, RF_JOB_FAILED);
    assert_string_equal(job->error_code, "no_memory");
}

static void a_dead_process_frees_its_lease_at_once_and_only_its_own(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0), *other = farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    LEASE lease = farm_claim(f, w), kept = farm_claim(f, v), late = {0};
    assert_string_equal(lease.job_id, id);
    struct rf_op died = {.kind = RF_OP_DIED, .now_ms = f->now,
                         .u.died = {.name = "w", .host = "elsewhere", .how = "signal 9"}};
    assert_int_equal(rf_store_run(f->s, &died, NULL), RF_OK);
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_OK); /* another host's process of that name */
    died.u.died.host = "here";
    assert_int_equal(rf_store_run(f->s, &died, NULL), RF_OK);
    assert_int_equal(farm_heartbeat(f, &lease, NULL), RF_ERR_CONFLICT);
    assert_int_equal(farm_heartbeat(f, &kept, NULL), RF_OK);
    assert_int_equal(farm_try_claim(f, w, &late), RF_ERR_CONFLICT); /* gone for good: it would have to register */
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->n_attempts, 1);
    assert_int_equal(job->attempts[0].outcome, RF_OUTCOME_EXPIRED);
    assert_string_equal(job->attempts[0].code, "worker_lost");
    assert_non_null(strstr(job->attempts[0].message, "signal 9"));
    assert_int_equal(farm_complete(f, &kept), RF_ERR_INVALID);
    assert_int_equal(farm_release(f, &kept), RF_OK);
    farm_tick(f, 2000);
    LEASE again = farm_claim(f, v);
    assert_true(strcmp(again.job_id, id) == 0 || strcmp(again.job_id, other) == 0);
}

static void a_lease_of_whom_nothing_is_heard_ends_however_often_the_server_restarts(void **state)
{
    FARM;
    const char *silent = farm_submit(f, "", 5, 0), *alive = farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    LEASE lost = farm_claim(f, w), beating = farm_claim(f, v);
    int64_t heard_of_ms = f->now;
    bool over = false;
    for (int starts = 0; starts < 12 && !over; starts++) {
        farm_reopen(f);
        assert_int_equal(farm_heartbeat(f, &beating, NULL), RF_OK);
        farm_tick(f, 8000);
        RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, silent);
        over = job->n_attempts == 1;
    }
    assert_true(over);
    assert_true(f->now - heard_of_ms <= 60000);
    assert_int_equal(farm_heartbeat(f, &lost, NULL), RF_ERR_CONFLICT);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, alive);
    assert_int_equal(job->n_attempts, 0);
    assert_int_equal(farm_heartbeat(f, &beating, NULL), RF_OK);
}

static void released_task_is_ready_again_and_not_counted(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "w", 0);
    for (int i = 0; i < 5; i++) {
        LEASE lease = farm_claim(f, w);
        assert_int_equal(lease.attempt, 1);
        assert_int_equal(farm_release(f, &lease), RF_OK);
        assert_int_equal(farm_release(f, &lease), RF_OK); /* a lost answer, repeated */
    }
}

static void leaving_worker_gives_back_what_it_held(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    LEASE lease = farm_claim(f, w);
    assert_int_equal(lease.attempt, 1);
    struct rf_op leave = {.kind = RF_OP_LEAVE, .now_ms = f->now, .u.worker.id = w};
    assert_int_equal(rf_store_run(f->s, &leave, NULL), RF_OK);
    LEASE next = farm_claim(f, v), none = {0};
    assert_int_equal(next.attempt, 1);
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_CONFLICT); /* who left must register again */
}

static void cancel_of_a_queued_job_leaves_nothing_to_do(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0), *w = farm_worker(f, "w", 0);
    assert_int_equal(rf_store_cancel(f->s, id, f->now, NULL), RF_OK);
    assert_int_equal(rf_store_cancel(f->s, id, f->now, NULL), RF_OK);
    LEASE none = {0};
    assert_int_equal(farm_try_claim(f, w, &none), RF_ERR_NOT_FOUND);
    RF_AUTO(rf_job_destroy) struct rf_job *job = farm_job(f, id);
    assert_int_equal(job->state, RF_JOB_CANCELLED);
    assert_string_equal(job->error_code, "cancelled");
    assert_int_equal(job->tasks[0].state, RF_TASK_CANCELLED);
}

static void cancel_reaches_the_worker_by_its_heartbeat_and_touches_nothing_else(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0), *other = farm_submit(f, "", 5, 0);
    const char *w = farm_worker(f, "w", 0), *v = farm_worker(f, "v", 0);
    LEASE lease = farm_claim(f, w), spared = farm_claim(f, v);
    assert_int_equal(rf_store_cancel(f->s, id, f->now, NULL), RF_OK);
    bool cancel = false;
    assert_int_equal(farm_heartbeat(f, &lease, &cancel), RF_OK);
    assert_true(cancel);
    assert_int_equal(farm_complete(f, &lease), RF_ERR_CONFLICT);
    assert_int_equal(farm_heartbeat(f, &spared, &cancel), RF_OK);
    assert_false(cancel);
    assert_int_equal(farm_state(f, other), RF_JOB_IN_PROGRESS);
}

static void cancel_after_the_end_is_too_late(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0);
    farm_finish_job(f, farm_worker(f, "w", 0));
    assert_int_equal(rf_store_cancel(f->s, id, f->now, NULL), RF_ERR_CONFLICT);
    assert_int_equal(farm_state(f, id), RF_JOB_COMPLETED);
}

static void deleted_job_is_gone_and_its_worker_told_to_stop(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 161, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "w", 0));
    farm_put_outputs(f, &lease);
    assert_int_equal(rf_store_delete(f->s, id, f->now, NULL), RF_OK);
    struct rf_job *job = NULL;
    assert_int_equal(rf_store_get(f->s, id, 0, &job, NULL), RF_ERR_NOT_FOUND);
    assert_int_equal(rf_store_delete(f->s, id, f->now, NULL), RF_ERR_NOT_FOUND);
    bool cancel = false;
    assert_int_equal(farm_heartbeat(f, &lease, &cancel), RF_OK);
    assert_true(cancel);
    struct rf_gone_file *gone = NULL;
    int n = 0;
    assert_int_equal(rf_store_gone_files(f->s, 10, &gone, &n, NULL), RF_OK);
    assert_int_equal(n, 2);
    assert_string_equal(gone[0].job_id, id);
    free(gone);
    struct rf_store_counts counts;
    rf_store_counts(f->s, &counts);
    assert_int_equal(counts.jobs[RF_JOB_QUEUED] + counts.jobs[RF_JOB_IN_PROGRESS], 0);
}

static void retried_job_goes_on_from_its_last_good_segment(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 161, 0), *w = farm_worker(f, "w", 0);
    assert_int_equal(rf_store_retry(f->s, id, f->now, NULL), RF_ERR_CONFLICT);
    LEASE first = farm_claim(f, w);
    farm_put_outputs(f, &first);
    assert_int_equal(farm_complete(f, &first), RF_OK);
    LEASE second = farm_claim(f, w);
    assert_int_equal(farm_fail(f, &second, "invalid", true), RF_OK);
    assert_int_equal(farm_state(f, id), RF_JOB_FAILED);
    assert_int_equal(rf_store_retry(f->s, id, f->now, NULL), RF_OK);
    assert_int_equal(farm_state(f, id), RF_JOB_QUEUED);
    LEASE again = farm_claim(f, w);
    assert_int_equal(again.index, 1);
    assert_int_equal(again.attempt, 1);
    farm_put_outputs(f, &again);
    assert_int_equal(farm_complete(f, &again), RF_OK);
    farm_finish_job(f, w);
    assert_int_equal(farm_state(f, id), RF_JOB_COMPLETED);
    assert_int_equal(rf_store_retry(f->s, id, f->now, NULL), RF_ERR_CONFLICT);
}

static void retried_job_starts_over_when_its_weights_are_gone(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 161, 0), *w = farm_worker(f, "w", 'a');
    LEASE first = farm_claim(f, w);
    farm_put_outputs(f, &first);
    assert_int_equal(farm_complete(f, &first), RF_OK);
    struct rf_op leave = {.kind = RF_OP_LEAVE, .now_ms = f->now, .u.worker.id = w};
    assert_int_equal(rf_store_run(f->s, &leave, NULL), RF_OK);
    const char *v = farm_worker(f, "v", 'b');
    assert_int_equal(rf_store_cancel(f->s, id, f->now, NULL), RF_OK);
    assert_int_equal(rf_store_retry(f->s, id, f->now, NULL), RF_OK);
    LEASE again = farm_claim(f, v);
    assert_int_equal(again.index, 0);
    farm_put_outputs(f, &again);
    assert_int_equal(farm_complete(f, &again), RF_OK);
    farm_finish_job(f, v);
    assert_int_equal(farm_state(f, id), RF_JOB_COMPLETED);
}

static void retried_job_with_only_its_joining_left_waits_for_any_worker(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 161, 0), *w = farm_worker(f, "w", 'a');
    for (int i = 0; i < 2; i++) {
        LEASE segment = farm_claim(f, w);
        farm_put_outputs(f, &segment);
        assert_int_equal(farm_complete(f, &segment), RF_OK);
    }
    struct rf_op leave = {.kind = RF_OP_LEAVE, .now_ms = f->now, .u.worker.id = w};
    assert_int_equal(rf_store_run(f->s, &leave, NULL), RF_OK);
    assert_int_equal(rf_store_cancel(f->s, id, f->now, NULL), RF_OK);
    assert_int_equal(rf_store_retry(f->s, id, f->now, NULL), RF_OK);
    LEASE joining = farm_claim(f, farm_worker(f, "v", 'b'));
    assert_int_equal(joining.kind, RF_TASK_ASSEMBLE);
}

static void file_of_another_task_is_refused(void **state)
{
    FARM;
    farm_submit(f, "", 161, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "w", 0));
    const char *names[] = {"segment-1.mp4", "video.mp4", "input"};
    for (size_t i = 0; i < RF_COUNT_OF(names); i++) {
        struct rf_file file = {.disk_name = "x"};
        strcpy(file.name, names[i]);
        assert_int_equal(rf_store_put_file(f->s, lease.task_id, lease.lease, &file, f->now, NULL), RF_ERR_INVALID);
    }
}

static void put_again_replaces_the_file(void **state)
{
    FARM;
    const char *id = farm_submit(f, "", 5, 0);
    LEASE lease = farm_claim(f, farm_worker(f, "w", 0));
    struct rf_file file = {.name = "preview-0.webp", .disk_name = "1-preview-0.webp", .size_bytes = 1}, got;
    assert_int_equal(rf_store_put_file(f->s, lease.task_id, lease.lease, &file, f->now, NULL), RF_OK);
    strcpy(file.disk_name, "2-preview-0.webp");
    assert_int_equal(rf_store_put_file(f->s, lease.task_id, lease.lease, &file, f->now, NULL), RF_OK);
    assert_int_equal(rf_store_file(f->s, id, "preview-0.webp", &got, NULL), RF_OK);
    assert_string_equal(got.disk_name, "2-preview-0.webp");
    assert_int_equal(rf_store_file(f->s, id, "video.mp4", &got, NULL), RF_ERR_NOT_FOUND);
    struct rf_gone_file *gone = NULL;
    int n = 0;
    assert_int_equal(rf_store_gone_files(f->s, 10, &gone, &n, NULL), RF_OK);
    assert_int_equal(n, 1);
    assert_string_equal(gone[0].disk_name, "1-preview-0.webp");
    free(gone);
}

static void unknown_worker_must_register(void **state)
{
    FARM;
    farm_submit(f, "", 5, 0);
    LEASE none = {0};
    assert_int_equal(farm_try_claim(f, "worker_nobody", &none), RF_ERR_CONFLICT);
    struct rf_wire_register reg = {.protocol = RF_PROTOCOL + 1, .name = (char *)"w", .device_kind = (char *)"cpu"};
    char id[RF_WORKER_ID_SIZE];
    assert_int_equal(rf_store_register(f->s, &reg, f->now, id, NULL), RF_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(submitted_job_is_queued_with_its_request),
        cmocka_unit_test(chain_of_tasks_runs_to_completion),
        cmocka_unit_test(completing_twice_with_the_same_lease_is_answered_the_same),
        cmocka_unit_test(complete_without_the_files_is_refused_and_can_be_repaired),
        cmocka_unit_test(late_worker_cannot_change_anything),
        cmocka_unit_test(lease_lives_until_its_last_millisecond_and_heartbeats_extend_it),
        cmocka_unit_test(heartbeat_shows_as_progress),
        cmocka_unit_test(attempts_are_capped),
        cmocka_unit_test(job_that_kills_its_workers_stops),
        cmocka_unit_test(failure_that_cannot_be_retried_ends_the_job_at_once),
        cmocka_unit_test(failed_task_waits_out_a_growing_backoff),
        cmocka_unit_test(retry_goes_to_another_worker_while_there_is_one),
        cmocka_unit_test(out_of_memory_is_tried_smaller_then_elsewhere_then_fails),
        cmocka_unit_test(a_dead_process_frees_its_lease_at_once_and_only_its_own),
        cmocka_unit_test(a_lease_of_whom_nothing_is_heard_ends_however_often_the_server_restarts),
        cmocka_unit_test(released_task_is_ready_again_and_not_counted),
        cmocka_unit_test(leaving_worker_gives_back_what_it_held),
        cmocka_unit_test(cancel_of_a_queued_job_leaves_nothing_to_do),
        cmocka_unit_test(cancel_reaches_the_worker_by_its_heartbeat_and_touches_nothing_else),
        cmocka_unit_test(cancel_after_the_end_is_too_late),
        cmocka_unit_test(deleted_job_is_gone_and_its_worker_told_to_stop),
        cmocka_unit_test(retried_job_goes_on_from_its_last_good_segment),
        cmocka_unit_test(retried_job_starts_over_when_its_weights_are_gone),
        cmocka_unit_test(retried_job_with_only_its_joining_left_waits_for_any_worker),
        cmocka_unit_test(file_of_another_task_is_refused),
        cmocka_unit_test(put_again_replaces_the_file),
        cmocka_unit_test(unknown_worker_must_register),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
