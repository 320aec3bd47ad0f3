/* Layer norm, RMS norm, RMS norm with rotary embedding: rows are independent, so items are blocks of rows.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/cpu_ops.h"

#define BLOCK_ROWS 16

struct norm_job {
    const struct rf_kernels *kernels;
    float *y;
    const float *x, *scale, *shift, *freqs;
    bool one_plus;
    float eps;
    int n_heads;
    int64_t rows, dim;
};

static void run_rows(struct rf_cpu *cpu, rf_pool_fn *fn, struct norm_job *job)
{
    if (job->dim > 0)
        rf_pool_run(cpu->pool, (job->rows + BLOCK_ROWS - 1) / BLOCK_ROWS, fn, job);
}

/* The rows of an item as first .. end. */
static int64_t end_row(const struct norm_job *j, int64_t item)
{
    int64_t end = (item + 1) * BLOCK_ROWS;
    return end < j->rows ? end : j->rows;
}

static void layer_norm_rows(void *ctx, int64_t item, int worker)
{
    const struct norm_job *j = ctx;
    for (int64_t r = item * BLOCK_ROWS; r < end_row(j, item); r++)
        j->kernels->layer_norm(j->y + r * j->dim, j->x + r * j->dim, j->scale, j->shift, j->one_plus, j->eps, j->dim);
}

static void rms_norm_rows(void *ctx, int64_t item, int worker)
{
    const struct norm_job *j = ctx;
    int64_t head_dim = j->n_heads ? j->dim / j->n_heads : 0;
    for (int64_t r = item * BLOCK_ROWS; r < end_row(j, item); r++) {
        float *y = j->y + r * j->dim;
        j->kernels->rms_norm(y, j->x + r * j->dim, j->scale, j->eps, j->dim);
        for (int h = 0; j->freqs != NULL && h < j->n_heads; h++)
            j->kernels->rotate(y + h * head_dim, j->freqs + r * head_dim, head_dim);
    }
}

static int64_t last_dim(const struct rf_tensor *t)
{
    return t->n_dims > 0 ? t->shape[t->n_dims - 1] : 1;
}

enum rf_code rf_cpu_layer_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                               const struct rf_tensor *scale, const struct rf_tensor *shift, bool one_plus, float eps,
                               struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    struct norm_job job = {
        .kernels = cpu->kernels,
        .y = y->data,
        .x = x->data,
        .scale = scale ? scale->data : NULL,
        .shift = shift ? shift->data : NULL,
        .one_plus = one_plus,
        .eps = eps,
        .dim = last_dim(x),
    };
    job.rows = job.dim ? rf_tensor_elements(x) / job.dim : 0;
    run_rows(cpu, layer_norm_rows, &job);
    return RF_OK;
}

enum rf_code rf_cpu_rms_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                             const struct rf_tensor *weight, float eps, struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    struct norm_job job = {.kernels = cpu->kernels, .y = y->data, .x = x->data, .scale = weight->data, .eps = eps,
                           .dim = last_dim(x)};
    job.rows = job.dim ? rf_tensor_elements(x) / job.dim : 0;
    run_rows(cpu, rms_norm_rows, &job);
    return RF_OK;
}

enum rf_code rf_cpu_rms_rope(void *self, const struct rf_tensor *x, const struct rf_tensor *weight,
                             const struct rf_tensor *freqs, int n_heads, float eps, struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    struct norm_job job = {
        .kernels = cpu->kernels,
        .y = x->data,
        .x = x->data,
        .scale = weight->data,
        .freqs = freqs ? freqs->data : NULL,
        .eps = eps,
        .n_heads = n_heads,
        .dim = last_dim(x),
    };
    job.rows = job.dim ? rf_tensor_elements(x) / job.dim : 0;
    run_rows(cpu, rms_norm_rows, &job);
    return RF_OK;
}
