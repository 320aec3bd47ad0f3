/* 8-bit attention on Hopper (attention8.h): the structure of attention_hopper.cuh with wgmma over bytes.
 *
 * A tile of 128 keys is 16 KB, of values too, so four of each are in flight. p v of a tile is summed in integers of its
 * own, exactly, and joins the F32 sums afterwards. Registers of a computing thread: 64 scores (then 32 pairs of weights),
 * 64 of the tile's sum, 64 of the sums, 16 of operands; 240 are all there are.
 *   Products of bytes are as short as the softmax, so each warpgroup makes half of a tile's weights while its own p v is
 * under way, and the two go on as they come: taking turns, as the other kernel's do, was slower (SPEED.md).
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/attention8.cuh"
#include "worker/engine/cuda/attention_hopper.cuh"

#define TILE RF_A8_TILE
#define STAGES 4
#define TILE_BYTES (TILE * 128)
#define SHARED_BYTES (TILE_BYTES * (1 + 2 * STAGES) + 1024) /* and room to align to 1024 */
#define COPIER_REGISTERS 24
#define COMPUTER_REGISTERS 240 /* 24 * 128 + 240 * 256 <= 65536 */
#define FRONT 8 /* of a tile's 16 blocks of weights, made before the wait for the last tile's sum */

struct copier {
    const CUtensorMap *maps[3]; /* q, k, v */
    uint32_t tiles;
    int q_tiles, n_tiles;

    __device__ __forceinline__ void tile(int which, int at, int column, int row, uint32_t barrier) const
    {
        barrier_expect(barrier, TILE_BYTES);
        copy_box(tiles + at * TILE_BYTES, maps[which], column, row, barrier);
    }
    __device__ __forceinline__ void q(uint32_t barrier) const
    {
        tile(0, 0, 0, (blockIdx.y * q_tiles + blockIdx.x) * TILE, barrier);
    }
    __device__ __forceinline__ void k(int stage, int i, uint32_t barrier) const
    {
        tile(1, 1 + stage, 0, (blockIdx.y * n_tiles + i) * TILE, barrier);
    }
    __device__ __forceinline__ void v(int stage, int i, uint32_t barrier) const /* rows are channels */
    {
        tile(2, 1 + STAGES + stage, i * TILE, blockIdx.y * RF_A8_DIM, barrier);
    }
};

/* A descriptor's lower word. The upper, strides and swizzle, is a constant; further on is this plus bytes / 16. */
static __device__ __forceinline__ uint32_t operand(uint32_t address)
{
    return (uint32_t)descriptor(address, 16, 1024);
}

static __device__ __forceinline__ uint64_t at(uint32_t operand, int bytes)
{
    return (uint64_t)(descriptor(0, 16, 1024) >> 32) << 32 | (operand + bytes / 16);
}

/* s = q k^T, in flight on return. */
static __device__ __forceinline__ void issue_scores(int32_t (&s)[64], uint32_t q_rows, uint32_t k_tile)
{
#pragma unroll
    for (int d = 0; d < 4; d++)
        wgmma_shared_s8(s, at(q_rows, d * 32), at(k_tile, d * 32), d > 0);
    wgmma_commit();
}

/* t = p v, in flight on return: p must not change until then. */
static __device__ __forceinline__ void issue_sum(int32_t (&t)[64], const uint32_t (&p)[4][4], uint32_t v_tile)
{
#pragma unroll
    for (int k = 0; k < 4; k++)
        wgmma_registers_u8(t, p[k], at(v_tile, k * 32), k > 0);
    wgmma_commit();
}

/* o += gain * t */
static __device__ __forceinline__ void add_tile(float (&o)[64], const int32_t (&t)[64], const float gain[2])
{
#pragma unroll
    for (int j = 0; j < 64; j++)
        o[j] = fmaf((float)t[j], gain[j / 2 % 2], o[j]);
}

/* The sums so far and the tile that has not joined them yet give way to larger maxima. */
static __device__ __forceinline__ void scale_sums(float (&o)[64], change8 &last, const change8 &change)
{
#pragma unroll
    for (int j = 0; j < 64; j++)
        o[j] *= change.keep[j / 2 % 2];
    last.gain[0] *= change.keep[0];
    last.gain[1] *= change.keep[1];
}

/* One computing warpgroup, 0 or 1: 64 queries over all tiles. */
static __device__ __forceinline__ void compute(const rf_attention8_args &a, uint32_t tiles, barriers<STAGES> &b,
                                               int group)
{
    const int lane = threadIdx.x % 32, n_tiles = (int)a.n_tiles;
    const int64_t row = (int64_t)blockIdx.x * TILE + group * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    const uint32_t q_rows = operand(tiles + group * 64 * 128);
    const uint32_t k_tiles = operand(tiles + TILE_BYTES), v_tiles = operand(tiles + (1 + STAGES) * TILE_BYTES);
    const float2 *scales = (const float2 *)a.kv_scale + ((int64_t)blockIdx.y * n_tiles + n_tiles - 1) * RF_A8_GROUPS +
                           lane % 4; /* of the last tile; the next is RF_A8_GROUPS before it */
    const float *q_scale = a.q_scale + blockIdx.y * a.q_rows + row;
    rows8 rows = {{q_scale[0], q_scale[8]}, {-INFINITY, -INFINITY}, {0, 0}};
    int32_t s[64], t[64];
    float o[64];
    uint32_t p[4][4], pairs[32];
    change8 change, next_change;
#pragma unroll
    for (int i = 0; i < 64; i++) {
        o[i] = 0;
        t[i] = 0;
    }

    float2 scale = *scales;
    barrier_wait(shared_address(&b.full_q), 0);
    barrier_wait(shared_address(&b.full_k[0]), 0);
    pin(s);
    wgmma_fence();
    issue_scores(s, q_rows, k_tiles);
    wgmma_wait<0>();
    pin(s);
    if (lane == 0)
        barrier_arrive(shared_address(&b.empty_k[0]));
    weigher8 with = find_maxima8<true>(s, rows, scale, change, (int)(a.n_keys - (int64_t)(n_tiles - 1) * TILE));
    weigh8<true, 0, 16>(pairs, s, with);
    pack8(p, pairs, rows, change);
    pin_operands(p);

    for (int i = 1; i < n_tiles; i++) {
        const int stage = i % STAGES, last = (i - 1) % STAGES;
        scales -= RF_A8_GROUPS;
        scale = *scales; /* on its way while the scores are computed */
        barrier_wait(shared_address(&b.full_k[stage]), i / STAGES & 1);
        pin(s);
        pin(t);
        wgmma_fence();
        issue_scores(s, q_rows, k_tiles + stage * (TILE_BYTES / 16));
        barrier_wait(shared_address(&b.full_v[last]), (i - 1) / STAGES & 1);
        wgmma_fence(); /* the wait is a loop: without it the compiler adds one here */
        issue_sum(t, p, v_tiles + last * (TILE_BYTES / 16));
        wgmma_wait<1>(); /* the scores */
        pin(s);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_k[stage]));
        with = find_maxima8<false>(s, rows, scale, next_change, TILE);
        weigh8<false, 0, FRONT>(pairs, s, with);
#pragma unroll
        for (int j = 0; j < 2 * FRONT; j++)
            asm volatile("" : "+r"(pairs[j])::"memory");
        /* Rows grow in the first tiles, hardly after. The branch also keeps the wait behind the weights made so far:
         * the compiler moves it up to the last jump. */
        if (any_grew(next_change))
            scale_sums(o, change, next_change);
        wgmma_wait<0>(); /* the sum */
        pin(t);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_v[last]));
        weigh8<false, FRONT, 16>(pairs, s, with);
        add_tile(o, t, change.gain);
        change = next_change;
        pack8(p, pairs, rows, change);
        pin_operands(p);
    }
    const int last = (n_tiles - 1) % STAGES;
    barrier_wait(shared_address(&b.full_v[last]), (n_tiles - 1) / STAGES & 1);
    pin(t);
    wgmma_fence();
    issue_sum(t, p, v_tiles + last * (TILE_BYTES / 16));
    wgmma_wait<0>();
    pin(t);
    add_tile(o, t, change.gain);
    store_rows8(a, o, rows, row, blockIdx.y);
}

static __global__ void __launch_bounds__(THREADS, 1)
attention8_hopper_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                         const __grid_constant__ CUtensorMap v, const rf_attention8_args a)
{
    extern __shared__ char shared[];
    __shared__ barriers<STAGES> b;
    const uint32_t tiles = (shared_address(shared) + 1023) / 1024 * 1024;
    const int n_tiles = (int)a.n_tiles;
    if (threadIdx.x == 0)
        init_barriers(b);
    __syncthreads();
    const int role = role_of_warpgroup();
    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COPIER_REGISTERS));
        if (threadIdx.x == 0)
            copy_all(b, n_tiles, copier{{&q, &k, &v}, tiles, (int)(a.q_rows / TILE), n_tiles});
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COMPUTER_REGISTERS));
        compute(a, tiles, b, role - 1);
    }
}

extern "C" cudaError_t rf_launch_attention8_hopper(cudaStream_t stream, const struct rf_attention8_args *a)
{
    const int64_t slots = a->n_tiles * TILE;
    CUtensorMap q, k, v;
    cudaError_t status = make_map(&q, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, a->q8, a->heads * a->q_rows, RF_A8_DIM);
    if (status == cudaSuccess)
        status = make_map(&k, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, a->k8, a->heads * slots, RF_A8_DIM);
    if (status == cudaSuccess)
        status = make_map(&v, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, a->v8, (int64_t)a->heads * RF_A8_DIM, slots);
    if (status == cudaSuccess)
        status = cudaFuncSetAttribute(attention8_hopper_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      SHARED_BYTES);
    if (status != cudaSuccess)
        return status;
    const dim3 grid((unsigned)(a->q_rows / TILE), (unsigned)a->heads);
    attention8_hopper_kernel<<<grid, THREADS, SHARED_BYTES, stream>>>(q, k, v, *a);
    return cudaGetLastError();
}
