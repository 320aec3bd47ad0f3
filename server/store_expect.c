/* When jobs will start and end; see store_expect.h.
 *
 * Locks: the store's lock covers queue, workers, forecast and what waits to be learned; curves_lock covers the curves.
 * They are never held together, so that a reader who computes keeps no writer waiting.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/store_expect.h"

#include "server/eta_queue.h"
#include "server/store_reader.h"

#include <math.h>
#include <string.h>

#define FRESH_MS 1000
#define FRONT 1000               /* waiting jobs played forward; those behind follow at their rate */
#define MAX_TASKS 20000          /* given out in one forecast: some 10 ms */
#define MAX_UNLEARNED 512
#define LOAD_JOBS 1000
#define LEAST_KNOWN_FRACTION 0.05 /* of a task done, before its own pace is worth anything */

/* Workers that registered the same device and models. Never freed before the store, so others may point into it. */
struct class {
    char *device_kind, *device_name, *precision;
    struct class_model {
        char *name, *hash;
        int max_frames, weights;
    } *models;
    int n_models;
    int kind;                    /* rf_eta_kind(); -1: not looked up. Under curves_lock */
    int n_serving, n_idle;       /* as of the newest copy */
};

struct lesson {
    struct class *class;
    const char *model;
    struct rf_eta_work work;
    struct rf_eta_taken taken;
};

struct expected {
    int64_t row, start_ms, end_ms, error_ms;
};

struct forecast {
    int64_t made_ms;
    bool paused, whole;          /* whole: every ready job was played */
    struct expected *jobs;       /* by row */
    int n_jobs;
    double *starts;              /* seconds from made_ms, rising */
    int n_starts;
    double free_s;
};

struct rf_expect {
    pthread_mutex_t curves_lock;
    struct rf_eta *curves;
    struct class **classes;
    int n_classes, n_weights;
    struct lesson lessons[MAX_UNLEARNED];
    int n_lessons;
    uint64_t n_copies;
    bool busy;                   /* somebody is making the next one */
    struct forecast *forecast;
};

struct rf_expect *rf_expect_create(void)
{
    struct rf_expect *e = rf_new(struct rf_expect);
    pthread_mutex_init(&e->curves_lock, NULL);
    e->curves = rf_eta_create();
    return e;
}

static void forecast_destroy(struct forecast **f)
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
    for (int i = 0; i < e->n_classes; i++) {
        struct class *c = e->classes[i];
        for (int k = 0; k < c->n_models; k++) {
            free(c->models[k].name);
            free(c->models[k].hash);
        }
        free(c->models);
        free(c->device_kind);
        free(c->device_name);
        free(c->precision);
        free(c);
    }
    free(e->classes);
    forecast_destroy(&e->forecast);
    rf_eta_destroy(&e->curves);
    pthread_mutex_destroy(&e->curves_lock);
    rf_free(expect);
}

/* ---- classes ---- */

static bool same(const struct class *c, const struct rf_wire_register *reg)
{
    if (c->n_models != reg->n_models || strcmp(c->device_kind, reg->device_kind) != 0 ||
        strcmp(c->device_name, reg->device_name) != 0 || strcmp(c->precision, reg->precision) != 0)
        return false;
    for (int i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i].name, reg->models[i].name) != 0 || strcmp(c->models[i].hash, reg->models[i].hash) != 0 ||
            c->models[i].max_frames != reg->models[i].max_segment_frames)
            return false;
    return true;
}

/* The same weights at the same precision have one number, whoever has them. */
static int weights_number(struct rf_expect *e, const char *precision, const char *hash)
{
    for (int i = 0; i < e->n_classes; i++)
        for (int k = 0; strcmp(e->classes[i]->precision, precision) == 0 && k < e->classes[i]->n_models; k++)
            if (strcmp(e->classes[i]->models[k].hash, hash) == 0)
                return e->classes[i]->models[k].weights;
    return ++e->n_weights;
}

static struct class *class_of(struct rf_expect *e, struct rf_live_worker *w)
{
    if (w->class > 0)
        return e->classes[w->class - 1];
    int i = 0;
    while (i < e->n_classes && !same(e->classes[i], w->reg))
        i++;
    w->class = i + 1;
    if (i < e->n_classes)
        return e->classes[i];
    struct class *c = rf_new(struct class);
    *c = (struct class){.device_kind = rf_strdup(w->reg->device_kind), .device_name = rf_strdup(w->reg->device_name),
                        .precision = rf_strdup(w->reg->precision), .n_models = w->reg->n_models, .kind = -1,
                        .models = rf_new_array(struct class_model, (size_t)w->reg->n_models + 1)};
    for (int k = 0; k < c->n_models; k++) {
        const struct rf_wire_model *m = &w->reg->models[k];
        c->models[k] = (struct class_model){rf_strdup(m->name), rf_strdup(m->hash), m->max_segment_frames,
                                            weights_number(e, c->precision, m->hash)};
    }
    e->classes = rf_realloc(e->classes, (size_t)e->n_classes + 1, sizeof(struct class *));
    e->classes[e->n_classes++] = c;
    return c;
}

static const struct class_model *model_for(const struct class *c, const struct rf_lane *lane)
{
    if (lane->precision[0] != '\0' && strcmp(lane->precision, c->precision) != 0)
        return NULL;
    for (int i = 0; i < c->n_models; i++)
        if ((lane->model[0] == '\0' || strcmp(lane->model, c->models[i].name) == 0) &&
            (lane->hash[0] == '\0' || strcmp(lane->hash, c->models[i].hash) == 0))
            return &c->models[i];
    return NULL;
}

/* ---- learning ---- */

static int task_frames(const struct rf_live_job *job, int task)
{
    struct rf_queue_job q = {.task = task, .n_tasks = job->n_tasks, .work.n_frames = job->n_frames};
    return rf_queue_task_frames(&q);
}

static struct rf_eta_work work_of(const struct rf_live_job *job)
{
    return (struct rf_eta_work){.width = job->width, .height = job->height, .n_frames = job->n_frames, .fps = job->fps,
                                .n_passes = job->n_passes};
}

static bool add_taken(void *ctx, const struct rf_wire_timing *t)
{
    struct rf_eta_taken *taken = ctx;
    if (strcmp(t->stage, "high_noise") == 0 || strcmp(t->stage, "low_noise") == 0)
        taken->passes += t->seconds;
    else if (strcmp(t->stage, "load") == 0)
        taken->load += t->seconds;
    else if (strcmp(t->stage, "interpolate") == 0)
        taken->smoothing += t->seconds;
    return true;
}

void rf_expect_learn(struct rf_store *s, const struct rf_live_job *job, const struct rf_live_worker *w,
                     const struct rf_wire_report *report, int64_t now_ms)
{
    struct rf_expect *e = s->expect;
    struct lesson l = {.class = class_of(e, (struct rf_live_worker *)(uintptr_t)w), .work = work_of(job),
                       .taken.all = (double)(now_ms - job->run->leased_ms) / 1000};
    const struct class_model *m = model_for(l.class, job->lane);
    l.work.assemble = job->task == job->n_tasks - 1;
    l.work.n_frames = task_frames(job, job->task);
    if (m == NULL && !l.work.assemble)
        return;
    l.model = m != NULL ? m->name : "";
    for (int i = 0; i < report->n_timings; i++)
        add_taken(&l.taken, &report->timings[i]);
    if (e->n_lessons == MAX_UNLEARNED) /* nobody has asked for a long time: the newest count */
        memmove(e->lessons, e->lessons + 1, --e->n_lessons * sizeof l);
    e->lessons[e->n_lessons++] = l;
}

static int kind_of(struct rf_expect *e, struct class *c)
{
    if (c->kind < 0)
        c->kind = rf_eta_kind(e->curves, c->device_kind, c->device_name, c->precision);
    return c->kind;
}

/* The kind of worker and the model that one finished attempt was made by. False: not known any more. */
static bool who_made(struct rf_store *s, sqlite3_stmt *q, int *ret_kind, const char **ret_model, cJSON **ret_json)
{
    const char *made_with = (const char *)sqlite3_column_text(q, 1);
    *ret_json = made_with != NULL ? cJSON_Parse(made_with) : NULL;
    static const char *const keys[] = {"device_kind", "device", "precision", "model", "worker"};
    const char *value[5];
    for (size_t i = 0; i < RF_COUNT_OF(keys); i++)
        if ((value[i] = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(*ret_json, keys[i]))) == NULL)
            return false;
    *ret_model = value[3];
    struct rf_live_worker *w = rf_sched_find_worker(s->sched, (const char *)sqlite3_column_text(q, 3));
    if (w != NULL)
        *ret_kind = kind_of(s->expect, class_of(s->expect, w));
    else if (strcmp(value[4], (const char *)sqlite3_column_text(q, 2)) == 0)
        *ret_kind = rf_eta_kind(s->expect->curves, value[0], value[1], value[2]);
    else
        return false;
    return true;
}

static void learn_row(struct rf_store *s, sqlite3_stmt *q)
{
    cJSON *json = NULL;
    const char *model;
    int kind;
    if (who_made(s, q, &kind, &model, &json)) {
        struct rf_queue_job job = {.task = sqlite3_column_int(q, 4), .n_tasks = sqlite3_column_int(q, 5),
                                   .work = {.width = sqlite3_column_int(q, 6), .height = sqlite3_column_int(q, 7),
                                            .n_frames = sqlite3_column_int(q, 8), .fps = sqlite3_column_int(q, 9)}};
        job.work.assemble = job.task == job.n_tasks - 1;
        job.work.n_frames = rf_queue_task_frames(&job);
        job.work.n_passes = rf_eta_passes(sqlite3_column_int(q, 10), sqlite3_column_int(q, 11), sqlite3_column_double(q, 12),
                                          sqlite3_column_double(q, 13));
        struct rf_eta_taken taken = {.all = (double)sqlite3_column_int64(q, 14) / 1000};
        rf_read_timings((const char *)sqlite3_column_text(q, 15), add_taken, &taken);
        rf_eta_learn(s->expect->curves, kind, model, &job.work, &taken);
    }
    cJSON_Delete(json);
}

enum rf_code rf_expect_load(struct rf_store *s, struct rf_err *err)
{
    static const char sql[] =
        "SELECT j.row, j.made_with, a.worker, a.worker_id, a.task, j.n_tasks, j.width, j.height, j.n_frames, j.fps, j.n_steps, "
        "json_extract(j.request, '$.switch_step'), json_extract(j.request, '$.guidance_scale'), "
        "json_extract(j.request, '$.guidance_scale_2'), a.ended_ms - a.started_ms, a.timings "
        "FROM (SELECT * FROM jobs WHERE state = 2 ORDER BY row DESC LIMIT ?1) AS j CROSS JOIN attempts AS a ON a.job = j.row "
        "WHERE a.outcome = 0 ORDER BY a.ended_ms";
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(s->db, sql, -1, &q, NULL) != SQLITE_OK)
        return rf_db_fail(s->db, err, "read timings");
    sqlite3_bind_int(q, 1, LOAD_JOBS);
    int rc;
    while ((rc = sqlite3_step(q)) == SQLITE_ROW)
        learn_row(s, q);
    enum rf_code code = rc == SQLITE_DONE ? RF_OK : rf_db_fail(s->db, err, "read timings");
    sqlite3_finalize(q);
    return code;
}

/* ---- a copy of the queue, to be played outside of the lock ---- */

struct pace {                    /* of a running task, seconds */
    double gone, gone_when_told, fraction;
};

struct copy {
    struct rf_queue q;
    struct pace *paces;          /* [q.n_jobs] */
    struct class **classes;      /* [q.n_classes] */
    const struct class_model **models; /* [q.n_classes * q.n_lanes]; NULL: cannot run it */
    struct rf_lane **lanes;      /* [q.n_lanes]; 0 is anywhere. Under the lock only */
    struct lesson lessons[MAX_UNLEARNED];
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
    struct class *c = class_of(e, w);
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
    *to = (struct rf_queue_job){.row = job->row, .priority = job->priority, .share = share_index(c, job->share),
                                .lane = lane_index(c, job->lane), .task = job->task, .n_tasks = job->n_tasks,
                                .begun = job->begun, .n_steps = job->n_steps,
                                .max_segment_frames = job->max_segment_frames, .work = work_of(job), .class = -1};
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
    struct class *class = class_of(c->e, w);
    for (to->class = 0; c->e->classes[to->class] != class; to->class++)
        ;
    to->class_stays = w->state == RF_WORKER_IDLE;
    c->paces[c->q.n_jobs - 1] = (struct pace){.gone = (double)(s->wall_ms - job->run->leased_ms) / 1000,
                                              .gone_when_told = (double)(job->run->told_ms - job->run->leased_ms) / 1000,
                                              .fraction = job->run->fraction};
}

static void copy_fits(struct copy *c)
{
    c->q.n_classes = c->e->n_classes;
    c->q.n_idle = rf_new_array(int, (size_t)c->q.n_classes + 1);
    c->classes = rf_new_array(struct class *, (size_t)c->q.n_classes + 1);
    c->q.fit = rf_new_array(struct rf_queue_fit, (size_t)(c->q.n_classes * c->q.n_lanes) + 1);
    c->models = rf_new_array(const struct class_model *, (size_t)(c->q.n_classes * c->q.n_lanes) + 1);
    for (int i = 0; i < c->q.n_classes; i++) {
        c->classes[i] = c->e->classes[i];
        c->q.n_idle[i] = c->classes[i]->n_idle;
        for (int k = 1; k < c->q.n_lanes; k++) {
            const struct class_model *m = model_for(c->classes[i], c->lanes[k]);
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
                             .n_lanes = 1, .paused = s->paused, .max_tasks = MAX_TASKS};
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
    memcpy(c->lessons, e->lessons, (size_t)e->n_lessons * sizeof e->lessons[0]);
    c->n_lessons = e->n_lessons;
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
    const struct class_model *m = c->models[class * c->q.n_lanes + job->lane];
    work.assemble = job->task == job->n_tasks - 1;
    work.n_frames = rf_queue_task_frames(job);
    return rf_eta_guess(c->e->curves, kind_of(c->e, c->classes[class]), m != NULL ? m->name : "", &work, ret);
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

static struct forecast *play(struct copy *c)
{
    struct rf_queue *q = &c->q;
    q->guess = guess_task;
    q->ctx = c;
    for (int i = 0; i < q->n_jobs; i++)
        if (q->jobs[i].class >= 0)
            q->jobs[i].left = left_of(c, &q->jobs[i], &c->paces[i]);
    rf_queue_run(q);
    struct forecast *f = rf_new(struct forecast);
    *f = (struct forecast){.made_ms = c->now_ms, .paused = q->paused, .whole = c->whole && !q->cut, .starts = q->starts,
                           .n_starts = q->n_starts, .free_s = q->free_s, .n_jobs = q->n_jobs,
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

static void learn(struct copy *c)
{
    for (int i = 0; i < c->n_lessons; i++) {
        const struct lesson *l = &c->lessons[i];
        rf_eta_learn(c->e->curves, kind_of(c->e, l->class), l->model, &l->work, &l->taken);
    }
}

/* Makes a new forecast when the last one is old and nobody else is at it. */
static void refresh(struct rf_store *s)
{
    struct rf_expect *e = s->expect;
    pthread_mutex_lock(&s->lock);
    int64_t age_ms = e->forecast != NULL ? s->wall_ms - e->forecast->made_ms : FRESH_MS;
    bool old = !e->busy && (age_ms >= FRESH_MS || age_ms < 0);
    struct copy *c = old ? copy_queue(s) : NULL;
    e->busy |= old;
    pthread_mutex_unlock(&s->lock);
    if (c == NULL)
        return;
    pthread_mutex_lock(&e->curves_lock);
    learn(c);
    struct forecast *f = play(c);
    pthread_mutex_unlock(&e->curves_lock);
    pthread_mutex_lock(&s->lock);
    struct forecast *before = e->forecast;
    e->forecast = f;
    e->busy = false;
    pthread_mutex_unlock(&s->lock);
    forecast_destroy(&before);
    copy_destroy(&c);
}

/* ---- one job ---- */

/* When a job at this place among the ready ones will get its first worker: seconds from f->made_ms, NAN unknown. Behind the
 * part that was played, jobs go on at the rate of those in it. */
static double start_at(const struct forecast *f, int64_t place)
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
    struct class *class[MAX_CANDIDATES];
    const struct class_model *model[MAX_CANDIDATES];
    int n;
};

static void find_candidates(const struct rf_expect *e, const struct rf_live_job *job, struct candidates *to)
{
    to->n = 0;
    for (int i = 0; i < e->n_classes && to->n < MAX_CANDIDATES; i++) {
        const struct class_model *m = e->classes[i]->n_serving > 0 ? model_for(e->classes[i], job->lane) : NULL;
        if (m != NULL && task_frames(job, 0) <= m->max_frames) {
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
        int kind = kind_of(e, who->class[i]), frames_before = 0;
        struct rf_guess sum = {0}, one = {0};
        bool good = true;
        for (int task = job.task; good && task < job.n_tasks; task++) {
            struct rf_queue_job at = job;
            at.task = task;
            struct rf_eta_work work = job.work;
            work.assemble = task == job.n_tasks - 1;
            work.n_frames = rf_queue_task_frames(&at);
            if (work.assemble || work.n_frames != frames_before)
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
    *live = (struct rf_live_job){.row = INT64_MAX, .priority = r->priority, .n_tasks = plan.n_segments + 1, .width = r->width,
                                 .height = r->height, .n_frames = r->n_frames, .fps = r->fps, .n_steps = r->n_steps,
                                 .max_segment_frames = r->max_segment_frames,
                                 .n_passes = rf_eta_passes(r->n_steps, r->switch_step, r->guidance_scale, r->guidance_scale_2)};
    rf_sched_add(s->sched, live, r->user, r->model, NULL, NULL);
    rf_sched_make_ready(s->sched, live);
    return live;
}

static const struct expected *find_expected(const struct forecast *f, int64_t row)
{
    struct expected key = {.row = row};
    return bsearch(&key, f->jobs, (size_t)f->n_jobs, sizeof key, by_row);
}

/* From the forecast, as long as the job is where it was. False: it came after, or waits behind the part that was played. */
static bool take_expected(const struct forecast *f, const struct rf_live_job *live, int64_t now_ms, struct rf_job *job)
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
    refresh(s);
    pthread_mutex_lock(&s->lock);
    struct rf_live_job *live = plan_only ? put_in_queue(s, job->request) : rf_sched_find(s->sched, id.row);
    if (live == NULL) {
        pthread_mutex_unlock(&s->lock);
        return;
    }
    int64_t now_ms = s->wall_ms, place = rf_sched_position(s->sched, live);
    const struct forecast *f = s->expect->forecast;
    if (live->run == NULL) {
        if (job->state == RF_JOB_QUEUED)
            job->queue_position = place;
        job->nobody_can_run = rf_sched_nobody_can_run(s->sched, live);
    }
    struct candidates who = {.n = 0};
    struct rf_queue_job rest = {.task = live->task, .n_tasks = live->n_tasks, .work = work_of(live)};
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
