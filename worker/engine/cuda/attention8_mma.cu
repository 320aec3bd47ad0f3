/* 8-bit attention on tensor cores of any chip since sm_80 (attention8.h): as attention_mma.cu, with operands of a byte.
 *
 * A block has 128 queries of one head, 16 per warp, in registers; tiles of 128 keys, two buffers each for keys and
 * values. q k^T is int8 x int8, p v uint8 x int8, exact in int32; the sum over tiles is F32. Rows in shared memory have
 * 128 bytes, 8 chunks of 16; chunk c of row r lies at c ^ (r % 8). Tiles go from the last, partial one to the first.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/attention8.cuh"

#define TILE RF_A8_TILE
#define THREADS 256
#define TILE_BYTES (TILE * 128)
#define SHARED_BYTES (5 * TILE_BYTES)

static __device__ __forceinline__ uint32_t chunk_at(uint32_t tile, int row, int chunk)
{
    return tile + row * 128 + ((chunk ^ (row & 7)) << 4);
}

/* 128 rows of 128 bytes, `pitch` bytes apart; all of them exist. */
static __device__ __forceinline__ void load_tile(uint32_t tile, const int8_t *from, int64_t pitch)
{
#pragma unroll
    for (int i = 0; i < TILE * 8 / THREADS; i++) {
        const int item = i * THREADS + threadIdx.x, row = item / 8, chunk = item % 8;
        cp_async16(chunk_at(tile, row, chunk), from + row * pitch + chunk * 16, true);
    }
}

/* d [16, 8] += a [16, 32] b [32, 8]; lane l holds bytes 4 (l % 4) .. of rows l / 4 (+ 8) and columns + 16 of a, and
 * bytes 4 (l % 4) .., + 16 of column l / 4 of b. */
static __device__ __forceinline__ void mma_s8(int32_t *d, const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma_u8(int32_t *d, const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void score(int32_t (&s)[64], const uint32_t q[4][4], uint32_t k_tile)
{
    const int lane = threadIdx.x % 32, row = (lane & 7) + ((lane >> 4) << 3), chunk = (lane >> 3) & 1;
#pragma unroll
    for (int i = 0; i < 64; i++)
        s[i] = 0;
#pragma unroll
    for (int d = 0; d < 4; d++)
#pragma unroll
        for (int j = 0; j < 16; j += 2) {
            uint32_t k[4];
            ldmatrix_x4(k, chunk_at(k_tile, j * 8 + row, d * 2 + chunk));
            mma_s8(s + 4 * j, q[d], k[0], k[1]);
            mma_s8(s + 4 * j + 4, q[d], k[2], k[3]);
        }
}

/* o += gain * p v, 16 channels at a time: their integers live no longer than that. */
static __device__ __forceinline__ void weigh(float (&o)[64], const uint32_t (&p)[4][4], uint32_t v_tile,
                                             const float gain[2])
{
    const int lane = threadIdx.x % 32, row = (lane & 7) + ((lane >> 4) << 3), chunk = (lane >> 3) & 1;
#pragma unroll
    for (int j = 0; j < 16; j += 2) {
        int32_t t[8] = {};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t v[4];
            ldmatrix_x4(v, chunk_at(v_tile, j * 8 + row, k * 2 + chunk));
            mma_u8(t, p[k], v[0], v[1]);
            mma_u8(t + 4, p[k], v[2], v[3]);
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            o[4 * j + i] = fmaf((float)t[i], gain[i / 2 % 2], o[4 * j + i]);
    }
}

static __global__ void __launch_bounds__(THREADS, 1) attention8_mma_kernel(const rf_attention8_args a)
{
    extern __shared__ __align__(128) char shared[];
    const uint32_t q_tile = shared_address(shared), k_tile = q_tile + TILE_BYTES, v_tile = k_tile + 2 * TILE_BYTES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y;
    const int n_tiles = (int)a.n_tiles;
    const int64_t slots = a.n_tiles * TILE;
    const int8_t *k = a.k8 + head * slots * 128, *v = a.v8 + head * slots * 128;
    const float2 *scales = (const float2 *)a.kv_scale + (int64_t)head * a.n_tiles * RF_A8_GROUPS + lane % 4;

    load_tile(q_tile, a.q8 + ((int64_t)head * a.q_rows + (int64_t)blockIdx.x * TILE) * 128, 128);
    load_tile(k_tile, k + (int64_t)(n_tiles - 1) * TILE_BYTES, 128);
    cp_async_commit();
    load_tile(v_tile, v + (int64_t)(n_tiles - 1) * TILE, slots);
    cp_async_commit();

    const int64_t row = (int64_t)blockIdx.x * TILE + warp * 16 + lane / 4;
    rows8 rows = {{a.q_scale[head * a.q_rows + row], a.q_scale[head * a.q_rows + row + 8]},
                  {-INFINITY, -INFINITY}, {0, 0}};
    uint32_t q[4][4], p[4][4];
    float o[64];
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] = 0;
    for (int i = 0; i < n_tiles; i++) {
        const int tile = n_tiles - 1 - i;
        const uint32_t side = (uint32_t)(i & 1) * TILE_BYTES, other = TILE_BYTES - side;
        const float2 scale = scales[(int64_t)tile * RF_A8_GROUPS];
        int32_t s[64];
        uint32_t pairs[32];
        change8 change;
        cp_async_wait<1>(); /* these keys are here; these values may still be on their way */
        __syncthreads();    /* for every thread's part, and the last tile's keys have been read */
        if (i == 0)
#pragma unroll
            for (int d = 0; d < 4; d++)
                ldmatrix_x4(q[d], chunk_at(q_tile, warp * 16 + (lane & 15), d * 2 + (lane >> 4)));
        if (tile > 0)
            load_tile(k_tile + other, k + (int64_t)(tile - 1) * TILE_BYTES, 128);
        cp_async_commit(); /* an empty group keeps the count */
        score(s, q, k_tile + side);
        if (i == 0)
            weigh8<true, 0, 16>(pairs, s, find_maxima8<true>(s, rows, scale, change,
                                                             (int)(a.n_keys - (int64_t)tile * TILE)));
        else
            weigh8<false, 0, 16>(pairs, s, find_maxima8<false>(s, rows, scale, change, TILE));
        pack8(p, pairs, rows, change);
        if (any_grew(change))
#pragma unroll
            for (int j = 0; j < 64; j++)
                o[j] *= change.keep[j / 2 % 2];
        cp_async_wait<1>();
        __syncthreads();
        if (tile > 0)
            load_tile(v_tile + other, v + (int64_t)(tile - 1) * TILE, slots);
        cp_async_commit();
        weigh(o, p, v_tile + side, change.gain);
    }
    store_rows8(a, o, rows, row, head);
}

extern "C" cudaError_t rf_launch_attention8_mma(cudaStream_t stream, const struct rf_attention8_args *a)
{
    cudaError_t status = cudaFuncSetAttribute(attention8_mma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              SHARED_BYTES);
    if (status != cudaSuccess)
        return status;
    dim3 grid((unsigned)(a->q_rows / TILE), (unsigned)a->heads);
    attention8_mma_kernel<<<grid, THREADS, SHARED_BYTES, stream>>>(*a);
    return cudaGetLastError();
}
