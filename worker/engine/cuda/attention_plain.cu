/* Attention for every size: the reference on the device, and the softmax between two library products.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/common.cuh"

#define THREADS 128
#define WARPS (THREADS / 32)
#define MAX_HEAD_DIM 512
#define PER_LANE (MAX_HEAD_DIM / 32)

/* One warp per query and head; online softmax one key at a time. Element d of a head lies in lane d % 32. */
template <typename TO, typename TQ, typename TK, typename TV>
static __global__ void attention_kernel(const rf_attention_args a)
{
    const int lane = threadIdx.x % 32, d = a.head_dim;
    const int64_t query = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, head = blockIdx.y;
    const int64_t width = (int64_t)a.heads * d;
    if (query >= a.n_q)
        return;
    const TQ *q = (const TQ *)a.q + query * width + head * d;
    const float *bias = a.bias ? a.bias + head * a.bias_stride + a.n_q - 1 - query : NULL;
    float vq[PER_LANE], acc[PER_LANE] = {0}, top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
        vq[i] = i * 32 + lane < d ? to_f32(q[i * 32 + lane]) : 0.0f;
    for (int64_t key = 0; key < a.n_keys; key++) {
        const TK *k = (const TK *)a.k + key * width + head * d;
        const TV *v = (const TV *)a.v + key * width + head * d;
        float s = 0;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            if (i * 32 + lane < d)
                s += vq[i] * to_f32(k[i * 32 + lane]);
        s = warp_sum(s) * a.scale + (bias ? bias[key] : 0.0f);
        if (s == -INFINITY) /* masked; the first keys may all be */
            continue;
        float next = fmaxf(top, s), keep = expf(top - next), p = expf(s - next);
        top = next;
        sum = sum * keep + p;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            if (i * 32 + lane < d)
                acc[i] = acc[i] * keep + p * to_f32(v[i * 32 + lane]);
    }
    TO *o = (TO *)a.o + query * width + head * d;
    float inverse = sum > 0 ? 1.0f / sum : 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
        if (i * 32 + lane < d)
            o[i * 32 + lane] = from_f32<TO>(acc[i] * inverse);
}

extern "C" cudaError_t rf_launch_attention_plain(cudaStream_t stream, const struct rf_attention_args *args)
{
    const rf_attention_args a = *args;
    if (a.head_dim > MAX_HEAD_DIM || a.k_type != a.v_type)
        return cudaErrorInvalidValue;
    dim3 grid((unsigned)ceil_div(a.n_q, WARPS), (unsigned)a.heads);
    RF_WITH_ACT_TYPE(a.o_type, TO,
        RF_WITH_ACT_TYPE(a.q_type, TQ,
            RF_WITH_ACT_TYPE(a.k_type, TK,
                attention_kernel<TO, TQ, TK, TK><<<grid, THREADS, 0, stream>>>(a))))
    return cudaGetLastError();
}

/* ---- softmax of whole rows ---- */

#define SOFTMAX_THREADS 256

/* One block per query (x) and head (y). P may lie where S does (in place) only with the same type and stride. */
template <typename TP>
static __global__ void softmax_kernel(TP *p, int64_t ldp, const float *s, int64_t lds, const float *bias,
                                      int64_t bias_stride, float scale, int64_t n_q, int64_t n_keys)
{
    __shared__ float shared[33];
    const int64_t row = (int64_t)blockIdx.y * n_q + blockIdx.x;
    const float *from = s + row * lds;
    const float *b = bias ? bias + (int64_t)blockIdx.y * bias_stride - blockIdx.x : NULL;
    TP *to = p + row * ldp;
    float top = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < n_keys; i += SOFTMAX_THREADS)
        top = fmaxf(top, from[i] * scale + (b ? b[i] : 0.0f));
    top = block_reduce<true>(top, shared);
    if (top == -INFINITY) /* all keys are masked */
        top = 0;
    for (int64_t i = threadIdx.x; i < n_keys; i += SOFTMAX_THREADS)
        sum += expf(from[i] * scale + (b ? b[i] : 0.0f) - top);
    sum = block_reduce<false>(sum, shared);
    float inverse = sum > 0 ? 1.0f / sum : 0.0f;
    for (int64_t i = threadIdx.x; i < ldp; i += SOFTMAX_THREADS)
        to[i] = from_f32<TP>(i < n_keys ? expf(from[i] * scale + (b ? b[i] : 0.0f) - top) * inverse : 0.0f);
}

extern "C" cudaError_t rf_launch_softmax(cudaStream_t stream, void *p, int p_type, int64_t ldp, const float *s,
                                         int64_t lds, const float *bias, int64_t bias_stride, float scale, int heads,
                                         int64_t n_q, int64_t n_keys)
{
    dim3 grid((unsigned)n_q, (unsigned)heads);
    RF_WITH_ACT_TYPE(p_type, TP,
        softmax_kernel<TP><<<grid, SOFTMAX_THREADS, 0, stream>>>((TP *)p, ldp, s, lds, bias, bias_stride, scale, n_q,
                                                                n_keys))
    return cudaGetLastError();
}
