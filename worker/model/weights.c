/* From checkpoint entries to what the ops take; see weights.h.
 *
 * Memory comes in chunks, each an arena of the engine: small tensors share one, a large one gets its own. On a host
 * engine most weights never move: they stay in the mapped file unless they are misaligned there, or a LoRA's .diff is
 * added. SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/weights.h"

#include "worker/engine/dtype.h"
#include "worker/model/lora.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CHUNK_BYTES ((int64_t)1 << 20)
#define MAX_LORA_FILES RF_MAX_LORAS

struct rf_weights {
    struct rf_engine *e;
    struct rf_safetensors *file;
    const char *prefix; /* "" or with its final dot */
    struct rf_arena **chunks;
    int n_chunks;
    int64_t room; /* bytes left in the last chunk */
    int64_t held; /* bytes of all chunks */
    enum rf_weights_place place;
    char *place_data; /* the one piece of memory of DEVICE and HOST */
    int64_t place_size, placed;
    struct rf_lora *loras[MAX_LORA_FILES];
    int n_loras;
};

/* ---- memory ---- */

void rf_weights_place(struct rf_weights *w, enum rf_weights_place place, void *memory, int64_t size_bytes)
{
    w->place = place;
    w->place_data = memory;
    w->place_size = size_bytes;
    w->placed = 0;
}

int64_t rf_weights_placed_bytes(const struct rf_weights *w)
{
    return w->placed;
}

int64_t rf_weights_held_bytes(const struct rf_weights *w)
{
    return w->held;
}

/* The next part of the one piece. While measuring there is none: the address says "present" and nothing else. */
static void take_piece(struct rf_weights *w, enum rf_dtype dtype, int n_dims, const int64_t *shape, int64_t cost,
                       struct rf_tensor *ret_tensor)
{
    static char present;
    RF_ASSERT(w->place == RF_PLACE_MEASURE || cost <= w->place_size - w->placed);
    *ret_tensor = (struct rf_tensor){.data = w->place == RF_PLACE_MEASURE ? &present : w->place_data + w->placed,
                                     .dtype = dtype, .n_dims = n_dims};
    memcpy(ret_tensor->shape, shape, (size_t)n_dims * sizeof *shape);
    w->placed += cost;
}

static enum rf_code take_memory(struct rf_weights *w, enum rf_dtype dtype, int n_dims, const int64_t *shape,
                                struct rf_tensor *ret_tensor, struct rf_err *err)
{
    int64_t cost = rf_arena_cost(dtype, n_dims, shape);
    if (w->place != RF_PLACE_MAP) {
        take_piece(w, dtype, n_dims, shape, cost, ret_tensor);
        return RF_OK;
    }
    if (w->n_chunks == 0 || cost > w->room) {
        int64_t size = cost > CHUNK_BYTES / 4 ? cost : CHUNK_BYTES;
        struct rf_arena *chunk = NULL;
        enum rf_code rc = rf_arena_create(w->e, size, &chunk, err);
        if (rc != RF_OK)
            return rc;
        w->held += size;
        w->chunks = rf_realloc(w->chunks, (size_t)w->n_chunks + 1, sizeof *w->chunks);
        /* A chunk made for one large tensor is full at once: keep the one with room last. */
        if (size == cost && w->n_chunks > 0) {
            w->chunks[w->n_chunks] = w->chunks[w->n_chunks - 1];
            w->chunks[w->n_chunks++ - 1] = chunk;
            *ret_tensor = rf_arena_tensor(chunk, dtype, n_dims, shape);
            return RF_OK;
        }
        w->chunks[w->n_chunks++] = chunk;
        w->room = size;
    }
    *ret_tensor = rf_arena_tensor(w->chunks[w->n_chunks - 1], dtype, n_dims, shape);
    w->room -= cost;
    return RF_OK;
}

/* `host` need not outlive the call. */
static void put(struct rf_weights *w, const struct rf_tensor *t, const void *host)
{
    if (w->place == RF_PLACE_HOST)
        memcpy(t->data, host, rf_tensor_bytes(t));
    else if (w->place != RF_PLACE_MEASURE)
        rf_upload(w->e, t, host);
}

/* Host memory as large as the file makes it. */
static float *host_floats(int64_t n)
{
    return malloc((size_t)(n ? n : 1) * sizeof(float));
}

/* The tensor of `host` (F32 values of `shape`) in engine memory as `dtype`. `host` is not read while measuring. */
static enum rf_code place_floats(struct rf_weights *w, const float *host, enum rf_dtype dtype, int n_dims,
                                 const int64_t *shape, struct rf_tensor *ret_tensor, struct rf_err *err)
{
    struct rf_tensor t;
    enum rf_code rc = take_memory(w, dtype, n_dims, shape, &t, err);
    if (rc == RF_OK)
        *ret_tensor = t;
    if (rc != RF_OK || w->place == RF_PLACE_MEASURE)
        return rc;
    RF_AUTO(rf_free) void *narrow = NULL;
    if (dtype != RF_F32) {
        narrow = malloc(rf_tensor_bytes(&t) + 1);
        if (narrow == NULL)
            return rf_fail(err, RF_ERR_NO_MEMORY, "%zu bytes to convert a weight", rf_tensor_bytes(&t));
        rf_dtype_from_f32(narrow, dtype, host, rf_tensor_elements(&t));
    }
    put(w, &t, dtype == RF_F32 ? host : narrow);
    return w->place == RF_PLACE_MAP ? rf_engine_sync(w->e, err) : RF_OK;
}

/* The entry's data under `shape`, in the map when the engine can read it there. */
static enum rf_code place_entry(struct rf_weights *w, const struct rf_st_entry *entry, int n_dims, const int64_t *shape,
                                struct rf_tensor *ret_tensor, struct rf_err *err)
{
    bool aligned = (uintptr_t)entry->data % rf_dtype_size(entry->dtype) == 0;
    if (w->place == RF_PLACE_MAP && rf_engine_is_host(w->e) && aligned) {
        *ret_tensor = (struct rf_tensor){.data = (void *)entry->data, .dtype = entry->dtype, .n_dims = n_dims};
        memcpy(ret_tensor->shape, shape, (size_t)n_dims * sizeof *shape);
        return RF_OK;
    }
    enum rf_code rc = take_memory(w, entry->dtype, n_dims, shape, ret_tensor, err);
    if (rc == RF_OK && entry->size_bytes > 0)
        put(w, ret_tensor, entry->data);
    return rc;
}

/* ---- opening ---- */

static const char *const prefixes[] = {"model.diffusion_model.", "diffusion_model."};

/* A prefix counts when more than five keys carry it, or all of them do; the longest first. */
static const char *find_prefix(const struct rf_safetensors *file)
{
    int n = rf_safetensors_count(file);
    for (size_t p = 0; p < RF_COUNT_OF(prefixes); p++) {
        int hits = 0;
        for (int i = 0; i < n; i++)
            hits += strncmp(rf_safetensors_at(file, i)->name, prefixes[p], strlen(prefixes[p])) == 0;
        if (hits > 5 || (hits > 0 && hits == n))
            return prefixes[p];
    }
    return "";
}

enum rf_code rf_weights_open(struct rf_engine *e, const char *path, struct rf_weights **ret_weights, struct rf_err *err)
{
    struct rf_safetensors *file = NULL;
    enum rf_code rc = rf_safetensors_open(path, &file, err);
    if (rc != RF_OK)
        return rc;
    struct rf_weights *w = rf_new(struct rf_weights);
    w->e = e;
    w->file = file;
    w->prefix = find_prefix(file);
    *ret_weights = w;
    return RF_OK;
}

void rf_weights_close(struct rf_weights **weights)
{
    struct rf_weights *w = *weights;
    if (w == NULL)
        return;
    for (int i = 0; i < w->n_chunks; i++)
        rf_arena_destroy(&w->chunks[i]);
    for (int i = 0; i < w->n_loras; i++)
        rf_lora_close(&w->loras[i]);
    free(w->chunks);
    rf_safetensors_close(&w->file);
    free(w);
    *weights = NULL;
}

const struct rf_safetensors *rf_weights_file(const struct rf_weights *w)
{
    return w->file;
}

const struct rf_st_entry *rf_weights_entry(const struct rf_weights *w, const char *name)
{
    RF_AUTO(rf_free) char *key = rf_asprintf("%s%s", w->prefix, name);
    return rf_safetensors_find(w->file, key);
}

/* ---- checks ---- */

static const char *shape_text(char *text, size_t size, int n_dims, const int64_t *shape)
{
    size_t n = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < n_dims && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n < size)
        snprintf(text + n, size - n, "]");
    return text;
}

/* "file: tensor 'x' has shape [a], wanted b". */
static enum rf_code bad_shape(const struct rf_weights *w, const struct rf_st_entry *entry, const char *wanted,
                              struct rf_err *err)
{
    char found[80];
    return rf_fail(err, RF_ERR_FORMAT, "%.100s: tensor '%.80s' has shape %s, wanted %s", rf_safetensors_path(w->file),
                   entry->name, shape_text(found, sizeof found, entry->n_dims, entry->shape), wanted);
}

/* The entry `name`, there and of a float type. */
static enum rf_code find_floats(const struct rf_weights *w, const char *name, const struct rf_st_entry **ret_entry,
                                struct rf_err *err)
{
    const struct rf_st_entry *entry = rf_weights_entry(w, name);
    if (entry == NULL)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor '%s%.80s' is missing", rf_safetensors_path(w->file),
                       w->prefix, name);
    if (!rf_dtype_is_float(entry->dtype))
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: tensor '%.80s' is %s; this quantised layout is not supported "
                       "(F32, F16, BF16, F8_E4M3, F8_E5M2 are)", rf_safetensors_path(w->file), entry->name,
                       rf_dtype_name(entry->dtype));
    *ret_entry = entry;
    return RF_OK;
}

static int64_t entry_elements(const struct rf_st_entry *entry)
{
    return (int64_t)(entry->size_bytes / rf_dtype_size(entry->dtype));
}

/* ---- LoRA ---- */

enum rf_code rf_weights_add_lora(struct rf_weights *w, const char *path, float strength, struct rf_err *err)
{
    if (w->n_loras == MAX_LORA_FILES)
        return rf_fail(err, RF_ERR_LIMIT, "LoRA %.120s: at most %d files can be used at once", path, MAX_LORA_FILES);
    if (!isfinite(strength))
        return rf_fail(err, RF_ERR_INVALID, "LoRA %.120s: the strength is not a number", path);
    enum rf_code rc = rf_lora_open(path, strength, &w->loras[w->n_loras], err);
    if (rc == RF_OK)
        w->n_loras++;
    return rc;
}

enum rf_code rf_weights_loras_check(const struct rf_weights *w, struct rf_err *err)
{
    for (int i = 0; i < w->n_loras; i++) {
        const char *name = rf_lora_first_unused(w->loras[i]);
        if (name != NULL)
            return rf_fail(err, RF_ERR_FORMAT, "LoRA %.100s: key '%.100s' matches nothing in %.80s",
                           rf_lora_path(w->loras[i]), name, rf_safetensors_path(w->file));
    }
    return RF_OK;
}

/* Adds strength * (the tensors of this kind) to `values`; NULL: only checks them. */
static enum rf_code add_diffs(struct rf_weights *w, const char *module, enum rf_lora_kind kind, float *values,
                              int64_t n, struct rf_err *err)
{
    for (int i = 0; i < w->n_loras; i++) {
        const struct rf_st_entry *diff = rf_lora_take(w->loras[i], module, kind);
        if (diff == NULL)
            continue;
        if (!rf_dtype_is_float(diff->dtype) || entry_elements(diff) != n)
            return rf_fail(err, RF_ERR_FORMAT, "LoRA %.100s: tensor '%.80s' has %lld elements of %s, wanted %lld",
                           rf_lora_path(w->loras[i]), diff->name, (long long)entry_elements(diff),
                           rf_dtype_name(diff->dtype), (long long)n);
        if (values == NULL)
            continue;
        RF_AUTO(rf_free) float *piece = host_floats(n);
        if (piece == NULL)
            return rf_fail(err, RF_ERR_NO_MEMORY, "%lld values of '%.80s'", (long long)n, diff->name);
        rf_dtype_to_f32(piece, diff->data, diff->dtype, n);
        for (int64_t k = 0; k < n; k++)
            values[k] += rf_lora_strength(w->loras[i]) * piece[k];
    }
    return RF_OK;
}

static bool has_diff(struct rf_weights *w, const char *module, enum rf_lora_kind kind)
{
    for (int i = 0; i < w->n_loras; i++)
        if (rf_lora_take(w->loras[i], module, kind) != NULL)
            return true;
    return false;
}

/* The branch of one LoRA file for this module, if it has one. */
static enum rf_code attach_branch(struct rf_weights *w, struct rf_lora *l, const char *module, struct rf_linear *linear,
                                  struct rf_err *err)
{
    const struct rf_st_entry *down = rf_lora_take(l, module, RF_LORA_DOWN), *up = rf_lora_take(l, module, RF_LORA_UP);
    if (down == NULL && up == NULL)
        return RF_OK; /* a lone alpha stays unused and is named by the check */
    const struct rf_st_entry *alpha = rf_lora_take(l, module, RF_LORA_ALPHA);
    const char *path = rf_lora_path(l);
    if (down == NULL || up == NULL)
        return rf_fail(err, RF_ERR_FORMAT, "LoRA %.100s: '%.80s' has no partner (down or up is missing)", path,
                       down ? down->name : up->name);
    int64_t out = linear->w.shape[0], in = linear->w.shape[1], rank = down->n_dims ? down->shape[0] : 0;
    bool floats = rf_dtype_is_float(down->dtype) && rf_dtype_is_float(up->dtype);
    if (!floats || rank < 1 || up->n_dims < 2 || up->shape[0] != out || entry_elements(down) / rank != in ||
        entry_elements(down) % rank != 0 || entry_elements(up) != out * rank || up->shape[1] != rank) {
        char a[80], b[80];
        return rf_fail(err, RF_ERR_FORMAT, "LoRA %.80s: '%.60s' %s and up %s do not fit a weight of [%lld, %lld]", path,
                       down->name, shape_text(a, sizeof a, down->n_dims, down->shape),
                       shape_text(b, sizeof b, up->n_dims, up->shape), (long long)out, (long long)in);
    }
    float factor = 1.0f;
    if (alpha != NULL) {
        if (!rf_dtype_is_float(alpha->dtype) || entry_elements(alpha) != 1)
            return rf_fail(err, RF_ERR_FORMAT, "LoRA %.100s: '%.80s' is not one float", path, alpha->name);
        rf_dtype_to_f32(&factor, alpha->data, alpha->dtype, 1);
        factor /= (float)rank;
    }
    struct rf_lora_weight *branch = &linear->lora[linear->n_loras];
    branch->scale = rf_lora_strength(l) * factor;
    enum rf_code rc = place_entry(w, down, 2, (int64_t[]){rank, in}, &branch->down, err);
    if (rc == RF_OK)
        rc = place_entry(w, up, 2, (int64_t[]){out, rank}, &branch->up, err);
    linear->n_loras += rc == RF_OK;
    return rc;
}

/* ---- what the ops take ---- */

enum rf_code rf_weights_vector(struct rf_weights *w, const char *name, int64_t n_elements, struct rf_tensor *ret_vector,
                               struct rf_err *err)
{
    const struct rf_st_entry *entry = NULL;
    enum rf_code rc = find_floats(w, name, &entry, err);
    if (rc != RF_OK)
        return rc;
    if (entry_elements(entry) != n_elements) {
        char wanted[40];
        snprintf(wanted, sizeof wanted, "%lld elements", (long long)n_elements);
        return bad_shape(w, entry, wanted, err);
    }
    RF_AUTO(rf_free) float *values = w->place == RF_PLACE_MEASURE ? NULL : host_floats(n_elements);
    if (values == NULL && w->place != RF_PLACE_MEASURE)
        return rf_fail(err, RF_ERR_NO_MEMORY, "%lld values of '%.80s'", (long long)n_elements, name);
    if (values != NULL)
        rf_dtype_to_f32(values, entry->data, entry->dtype, n_elements);
    /* x.weight takes x.diff, x.bias takes x.diff_b, blocks.3.modulation its own .diff or blocks.3.diff_m. */
    const char *dot = strrchr(name, '.');
    const char *last = dot ? dot + 1 : name;
    RF_AUTO(rf_free) char *parent = rf_strndup(name, dot ? (size_t)(dot - name) : 0);
    if (strcmp(last, "weight") == 0)
        rc = add_diffs(w, parent, RF_LORA_DIFF, values, n_elements, err);
    else if (strcmp(last, "bias") == 0)
        rc = add_diffs(w, parent, RF_LORA_DIFF_B, values, n_elements, err);
    else if ((rc = add_diffs(w, name, RF_LORA_DIFF, values, n_elements, err)) == RF_OK &&
             strcmp(last, "modulation") == 0)
        rc = add_diffs(w, parent, RF_LORA_DIFF_M, values, n_elements, err);
    return rc == RF_OK ? place_floats(w, values, RF_F32, 1, &n_elements, ret_vector, err) : rc;
}

/* `<name>.scale_weight`, or `.weight_scale` in newer files, as F32 [1] or [out]; absent when the file has neither. */
static enum rf_code find_scale(struct rf_weights *w, const char *name, int64_t out, struct rf_tensor *ret_scale,
                               struct rf_err *err)
{
    static const char *const words[] = {"scale_weight", "weight_scale"};
    for (size_t i = 0; i < RF_COUNT_OF(words); i++) {
        RF_AUTO(rf_free) char *key = rf_asprintf("%s.%s", name, words[i]);
        const struct rf_st_entry *entry = rf_weights_entry(w, key);
        if (entry == NULL)
            continue;
        int64_t n = entry_elements(entry);
        if (n != 1 && n != out)
            return bad_shape(w, entry, "one scale, or one per output", err);
        return rf_weights_vector(w, key, n, ret_scale, err);
    }
    return RF_OK;
}

/* The weight as F32 with scale and every .diff worked in. */
static enum rf_code merge_diffs(struct rf_weights *w, const char *name, const struct rf_st_entry *entry,
                                struct rf_linear *linear, struct rf_err *err)
{
    int64_t out = linear->w.shape[0], in = linear->w.shape[1];
    if (w->place == RF_PLACE_MEASURE) {
        linear->scale = (struct rf_tensor){0};
        enum rf_code rc = add_diffs(w, name, RF_LORA_DIFF, NULL, out * in, err);
        return rc == RF_OK ? place_floats(w, NULL, RF_F32, 2, (int64_t[]){out, in}, &linear->w, err) : rc;
    }
    RF_AUTO(rf_free) float *values = host_floats(out * in);
    if (values == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "%lld values of '%.80s'", (long long)(out * in), name);
    rf_dtype_to_f32(values, entry->data, entry->dtype, out * in);
    if (linear->scale.data != NULL) {
        int64_t n = rf_tensor_elements(&linear->scale);
        RF_AUTO(rf_free) float *scale = host_floats(n);
        if (scale == NULL)
            return rf_fail(err, RF_ERR_NO_MEMORY, "%lld scales of '%.80s'", (long long)n, name);
        enum rf_code rc = RF_OK;
        if (w->place == RF_PLACE_HOST)
            memcpy(scale, linear->scale.data, (size_t)n * sizeof *scale);
        else
            rc = rf_download(w->e, &linear->scale, scale, err);
        if (rc != RF_OK)
            return rc;
        for (int64_t o = 0; o < out; o++)
            for (int64_t i = 0; i < in; i++)
                values[o * in + i] *= scale[n == 1 ? 0 : o];
        linear->scale = (struct rf_tensor){0};
    }
    enum rf_code rc = add_diffs(w, name, RF_LORA_DIFF, values, out * in, err);
    return rc == RF_OK ? place_floats(w, values, RF_F32, 2, (int64_t[]){out, in}, &linear->w, err) : rc;
}

enum rf_code rf_weights_linear(struct rf_weights *w, const char *name, int64_t out, int64_t in, bool has_bias,
                               struct rf_linear *ret_linear, struct rf_err *err)
{
    RF_AUTO(rf_free) char *weight = rf_asprintf("%s.weight", name), *bias = rf_asprintf("%s.bias", name);
    const struct rf_st_entry *entry = NULL;
    enum rf_code rc = find_floats(w, weight, &entry, err);
    if (rc != RF_OK)
        return rc;
    int64_t found_out = entry->n_dims ? entry->shape[0] : 0;
    int64_t found_in = found_out ? entry_elements(entry) / found_out : 0;
    if (entry->n_dims < 2 || found_in == 0 || (out != 0 && out != found_out) || (in != 0 && in != found_in)) {
        char wanted[64];
        shape_text(wanted, sizeof wanted, 2, (int64_t[]){out, in});
        return bad_shape(w, entry, out && in ? wanted : "two dimensions that are not 0", err);
    }
    struct rf_linear linear = {0};
    rc = find_scale(w, name, found_out, &linear.scale, err);
    if (rc == RF_OK)
        rc = place_entry(w, entry, 2, (int64_t[]){found_out, found_in}, &linear.w, err);
    if (rc == RF_OK && has_diff(w, name, RF_LORA_DIFF))
        rc = merge_diffs(w, name, entry, &linear, err);
    if (rc == RF_OK && has_bias)
        rc = rf_weights_vector(w, bias, found_out, &linear.b, err);
    for (int i = 0; i < w->n_loras && rc == RF_OK; i++)
        rc = attach_branch(w, w->loras[i], name, &linear, err);
    if (rc == RF_OK)
        *ret_linear = linear;
    return rc;
}

enum rf_code rf_weights_table(struct rf_weights *w, const char *name, int64_t rows, int64_t cols,
                              struct rf_tensor *ret_table, struct rf_err *err)
{
    const struct rf_st_entry *entry = NULL;
    enum rf_code rc = find_floats(w, name, &entry, err);
    if (rc != RF_OK)
        return rc;
    if (entry->n_dims != 2 || (rows != 0 && entry->shape[0] != rows) || (cols != 0 && entry->shape[1] != cols)) {
        char wanted[64];
        return bad_shape(w, entry, shape_text(wanted, sizeof wanted, 2, (int64_t[]){rows, cols}), err);
    }
    return place_entry(w, entry, 2, entry->shape, ret_table, err);
}

/* Repacked to [out, kt, kh, kw, in], or by_frame to [kt, out, kh, kw, in]. */
static enum rf_code load_conv(struct rf_weights *w, const char *name, int64_t out, int64_t in, int kt, int kh, int kw,
                              bool by_frame, struct rf_conv *ret_conv, struct rf_err *err)
{
    RF_AUTO(rf_free) char *weight = rf_asprintf("%s.weight", name), *bias = rf_asprintf("%s.bias", name);
    const struct rf_st_entry *entry = NULL;
    enum rf_code rc = find_floats(w, weight, &entry, err);
    if (rc != RF_OK)
        return rc;
    int64_t want[] = {out, in, kt, kh, kw}, flat[] = {out, in, kh, kw};
    bool is_3d = entry->n_dims == 5 && memcmp(entry->shape, want, sizeof want) == 0;
    bool is_2d = entry->n_dims == 4 && kt == 1 && memcmp(entry->shape, flat, sizeof flat) == 0;
    if (!is_3d && !is_2d) {
        char wanted[80];
        return bad_shape(w, entry, shape_text(wanted, sizeof wanted, 5, want), err);
    }
    int64_t n = entry_elements(entry), taps = (int64_t)kt * kh * kw, of_frame = (int64_t)kh * kw;
    RF_AUTO(rf_free) float *from = host_floats(n), *to = host_floats(n);
    if (from == NULL || to == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "%lld values of '%.80s'", (long long)n, name);
    rf_dtype_to_f32(from, entry->data, entry->dtype, n);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            for (int64_t k = 0; k < taps; k++) {
                int64_t at = by_frame ? (k / of_frame * out + o) * of_frame + k % of_frame : o * taps + k;
                to[at * in + i] = from[(o * in + i) * taps + k];
            }
    struct rf_conv conv = {0};
    int64_t shape[] = {out, kt, kh, kw, in}, frames[] = {kt * out, 1, kh, kw, in};
    rc = place_floats(w, to, rf_engine_act_dtype(w->e), 5, by_frame ? frames : shape, &conv.w, err);
    if (rc == RF_OK)
        rc = rf_weights_vector(w, bias, out, &conv.b, err);
    if (rc == RF_OK)
        *ret_conv = conv;
    return rc;
}

enum rf_code rf_weights_conv(struct rf_weights *w, const char *name, int64_t out, int64_t in, int kt, int kh, int kw,
                             struct rf_conv *ret_conv, struct rf_err *err)
{
    return load_conv(w, name, out, in, kt, kh, kw, false, ret_conv, err);
}

enum rf_code rf_weights_conv_by_frame(struct rf_weights *w, const char *name, int64_t out, int64_t in, int kt, int kh,
                                      int kw, struct rf_conv *ret_conv, struct rf_err *err)
{
    struct rf_conv all;
    enum rf_code rc = load_conv(w, name, out, in, kt, kh, kw, true, &all, err);
    for (int t = 0; t < kt && rc == RF_OK; t++)
        ret_conv[t] = (struct rf_conv){.w = rf_tensor_slice(&all.w, t * out, out)};
    if (rc == RF_OK)
        ret_conv[kt - 1].b = all.b;
    return rc;
}
