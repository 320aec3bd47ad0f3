/* Playing the queue forward; see eta_queue.h. Events are moments at which a task ends or a backoff does; at each,
 * whoever has nothing to do is served.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/eta_queue.h"

#include <math.h>
#include <string.h>

struct event {
    double at, variance;
    int job, class;              /* class -1: a backoff ends */
};

struct bucket {                  /* ready jobs of one priority, user, lane and weights: a heap by turn */
    int priority, share, lane, weights;
    int *jobs, n_jobs, capacity;
    int next_of_share;
};

struct run {
    struct rf_queue *q;
    struct event *events;        /* heap by time */
    int n_events, events_capacity;
    struct bucket *buckets;
    int n_buckets, buckets_capacity;
    int *bucket_of_share;
    int n_ready, n_given;
};

/* ---- events ---- */

static void push_event(struct run *r, struct event e)
{
    if (r->n_events == r->events_capacity) {
        r->events_capacity = r->events_capacity ? 2 * r->events_capacity : 256;
        r->events = rf_realloc(r->events, (size_t)r->events_capacity, sizeof *r->events);
    }
    int i = r->n_events++;
    for (; i > 0 && r->events[(i - 1) / 2].at > e.at; i = (i - 1) / 2)
        r->events[i] = r->events[(i - 1) / 2];
    r->events[i] = e;
}

static struct event pop_event(struct run *r)
{
    struct event first = r->events[0], last = r->events[--r->n_events];
    int i = 0;
    for (;;) {
        int child = 2 * i + 1;
        if (child + 1 < r->n_events && r->events[child + 1].at < r->events[child].at)
            child++;
        if (child >= r->n_events || r->events[child].at >= last.at)
            break;
        r->events[i] = r->events[child];
        i = child;
    }
    r->events[i] = last;
    return first;
}

/* ---- ready jobs ---- */

static bool before(const struct run *r, int a, int b)
{
    const struct rf_queue_job *x = &r->q->jobs[a], *y = &r->q->jobs[b];
    if (x->begun != y->begun)
        return x->begun;
    return x->turn != y->turn ? x->turn < y->turn : x->row < y->row;
}

static bool assembling(const struct rf_queue_job *job)
{
    return job->task == job->n_tasks - 1;
}

static struct bucket *bucket_for(struct run *r, const struct rf_queue_job *job)
{
    int lane = assembling(job) ? 0 : job->lane, weights = assembling(job) ? 0 : job->weights;
    for (int i = r->bucket_of_share[job->share]; i >= 0; i = r->buckets[i].next_of_share) {
        struct bucket *b = &r->buckets[i];
        if (b->priority == job->priority && b->lane == lane && b->weights == weights)
            return b;
    }
    if (r->n_buckets == r->buckets_capacity) {
        r->buckets_capacity = r->buckets_capacity ? 2 * r->buckets_capacity : 64;
        r->buckets = rf_realloc(r->buckets, (size_t)r->buckets_capacity, sizeof *r->buckets);
    }
    struct bucket *b = &r->buckets[r->n_buckets];
    *b = (struct bucket){.priority = job->priority, .share = job->share, .lane = lane, .weights = weights,
                         .next_of_share = r->bucket_of_share[job->share]};
    r->bucket_of_share[job->share] = r->n_buckets++;
    return b;
}

static void make_ready(struct run *r, int job)
{
    struct bucket *b = bucket_for(r, &r->q->jobs[job]);
    if (b->n_jobs == b->capacity) {
        b->capacity = b->capacity ? 2 * b->capacity : 8;
        b->jobs = rf_realloc(b->jobs, (size_t)b->capacity, sizeof *b->jobs);
    }
    int i = b->n_jobs++;
    for (; i > 0 && before(r, job, b->jobs[(i - 1) / 2]); i = (i - 1) / 2)
        b->jobs[i] = b->jobs[(i - 1) / 2];
    b->jobs[i] = job;
    r->n_ready++;
}

static int take_first(struct run *r, struct bucket *b)
{
    int first = b->jobs[0], last = b->jobs[--b->n_jobs], i = 0;
    for (;;) {
        int child = 2 * i + 1;
        if (child + 1 < b->n_jobs && before(r, b->jobs[child + 1], b->jobs[child]))
            child++;
        if (child >= b->n_jobs || !before(r, b->jobs[child], last))
            break;
        b->jobs[i] = b->jobs[child];
        i = child;
    }
    b->jobs[i] = last;
    r->n_ready--;
    return first;
}

/* The first segment is the longest: the latent steps are shared out from the front, see schema/plan.h. */
static int segment_frames(const struct rf_queue_job *job, int index)
{
    int steps = (job->work.n_frames - 1) / 4, n = job->n_tasks - 1;
    return 4 * (steps / n + (index < steps % n)) + 1;
}

int rf_queue_task_frames(const struct rf_queue_job *job)
{
    return assembling(job) ? job->work.n_frames : segment_frames(job, job->task);
}

/* Only the bucket's first job is asked: those behind it that are shorter wait with it. The scheduler would look
 * further; it matters where one user mixes clips too long for some workers with shorter ones. */
static bool can_run(const struct run *r, int class, const struct bucket *b)
{
    const struct rf_queue_fit *fit = &r->q->fit[class * r->q->n_lanes + b->lane];
    if (b->lane == 0)
        return true;
    bool same = b->weights == 0 || b->weights == fit->weights;
    return same && segment_frames(&r->q->jobs[b->jobs[0]], 0) <= fit->max_frames;
}

/* Whether a is served before b; as in schedule.c. */
static bool bucket_before(const struct run *r, const struct bucket *a, const struct bucket *b)
{
    double served_a = r->q->served[a->share], served_b = r->q->served[b->share];
    if (a->priority != b->priority)
        return a->priority > b->priority;
    return served_a != served_b ? served_a < served_b : before(r, a->jobs[0], b->jobs[0]);
}

static struct bucket *pick(const struct run *r, int class)
{
    struct bucket *best = NULL;
    for (int i = 0; i < r->n_buckets; i++) {
        struct bucket *b = &r->buckets[i];
        if (b->n_jobs > 0 && can_run(r, class, b) && (best == NULL || bucket_before(r, b, best)))
            best = b;
    }
    return best;
}

/* ---- the course of things ---- */

static void give(struct run *r, int class, struct bucket *b, double now, double variance)
{
    struct rf_queue *q = r->q;
    int index = take_first(r, b);
    struct rf_queue_job *job = &q->jobs[index];
    struct rf_guess g;
    if (isnan(job->start_s))
        job->start_s = now;
    if (!job->begun)
        q->starts[q->n_starts++] = now;
    if (!assembling(job)) {
        double frames = job->work.n_frames < job->max_segment_frames ? job->work.n_frames : job->max_segment_frames;
        q->served[job->share] += (double)job->work.width * job->work.height * frames * job->n_steps;
    }
    if (job->weights == 0 && !assembling(job))
        job->weights = q->fit[class * q->n_lanes + job->lane].weights;
    job->begun = true;
    q->n_idle[class]--;
    r->n_given++;
    if (q->guess(q->ctx, class, job, &g)) /* else the worker is gone for all we know */
        push_event(r, (struct event){now + g.seconds, variance + g.error * g.error, index, class});
}

static void serve(struct run *r, double now, double variance)
{
    struct rf_queue *q = r->q;
    for (int class = 0; class < q->n_classes; class++)
        while (!q->paused && q->n_idle[class] > 0) {
            struct bucket *b = r->n_ready > 0 ? pick(r, class) : NULL;
            if (b == NULL) {
                q->free_s = isnan(q->free_s) ? now : q->free_s;
                break;
            }
            give(r, class, b, now, variance);
        }
}

static void end_task(struct run *r, const struct event *e)
{
    struct rf_queue_job *job = &r->q->jobs[e->job];
    if (++job->task == job->n_tasks) {
        job->end_s = e->at;
        job->error_s = sqrt(e->variance);
    } else {
        make_ready(r, e->job);
    }
}

static void begin(struct run *r)
{
    struct rf_queue *q = r->q;
    for (int i = 0; i < q->n_shares; i++)
        r->bucket_of_share[i] = -1;
    for (int i = 0; i < q->n_jobs; i++) {
        struct rf_queue_job *job = &q->jobs[i];
        job->start_s = job->end_s = job->error_s = NAN;
        if (job->class >= 0) {
            if (!isnan(job->left.seconds))
                push_event(r, (struct event){job->left.seconds, job->left.error * job->left.error, i, job->class});
        } else if (job->ready_s > 0) {
            push_event(r, (struct event){job->ready_s, 0, i, -1});
        } else {
            make_ready(r, i);
        }
    }
}

void rf_queue_run(struct rf_queue *q)
{
    struct run r = {.q = q, .bucket_of_share = rf_new_array(int, (size_t)q->n_shares + 1)};
    q->starts = rf_new_array(double, (size_t)q->n_jobs + 1);
    q->n_starts = 0;
    q->free_s = NAN;
    begin(&r);
    serve(&r, 0, 0);
    while (r.n_events > 0 && (q->max_tasks == 0 || r.n_given < q->max_tasks)) {
        struct event e = pop_event(&r);
        if (e.class < 0) {
            make_ready(&r, e.job);
        } else {
            struct rf_queue_job *job = &q->jobs[e.job];
            bool first = isnan(job->start_s) && job->class >= 0; /* the task it had when the copy was made */
            if (!first || job->class_stays)
                q->n_idle[e.class]++;
            job->class = -1;
            if (first)
                job->start_s = INFINITY; /* it is under way: no start to tell */
            end_task(&r, &e);
        }
        serve(&r, e.at, e.variance);
    }
    q->cut = r.n_events > 0;
    for (int i = 0; i < q->n_jobs; i++)
        if (isinf(q->jobs[i].start_s))
            q->jobs[i].start_s = NAN;
    for (int i = 0; i < r.n_buckets; i++)
        free(r.buckets[i].jobs);
    free(r.buckets);
    free(r.events);
    free(r.bucket_of_share);
}
