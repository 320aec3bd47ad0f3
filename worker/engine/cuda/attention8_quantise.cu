/* What comes before 8-bit attention (attention8.h): means, rotation, scales, rounding, and the transposition of v. Reads
 * k and v twice and q once, writes a byte per value: about 1 % of the attention at 83 k tokens.
 *
 * Sums over tokens are made in a fixed order, without atomics: the same input gives the same bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/attention8.h"
#include "worker/engine/cuda/common.cuh"

#define DIM RF_A8_DIM
#define TILE RF_A8_TILE
#define THREADS 256
#define HALVES (THREADS / 16) /* half a warp has one row of a head, 8 features per lane */
#define ROWS (TILE / HALVES)  /* rows of a tile per half warp */

/* ---- sums over tokens ---- */

/* One block: 256 columns, the rows of one split. partial [3][splits][cols]: k, v, v squared. */
static __global__ void __launch_bounds__(THREADS)
sums_kernel(float *partial, const bf16 *k, const bf16 *v, int64_t n, int64_t cols, int64_t width)
{
    __shared__ float shared[THREADS / 32][256];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t col = (int64_t)blockIdx.x * 256 + lane * 8, per_split = (n + RF_A8_SPLITS - 1) / RF_A8_SPLITS;
    const int64_t first = blockIdx.y * per_split, end = first + per_split < n ? first + per_split : n;
    float sums[3][8] = {};
    if (col < cols)
        for (int64_t row = first + warp; row < end; row += THREADS / 32) {
            float vk[8], vv[8];
            load8(k + row * width + col, vk);
            load8(v + row * width + col, vv);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sums[0][i] += vk[i];
                sums[1][i] += vv[i];
                sums[2][i] += vv[i] * vv[i];
            }
        }
#pragma unroll
    for (int s = 0; s < 3; s++) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            shared[warp][lane * 8 + i] = sums[s][i];
        __syncthreads();
        const int64_t mine = (int64_t)blockIdx.x * 256 + threadIdx.x;
        float all = 0;
        for (int w = 0; w < THREADS / 32; w++)
            all += shared[w][threadIdx.x];
        if (mine < cols)
            partial[((int64_t)s * RF_A8_SPLITS + blockIdx.y) * cols + mine] = all;
        __syncthreads();
    }
}

#define SUM_ROWS 16 /* a block has 32 columns and 16 rows of threads */

/* The sum of a column of [rows, cols], given to the first row of threads. */
static __device__ __forceinline__ float column_sum(const float *p, int64_t rows, int64_t cols, int64_t col,
                                                   float (*shared)[32])
{
    float sum = 0;
    if (col < cols)
        for (int64_t r = threadIdx.y; r < rows; r += SUM_ROWS)
            sum += p[r * cols + col];
    __syncthreads(); /* the last sum has been read */
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = 0;
    for (int r = 0; r < SUM_ROWS; r++)
        sum += shared[r][threadIdx.x];
    return sum;
}

static __global__ void means_kernel(float *k_mean, float *v_mean, float *v_deviation, const float *partial,
                                    int64_t cols, float n)
{
    __shared__ float shared[SUM_ROWS][32];
    const int64_t col = (int64_t)blockIdx.x * 32 + threadIdx.x, one = RF_A8_SPLITS * cols;
    const float k = column_sum(partial, RF_A8_SPLITS, cols, col, shared) / n;
    const float v = column_sum(partial + one, RF_A8_SPLITS, cols, col, shared) / n;
    const float squares = column_sum(partial + 2 * one, RF_A8_SPLITS, cols, col, shared) / n;
    if (threadIdx.y == 0 && col < cols) {
        k_mean[col] = k;
        v_mean[col] = v;
        v_deviation[col] = fmaxf(sqrtf(fmaxf(squares - v * v, 0.0f)), 1e-6f * fabsf(v) + 1e-20f);
    }
}

/* The mean of what rounding lost goes to the mean that the output gets back. */
static __global__ void lost_kernel(float *v_mean, const float *v_deviation, const float *partial, int64_t n_tiles,
                                   int64_t cols, float n)
{
    __shared__ float shared[SUM_ROWS][32];
    const int64_t col = (int64_t)blockIdx.x * 32 + threadIdx.x;
    const float lost = column_sum(partial, n_tiles, cols, col, shared);
    if (threadIdx.y == 0 && col < cols)
        v_mean[col] += v_deviation[col] * (lost / n);
}

/* ---- q and k ---- */

/* Signs, then Hadamard over 128 features: 8 of a lane, then 16 lanes. */
static __device__ __forceinline__ void rotate(float x[8])
{
    constexpr uint32_t signs[] = RF_A8_SIGNS;
    const int lane = threadIdx.x % 16;
    const uint32_t word = lane < 8 ? (lane < 4 ? signs[0] : signs[1]) : (lane < 12 ? signs[2] : signs[3]);
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] = word >> (lane % 4 * 8 + i) & 1 ? -x[i] : x[i];
#pragma unroll
    for (int step = 1; step < 8; step *= 2)
#pragma unroll
        for (int i = 0; i < 8; i++)
            if ((i & step) == 0) {
                const float a = x[i], b = x[i + step];
                x[i] = a + b;
                x[i + step] = a - b;
            }
#pragma unroll
    for (int step = 1; step < 16; step *= 2)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float other = __shfl_xor_sync(0xffffffffu, x[i], step);
            x[i] = lane & step ? other - x[i] : x[i] + other;
        }
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] *= 0.08838834764831845f; /* 1 / sqrt(128) */
}

static __device__ __forceinline__ float half_warp_max(float x)
{
#pragma unroll
    for (int step = 1; step < 16; step *= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

static __device__ __forceinline__ void store_rounded(int8_t *to, const float x[8], float inverse)
{
    uint32_t words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++)
        words[i / 4] |= (uint32_t)(__float2int_rn(x[i] * inverse) & 255) << (i % 4 * 8);
    *(uint2 *)to = make_uint2(words[0], words[1]);
}

/* One tile of rows of one head (blockIdx.x, y); rows at and after n become zeros. Keys lose their mean and share scales
 * by group, written beside those of v; queries have one each, times `factor`. */
template <bool KEYS>
static __global__ void __launch_bounds__(THREADS)
rotate_kernel(int8_t *to, float *scales, const bf16 *from, const float *mean, int64_t n, int64_t width, float factor)
{
    __shared__ float tops[HALVES];
    const int half = threadIdx.x / 16, lane = threadIdx.x % 16;
    const int64_t tile = (int64_t)blockIdx.y * gridDim.x + blockIdx.x, head = blockIdx.y;
    float x[ROWS][8], centre[8] = {}, top = 0;
    if (KEYS)
        load8(mean + head * DIM + lane * 8, centre);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int64_t row = (int64_t)blockIdx.x * TILE + i * HALVES + half;
#pragma unroll
        for (int e = 0; e < 8; e++)
            x[i][e] = 0;
        if (row < n) {
            load8(from + row * width + head * DIM + lane * 8, x[i]);
#pragma unroll
            for (int e = 0; e < 8; e++)
                x[i][e] -= centre[e];
        }
        rotate(x[i]);
        float here = 0;
#pragma unroll
        for (int e = 0; e < 8; e++)
            here = fmaxf(here, fabsf(x[i][e]));
        here = half_warp_max(here);
        top = fmaxf(top, here);
        if (!KEYS) {
            const float s = here > 0 ? here / 127.0f : 1.0f;
            store_rounded(to + (tile * TILE + i * HALVES + half) * DIM + lane * 8, x[i], 1.0f / s);
            if (lane == 0)
                scales[tile * TILE + i * HALVES + half] = s * factor;
        }
    }
    if (KEYS) { /* rows of a half warp are 16 apart: one group */
        if (lane == 0)
            tops[half] = top;
        __syncthreads();
        const int group = RF_A8_GROUP(half);
        top = fmaxf(fmaxf(tops[2 * group], tops[2 * group + 1]), fmaxf(tops[2 * group + 8], tops[2 * group + 9]));
        const float s = top > 0 ? top / 127.0f : 1.0f;
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            store_rounded(to + (tile * TILE + i * HALVES + half) * DIM + lane * 8, x[i], 1.0f / s);
        if (lane == 0 && half == 2 * group)
            scales[(tile * RF_A8_GROUPS + group) * 2] = s;
    }
}

/* ---- v ---- */

/* One tile of one head, transposed. A half warp has 8 tokens in a row, so a lane's i-th token is of group i / 2, and
 * two of them are neighbours in the order of RF_A8_SLOT. Shared words are at w ^ (channel / 8): no two lanes meet. */
static __global__ void __launch_bounds__(THREADS)
values_kernel(int8_t *to, float *scales, float *lost, const bf16 *from, const float *mean, const float *deviation,
              int64_t n, int64_t width)
{
    __shared__ uint32_t bytes[DIM * TILE / 4];
    __shared__ float parts[HALVES][DIM], tops[THREADS / 32][RF_A8_GROUPS];
    const int half = threadIdx.x / 16, lane = threadIdx.x % 16, warp = threadIdx.x / 32;
    const int64_t head = blockIdx.y, tile = head * gridDim.x + blockIdx.x;
    float x[8][8], centre[8], inverse[8], top[RF_A8_GROUPS] = {};
    load8(mean + head * DIM + lane * 8, centre);
    load8(deviation + head * DIM + lane * 8, inverse);
#pragma unroll
    for (int e = 0; e < 8; e++)
        inverse[e] = 1.0f / inverse[e];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int64_t row = (int64_t)blockIdx.x * TILE + half * 8 + i;
        if (row < n)
            load8(from + row * width + head * DIM + lane * 8, x[i]);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            x[i][e] = row < n ? (x[i][e] - centre[e]) * inverse[e] : 0.0f;
            top[i / 2] = fmaxf(top[i / 2], fabsf(x[i][e]));
        }
    }
#pragma unroll
    for (int g = 0; g < RF_A8_GROUPS; g++) {
        top[g] = warp_max(top[g]);
        if (threadIdx.x % 32 == 0)
            tops[warp][g] = top[g];
    }
    __syncthreads();
    float most = 0;
#pragma unroll
    for (int g = 0; g < RF_A8_GROUPS; g++) {
#pragma unroll
        for (int w = 0; w < THREADS / 32; w++)
            top[g] = fmaxf(top[g], tops[w][g]);
        top[g] /= 127.0f;
        most = fmaxf(most, top[g]);
    }
    float part[8] = {};
#pragma unroll
    for (int g = 0; g < RF_A8_GROUPS; g++) {
        const float s = fmaxf(fmaxf(top[g], RF_A8_LEAST_SHARE * most), RF_A8_LEAST_SCALE), inv = 1.0f / s;
        if (threadIdx.x == 0)
            scales[(tile * RF_A8_GROUPS + g) * 2 + 1] = log2f(s);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const int a = __float2int_rn(x[2 * g][e] * inv), b = __float2int_rn(x[2 * g + 1][e] * inv);
            part[e] += x[2 * g][e] - (float)a * s + (x[2 * g + 1][e] - (float)b * s);
            const int channel = lane * 8 + e, word = half / 2 * 4 + g; /* slots 16 (half / 2) + 4 g + 2 (half % 2) .. */
            ((uint16_t *)bytes)[(channel * 32 + (word ^ lane)) * 2 + half % 2] = (uint16_t)((a & 255) | (b & 255) << 8);
        }
    }
#pragma unroll
    for (int e = 0; e < 8; e++)
        parts[half][lane * 8 + e] = part[e];
    __syncthreads();
    const int64_t slots = (int64_t)gridDim.x * TILE;
    for (int channel = warp; channel < DIM; channel += THREADS / 32) {
        const int w = threadIdx.x % 32;
        *(uint32_t *)(to + (head * DIM + channel) * slots + (int64_t)blockIdx.x * TILE + w * 4) =
            bytes[channel * 32 + (w ^ channel / 8)];
    }
    if (threadIdx.x < DIM) {
        float all = 0;
        for (int h = 0; h < HALVES; h++)
            all += parts[h][threadIdx.x];
        lost[((int64_t)blockIdx.x * gridDim.y + head) * DIM + threadIdx.x] = all;
    }
}

extern "C" cudaError_t rf_launch_attention8_quantise(cudaStream_t stream, const struct rf_attention8_args *a)
{
    const int64_t width = (int64_t)a->all_heads * DIM, cols = (int64_t)a->heads * DIM, at = (int64_t)a->first_head * DIM;
    const bf16 *q = (const bf16 *)a->q + at, *k = (const bf16 *)a->k + at, *v = (const bf16 *)a->v + at;
    const float n = (float)a->n_keys;
    const dim3 sum_threads(32, SUM_ROWS), keys((unsigned)a->n_tiles, (unsigned)a->heads);
    const dim3 queries((unsigned)(a->q_rows / TILE), (unsigned)a->heads);
    const unsigned sum_blocks = (unsigned)ceil_div(cols, 32);
    sums_kernel<<<dim3((unsigned)ceil_div(cols, 256), RF_A8_SPLITS), THREADS, 0, stream>>>(a->partial, k, v, a->n_keys,
                                                                                         cols, width);
    means_kernel<<<sum_blocks, sum_threads, 0, stream>>>(a->k_mean, a->v_mean, a->v_deviation, a->partial, cols, n);
    rotate_kernel<false><<<queries, THREADS, 0, stream>>>(a->q8, a->q_scale, q, NULL, a->n_q, width,
                                                        a->scale * 1.4426950408889634f);
    rotate_kernel<true><<<keys, THREADS, 0, stream>>>(a->k8, a->kv_scale, k, a->k_mean, a->n_keys, width, 1);
    values_kernel<<<keys, THREADS, 0, stream>>>(a->v8, a->kv_scale, a->partial, v, a->v_mean, a->v_deviation, a->n_keys,
                                               width);
    lost_kernel<<<sum_blocks, sum_threads, 0, stream>>>(a->v_mean, a->v_deviation, a->partial, a->n_tiles, cols, n);
    return cudaGetLastError();
}
