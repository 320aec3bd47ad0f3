/* Stands in for the kernels of the *_hopper.cu files in builds without sm_90a: the caller takes the generic kernel.
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

cudaError_t rf_launch_conv_hopper(cudaStream_t stream, const struct rf_conv_args *a)
{
    (void)stream, (void)a;
    return cudaErrorNotSupported;
}
