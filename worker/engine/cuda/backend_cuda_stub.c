/* Stands in for the GPU backend in builds without CUDA: opening it says so.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/backend.h"

static enum rf_code open_stub(const struct rf_engine_config *config, int index, void **ret_self, const char **ret_name,
                              enum rf_dtype *ret_act_dtype, struct rf_err *err)
{
    return rf_fail(err, RF_ERR_DEVICE, "no device cuda:%d: this build has no CUDA; use the device cpu, or a build "
                   "with CUDA", index);
}

const struct rf_backend rf_backend_cuda = {.kind = "cuda", .open = open_stub}; /* nothing else is reached */
