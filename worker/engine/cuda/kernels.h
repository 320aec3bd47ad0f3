/* The border between the C side of this folder and its kernels: one launcher per kernel, C types only.
 *
 * Every launcher puts its work on `stream` and returns what cudaGetLastError() says about the launch; failures while
 * running come out at the next synchronisation. Shapes were checked by the front. Row-major, packed, as in engine.h.
 * Vector accesses are chosen by the launchers from pointers and sizes: any alignment is correct, 16 bytes is fast.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CUDA_KERNELS_H
#define RF_ENGINE_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers of enum rf_dtype: schema/ is C only, so .cu files do not see it. backend_cuda.c checks them. */
enum rf_kt { RF_KT_F32, RF_KT_F16, RF_KT_BF16, RF_KT_E4M3, RF_KT_E5M2 };
enum rf_ka { RF_KA_NONE, RF_KA_GELU_TANH, RF_KA_SILU }; /* enum rf_act */

/* ---- elementwise.cu ---- */
cudaError_t rf_launch_convert(cudaStream_t stream, void *y, int y_type, const void *x, int x_type, int64_t n);
cudaError_t rf_launch_fill(cudaStream_t stream, void *y, int y_type, float value, int64_t n);
cudaError_t rf_launch_axpby(cudaStream_t stream, float *y, float a, const float *x, float b, int64_t n);
cudaError_t rf_launch_activate(cudaStream_t stream, void *y, int y_type, const void *x, int x_type, int act, int64_t n);
cudaError_t rf_launch_gelu_mul(cudaStream_t stream, void *y, int y_type, const void *a, int a_type, const void *b,
                               int b_type, int64_t n);
/* high + low = x but for 2^-17 of it, both bf16. */
cudaError_t rf_launch_split(cudaStream_t stream, void *high, void *low, const float *x, int64_t n);
/* y [rows, cols] = x [rows, cols] * scale: [1] or, when per_row, [rows] F32. Dequantises fp8 weights. */
cudaError_t rf_launch_scale_rows(cudaStream_t stream, void *y, int y_type, const void *x, int x_type,
                                 const float *scale, bool per_row, int64_t rows, int64_t cols);

/* ---- layout.cu ---- */
cudaError_t rf_launch_embed(cudaStream_t stream, void *y, int y_type, const void *table, int table_type,
                            const int32_t *ids /* device */, int64_t n, int64_t dim);
/* `to_tokens`: tokens from latent; else latent from tokens, whose nesting is the other one. */
cudaError_t rf_launch_patch(cudaStream_t stream, void *tokens, int tokens_type, void *latent, int latent_type,
                            int64_t c, int64_t t, int64_t hp, int64_t wp, bool to_tokens);
/* last [frames, pixels, c], first [c, frames, pixels]; mul, add [c] on the device or NULL. */
cudaError_t rf_launch_channels(cudaStream_t stream, void *last, int last_type, void *first, int first_type,
                               const float *mul, const float *add, int64_t c, int64_t frames, int64_t pixels,
                               bool to_last);

/* ---- norm.cu ---- */
struct rf_norm_args {
    void *y;
    const void *x;
    int y_type, x_type;
    const float *scale, *shift, *freqs; /* each may be NULL; freqs [rows, head_dim / 2, 2] */
    bool subtract_mean;                 /* LayerNorm; else RMS */
    bool one_plus;
    float eps;
    int64_t rows, dim, head_dim;
};
cudaError_t rf_launch_norm(cudaStream_t stream, const struct rf_norm_args *args);
cudaError_t rf_launch_channel_norm(cudaStream_t stream, void *y, int y_type, const void *x, int x_type,
                                   const float *gamma, int act, int64_t rows, int64_t c);

/* ---- norm_stream.cu: the same for the shapes of large tensors, where rf_*_can_stream() ---- */
bool rf_norm_can_stream(const struct rf_norm_args *args);
cudaError_t rf_launch_norm_stream(cudaStream_t stream, const struct rf_norm_args *args);
bool rf_channel_norm_can_stream(const void *y, int y_type, const void *x, int x_type, const float *gamma, int act,
                                int64_t c);
cudaError_t rf_launch_channel_norm_stream(cudaStream_t stream, void *y, const void *x, const float *gamma, int act,
                                          int64_t rows, int64_t c); /* bf16 */

/* ---- linear_plain.cu: every type, size and alignment; slow but for few rows ---- */
struct rf_epilogue {
    void *y; /* [rows, out] */
    int y_type;
    const void *d; /* [rows, out]: the product */
    int d_type;
    const float *row_scale;  /* [rows] or NULL: fp8 activations */
    const float *col_scale;  /* [1] or [out] or NULL: fp8 weights */
    bool col_scale_is_one;
    const void *branch;      /* [rows, out] or NULL: the LoRA branches, type d_type */
    const float *bias;       /* [out] or NULL */
    const float *gate;       /* [out] or NULL, only with add */
    int act;
    bool add;                /* y += gate * (...), y F32 */
    int64_t rows, out;
};
/* y = act(d * row_scale * col_scale + branch + bias), or its gated sum. y may be d. */
cudaError_t rf_launch_epilogue(cudaStream_t stream, const struct rf_epilogue *e);
/* What the library's fp8 product takes in place of that epilogue: scale[o] = col_scale * gate, bias (bf16) = bias * gate;
 * col_scale, gate and bias may be NULL (1, 1, 0). */
cudaError_t rf_launch_fold(cudaStream_t stream, float *scale, void *folded_bias, const float *col_scale,
                           bool col_scale_is_one, const float *bias, const float *gate, int64_t out);
/* d [rows, out] F32 (or bf16) = x w^T; accumulate: added to d, with alpha. */
cudaError_t rf_launch_linear_plain(cudaStream_t stream, void *d, int d_type, const void *x, int x_type, int64_t ldx,
                                   const void *w, int w_type, float alpha, bool accumulate, int64_t rows, int64_t in,
                                   int64_t out);
/* Rows of x as E4M3 with one scale each: scale[r] = max|x[r]| / 448 (1 for a row of zeros). in: a multiple of 16. */
cudaError_t rf_launch_quantise_rows(cudaStream_t stream, void *q, float *scale, const void *x, int x_type,
                                    int64_t rows, int64_t in);

/* ---- attention ---- */
struct rf_attention_args {
    void *o;
    const void *q, *k, *v;
    int o_type, q_type, k_type, v_type;
    const float *bias; /* [heads, bias_stride] by distance (engine.h), or NULL */
    int64_t bias_stride;
    int64_t n_q, n_keys;
    int heads, head_dim;
    float scale;
};
/* attention_plain.cu: one warp per query and head, head_dim up to 512. */
cudaError_t rf_launch_attention_plain(cudaStream_t stream, const struct rf_attention_args *a);
/* Softmax over rows of F32 scores, in place or narrowed into bf16: p [heads, n_q, ldp] from s [heads, n_q, lds]. bias:
 * the first query's, of the first head; the next query's begins one earlier. Columns n_keys .. ldp are zeroed. */
cudaError_t rf_launch_softmax(cudaStream_t stream, void *p, int p_type, int64_t ldp, const float *s, int64_t lds,
                              const float *bias, int64_t bias_stride, float scale, int heads, int64_t n_q,
                              int64_t n_keys);
/* attention_mma.cu: bf16, head_dim 128, no bias, scale > 0; sm_80 and later. */
cudaError_t rf_launch_attention_mma(cudaStream_t stream, const struct rf_attention_args *a);
/* attention_hopper.cu: likewise, sm_90a. cudaErrorInvalidValue: the tensor map could not be made. */
cudaError_t rf_launch_attention_hopper(cudaStream_t stream, const struct rf_attention_args *a);

/* ---- 8-bit attention (attention8.h): quantised here, then one of the two kernels; for `heads` heads from first_head */
#define RF_A8_SPLITS 128 /* blocks that share the rows of a column sum */
struct rf_attention8_args {
    void *o; /* this and the next three: bf16 [rows, all_heads * 128], 16-byte aligned */
    const void *q, *k, *v;
    int64_t n_q, n_keys;
    int all_heads, first_head, heads;
    float scale;
    int64_t q_rows, n_tiles;   /* n_q, rounded up to whole tiles of 128; tiles of 128 keys */
    /* Scratch, filled by rf_launch_attention8_quantise(): */
    int8_t *q8;                /* [heads, q_rows, 128] */
    int8_t *k8;                /* [heads, n_tiles * 128, 128] */
    int8_t *v8;                /* [heads, 128, n_tiles * 128], keys in the order of RF_A8_SLOT */
    float *q_scale;            /* [heads, q_rows], times scale and log2(e) */
    float *kv_scale;           /* [heads, n_tiles, groups, 2]: of k, and the logarithm of v's */
    float *k_mean, *v_mean, *v_deviation; /* [heads, 128] */
    float *partial;            /* rf_attention8_partials() */
};
static inline int64_t rf_attention8_partials(int64_t heads, int64_t n_tiles)
{
    return heads * 128 * (n_tiles > 3 * RF_A8_SPLITS ? n_tiles : 3 * RF_A8_SPLITS);
}
cudaError_t rf_launch_attention8_quantise(cudaStream_t stream, const struct rf_attention8_args *a);
cudaError_t rf_launch_attention8_mma(cudaStream_t stream, const struct rf_attention8_args *a);    /* sm_80 and later */
cudaError_t rf_launch_attention8_hopper(cudaStream_t stream, const struct rf_attention8_args *a); /* sm_90a */

/* ---- convolution ---- */
struct rf_conv_args {
    void *y;
    const void *x, *w, *add; /* add may be NULL or y */
    const void *before[2];   /* the frames before x, older first, when n_before is 2 */
    int n_before;            /* 2, or 0: none */
    const float *bias;       /* may be NULL */
    int y_type, x_type, w_type, add_type;
    int64_t t_in, h_in, w_in, c_in;     /* of x as stored, before upsampling */
    int64_t t_out, h_out, w_out, c_out;
    int kt, kh, kw, stride_t, stride_s, pad_y, pad_x;
    bool upsample;
};
cudaError_t rf_launch_conv_plain(cudaStream_t stream, const struct rf_conv_args *a);
/* conv_mma.cu: x, w bf16, c_in a multiple of 8, x and w 16-byte aligned; sm_80 and later. */
cudaError_t rf_launch_conv_mma(cudaStream_t stream, const struct rf_conv_args *a);
/* conv_hopper.cu, sm_90a: x, w, add bf16, everything 16-byte aligned, strides 1, c_in a multiple of 32; kernels 3x3 or
 * 1x1 in space; c_out a multiple of 96, or 32 and less with w [32, …] of a 3x3 kernel (add may be F32 then). upsample:
 * one frame in time, and w from rf_launch_conv_fold().
 * cudaErrorInvalidValue: the tensor map could not be made. */
cudaError_t rf_launch_conv_hopper(cudaStream_t stream, const struct rf_conv_args *a);
/* conv_weights.cu, bf16. Fold: y [4, out, 2, 2, in] from w [out, 3, 3, in], the four convolutions that upsampling
 * needs. Widen: y [rows, c_wide] from x [rows, c], zeros behind. */
cudaError_t rf_launch_conv_fold(cudaStream_t stream, void *y, const void *w, int64_t n_out, int64_t n_in);
cudaError_t rf_launch_conv_widen(cudaStream_t stream, void *y, const void *x, int64_t rows, int c, int c_wide);

#ifdef __cplusplus
}
#endif
#endif
