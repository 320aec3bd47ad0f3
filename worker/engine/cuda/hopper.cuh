/* Hopper's own instructions (sm_90a): barriers in shared memory, the copy engine, warpgroup products. PTX ISA 8.x names.
 *
 * Tiles in shared memory are [halves of 64 columns][rows][64 bf16]: rows of 128 bytes with the 128-byte swizzle that the
 * copy engine writes and wgmma reads (16-byte chunk c of row r lies at c ^ (r % 8)); tiles start at multiples of 1024.
 * Operands of wgmma are named by descriptors:
 *   bits 0-13 address / 16, 16-29 leading offset / 16, 32-45 stride offset / 16, 62-63 = 1: 128-byte swizzle.
 *   K-major (q and k: the columns are summed over): stride offset 1024 (8 rows); 16 columns further is 32 bytes.
 *   MN-major (v: the rows are summed over): leading offset is that of the next 64 columns, stride offset 1024 that of
 *   the next 8 rows; 16 rows further is 2048 bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CUDA_HOPPER_CUH
#define RF_ENGINE_CUDA_HOPPER_CUH

#include "worker/engine/cuda/mma.cuh"

#include <cuda.h> /* CUtensorMap; nothing of the driver library is linked */

/* ---- barriers ---- */

static __device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

static __device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

/* Waits for the phase of this parity to end; on a new barrier parity 1 counts as ended. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "bra again;\n"
                 "over:\n"
                 "}" ::"r"(barrier), "r"(parity) : "memory");
}

/* Barriers among whole warps, by number. */
static __device__ __forceinline__ void named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

static __device__ __forceinline__ void named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- copies ---- */

/* The map's box at column x, row y into shared memory; its bytes count towards the barrier. Outside is zeros. */
static __device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int x, int y, uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
                 "[%4];" ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier) : "memory");
}

/* ---- warpgroup products ---- */

static __device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t leading, uint32_t stride)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(leading >> 4) << 16 | (uint64_t)(stride >> 4) << 32 |
           (uint64_t)1 << 62;
}

static __device__ __forceinline__ void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* The compiler must neither move a use of these registers over this point nor keep copies of them across it. */
template <int N> static __device__ __forceinline__ void pin(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int N> static __device__ __forceinline__ void pin(int32_t (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

template <int N> static __device__ __forceinline__ void pin_operands(uint32_t (&p)[N][4])
{
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            asm volatile("" : "+r"(p[i][j])::"memory");
}

#define RF_F8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define RF_F64(d) \
    RF_F8(d, 0), RF_F8(d, 8), RF_F8(d, 16), RF_F8(d, 24), RF_F8(d, 32), RF_F8(d, 40), RF_F8(d, 48), RF_F8(d, 56)
#define RF_LIST64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, " \
    "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

/* d [64, 128] (+)= a [64, 16] b [16, 128], both from shared memory, both K-major. Warp w of the group has rows 16 w ..
 * 16 w + 15 of d: d[4 j + i] lies where mma.cuh's d[i] lies in columns 8 j .. 8 j + 7. */
static __device__ __forceinline__ void wgmma_shared(float (&d)[64], uint64_t a, uint64_t b, bool accumulate)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " RF_LIST64 ", %64, %65, p, 1, 1, 0, 0;\n"
                 "}"
                 : RF_F64(d)
                 : "l"(a), "l"(b), "r"((int)accumulate));
}

/* The same with a in registers, laid out as mma.cuh's a per warp, and b MN-major. */
static __device__ __forceinline__ void wgmma_registers(float (&d)[64], const uint32_t a[4], uint64_t b)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " RF_LIST64
                 ", {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
                 "}"
                 : RF_F64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

/* ---- the same with bytes: d [64, 128] in int32, 32 columns of a and b at a time, both K-major ---- */

#define RF_I8(d, i) \
    "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), \
        "+r"(d[i + 7])
#define RF_I64(d) \
    RF_I8(d, 0), RF_I8(d, 8), RF_I8(d, 16), RF_I8(d, 24), RF_I8(d, 32), RF_I8(d, 40), RF_I8(d, 48), RF_I8(d, 56)

/* int8 by int8, both from shared memory. */
static __device__ __forceinline__ void wgmma_shared_s8(int32_t (&d)[64], uint64_t a, uint64_t b, bool accumulate)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 " RF_LIST64 ", %64, %65, p;\n"
                 "}"
                 : RF_I64(d)
                 : "l"(a), "l"(b), "r"((int)accumulate));
}

/* uint8 in registers by int8: of a warp's rows r = lane / 4 and r + 8, a has the bytes 4 (lane % 4) .. of columns 0-15
 * (r, r + 8), then of columns 16-31. */
static __device__ __forceinline__ void wgmma_registers_u8(int32_t (&d)[64], const uint32_t a[4], uint64_t b,
                                                          bool accumulate)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 " RF_LIST64 ", {%64, %65, %66, %67}, %68, p;\n"
                 "}"
                 : RF_I64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate));
}

/* ---- products of other widths, for the convolution: d [64, 32 | 96 | 192] (+)= a b as wgmma_shared() above ---- */

#define RF_F16(d) \
    RF_F8(d, 0), RF_F8(d, 8)
#define RF_LIST16 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define RF_F48(d) \
    RF_F8(d, 0), RF_F8(d, 8), RF_F8(d, 16), RF_F8(d, 24), RF_F8(d, 32), RF_F8(d, 40)
#define RF_LIST48 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47}"
#define RF_F96(d) \
    RF_F8(d, 0), RF_F8(d, 8), RF_F8(d, 16), RF_F8(d, 24), RF_F8(d, 32), RF_F8(d, 40), RF_F8(d, 48), RF_F8(d, 56), \
    RF_F8(d, 64), RF_F8(d, 72), RF_F8(d, 80), RF_F8(d, 88)
#define RF_LIST96 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, " \
    "%60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}"

static __device__ __forceinline__ void wgmma_shared(float (&d)[16], uint64_t a, uint64_t b, bool accumulate)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %18, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " RF_LIST16 ", %16, %17, p, 1, 1, 0, 0;\n"
                 "}"
                 : RF_F16(d)
                 : "l"(a), "l"(b), "r"((int)accumulate));
}

static __device__ __forceinline__ void wgmma_shared(float (&d)[48], uint64_t a, uint64_t b, bool accumulate)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %50, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 " RF_LIST48 ", %48, %49, p, 1, 1, 0, 0;\n"
                 "}"
                 : RF_F48(d)
                 : "l"(a), "l"(b), "r"((int)accumulate));
}

static __device__ __forceinline__ void wgmma_shared(float (&d)[96], uint64_t a, uint64_t b, bool accumulate)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 " RF_LIST96 ", %96, %97, p, 1, 1, 0, 0;\n"
                 "}"
                 : RF_F96(d)
                 : "l"(a), "l"(b), "r"((int)accumulate));
}

/* K-major tiles with narrower rows: 64 bytes and the 64-byte swizzle (chunk c of row r lies at c ^ (r / 2 % 4), tiles
 * at multiples of 512), or 128 as above. Stride offset: 8 rows; 16 columns further is 32 bytes. */
template <int ROW_BYTES> static __device__ __forceinline__ uint64_t row_descriptor(uint32_t address)
{
    static_assert(ROW_BYTES == 64 || ROW_BYTES == 128, "these swizzles are written down here");
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(8 * ROW_BYTES >> 4) << 32 |
           (uint64_t)(ROW_BYTES == 64 ? 2 : 1) << 62;
}

/* ---- boxes of more dimensions, innermost coordinate first; outside is zeros ---- */

static __device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int c0, int c1, int c2, int c3,
                                                uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(to), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier)
                 : "memory");
}

static __device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int c0, int c1, int c2, int c3,
                                                int c4, uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4),
                 "r"(barrier) : "memory");
}

static __device__ __forceinline__ void prefetch_l2(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* A map of bf16 values: sizes innermost first, strides in bytes of all but the innermost dimension. The driver's
 * function is looked up, so that nothing of its library is linked. cudaErrorInvalidValue: the driver takes no such map.
 * */
static inline cudaError_t make_bf16_map(CUtensorMap *map, int rank, const void *data, const cuuint64_t *sizes,
                                        const cuuint64_t *strides, const cuuint32_t *box)
{
    typedef CUresult encode(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                            const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                            CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                                          &found);
    if (status != cudaSuccess)
        return status;
    if (found != cudaDriverEntryPointSuccess || entry == NULL)
        return cudaErrorInvalidValue;
    const cuuint32_t steps[] = {1, 1, 1, 1, 1};
    CUresult result = ((encode *)entry)(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, (cuuint32_t)rank, (void *)data, sizes,
                                        strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                        box[0] == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
                                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

#endif
