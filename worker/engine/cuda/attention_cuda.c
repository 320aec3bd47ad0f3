/* Which attention runs: the Hopper kernel, the generic tensor-core kernel, two library products with a softmax between
 * them (any head_dim, biases, F32), or the kernel that follows the definition.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/cuda_private.h"

#define FLASH_HEAD_DIM 128

static bool all_aligned(const struct rf_attention_args *a)
{
    return rf_cuda_aligned(a->o) && rf_cuda_aligned(a->q) && rf_cuda_aligned(a->k) && rf_cuda_aligned(a->v);
}

static bool fits_flash(const struct rf_attention_args *a)
{
    return a->head_dim == FLASH_HEAD_DIM && a->bias == NULL && a->scale > 0 && all_aligned(a) &&
           a->o_type == RF_KT_BF16 && a->q_type == RF_KT_BF16 && a->k_type == RF_KT_BF16 && a->v_type == RF_KT_BF16;
}

/* Scores of a chunk of queries, all heads side by side: S [heads, n, lds] F32, softmax, then P times v.
 * RF_ERR_NOT_FOUND: the library or the scratch cannot. */
static enum rf_code by_products(struct rf_cuda *c, const struct rf_attention_args *a, struct rf_err *err)
{
    int type = a->q_type, size = type == RF_KT_F32 ? 4 : 2;
    int64_t d = a->head_dim, width = d * a->heads, lds = (a->n_keys + 7) / 8 * 8;
    if (type != a->k_type || type != a->v_type || (type == RF_KT_F32 && a->o_type != RF_KT_F32) || d % 8 != 0 ||
        !all_aligned(a))
        return RF_ERR_NOT_FOUND;
    struct rf_cuda_taker scratch = rf_cuda_scratch(c);
    size_t per_query = (size_t)(a->heads * lds) * (type == RF_KT_F32 ? 4u : 6u);
    int64_t chunk = (int64_t)((rf_cuda_left(&scratch) - 1024) / per_query);
    if (chunk > a->n_q)
        chunk = a->n_q;
    if (chunk < 1)
        return RF_ERR_NOT_FOUND;
    size_t n_scores = (size_t)(a->heads * lds * chunk);
    float *s = rf_cuda_take(&scratch, n_scores * sizeof *s);
    void *p = type == RF_KT_F32 ? (void *)s : rf_cuda_take(&scratch, n_scores * 2);
    for (int64_t first = 0; first < a->n_q; first += chunk) {
        int64_t n = a->n_q - first < chunk ? a->n_q - first : chunk;
        const char *q = (const char *)a->q + first * width * size;
        char *o = (char *)a->o + first * width * (a->o_type == RF_KT_F32 ? 4 : 2);
        struct rf_lt_args scores = {.d = s, .a = a->k, .b = q, .a_type = type, .b_type = type, .d_type = RF_KT_F32,
                                    .transpose_a = true, .m = a->n_keys, .n = n, .k = d, .lda = width, .ldb = width,
                                    .ldd = lds, .batch = a->heads, .stride_a = d, .stride_b = d, .stride_d = n * lds,
                                    .alpha = 1};
        enum rf_code rc = rf_cuda_matmul(c, &scores, err);
        if (rc == RF_OK)
            rc = rf_cuda_check(c, rf_launch_softmax(c->stream, p, type, lds, s, lds,
                                                    a->bias ? a->bias + a->n_q - 1 - first : NULL, a->bias_stride,
                                                    a->scale, a->heads, n, a->n_keys), "softmax", err);
        struct rf_lt_args sum = {.d = o, .a = a->v, .b = p, .a_type = type, .b_type = type, .d_type = a->o_type,
                                 .m = d, .n = n, .k = a->n_keys, .lda = width, .ldb = lds, .ldd = width,
                                 .batch = a->heads, .stride_a = d, .stride_b = n * lds, .stride_d = d, .alpha = 1};
        if (rc == RF_OK)
            rc = rf_cuda_matmul(c, &sum, err);
        if (rc != RF_OK)
            return rc;
    }
    return RF_OK;
}

enum rf_code rf_cuda_attention(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                               const struct rf_tensor *k, const struct rf_tensor *v,
                               const struct rf_attention_opts *opts, struct rf_err *err)
{
    struct rf_cuda *c = self;
    int64_t width = q->shape[q->n_dims - 1], n_q = rf_tensor_elements(q) / width, n_k = rf_tensor_elements(k) / width;
    struct rf_attention_args a = {
        .o = o->data, .q = q->data, .k = k->data, .v = v->data, .o_type = (int)o->dtype, .q_type = (int)q->dtype,
        .k_type = (int)k->dtype, .v_type = (int)v->dtype, .bias = opts->bias ? opts->bias->data : NULL,
        .bias_stride = n_q + n_k - 1, .n_q = n_q, .n_keys = opts->n_valid_keys ? opts->n_valid_keys : n_k,
        .heads = opts->n_heads, .head_dim = (int)(width / opts->n_heads), .scale = opts->scale,
    };
    enum rf_code rc = rf_cuda_check(c, cudaSetDevice(c->index), "attention", err);
    if (rc != RF_OK)
        return rc;
    if (!c->paths.plain && !c->paths.no_flash && fits_flash(&a)) {
        cudaError_t status = c->cc == 90 && !c->paths.no_hopper ? rf_launch_attention_hopper(c->stream, &a)
                                                                : cudaErrorNotSupported;
        if (status != cudaErrorNotSupported) /* this build may have left the kernel out */
            return rf_cuda_check(c, status, "attention (Hopper)", err);
        return rf_cuda_check(c, rf_launch_attention_mma(c->stream, &a), "attention (tensor cores)", err);
    }
    rc = c->paths.plain ? RF_ERR_NOT_FOUND : by_products(c, &a, err);
    if (rc != RF_ERR_NOT_FOUND)
        return rc;
    if (a.head_dim > 512)
        return rf_fail(err, RF_ERR_LIMIT, "attention with heads of %d here; up to 512 are possible", a.head_dim);
    return rf_cuda_check(c, rf_launch_attention_plain(c->stream, &a), "attention", err);
}
