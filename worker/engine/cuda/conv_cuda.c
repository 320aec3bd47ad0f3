/* Which convolution runs: the Hopper kernel, the generic tensor-core kernel, or the one that follows the definition;
 * and what the fast ones want of their operands first. A picture of a few channels goes through in groups of frames
 * that fit the scratch once they are widened.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/cuda_private.h"

#define HEAD_OUTPUTS 32 /* up to so many, the Hopper kernel takes them as if they were all there */

static bool is_bf16(const struct rf_conv_args *a)
{
    return a->x_type == RF_KT_BF16 && a->w_type == RF_KT_BF16;
}

static bool reads_aligned(const struct rf_conv_args *a)
{
    return rf_cuda_aligned(a->x) && rf_cuda_aligned(a->w) && rf_cuda_aligned(a->before[0]) &&
           rf_cuda_aligned(a->before[1]);
}

static bool fits_hopper(const struct rf_conv_args *a)
{
    bool is_head = a->c_out <= HEAD_OUTPUTS && !a->upsample && a->kh == 3;
    return is_bf16(a) && reads_aligned(a) && rf_cuda_aligned(a->y) && rf_cuda_aligned(a->add) &&
           rf_cuda_aligned(a->bias) && (a->add == NULL || a->add_type == RF_KT_BF16 || is_head) && a->stride_t == 1 &&
           a->stride_s == 1 && a->kh == a->kw && (a->kh == 3 || (a->kh == 1 && !a->upsample)) && a->c_in % 32 == 0 &&
           (a->c_out % 96 == 0 || is_head) && (!a->upsample || a->kt == 1);
}

/* RF_ERR_NOT_FOUND: the scratch cannot hold the weights as the kernel wants them, or the driver refuses the map. */
static enum rf_code run_hopper(struct rf_cuda *c, const struct rf_conv_args *args, struct rf_err *err)
{
    struct rf_conv_args a = *args;
    struct rf_cuda_taker scratch = rf_cuda_scratch(c);
    cudaError_t status = cudaSuccess;
    size_t per_output = (size_t)(a.kt * a.kh * a.kw * a.c_in) * 2;
    if (a.upsample) {
        void *w = rf_cuda_take(&scratch, (size_t)(16 * a.c_out * a.c_in) * 2);
        if (w == NULL)
            return RF_ERR_NOT_FOUND;
        status = rf_launch_conv_fold(c->stream, w, a.w, a.c_out, a.c_in);
        a.w = w;
    } else if (a.c_out <= HEAD_OUTPUTS) {
        char *w = rf_cuda_take(&scratch, HEAD_OUTPUTS * per_output);
        if (w == NULL)
            return RF_ERR_NOT_FOUND;
        size_t bytes = (size_t)a.c_out * per_output;
        status = cudaMemcpyAsync(w, a.w, bytes, cudaMemcpyDeviceToDevice, c->stream);
        if (status == cudaSuccess)
            status = cudaMemsetAsync(w + bytes, 0, HEAD_OUTPUTS * per_output - bytes, c->stream);
        a.w = w;
    }
    if (status == cudaSuccess)
        status = rf_launch_conv_hopper(c->stream, &a);
    if (status == cudaErrorInvalidValue || status == cudaErrorNotSupported) {
        cudaGetLastError();
        return RF_ERR_NOT_FOUND;
    }
    return rf_cuda_check(c, status, "convolution (Hopper)", err);
}

static enum rf_code run_mma(struct rf_cuda *c, const struct rf_conv_args *a, struct rf_err *err)
{
    return rf_cuda_check(c, rf_launch_conv_mma(c->stream, a), "convolution (tensor cores)", err);
}

/* Input frame `index`, counted from the first one before x. */
static const void *input_frame(const struct rf_conv_args *a, int64_t index)
{
    if (index < a->n_before)
        return a->before[index];
    return (const char *)a->x + (size_t)((index - a->n_before) * a->h_in * a->w_in * a->c_in) * 2;
}

static void *element_of(const void *data, int type, int64_t index)
{
    return data == NULL ? NULL : (char *)data + (size_t)index * (type == RF_KT_F32 ? 4 : 2);
}

/* Channels that are no multiple of 8 (the encoder's 3 colours). RF_ERR_NOT_FOUND: the scratch holds no group of frames.
 * */
static enum rf_code run_widened(struct rf_cuda *c, const struct rf_conv_args *args, struct rf_err *err)
{
    const int c_wide = (int)(args->c_in + 7) / 8 * 8;
    const int64_t taps = (int64_t)args->kt * args->kh * args->kw, pixels = args->h_in * args->w_in;
    struct rf_cuda_taker scratch = rf_cuda_scratch(c);
    void *w = rf_cuda_take(&scratch, (size_t)(args->c_out * taps * c_wide) * 2);
    const size_t frame_bytes = (size_t)(pixels * c_wide) * 2;
    const int64_t n_fit = (int64_t)(rf_cuda_left(&scratch) / frame_bytes), n = n_fit - args->kt + 1;
    if (w == NULL || n < 1)
        return RF_ERR_NOT_FOUND;
    char *x = rf_cuda_take(&scratch, (size_t)n_fit * frame_bytes);
    cudaError_t status = rf_launch_conv_widen(c->stream, w, args->w, args->c_out * taps, (int)args->c_in, c_wide);
    for (int64_t first = 0; first < args->t_out && status == cudaSuccess; first += n) {
        struct rf_conv_args a = *args;
        const int64_t at = first * a.h_out * a.w_out * a.c_out;
        a.t_out = args->t_out - first < n ? args->t_out - first : n;
        a.t_in = a.t_out + a.kt - 1;
        for (int64_t i = 0; i < a.t_in && status == cudaSuccess; i++)
            status = rf_launch_conv_widen(c->stream, x + (size_t)i * frame_bytes, input_frame(args, first + i), pixels,
                                          (int)args->c_in, c_wide);
        a.x = x;
        a.w = w;
        a.n_before = 0;
        a.c_in = c_wide;
        a.y = element_of(args->y, a.y_type, at);
        a.add = element_of(args->add, a.add_type, at);
        if (status == cudaSuccess)
            status = rf_launch_conv_mma(c->stream, &a);
    }
    return rf_cuda_check(c, status, "convolution of few channels", err);
}

static struct rf_conv_args args_of(const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
                                   const struct rf_conv_opts *opts)
{
    const int64_t *k = w->w.shape; /* out, kt, kh, kw, in */
    bool has_add = opts->add != NULL && opts->add->data != NULL;
    struct rf_conv_args a = {
        .y = y->data, .x = x->data, .w = w->w.data, .add = has_add ? opts->add->data : NULL, .bias = w->b.data,
        .y_type = (int)y->dtype, .x_type = (int)x->dtype, .w_type = (int)w->w.dtype,
        .add_type = has_add ? (int)opts->add->dtype : RF_KT_F32,
        .t_in = x->shape[0], .h_in = x->shape[1], .w_in = x->shape[2], .c_in = x->shape[3],
        .t_out = y->shape[0], .h_out = y->shape[1], .w_out = y->shape[2], .c_out = y->shape[3],
        .kt = (int)k[1], .kh = (int)k[2], .kw = (int)k[3], .stride_t = opts->stride_t ? opts->stride_t : 1,
        .stride_s = opts->stride_s ? opts->stride_s : 1, .upsample = opts->upsample,
    };
    for (int i = 0; opts->before != NULL && i < 2; i++)
        a.before[a.n_before++] = opts->before[i].data;
    /* Stride 2 pads right and bottom only: the first output looks at pixels 0, 1, 2. */
    a.pad_y = a.stride_s == 2 ? 0 : (a.kh - 1) / 2;
    a.pad_x = a.stride_s == 2 ? 0 : (a.kw - 1) / 2;
    return a;
}

enum rf_code rf_cuda_conv(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
                          const struct rf_conv_opts *opts, struct rf_err *err)
{
    struct rf_cuda *c = self;
    const struct rf_conv_args a = args_of(y, x, w, opts);
    enum rf_code rc = rf_cuda_check(c, cudaSetDevice(c->index), "convolution", err);
    if (rc != RF_OK)
        return rc;
    bool fast = !c->paths.plain && is_bf16(&a);
    rc = RF_ERR_NOT_FOUND;
    if (fast && c->cc == 90 && !c->paths.no_hopper && fits_hopper(&a))
        rc = run_hopper(c, &a, err);
    if (rc == RF_ERR_NOT_FOUND && fast && a.c_in % 8 == 0 && reads_aligned(&a))
        rc = run_mma(c, &a, err);
    if (rc == RF_ERR_NOT_FOUND && fast && a.c_in % 8 != 0 && a.stride_t == 1)
        rc = run_widened(c, &a, err);
    if (rc != RF_ERR_NOT_FOUND)
        return rc;
    return rf_cuda_check(c, rf_launch_conv_plain(c->stream, &a), "convolution", err);
}
