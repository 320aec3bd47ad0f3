/* Every order of events, not some: one job of two segments, a second that it is moved before or behind, two workers
 * whose processes die and are replaced, and all that can happen to them, walked through until no new state is left,
 * with the real store beside a model of this page.
 *
 * A state of the model is what an outsider can know: where the job is, who holds what, what each worker still believes.
 * Each state is reached by one sequence of events; from each, every event is tried by playing the sequence and then the
 * event on the store. The store must answer as the model says and show the state the model is in. In the end every
 * state must have a way to `completed`, unless the job is deleted: nothing is stuck.
 *     test_fault_orders [STATES]   stops after so many states (all)
 * Time is folded away: `silence` is longer than a lease and nobody is heard; `pause` outlasts any backoff while those
 * who hold a lease keep it alive. SPDX-License-Identifier: Apache-2.0 */
#include "tests/server/store_helpers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STATES 60000
#define N_TASKS 3
#define MAX_ATTEMPTS 2           /* a cap of 2 shows all that a cap of 3 shows, with fewer states */
#define SILENCE_MS 31000
#define PAUSE_MS 6000

enum place { READY, RESTING, HELD_BY_A, HELD_BY_B, ENDED };
enum belief { NO_LEASE, CURRENT, DONE, FAILED, EXPIRED, RELEASED, CANCELLED, REPLACED };

/* One byte each, so that states are compared as bytes. */
struct state {
    uint8_t job;                 /* enum rf_job_state; RF_JOB_STATE_COUNT: deleted */
    uint8_t place, task, attempts, n_no_memory;
    uint8_t avoid;               /* 0: nobody, 1: A, 2: B */
    uint8_t belief[2];           /* how the newest lease of each worker ended */
    uint8_t lease_task[2];
    uint8_t full[2];             /* its files were put under it */
    uint8_t gone[2];             /* its process has died, and no new one has registered */
    uint8_t first;               /* it stands before the other job */
};

enum event {
    CLAIM_A, CLAIM_B, BEAT_A, BEAT_B, PUT_A, PUT_B, COMPLETE_A, COMPLETE_B, FAIL_A, FAIL_B, NO_MEMORY_A, NO_MEMORY_B,
    FATAL_A, FATAL_B, RELEASE_A, RELEASE_B, DEATH_A, DEATH_B, REGISTER_A, REGISTER_B, SILENCE, PAUSE, CANCEL, DELETE,
    RETRY, MOVE_BEFORE, MOVE_BEHIND, RESTART, EVENT_COUNT
};
static const char *const names[EVENT_COUNT] = {
    "claim A", "claim B", "beat A", "beat B", "put A", "put B", "complete A", "complete B", "fail A", "fail B",
    "no memory A", "no memory B", "fatal A", "fatal B", "release A", "release B", "death of A", "death of B",
    "register A", "register B", "silence", "pause", "cancel", "delete", "retry", "move before", "move behind",
    "restart"};

/* What the caller is told. */
enum answer { OK, REFUSED, NOTHING, TOLD_TO_STOP };

/* ---- the model ---- */

static bool holds(const struct state *m, int w)
{
    return m->belief[w] == CURRENT;
}

static void end_lease(struct state *m, int w, enum belief how)
{
    m->belief[w] = (uint8_t)how;
    m->full[w] = 0;
    m->place = READY;
}

static void end_job(struct state *m, enum rf_job_state job)
{
    m->job = (uint8_t)job;
    m->place = ENDED;
    m->avoid = 0;
    if (job == RF_JOB_COMPLETED || job == RF_JOB_STATE_COUNT)
        m->first = 0;            /* it will never wait again */
}

static void another_try(struct state *m, int w, bool retryable, bool no_memory)
{
    if (!retryable || m->attempts >= MAX_ATTEMPTS) {
        end_job(m, RF_JOB_FAILED);
        return;
    }
    m->n_no_memory += no_memory;
    if (no_memory && m->n_no_memory == 1)
        return;                  /* at once, smaller */
    m->avoid = (uint8_t)(w + 1);
    m->place = RESTING;
}

static enum answer model_claim(struct state *m, int w)
{
    if (m->gone[w])
        return REFUSED;          /* it must register */
    if (m->place != READY || m->job > RF_JOB_IN_PROGRESS || (m->avoid == w + 1 && !m->gone[1 - w]))
        return NOTHING;
    m->job = RF_JOB_IN_PROGRESS;
    m->place = w ? HELD_BY_B : HELD_BY_A;
    m->attempts++;
    m->belief[w] = CURRENT;
    m->lease_task[w] = m->task;
    return OK;
}

static enum answer model_complete(struct state *m, int w)
{
    if (m->belief[w] == DONE)
        return OK;               /* said twice, answered the same */
    if (!holds(m, w) || !m->full[w])
        return REFUSED;
    end_lease(m, w, DONE);
    m->attempts = m->n_no_memory = m->avoid = 0;
    if (++m->task == N_TASKS)
        end_job(m, RF_JOB_COMPLETED);
    return OK;
}

static enum answer model_fail(struct state *m, int w, bool retryable, bool no_memory)
{
    if (m->belief[w] == FAILED)
        return OK;
    if (!holds(m, w))
        return REFUSED;
    end_lease(m, w, FAILED);
    another_try(m, w, retryable, no_memory);
    return OK;
}

static enum answer model_release(struct state *m, int w)
{
    if (m->belief[w] == RELEASED)
        return OK;
    if (!holds(m, w))
        return REFUSED;
    end_lease(m, w, RELEASED);
    m->attempts--;
    return OK;
}

/* Its process is known to have ended: what silence would take from it after a while goes at once, and only that. What
 * it sent under that lease may still arrive. Leases that were over before are tried by the living; without them here
 * there are half as many states. */
static void model_death(struct state *m, int w)
{
    if (holds(m, w)) {
        end_lease(m, w, EXPIRED);
        another_try(m, w, true, false);
    } else if (!m->gone[w]) {
        m->belief[w] = NO_LEASE;
        m->lease_task[w] = 0;
    }
    m->gone[w] = 1;
    if (m->avoid == w + 1)
        m->avoid = 0;            /* the next process is somebody else */
}

static void model_register(struct state *m, int w)
{
    m->gone[w] = 0;
    m->belief[w] = NO_LEASE;
    m->lease_task[w] = 0;
}

static enum answer model_move(struct state *m, bool before)
{
    if (m->job == RF_JOB_STATE_COUNT)
        return NOTHING;
    if (m->job != RF_JOB_QUEUED)
        return REFUSED;          /* only who has not begun has a place among others */
    m->first = before;
    return OK;
}

static void model_silence(struct state *m)
{
    if (m->place == RESTING)
        m->place = READY;
    for (int w = 0; w < 2; w++)
        if (holds(m, w)) {
            end_lease(m, w, EXPIRED);
            another_try(m, w, true, false);
        }
}

static enum answer model_end(struct state *m, bool delete)
{
    if (m->job == RF_JOB_STATE_COUNT)
        return NOTHING;
    if (!delete && (m->job == RF_JOB_COMPLETED || m->job == RF_JOB_FAILED))
        return REFUSED;
    for (int w = 0; w < 2; w++)
        if (holds(m, w) || (delete && m->belief[w] != NO_LEASE))
            end_lease(m, w, CANCELLED); /* a deleted job has no past: whoever asks is told to stop */
    end_job(m, delete ? RF_JOB_STATE_COUNT : RF_JOB_CANCELLED);
    if (delete)
        m->task = m->attempts = m->n_no_memory = 0;
    return OK;
}

static enum answer model_retry(struct state *m)
{
    if (m->job == RF_JOB_STATE_COUNT)
        return NOTHING;
    if (m->job != RF_JOB_FAILED && m->job != RF_JOB_CANCELLED)
        return REFUSED;
    if (m->gone[0] && m->gone[1] && m->task < N_TASKS - 1)
        m->task = 0;             /* nobody has the weights of its first segment any more */
    m->job = RF_JOB_QUEUED;
    m->place = READY;
    m->attempts = m->n_no_memory = m->avoid = 0;
    return OK;
}

static enum answer model_step(struct state *m, enum event e)
{
    int w = e < SILENCE ? (int)e % 2 : 0;
    switch (e) {
    case CLAIM_A: case CLAIM_B: return model_claim(m, w);
    case BEAT_A: case BEAT_B:
        return holds(m, w) ? OK : m->belief[w] == CANCELLED ? TOLD_TO_STOP : REFUSED;
    case PUT_A: case PUT_B:
        if (!holds(m, w))
            return REFUSED;
        m->full[w] = 1;
        return OK;
    case COMPLETE_A: case COMPLETE_B: return model_complete(m, w);
    case FAIL_A: case FAIL_B: return model_fail(m, w, true, false);
    case NO_MEMORY_A: case NO_MEMORY_B: return model_fail(m, w, true, true);
    case FATAL_A: case FATAL_B: return model_fail(m, w, false, false);
    case RELEASE_A: case RELEASE_B: return model_release(m, w);
    case DEATH_A: case DEATH_B: model_death(m, w); return OK;
    case REGISTER_A: case REGISTER_B: model_register(m, w); return OK;
    case SILENCE: model_silence(m); return OK;
    case PAUSE: m->place = m->place == RESTING ? READY : m->place; return OK;
    case CANCEL: return model_end(m, false);
    case DELETE: return model_end(m, true);
    case RETRY: return model_retry(m);
    case MOVE_BEFORE: case MOVE_BEHIND: return model_move(m, e == MOVE_BEFORE);
    case RESTART: return OK;
    case EVENT_COUNT: break;
    }
    abort();
}

/* A worker that never had a lease has nothing to report. */
static bool makes_sense(const struct state *m, enum event e)
{
    if (e == REGISTER_A || e == REGISTER_B)
        return m->gone[e % 2];
    return e >= DEATH_A || e <= CLAIM_B || m->belief[e % 2] != NO_LEASE;
}

/* ---- the store ---- */

struct real {
    struct farm *f;
    char id[RF_JOB_ID_SIZE], other[RF_JOB_ID_SIZE], worker[2][RF_WORKER_ID_SIZE];
    int64_t pid[2];
    bool alive[2];
    struct rf_wire_lease lease[2];
    int64_t highest, last_pid;
};

static void configure(struct rf_store_config *config)
{
    config->max_attempts = MAX_ATTEMPTS;
    config->worker_lost_ms = INT64_C(1) << 50; /* both always count as alive */
}

static void real_register(struct real *r, int w)
{
    r->pid[w] = ++r->last_pid;
    r->alive[w] = true;
    strcpy(r->worker[w], farm_worker_process(r->f, w ? "B" : "A", 'a', r->pid[w]));
    rf_wire_lease_finish(&r->lease[w]);
}

/* The other job is of a model that nobody has: it keeps its place for ever. */
static void submit_other(struct real *r)
{
    RF_AUTO(rf_request_destroy) struct rf_request *request = farm_request("a blue square", "", 5);
    snprintf(request->model, sizeof request->model, "nobody's");
    assert_int_equal(rf_store_submit(r->f->s, request, r->f->now, r->other, NULL), RF_OK);
}

static void begin(struct real *r)
{
    strcpy(r->id, farm_submit(r->f, "", 161, 0));
    for (int w = 0; w < 2; w++) {
        rf_wire_lease_finish(&r->lease[w]);
        if (r->alive[w])
            continue;
        farm_tick(r->f, INT64_C(86400001)); /* the dead are forgotten after a day; they would only add up */
        real_register(r, w);
    }
}

static void clean_up(struct real *r)
{
    enum rf_code rc = rf_store_delete(r->f->s, r->id, r->f->now, NULL);
    assert_true(rc == RF_OK || rc == RF_ERR_NOT_FOUND);
}

static enum answer told(enum rf_code rc)
{
    assert_true(rc == RF_OK || rc == RF_ERR_CONFLICT || rc == RF_ERR_NOT_FOUND || rc == RF_ERR_INVALID);
    return rc == RF_OK ? OK : rc == RF_ERR_NOT_FOUND ? NOTHING : REFUSED;
}

static enum answer real_claim(struct real *r, int w)
{
    struct rf_wire_lease lease = {0};
    enum answer answer = told(farm_try_claim(r->f, r->worker[w], &lease));
    if (answer != OK)
        return answer;
    assert_string_equal(lease.job_id, r->id);
    assert_true(lease.lease > r->highest); /* larger than any before it, over restarts too */
    r->highest = lease.lease;
    rf_wire_lease_finish(&r->lease[w]);
    r->lease[w] = lease;
    return OK;
}

static enum answer real_put(struct real *r, int w)
{
    struct rf_file file = {.size_bytes = 1, .created_ms = r->f->now};
    snprintf(file.name, sizeof file.name, "video.mp4");
    if (r->lease[w].kind != RF_TASK_ASSEMBLE)
        snprintf(file.name, sizeof file.name, "segment-%d.mp4", r->lease[w].index);
    static int serial = 1000000000; /* the helper counts from 1 */
    snprintf(file.disk_name, sizeof file.disk_name, "%013d-%.30s", ++serial, file.name);
    memset(file.sha256, 'a', 64);
    const struct rf_wire_lease *lease = &r->lease[w];
    enum answer answer = told(rf_store_put_file(r->f->s, lease->task_id, lease->lease, &file, r->f->now, NULL));
    if (answer == OK)
        farm_put_outputs(r->f, &r->lease[w]);
    return answer;
}

static void real_death(struct real *r, int w)
{
    struct rf_op died = {.kind = RF_OP_DIED, .now_ms = r->f->now,
                         .u.died = {.name = w ? "B" : "A", .host = "here", .how = "signal 9", .pid = r->pid[w]}};
    assert_int_equal(rf_store_run(r->f->s, &died, NULL), RF_OK);
    r->alive[w] = false;
}

static enum answer real_beat(struct real *r, int w)
{
    bool cancel = false;
    enum answer answer = told(farm_heartbeat(r->f, &r->lease[w], &cancel));
    return answer == OK && cancel ? TOLD_TO_STOP : answer;
}

static enum answer real_step(struct real *r, const struct state *m, enum event e)
{
    struct farm *f = r->f;
    int w = e < SILENCE ? (int)e % 2 : 0;
    struct rf_wire_lease *lease = &r->lease[w];
    switch (e) {
    case CLAIM_A: case CLAIM_B: return real_claim(r, w);
    case BEAT_A: case BEAT_B: return real_beat(r, w);
    case PUT_A: case PUT_B: return real_put(r, w);
    case COMPLETE_A: case COMPLETE_B: return told(farm_complete(f, lease));
    case FAIL_A: case FAIL_B: return told(farm_fail(f, lease, "io", true));
    case NO_MEMORY_A: case NO_MEMORY_B: return told(farm_fail(f, lease, "no_memory", true));
    case FATAL_A: case FATAL_B: return told(farm_fail(f, lease, "format", false));
    case RELEASE_A: case RELEASE_B: return told(farm_release(f, lease));
    case DEATH_A: case DEATH_B: real_death(r, w); return OK;
    case REGISTER_A: case REGISTER_B: real_register(r, w); return OK;
    case SILENCE: farm_tick(f, SILENCE_MS); return OK;
    case PAUSE:
        for (int k = 0; k < 2; k++)
            if (holds(m, k))
                assert_int_equal(real_beat(r, k), OK);
        farm_tick(f, PAUSE_MS);
        return OK;
    case CANCEL: return told(rf_store_cancel(f->s, r->id, f->now, NULL));
    case DELETE: return told(rf_store_delete(f->s, r->id, f->now, NULL));
    case RETRY: return told(rf_store_retry(f->s, r->id, f->now, NULL));
    case MOVE_BEFORE: case MOVE_BEHIND:
        return told(rf_store_move(f->s, r->id, r->other, e == MOVE_BEHIND, f->now, NULL));
    case RESTART: farm_reopen(f); return OK;
    case EVENT_COUNT: break;
    }
    abort();
}

static enum rf_task_state expected_task(const struct state *m, int task)
{
    if (task != m->task)
        return task < m->task ? RF_TASK_DONE : m->job <= RF_JOB_IN_PROGRESS ? RF_TASK_BLOCKED : RF_TASK_STATE_COUNT;
    return m->job > RF_JOB_IN_PROGRESS ? RF_TASK_STATE_COUNT
           : m->place == HELD_BY_A || m->place == HELD_BY_B ? RF_TASK_LEASED : RF_TASK_READY;
}

/* What the store shows is what the model says. False, with a line about it: it is not. */
static bool agrees(struct real *r, const struct state *m)
{
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
    enum rf_code rc = rf_store_get(r->f->s, r->id, RF_WITH_ALL, &job, NULL);
    if (m->job == RF_JOB_STATE_COUNT)
        return rc == RF_ERR_NOT_FOUND;
    if (rc != RF_OK || job->state != (enum rf_job_state)m->job || job->n_tasks != N_TASKS) {
        print_message("the job is %s, not %s\n", job ? rf_job_state_name(job->state) : "gone",
                      rf_job_state_name(m->job));
        return false;
    }
    if (m->job == RF_JOB_QUEUED && job->queue_position != (m->first ? 1 : 2)) {
        print_message("the job is number %d of the queue\n", (int)job->queue_position);
        return false;
    }
    int n_leased = m->place == HELD_BY_A || m->place == HELD_BY_B;
    for (int i = 0; i < N_TASKS; i++) {
        enum rf_task_state want = expected_task(m, i);
        if (want != RF_TASK_STATE_COUNT && job->tasks[i].state != want) {
            print_message("task %d is %s, not %s\n", i, rf_task_state_name(job->tasks[i].state),
                          rf_task_state_name(want));
            return false;
        }
    }
    struct rf_store_counts counts;
    rf_store_counts(r->f->s, &counts);
    return counts.leased == n_leased && counts.jobs[m->job] == 1 + (m->job == RF_JOB_QUEUED); /* the other waits, too */
}

/* ---- the walk ---- */

struct node {
    struct state state;
    int from;                    /* -1: the beginning */
    enum event by;
    bool completes;
    int next[EVENT_COUNT];       /* -1: not tried */
    int chain;                   /* of the hash table */
};

struct walk {
    struct node *nodes;
    int n_nodes, n_events;
    int table[1 << 14];
    struct real real;
};

static int find(struct walk *w, const struct state *m, int from, enum event by)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < sizeof *m; i++)
        hash = (hash ^ ((const uint8_t *)m)[i]) * 16777619u;
    int *slot = &w->table[hash % RF_COUNT_OF(w->table)];
    for (int i = *slot; i != 0; i = w->nodes[i - 1].chain)
        if (memcmp(&w->nodes[i - 1].state, m, sizeof *m) == 0)
            return i - 1;
    assert_true(w->n_nodes < MAX_STATES);
    struct node *n = &w->nodes[w->n_nodes];
    *n = (struct node){.state = *m, .from = from, .by = by, .chain = *slot};
    memset(n->next, -1, sizeof n->next);
    *slot = ++w->n_nodes;
    return w->n_nodes - 1;
}

static void print_path(struct walk *w, int at, enum event last)
{
    enum event path[64];
    int n = 0;
    for (int i = at; w->nodes[i].from >= 0 && n < 64; i = w->nodes[i].from)
        path[n++] = w->nodes[i].by;
    while (n > 0)
        print_message("%s, ", names[path[--n]]);
    print_message("%s\n", names[last]);
}

static void replay(struct walk *w, int at)
{
    if (w->nodes[at].from < 0) {
        begin(&w->real);
        return;
    }
    replay(w, w->nodes[at].from);
    real_step(&w->real, &w->nodes[w->nodes[at].from].state, w->nodes[at].by);
}

static void try(struct walk *w, int at, enum event e)
{
    struct state m = w->nodes[at].state;
    if (!makes_sense(&m, e))
        return;
    replay(w, at);
    enum answer real = real_step(&w->real, &w->nodes[at].state, e), model = model_step(&m, e);
    bool good = real == model && agrees(&w->real, &m);
    if (!good) {
        print_message("after: ");
        print_path(w, at, e);
        fail_msg("the store said %d, the model %d", (int)real, (int)model);
    }
    clean_up(&w->real);
    w->n_events++;
    w->nodes[at].next[e] = find(w, &m, at, e);
}

static void every_state_has_a_way_to_the_end(struct walk *w)
{
    bool found = true;
    while (found) {
        found = false;
        for (int i = 0; i < w->n_nodes; i++) {
            struct node *n = &w->nodes[i];
            bool was = n->completes;
            n->completes = was || n->state.job == RF_JOB_COMPLETED || n->state.job == RF_JOB_STATE_COUNT;
            for (int e = 0; e < EVENT_COUNT; e++)
                n->completes |= n->next[e] >= 0 && e != DELETE && w->nodes[n->next[e]].completes;
            found |= n->completes != was;
        }
    }
    for (int i = 0; i < w->n_nodes; i++)
        assert_true(w->nodes[i].completes);
}

static int limit = MAX_STATES;

static void every_order_of_events_is_answered_as_the_model_says(void **state)
{
    struct walk *w = rf_new(struct walk);
    w->nodes = rf_new_array(struct node, MAX_STATES);
    w->real.f = farm_create_with(configure);
    submit_other(&w->real);
    struct state first = {.job = RF_JOB_QUEUED, .place = READY};
    find(w, &first, -1, EVENT_COUNT);
    int at = 0;
    for (; at < w->n_nodes && at < limit; at++)
        for (int e = 0; e < EVENT_COUNT; e++)
            try(w, at, (enum event)e);
    print_message("%d states, %d transitions%s\n", w->n_nodes, w->n_events,
                  at < w->n_nodes ? ", not all" : ": all there are");
    if (at == w->n_nodes)
        every_state_has_a_way_to_the_end(w);
    for (int i = 0; i < 2; i++)
        rf_wire_lease_finish(&w->real.lease[i]);
    farm_destroy(&w->real.f);
    free(w->nodes);
    free(w);
}

int main(int argc, char **argv)
{
    limit = argc > 1 ? atoi(argv[1]) : limit;
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_order_of_events_is_answered_as_the_model_says)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
