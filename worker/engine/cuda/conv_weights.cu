/* Weights and pictures made ready for the kernels that want them another way: summed for upsampling, with more
 * channels.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/common.cuh"

#define THREADS 256

/* y [2, 2, out, 2, 2, in], the first two for odd and even output rows and columns, from w [out, 3, 3, in]. Of three
 * taps down, an even row sees {w0, w1 + w2} of the stored rows above and at it, an odd row {w0 + w1, w2} of those at it
 * and below. */
static __global__ void fold_kernel(bf16 *y, const bf16 *w, int64_t n, int64_t n_out, int64_t n_in)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n)
        return;
    const int64_t c = i % n_in, o = i / (4 * n_in) % n_out;
    const int across = i / n_in % 2, down = i / (2 * n_in) % 2;
    const int64_t phase = i / (4 * n_in * n_out);
    const int odd_row = (int)phase / 2, odd_column = (int)phase % 2;
    float sum = 0;
    for (int ky = 0; ky < 3; ky++)
        for (int kx = 0; kx < 3; kx++)
            if ((ky + odd_row + 1) / 2 - odd_row == down && (kx + odd_column + 1) / 2 - odd_column == across)
                sum += to_f32(w[((o * 3 + ky) * 3 + kx) * n_in + c]);
    y[i] = from_f32<bf16>(sum);
}

/* y [rows, c_wide] = x [rows, c], then zeros. */
static __global__ void widen_kernel(bf16 *y, const bf16 *x, int64_t n, int c, int c_wide)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n)
        return;
    const int64_t row = i / c_wide;
    const int at = (int)(i % c_wide);
    y[i] = at < c ? x[row * c + at] : from_f32<bf16>(0.0f);
}

extern "C" cudaError_t rf_launch_conv_fold(cudaStream_t stream, void *y, const void *w, int64_t n_out, int64_t n_in)
{
    const int64_t n = 16 * n_out * n_in;
    if (n == 0)
        return cudaSuccess;
    fold_kernel<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, stream>>>((bf16 *)y, (const bf16 *)w, n, n_out, n_in);
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_conv_widen(cudaStream_t stream, void *y, const void *x, int64_t rows, int c,
                                            int c_wide)
{
    const int64_t n = rows * c_wide;
    if (n == 0)
        return cudaSuccess;
    widen_kernel<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, stream>>>((bf16 *)y, (const bf16 *)x, n, c, c_wide);
    return cudaGetLastError();
}
