/* The convolution as its definition: one thread per output value, any type, size and number of channels. The reference
 * on the device, and what runs where conv_mma.cu's conditions do not hold.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/common.cuh"

#define THREADS 256

template <typename TY, typename TX, typename TW>
static __global__ void conv_plain_kernel(const rf_conv_args a, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n)
        return;
    int64_t o = i % a.c_out, x = i / a.c_out % a.w_out, y = i / (a.c_out * a.w_out) % a.h_out;
    int64_t t = i / (a.c_out * a.w_out * a.h_out);
    int64_t h = a.upsample ? 2 * a.h_in : a.h_in, w = a.upsample ? 2 * a.w_in : a.w_in;
    float sum = a.bias ? a.bias[o] : 0.0f;
    for (int dt = 0; dt < a.kt; dt++)
        for (int dy = 0; dy < a.kh; dy++)
            for (int dx = 0; dx < a.kw; dx++) {
                int64_t yy = y * a.stride_s + dy - a.pad_y, xx = x * a.stride_s + dx - a.pad_x;
                if (yy < 0 || yy >= h || xx < 0 || xx >= w)
                    continue;
                if (a.upsample)
                    yy /= 2, xx /= 2;
                const TX *from = conv_frame<TX>(a, t * a.stride_t + dt) + (yy * a.w_in + xx) * a.c_in;
                const TW *weight = (const TW *)a.w + (((o * a.kt + dt) * a.kh + dy) * a.kw + dx) * a.c_in;
                for (int64_t c = 0; c < a.c_in; c++)
                    sum += to_f32(from[c]) * to_f32(weight[c]);
            }
    if (a.add)
        sum += a.add_type == RF_KT_F32 ? ((const float *)a.add)[i] : to_f32(((const bf16 *)a.add)[i]);
    ((TY *)a.y)[i] = from_f32<TY>(sum);
}

extern "C" cudaError_t rf_launch_conv_plain(cudaStream_t stream, const struct rf_conv_args *args)
{
    const rf_conv_args a = *args;
    int64_t n = a.t_out * a.h_out * a.w_out * a.c_out;
    if (n == 0)
        return cudaSuccess;
    if (a.add && a.add_type != RF_KT_F32 && a.add_type != RF_KT_BF16)
        return cudaErrorInvalidValue;
    RF_WITH_TYPE(a.w_type, TW,
        RF_WITH_ACT_TYPE(a.x_type, TX,
            RF_WITH_ACT_TYPE(a.y_type, TY,
                conv_plain_kernel<TY, TX, TW><<<(unsigned)ceil_div(n, THREADS), THREADS, 0, stream>>>(a, n))))
    return cudaGetLastError();
}
