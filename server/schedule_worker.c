/* Workers in memory, and which lanes they can serve. SPDX-License-Identifier: Apache-2.0 */
#include "server/schedule_private.h"

#include <string.h>

uint32_t rf_sched_hash(const char *text)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++)
        h = (h ^ *p) * 16777619u;
    return h ^ h >> 15;
}

/* A handful: one per model and settled weights in use. */
struct rf_lane *rf_sched_lane_ref(struct rf_sched *s, const char *model, const char *hash, const char *precision)
{
    struct rf_lane *lane = s->lanes;
    while (lane != NULL && (strcmp(lane->model, model) != 0 || strcmp(lane->hash, hash) != 0 ||
                            strcmp(lane->precision, precision) != 0))
        lane = lane->next;
    if (lane == NULL) {
        lane = rf_new(struct rf_lane);
        *lane = (struct rf_lane){.model = rf_strdup(model), .hash = rf_strdup(hash), .precision = rf_strdup(precision),
                                 .next = s->lanes};
        s->lanes = lane;
    }
    lane->n_jobs++;
    return lane;
}

void rf_sched_lane_unref(struct rf_sched *s, struct rf_lane *lane)
{
    if (--lane->n_jobs > 0)
        return;
    struct rf_lane **at = &s->lanes;
    while (*at != lane)
        at = &(*at)->next;
    *at = lane->next;
    free(lane->model);
    free(lane->hash);
    free(lane->precision);
    free(lane);
}

struct rf_lane *rf_sched_lane_of(struct rf_sched *s, const struct rf_live_job *job)
{
    return job->task == job->n_tasks - 1 ? s->anywhere : job->lane;
}

static const struct rf_wire_model *model_for(const struct rf_live_worker *w, const struct rf_lane *lane)
{
    if (lane->precision[0] != '\0' && strcmp(lane->precision, w->reg->precision) != 0)
        return NULL;
    for (int i = 0; i < w->reg->n_models; i++) {
        const struct rf_wire_model *m = &w->reg->models[i];
        if ((lane->model[0] == '\0' || strcmp(lane->model, m->name) == 0) &&
            (lane->hash[0] == '\0' || strcmp(lane->hash, m->hash) == 0))
            return m;
    }
    return NULL;
}

bool rf_sched_fits(const struct rf_live_worker *w, const struct rf_lane *lane)
{
    bool anything = lane->model[0] == '\0' && lane->hash[0] == '\0' && lane->precision[0] == '\0';
    return anything || model_for(w, lane) != NULL;
}

static bool is_serving(const struct rf_live_worker *w)
{
    return w->state == RF_WORKER_IDLE;
}

static int n_capable(struct rf_sched *s, struct rf_lane *lane)
{
    if (lane->capable_epoch != s->epoch) {
        lane->n_capable = 0;
        for (int i = 0; i < RF_WORKER_SLOTS; i++)
            for (const struct rf_live_worker *w = s->workers[i]; w != NULL; w = w->next)
                lane->n_capable += is_serving(w) && rf_sched_fits(w, lane);
        lane->capable_epoch = s->epoch;
    }
    return lane->n_capable;
}

bool rf_sched_can_run(const struct rf_live_worker *w, const struct rf_live_job *job, const struct rf_wire_model **ret_model)
{
    const struct rf_wire_model *m = model_for(w, job->lane);
    bool assembling = job->task == job->n_tasks - 1;
    if (ret_model != NULL)
        *ret_model = m;
    if (assembling)
        return true;
    /* The first segment is the longest one: ceil over the latent steps, see plan.h. */
    int steps = (job->n_frames - 1) / 4, n_segments = job->n_tasks - 1;
    return m != NULL && 4 * ((steps + n_segments - 1) / n_segments) + 1 <= m->max_segment_frames;
}

bool rf_sched_may_have(struct rf_sched *s, struct rf_live_job *job, const struct rf_live_worker *w)
{
    if (job->avoid != NULL && strcmp(job->avoid, w->id) == 0 && n_capable(s, rf_sched_lane_of(s, job)) > 1)
        return false;
    return rf_sched_can_run(w, job, NULL);
}

bool rf_sched_nobody_can_run(struct rf_sched *s, struct rf_live_job *job)
{
    return n_capable(s, rf_sched_lane_of(s, job)) == 0;
}

/* ---- workers by id ---- */

static size_t slot(const char *id)
{
    return rf_sched_hash(id) % RF_WORKER_SLOTS;
}

void rf_sched_add_worker(struct rf_sched *s, struct rf_live_worker *w)
{
    w->next = s->workers[slot(w->id)];
    s->workers[slot(w->id)] = w;
    s->epoch++;
}

struct rf_live_worker *rf_sched_find_worker(struct rf_sched *s, const char *id)
{
    struct rf_live_worker *w = s->workers[slot(id)];
    while (w != NULL && strcmp(w->id, id) != 0)
        w = w->next;
    return w;
}

static void free_worker(struct rf_live_worker *w)
{
    rf_wire_register_destroy(&w->reg);
    free(w->registration_text);
    free(w);
}

void rf_sched_remove_worker(struct rf_sched *s, struct rf_live_worker *w)
{
    struct rf_live_worker **at = &s->workers[slot(w->id)];
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    free_worker(w);
    s->epoch++;
}

void rf_sched_free_workers(struct rf_sched *s)
{
    for (int i = 0; i < RF_WORKER_SLOTS; i++)
        while (s->workers[i] != NULL)
            rf_sched_remove_worker(s, s->workers[i]);
}

void rf_sched_workers_changed(struct rf_sched *s)
{
    s->epoch++;
}

uint64_t rf_sched_workers_epoch(const struct rf_sched *s)
{
    return s->epoch;
}

void rf_sched_each_worker(struct rf_sched *s, void (*each)(void *ctx, struct rf_live_worker *w), void *ctx)
{
    for (int i = 0; i < RF_WORKER_SLOTS; i++)
        for (struct rf_live_worker *w = s->workers[i], *next; w != NULL; w = next) {
            next = w->next; /* `each` may change anything but the chains */
            each(ctx, w);
        }
}
