/* Attention on Hopper (sm_90a), heads of 128, bf16 in and out, sums in F32: wgmma, the copy engine, warps by role.
 *
 * A block has 128 queries of one head. One warpgroup only copies: a single thread asks for tiles of 128 keys and
 * values, two of each in flight. Two warpgroups compute, 64 queries each. Two overlaps keep the tensor cores busy, both
 * from the FlashAttention-3 paper: inside a warpgroup the next scores and the last weighted sum are in flight together while the
 * softmax waits for the scores only; between the two, named barriers let one do its softmax while the other multiplies.
 *
 *   barrier   who waits      who arrives
 *   full_q    computers      the copies of q
 *   full_*    computers      the copies of one tile
 *   empty_*   the copier     the eight computing warps, after reading the tile
 *   named 1, 2               computing group 0, 1 may issue its products; the other group says so
 *
 * Tiles go from the last to the first, so that the partial one is masked before the loop. Layouts: hopper.cuh.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/hopper.cuh"

#define HEAD_DIM 128
#define BLOCK_Q 128
#define BLOCK_K 128
#define STAGES 2
#define GROUP 128                /* threads of a warpgroup */
#define THREADS (3 * GROUP)
#define HALF_BYTES (128 * 128)   /* 64 columns of 128 rows */
#define TILE_BYTES (2 * HALF_BYTES)
#define SHARED_BYTES (TILE_BYTES * (1 + 2 * STAGES) + 1024) /* and room to align to 1024 */
#define COPIER_REGISTERS 40
#define COMPUTER_REGISTERS 232   /* 40 * 128 + 232 * 256 <= 65536 */

struct barriers {
    uint64_t full_q, full_k[STAGES], empty_k[STAGES], full_v[STAGES], empty_v[STAGES];
};

static __device__ __forceinline__ void copy_tile(uint32_t tile, const CUtensorMap *map, int column, int row,
                                                 uint32_t barrier)
{
    barrier_expect(barrier, TILE_BYTES);
    copy_box(tile, map, column, row, barrier);
    copy_box(tile + HALF_BYTES, map, column + 64, row, barrier);
}

/* The copier's single thread: q, k0, k1, v0, k2, v1 … v(n-1), in the order in which they are needed. */
static __device__ void copy_all(const CUtensorMap *q, const CUtensorMap *k, const CUtensorMap *v, uint32_t tiles,
                                barriers &b, int n_tiles)
{
    const int column = blockIdx.y * HEAD_DIM;
    const uint32_t k_tiles = tiles + TILE_BYTES, v_tiles = k_tiles + STAGES * TILE_BYTES;
    copy_tile(tiles, q, column, blockIdx.x * BLOCK_Q, shared_address(&b.full_q));
    for (int i = 0; i <= n_tiles; i++) {
        if (i < n_tiles) {
            const int stage = i % STAGES;
            barrier_wait(shared_address(&b.empty_k[stage]), (i / STAGES & 1) ^ 1);
            copy_tile(k_tiles + stage * TILE_BYTES, k, column, (n_tiles - 1 - i) * BLOCK_K,
                      shared_address(&b.full_k[stage]));
        }
        if (i > 0) {
            const int stage = (i - 1) % STAGES;
            barrier_wait(shared_address(&b.empty_v[stage]), ((i - 1) / STAGES & 1) ^ 1);
            copy_tile(v_tiles + stage * TILE_BYTES, v, column, (n_tiles - i) * BLOCK_K,
                      shared_address(&b.full_v[stage]));
        }
    }
}

/* s = q k^T, in flight on return. */
static __device__ __forceinline__ void issue_scores(float (&s)[64], uint32_t q_rows, uint32_t k_tile)
{
#pragma unroll
    for (int d = 0; d < HEAD_DIM / 16; d++) {
        const uint32_t at = d / 4 * HALF_BYTES + d % 4 * 32;
        wgmma_shared(s, descriptor(q_rows + at, 16, 1024), descriptor(k_tile + at, 16, 1024), d > 0);
    }
    wgmma_commit();
}

/* o += p v, in flight on return: p must not change until then. */
static __device__ __forceinline__ void issue_sum(float (&o)[64], const uint32_t (&p)[BLOCK_K / 16][4], uint32_t v_tile)
{
#pragma unroll
    for (int k = 0; k < BLOCK_K / 16; k++)
        wgmma_registers(o, p[k], descriptor(v_tile + k * 2048, HALF_BYTES, 1024));
    wgmma_commit();
}

/* Scores become weights 2^(factor (s - max)). keep: by what earlier sums of this lane's two rows must be scaled. */
static __device__ __forceinline__ void softmax_step(float (&s)[64], float top[2], float sum[2], float keep[2],
                                                    float factor)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float next = top[r];
#pragma unroll
        for (int j = 0; j < 16; j++)
            next = fmaxf(next, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1)); /* a row lies in four neighbouring lanes */
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
        const float shift = next * factor;
        keep[r] = exp2_fast(top[r] * factor - shift);
        top[r] = next;
        sum[r] *= keep[r];
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &w = s[4 * j + 2 * r + i];
                w = exp2_fast(w * factor - shift);
                sum[r] += w;
            }
    }
}

static __device__ __forceinline__ void pack_weights(uint32_t (&p)[BLOCK_K / 16][4], const float (&s)[64])
{
#pragma unroll
    for (int k = 0; k < BLOCK_K / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            p[k][i] = pack_bf16(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    pin_operands(p);
}

static __device__ __forceinline__ void store_rows(const rf_attention_args &a, const float (&o)[64], const float sum[2],
                                                  int group)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int64_t width = (int64_t)a.heads * HEAD_DIM;
    bf16 *out = (bf16 *)a.o + (int64_t)blockIdx.y * HEAD_DIM;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float all = sum[r] + __shfl_xor_sync(0xffffffffu, sum[r], 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        const float inverse = 1.0f / all;
        const int64_t row = (int64_t)blockIdx.x * BLOCK_Q + group * 64 + warp * 16 + lane / 4 + 8 * r;
        if (row < a.n_q)
#pragma unroll
            for (int j = 0; j < 16; j++)
                *(uint32_t *)(out + row * width + 8 * j + 2 * (lane % 4)) =
                    pack_bf16(o[4 * j + 2 * r] * inverse, o[4 * j + 2 * r + 1] * inverse);
    }
}

/* One computing warpgroup, 0 or 1: 64 queries over all tiles. */
static __device__ __forceinline__ void compute(const rf_attention_args &a, uint32_t tiles, barriers &b, int n_tiles,
                                               float factor, int group)
{
    const int lane = threadIdx.x % 32;
    const uint32_t q_rows = tiles + group * 64 * 128;
    const uint32_t k_tiles = tiles + TILE_BYTES, v_tiles = k_tiles + STAGES * TILE_BYTES;
    float s[64], o[64], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, keep[2];
    uint32_t p[BLOCK_K / 16][4];
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] = 0;

    if (group == 1 && n_tiles > 1)
        named_arrive(1, 2 * GROUP); /* group 0 issues first */
    barrier_wait(shared_address(&b.full_q), 0);
    barrier_wait(shared_address(&b.full_k[0]), 0);
    wgmma_fence();
    issue_scores(s, q_rows, k_tiles);
    wgmma_wait<0>();
    pin(s);
    if (lane == 0)
        barrier_arrive(shared_address(&b.empty_k[0]));
    const int n_last = (int)(a.n_keys - (int64_t)(n_tiles - 1) * BLOCK_K);
#pragma unroll
    for (int i = 0; i < 64; i++)
        if (i / 4 * 8 + 2 * (lane % 4) + i % 2 >= n_last)
            s[i] = -INFINITY;
    softmax_step(s, top, sum, keep, factor);
    pack_weights(p, s);

    for (int i = 1; i < n_tiles; i++) {
        const int stage = i % STAGES, last = (i - 1) % STAGES;
        barrier_wait(shared_address(&b.full_k[stage]), i / STAGES & 1);
        named_sync(1 + group, 2 * GROUP);
        pin(s);
        pin(o);
        wgmma_fence();
        issue_scores(s, q_rows, k_tiles + stage * TILE_BYTES);
        barrier_wait(shared_address(&b.full_v[last]), (i - 1) / STAGES & 1);
        wgmma_fence(); /* the wait is a loop: without it the compiler adds one here */
        issue_sum(o, p, v_tiles + last * TILE_BYTES);
        if (group == 0 || i + 1 < n_tiles) /* the last word of group 1 would find nobody */
            named_arrive(2 - group, 2 * GROUP);
        wgmma_wait<1>(); /* the scores */
        pin(s);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_k[stage]));
        softmax_step(s, top, sum, keep, factor);
        wgmma_wait<0>(); /* the sum */
        pin(o);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_v[last]));
#pragma unroll
        for (int j = 0; j < 64; j++)
            o[j] *= keep[j / 2 % 2];
        pack_weights(p, s);
    }
    const int last = (n_tiles - 1) % STAGES;
    barrier_wait(shared_address(&b.full_v[last]), (n_tiles - 1) / STAGES & 1);
    pin(o);
    wgmma_fence();
    issue_sum(o, p, v_tiles + last * TILE_BYTES);
    wgmma_wait<0>();
    pin(o);
    store_rows(a, o, sum, group);
}

static __global__ void __launch_bounds__(THREADS, 1)
attention_hopper_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                        const __grid_constant__ CUtensorMap v, const rf_attention_args a, float factor)
{
    extern __shared__ char shared[];
    __shared__ barriers b;
    const uint32_t tiles = (shared_address(shared) + 1023) / 1024 * 1024;
    const int n_tiles = (int)((a.n_keys + BLOCK_K - 1) / BLOCK_K);
    if (threadIdx.x == 0) {
        barrier_init(shared_address(&b.full_q), 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(shared_address(&b.full_k[i]), 1);
            barrier_init(shared_address(&b.full_v[i]), 1);
            barrier_init(shared_address(&b.empty_k[i]), 2 * GROUP / 32);
            barrier_init(shared_address(&b.empty_v[i]), 2 * GROUP / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); /* for the copy engine's eyes */
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    /* Through a shuffle, so that the compiler knows all lanes agree: else it serialises the products (C7520). */
    const int role = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0);
    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COPIER_REGISTERS));
        if (threadIdx.x == 0)
            copy_all(&q, &k, &v, tiles, b, n_tiles);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COMPUTER_REGISTERS));
        compute(a, tiles, b, n_tiles, factor, role - 1);
    }
}

/* ---- launch ---- */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* A map of [rows, width] bf16 in boxes of 64 columns and 128 rows. */
static cudaError_t make_map(CUtensorMap *map, const void *data, int64_t rows, int64_t width)
{
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                                          &found);
    if (status != cudaSuccess)
        return status;
    if (found != cudaDriverEntryPointSuccess || entry == NULL)
        return cudaErrorInvalidValue;
    const cuuint64_t dims[] = {(cuuint64_t)width, (cuuint64_t)rows}, strides[] = {(cuuint64_t)width * 2};
    const cuuint32_t box[] = {64, 128}, steps[] = {1, 1};
    CUresult result = ((encode_fn)entry)(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)data, dims, strides, box,
                                         steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

extern "C" cudaError_t rf_launch_attention_hopper(cudaStream_t stream, const struct rf_attention_args *a)
{
    const int64_t width = (int64_t)a->heads * HEAD_DIM;
    CUtensorMap q, k, v;
    cudaError_t status = make_map(&q, a->q, a->n_q, width);
    if (status == cudaSuccess)
        status = make_map(&k, a->k, a->n_keys, width); /* keys beyond n_keys are read as zeros, then masked */
    if (status == cudaSuccess)
        status = make_map(&v, a->v, a->n_keys, width);
    if (status == cudaSuccess)
        status = cudaFuncSetAttribute(attention_hopper_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      SHARED_BYTES);
    if (status != cudaSuccess)
        return status;
    dim3 grid((unsigned)ceil_div(a->n_q, BLOCK_Q), (unsigned)a->heads);
    attention_hopper_kernel<<<grid, THREADS, SHARED_BYTES, stream>>>(q, k, v, *a, a->scale * 1.4426950408889634f);
    return cudaGetLastError();
}
