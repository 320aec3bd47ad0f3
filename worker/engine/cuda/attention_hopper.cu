/* Attention on Hopper (sm_90a), heads of 128, bf16 in and out, sums in F32: wgmma, the copy engine, warps by role, as
 * attention_hopper.cuh tells. Layouts: hopper.cuh.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/attention_hopper.cuh"

#define HEAD_DIM 128
#define BLOCK_Q 128
#define BLOCK_K 128
#define STAGES 2
#define HALF_BYTES (128 * 128)   /* 64 columns of 128 rows */
#define TILE_BYTES (2 * HALF_BYTES)
#define SHARED_BYTES (TILE_BYTES * (1 + 2 * STAGES) + 1024) /* and room to align to 1024 */
#define COPIER_REGISTERS 40
#define COMPUTER_REGISTERS 232   /* 40 * 128 + 232 * 256 <= 65536 */

struct copier {
    const CUtensorMap *maps[3]; /* q, k, v */
    uint32_t tiles;

    __device__ __forceinline__ void tile(int which, int at, int row, uint32_t barrier) const
    {
        const int column = blockIdx.y * HEAD_DIM;
        const uint32_t to = tiles + at * TILE_BYTES;
        barrier_expect(barrier, TILE_BYTES);
        copy_box(to, maps[which], column, row, barrier);
        copy_box(to + HALF_BYTES, maps[which], column + 64, row, barrier);
    }
    __device__ __forceinline__ void q(uint32_t barrier) const { tile(0, 0, blockIdx.x * BLOCK_Q, barrier); }
    __device__ __forceinline__ void k(int stage, int i, uint32_t barrier) const
    {
        tile(1, 1 + stage, i * BLOCK_K, barrier);
    }
    __device__ __forceinline__ void v(int stage, int i, uint32_t barrier) const
    {
        tile(2, 1 + STAGES + stage, i * BLOCK_K, barrier);
    }
};

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
        keep[r] = exp2_fast((top[r] - next) * factor); /* exactly 1 when the maximum has not grown */
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
static __device__ __forceinline__ void compute(const rf_attention_args &a, uint32_t tiles, barriers<STAGES> &b, int n_tiles,
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
        /* Rows grow in the first tiles, hardly after: the warp skips a seventh of the loop's instructions. */
        if (__any_sync(0xffffffffu, keep[0] != 1.0f || keep[1] != 1.0f))
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
    __shared__ barriers<STAGES> b;
    const uint32_t tiles = (shared_address(shared) + 1023) / 1024 * 1024;
    const int n_tiles = (int)((a.n_keys + BLOCK_K - 1) / BLOCK_K);
    if (threadIdx.x == 0)
        init_barriers(b);
    __syncthreads();
    const int role = role_of_warpgroup();
    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COPIER_REGISTERS));
        if (threadIdx.x == 0)
            copy_all(b, n_tiles, copier{{&q, &k, &v}, tiles});
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COMPUTER_REGISTERS));
        compute(a, tiles, b, n_tiles, factor, role - 1);
    }
}

extern "C" cudaError_t rf_launch_attention_hopper(cudaStream_t stream, const struct rf_attention_args *a)
{
    const int64_t width = (int64_t)a->heads * HEAD_DIM;
    CUtensorMap q, k, v;
    cudaError_t status = make_map(&q, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, a->q, a->n_q, width);
    if (status == cudaSuccess)
        status = make_map(&k, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, a->k, a->n_keys, width); /* keys beyond n_keys are read as zeros, then masked */
    if (status == cudaSuccess)
        status = make_map(&v, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, a->v, a->n_keys, width);
    if (status == cudaSuccess)
        status = cudaFuncSetAttribute(attention_hopper_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      SHARED_BYTES);
    if (status != cudaSuccess)
        return status;
    dim3 grid((unsigned)ceil_div(a->n_q, BLOCK_Q), (unsigned)a->heads);
    attention_hopper_kernel<<<grid, THREADS, SHARED_BYTES, stream>>>(q, k, v, *a, a->scale * 1.4426950408889634f);
    return cudaGetLastError();
}
