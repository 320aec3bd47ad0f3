/* The ops without arithmetic worth a file of their own: activations, sums, copies, embedding, patches.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/cpu_ops.h"
#include "worker/engine/dtype.h"

#include <string.h>

#define BLOCK 16384 /* elements of an item */

struct element_job {
    const struct rf_cpu *cpu;
    float *y;
    const float *a, *b;
    float fa, fb;
    enum rf_act act;
    int64_t n;
};

static int64_t at_most(int64_t x, int64_t limit)
{
    return x < limit ? x : limit;
}

static void run_elements(const struct rf_cpu *cpu, rf_pool_fn *fn, struct element_job *job)
{
    job->cpu = cpu;
    rf_pool_run(cpu->pool, (job->n + BLOCK - 1) / BLOCK, fn, job);
}

static void gelu_mul_block(void *ctx, int64_t item, int worker)
{
    const struct element_job *j = ctx;
    int64_t at = item * BLOCK;
    j->cpu->kernels->gelu_mul(j->y + at, j->a + at, j->b + at, at_most(j->n - at, BLOCK));
}

enum rf_code rf_cpu_gelu_mul(void *self, const struct rf_tensor *y, const struct rf_tensor *a,
                             const struct rf_tensor *b, struct rf_err *err)
{
    struct element_job job = {.y = y->data, .a = a->data, .b = b->data, .n = rf_tensor_elements(y)};
    run_elements(self, gelu_mul_block, &job);
    return RF_OK;
}

static void activate_block(void *ctx, int64_t item, int worker)
{
    const struct element_job *j = ctx;
    int64_t at = item * BLOCK;
    j->cpu->kernels->bias_act(j->y + at, j->a + at, NULL, j->act, at_most(j->n - at, BLOCK));
}

enum rf_code rf_cpu_activate(void *self, const struct rf_tensor *y, const struct rf_tensor *x, enum rf_act act,
                             struct rf_err *err)
{
    struct element_job job = {.y = y->data, .a = x->data, .act = act, .n = rf_tensor_elements(y)};
    run_elements(self, activate_block, &job);
    return RF_OK;
}

static void axpby_block(void *ctx, int64_t item, int worker)
{
    const struct element_job *j = ctx;
    int64_t at = item * BLOCK;
    j->cpu->kernels->axpby(j->y + at, j->fa, j->a + at, j->fb, at_most(j->n - at, BLOCK));
}

enum rf_code rf_cpu_axpby(void *self, const struct rf_tensor *y, float a, const struct rf_tensor *x, float b,
                          struct rf_err *err)
{
    struct element_job job = {.y = y->data, .a = x->data, .fa = a, .fb = b, .n = rf_tensor_elements(y)};
    run_elements(self, axpby_block, &job);
    return RF_OK;
}

enum rf_code rf_cpu_copy(void *self, const struct rf_tensor *y, const struct rf_tensor *x, struct rf_err *err)
{
    const struct rf_cpu *cpu = self;
    int64_t n = rf_tensor_elements(y);
    if (x->dtype == y->dtype) {
        memcpy(y->data, x->data, rf_tensor_bytes(y));
    } else if (y->dtype == RF_F32) {
        cpu->kernels->to_f32(y->data, x->data, x->dtype, n);
    } else { /* through F32 in pieces */
        float *piece = rf_cpu_scratch(cpu, 0);
        size_t x_size = rf_dtype_size(x->dtype), y_size = rf_dtype_size(y->dtype);
        for (int64_t at = 0; at < n; at += BLOCK) {
            int64_t m = at_most(n - at, BLOCK);
            cpu->kernels->to_f32(piece, (const char *)x->data + (size_t)at * x_size, x->dtype, m);
            rf_dtype_from_f32((char *)y->data + (size_t)at * y_size, y->dtype, piece, m);
        }
    }
    return RF_OK;
}

enum rf_code rf_cpu_fill(void *self, const struct rf_tensor *y, float value, struct rf_err *err)
{
    size_t size = rf_dtype_size(y->dtype);
    int64_t n = rf_tensor_elements(y);
    char one[sizeof(float)];
    rf_dtype_from_f32(one, y->dtype, &value, 1);
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)y->data + (size_t)i * size, one, size);
    return RF_OK;
}

enum rf_code rf_cpu_embed(void *self, const struct rf_tensor *y, const struct rf_tensor *table, const int32_t *ids,
                          int64_t n, struct rf_err *err)
{
    const struct rf_cpu *cpu = self;
    int64_t dim = table->shape[1];
    size_t row_bytes = (size_t)dim * rf_dtype_size(table->dtype);
    for (int64_t i = 0; i < n; i++)
        cpu->kernels->to_f32((float *)y->data + i * dim, (const char *)table->data + (size_t)ids[i] * row_bytes,
                             table->dtype, dim);
    return RF_OK;
}

/* ---- patches ---- */

struct patch_job {
    float *tokens, *latent;
    int64_t c, t, hp, wp;
};

/* Item: one row (t, y) of tokens. Feature (c*2 + ky)*2 + kx. */
static void patchify_row(void *ctx, int64_t item, int worker)
{
    const struct patch_job *j = ctx;
    int64_t t = item / j->hp, y = item % j->hp, w = 2 * j->wp;
    for (int64_t c = 0; c < j->c; c++)
        for (int ky = 0; ky < 2; ky++) {
            const float *line = j->latent + ((c * j->t + t) * 2 * j->hp + 2 * y + ky) * w;
            float *out = j->tokens + item * j->wp * 4 * j->c + (c * 2 + ky) * 2;
            for (int64_t x = 0; x < j->wp; x++, out += 4 * j->c) {
                out[0] = line[2 * x];
                out[1] = line[2 * x + 1];
            }
        }
}

/* Item: one row (t, y) of tokens. Feature (py*2 + px)*C + c. */
static void unpatchify_row(void *ctx, int64_t item, int worker)
{
    const struct patch_job *j = ctx;
    int64_t t = item / j->hp, y = item % j->hp, w = 2 * j->wp;
    for (int64_t c = 0; c < j->c; c++)
        for (int py = 0; py < 2; py++) {
            float *line = j->latent + ((c * j->t + t) * 2 * j->hp + 2 * y + py) * w;
            const float *in = j->tokens + item * j->wp * 4 * j->c + 2 * py * j->c + c;
            for (int64_t x = 0; x < j->wp; x++, in += 4 * j->c) {
                line[2 * x] = in[0];
                line[2 * x + 1] = in[j->c];
            }
        }
}

static struct patch_job patch_job(const struct rf_tensor *tokens, const struct rf_tensor *latent)
{
    return (struct patch_job){tokens->data, latent->data, latent->shape[0], latent->shape[1], latent->shape[2] / 2,
                              latent->shape[3] / 2};
}

enum rf_code rf_cpu_patchify(void *self, const struct rf_tensor *tokens, const struct rf_tensor *latent,
                             struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    struct patch_job job = patch_job(tokens, latent);
    rf_pool_run(cpu->pool, job.t * job.hp, patchify_row, &job);
    return RF_OK;
}

enum rf_code rf_cpu_unpatchify(void *self, const struct rf_tensor *latent, const struct rf_tensor *tokens,
                               struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    struct patch_job job = patch_job(tokens, latent);
    rf_pool_run(cpu->pool, job.t * job.hp, unpatchify_row, &job);
    return RF_OK;
}
