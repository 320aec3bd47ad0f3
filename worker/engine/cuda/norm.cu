/* LayerNorm, RMS norm, rotary embedding over rows; the VAE's norm over channels. Statistics in F32, two passes: the
 * row's mean first, then the deviations from it (a one-pass sum of squares loses the variance of shifted rows).
 *
 * One block per row. Rows of up to 8192 elements (5120, 4096 and 1536 are what Wan has) stay in registers, so that
 * memory is read once, by as many threads as have CHUNKS pieces each; longer and misaligned rows are read again for
 * each pass, mostly from the first-level cache. What counts is how many bytes are on their way: small blocks with one
 * barrier per sum, and in the VAE's norm several pieces per thread before the first is used.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/common.cuh"

#define THREADS 256
#define CHUNKS 4 /* of 8 elements per thread: 256 * 8 * 4 = 8192 */

/* The sum over the block, given to every thread; `shared` has THREADS / 32 floats that nothing else uses. The order of
 * additions is fixed. */
static __device__ __forceinline__ float sum_row(float x, float *shared)
{
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = x;
    __syncthreads();
    float all = 0;
    for (int i = 0; i < (int)blockDim.x / 32; i++)
        all += shared[i];
    return all;
}

/* Normalised, scaled, shifted, rotated: eight elements that begin at column i. */
static __device__ __forceinline__ void finish8(const rf_norm_args &a, int64_t row, int64_t i, float mean, float factor,
                                               float v[8])
{
    float s[8], h[8];
    if (a.scale)
        load8(a.scale + i, s);
    if (a.shift)
        load8(a.shift + i, h);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        v[k] = (v[k] - mean) * factor;
        if (a.scale)
            v[k] *= a.one_plus ? 1.0f + s[k] : s[k];
        if (a.shift)
            v[k] += h[k];
    }
    if (a.freqs) { /* head_dim is a multiple of 8 here: the chunk lies inside one head */
        load8(a.freqs + row * a.head_dim + i % a.head_dim, s);
#pragma unroll
        for (int k = 0; k < 8; k += 2) {
            float x = v[k], y = v[k + 1];
            v[k] = x * s[k] - y * s[k + 1];
            v[k + 1] = x * s[k + 1] + y * s[k];
        }
    }
}

template <typename TY, typename TX> static __global__ void __launch_bounds__(THREADS) norm_kernel(const rf_norm_args a)
{
    __shared__ float sums[2][THREADS / 32];
    const int64_t row = blockIdx.x;
    const TX *x = (const TX *)a.x + row * a.dim;
    TY *y = (TY *)a.y + row * a.dim;
    float v[CHUNKS][8], sum = 0, mean = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        int64_t i = ((int64_t)c * blockDim.x + threadIdx.x) * 8;
        if (i < a.dim)
            load8(x + i, v[c]);
    }
    if (a.subtract_mean) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
            if ((c * blockDim.x + threadIdx.x) * 8 < a.dim)
#pragma unroll
                for (int k = 0; k < 8; k++)
                    sum += v[c][k];
        mean = sum_row(sum, sums[0]) / (float)a.dim;
    }
    sum = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        if ((c * blockDim.x + threadIdx.x) * 8 < a.dim)
#pragma unroll
            for (int k = 0; k < 8; k++)
                sum += (v[c][k] - mean) * (v[c][k] - mean);
    float factor = rsqrtf(sum_row(sum, sums[1]) / (float)a.dim + a.eps);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        int64_t i = ((int64_t)c * blockDim.x + threadIdx.x) * 8;
        if (i < a.dim) {
            finish8(a, row, i, mean, factor, v[c]);
            store8(y + i, v[c]);
        }
    }
}

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
    bool fits = a.dim % 8 == 0 && a.dim <= THREADS * 8 * CHUNKS && aligned16(a.x) && aligned16(a.y) &&
                aligned16(a.scale) && aligned16(a.shift) && aligned16(a.freqs) &&
                (a.freqs == NULL || a.head_dim % 8 == 0);
    const unsigned n_threads = (unsigned)ceil_div(a.dim, 32 * 8 * CHUNKS) * 32;
    RF_WITH_ACT_TYPE(a.x_type, TX,
        RF_WITH_ACT_TYPE(a.y_type, TY,
            if (fits)
                norm_kernel<TY, TX><<<(unsigned)a.rows, n_threads, 0, stream>>>(a);
            else
                norm_any_kernel<TY, TX><<<(unsigned)a.rows, THREADS, 0, stream>>>(a)))
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

/* An activation that will be rounded to bf16 need not be exact: this is right to 2^-20 and costs a third. */
template <typename TY> static __device__ __forceinline__ float activate(float z, int act)
{
    if (sizeof(TY) == 2 && act == RF_KA_SILU)
        return __fdividef(z, 1.0f + __expf(-z));
    return apply_act(z, act);
}

/* Wan's channels, multiples of 96: each of LANES lanes has three pieces of eight, of PIXELS pixels at a time. The lanes
 * of a pixel read neighbouring pieces. Blocks go on to further pixels and keep gamma. */
#define PIECES 3
#define PIXELS 2

template <typename TY, typename TX, int LANES>
static __global__ void __launch_bounds__(THREADS, 2)
channel_norm_wide_kernel(TY *y, const TX *x, const float *gamma, int act, int64_t rows, float root)
{
    constexpr int C = LANES * PIECES * 8, ROWS = THREADS / LANES;
    const int lane = threadIdx.x % LANES;
    float g[PIECES][8];
#pragma unroll
    for (int k = 0; k < PIECES; k++)
        load8(gamma + (k * LANES + lane) * 8, g[k]);
    for (int64_t base = (int64_t)blockIdx.x * ROWS * PIXELS; base < rows; base += (int64_t)gridDim.x * ROWS * PIXELS) {
        float v[PIXELS][PIECES][8], sum[PIXELS];
        const int64_t first = base + threadIdx.x / LANES;
#pragma unroll
        for (int p = 0; p < PIXELS; p++)
#pragma unroll
            for (int k = 0; k < PIECES; k++)
                if (first + p * ROWS < rows)
                    load8(x + (first + p * ROWS) * C + (k * LANES + lane) * 8, v[p][k]);
#pragma unroll
        for (int p = 0; p < PIXELS; p++) {
            sum[p] = 0;
#pragma unroll
            for (int k = 0; k < PIECES; k++)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    sum[p] += v[p][k][e] * v[p][k][e];
#pragma unroll
            for (int d = LANES / 2; d > 0; d /= 2)
                sum[p] += __shfl_xor_sync(0xffffffffu, sum[p], d);
            /* The floor is on the length, not inside the root: an all-zero pixel must give zeros, not a huge factor. */
            const float factor = root / fmaxf(sqrtf(sum[p]), 1e-12f);
            if (first + p * ROWS < rows)
#pragma unroll
                for (int k = 0; k < PIECES; k++) {
#pragma unroll
                    for (int e = 0; e < 8; e++)
                        v[p][k][e] = activate<TY>(v[p][k][e] * factor * g[k][e], act);
                    store8(y + (first + p * ROWS) * C + (k * LANES + lane) * 8, v[p][k]);
                }
        }
    }
}

template <typename TY, typename TX>
static void launch_wide(cudaStream_t stream, TY *y, const TX *x, const float *gamma, int act, int64_t rows, int c,
                        float root)
{
    const int lanes = c / (PIECES * 8);
    const int64_t needed = ceil_div(rows, (int64_t)THREADS / lanes * PIXELS);
    const unsigned grid = (unsigned)(needed < 2048 ? needed : 2048); /* enough for any chip, few enough to keep gamma */
    if (lanes == 4)
        channel_norm_wide_kernel<TY, TX, 4><<<grid, THREADS, 0, stream>>>(y, x, gamma, act, rows, root);
    else if (lanes == 8)
        channel_norm_wide_kernel<TY, TX, 8><<<grid, THREADS, 0, stream>>>(y, x, gamma, act, rows, root);
    else
        channel_norm_wide_kernel<TY, TX, 16><<<grid, THREADS, 0, stream>>>(y, x, gamma, act, rows, root);
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
            if (vector && (c == 96 || c == 192 || c == 384))
                launch_wide<TY, TX>(stream, (TY *)y, (const TX *)x, gamma, act, rows, (int)c, root);
            else if (vector && c <= 16 * 8)
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
