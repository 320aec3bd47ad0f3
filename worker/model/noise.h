/* The noise that ComfyUI users' seeds refer to: normal values of PyTorch's CPU generator.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_NOISE_H
#define RF_MODEL_NOISE_H

#include "schema/err.h"

/* What torch.randn(n, generator=CPU, seed) gives for n of 16 and more, to about 1e-6 (vectorised builds of torch use
 * polynomials). Only seed mod 2^32 matters there, so 2^32 + 1 equals 1. n < 16 follows another path in torch and is refused.
 *   RF_ERR_INVALID  n is below 16 */
enum rf_code rf_noise_normal(uint64_t seed, float *values, int64_t n, struct rf_err *err);

#endif
