/* The sampler: the noise levels of a run and one Euler step between two of them.
 *
 * x_sigma = (1 - sigma) x0 + sigma noise, the model predicts v = noise - x0, so x += (next - sigma) v. The schedule is
 * ComfyUI's "simple" over its table of 1000 shifted levels, rounded as there: settings people share mean the same.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_SAMPLER_H
#define RF_MODEL_SAMPLER_H

#include "worker/engine/engine.h"

#define RF_MAX_STEPS 1000

/* sigmas[0 .. n_steps]: from 1 down to a final 0. The timestep of step i is 1000 * sigmas[i], not rounded.
 *   RF_ERR_INVALID  n_steps not in 1..RF_MAX_STEPS, shift not a number above 0 and at most 1000 */
enum rf_code rf_sampler_sigmas(int n_steps, float shift, float *sigmas, struct rf_err *err);

/* latent += (next - sigma) * velocity, all F32. With next 0 this is x - sigma v: the clean latent exactly. */
void rf_sampler_step(struct rf_engine *e, const struct rf_tensor *latent, const struct rf_tensor *velocity, float sigma,
                     float next);

/* Guidance: cond = uncond + scale * (cond - uncond), in place of cond. */
void rf_sampler_guide(struct rf_engine *e, const struct rf_tensor *cond, const struct rf_tensor *uncond, float scale);

#endif
