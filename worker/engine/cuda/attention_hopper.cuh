/* What the two attention kernels for Hopper share: who waits for whom, the copier, the maps for the copy engine.
 *
 * A block has 128 queries of one head. One warpgroup only copies: a single thread asks for tiles of keys and values,
 * STAGES of each in flight. Two warpgroups compute, 64 queries each. Two overlaps keep the tensor cores busy, both from
 * the FlashAttention-3 paper: inside a warpgroup the next scores and the last weighted sum are in flight together while
 * the softmax waits for the scores only; between the two, one does its softmax while the other multiplies. The 16-bit
 * kernel orders that with named barriers, the 8-bit one leaves it to chance, which was faster.
 *
 *   barrier   who waits      who arrives
 *   full_q    computers      the copies of q
 *   full_*    computers      the copies of one tile
 *   empty_*   the copier     the eight computing warps, after reading the tile
 *   named 1, 2               computing group 0, 1 may issue its products; the other group says so (16 bits only)
 *
 * Tiles go from the last to the first, so that the partial one is masked before the loop.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CUDA_ATTENTION_HOPPER_CUH
#define RF_ENGINE_CUDA_ATTENTION_HOPPER_CUH

#include "worker/engine/cuda/hopper.cuh"

#define GROUP 128 /* threads of a warpgroup */
#define THREADS (3 * GROUP)
#define N_COMPUTING_WARPS (2 * GROUP / 32)

template <int STAGES> struct barriers {
    uint64_t full_q, full_k[STAGES], empty_k[STAGES], full_v[STAGES], empty_v[STAGES];
};

/* By one thread; the block synchronises after it. */
template <int STAGES>
static __device__ __forceinline__ void init_barriers(barriers<STAGES> &b)
{
    barrier_init(shared_address(&b.full_q), 1);
    for (int i = 0; i < STAGES; i++) {
        barrier_init(shared_address(&b.full_k[i]), 1);
        barrier_init(shared_address(&b.full_v[i]), 1);
        barrier_init(shared_address(&b.empty_k[i]), N_COMPUTING_WARPS);
        barrier_init(shared_address(&b.empty_v[i]), N_COMPUTING_WARPS);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); /* for the copy engine's eyes */
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The copier's single thread: q, k0, k1, v0, k2, v1 … v(n-1), in the order in which they are needed. `copy` asks for
 * them: q(barrier), k(stage, tile, barrier), v(stage, tile, barrier). */
template <int STAGES, typename COPY>
static __device__ __forceinline__ void copy_all(barriers<STAGES> &b, int n_tiles, const COPY &copy)
{
    copy.q(shared_address(&b.full_q));
    for (int i = 0; i <= n_tiles; i++) {
        if (i < n_tiles) {
            const int stage = i % STAGES;
            barrier_wait(shared_address(&b.empty_k[stage]), (i / STAGES & 1) ^ 1);
            copy.k(stage, n_tiles - 1 - i, shared_address(&b.full_k[stage]));
        }
        if (i > 0) {
            const int stage = (i - 1) % STAGES;
            barrier_wait(shared_address(&b.empty_v[stage]), ((i - 1) / STAGES & 1) ^ 1);
            copy.v(stage, n_tiles - i, shared_address(&b.full_v[stage]));
        }
    }
}

/* 0: the copier; 1 and 2: computing. Through a shuffle, so that the compiler knows all lanes agree: else it serialises
 * the products (C7520). */
static __device__ __forceinline__ int role_of_warpgroup(void)
{
    return __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0);
}

/* ---- launch ---- */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* A map of [rows, width] elements in boxes of 128 rows of 128 bytes. */
static inline cudaError_t make_map(CUtensorMap *map, CUtensorMapDataType type, int element_bytes, const void *data,
                                   int64_t rows, int64_t width)
{
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                                          &found);
    if (status != cudaSuccess)
        return status;
    if (found != cudaDriverEntryPointSuccess || entry == NULL)
        return cudaErrorInvalidValue;
    const cuuint64_t dims[] = {(cuuint64_t)width, (cuuint64_t)rows};
    const cuuint64_t strides[] = {(cuuint64_t)(width * element_bytes)};
    const cuuint32_t box[] = {(cuuint32_t)(128 / element_bytes), 128}, steps[] = {1, 1};
    CUresult result = ((encode_fn)entry)(map, type, 2, (void *)data, dims, strides, box, steps,
                                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

#endif
