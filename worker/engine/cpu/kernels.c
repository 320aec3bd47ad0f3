/* The inner loops, once per vector width: the build compiles this file with RF_ISA plain, avx2 and avx512 (see
 * meson.build), each under its own name.
 *
 * vec is one register of the machine (wider ones compile, but gcc keeps them in memory: seven times slower with AVX2).
 * Sums run in its lanes, which are added in a fixed order, so results do not depend on the number of threads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/kernels.h"
#include "worker/engine/dtype.h"

#include <math.h>
#include <string.h>

#ifndef RF_ISA
#error "compile with -DRF_ISA=plain, avx2 or avx512"
#endif
#define PASTE(a, b) a##b
#define NAMED(a, b) PASTE(a, b)
#define TEXT(a) #a
#define QUOTED(a) TEXT(a)

#ifdef __AVX512F__
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float vec_unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
#define ALWAYS static inline __attribute__((always_inline))

ALWAYS vec load(const float *x)
{
    return *(const vec_unaligned *)x;
}

ALWAYS void store(float *y, vec v)
{
    *(vec_unaligned *)y = v;
}

/* The last n < LANES elements; the rest is `fill`. */
ALWAYS vec load_part(const float *x, int64_t n, float fill)
{
    float part[LANES];
    for (int i = 0; i < LANES; i++)
        part[i] = fill;
    memcpy(part, x, (size_t)n * sizeof *x);
    return load(part);
}

ALWAYS void store_part(float *y, vec v, int64_t n)
{
    float part[LANES];
    store(part, v);
    memcpy(y, part, (size_t)n * sizeof *y);
}

ALWAYS float sum_vec(vec v)
{
    float s[LANES];
    store(s, v);
    for (int step = LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            s[i] += s[i + step];
    return s[0];
}

ALWAYS vec all(float x)
{
    return (vec){0} + x;
}

ALWAYS vec choose(ivec mask, vec yes, vec no)
{
    return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask));
}

/* e^x to about 1 ulp. Below -87.3: tiny instead of denormal, and exactly 0 from -104 on, so masked scores vanish; above
 * 88.3: about 2e38, finite, so that 1 / (1 + e^x) needs no care. NaN stays NaN. */
ALWAYS vec exp_vec(vec x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    ivec zero = x < all(-104.0f);
    x = choose(x < all(-87.3f), all(-87.3f), x);
    x = choose(x > all(88.3f), all(88.3f), x);
    vec shifted = x * 1.44269504f + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375f; /* ln 2 in two parts, the first short enough to be exact times n */
    r = r - n * -2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f; /* Cephes' minimax polynomial on [-ln2/2, ln2/2] */
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = ((ivec)shifted + 127) << 23; /* 2^n: the integer sits in the low bits of the rounded sum */
    return choose(zero, all(0.0f), p * (vec)power);
}

ALWAYS vec gelu_vec(vec z)
{
    /* 0.5 z (1 + tanh u) = z / (1 + e^(-2u)), u = sqrt(2/pi) (z + 0.044715 z^3) */
    vec u = 0.797884561f * (z + 0.044715f * z * z * z);
    return z / (1.0f + exp_vec(-2.0f * u));
}

ALWAYS vec act_vec(vec z, enum rf_act act)
{
    switch (act) {
    case RF_ACT_GELU_TANH:
        return gelu_vec(z);
    case RF_ACT_SILU:
        return z / (1.0f + exp_vec(-z));
    case RF_ACT_NONE:
    case RF_ACT_COUNT:
        break;
    }
    return z;
}

/* Runs `whole` for each LANES elements at i and `part` for the n - i that are left. */
#define FOR_VECS(i, n, whole, part) \
    do { \
        int64_t i = 0; \
        for (; i + LANES <= (n); i += LANES) { whole; } \
        if (i < (n)) { part; } \
    } while (0)

static void bias_act(float *y, const float *x, const float *bias, enum rf_act act, int64_t n)
{
    if (bias == NULL)
        FOR_VECS(i, n, store(y + i, act_vec(load(x + i), act)),
               store_part(y + i, act_vec(load_part(x + i, n - i, 0), act), n - i));
    else
        FOR_VECS(i, n, store(y + i, act_vec(load(x + i) + load(bias + i), act)),
               store_part(y + i, act_vec(load_part(x + i, n - i, 0) + load_part(bias + i, n - i, 0), act), n - i));
}

static void add_gated(float *y, const float *x, const float *bias, const float *gate, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float value = bias ? x[i] + bias[i] : x[i];
        y[i] += gate ? gate[i] * value : value;
    }
}

static void gelu_mul(float *y, const float *a, const float *b, int64_t n)
{
    FOR_VECS(i, n, store(y + i, gelu_vec(load(a + i)) * load(b + i)),
           store_part(y + i, gelu_vec(load_part(a + i, n - i, 0)) * load_part(b + i, n - i, 0), n - i));
}

static void axpby(float *y, float a, const float *x, float b, int64_t n)
{
    if (b == 0) {
        for (int64_t i = 0; i < n; i++)
            y[i] = a * x[i];
        return;
    }
    for (int64_t i = 0; i < n; i++)
        y[i] = a * x[i] + b * y[i];
}

static float max_of(const float *x, int64_t n)
{
    vec m = all(-INFINITY);
    FOR_VECS(i, n,
           vec v = load(x + i);
           m = choose(v > m, v, m),
           vec v = load_part(x + i, n - i, -INFINITY);
           m = choose(v > m, v, m));
    float lanes[LANES], best = -INFINITY;
    store(lanes, m);
    for (int i = 0; i < LANES; i++)
        best = lanes[i] > best ? lanes[i] : best;
    return best;
}

static float exp_sum(float *x, float scale, float offset, int64_t n)
{
    vec sum = all(0);
    FOR_VECS(i, n,
           vec p = exp_vec(load(x + i) * scale - offset);
           store(x + i, p);
           sum += p,
           vec p = exp_vec(load_part(x + i, n - i, -INFINITY) * scale - offset);
           store_part(x + i, p, n - i);
           sum += p);
    return sum_vec(sum);
}

static void scale_by(float *x, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= factor;
}

static float sum_of(const float *x, int64_t n)
{
    vec sum = all(0);
    FOR_VECS(i, n, sum += load(x + i), sum += load_part(x + i, n - i, 0));
    return sum_vec(sum);
}

static float sum_of_squares(const float *x, float mean, int64_t n)
{
    vec sum = all(0);
    FOR_VECS(i, n,
           vec d = load(x + i) - mean;
           sum += d * d,
           vec d = load_part(x + i, n - i, mean) - mean;
           sum += d * d);
    return sum_vec(sum);
}

static void layer_norm(float *y, const float *x, const float *scale, const float *shift, bool one_plus, float eps,
                       int64_t n)
{
    float mean = sum_of(x, n) / (float)n;
    float inv = 1.0f / sqrtf(sum_of_squares(x, mean, n) / (float)n + eps);
    if (scale == NULL) {
        for (int64_t i = 0; i < n; i++)
            y[i] = (x[i] - mean) * inv;
        return;
    }
    float one = one_plus ? 1.0f : 0.0f;
    for (int64_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * inv * (one + scale[i]) + shift[i];
}

static void rms_norm(float *y, const float *x, const float *weight, float eps, int64_t n)
{
    float inv = 1.0f / sqrtf(sum_of_squares(x, 0, n) / (float)n + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = weight ? x[i] * inv * weight[i] : x[i] * inv;
}

static void rotate(float *x, const float *freqs, int64_t n)
{
    for (int64_t i = 0; i + 1 < n; i += 2) {
        float a = x[i], b = x[i + 1], c = freqs[i], s = freqs[i + 1];
        x[i] = a * c - b * s;
        x[i + 1] = a * s + b * c;
    }
}

/* ---- widening ---- */

static void bf16_to_f32(float *y, const void *x, int64_t n)
{
    const char *bytes = x;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * i, 2);
        uint32_t bits = (uint32_t)h << 16;
        memcpy(y + i, &bits, 4);
    }
}

/* Exponent and fraction moved up by 13 bits: the value times 2^-112, subnormals too; one product sets it right. */
static void f16_to_f32(float *y, const void *x, int64_t n)
{
    const char *bytes = x;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * i, 2);
        uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
        float f;
        memcpy(&f, &magnitude, 4);
        f *= 5.192296858534828e33f; /* 2^112 */
        uint32_t bits;
        memcpy(&bits, &f, 4);
        bits |= magnitude >= 0x7c00u << 13 ? 0x7f800000u : 0; /* infinity and NaN */
        bits |= (uint32_t)(h & 0x8000) << 16;
        memcpy(y + i, &bits, 4);
    }
}

static void to_f32(float *y, const void *x, enum rf_dtype dtype, int64_t n)
{
    if (dtype == RF_BF16) {
        bf16_to_f32(y, x, n);
    } else if (dtype == RF_F16) {
        f16_to_f32(y, x, n);
    } else if (rf_dtype_size(dtype) == 1 && n >= 256) {
        float table[256];
        uint8_t codes[256];
        for (int i = 0; i < 256; i++)
            codes[i] = (uint8_t)i;
        rf_dtype_to_f32(table, codes, dtype, 256);
        for (int64_t i = 0; i < n; i++)
            y[i] = table[((const uint8_t *)x)[i]];
    } else {
        rf_dtype_to_f32(y, x, dtype, n);
    }
}

/* ---- matrix products ---- */

/* GEMM_MR rows of GEMM_NV vectors stay in registers: 24 of 32 with AVX-512, 12 of 16 with AVX2, 8 of 16 with SSE. */
#if LANES == 16
#define GEMM_MR 12
#elif LANES == 8
#define GEMM_MR 6
#else
#define GEMM_MR 4
#endif
#define GEMM_NV 2

static void gemm_tile(int64_t k, const float *a, const float *b, bool add, float *c, int64_t ldc, int mr, int nr)
{
    vec acc[GEMM_MR][GEMM_NV] = {0};
    for (int64_t p = 0; p < k; p++) {
        vec bv[GEMM_NV];
        for (int j = 0; j < GEMM_NV; j++)
            bv[j] = load(b + (p * GEMM_NV + j) * LANES);
#pragma GCC unroll 12
        for (int i = 0; i < GEMM_MR; i++)
            for (int j = 0; j < GEMM_NV; j++)
                acc[i][j] += a[p * GEMM_MR + i] * bv[j];
    }
    for (int i = 0; i < mr; i++) {
        for (int j = 0; j < GEMM_NV && j * LANES < nr; j++) {
            float *at = c + i * ldc + j * LANES;
            int n = nr - j * LANES;
            if (n >= LANES)
                store(at, add ? load(at) + acc[i][j] : acc[i][j]);
            else
                store_part(at, add ? load_part(at, n, 0) + acc[i][j] : acc[i][j], n);
        }
    }
}

const struct rf_kernels NAMED(rf_kernels_, RF_ISA) = {
    .name = QUOTED(RF_ISA),
    .bias_act = bias_act,
    .add_gated = add_gated,
    .gelu_mul = gelu_mul,
    .axpby = axpby,
    .max = max_of,
    .exp_sum = exp_sum,
    .scale = scale_by,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .rotate = rotate,
    .to_f32 = to_f32,
    .gemm_tile = gemm_tile,
    .gemm_mr = GEMM_MR,
    .gemm_nr = GEMM_NV * LANES,
};
