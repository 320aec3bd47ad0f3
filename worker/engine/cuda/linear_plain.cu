/* What surrounds the matrix product: its epilogue, the quantisation of its rows, and a product of our own for the sizes
 * and alignments that the library does not take, for a few rows (the modulation's), and as the reference on the device.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/common.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define ROWS 4 /* rows of x that share one reading of the weights */

/* One warp per output and ROWS rows. */
template <typename TD, typename TX, typename TW>
static __global__ void linear_plain_kernel(TD *d, const TX *x, int64_t ldx, const TW *w, float alpha, bool accumulate,
                                           int64_t rows, int64_t in, int64_t out)
{
    const int64_t o = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (o >= out)
        return;
    for (int64_t first = (int64_t)blockIdx.y * ROWS; first < rows; first += (int64_t)gridDim.y * ROWS) {
        float sum[ROWS] = {0};
        for (int64_t i = lane; i < in; i += 32) {
            float weight = to_f32(w[o * in + i]);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (first + r < rows)
                    sum[r] += to_f32(x[(first + r) * ldx + i]) * weight;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float all = warp_sum(sum[r]) * alpha;
            if (lane == 0 && first + r < rows) {
                TD *to = d + (first + r) * out + o;
                *to = from_f32<TD>(accumulate ? to_f32(*to) + all : all);
            }
        }
    }
}

extern "C" cudaError_t rf_launch_linear_plain(cudaStream_t stream, void *d, int d_type, const void *x, int x_type,
                                              int64_t ldx, const void *w, int w_type, float alpha, bool accumulate,
                                              int64_t rows, int64_t in, int64_t out)
{
    if (rows == 0 || out == 0)
        return cudaSuccess;
    int64_t groups = ceil_div(rows, ROWS);
    dim3 grid((unsigned)ceil_div(out, WARPS), (unsigned)(groups < 65535 ? groups : 65535));
    RF_WITH_TYPE(w_type, TW,
        RF_WITH_ACT_TYPE(x_type, TX,
            RF_WITH_ACT_TYPE(d_type, TD,
                linear_plain_kernel<TD, TX, TW><<<grid, THREADS, 0, stream>>>((TD *)d, (const TX *)x, ldx,
                                                                             (const TW *)w, alpha, accumulate, rows,
                                                                             in, out))))
    return cudaGetLastError();
}

/* ---- epilogue ---- */

template <typename TY, typename TD>
static __device__ __forceinline__ float finish(const rf_epilogue &e, float d, float branch, float row_scale, int64_t o,
                                               float old)
{
    d *= row_scale;
    if (e.col_scale)
        d *= e.col_scale[e.col_scale_is_one ? 0 : o];
    d += branch;
    if (e.bias)
        d += e.bias[o];
    d = apply_act(d, e.act);
    if (e.add)
        d = old + (e.gate ? e.gate[o] : 1.0f) * d;
    return d;
}

template <typename TY, typename TD> static __global__ void epilogue_kernel(const rf_epilogue e, bool vector)
{
    const int64_t o = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (o >= e.out)
        return;
    for (int64_t row = blockIdx.y; row < e.rows; row += gridDim.y) {
        const TD *d = (const TD *)e.d + row * e.out, *branch = (const TD *)e.branch + row * e.out;
        TY *y = (TY *)e.y + row * e.out;
        float row_scale = e.row_scale ? e.row_scale[row] : 1.0f;
        if (vector) { /* out is a multiple of 8 */
            float v[8], b[8] = {0}, old[8] = {0};
            load8(d + o, v);
            if (e.branch)
                load8(branch + o, b);
            if (e.add)
                load8((const TY *)y + o, old);
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] = finish<TY, TD>(e, v[k], b[k], row_scale, o + k, old[k]);
            store8(y + o, v);
        } else {
            for (int64_t k = o; k < o + 8 && k < e.out; k++)
                y[k] = from_f32<TY>(finish<TY, TD>(e, to_f32(d[k]), e.branch ? to_f32(branch[k]) : 0.0f, row_scale, k,
                                                   e.add ? to_f32(y[k]) : 0.0f));
        }
    }
}

extern "C" cudaError_t rf_launch_epilogue(cudaStream_t stream, const struct rf_epilogue *args)
{
    const rf_epilogue e = *args;
    if (e.rows == 0 || e.out == 0)
        return cudaSuccess;
    bool vector = e.out % 8 == 0 && aligned16(e.y) && aligned16(e.d) && aligned16(e.branch);
    dim3 grid((unsigned)ceil_div(e.out, THREADS * 8), (unsigned)(e.rows < 65535 ? e.rows : 65535));
    RF_WITH_ACT_TYPE(e.d_type, TD,
        RF_WITH_ACT_TYPE(e.y_type, TY, epilogue_kernel<TY, TD><<<grid, THREADS, 0, stream>>>(e, vector)))
    return cudaGetLastError();
}

static __global__ void fold_kernel(float *scale, bf16 *folded_bias, const float *col_scale, bool col_scale_is_one,
                                   const float *bias, const float *gate, int64_t out)
{
    const int64_t o = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (o >= out)
        return;
    const float g = gate ? gate[o] : 1.0f;
    scale[o] = g * (col_scale ? col_scale[col_scale_is_one ? 0 : o] : 1.0f);
    folded_bias[o] = from_f32<bf16>(bias ? bias[o] * g : 0.0f);
}

extern "C" cudaError_t rf_launch_fold(cudaStream_t stream, float *scale, void *folded_bias, const float *col_scale,
                                      bool col_scale_is_one, const float *bias, const float *gate, int64_t out)
{
    fold_kernel<<<(unsigned)ceil_div(out, THREADS), THREADS, 0, stream>>>(scale, (bf16 *)folded_bias, col_scale,
                                                                        col_scale_is_one, bias, gate, out);
    return cudaGetLastError();
}

/* ---- fp8 activations ---- */

/* One block per row, read twice (the second time from the cache). */
template <typename TX> static __global__ void quantise_kernel(e4m3 *q, float *scale, const TX *x, int64_t in)
{
    __shared__ float shared[33];
    const TX *row = x + (int64_t)blockIdx.x * in;
    float top = 0;
    for (int64_t i = threadIdx.x * 8; i < in; i += THREADS * 8) {
        float v[8];
        load8(row + i, v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            top = fmaxf(top, fabsf(v[k]));
    }
    top = block_reduce<true>(top, shared);
    float s = top > 0 ? top / 448.0f : 1.0f, inverse = 1.0f / s;
    if (threadIdx.x == 0)
        scale[blockIdx.x] = s;
    for (int64_t i = threadIdx.x * 8; i < in; i += THREADS * 8) {
        float v[8];
        load8(row + i, v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] *= inverse;
        store8(q + (int64_t)blockIdx.x * in + i, v);
    }
}

extern "C" cudaError_t rf_launch_quantise_rows(cudaStream_t stream, void *q, float *scale, const void *x, int x_type,
                                               int64_t rows, int64_t in)
{
    if (rows == 0)
        return cudaSuccess;
    if (in % 16 != 0 || !aligned16(x) || !aligned16(q))
        return cudaErrorInvalidValue;
    RF_WITH_ACT_TYPE(x_type, TX,
        quantise_kernel<TX><<<(unsigned)rows, THREADS, 0, stream>>>((e4m3 *)q, scale, (const TX *)x, in))
    return cudaGetLastError();
}
