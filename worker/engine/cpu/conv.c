/* Convolution on the CPU: packs the weights, cuts the output into rows and rows into tiles, adds bias and residual.
 *
 * One item of work is one output row; its tiles go through conv_tile.c. Weights are packed once per call into the
 * shared scratch, as many blocks of output channels at a time as fit, so that nothing is allocated and no weight is
 * read twice from far away. Frames are never unfolded.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/conv_tile.h"
#include "worker/engine/cpu/cpu_ops.h"
#include "worker/engine/dtype.h"

#include <string.h>

struct conv_job {
    const struct rf_conv *weights;
    const float *x, *before[2], *b, *add;
    int n_before;                        /* frames in `before`, counted before x's */
    float *y;
    int64_t height, width, n_in;         /* of x as stored */
    int64_t y_height, y_width, n_out;
    int kt, kh, kw, stride_t, stride_s, pad_y, pad_x;
    bool upsample;
    /* The blocks of output channels that are packed right now. */
    float *packed;
    int64_t first_out, n_out_packed;     /* first_out is a multiple of the widest block */
    const struct rf_conv_kernels *kernels;
};

/* Which kernel takes the block that starts at `out`: the wide one unless the rest fits the slim one. */
static const struct rf_conv_kernel *kernel_for(const struct conv_job *j, int64_t out)
{
    const struct rf_conv_kernel *slim = &j->kernels->kernel[1];
    return j->n_out - out <= slim->block ? slim : &j->kernels->kernel[0];
}

static int64_t taps(const struct conv_job *j)
{
    return (int64_t)j->kt * j->kh * j->kw;
}

#define PACK_STEP 512

/* Weights [out, tap, in] become blocks [tap, in, block], columns past the last output channel 0. One item is
 * PACK_STEP of a block's (tap, in) positions, so that what an item scatters stays in the first-level cache and
 * belongs to it alone. */
static void pack(void *ctx, int64_t item, int worker)
{
    (void)worker;
    struct conv_job *j = ctx;
    const struct rf_tensor *w = &j->weights->w;
    int64_t wide = j->kernels->kernel[0].block, n = taps(j) * j->n_in, steps = (n + PACK_STEP - 1) / PACK_STEP;
    int64_t first = j->first_out + item / steps * wide, from = item % steps * PACK_STEP;
    int64_t block = kernel_for(j, first)->block, count = n - from < PACK_STEP ? n - from : PACK_STEP;
    float *dst = j->packed + (first - j->first_out) * n + from * block;
    for (int64_t column = 0; column < block; column++) {
        float part[PACK_STEP] = {0};
        if (first + column < j->n_out) {
            size_t offset = (size_t)((first + column) * n + from) * rf_dtype_size(w->dtype);
            rf_dtype_to_f32(part, (const char *)w->data + offset, w->dtype, count);
        }
        for (int64_t i = 0; i < count; i++)
            dst[i * block + column] = part[i];
    }
}

/* Input frame `index`, counted from the first one before x. */
static const float *input_frame(const struct conv_job *j, int64_t index)
{
    return index < j->n_before ? j->before[index] : j->x + (index - j->n_before) * j->height * j->width * j->n_in;
}

/* The input rows that output row (t, y) sees, without those in the zero border. */
static void find_rows(const struct conv_job *j, int64_t t, int64_t y, struct rf_conv_tile *tile)
{
    int64_t virtual_height = j->upsample ? 2 * j->height : j->height;
    tile->n_rows = 0;
    for (int dt = 0; dt < j->kt; dt++) {
        for (int dy = 0; dy < j->kh; dy++) {
            int64_t yy = y * j->stride_s + dy - j->pad_y;
            if (yy < 0 || yy >= virtual_height)
                continue;
            int64_t row = j->upsample ? yy / 2 : yy;
            tile->row_x[tile->n_rows] = input_frame(j, t * j->stride_t + dt) + row * j->width * j->n_in;
            tile->row_k[tile->n_rows++] = dt * j->kh + dy;
        }
    }
}

static void store(const struct conv_job *j, const struct rf_conv_tile *tile, int64_t pixel, int64_t n_pixels,
                  int64_t out, int64_t n, int64_t block)
{
    for (int64_t i = 0; i < n_pixels; i++) {
        int64_t at = (pixel + i) * j->n_out + out;
        const float *acc = tile->acc + i * block;
        if (j->add)
            for (int64_t c = 0; c < n; c++)
                j->y[at + c] = acc[c] + j->add[at + c];
        else
            memcpy(j->y + at, acc, (size_t)n * sizeof(float));
    }
}

static void run_row(void *ctx, int64_t item, int worker)
{
    (void)worker;
    const struct conv_job *j = ctx;
    struct rf_conv_tile tile = {.width = j->upsample ? 2 * j->width : j->width, .n_in = j->n_in, .kw = j->kw,
                                .upsample = j->upsample};
    find_rows(j, item / j->y_height, item % j->y_height, &tile);
    int64_t last_out = j->first_out + j->n_out_packed;
    for (int64_t out = j->first_out; out < last_out;) {
        const struct rf_conv_kernel *kernel = kernel_for(j, out);
        int64_t n = last_out - out < kernel->block ? last_out - out : kernel->block;
        tile.w = j->packed + (out - j->first_out) * taps(j) * j->n_in;
        float bias[RF_CONV_MAX_BLOCK] = {0};
        if (j->b)
            memcpy(bias, j->b + out, (size_t)n * sizeof(float));
        for (int64_t px = 0; px < j->y_width; px += kernel->tile) {
            tile.x0 = px * j->stride_s - j->pad_x;
            for (int i = 0; i < kernel->tile; i++)
                memcpy(tile.acc + (size_t)i * kernel->block, bias, (size_t)kernel->block * sizeof(float));
            kernel->stride[j->stride_s - 1](&tile);
            int64_t n_pixels = j->y_width - px < kernel->tile ? j->y_width - px : kernel->tile;
            store(j, &tile, item * j->y_width + px, n_pixels, out, n, kernel->block);
        }
        out += n;
    }
}

static const struct rf_conv_kernels *choose_kernels(const struct rf_cpu *cpu)
{
#if defined(__x86_64__)
    if (strcmp(cpu->kernels->name, "avx512") == 0)
        return &rf_conv_kernels_avx512;
    if (strcmp(cpu->kernels->name, "avx2") == 0)
        return &rf_conv_kernels_avx2;
#endif
    (void)cpu;
    return &rf_conv_kernels_plain;
}

enum rf_code rf_cpu_conv(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
                         const struct rf_conv_opts *opts, struct rf_err *err)
{
    struct rf_cpu *cpu = self;
    static const struct rf_conv_opts none;
    if (!opts)
        opts = &none;
    struct conv_job j = {
        .weights = w, .x = x->data, .b = w->b.data, .add = opts->add ? opts->add->data : NULL, .y = y->data,
        .height = x->shape[1], .width = x->shape[2], .n_in = x->shape[3],
        .y_height = y->shape[1], .y_width = y->shape[2], .n_out = y->shape[3],
        .kt = (int)w->w.shape[1], .kh = (int)w->w.shape[2], .kw = (int)w->w.shape[3],
        .stride_t = opts->stride_t ? opts->stride_t : 1, .stride_s = opts->stride_s ? opts->stride_s : 1,
        .upsample = opts->upsample, .packed = cpu->shared, .kernels = choose_kernels(cpu),
    };
    for (int i = 0; opts->before && i < 2; i++)
        j.before[j.n_before++] = opts->before[i].data;
    if (x->dtype != RF_F32 || y->dtype != RF_F32 || (j.b && w->b.dtype != RF_F32) || !rf_dtype_is_float(w->w.dtype))
        return rf_fail(err, RF_ERR_DEVICE, "the CPU's convolution works on F32 frames");
    if (j.kt * j.kh > RF_CONV_MAX_ROWS || j.kw > 3 || j.stride_s > 2)
        return rf_fail(err, RF_ERR_DEVICE, "the CPU's convolution has kernels up to 3 wide and strides up to 2");
    /* Stride 2 pads right and bottom only: the first output looks at pixels 0, 1, 2. */
    j.pad_y = j.stride_s == 2 ? 0 : (j.kh - 1) / 2;
    j.pad_x = j.stride_s == 2 ? 0 : (j.kw - 1) / 2;

    int64_t wide = j.kernels->kernel[0].block, block_bytes = taps(&j) * j.n_in * wide * (int64_t)sizeof(float);
    int64_t n_blocks = (int64_t)RF_CPU_SHARED_BYTES / block_bytes;
    if (n_blocks == 0)
        return rf_fail(err, RF_ERR_DEVICE, "the CPU's convolution takes at most %lld input channels here",
                       (long long)(j.n_in * (int64_t)RF_CPU_SHARED_BYTES / block_bytes));
    for (j.first_out = 0; j.first_out < j.n_out; j.first_out += n_blocks * wide) {
        int64_t rest = j.n_out - j.first_out;
        j.n_out_packed = rest < n_blocks * wide ? rest : n_blocks * wide;
        int64_t n_packed = (j.n_out_packed + wide - 1) / wide;
        int64_t n_steps = (taps(&j) * j.n_in + PACK_STEP - 1) / PACK_STEP;
        rf_pool_run(cpu->pool, n_packed * n_steps, pack, &j);
        rf_pool_run(cpu->pool, y->shape[0] * j.y_height, run_row, &j);
    }
    return RF_OK;
}
