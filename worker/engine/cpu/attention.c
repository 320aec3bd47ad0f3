/* softmax(scale q k^T + bias) v, head by head, never holding more than one block of scores.
 *
 * An item is one head and one block of queries. It walks the keys in blocks: scores by a matrix product, then the
 * online softmax: the running maximum of each row may grow, and what was summed so far is scaled down by e^(old - new).
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/cpu_ops.h"

#include <math.h>
#include <string.h>

#define BLOCK_Q 384
#define BLOCK_K 512

struct attention_job {
    const struct rf_cpu *cpu;
    float *o;
    const float *q, *k, *v, *bias;
    int64_t n_q, n_k, n_keys; /* n_keys: those that exist, of n_k */
    int64_t head_dim, width;  /* width: heads * head_dim */
    int64_t block_q, n_blocks_q;
    float scale;
};

static int64_t at_most(int64_t x, int64_t limit)
{
    return x < limit ? x : limit;
}

/* One block of scores becomes weights e^(s - max); rows of `acc` and `sum` follow when their maximum grows. */
static void softmax_block(const struct attention_job *j, float *scores, int64_t n_q, int64_t n_k, const float *bias,
                          float *max, float *sum, float *acc)
{
    const struct rf_kernels *kernels = j->cpu->kernels;
    for (int64_t r = 0; r < n_q; r++) {
        float *s = scores + r * n_k;
        float scale = j->scale;
        if (bias != NULL) { /* after the scale; the next query's begins one earlier */
            for (int64_t c = 0; c < n_k; c++)
                s[c] = s[c] * scale + bias[c - r];
            scale = 1.0f;
        } else if (scale < 0) { /* the largest scaled score must be the scaled largest score */
            kernels->scale(s, scale, n_k);
            scale = 1.0f;
        }
        float top = kernels->max(s, n_k) * scale;
        float new_max = top > max[r] ? top : max[r];
        if (new_max == -INFINITY) { /* every key so far is masked by its bias */
            memset(s, 0, (size_t)n_k * sizeof *s);
            continue;
        }
        float keep = expf(max[r] - new_max); /* 0 for the first block */
        sum[r] = sum[r] * keep + kernels->exp_sum(s, scale, new_max, n_k);
        if (keep != 1.0f)
            kernels->scale(acc + r * j->head_dim, keep, j->head_dim);
        max[r] = new_max;
    }
}

static void query_block(void *ctx, int64_t item, int worker)
{
    const struct attention_job *j = ctx;
    int64_t head = item / j->n_blocks_q, first = item % j->n_blocks_q * j->block_q;
    int64_t n_q = at_most(j->n_q - first, j->block_q), d = j->head_dim;
    float *scores = rf_cpu_scratch(j->cpu, worker);
    float *acc = scores + j->block_q * BLOCK_K, *max = acc + j->block_q * d, *sum = max + j->block_q;
    const float *q = j->q + first * j->width + head * d;

    for (int64_t r = 0; r < n_q; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    memset(acc, 0, (size_t)(n_q * d) * sizeof *acc);
    for (int64_t key = 0; key < j->n_keys; key += BLOCK_K) {
        int64_t n_k = at_most(j->n_keys - key, BLOCK_K);
        const float *k = j->k + key * j->width + head * d, *v = j->v + key * j->width + head * d;
        const float *bias = j->bias ? j->bias + head * (j->n_q + j->n_k - 1) + j->n_q - 1 - first + key : NULL;
        rf_gemm_nt(n_q, n_k, d, q, j->width, k, j->width, false, scores, n_k);
        softmax_block(j, scores, n_q, n_k, bias, max, sum, acc);
        rf_gemm_nn(n_q, d, n_k, scores, n_k, v, j->width, true, acc, d);
    }
    for (int64_t r = 0; r < n_q; r++) {
        float *o = j->o + (first + r) * j->width + head * d;
        float inv = 1.0f / sum[r];
        for (int64_t c = 0; c < d; c++)
            o[c] = acc[r * d + c] * inv;
    }
}

enum rf_code rf_cpu_attention(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                              const struct rf_tensor *k, const struct rf_tensor *v,
                              const struct rf_attention_opts *opts, struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    int64_t width = q->shape[q->n_dims - 1];
    struct attention_job job = {
        .cpu = cpu,
        .o = o->data,
        .q = q->data,
        .k = k->data,
        .v = v->data,
        .bias = opts->bias ? opts->bias->data : NULL,
        .n_q = rf_tensor_elements(q) / width,
        .n_k = rf_tensor_elements(k) / width,
        .width = width,
        .head_dim = width / opts->n_heads,
        .scale = opts->scale,
    };
    job.n_keys = opts->n_valid_keys ? opts->n_valid_keys : job.n_k;
    int64_t row_floats = BLOCK_K + job.head_dim + 2; /* scores, acc, max, sum */
    job.block_q = at_most(BLOCK_Q, (int64_t)(RF_CPU_SCRATCH_BYTES / sizeof(float)) / row_floats);
    if (job.block_q == 0)
        return rf_fail(err, RF_ERR_LIMIT, "attention with heads of %lld features", (long long)job.head_dim);
    job.n_blocks_q = (job.n_q + job.block_q - 1) / job.block_q;
    rf_pool_run(cpu->pool, opts->n_heads * job.n_blocks_q, query_block, &job);
    return RF_OK;
}
