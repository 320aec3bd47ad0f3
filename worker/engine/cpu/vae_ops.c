/* The VAE's small operations on the CPU: the channel norm with its activation, and the change of layout between
 * channels-first latents and channels-last frames.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/cpu_ops.h"

#include <math.h>

#define ITEM_ELEMENTS 32768 /* work of one pool item */
#define PIECE_ELEMENTS 4096 /* normed, then activated while still in the first-level cache */
#define LANES 8             /* partial sums: lets the compiler use vectors without reordering a float sum itself */

struct norm_job {
    float *y;
    const float *x, *gamma;
    int64_t rows, channels, rows_per_item, rows_per_piece;
    enum rf_act act;
    const struct rf_kernels *kernels;
};

static float sum_of_squares(const float *x, int64_t n)
{
    float part[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            part[l] += x[i + l] * x[i + l];
    float sum = 0;
    for (; i < n; i++)
        sum += x[i] * x[i];
    for (int l = 0; l < LANES; l++)
        sum += part[l];
    return sum;
}

static void norm_item(void *ctx, int64_t item, int worker)
{
    (void)worker;
    const struct norm_job *j = ctx;
    int64_t c = j->channels, first = item * j->rows_per_item, last = first + j->rows_per_item;
    if (last > j->rows)
        last = j->rows;
    float root = sqrtf((float)c);
    for (int64_t piece = first; piece < last; piece += j->rows_per_piece) {
        int64_t end = piece + j->rows_per_piece < last ? piece + j->rows_per_piece : last;
        for (int64_t row = piece; row < end; row++) {
            const float *x = j->x + row * c;
            float *y = j->y + row * c;
            /* The floor is on the length, not inside the root: an all-zero pixel must give zeros, not a huge factor. */
            float factor = root / fmaxf(sqrtf(sum_of_squares(x, c)), 1e-12f);
            for (int64_t i = 0; i < c; i++)
                y[i] = x[i] * factor * j->gamma[i];
        }
        if (j->act != RF_ACT_NONE)
            j->kernels->bias_act(j->y + piece * c, j->y + piece * c, NULL, j->act, (end - piece) * c);
    }
}

static int64_t at_least_one(int64_t n)
{
    return n > 0 ? n : 1;
}

enum rf_code rf_cpu_channel_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                 const struct rf_tensor *gamma, enum rf_act act, struct rf_err *err)
{
    const struct rf_cpu *cpu = self;
    if (x->dtype != RF_F32 || y->dtype != RF_F32)
        return rf_fail(err, RF_ERR_DEVICE, "the CPU's channel norm works on F32 frames");
    int64_t c = x->shape[x->n_dims - 1];
    struct norm_job j = {
        .y = y->data, .x = x->data, .gamma = gamma->data,
        .rows = rf_tensor_elements(x) / at_least_one(c), .channels = c,
        .rows_per_item = at_least_one(ITEM_ELEMENTS / at_least_one(c)),
        .rows_per_piece = at_least_one(PIECE_ELEMENTS / at_least_one(c)), .act = act, .kernels = cpu->kernels,
    };
    rf_pool_run(cpu->pool, (j.rows + j.rows_per_item - 1) / j.rows_per_item, norm_item, &j);
    return RF_OK;
}

/* ---- layouts ---- */

struct layout_job {
    float *y;
    const float *x, *mul, *add;
    int64_t channels, frames, pixels; /* pixels of one frame */
};

static void last_item(void *ctx, int64_t frame, int worker)
{
    (void)worker;
    const struct layout_job *j = ctx;
    for (int64_t c = 0; c < j->channels; c++) {
        const float *x = j->x + (c * j->frames + frame) * j->pixels;
        float *y = j->y + frame * j->pixels * j->channels + c;
        float mul = j->mul ? j->mul[c] : 1, add = j->add ? j->add[c] : 0;
        for (int64_t p = 0; p < j->pixels; p++)
            y[p * j->channels] = x[p] * mul + add;
    }
}

static void first_item(void *ctx, int64_t frame, int worker)
{
    (void)worker;
    const struct layout_job *j = ctx;
    for (int64_t c = 0; c < j->channels; c++) {
        const float *x = j->x + frame * j->pixels * j->channels + c;
        float *y = j->y + (c * j->frames + frame) * j->pixels;
        float mul = j->mul ? j->mul[c] : 1, add = j->add ? j->add[c] : 0;
        for (int64_t p = 0; p < j->pixels; p++)
            y[p] = x[p * j->channels] * mul + add;
    }
}

/* `last` is the [T, H, W, C] tensor of the two. */
static enum rf_code change_layout(struct rf_cpu *cpu, const struct rf_tensor *y, const struct rf_tensor *x,
                                  const struct rf_tensor *last, const float *mul, const float *add, rf_pool_fn *fn,
                                  struct rf_err *err)
{
    if (x->dtype != RF_F32 || y->dtype != RF_F32)
        return rf_fail(err, RF_ERR_DEVICE, "the CPU changes layouts of F32 tensors only");
    struct layout_job j = {.y = y->data, .x = x->data, .mul = mul, .add = add, .channels = last->shape[3],
                           .frames = last->shape[0], .pixels = last->shape[1] * last->shape[2]};
    rf_pool_run(cpu->pool, j.frames, fn, &j);
    return RF_OK;
}

enum rf_code rf_cpu_to_channels_last(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                     const float *mul, const float *add, struct rf_err *err)
{
    return change_layout(self, y, x, y, mul, add, last_item, err);
}

enum rf_code rf_cpu_from_channels_last(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                       const float *mul, const float *add, struct rf_err *err)
{
    return change_layout(self, y, x, x, mul, add, first_item, err);
}
