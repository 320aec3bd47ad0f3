/* When jobs will start and end; see store_expect.h. Locks are explained in store_expect_private.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_expect_private.h"

#include <math.h>
#include <string.h>

#define FRESH_MS 1000
#define STALE_MS 3000 /* a request that finds it older makes a new one itself: the first after an hour of silence */
#define FRONT 1000               /* waiting jobs played forward; those behind follow at their rate */
#define MAX_TASKS 5000           /* in one forecast: 1 to 15 ms with up to 100 users waiting, 110 ms with 1,000 */
#define LEAST_KNOWN_FRACTION 0.05 /* of a task done, before its own pace is worth anything */

struct expected {
    int64_t row, start_ms, end_ms, error_ms;
};

struct rf_forecast {
    int64_t made_ms;
    bool paused, whole;          /* whole: every ready job was played */
    struct expected *jobs;       /* by row */
    int n_jobs;
    double *starts;              /* seconds from made_ms, rising */
    int n_starts;
    double free_s;
};

struct rf_expect *rf_expect_create(void)
{
    struct rf_expect *e = rf_new(struct rf_expect);
    pthread_mutex_init(&e->curves_lock, NULL);
    e->curves = rf_eta_create();
    return e;
}

static void forecast_destroy(struct rf_forecast **f)
{
    if (*f == NULL)
        return;
    free((*f)->jobs);
    free((*f)->starts);
    rf_free(f);
}

void rf_expect_destroy(struct rf_expect **expect)
{
    struct rf_expect *e = *expect;
    if (e == NULL)
        return;
    rf_classes_free(e);
    forecast_destroy(&e->forecast);
    rf_eta_destroy(&e->curves);
    pthread_mutex_destroy(&e->curves_lock);
    rf_free(expect);
}

/* ---- a copy of the queue, to be played outside of the lock ---- */

struct pace {                    /* of a running task, seconds */
    double gone, gone_when_told, fraction;
};

struct copy {
    struct rf_queue q;
    struct pace *paces;          /* [q.n_jobs] */
    struct rf_class **classes;      /* [q.n_classes] */
    const struct rf_class_model **models; /* [q.n_classes * q.n_lanes]; NULL: cannot run it */
    struct rf_lane **lanes;      /* [q.n_lanes]; 0 is anywhere. Under the lock only */
    struct rf_lesson lessons[RF_MAX_UNLEARNED];
    int n_lessons;
    int64_t now_ms;
    bool whole;
    struct rf_expect *e;
};

static void count_worker(void *ctx, struct rf_live_worker *w)
{
    struct rf_expect *e = ctx;
    if (w->state != RF_WORKER_IDLE)
        return;
    struct rf_class *c = rf_class_of(e, w);
    c->n_serving++;
    c->n_idle += w->n_held == 0;
}

static int lane_index(struct copy *c, struct rf_lane *lane)
{
    for (int i = 1; i < c->q.n_lanes; i++)
        if (c->lanes[i] == lane)
            return i;
    c->lanes = rf_realloc(c->lanes, (size_t)c->q.n_lanes + 1, sizeof(struct rf_lane *));
    c->lanes[c->q.n_lanes] = lane;
    return c->q.n_lanes++;
}

static int share_index(struct copy *c, struct rf_share *share)
{
    if (share->copied != c->e->n_copies) {
        share->copied = c->e->n_copies;
        share->index = c->q.n_shares++;
        c->q.served[share->index] = share->served;
    }
    return share->index;
}

static struct rf_queue_job *copy_job(struct copy *c, const struct rf_live_job *job)
{
    struct rf_queue_job *to = &c->q.jobs[c->q.n_jobs++];
    *to = (struct rf_queue_job){.row = job->row, .turn = job->turn, .priority = job->priority, .share = share_index(c, job->share),
                                .lane = lane_index(c, job->lane), .task = job->task, .n_tasks = job->n_tasks,
                                .begun = job->begun, .n_steps = job->n_steps,
                                .max_segment_frames = job->max_segment_frames, .work = rf_expect_work(job),
                                .class = -1};
    return to;
}

/* Deadlines and backoffs count in the lease's own time. */
static double seconds_until(const struct rf_store *s, int64_t due_ms)
{
    double left = (double)(due_ms + s->clock_skew_ms - s->wall_ms) / 1000;
    return left > 0.001 ? left : 0.001;
}

static void copy_running(struct rf_store *s, struct copy *c, const struct rf_live_job *job)
{
    struct rf_live_worker *w = rf_sched_find_worker(s->sched, job->run->worker_id);
    bool here = w != NULL && (w->state == RF_WORKER_IDLE || w->state == RF_WORKER_DRAINING);
    struct rf_queue_job *to = copy_job(c, job);
    if (!here) { /* nobody will finish it before the lease runs out */
        to->ready_s = seconds_until(s, job->due_ms);
        return;
    }
    struct rf_class *class = rf_class_of(c->e, w);
    for (to->class = 0; c->e->classes[to->class] != class; to->class++)
        ;
    to->class_stays = w->state == RF_WORKER_IDLE;
    struct pace *pace = &c->paces[c->q.n_jobs - 1];
    pace->gone = (double)(s->wall_ms - job->run->leased_ms) / 1000;
    pace->gone_when_told = (double)(job->run->told_ms - job->run->leased_ms) / 1000;
    pace->fraction = job->run->fraction;
}

static void copy_fits(struct copy *c)
{
    c->q.n_classes = c->e->n_classes;
    c->q.n_idle = rf_new_array(int, (size_t)c->q.n_classes + 1);
    c->classes = rf_new_array(struct rf_class *, (size_t)c->q.n_classes + 1);
    c->q.fit = rf_new_array(struct rf_queue_fit, (size_t)(c->q.n_classes * c->q.n_lanes) + 1);
    c->models = rf_new_array(const struct rf_class_model *, (size_t)(c->q.n_classes * c->q.n_lanes) + 1);
    for (int i = 0; i < c->q.n_classes; i++) {
        c->classes[i] = c->e->classes[i];
        c->q.n_idle[i] = c->classes[i]->n_idle;
        for (int k = 1; k < c->q.n_lanes; k++) {
            const struct rf_class_model *m = rf_class_model(c->classes[i], c->lanes[k]);
            c->models[i * c->q.n_lanes + k] = m;
            if (m != NULL)
                c->q.fit[i * c->q.n_lanes + k] = (struct rf_queue_fit){m->max_frames, m->weights};
        }
    }
}

/* With the store's lock held. */
static struct copy *copy_queue(struct rf_store *s)
{
    struct rf_expect *e = s->expect;
    struct copy *c = rf_new(struct copy);
    struct rf_live_job *front[FRONT], *job;
    int n_front = rf_sched_front(s->sched, FRONT, front);
    size_t room = (size_t)n_front + (size_t)rf_sched_n_leased(s->sched) + FRONT;
    c->e = e;
    c->now_ms = s->wall_ms;
    c->whole = n_front == rf_sched_n_ready(s->sched);
    c->q = (struct rf_queue){.jobs = rf_new_array(struct rf_queue_job, room), .served = rf_new_array(double, room),
                             .n_lanes = 1, .paused = s->paused || s->disk_low, .max_tasks = MAX_TASKS};
    c->paces = rf_new_array(struct pace, room);
    c->lanes = rf_new_array(struct rf_lane *, 1);
    e->n_copies++;
    for (int i = 0; i < e->n_classes; i++)
        e->classes[i]->n_serving = e->classes[i]->n_idle = 0;
    rf_sched_each_worker(s->sched, count_worker, e);
    for (int i = 0; (job = rf_sched_leased(s->sched, i)) != NULL; i++)
        copy_running(s, c, job);
    for (int i = 0; i < n_front; i++)
        copy_job(c, front[i]);
    for (int i = 0; i < FRONT && (job = rf_sched_waiting(s->sched, i)) != NULL; i++)
        copy_job(c, job)->ready_s = seconds_until(s, job->due_ms);
    copy_fits(c);
    int64_t oldest = e->n_lessons > RF_MAX_UNLEARNED ? e->n_lessons - RF_MAX_UNLEARNED : 0;
    for (int64_t i = oldest; i < e->n_lessons; i++)
        c->lessons[c->n_lessons++] = e->lessons[i % RF_MAX_UNLEARNED];
    e->n_lessons = 0;
    return c;
}

static void copy_destroy(struct copy **copy)
{
    struct copy *c = *copy;
    free(c->q.jobs);
    free(c->q.served);
    free(c->q.n_idle);
    free(c->q.fit);
    free(c->q.starts);
    free(c->paces);
    free(c->classes);
    free(c->models);
    free(c->lanes);
    rf_free(copy);
}

/* ---- the forecast ---- */

static bool guess_task(void *ctx, int class, const struct rf_queue_job *job, struct rf_guess *ret)
{
    struct copy *c = ctx;
    struct rf_eta_work work = job->work;
    const struct rf_class_model *m = c->models[class * c->q.n_lanes + job->lane];
    work.assemble = job->task == job->n_tasks - 1;
    work.n_frames = rf_queue_task_frames(job);
    work.image |= job->task > 0;
    /* For one guess at a time: a forecast takes many, and requests want theirs meanwhile. */
    pthread_mutex_lock(&c->e->curves_lock);
    bool known = rf_eta_guess(c->e->curves, rf_class_kind(c->e, c->classes[class]), m != NULL ? m->name : "", &work, ret);
    pthread_mutex_unlock(&c->e->curves_lock);
    return known;
}

/* The more of a task is done, the more its own pace says and the less the curve does. */
static struct rf_guess left_of(struct copy *c, const struct rf_queue_job *job, const struct pace *p)
{
    struct rf_guess all = {NAN, NAN};
    double f = p->fraction, own = f > 0 ? p->gone_when_told / f : 0;
    if (guess_task(c, job->class, job, &all))
        all = (struct rf_guess){(1 - f) * all.seconds + f * own, (1 - f) * all.error};
    else if (f >= LEAST_KNOWN_FRACTION)
        all = (struct rf_guess){own, own * (1 - f) / 2};
    all.seconds = isnan(all.seconds) ? NAN : fmax(all.seconds - p->gone, 0);
    return all;
}

static int by_row(const void *a, const void *b)
{
    int64_t x = ((const struct expected *)a)->row, y = ((const struct expected *)b)->row;
    return (x > y) - (x < y);
}

static struct rf_forecast *play(struct copy *c)
{
    struct rf_queue *q = &c->q;
    q->guess = guess_task;
    q->ctx = c;
    for (int i = 0; i < q->n_jobs; i++)
        if (q->jobs[i].class >= 0)
            q->jobs[i].left = left_of(c, &q->jobs[i], &c->paces[i]);
    rf_queue_run(q);
    struct rf_forecast *f = rf_new(struct rf_forecast);
    *f = (struct rf_forecast){.made_ms = c->now_ms, .paused = q->paused, .whole = c->whole && !q->cut,
                           .starts = q->starts, .n_starts = q->n_starts, .free_s = q->free_s, .n_jobs = q->n_jobs,
                           .jobs = rf_new_array(struct expected, (size_t)q->n_jobs + 1)};
    q->starts = NULL;
    for (int i = 0; i < q->n_jobs; i++) {
        const struct rf_queue_job *job = &q->jobs[i];
        struct expected *to = &f->jobs[i];
        to->row = job->row;
        to->start_ms = isnan(job->start_s) ? 0 : c->now_ms + (int64_t)(1000 * job->start_s);
        to->end_ms = isnan(job->end_s) ? 0 : c->now_ms + (int64_t)(1000 * job->end_s);
        to->error_ms = isnan(job->error_s) ? 0 : (int64_t)(1000 * job->error_s);
    }
    qsort(f->jobs, (size_t)f->n_jobs, sizeof f->jobs[0], by_row);
    return f;
}

/* Makes a new forecast when the last one is as old as that and nobody else is at it. */
static void refresh(struct rf_store *s, int64_t old_ms)
{
    struct rf_expect *e = s->expect;
    pthread_mutex_lock(&s->lock);
    int64_t age_ms = e->forecast != NULL ? s->wall_ms - e->forecast->made_ms : old_ms;
    bool old = !e->busy && (age_ms >= old_ms || age_ms < 0);
    struct copy *c = old ? copy_queue(s) : NULL;
    e->busy |= old;
    pthread_mutex_unlock(&s->lock);
    if (c == NULL)
        return;
    pthread_mutex_lock(&e->curves_lock);
    rf_expect_take_lessons(e, c->lessons, c->n_lessons);
    pthread_mutex_unlock(&e->curves_lock);
    struct rf_forecast *f = play(c);
    pthread_mutex_lock(&s->lock);
    struct rf_forecast *before = e->forecast;
    e->forecast = f;
    e->busy = false;
    pthread_mutex_unlock(&s->lock);
    forecast_destroy(&before);
    copy_destroy(&c);
}

void rf_store_forecast(struct rf_store *s)
{
    pthread_mutex_lock(&s->lock);
    bool wanted = s->expect->wanted;
    s->expect->wanted = false;
    s->expect->made_ahead = true;
    pthread_mutex_unlock(&s->lock);
    if (wanted)
        refresh(s, FRESH_MS);
}

/* ---- one job ---- */

/* When a job at this place among the ready ones will get its first worker: seconds from f->made_ms, NAN unknown. Behind
 * the part that was played, jobs go on at the rate of those in it. */
static double start_at(const struct rf_forecast *f, int64_t place)
{
    if (f->paused || place <= 0)
        return NAN;
    if (place <= f->n_starts)
        return f->starts[place - 1];
    if (f->whole)
        return f->free_s;
    return f->n_starts > 0 ? f->starts[f->n_starts - 1] * (double)place / f->n_starts : NAN;
}

#define MAX_CANDIDATES 16
struct candidates {
    struct rf_class *class[MAX_CANDIDATES];
    const struct rf_class_model *model[MAX_CANDIDATES];
    int n;
};

static void find_candidates(const struct rf_expect *e, const struct rf_live_job *job, struct candidates *to)
{
    to->n = 0;
    for (int i = 0; i < e->n_classes && to->n < MAX_CANDIDATES; i++) {
        const struct rf_class_model *m = e->classes[i]->n_serving > 0 ? rf_class_model(e->classes[i], job->lane) : NULL;
        if (m != NULL && rf_expect_task_frames(job, 0) <= m->max_frames) {
            to->class[to->n] = e->classes[i];
            to->model[to->n++] = m;
        }
    }
}

/* All tasks of the job from now on, one after the other, on the quickest who can. False: unknown. */
static bool guess_all(struct rf_expect *e, const struct candidates *who, struct rf_queue_job job, struct rf_guess *ret)
{
    bool known = false;
    pthread_mutex_lock(&e->curves_lock);
    for (int i = 0; i < who->n; i++) {
        int kind = rf_class_kind(e, who->class[i]), frames_before = 0;
        struct rf_guess sum = {0}, one = {0};
        bool good = true;
        for (int task = job.task; good && task < job.n_tasks; task++) {
            struct rf_queue_job at = job;
            at.task = task;
            struct rf_eta_work work = job.work;
            work.assemble = task == job.n_tasks - 1;
            work.n_frames = rf_queue_task_frames(&at);
            work.image |= task > 0;
            if (work.assemble || task <= 1 || work.n_frames != frames_before)
                good = rf_eta_guess(e->curves, kind, who->model[i]->name, &work, &one);
            frames_before = work.n_frames;
            sum.seconds += one.seconds;
            sum.error = hypot(sum.error, one.error);
        }
        if (good && (!known || sum.seconds < ret->seconds)) {
            *ret = sum;
            known = true;
        }
    }
    pthread_mutex_unlock(&e->curves_lock);
    return known;
}

/* A request as the queue would see it, in its place behind all that wait. Out again before the lock is given up. */
static struct rf_live_job *put_in_queue(struct rf_store *s, const struct rf_request *r)
{
    struct rf_plan plan;
    if (rf_request_plan(r, &plan, NULL) != RF_OK)
        return NULL;
    struct rf_live_job *live = rf_new(struct rf_live_job);
    int n_passes = rf_eta_passes(r->n_steps, r->switch_step, r->guidance_scale, r->guidance_scale_2);
    *live = (struct rf_live_job){.row = INT64_MAX, .turn = INT64_MAX, .priority = r->priority, .n_tasks = plan.n_segments + 1,
                                 .width = r->width, .height = r->height, .n_frames = r->n_frames, .fps = r->fps,
                                 .n_steps = r->n_steps,
                                 .max_segment_frames = r->max_segment_frames, .n_passes = n_passes,
                                 .has_image = r->has_image};
    rf_sched_add(s->sched, live, r->user, r->model, NULL, NULL);
    rf_sched_make_ready(s->sched, live);
    return live;
}

static const struct expected *find_expected(const struct rf_forecast *f, int64_t row)
{
    struct expected key = {.row = row};
    return bsearch(&key, f->jobs, (size_t)f->n_jobs, sizeof key, by_row);
}

/* From the forecast, as long as the job is where it was. False: it came after, or waits behind the played part. */
static bool take_expected(const struct rf_forecast *f, const struct rf_live_job *live, int64_t now_ms,
                          struct rf_job *job)
{
    const struct expected *x = find_expected(f, live->row);
    if (x == NULL || (x->start_ms == 0 && x->end_ms == 0 && live->place == RF_PLACE_READY && !f->whole && !f->paused))
        return false;
    if (!live->begun && x->start_ms != 0)
        job->expected_start_ms = x->start_ms > now_ms ? x->start_ms : now_ms;
    if (x->end_ms != 0)
        job->expected_end_ms = x->end_ms > now_ms ? x->end_ms : now_ms;
    job->expected_error_ms = x->error_ms;
    return true;
}

void rf_store_expect(struct rf_store *s, struct rf_job *job)
{
    struct rf_id id = {0};
    bool plan_only = job->id[0] == '\0';
    if (!plan_only && !rf_id_parse(job->id, &id))
        return;
    pthread_mutex_lock(&s->lock);
    s->expect->wanted = true;
    int64_t old_ms = s->expect->made_ahead ? STALE_MS : FRESH_MS;
    pthread_mutex_unlock(&s->lock);
    refresh(s, old_ms);
    pthread_mutex_lock(&s->lock);
    struct rf_live_job *live = plan_only ? put_in_queue(s, job->request) : rf_sched_find(s->sched, id.row);
    if (live == NULL) {
        pthread_mutex_unlock(&s->lock);
        return;
    }
    int64_t now_ms = s->wall_ms, place = rf_sched_position(s->sched, live);
    const struct rf_forecast *f = s->expect->forecast;
    if (live->run == NULL) {
        if (job->state == RF_JOB_QUEUED)
            job->queue_position = place;
        job->nobody_can_run = rf_sched_nobody_can_run(s->sched, live);
    }
    struct candidates who = {.n = 0};
    struct rf_queue_job rest = {.task = live->task, .n_tasks = live->n_tasks, .work = rf_expect_work(live)};
    double start_s = NAN;
    bool begun = live->begun;
    int64_t made_ms = f != NULL ? f->made_ms : 0;
    if (f != NULL && !job->nobody_can_run && !take_expected(f, live, now_ms, job)) {
        find_candidates(s->expect, live, &who);
        start_s = start_at(f, place);
    }
    if (plan_only)
        rf_sched_remove(s->sched, live);
    pthread_mutex_unlock(&s->lock);
    struct rf_guess all = {0};
    if (isnan(start_s) || who.n == 0)
        return;
    int64_t start_ms = made_ms + (int64_t)(1000 * start_s);
    start_ms = start_ms > now_ms ? start_ms : now_ms;
    if (!begun)
        job->expected_start_ms = start_ms;
    if (!guess_all(s->expect, &who, rest, &all))
        return;
    job->expected_end_ms = start_ms + (int64_t)(1000 * all.seconds);
    job->expected_error_ms = (int64_t)(1000 * hypot(all.error, 0.25 * (double)(start_ms - now_ms) / 1000));
}
