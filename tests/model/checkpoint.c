/* See checkpoint.h. SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/checkpoint.h"

#include "worker/engine/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[64];

static void remove_folder(void)
{
    RF_AUTO(rf_free) char *command = rf_asprintf("rm -rf '%s'", folder);
    if (system(command) != 0)
        print_message("cannot remove %s\n", folder);
}

const char *checkpoint_path(const char *file_name)
{
    static char paths[8][192];
    static int next;
    if (folder[0] == '\0') {
        snprintf(folder, sizeof folder, "/tmp/framefarm-test-XXXXXX");
        assert_non_null(mkdtemp(folder));
        atexit(remove_folder);
    }
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, file_name);
    return path;
}

struct checkpoint *checkpoint_load(const char *path)
{
    struct checkpoint *c = rf_new(struct checkpoint);
    if (path == NULL)
        return c;
    struct rf_safetensors *file = NULL;
    struct rf_err err;
    if (rf_safetensors_open(path, &file, &err) != RF_OK)
        fail_msg("%s", err.msg);
    for (int i = 0; i < rf_safetensors_count(file); i++) {
        assert_true(c->n < CHECKPOINT_MAX);
        struct rf_st_entry entry = *rf_safetensors_at(file, i);
        entry.name = rf_strdup(entry.name);
        void *copy = malloc(entry.size_bytes + 1);
        if (entry.size_bytes > 0)
            memcpy(copy, entry.data, entry.size_bytes);
        entry.data = copy;
        c->entries[c->n++] = entry;
    }
    rf_safetensors_close(&file);
    return c;
}

static void drop(struct rf_st_entry *entry)
{
    free((char *)entry->name);
    free((void *)entry->data);
}

void checkpoint_free(struct checkpoint **c)
{
    for (int i = 0; *c != NULL && i < (*c)->n; i++)
        drop(&(*c)->entries[i]);
    free(*c);
    *c = NULL;
}

struct rf_st_entry *checkpoint_find(struct checkpoint *c, const char *name)
{
    for (int i = 0; i < c->n; i++)
        if (strcmp(c->entries[i].name, name) == 0)
            return &c->entries[i];
    return NULL;
}

float *checkpoint_floats(const struct rf_st_entry *entry)
{
    int64_t n = (int64_t)(entry->size_bytes / rf_dtype_size(entry->dtype));
    float *values = rf_new_array(float, (size_t)n);
    rf_dtype_to_f32(values, entry->data, entry->dtype, n);
    return values;
}

void checkpoint_set(struct checkpoint *c, const char *name, enum rf_dtype dtype, int n_dims, const int64_t *shape,
                    const float *values)
{
    char *copy = rf_strdup(name); /* the name may be that of the entry replaced */
    checkpoint_remove(c, copy);
    assert_true(c->n < CHECKPOINT_MAX);
    struct rf_st_entry entry = {.name = copy, .dtype = dtype, .n_dims = n_dims};
    int64_t n = 1;
    for (int i = 0; i < n_dims; i++)
        n *= entry.shape[i] = shape[i];
    entry.size_bytes = (size_t)n * rf_dtype_size(dtype);
    void *data = malloc(entry.size_bytes + 1);
    if (n > 0)
        rf_dtype_from_f32(data, dtype, values, n);
    entry.data = data;
    c->entries[c->n++] = entry;
}

void checkpoint_remove(struct checkpoint *c, const char *name)
{
    struct rf_st_entry *entry = checkpoint_find(c, name);
    if (entry == NULL)
        return;
    drop(entry);
    *entry = c->entries[--c->n];
}

void checkpoint_rename(struct checkpoint *c, const char *prefix, const char *new_prefix)
{
    size_t length = strlen(prefix);
    for (int i = 0; i < c->n; i++)
        if (strncmp(c->entries[i].name, prefix, length) == 0) {
            char *name = rf_asprintf("%s%s", new_prefix, c->entries[i].name + length);
            free((char *)c->entries[i].name);
            c->entries[i].name = name;
        }
}

const char *checkpoint_write(struct checkpoint *c, const char *file_name)
{
    const char *path = checkpoint_path(file_name);
    struct rf_err err;
    if (rf_safetensors_write(path, c->entries, c->n, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return path;
}

/* ---- running ---- */

static struct rf_tensor upload(struct rf_engine *e, struct rf_arena *arena, const struct rf_safetensors *io,
                               const char *name)
{
    const struct rf_st_entry *entry = rf_safetensors_find(io, name);
    assert_non_null(entry);
    struct rf_tensor t = rf_arena_tensor(arena, RF_F32, entry->n_dims - 1, entry->shape + 1); /* without the batch */
    rf_upload(e, &t, entry->data);
    return t;
}

static float *forward(struct rf_engine *e, struct rf_dit *d, const struct rf_safetensors *io, int64_t *ret_n)
{
    struct rf_arena *arena = NULL;
    assert_int_equal(rf_arena_create(e, (int64_t)64 << 20, &arena, NULL), RF_OK);
    struct rf_tensor latent = upload(e, arena, io, "in.latent"), text = upload(e, arena, io, "in.context");
    float timestep;
    memcpy(&timestep, rf_safetensors_find(io, "in.timestep")->data, sizeof timestep);
    struct rf_tensor velocity =
        rf_arena_tensor(arena, RF_F32, RF_SHAPE(rf_dit_config(d)->out_channels, latent.shape[1], latent.shape[2],
                                                latent.shape[3]));
    int64_t before = rf_arena_mark(arena);
    struct rf_dit_context context = rf_dit_context_make(d, arena, &text, RF_DIT_FAST);
    assert_int_equal(rf_arena_mark(arena) - before,
                     rf_dit_context_bytes(d, text.shape[0], RF_DIT_FAST)); /* the plan is exact */
    struct rf_dit_scratch scratch;
    before = rf_arena_mark(arena);
    assert_int_equal(rf_dit_scratch_make(d, arena, latent.shape[1], latent.shape[2], latent.shape[3], RF_DIT_FAST,
                                         &scratch, NULL),
                     RF_OK);
    assert_int_equal(rf_arena_mark(arena) - before,
                     rf_dit_scratch_bytes(d, latent.shape[1], latent.shape[2], latent.shape[3], RF_DIT_FAST));
    rf_dit_forward(d, &scratch, &context, &latent, (double)timestep, &velocity);
    *ret_n = rf_tensor_elements(&velocity);
    float *out = rf_new_array(float, (size_t)*ret_n), *again = rf_new_array(float, (size_t)*ret_n);
    assert_int_equal(rf_download(e, &velocity, out, NULL), RF_OK);
    rf_dit_forward(d, &scratch, &context, &latent, (double)timestep, &velocity); /* with everything cached */
    assert_int_equal(rf_download(e, &velocity, again, NULL), RF_OK);
    assert_memory_equal(out, again, (size_t)*ret_n * sizeof *out);
    free(again);
    rf_arena_destroy(&arena);
    return out;
}

enum rf_code checkpoint_run(const char *weights, const char *io_path, const struct lora_use *loras, int n_loras,
                            float **ret_velocity, int64_t *ret_n, struct rf_err *err)
{
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *io = NULL;
    RF_AUTO(rf_engine_close) struct rf_engine *e = NULL;
    RF_AUTO(rf_weights_close) struct rf_weights *w = NULL;
    RF_AUTO(rf_dit_close) struct rf_dit *d = NULL;
    assert_int_equal(rf_safetensors_open(io_path, &io, err), RF_OK);
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cpu", .n_threads = 2}, &e, err), RF_OK);
    enum rf_code rc = rf_weights_open(e, weights, &w, err);
    for (int i = 0; i < n_loras && rc == RF_OK; i++)
        rc = rf_weights_add_lora(w, loras[i].path, loras[i].strength, err);
    if (rc == RF_OK)
        rc = rf_dit_open(e, w, &d, err);
    if (rc == RF_OK)
        *ret_velocity = forward(e, d, io, ret_n);
    return rc;
}
