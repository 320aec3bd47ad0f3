/* LayerNorm, RMS norm, rotary embedding over rows; the VAE's norm over channels. Statistics in F32, two passes: the
 * row's mean first, then the deviations from it (a one-pass sum of squares loses the variance of shifted rows).
 *
 * Here is what every shape, type and alignment can use; large tensors of Wan's shapes go through norm_stream.cu.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/common.cuh"

#define THREADS 256

/* Any length and alignment. A thread keeps to the same pairs in all passes, so y may be x. */
template <typename TY, typename TX> static __global__ void norm_any_kernel(const rf_norm_args a)
{
    __shared__ float shared[33];
    const int64_t row = blockIdx.x;
    const TX *x = (const TX *)a.x + row * a.dim;
    TY *y = (TY *)a.y + row * a.dim;
    float sum = 0, mean = 0;
    if (a.subtract_mean) {
        for (int64_t p = threadIdx.x * 2; p < a.dim; p += 2 * THREADS)
            sum += to_f32(x[p]) + (p + 1 < a.dim ? to_f32(x[p + 1]) : 0.0f);
        mean = block_reduce<false>(sum, shared) / (float)a.dim;
    }
    sum = 0;
    for (int64_t p = threadIdx.x * 2; p < a.dim; p += 2 * THREADS)
        for (int64_t i = p; i < p + 2 && i < a.dim; i++)
            sum += (to_f32(x[i]) - mean) * (to_f32(x[i]) - mean);
    float factor = rsqrtf(block_reduce<false>(sum, shared) / (float)a.dim + a.eps);
    for (int64_t p = threadIdx.x * 2; p < a.dim; p += 2 * THREADS) {
        float v[2];
        for (int k = 0; k < 2 && p + k < a.dim; k++) {
            v[k] = (to_f32(x[p + k]) - mean) * factor;
            if (a.scale)
                v[k] *= a.one_plus ? 1.0f + a.scale[p + k] : a.scale[p + k];
            if (a.shift)
                v[k] += a.shift[p + k];
        }
        if (a.freqs) { /* head_dim is even: a pair lies inside one head, and dim is even too */
            const float *angle = a.freqs + row * a.head_dim + p % a.head_dim;
            float first = v[0] * angle[0] - v[1] * angle[1];
            v[1] = v[0] * angle[1] + v[1] * angle[0];
            v[0] = first;
        }
        for (int k = 0; k < 2 && p + k < a.dim; k++)
            y[p + k] = from_f32<TY>(v[k]);
    }
}

extern "C" cudaError_t rf_launch_norm(cudaStream_t stream, const struct rf_norm_args *args)
{
    const rf_norm_args a = *args;
    if (a.rows == 0 || a.dim == 0)
        return cudaSuccess;
    if (rf_norm_can_stream(args))
        return rf_launch_norm_stream(stream, args);
    RF_WITH_ACT_TYPE(a.x_type, TX,
        RF_WITH_ACT_TYPE(a.y_type, TY, norm_any_kernel<TY, TX><<<(unsigned)a.rows, THREADS, 0, stream>>>(a)))
    return cudaGetLastError();
}

/* ---- the VAE's norm ---- */

/* GROUP lanes share one pixel; with vectors each lane holds up to CHANNEL_CHUNKS * 8 of its channels. */
#define CHANNEL_CHUNKS 2

template <typename TY, typename TX, int GROUP>
static __global__ void __launch_bounds__(THREADS)
channel_norm_kernel(TY *y, const TX *x, const float *gamma, int act, int64_t rows, int c, float root)
{
    const int lane = threadIdx.x % GROUP;
    const int64_t row = (int64_t)blockIdx.x * (THREADS / GROUP) + threadIdx.x / GROUP;
    float v[CHANNEL_CHUNKS][8], sum = 0;
#pragma unroll
    for (int k = 0; k < CHANNEL_CHUNKS; k++) {
        int i = (k * GROUP + lane) * 8;
        if (row < rows && i < c) {
            load8(x + row * c + i, v[k]);
#pragma unroll
            for (int e = 0; e < 8; e++)
                sum += v[k][e] * v[k][e];
        }
    }
#pragma unroll
    for (int d = GROUP / 2; d > 0; d /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, d);
    /* The floor is on the length, not inside the root: an all-zero pixel must give zeros, not a huge factor. */
    float factor = root / fmaxf(sqrtf(sum), 1e-12f);
#pragma unroll
    for (int k = 0; k < CHANNEL_CHUNKS; k++) {
        int i = (k * GROUP + lane) * 8;
        if (row < rows && i < c) {
            float g[8];
            load8(gamma + i, g);
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[k][e] = apply_act(v[k][e] * factor * g[e], act);
            store8(y + row * c + i, v[k]);
        }
    }
}

/* Any number of channels: one warp per pixel. A lane keeps to its channels, so y may be x. */
template <typename TY, typename TX>
static __global__ void channel_norm_any_kernel(TY *y, const TX *x, const float *gamma, int act, int64_t rows,
                                               int64_t c, float root)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows)
        return;
    float sum = 0;
    for (int64_t i = threadIdx.x % 32; i < c; i += 32)
        sum += to_f32(x[row * c + i]) * to_f32(x[row * c + i]);
    float factor = root / fmaxf(sqrtf(warp_sum(sum)), 1e-12f);
    for (int64_t i = threadIdx.x % 32; i < c; i += 32)
        y[row * c + i] = from_f32<TY>(apply_act(to_f32(x[row * c + i]) * factor * gamma[i], act));
}

extern "C" cudaError_t rf_launch_channel_norm(cudaStream_t stream, void *y, int y_type, const void *x, int x_type,
                                              const float *gamma, int act, int64_t rows, int64_t c)
{
    if (rows == 0 || c == 0)
        return cudaSuccess;
    if (rf_channel_norm_can_stream(y, y_type, x, x_type, gamma, act, c))
        return rf_launch_channel_norm_stream(stream, y, x, gamma, act, rows, c);
    float root = sqrtf((float)c);
    bool vector = c % 8 == 0 && c <= 32 * 8 * CHANNEL_CHUNKS && aligned16(x) && aligned16(y) && aligned16(gamma);
    unsigned wide = (unsigned)ceil_div(rows, THREADS / 32), narrow = (unsigned)ceil_div(rows, THREADS / 16);
    RF_WITH_ACT_TYPE(x_type, TX,
        RF_WITH_ACT_TYPE(y_type, TY,
            if (vector && c <= 16 * 8)
                channel_norm_kernel<TY, TX, 16><<<narrow, THREADS, 0, stream>>>((TY *)y, (const TX *)x, gamma, act,
                                                                             rows, (int)c, root);
            else if (vector)
                channel_norm_kernel<TY, TX, 32><<<wide, THREADS, 0, stream>>>((TY *)y, (const TX *)x, gamma, act, rows,
                                                                           (int)c, root);
            else
                channel_norm_any_kernel<TY, TX><<<wide, THREADS, 0, stream>>>((TY *)y, (const TX *)x, gamma, act, rows,
                                                                           c, root)))
    return cudaGetLastError();
}
