/* Noise levels and the Euler step; see sampler.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/sampler.h"

#define TABLE 1000

enum rf_code rf_sampler_sigmas(int n_steps, float shift, float *sigmas, struct rf_err *err)
{
    if (n_steps < 1 || n_steps > RF_MAX_STEPS)
        return rf_fail(err, RF_ERR_INVALID, "steps is %d, allowed are 1 to %d", n_steps, RF_MAX_STEPS);
    if (!(shift > 0.0f && shift <= 1000.0f))
        return rf_fail(err, RF_ERR_INVALID, "shift is %g, allowed is more than 0 and at most 1000", (double)shift);
    for (int i = 0; i < n_steps; i++) {
        /* The table holds float32 k / 1000 shifted in double and rounded once: found by matching the published levels
         * to the last digit. The index truncates and counts from 1. */
        int index = TABLE - (int)((double)i * ((double)TABLE / n_steps));
        double sigma = (double)((float)index / TABLE);
        sigmas[i] = (float)((double)shift * sigma / (1.0 + ((double)shift - 1.0) * sigma));
    }
    sigmas[n_steps] = 0.0f;
    return RF_OK;
}

void rf_sampler_step(struct rf_engine *e, const struct rf_tensor *latent, const struct rf_tensor *velocity, float sigma,
                     float next)
{
    rf_axpby(e, latent, next - sigma, velocity, 1.0f);
}

void rf_sampler_guide(struct rf_engine *e, const struct rf_tensor *cond, const struct rf_tensor *uncond, float scale)
{
    rf_axpby(e, cond, 1.0f - scale, uncond, scale);
}
