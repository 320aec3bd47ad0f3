/* framefarm-net umt5: in.ids [1, 512] and in.length [1], both integers -> out.hidden [1, 512, width], zero past the
 * length.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "worker/model/umt5.h"
#include "worker/net/net.h"

/* The first n integers of tensor `name`. */
static enum rf_code read_integers(const struct rf_safetensors *file, const char *name, int64_t n, int64_t *values,
                                  struct rf_err *err)
{
    const struct rf_st_entry *entry = rf_safetensors_find(file, name);
    if (!entry || (entry->dtype != RF_I64 && entry->dtype != RF_I32))
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: no tensor '%s' of integers", rf_safetensors_path(file), name);
    if (entry->size_bytes / rf_dtype_size(entry->dtype) < (size_t)n)
        return rf_fail(err, RF_ERR_FORMAT, "%.120s: '%s' has fewer than %lld values", rf_safetensors_path(file), name,
                       (long long)n);
    const char *data = entry->data;
    for (int64_t i = 0; i < n; i++) {
        int32_t small;
        if (entry->dtype == RF_I64) {
            memcpy(&values[i], data + i * 8, 8);
        } else {
            memcpy(&small, data + i * 4, 4);
            values[i] = small;
        }
    }
    return RF_OK;
}

static enum rf_code read_input(const char *path, int32_t ids[RF_TEXT_TOKENS], int64_t *ret_length, struct rf_err *err)
{
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *file = NULL;
    int64_t wide[RF_TEXT_TOKENS];
    enum rf_code rc = rf_safetensors_open(path, &file, err);
    if (rc == RF_OK)
        rc = read_integers(file, "in.length", 1, ret_length, err);
    if (rc == RF_OK && (*ret_length < 1 || *ret_length > RF_TEXT_TOKENS))
        rc = rf_fail(err, RF_ERR_FORMAT, "%.120s: in.length is %lld; must be 1 to %d", path, (long long)*ret_length,
                     RF_TEXT_TOKENS);
    if (rc == RF_OK)
        rc = read_integers(file, "in.ids", *ret_length, wide, err);
    for (int64_t i = 0; rc == RF_OK && i < *ret_length; i++)
        ids[i] = wide[i] < 0 || wide[i] > INT32_MAX ? -1 : (int32_t)wide[i]; /* -1: refused by the encoder, by name */
    return rc;
}

enum rf_code rf_net_umt5(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    int32_t ids[RF_TEXT_TOKENS];
    int64_t length = 0;
    RF_AUTO(rf_engine_close) struct rf_engine *e = NULL;
    RF_AUTO(rf_umt5_close) struct rf_umt5 *u = NULL;
    RF_AUTO(rf_arena_destroy) struct rf_arena *arena = NULL;
    enum rf_code rc = read_input(o->input, ids, &length, err);
    if (rc == RF_OK && o->n_loras > 0)
        rc = rf_fail(err, RF_ERR_INVALID, "--lora: LoRA files are for the transformer");
    if (rc == RF_OK)
        rc = rf_net_open_engine(o, &e, err);
    if (rc == RF_OK)
        rc = rf_umt5_open(e, o->weights, &u, err);
    if (rc != RF_OK)
        return rc;
    const int64_t shape[] = {1, RF_TEXT_TOKENS, rf_umt5_width(u)};
    float *out = rf_net_result_add(result, "out.hidden", 3, shape, err);
    if (!out)
        return RF_ERR_NO_MEMORY;
    rc = rf_arena_create(e, rf_arena_cost(RF_F32, 2, shape + 1), &arena, err);
    if (rc != RF_OK)
        return rc;
    struct rf_tensor hidden = rf_arena_tensor(arena, RF_F32, 2, shape + 1);
    rc = rf_umt5_encode(u, ids, length, &hidden, err);
    return rc == RF_OK ? rf_download(e, &hidden, out, err) : rc;
}
