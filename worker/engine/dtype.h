/* Conversions of element types in host memory, for loaders and for the CPU backend.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_DTYPE_H
#define RF_ENGINE_DTYPE_H

#include "worker/engine/engine.h"

/* True for F32, F16, BF16 and the two F8: what rf_dtype_to_f32() reads. */
bool rf_dtype_is_float(enum rf_dtype dtype);

/* n elements of a float type as float; exact. x may be misaligned. */
void rf_dtype_to_f32(float *y, const void *x, enum rf_dtype dtype, int64_t n);

/* Rounds to nearest even; out of range: infinity (F16, BF16, E5M2), +-448 (E4M3, which has no infinity). NaN stays. */
void rf_dtype_from_f32(void *y, enum rf_dtype dtype, const float *x, int64_t n);

#endif
