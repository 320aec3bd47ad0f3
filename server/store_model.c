/* What is known of models and workers, as copies for whoever asks. SPDX-License-Identifier: Apache-2.0 */
#include "server/store_private.h"

#include <stdatomic.h>
#include <string.h>

/* ---- models ---- */

/* What rf_store_model() hands out is shared: every submit asks for it, and a copy took longer than all else about one. So
 * it never changes once it is in the list; a new count of workers makes a new one. */
struct shared_model {
    struct rf_known_model known; /* first: callers hold its address */
    atomic_int n_refs;
};

/* Through JSON, the one form that knows all fields. */
static struct rf_known_model *copy_model(const struct rf_wire_model *model, int n_alive)
{
    struct rf_wire_register one = {.protocol = RF_PROTOCOL, .name = "x", .build = "", .host = "", .device_kind = "x",
                                   .device_name = "", .precision = "", .models = (struct rf_wire_model *)model,
                                   .n_models = 1};
    RF_AUTO(rf_json_destroy) cJSON *json = rf_wire_register_build(&one);
    struct rf_wire_register *copy = NULL;
    RF_ASSERT(rf_wire_register_read(json, &copy, NULL) == RF_OK);
    struct shared_model *shared = rf_new(struct shared_model);
    shared->known = (struct rf_known_model){copy->models[0], n_alive};
    atomic_init(&shared->n_refs, 1);
    copy->n_models = 0; /* its parts are ours now */
    rf_wire_register_destroy(&copy);
    return &shared->known;
}

static struct rf_known_model *ref(struct rf_known_model *known)
{
    atomic_fetch_add_explicit(&((struct shared_model *)known)->n_refs, 1, memory_order_relaxed);
    return known;
}

void rf_known_model_destroy(struct rf_known_model **model)
{
    struct shared_model *shared = (struct shared_model *)*model;
    *model = NULL;
    if (shared == NULL || atomic_fetch_sub(&shared->n_refs, 1) > 1)
        return;
    struct rf_wire_register *owner = rf_new(struct rf_wire_register);
    owner->models = rf_new(struct rf_wire_model);
    owner->models[0] = shared->known.model;
    owner->n_models = 1;
    rf_wire_register_destroy(&owner);
    free(shared);
}

/* Takes `fresh`. */
static void put_model(struct rf_store *s, int i, struct rf_known_model *fresh)
{
    pthread_mutex_lock(&s->models_lock);
    if (i == s->n_models) {
        s->models = rf_realloc(s->models, (size_t)s->n_models + 1, sizeof(struct rf_known_model *));
        s->models[s->n_models++] = NULL;
    }
    struct rf_known_model *old = s->models[i];
    s->models[i] = fresh;
    pthread_mutex_unlock(&s->models_lock);
    rf_known_model_destroy(&old);
}

void rf_model_learn(struct rf_store *s, const struct rf_wire_model *model)
{
    int i = 0;
    while (i < s->n_models && strcmp(s->models[i]->model.name, model->name) != 0)
        i++;
    put_model(s, i, copy_model(model, i < s->n_models ? s->models[i]->n_alive : 0));
    s->models_epoch = 0;
}

struct census {
    const struct rf_store *s;
    int *n_alive;                /* by model */
};

static void count_alive(void *ctx, struct rf_live_worker *w)
{
    const struct census *c = ctx;
    if (w->state != RF_WORKER_IDLE && w->state != RF_WORKER_DRAINING)
        return;
    for (int i = 0; i < c->s->n_models; i++)
        for (int k = 0; k < w->reg->n_models; k++)
            c->n_alive[i] += strcmp(c->s->models[i]->model.name, w->reg->models[k].name) == 0;
}

void rf_models_refresh(struct rf_store *s)
{
    uint64_t epoch = rf_sched_workers_epoch(s->sched);
    if (s->models_epoch == epoch)
        return;
    s->models_epoch = epoch;
    RF_AUTO(rf_free) int *n_alive = rf_new_array(int, (size_t)s->n_models);
    struct census census = {s, n_alive};
    rf_sched_each_worker(s->sched, count_alive, &census);
    for (int i = 0; i < s->n_models; i++)
        if (s->models[i]->n_alive != n_alive[i])
            put_model(s, i, copy_model(&s->models[i]->model, n_alive[i]));
}

enum rf_code rf_store_model(struct rf_store *s, const char *name, struct rf_known_model **ret_model, struct rf_err *err)
{
    struct rf_known_model *found = NULL;
    bool any = name == NULL || name[0] == '\0';
    pthread_mutex_lock(&s->models_lock);
    for (int i = 0; i < s->n_models; i++)
        if (any ? found == NULL || (found->n_alive == 0 && s->models[i]->n_alive > 0)
                : strcmp(s->models[i]->model.name, name) == 0)
            found = s->models[i];
    if (found != NULL)
        *ret_model = ref(found);
    pthread_mutex_unlock(&s->models_lock);
    if (found == NULL)
        return any ? rf_fail(err, RF_ERR_NOT_FOUND, "no worker has registered a model yet")
                   : rf_fail(err, RF_ERR_NOT_FOUND, "no worker ever had a model '%.60s'", name);
    return RF_OK;
}

void rf_store_models(struct rf_store *s, struct rf_known_model ***ret_models, int *ret_n)
{
    pthread_mutex_lock(&s->models_lock);
    *ret_n = s->n_models;
    *ret_models = rf_new_array(struct rf_known_model *, (size_t)s->n_models);
    for (int i = 0; i < s->n_models; i++)
        (*ret_models)[i] = ref(s->models[i]);
    pthread_mutex_unlock(&s->models_lock);
}

/* ---- workers ---- */

struct collector {
    struct rf_workers *out;
    int capacity;
};

static void collect(void *ctx, struct rf_live_worker *w)
{
    struct collector *c = ctx;
    struct rf_workers *out = c->out;
    if (out->n_workers == c->capacity) {
        c->capacity = c->capacity ? 2 * c->capacity : 16;
        out->workers = rf_realloc(out->workers, (size_t)c->capacity, sizeof *out->workers);
    }
    struct rf_worker *r = &out->workers[out->n_workers++];
    const struct rf_wire_register *reg = w->reg;
    *r = (struct rf_worker){
        .state = w->state == RF_WORKER_IDLE && w->n_held > 0 ? RF_WORKER_BUSY : w->state,
        .name = rf_strdup(reg->name), .build = rf_strdup(reg->build), .host = rf_strdup(reg->host),
        .device_kind = rf_strdup(reg->device_kind), .device_name = rf_strdup(reg->device_name),
        .precision = rf_strdup(reg->precision), .pid = reg->pid, .memory_bytes = reg->memory_bytes,
        .registered_ms = w->registered_ms, .seen_ms = w->seen_wall_ms, .n_done = w->n_done, .n_failed = w->n_failed};
    if (w->state == RF_WORKER_IDLE || w->state == RF_WORKER_DRAINING) {
        r->gauges = w->gauges;
        r->gauges_ms = w->gauges_ms;
    }
    memcpy(r->id, w->id, sizeof r->id);
    memcpy(r->task_id, w->n_held > 0 ? w->task_id : "", w->n_held > 0 ? sizeof r->task_id : 1);
    RF_AUTO(rf_json_destroy) cJSON *models = rf_wire_models_build(reg->models, reg->n_models);
    r->models_text = cJSON_PrintUnformatted(models);
}

static int by_age(const void *a, const void *b)
{
    const struct rf_worker *x = a, *y = b;
    return x->registered_ms != y->registered_ms ? (x->registered_ms > y->registered_ms ? 1 : -1) : strcmp(x->id, y->id);
}

void rf_store_workers(struct rf_store *s, struct rf_workers **ret_workers)
{
    struct collector c = {rf_new(struct rf_workers), 0};
    pthread_mutex_lock(&s->lock);
    rf_sched_each_worker(s->sched, collect, &c);
    pthread_mutex_unlock(&s->lock);
    if (c.out->n_workers > 0)
        qsort(c.out->workers, (size_t)c.out->n_workers, sizeof c.out->workers[0], by_age);
    *ret_workers = c.out;
}

void rf_workers_destroy(struct rf_workers **workers)
{
    struct rf_workers *w = *workers;
    if (w == NULL)
        return;
    for (int i = 0; i < w->n_workers; i++) {
        struct rf_worker *r = &w->workers[i];
        char *texts[] = {r->name, r->build, r->host, r->device_kind, r->device_name, r->precision, r->models_text};
        for (size_t k = 0; k < RF_COUNT_OF(texts); k++)
            free(texts[k]);
    }
    free(w->workers);
    free(w);
    *workers = NULL;
}

/* ---- counts ---- */

static void count_worker(void *ctx, struct rf_live_worker *w)
{
    struct rf_store_counts *counts = ctx;
    counts->n_workers += w->state == RF_WORKER_IDLE || w->state == RF_WORKER_DRAINING;
}

void rf_store_counts(struct rf_store *s, struct rf_store_counts *ret_counts)
{
    *ret_counts = (struct rf_store_counts){0};
    pthread_mutex_lock(&s->lock);
    memcpy(ret_counts->jobs, s->n_jobs, sizeof ret_counts->jobs);
    memcpy(ret_counts->last_hour, s->last_hour, sizeof ret_counts->last_hour);
    ret_counts->leased = rf_sched_n_leased(s->sched);
    ret_counts->paused = s->paused;
    ret_counts->disk_low = s->disk_low;
    ret_counts->disk_free_bytes = s->disk_free_bytes;
    ret_counts->disk_floor_bytes = s->disk_floor_bytes;
    ret_counts->disk_reserved_bytes = rf_sched_reserved_bytes(s->sched);
    rf_sched_each_worker(s->sched, count_worker, ret_counts);
    pthread_mutex_unlock(&s->lock);
}
