/* The inner loops of the CPU backend. kernels.c is compiled once per vector width (plain, AVX2, AVX-512); the machine
 * chooses at start. All take ordinary pointers, any length, any alignment.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CPU_KERNELS_H
#define RF_ENGINE_CPU_KERNELS_H

#include "worker/engine/engine.h"

struct rf_kernels {
    const char *name; /* "avx512", "avx2", "plain" */

    /* y[i] = act(x[i] + bias[i]); bias NULL: 0. y may be x. */
    void (*bias_act)(float *y, const float *x, const float *bias, enum rf_act act, int64_t n);
    /* y[i] += gate[i] * (x[i] + bias[i]); gate NULL: 1; bias NULL: 0. */
    void (*add_gated)(float *y, const float *x, const float *bias, const float *gate, int64_t n);
    /* y[i] = gelu_tanh(a[i]) * b[i]. */
    void (*gelu_mul)(float *y, const float *a, const float *b, int64_t n);
    /* y[i] = a * x[i] + b * y[i]; b 0: y is not read. */
    void (*axpby)(float *y, float a, const float *x, float b, int64_t n);

    float (*max)(const float *x, int64_t n); /* -inf for n 0 */
    /* x[i] = exp(scale * x[i] - offset), exactly 0 for -inf; returns the sum. */
    float (*exp_sum)(float *x, float scale, float offset, int64_t n);
    void (*scale)(float *x, float factor, int64_t n);

    /* One row of each norm; see engine.h. scale and shift may be NULL together; weight may be NULL (1). */
    void (*layer_norm)(float *y, const float *x, const float *scale, const float *shift, bool one_plus, float eps,
                       int64_t n);
    void (*rms_norm)(float *y, const float *x, const float *weight, float eps, int64_t n);
    /* x[2p], x[2p+1] rotated by freqs[2p] = cos, freqs[2p+1] = sin; n even. */
    void (*rotate)(float *x, const float *freqs, int64_t n);

    void (*to_f32)(float *y, const void *x, enum rf_dtype dtype, int64_t n);

    /* c [mr, nr] (+)= a b for packed panels: a [k][gemm_mr], b [k][gemm_nr]; rows beyond mr and columns beyond nr
     * are not stored. */
    void (*gemm_tile)(int64_t k, const float *a, const float *b, bool add, float *c, int64_t ldc, int mr, int nr);
    int gemm_mr, gemm_nr;
};

/* avx2 and avx512 exist on x86-64 only. */
extern const struct rf_kernels rf_kernels_plain, rf_kernels_avx2, rf_kernels_avx512;

/* The best of them that this machine runs. */
const struct rf_kernels *rf_kernels_best(void);

#endif
