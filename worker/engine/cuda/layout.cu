/* Moves without arithmetic: embedding rows, patches, channels first or last.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/common.cuh"

#define THREADS 256

template <typename TY, typename TX>
static __global__ void embed_kernel(TY *y, const TX *table, const int32_t *ids, int64_t dim)
{
    const TX *row = table + (int64_t)ids[blockIdx.x] * dim;
    for (int64_t i = threadIdx.x; i < dim; i += THREADS)
        y[blockIdx.x * dim + i] = from_f32<TY>(to_f32(row[i]));
}

/* A thread per element of the latent, so that reads or writes of the larger strides are the cached ones: 4 C features
 * of a token lie together and a warp covers 16 tokens' pairs. Element (c, t, y, x). */
template <typename TT, typename TL>
static __global__ void patch_kernel(TT *tokens, TL *latent, int64_t c_all, int64_t t_all, int64_t hp, int64_t wp,
                                    bool to_tokens)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, w = 2 * wp, h = 2 * hp;
    if (i >= c_all * t_all * h * w)
        return;
    int64_t x = i % w, y = i / w % h, t = i / (w * h) % t_all, c = i / (w * h * t_all);
    int64_t token = (t * hp + y / 2) * wp + x / 2;
    if (to_tokens) /* feature (c*2 + ky)*2 + kx */
        tokens[token * 4 * c_all + (c * 2 + y % 2) * 2 + x % 2] = from_f32<TT>(to_f32(latent[i]));
    else /* feature (py*2 + px)*C + c */
        latent[i] = from_f32<TL>(to_f32(tokens[token * 4 * c_all + (y % 2 * 2 + x % 2) * c_all + c]));
}

/* A thread per element of `last`, whose order is (frame, pixel, c). Channels are few (3 or 16): the strided side's
 * lines are shared by neighbouring threads through the cache. */
template <typename TL, typename TF>
static __global__ void channels_kernel(TL *last, TF *first, const float *mul, const float *add, int64_t c_all,
                                       int64_t frames, int64_t pixels, bool to_last)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= c_all * frames * pixels)
        return;
    int64_t c = i % c_all, pixel = i / c_all % pixels, frame = i / (c_all * pixels);
    int64_t at = (c * frames + frame) * pixels + pixel;
    float m = mul ? mul[c] : 1.0f, a = add ? add[c] : 0.0f;
    if (to_last)
        last[i] = from_f32<TL>(to_f32(first[at]) * m + a);
    else
        first[at] = from_f32<TF>(to_f32(last[i]) * m + a);
}

extern "C" cudaError_t rf_launch_embed(cudaStream_t stream, void *y, int y_type, const void *table, int table_type,
                                       const int32_t *ids, int64_t n, int64_t dim)
{
    if (n == 0 || dim == 0)
        return cudaSuccess;
    RF_WITH_TYPE(table_type, TX,
        RF_WITH_ACT_TYPE(y_type, TY,
            embed_kernel<TY, TX><<<(unsigned)n, THREADS, 0, stream>>>((TY *)y, (const TX *)table, ids, dim)))
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_patch(cudaStream_t stream, void *tokens, int tokens_type, void *latent,
                                       int latent_type, int64_t c, int64_t t, int64_t hp, int64_t wp, bool to_tokens)
{
    int64_t n = 4 * c * t * hp * wp;
    if (n == 0)
        return cudaSuccess;
    RF_WITH_ACT_TYPE(tokens_type, TT,
        RF_WITH_ACT_TYPE(latent_type, TL,
            patch_kernel<TT, TL><<<(unsigned)ceil_div(n, THREADS), THREADS, 0, stream>>>((TT *)tokens, (TL *)latent, c,
                                                                                        t, hp, wp, to_tokens)))
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_channels(cudaStream_t stream, void *last, int last_type, void *first, int first_type,
                                          const float *mul, const float *add, int64_t c, int64_t frames,
                                          int64_t pixels, bool to_last)
{
    int64_t n = c * frames * pixels;
    if (n == 0)
        return cudaSuccess;
    RF_WITH_ACT_TYPE(last_type, TL,
        RF_WITH_ACT_TYPE(first_type, TF,
            channels_kernel<TL, TF><<<(unsigned)ceil_div(n, THREADS), THREADS, 0, stream>>>(
                (TL *)last, (TF *)first, mul, add, c, frames, pixels, to_last)))
    return cudaGetLastError();
}
