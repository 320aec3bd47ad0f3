/* Stands in for attention_hopper.cu and attention8_hopper.cu in builds without sm_90a: the caller takes the generic kernel.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/kernels.h"

cudaError_t rf_launch_attention_hopper(cudaStream_t stream, const struct rf_attention_args *a)
{
    (void)stream, (void)a;
    return cudaErrorNotSupported;
}

cudaError_t rf_launch_attention8_hopper(cudaStream_t stream, const struct rf_attention8_args *a)
{
    (void)stream, (void)a;
    return cudaErrorNotSupported;
}
