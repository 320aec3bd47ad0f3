/* Element types: sizes, names, exact widening, rounding down. Plain loops; the CPU backend has wide versions of the
 * conversions that matter for speed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/dtype.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [RF_F32] = {"F32", 4},         [RF_F16] = {"F16", 2},         [RF_BF16] = {"BF16", 2},
    [RF_F8_E4M3] = {"F8_E4M3", 1}, [RF_F8_E5M2] = {"F8_E5M2", 1}, [RF_I8] = {"I8", 1},
    [RF_U8] = {"U8", 1},           [RF_I32] = {"I32", 4},         [RF_I64] = {"I64", 8},
    [RF_F64] = {"F64", 8},         [RF_BOOL] = {"BOOL", 1},       [RF_I16] = {"I16", 2},
    [RF_U16] = {"U16", 2},         [RF_U32] = {"U32", 4},         [RF_U64] = {"U64", 8},
};
_Static_assert(RF_COUNT_OF(dtypes) == RF_DTYPE_COUNT, "a dtype has no row");

size_t rf_dtype_size(enum rf_dtype dtype)
{
    RF_ASSERT((unsigned)dtype < RF_DTYPE_COUNT);
    return dtypes[dtype].size;
}

const char *rf_dtype_name(enum rf_dtype dtype)
{
    return (unsigned)dtype < RF_DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

bool rf_dtype_is_float(enum rf_dtype dtype)
{
    return dtype == RF_F32 || dtype == RF_F16 || dtype == RF_BF16 || dtype == RF_F8_E4M3 || dtype == RF_F8_E5M2;
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* A float with `mant` stored mantissa bits and exponent bias `bias`, subnormals included; infinities and NaN are the
 * caller's business. */
static float widen(uint32_t sign, uint32_t magnitude, int mant, int bias)
{
    uint32_t exponent = magnitude >> mant, fraction = magnitude & ((1u << mant) - 1);
    float f = exponent == 0 ? ldexpf((float)fraction, 1 - bias - mant)
                            : float_of((exponent + 127u - (uint32_t)bias) << 23 | fraction << (23 - mant));
    return sign ? -f : f;
}

static float f16_to_f32(uint16_t h)
{
    uint32_t magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00)
        return float_of((uint32_t)(h & 0x8000) << 16 | 0x7f800000 | (magnitude & 0x3ff) << 13);
    return widen(h & 0x8000, magnitude, 10, 15);
}

static float f8_to_f32(uint8_t b, enum rf_dtype dtype)
{
    uint32_t magnitude = b & 0x7f, sign = b & 0x80;
    if (dtype == RF_F8_E4M3)
        return magnitude == 0x7f ? NAN : widen(sign, magnitude, 3, 7);
    return f16_to_f32((uint16_t)(b << 8)); /* E5M2 is the upper half of a half */
}

void rf_dtype_to_f32(float *y, const void *x, enum rf_dtype dtype, int64_t n)
{
    RF_ASSERT(rf_dtype_is_float(dtype));
    const uint8_t *bytes = x;
    if (dtype == RF_F32) {
        if (n > 0)
            memcpy(y, x, (size_t)n * sizeof *y);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        if (dtype == RF_F16 || dtype == RF_BF16) {
            uint16_t h;
            memcpy(&h, bytes + 2 * i, sizeof h);
            y[i] = dtype == RF_F16 ? f16_to_f32(h) : float_of((uint32_t)h << 16);
        } else {
            y[i] = f8_to_f32(bytes[i], dtype);
        }
    }
}

/* Rounds |f| to a grid of `mant` stored bits above 2^min_exp, nearest even; subnormals share the grid of 2^min_exp. */
static uint32_t narrow(float magnitude, int mant, int bias)
{
    int exponent;
    frexpf(magnitude, &exponent); /* magnitude in [2^(exponent-1), 2^exponent) */
    int grid = exponent - 1 < 1 - bias ? 1 - bias - mant : exponent - 1 - mant;
    float steps = rintf(ldexpf(magnitude, -grid)); /* exact scaling, then ties to even */
    if (steps == 0)
        return 0;
    int e = grid + mant + bias; /* stored exponent of a value whose top bit is 2^mant steps */
    uint32_t n = (uint32_t)steps;
    return n < (1u << mant) ? n : ((uint32_t)e << mant) + (n - (1u << mant)); /* a carry moves into the exponent */
}

static uint16_t f32_to_f16(float f)
{
    uint16_t sign = (uint16_t)(bits_of(f) >> 16 & 0x8000);
    if (isnan(f))
        return sign | 0x7e00;
    uint32_t m = isinf(f) || fabsf(f) >= 65520.0f ? 0x7c00 : narrow(fabsf(f), 10, 15);
    return sign | (uint16_t)m;
}

static uint16_t f32_to_bf16(float f)
{
    uint32_t bits = bits_of(f);
    if (isnan(f))
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint8_t f32_to_f8(float f, enum rf_dtype dtype)
{
    uint8_t sign = (uint8_t)(bits_of(f) >> 24 & 0x80);
    float m = fabsf(f);
    if (isnan(f))
        return sign | 0x7f;
    if (dtype == RF_F8_E4M3)
        return sign | (uint8_t)(m >= 448.0f ? 0x7e : narrow(m, 3, 7));
    return sign | (uint8_t)(m >= 61440.0f ? 0x7c : narrow(m, 2, 15));
}

void rf_dtype_from_f32(void *y, enum rf_dtype dtype, const float *x, int64_t n)
{
    RF_ASSERT(rf_dtype_is_float(dtype));
    uint8_t *bytes = y;
    if (dtype == RF_F32) {
        if (n > 0)
            memcpy(y, x, (size_t)n * sizeof *x);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        if (dtype == RF_F16 || dtype == RF_BF16) {
            uint16_t h = dtype == RF_F16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
            memcpy(bytes + 2 * i, &h, sizeof h);
        } else {
            bytes[i] = f32_to_f8(x[i], dtype);
        }
    }
}
