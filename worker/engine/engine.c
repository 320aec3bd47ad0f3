/* The front: opening, arenas, views, and the shape checks of every op, done once for all backends.
 *
 * A shape that disagrees is a mistake of ours and aborts here, before a kernel can read past a buffer. What a backend
 * reports (a lost device) is kept: the first failure sticks, later ops do nothing, rf_engine_sync() hands it out.
 * The ops are in ops.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/front.h"

#include <stdio.h>
#include <string.h>

#define ARENA_ALIGN 256 /* what tensor cores and 64-byte vectors both like */

struct rf_arena {
    struct rf_engine *e;
    char *data;
    int64_t size, used;
};

/* ---- views ---- */

int64_t rf_tensor_elements(const struct rf_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

size_t rf_tensor_bytes(const struct rf_tensor *t)
{
    return (size_t)rf_tensor_elements(t) * rf_dtype_size(t->dtype);
}

struct rf_tensor rf_tensor_slice(const struct rf_tensor *t, int64_t first, int64_t n)
{
    RF_ASSERT(t->n_dims >= 1 && first >= 0 && n >= 0 && first + n <= t->shape[0]);
    struct rf_tensor view = *t;
    view.shape[0] = 1;
    size_t row_bytes = rf_tensor_bytes(&view);
    view.data = t->data ? (char *)t->data + (size_t)first * row_bytes : NULL;
    view.shape[0] = n;
    return view;
}

struct rf_tensor rf_tensor_reshape(const struct rf_tensor *t, int n_dims, const int64_t *shape)
{
    RF_ASSERT(n_dims >= 0 && n_dims <= RF_MAX_DIMS);
    struct rf_tensor view = *t;
    view.n_dims = n_dims;
    for (int i = 0; i < n_dims; i++)
        view.shape[i] = shape[i];
    RF_ASSERT(rf_tensor_elements(&view) == rf_tensor_elements(t));
    return view;
}

/* ---- opening ---- */

static bool known_precision(const char *word)
{
    return word == NULL || strcmp(word, "f32") == 0 || strcmp(word, "bf16") == 0 || strcmp(word, "fp8") == 0;
}

/* "cuda" and "cuda:N" give N, anything else -1. */
static int cuda_index(const char *device)
{
    if (strcmp(device, "cuda") == 0)
        return 0;
    int index, used = 0;
    if (sscanf(device, "cuda:%4d%n", &index, &used) == 1 && device[used] == '\0' && index >= 0)
        return index;
    return -1;
}

enum rf_code rf_front_open(const struct rf_backend *b, int index, const struct rf_engine_config *config,
                           struct rf_engine **ret_engine, struct rf_err *err)
{
    struct rf_engine *e = rf_new(struct rf_engine);
    e->backend = b;
    e->budget_bytes = config->budget_bytes;
    enum rf_code rc = b->open(config, index, &e->self, &e->device_name, &e->act_dtype, err);
    if (rc != RF_OK) {
        free(e);
        return rc;
    }
    e->separate_memory = config->separate_memory;
    e->attention8 = config->attention != NULL && strcmp(config->attention, "8bit") == 0;
    int64_t free_bytes;
    if (b->memory != NULL)
        b->memory(e->self, &e->fixed_bytes, &free_bytes);
    e->peak_bytes = e->fixed_bytes;
    if (e->budget_bytes > 0 && e->fixed_bytes > e->budget_bytes) {
        rc = rf_fail(err, RF_ERR_INVALID, "%s needs %lld MiB for itself, the budget is %lld MiB", e->device_name,
                     (long long)(e->fixed_bytes >> 20), (long long)(e->budget_bytes >> 20));
        rf_engine_close(&e);
        return rc;
    }
    *ret_engine = e;
    return RF_OK;
}

enum rf_code rf_engine_open(const struct rf_engine_config *config, struct rf_engine **ret_engine, struct rf_err *err)
{
    const char *device = config->device ? config->device : "auto";
    if (!known_precision(config->precision))
        return rf_fail(err, RF_ERR_INVALID, "precision '%.40s' is unknown; known are f32, bf16, fp8",
                       config->precision);
    if (config->attention != NULL && strcmp(config->attention, "exact") != 0 && strcmp(config->attention, "8bit") != 0)
        return rf_fail(err, RF_ERR_INVALID, "attention '%.40s' is unknown; known are exact, 8bit", config->attention);
    if (config->budget_bytes < 0)
        return rf_fail(err, RF_ERR_INVALID, "the memory budget is negative");
    if (strcmp(device, "cpu") == 0)
        return rf_front_open(&rf_backend_cpu, 0, config, ret_engine, err);
    if (strcmp(device, "auto") == 0) {
        if (rf_front_open(&rf_backend_cuda, 0, config, ret_engine, NULL) == RF_OK)
            return RF_OK;
        return rf_front_open(&rf_backend_cpu, 0, config, ret_engine, err);
    }
    int index = cuda_index(device);
    if (index < 0)
        return rf_fail(err, RF_ERR_INVALID, "device '%.40s' is unknown; known are auto, cpu, cuda, cuda:N", device);
    return rf_front_open(&rf_backend_cuda, index, config, ret_engine, err);
}

int rf_engine_n_cuda(void)
{
    return rf_backend_cuda.count != NULL ? rf_backend_cuda.count() : 0;
}

void rf_engine_close(struct rf_engine **engine)
{
    struct rf_engine *e = *engine;
    if (e == NULL)
        return;
    RF_ASSERT(e->n_arenas == 0); /* an arena that outlives its engine would be released into nothing */
    e->backend->close(e->self);
    free(e);
    *engine = NULL;
}

const char *rf_engine_device_name(const struct rf_engine *e)
{
    return e->device_name;
}

const char *rf_engine_pci_address(const struct rf_engine *e)
{
    return e->backend->pci_address != NULL ? e->backend->pci_address(e->self) : NULL;
}

const char *rf_engine_device_kind(const struct rf_engine *e)
{
    return e->backend->kind;
}

enum rf_dtype rf_engine_act_dtype(const struct rf_engine *e)
{
    return e->act_dtype;
}

bool rf_engine_is_host(const struct rf_engine *e)
{
    return e->backend->is_host && !e->separate_memory;
}

/* ---- failures, transfers ---- */

static enum rf_code take_failure(struct rf_engine *e, struct rf_err *err)
{
    if (e->failure.code == RF_OK)
        return RF_OK;
    enum rf_code code = rf_fail(err, e->failure.code, "%s", e->failure.msg);
    e->failure = (struct rf_err){0};
    return code;
}

enum rf_code rf_engine_sync(struct rf_engine *e, struct rf_err *err)
{
    if (e->failure.code == RF_OK)
        rf_front_note(e, e->backend->sync(e->self, &e->scratch_err));
    return take_failure(e, err);
}

void rf_front_note(struct rf_engine *e, enum rf_code rc)
{
    if (rc != RF_OK && e->failure.code == RF_OK) {
        e->failure = e->scratch_err;
        e->failure.code = rc;
    }
}

void rf_upload(struct rf_engine *e, const struct rf_tensor *t, const void *host)
{
    if (rf_front_failed(e) || rf_tensor_bytes(t) == 0)
        return;
    rf_front_note(e, e->backend->upload(e->self, t->data, host, rf_tensor_bytes(t), &e->scratch_err));
}

enum rf_code rf_download(struct rf_engine *e, const struct rf_tensor *t, void *host, struct rf_err *err)
{
    if (e->failure.code == RF_OK && rf_tensor_bytes(t) != 0)
        rf_front_note(e, e->backend->download(e->self, host, t->data, rf_tensor_bytes(t), &e->scratch_err));
    return take_failure(e, err);
}

/* ---- memory ---- */

#define RESERVE_BYTES ((int64_t)256 << 20) /* of what is free: kernels are loaded when they are first used */

int64_t rf_engine_fixed_bytes(const struct rf_engine *e)
{
    return e->fixed_bytes;
}

int64_t rf_engine_held_bytes(const struct rf_engine *e)
{
    return e->fixed_bytes + e->allocated_bytes;
}

int64_t rf_engine_peak_bytes(const struct rf_engine *e)
{
    return e->peak_bytes;
}

void rf_engine_reset_peak(struct rf_engine *e)
{
    e->peak_bytes = rf_engine_held_bytes(e);
}

int64_t rf_engine_limit_bytes(struct rf_engine *e)
{
    if (e->backend->memory == NULL)
        return e->budget_bytes;
    int64_t fixed = 0, free_bytes = 0;
    e->backend->memory(e->self, &fixed, &free_bytes);
    int64_t there = rf_engine_held_bytes(e) + (free_bytes > RESERVE_BYTES ? free_bytes - RESERVE_BYTES : 0);
    return e->budget_bytes > 0 && e->budget_bytes < there ? e->budget_bytes : there;
}

enum rf_code rf_host_alloc(struct rf_engine *e, int64_t size_bytes, void **ret_data, struct rf_err *err)
{
    RF_ASSERT(size_bytes > 0);
    if (e->backend->host_alloc != NULL)
        return e->backend->host_alloc(e->self, (size_t)size_bytes, ret_data, err);
    *ret_data = aligned_alloc(ARENA_ALIGN, (size_t)((size_bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN));
    return *ret_data ? RF_OK : rf_fail(err, RF_ERR_NO_MEMORY, "%lld MiB of host memory", (long long)(size_bytes >> 20));
}

void rf_host_free(struct rf_engine *e, void *data)
{
    if (data != NULL && e->backend->host_alloc != NULL)
        e->backend->host_release(e->self, data);
    else
        free(data);
}

void rf_slot_fill(struct rf_engine *e, int slot, const struct rf_tensor *t, const void *host)
{
    RF_ASSERT(slot >= 0 && slot < RF_COPY_SLOTS);
    if (e->backend->slot_fill == NULL)
        rf_upload(e, t, host);
    else if (!rf_front_failed(e))
        rf_front_note(e, e->backend->slot_fill(e->self, slot, t->data, host, rf_tensor_bytes(t), &e->scratch_err));
}

void rf_slot_wait(struct rf_engine *e, int slot)
{
    RF_ASSERT(slot >= 0 && slot < RF_COPY_SLOTS);
    if (e->backend->slot_wait != NULL && !rf_front_failed(e))
        rf_front_note(e, e->backend->slot_wait(e->self, slot, &e->scratch_err));
}

void rf_slot_release(struct rf_engine *e, int slot)
{
    RF_ASSERT(slot >= 0 && slot < RF_COPY_SLOTS);
    if (e->backend->slot_release != NULL && !rf_front_failed(e))
        rf_front_note(e, e->backend->slot_release(e->self, slot, &e->scratch_err));
}

/* ---- arenas ---- */

enum rf_code rf_arena_create(struct rf_engine *e, int64_t size_bytes, struct rf_arena **ret_arena, struct rf_err *err)
{
    RF_ASSERT(size_bytes >= 0);
    if (e->budget_bytes > 0 && size_bytes > e->budget_bytes - rf_engine_held_bytes(e))
        return rf_fail(err, RF_ERR_NO_MEMORY, "%lld MiB more would exceed the budget of %lld MiB (%lld MiB in use)",
                       (long long)(size_bytes >> 20), (long long)(e->budget_bytes >> 20),
                       (long long)(rf_engine_held_bytes(e) >> 20));
    struct rf_arena *a = rf_new(struct rf_arena);
    *a = (struct rf_arena){.e = e, .size = size_bytes};
    if (size_bytes > 0) {
        void *data = NULL;
        enum rf_code rc = e->backend->alloc(e->self, (size_t)size_bytes, &data, err);
        if (rc != RF_OK) {
            free(a);
            return rc;
        }
        a->data = data;
    }
    e->allocated_bytes += size_bytes;
    if (rf_engine_held_bytes(e) > e->peak_bytes)
        e->peak_bytes = rf_engine_held_bytes(e);
    e->n_arenas++;
    *ret_arena = a;
    return RF_OK;
}

void rf_arena_destroy(struct rf_arena **arena)
{
    struct rf_arena *a = *arena;
    if (a == NULL)
        return;
    if (a->data != NULL)
        a->e->backend->release(a->e->self, a->data);
    a->e->allocated_bytes -= a->size;
    a->e->n_arenas--;
    free(a);
    *arena = NULL;
}

int64_t rf_arena_cost(enum rf_dtype dtype, int n_dims, const int64_t *shape)
{
    int64_t bytes = (int64_t)rf_dtype_size(dtype);
    for (int i = 0; i < n_dims; i++)
        RF_ASSERT(shape[i] >= 0 && !__builtin_mul_overflow(bytes, shape[i], &bytes));
    RF_ASSERT(bytes <= INT64_MAX - ARENA_ALIGN);
    return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

struct rf_tensor rf_arena_tensor(struct rf_arena *a, enum rf_dtype dtype, int n_dims, const int64_t *shape)
{
    RF_ASSERT(n_dims >= 0 && n_dims <= RF_MAX_DIMS);
    int64_t cost = rf_arena_cost(dtype, n_dims, shape);
    RF_ASSERT(cost <= a->size - a->used);
    struct rf_tensor t = {.data = a->data + a->used, .dtype = dtype, .n_dims = n_dims};
    for (int i = 0; i < n_dims; i++)
        t.shape[i] = shape[i];
    a->used += cost;
#ifndef __OPTIMIZE__ /* poison: all bits set is NaN in every float type */
    if (a->e->backend->is_host && cost > 0)
        memset(t.data, 0xff, (size_t)cost);
#endif
    return t;
}

int64_t rf_arena_mark(const struct rf_arena *a)
{
    return a->used;
}

void rf_arena_rewind(struct rf_arena *a, int64_t mark)
{
    RF_ASSERT(mark >= 0 && mark <= a->used);
    a->used = mark;
}
