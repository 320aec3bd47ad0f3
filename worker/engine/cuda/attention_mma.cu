/* Attention on tensor cores of any chip since sm_80, heads of 128, bf16 in and out, sums in F32.
 *
 * A block has 128 queries of one head, 16 per warp, kept in registers; it walks the keys in tiles of 64. Keys and values
 * have two buffers each: while one tile is multiplied the next is on its way. Scores never leave registers: the
 * accumulator layout of q k^T is the operand layout of p v. Online softmax as on the CPU, in powers of two.
 *
 * Shared memory: rows of 256 bytes, 16 chunks of 16 bytes; chunk c of row r lies at c ^ (r % 8), so that the eight rows
 * of an ldmatrix are in different banks. 96 KB, which sm_86, sm_89 and sm_120 (99 KB) can still give.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/mma.cuh"

#define HEAD_DIM 128
#define BLOCK_Q 128
#define BLOCK_K 64
#define THREADS 256
#define ROW_BYTES (HEAD_DIM * 2)
#define TILE_BYTES (BLOCK_K * ROW_BYTES)
#define SHARED_BYTES (BLOCK_Q * ROW_BYTES + 4 * TILE_BYTES)
#define N_SCORES (BLOCK_K / 8)   /* blocks of 8 keys */
#define N_OUT (HEAD_DIM / 8)     /* blocks of 8 outputs */

static __device__ __forceinline__ uint32_t chunk_at(uint32_t tile, int row, int chunk)
{
    return tile + row * ROW_BYTES + ((chunk ^ (row & 7)) << 4);
}

/* `rows` rows from row `first` of a [n, width] matrix; rows at and after n become zeros. */
template <int ROWS>
static __device__ __forceinline__ void load_tile(uint32_t tile, const bf16 *from, int64_t first, int64_t n,
                                                 int64_t width)
{
#pragma unroll
    for (int i = 0; i < ROWS * 16 / THREADS; i++) {
        int item = i * THREADS + threadIdx.x, row = item / 16, chunk = item % 16;
        bool exists = first + row < n;
        cp_async16(chunk_at(tile, row, chunk), from + (exists ? first + row : 0) * width + chunk * 8, exists);
    }
}

/* s [16 queries, 64 keys] = q k^T */
static __device__ __forceinline__ void score(float s[N_SCORES][4], const uint32_t q[HEAD_DIM / 16][4], uint32_t k_tile)
{
    const int lane = threadIdx.x % 32, row = (lane & 7) + ((lane >> 4) << 3), chunk = (lane >> 3) & 1;
#pragma unroll
    for (int j = 0; j < N_SCORES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[j][i] = 0;
#pragma unroll
    for (int d = 0; d < HEAD_DIM / 16; d++)
#pragma unroll
        for (int j = 0; j < N_SCORES; j += 2) {
            uint32_t k[4];
            ldmatrix_x4(k, chunk_at(k_tile, j * 8 + row, d * 2 + chunk));
            mma_16816(s[j], q[d], k[0], k[1]);
            mma_16816(s[j + 1], q[d], k[2], k[3]);
        }
}

/* o [16 queries, 128] += p v, p being the weights that stand in s */
static __device__ __forceinline__ void weigh(float o[N_OUT][4], const float s[N_SCORES][4], uint32_t v_tile)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < BLOCK_K / 16; k++) {
        uint32_t p[4] = {pack_bf16(s[2 * k][0], s[2 * k][1]), pack_bf16(s[2 * k][2], s[2 * k][3]),
                         pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]), pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
        for (int j = 0; j < N_OUT; j += 2) {
            uint32_t v[4];
            ldmatrix_x4_trans(v, chunk_at(v_tile, k * 16 + (lane & 15), j + (lane >> 4)));
            mma_16816(o[j], p, v[0], v[1]);
            mma_16816(o[j + 1], p, v[2], v[3]);
        }
    }
}

/* Scores become weights 2^(factor (s - max)); top and sum of this lane's two rows, and o, follow. */
static __device__ __forceinline__ void softmax_step(float s[N_SCORES][4], float o[N_OUT][4], float top[2], float sum[2],
                                                    float factor)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float next = top[r];
#pragma unroll
        for (int j = 0; j < N_SCORES; j++)
            next = fmaxf(next, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1)); /* a row lies in four neighbouring lanes */
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
        float keep = exp2_fast((top[r] - next) * factor), shift = next * factor;
        top[r] = next;
        sum[r] *= keep;
#pragma unroll
        for (int j = 0; j < N_SCORES; j++)
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++) {
                s[j][i] = exp2_fast(s[j][i] * factor - shift);
                sum[r] += s[j][i];
            }
#pragma unroll
        for (int j = 0; j < N_OUT; j++) {
            o[j][2 * r] *= keep;
            o[j][2 * r + 1] *= keep;
        }
    }
}

static __global__ void __launch_bounds__(THREADS, 1) attention_mma_kernel(const rf_attention_args a, float factor)
{
    extern __shared__ __align__(128) char shared[];
    const uint32_t q_tile = shared_address(shared), k_tile = q_tile + BLOCK_Q * ROW_BYTES,
                   v_tile = k_tile + 2 * TILE_BYTES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t width = (int64_t)a.heads * HEAD_DIM, first = (int64_t)blockIdx.x * BLOCK_Q;
    const int64_t at = (int64_t)blockIdx.y * HEAD_DIM;
    const bf16 *k = (const bf16 *)a.k + at, *v = (const bf16 *)a.v + at;
    const int64_t n_tiles = (a.n_keys + BLOCK_K - 1) / BLOCK_K;

    load_tile<BLOCK_Q>(q_tile, (const bf16 *)a.q + at, first, a.n_q, width);
    load_tile<BLOCK_K>(k_tile, k, 0, a.n_keys, width);
    cp_async_commit();
    load_tile<BLOCK_K>(v_tile, v, 0, a.n_keys, width);
    cp_async_commit();

    uint32_t q[HEAD_DIM / 16][4];
    float o[N_OUT][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < N_OUT; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            o[j][i] = 0;

    for (int64_t tile = 0; tile < n_tiles; tile++) {
        const uint32_t side = (uint32_t)(tile & 1) * TILE_BYTES, other = TILE_BYTES - side;
        float s[N_SCORES][4];
        cp_async_wait<1>(); /* these keys are here; these values may still be on their way */
        __syncthreads();    /* for every thread's part, and the last tile's keys have been read */
        if (tile == 0)
#pragma unroll
            for (int d = 0; d < HEAD_DIM / 16; d++)
                ldmatrix_x4(q[d], chunk_at(q_tile, warp * 16 + (lane & 15), d * 2 + (lane >> 4)));
        if (tile + 1 < n_tiles)
            load_tile<BLOCK_K>(k_tile + other, k, (tile + 1) * BLOCK_K, a.n_keys, width);
        cp_async_commit(); /* an empty group keeps the count */
        score(s, q, k_tile + side);
        if ((tile + 1) * BLOCK_K > a.n_keys) {
            const int n_here = (int)(a.n_keys - tile * BLOCK_K);
#pragma unroll
            for (int j = 0; j < N_SCORES; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (j * 8 + 2 * (lane % 4) + (i & 1) >= n_here)
                        s[j][i] = -INFINITY;
        }
        softmax_step(s, o, top, sum, factor);
        cp_async_wait<1>();
        __syncthreads();
        if (tile + 1 < n_tiles)
            load_tile<BLOCK_K>(v_tile + other, v, (tile + 1) * BLOCK_K, a.n_keys, width);
        cp_async_commit();
        weigh(o, s, v_tile + side);
    }

    bf16 *out = (bf16 *)a.o + at;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        const int64_t row = first + warp * 16 + lane / 4 + 8 * r;
        const float inverse = 1.0f / sum[r];
        if (row < a.n_q)
#pragma unroll
            for (int j = 0; j < N_OUT; j++)
                *(uint32_t *)(out + row * width + j * 8 + 2 * (lane % 4)) =
                    pack_bf16(o[j][2 * r] * inverse, o[j][2 * r + 1] * inverse);
    }
}

extern "C" cudaError_t rf_launch_attention_mma(cudaStream_t stream, const struct rf_attention_args *a)
{
    cudaError_t status = cudaFuncSetAttribute(attention_mma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              SHARED_BYTES);
    if (status != cudaSuccess)
        return status;
    dim3 grid((unsigned)ceil_div(a->n_q, BLOCK_Q), (unsigned)a->heads);
    attention_mma_kernel<<<grid, THREADS, SHARED_BYTES, stream>>>(*a, a->scale * 1.4426950408889634f);
    return cudaGetLastError();
}
