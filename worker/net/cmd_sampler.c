/* framefarm-net noise and sigmas: the numbers a seed and a schedule stand for.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/noise.h"
#include "worker/model/sampler.h"
#include "worker/net/net.h"

#include <stdio.h>

enum rf_code rf_net_noise(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    if (o->n_shape == 0)
        return rf_fail(err, RF_ERR_INVALID, "--shape is missing");
    int64_t n = 1;
    for (int i = 0; i < o->n_shape; i++)
        if (o->shape[i] < 1 || __builtin_mul_overflow(n, o->shape[i], &n) || n > (int64_t)1 << 40)
            return rf_fail(err, RF_ERR_INVALID, "--shape has a dimension below 1, or too many elements");
    float *values = rf_net_result_add(result, "out.noise", o->n_shape, o->shape, err);
    return values ? rf_noise_normal(o->seed, values, n, err) : RF_ERR_NO_MEMORY;
}

enum rf_code rf_net_sigmas(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    if (o->steps == 0)
        return rf_fail(err, RF_ERR_INVALID, "--steps is missing");
    float sigmas[RF_MAX_STEPS + 1];
    enum rf_code rc = rf_sampler_sigmas(o->steps, o->shift, sigmas, err);
    if (rc != RF_OK)
        return rc;
    int64_t n = o->steps + 1;
    float *values = rf_net_result_add(result, "out.sigmas", 1, &n, err);
    if (values == NULL)
        return RF_ERR_NO_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        values[i] = sigmas[i];
        printf("%.9g\n", (double)sigmas[i]);
    }
    return RF_OK;
}
