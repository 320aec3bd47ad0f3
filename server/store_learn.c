/* Kinds of workers, and what tasks took on them; see store_expect.h. SPDX-License-Identifier: Apache-2.0 */
#include "server/store_expect_private.h"
#include "server/store_reader.h"

#include <string.h>

#define LOAD_JOBS 1000

/* ---- classes ---- */

void rf_classes_free(struct rf_expect *e)
{
    for (int i = 0; i < e->n_classes; i++) {
        struct rf_class *c = e->classes[i];
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
}

static bool same(const struct rf_class *c, const struct rf_wire_register *reg)
{
    if (c->n_models != reg->n_models || strcmp(c->device_kind, reg->device_kind) != 0 ||
        strcmp(c->device_name, reg->device_name) != 0 || strcmp(c->precision, reg->precision) != 0)
        return false;
    for (int i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i].name, reg->models[i].name) != 0 ||
            strcmp(c->models[i].hash, reg->models[i].hash) != 0 ||
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

struct rf_class *rf_class_of(struct rf_expect *e, struct rf_live_worker *w)
{
    if (w->class > 0)
        return e->classes[w->class - 1];
    int i = 0;
    while (i < e->n_classes && !same(e->classes[i], w->reg))
        i++;
    w->class = i + 1;
    if (i < e->n_classes)
        return e->classes[i];
    struct rf_class *c = rf_new(struct rf_class);
    *c = (struct rf_class){.device_kind = rf_strdup(w->reg->device_kind), .device_name = rf_strdup(w->reg->device_name),
                        .precision = rf_strdup(w->reg->precision), .n_models = w->reg->n_models, .kind = -1,
                        .models = rf_new_array(struct rf_class_model, (size_t)w->reg->n_models + 1)};
    for (int k = 0; k < c->n_models; k++) {
        const struct rf_wire_model *m = &w->reg->models[k];
        c->models[k] = (struct rf_class_model){rf_strdup(m->name), rf_strdup(m->hash), m->max_segment_frames,
                                            weights_number(e, c->precision, m->hash)};
    }
    e->classes = rf_realloc(e->classes, (size_t)e->n_classes + 1, sizeof(struct rf_class *));
    e->classes[e->n_classes++] = c;
    return c;
}

const struct rf_class_model *rf_class_model(const struct rf_class *c, const struct rf_lane *lane)
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

int rf_expect_task_frames(const struct rf_live_job *job, int task)
{
    struct rf_queue_job q = {.task = task, .n_tasks = job->n_tasks, .work.n_frames = job->n_frames};
    return rf_queue_task_frames(&q);
}

struct rf_eta_work rf_expect_work(const struct rf_live_job *job)
{
    return (struct rf_eta_work){.width = job->width, .height = job->height, .n_frames = job->n_frames, .fps = job->fps,
                                .n_passes = job->n_passes, .image = job->has_image};
}

static bool add_taken(void *ctx, const struct rf_wire_timing *t)
{
    struct rf_eta_taken *taken = ctx;
    if (strcmp(t->stage, "high_noise") == 0 || strcmp(t->stage, "low_noise") == 0)
        taken->passes += t->seconds;
    else if (strcmp(t->stage, "load") == 0)
        taken->load += t->seconds;
    else if (strcmp(t->stage, "encode_image") == 0)
        taken->image += t->seconds;
    else if (strcmp(t->stage, "interpolate") == 0)
        taken->smoothing += t->seconds;
    return true;
}

void rf_expect_learn(struct rf_store *s, const struct rf_live_job *job, const struct rf_live_worker *w,
                     const struct rf_wire_report *report, int64_t now_ms)
{
    struct rf_expect *e = s->expect;
    struct rf_lesson l = {.class = rf_class_of(e, (struct rf_live_worker *)(uintptr_t)w), .work = rf_expect_work(job),
                       .taken.all = (double)(now_ms - job->run->leased_ms) / 1000};
    const struct rf_class_model *m = rf_class_model(l.class, job->lane);
    l.work.assemble = job->task == job->n_tasks - 1;
    l.work.n_frames = rf_expect_task_frames(job, job->task);
    if (m == NULL && !l.work.assemble)
        return;
    l.model = m != NULL ? m->name : "";
    for (int i = 0; i < report->n_timings; i++)
        add_taken(&l.taken, &report->timings[i]);
    e->lessons[e->n_lessons++ % RF_MAX_UNLEARNED] = l; /* nobody has asked for a long time: the newest count */
}

int rf_class_kind(struct rf_expect *e, struct rf_class *c)
{
    if (c->kind < 0)
        c->kind = rf_eta_kind(e->curves, c->device_kind, c->device_name, c->precision);
    return c->kind;
}

void rf_expect_take_lessons(struct rf_expect *e, const struct rf_lesson *lessons, int n)
{
    for (int i = 0; i < n; i++) {
        const struct rf_lesson *l = &lessons[i];
        rf_eta_learn(e->curves, rf_class_kind(e, l->class), l->model, &l->work, &l->taken);
    }
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
        *ret_kind = rf_class_kind(s->expect, rf_class_of(s->expect, w));
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
        job.work.image = job.task > 0 || sqlite3_column_int(q, 16);
        job.work.n_passes = rf_eta_passes(sqlite3_column_int(q, 10), sqlite3_column_int(q, 11),
                                          sqlite3_column_double(q, 12), sqlite3_column_double(q, 13));
        struct rf_eta_taken taken = {.all = (double)sqlite3_column_int64(q, 14) / 1000};
        rf_read_timings((const char *)sqlite3_column_text(q, 15), add_taken, &taken);
        rf_eta_learn(s->expect->curves, kind, model, &job.work, &taken);
    }
    cJSON_Delete(json);
}

enum rf_code rf_expect_load(struct rf_store *s, struct rf_err *err)
{
    static const char sql[] =
        "SELECT j.row, j.made_with, a.worker, a.worker_id, a.task, j.n_tasks, j.width, j.height, j.n_frames, j.fps, "
        "j.n_steps, "
        "json_extract(j.request, '$.switch_step'), json_extract(j.request, '$.guidance_scale'), "
        "json_extract(j.request, '$.guidance_scale_2'), a.ended_ms - a.started_ms, a.timings, j.has_image "
        "FROM (SELECT * FROM jobs WHERE state = 2 ORDER BY row DESC LIMIT ?1) AS j "
        "CROSS JOIN attempts AS a ON a.job = j.row "
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
