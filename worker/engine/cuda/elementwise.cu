/* Conversions, fills, activations and sums: eight elements per thread, limited by memory alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/common.cuh"

#define THREADS 256
#define PER_BLOCK (THREADS * 8)

/* Calls f(i, n) for this thread's elements i .. i + n; n is 8 only where whole vectors may be used. */
#define FOR_EIGHT(i, n_total) \
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8; \
    if (i >= (n_total)) \
        return;

template <typename TY, typename TX>
static __global__ void convert_kernel(TY *y, const TX *x, int act, int64_t n, bool vector)
{
    FOR_EIGHT(i, n)
    if (vector && i + 8 <= n) {
        float v[8];
        load8(x + i, v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = apply_act(v[k], act);
        store8(y + i, v);
        return;
    }
    for (int64_t k = i; k < i + 8 && k < n; k++)
        y[k] = from_f32<TY>(apply_act(to_f32(x[k]), act));
}

static __global__ void split_kernel(bf16 *high, bf16 *low, const float *x, int64_t n, bool vector)
{
    FOR_EIGHT(i, n)
    float v[8], rest[8];
    const int here = n - i < 8 ? (int)(n - i) : 8;
    if (vector && here == 8) {
        load8(x + i, v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            rest[k] = v[k] - to_f32(from_f32<bf16>(v[k]));
        store8(high + i, v);
        store8(low + i, rest);
        return;
    }
    for (int k = 0; k < here; k++) {
        high[i + k] = from_f32<bf16>(x[i + k]);
        low[i + k] = from_f32<bf16>(x[i + k] - to_f32(high[i + k]));
    }
}

template <typename T> static __global__ void fill_kernel(T *y, float value, int64_t n, bool vector)
{
    FOR_EIGHT(i, n)
    if (vector && i + 8 <= n) {
        float v[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = value;
        store8(y + i, v);
        return;
    }
    for (int64_t k = i; k < i + 8 && k < n; k++)
        y[k] = from_f32<T>(value);
}

/* b 0 must not let an old NaN of y through. */
static __global__ void axpby_kernel(float *y, float a, const float *x, float b, int64_t n, bool vector)
{
    FOR_EIGHT(i, n)
    if (vector && i + 8 <= n) {
        float vx[8], vy[8] = {0};
        load8(x + i, vx);
        if (b != 0)
            load8((const float *)y + i, vy);
#pragma unroll
        for (int k = 0; k < 8; k++)
            vy[k] = a * vx[k] + b * vy[k];
        store8(y + i, vy);
        return;
    }
    for (int64_t k = i; k < i + 8 && k < n; k++)
        y[k] = a * x[k] + (b != 0 ? b * y[k] : 0.0f);
}

template <typename TY, typename TA, typename TB>
static __global__ void gelu_mul_kernel(TY *y, const TA *a, const TB *b, int64_t n, bool vector)
{
    FOR_EIGHT(i, n)
    if (vector && i + 8 <= n) {
        float va[8], vb[8];
        load8(a + i, va);
        load8(b + i, vb);
#pragma unroll
        for (int k = 0; k < 8; k++)
            va[k] = gelu_tanh(va[k]) * vb[k];
        store8(y + i, va);
        return;
    }
    for (int64_t k = i; k < i + 8 && k < n; k++)
        y[k] = from_f32<TY>(gelu_tanh(to_f32(a[k])) * to_f32(b[k]));
}

/* blockIdx.y is the row. */
template <typename TY, typename TX>
static __global__ void scale_rows_kernel(TY *y, const TX *x, const float *scale, bool per_row, int64_t rows,
                                         int64_t cols, bool vector)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    for (int64_t row = blockIdx.y; row < rows && i < cols; row += gridDim.y) {
        float s = scale ? scale[per_row ? row : 0] : 1.0f;
        const TX *from = x + row * cols;
        TY *to = y + row * cols;
        if (vector && i + 8 <= cols) {
            float v[8];
            load8(from + i, v);
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] *= s;
            store8(to + i, v);
        } else {
            for (int64_t k = i; k < i + 8 && k < cols; k++)
                to[k] = from_f32<TY>(to_f32(from[k]) * s);
        }
    }
}

static unsigned blocks_for(int64_t n)
{
    return (unsigned)ceil_div(n, PER_BLOCK);
}

extern "C" cudaError_t rf_launch_activate(cudaStream_t stream, void *y, int y_type, const void *x, int x_type, int act,
                                          int64_t n)
{
    if (n == 0)
        return cudaSuccess;
    bool vector = aligned16(x) && aligned16(y);
    RF_WITH_TYPE(x_type, TX,
        RF_WITH_TYPE(y_type, TY,
            convert_kernel<TY, TX><<<blocks_for(n), THREADS, 0, stream>>>((TY *)y, (const TX *)x, act, n, vector)))
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_convert(cudaStream_t stream, void *y, int y_type, const void *x, int x_type, int64_t n)
{
    return rf_launch_activate(stream, y, y_type, x, x_type, RF_KA_NONE, n);
}

extern "C" cudaError_t rf_launch_split(cudaStream_t stream, void *high, void *low, const float *x, int64_t n)
{
    if (n > 0)
        split_kernel<<<blocks_for(n), THREADS, 0, stream>>>((bf16 *)high, (bf16 *)low, x, n,
                                                        aligned16(high) && aligned16(low) && aligned16(x));
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_fill(cudaStream_t stream, void *y, int y_type, float value, int64_t n)
{
    if (n == 0)
        return cudaSuccess;
    RF_WITH_TYPE(y_type, T, fill_kernel<T><<<blocks_for(n), THREADS, 0, stream>>>((T *)y, value, n, aligned16(y)))
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_axpby(cudaStream_t stream, float *y, float a, const float *x, float b, int64_t n)
{
    if (n == 0)
        return cudaSuccess;
    axpby_kernel<<<blocks_for(n), THREADS, 0, stream>>>(y, a, x, b, n, aligned16(x) && aligned16(y));
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_gelu_mul(cudaStream_t stream, void *y, int y_type, const void *a, int a_type,
                                          const void *b, int b_type, int64_t n)
{
    if (n == 0)
        return cudaSuccess;
    bool vector = aligned16(y) && aligned16(a) && aligned16(b);
    RF_WITH_ACT_TYPE(y_type, TY,
        RF_WITH_ACT_TYPE(a_type, TA,
            RF_WITH_ACT_TYPE(b_type, TB,
                gelu_mul_kernel<TY, TA, TB><<<blocks_for(n), THREADS, 0, stream>>>((TY *)y, (const TA *)a,
                                                                                 (const TB *)b, n, vector))))
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_scale_rows(cudaStream_t stream, void *y, int y_type, const void *x, int x_type,
                                            const float *scale, bool per_row, int64_t rows, int64_t cols)
{
    if (rows == 0 || cols == 0)
        return cudaSuccess;
    bool vector = aligned16(x) && aligned16(y) && cols % 16 == 0; /* 16: rows of bytes stay aligned too */
    dim3 grid((unsigned)ceil_div(cols, PER_BLOCK), (unsigned)(rows < 65535 ? rows : 65535));
    RF_WITH_TYPE(x_type, TX,
        RF_WITH_ACT_TYPE(y_type, TY,
            scale_rows_kernel<TY, TX><<<grid, THREADS, 0, stream>>>((TY *)y, (const TX *)x, scale, per_row, rows, cols,
                                                                   vector)))
    return cudaGetLastError();
}
