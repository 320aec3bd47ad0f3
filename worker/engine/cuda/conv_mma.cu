/* The VAE's convolution on tensor cores (sm_80 and later), as a matrix product whose left matrix is never written down.
 *
 * y [pixels, out] = x' [pixels, taps * in] w^T with w [out, taps * in] as it lies in memory. Row p of x' gathers the
 * input pixels that output pixel p sees, tap after tap; in is a multiple of 8, so 16 bytes are always of one tap. Zero
 * borders, strides and the doubling of the picture are in the gathering: a chunk outside is filled with zeros.
 *
 * A block makes 256 pixels x 96 outputs (Wan's channels are multiples of 96) or 256 x 16 (the head's 3, the latent's
 * 16), walking the taps in steps of 32 values with STAGES buffers in flight. Shared rows have 64 bytes, 4 chunks; chunk
 * c of row r lies at c ^ (r / 2 % 4), so that the eight rows of an ldmatrix are in different banks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/mma.cuh"

#define BLOCK_M 256
#define BLOCK_K 32
#define THREADS 256
#define STAGES 4
#define ROW_BYTES (BLOCK_K * 2)
#define A_BYTES (BLOCK_M * ROW_BYTES)
#define A_ROWS (BLOCK_M * 4 / THREADS) /* rows that each thread gathers one chunk of */

static __device__ __forceinline__ uint32_t chunk_at(uint32_t tile, int row, int chunk)
{
    return tile + row * ROW_BYTES + ((chunk ^ ((row >> 1) & 3)) << 4);
}

/* Where this thread's chunk of the next step lies: which tap, which channel. */
struct tap {
    int c, dx, dy, dt;
};

static __device__ __forceinline__ void advance(tap *t, int by, const rf_conv_args &a)
{
    t->c += by;
    while (t->c >= (int)a.c_in) {
        t->c -= (int)a.c_in;
        if (++t->dx == a.kw) {
            t->dx = 0;
            if (++t->dy == a.kh) {
                t->dy = 0;
                t->dt++;
            }
        }
    }
}

/* Warps: WARPS_M along the pixels, 8 / WARPS_M along the outputs. */
template <int BLOCK_N, int WARPS_M, typename TY>
static __global__ void __launch_bounds__(THREADS, 1) conv_mma_kernel(const rf_conv_args a, int64_t n_pixels)
{
    constexpr int WARPS_N = 8 / WARPS_M, M = BLOCK_M / WARPS_M / 16, N = BLOCK_N / WARPS_N / 8;
    constexpr int B_BYTES = BLOCK_N * ROW_BYTES, STAGE_BYTES = A_BYTES + B_BYTES;
    static_assert(N % 2 == 0 && M >= 1, "a warp reads its outputs in pairs of 8");
    extern __shared__ __align__(128) char shared[];
    const uint32_t base = shared_address(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t first_pixel = (int64_t)blockIdx.x * BLOCK_M;
    const int first_out = blockIdx.y * BLOCK_N, n_out = (int)a.c_out;
    const int k_all = a.kt * a.kh * a.kw * (int)a.c_in, n_steps = (k_all + BLOCK_K - 1) / BLOCK_K;
    const int h = (int)(a.upsample ? 2 * a.h_in : a.h_in), w = (int)(a.upsample ? 2 * a.w_in : a.w_in);
    const bf16 *weights = (const bf16 *)a.w;

    const int chunk = threadIdx.x % 4; /* of the step; the same for all rows of this thread */
    int pixel_y[A_ROWS], pixel_x[A_ROWS], frame[A_ROWS];
#pragma unroll
    for (int i = 0; i < A_ROWS; i++) {
        int64_t p = first_pixel + i * (THREADS / 4) + threadIdx.x / 4;
        if (p < n_pixels) {
            pixel_x[i] = (int)(p % a.w_out) * a.stride_s - a.pad_x;
            pixel_y[i] = (int)(p / a.w_out % a.h_out) * a.stride_s - a.pad_y;
            frame[i] = (int)(p / (a.w_out * a.h_out)) * a.stride_t;
        } else {
            pixel_x[i] = pixel_y[i] = -(1 << 20); /* outside, whatever the tap */
            frame[i] = 0;
        }
    }
    tap at = {0, 0, 0, 0};
    advance(&at, chunk * 8, a);

    /* Step `step` into its buffer; must be called for 0, 1, 2 … in order, since `at` walks along. */
    auto load_step = [&](int step) {
        const uint32_t a_tile = base + (step % STAGES) * STAGE_BYTES, b_tile = a_tile + A_BYTES;
        const int k = step * BLOCK_K + chunk * 8;
#pragma unroll
        for (int i = 0; i < A_ROWS; i++) {
            int yy = pixel_y[i] + at.dy, xx = pixel_x[i] + at.dx;
            bool exists = k < k_all && (unsigned)yy < (unsigned)h && (unsigned)xx < (unsigned)w;
            if (a.upsample)
                yy >>= 1, xx >>= 1;
            const int64_t from = ((int64_t)yy * a.w_in + xx) * a.c_in + at.c;
            cp_async16(chunk_at(a_tile, i * (THREADS / 4) + threadIdx.x / 4, chunk),
                       exists ? conv_frame<bf16>(a, frame[i] + at.dt) + from : weights, exists);
        }
        for (int row = threadIdx.x / 4; row < BLOCK_N; row += THREADS / 4) {
            bool exists = k < k_all && first_out + row < n_out;
            cp_async16(chunk_at(b_tile, row, chunk), weights + (exists ? (int64_t)(first_out + row) * k_all + k : 0),
                       exists);
        }
        advance(&at, BLOCK_K, a);
    };

    float acc[M][N][4];
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[i][j][e] = 0;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < n_steps)
            load_step(s);
        cp_async_commit();
    }
    const int warp_m = warp % WARPS_M * M * 16, warp_n = warp / WARPS_M * N * 8;
    for (int step = 0; step < n_steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* everyone's part is here, and the buffer filled next has been read */
        if (step + STAGES - 1 < n_steps)
            load_step(step + STAGES - 1);
        cp_async_commit(); /* an empty group keeps the count */
        const uint32_t a_tile = base + (step % STAGES) * STAGE_BYTES, b_tile = a_tile + A_BYTES;
#pragma unroll
        for (int k = 0; k < BLOCK_K / 16; k++) {
            uint32_t fa[M][4], fb[N / 2][4];
#pragma unroll
            for (int i = 0; i < M; i++)
                ldmatrix_x4(fa[i], chunk_at(a_tile, warp_m + i * 16 + (lane & 15), k * 2 + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < N / 2; j++)
                ldmatrix_x4(fb[j], chunk_at(b_tile, warp_n + j * 16 + (lane & 7) + ((lane >> 4) << 3),
                                            k * 2 + ((lane >> 3) & 1)));
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int j = 0; j < N; j++)
                    mma_16816(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
    }

    TY *y = (TY *)a.y;
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int64_t p = first_pixel + warp_m + i * 16 + lane / 4 + 8 * r;
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int o = first_out + warp_n + j * 8 + 2 * (lane % 4) + e;
                    if (p < n_pixels && o < n_out) {
                        float sum = acc[i][j][2 * r + e] + (a.bias ? a.bias[o] : 0.0f);
                        const int64_t to = p * n_out + o;
                        if (a.add)
                            sum += a.add_type == RF_KT_F32 ? ((const float *)a.add)[to]
                                                           : to_f32(((const bf16 *)a.add)[to]);
                        y[to] = from_f32<TY>(sum);
                    }
                }
        }
}

template <int BLOCK_N, int WARPS_M, typename TY>
static cudaError_t launch(cudaStream_t stream, const rf_conv_args &a)
{
    const int bytes = STAGES * (A_BYTES + BLOCK_N * ROW_BYTES);
    const int64_t n_pixels = a.t_out * a.h_out * a.w_out;
    cudaError_t status = cudaFuncSetAttribute(conv_mma_kernel<BLOCK_N, WARPS_M, TY>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (status != cudaSuccess)
        return status;
    dim3 grid((unsigned)ceil_div(n_pixels, BLOCK_M), (unsigned)ceil_div(a.c_out, BLOCK_N));
    conv_mma_kernel<BLOCK_N, WARPS_M, TY><<<grid, THREADS, bytes, stream>>>(a, n_pixels);
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_conv_mma(cudaStream_t stream, const struct rf_conv_args *args)
{
    const rf_conv_args a = *args;
    if (a.t_out * a.h_out * a.w_out * a.c_out == 0)
        return cudaSuccess;
    if (a.c_in % 8 != 0 || (a.add && a.add_type != RF_KT_F32 && a.add_type != RF_KT_BF16))
        return cudaErrorInvalidValue;
    RF_WITH_ACT_TYPE(a.y_type, TY,
        if (a.c_out <= 16)
            return launch<16, 8, TY>(stream, a);
        else
            return launch<96, 4, TY>(stream, a))
    return cudaErrorInvalidValue;
}
