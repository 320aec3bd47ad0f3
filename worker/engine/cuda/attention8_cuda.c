/* 8-bit attention (attention8.h): heads in groups whose quantised copies fit the scratch, each quantised, then attended.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/attention8.h"
#include "worker/engine/cuda/cuda_private.h"

#define TILE RF_A8_TILE
#define DIM RF_A8_DIM

/* Cuts the scratch for a->heads heads; false when it is too small. */
static bool lay_out(struct rf_attention8_args *a, struct rf_cuda_taker scratch)
{
    size_t heads = (size_t)a->heads, tiles = (size_t)a->n_tiles, rows = (size_t)a->q_rows;
    a->q8 = rf_cuda_take(&scratch, heads * rows * DIM);
    a->k8 = rf_cuda_take(&scratch, heads * tiles * TILE * DIM);
    a->v8 = rf_cuda_take(&scratch, heads * tiles * TILE * DIM);
    a->q_scale = rf_cuda_take(&scratch, heads * rows * sizeof(float));
    a->kv_scale = rf_cuda_take(&scratch, heads * tiles * RF_A8_GROUPS * 2 * sizeof(float));
    a->k_mean = rf_cuda_take(&scratch, heads * DIM * sizeof(float));
    a->v_mean = rf_cuda_take(&scratch, heads * DIM * sizeof(float));
    a->v_deviation = rf_cuda_take(&scratch, heads * DIM * sizeof(float));
    a->partial = rf_cuda_take(&scratch, (size_t)rf_attention8_partials(a->heads, a->n_tiles) * sizeof(float));
    return a->q8 && a->k8 && a->v8 && a->q_scale && a->kv_scale && a->k_mean && a->v_mean && a->v_deviation && a->partial;
}

enum rf_code rf_cuda_attention8(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                                const struct rf_tensor *k, const struct rf_tensor *v,
                                const struct rf_attention_opts *opts, struct rf_err *err)
{
    struct rf_cuda *c = self;
    int64_t width = q->shape[q->n_dims - 1], n_k = rf_tensor_elements(k) / width;
    struct rf_attention8_args a = {
        .o = o->data, .q = q->data, .k = k->data, .v = v->data, .n_q = rf_tensor_elements(q) / width,
        .n_keys = opts->n_valid_keys ? opts->n_valid_keys : n_k, .all_heads = opts->n_heads, .scale = opts->scale,
    };
    a.q_rows = (a.n_q + TILE - 1) / TILE * TILE;
    a.n_tiles = (a.n_keys + TILE - 1) / TILE;
    bool types = o->dtype == RF_BF16 && q->dtype == RF_BF16 && k->dtype == RF_BF16 && v->dtype == RF_BF16;
    bool aligned = rf_cuda_aligned(a.o) && rf_cuda_aligned(a.q) && rf_cuda_aligned(a.k) && rf_cuda_aligned(a.v);
    if (c->paths.plain || !types || !aligned)
        return RF_ERR_NOT_FOUND;
    struct rf_cuda_taker scratch = rf_cuda_scratch(c);
    for (a.heads = opts->n_heads; a.heads > 0 && !lay_out(&a, scratch); a.heads--)
        ;
    if (a.heads == 0) /* over a million tokens */
        return RF_ERR_NOT_FOUND;
    int n_groups = (opts->n_heads + a.heads - 1) / a.heads, most = (opts->n_heads + n_groups - 1) / n_groups;
    enum rf_code rc = rf_cuda_check(c, cudaSetDevice(c->index), "attention", err);
    for (; a.first_head < opts->n_heads && rc == RF_OK; a.first_head += a.heads) {
        a.heads = opts->n_heads - a.first_head < most ? opts->n_heads - a.first_head : most;
        lay_out(&a, scratch);
        rc = rf_cuda_check(c, rf_launch_attention8_quantise(c->stream, &a), "attention (quantise)", err);
        if (rc != RF_OK)
            break;
        cudaError_t status = c->cc == 90 && !c->paths.no_hopper ? rf_launch_attention8_hopper(c->stream, &a)
                                                                : cudaErrorNotSupported;
        if (status == cudaErrorNotSupported) /* this build may have left the kernel out */
            status = rf_launch_attention8_mma(c->stream, &a);
        rc = rf_cuda_check(c, status, "attention (8 bits)", err);
    }
    return rc;
}
