/* What kernels share: conversions, eight elements at a time, activations, reductions, dispatch over types.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CUDA_COMMON_CUH
#define RF_ENGINE_CUDA_COMMON_CUH

#include "worker/engine/cuda/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

typedef __nv_bfloat16 bf16;

/* E5M2 overflows to infinity as the host's conversion does; the library's class would saturate. */
struct e5m2 {
    __nv_fp8_storage_t bits;
};
typedef __nv_fp8_e4m3 e4m3;

static __device__ __forceinline__ float to_f32(float x) { return x; }
static __device__ __forceinline__ float to_f32(__half x) { return __half2float(x); }
static __device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
static __device__ __forceinline__ float to_f32(e4m3 x) { return float(x); }
static __device__ __forceinline__ float to_f32(e5m2 x)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(x.bits, __NV_E5M2)));
}

template <typename T> static __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_f32<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ e4m3 from_f32<e4m3>(float x)
{
    e4m3 y;
    y.__x = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    return y;
}
template <> __device__ __forceinline__ e5m2 from_f32<e5m2>(float x)
{
    e5m2 y;
    y.bits = __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2);
    return y;
}

/* Eight elements through accesses of up to 16 bytes; p must be aligned to min(16, 8 * sizeof(T)). */
template <typename T> union vec8 {
    uint4 wide[sizeof(T) * 8 >= 16 ? sizeof(T) * 8 / 16 : 1];
    uint2 narrow;
    T e[8];
    __device__ vec8() {}
};

template <typename T> static __device__ __forceinline__ void load8(const T *p, float v[8])
{
    vec8<T> u;
    if (sizeof(T) == 1) {
        u.narrow = *(const uint2 *)p;
    } else {
#pragma unroll
        for (int i = 0; i < (int)(sizeof(T) * 8 / 16); i++)
            u.wide[i] = ((const uint4 *)p)[i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = to_f32(u.e[i]);
}

template <typename T> static __device__ __forceinline__ void store8(T *p, const float v[8])
{
    vec8<T> u;
#pragma unroll
    for (int i = 0; i < 8; i++)
        u.e[i] = from_f32<T>(v[i]);
    if (sizeof(T) == 1) {
        *(uint2 *)p = u.narrow;
    } else {
#pragma unroll
        for (int i = 0; i < (int)(sizeof(T) * 8 / 16); i++)
            ((uint4 *)p)[i] = u.wide[i];
    }
}

/* 0.5 z (1 + tanh(u)) = z / (1 + e^(-2u)): no cancellation near zero, no overflow that is not a correct limit. */
static __device__ __forceinline__ float gelu_tanh(float z)
{
    float u = 0.7978845608028654f * (z + 0.044715f * z * z * z);
    return z / (1.0f + expf(-2.0f * u));
}

static __device__ __forceinline__ float apply_act(float z, int act)
{
    if (act == RF_KA_GELU_TANH)
        return gelu_tanh(z);
    if (act == RF_KA_SILU)
        return z / (1.0f + expf(-z));
    return z;
}

static __device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

static __device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

/* The sum (or maximum) over a block of whole warps, given to every thread. `shared` has 33 floats; the block may call
 * this again at once. The order of additions is fixed: the same input gives the same bits. */
template <bool MAX> static __device__ __forceinline__ float block_reduce(float x, float *shared)
{
    int warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    x = MAX ? warp_max(x) : warp_sum(x);
    if (threadIdx.x % 32 == 0)
        shared[warp] = x;
    __syncthreads();
    if (warp == 0) {
        float part = threadIdx.x < n_warps ? shared[threadIdx.x] : (MAX ? -INFINITY : 0.0f);
        part = MAX ? warp_max(part) : warp_sum(part);
        if (threadIdx.x == 0)
            shared[32] = part;
    }
    __syncthreads();
    float all = shared[32];
    __syncthreads();
    return all;
}

/* Runs the statement with T standing for the C++ type; a type no kernel takes is an error of the launch. */
#define RF_WITH_TYPE(type, T, ...) \
    switch (type) { \
    case RF_KT_F32: { typedef float T; __VA_ARGS__; } break; \
    case RF_KT_F16: { typedef __half T; __VA_ARGS__; } break; \
    case RF_KT_BF16: { typedef bf16 T; __VA_ARGS__; } break; \
    case RF_KT_E4M3: { typedef e4m3 T; __VA_ARGS__; } break; \
    case RF_KT_E5M2: { typedef e5m2 T; __VA_ARGS__; } break; \
    default: return cudaErrorInvalidValue; \
    }
/* The types of activations only: keeps the number of kernels down. */
#define RF_WITH_ACT_TYPE(type, T, ...) \
    switch (type) { \
    case RF_KT_F32: { typedef float T; __VA_ARGS__; } break; \
    case RF_KT_BF16: { typedef bf16 T; __VA_ARGS__; } break; \
    default: return cudaErrorInvalidValue; \
    }

/* Input frame `index` of a convolution, counted from the first one before x. */
template <typename T> static __device__ __forceinline__ const T *conv_frame(const rf_conv_args &a, int64_t index)
{
    const int64_t in_x = index - a.n_before;
    if (in_x < 0)
        return (const T *)(index == 0 ? a.before[0] : a.before[1]);
    return (const T *)a.x + in_x * a.h_in * a.w_in * a.c_in;
}

static inline bool aligned16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

static inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

#endif
