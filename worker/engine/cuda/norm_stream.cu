/* The norms of large tensors, as fast as memory: the same arithmetic as norm.cu for the shapes that Wan has.
 *
 * A block that makes one row and ends has nothing on its way while it adds up and stores. Here as many blocks as fit
 * stay and walk over the rows; each thread copies its own pieces of the rows to come into STAGES slots of shared
 * memory, in the background, and reads only what it copied itself. So data needs no barrier, only sums do, and scale
 * and shift, the same for all rows, stay in registers.
 *
 *   slot of a row:  PIECES x threads x 16 bytes of x, then the row's (cos, sin)
 *   per row:        wait for the slot; sum (one barrier); ask for the row STAGES - 1 further on; finish; store
 *
 * The (cos, sin) of a row are copied by a few threads for all: the barrier of the row's sum shows them to the others,
 * and since a slot is asked for only after the next row's barrier, nobody still reads them then.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/mma.cuh"

/* As many blocks of a kernel as are resident at once. */
static cudaError_t resident_blocks(const void *kernel, int n_threads, int dynamic_bytes, int64_t *ret_blocks)
{
    int device, n_multiprocessors, fit = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&n_multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (status == cudaSuccess) /* what passes through shared memory needs no first-level cache */
        status = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      cudaSharedmemCarveoutMaxShared);
    if (status == cudaSuccess)
        status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_bytes);
    if (status == cudaSuccess)
        status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fit, kernel, n_threads, (size_t)dynamic_bytes);
    if (status == cudaSuccess)
        *ret_blocks = (int64_t)n_multiprocessors * (fit > 0 ? fit : 1);
    return status;
}

/* 16 bytes of T. */
template <typename T> union piece {
    uint4 raw;
    T e[16 / sizeof(T)];
    __device__ piece() {}
};

/* ---- rows ---- */

#define ROW_THREADS 512 /* at most */
#define PER_THREAD 16   /* elements: 512 * 16 = 8192 */
#define SLOTS_LIMIT (98 << 10)

template <typename TX> struct shape {
    static constexpr int VEC = 16 / sizeof(TX), PIECES = PER_THREAD / VEC;
    static constexpr int STAGES = sizeof(TX) == 2 ? 4 : 3; /* a row of F32 is twice as long */
};

static inline int row_threads(int64_t dim)
{
    return (int)ceil_div(dim, 32 * PER_THREAD) * 32;
}

static inline int slot_bytes(const rf_norm_args *a)
{
    return row_threads(a->dim) * PER_THREAD * (a->x_type == RF_KT_F32 ? 4 : 2) + (a->freqs ? (int)a->head_dim * 4 : 0);
}

template <typename TX, bool MEAN>
static __device__ __forceinline__ void ask_for_row(const rf_norm_args &a, uint32_t slot, int64_t row)
{
    typedef shape<TX> S;
    const int t = threadIdx.x, n_threads = blockDim.x;
    if (row < a.rows) {
        const TX *x = (const TX *)a.x + row * a.dim;
#pragma unroll
        for (int c = 0; c < S::PIECES; c++) {
            const int p = c * n_threads + t;
            if (p * S::VEC < (int)a.dim)
                cp_async16(slot + p * 16, x + p * S::VEC, true);
        }
        if (!MEAN && a.freqs)
            for (int p = t; p < (int)a.head_dim / 4; p += n_threads)
                cp_async16(slot + (S::PIECES * n_threads + p) * 16, a.freqs + row * a.head_dim + p * 4, true);
    }
    cp_async_commit(); /* an empty one too: the waits count */
}

/* Over the block, for every thread, in a fixed order. `sums` holds zeros where there is no warp; two of them in turn
 * need only this one barrier: who writes here again has passed the other's. */
static __device__ __forceinline__ float sum_of_block(float x, float *sums)
{
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = x;
    __syncthreads();
    float4 all = ((const float4 *)sums)[0];
#pragma unroll
    for (int i = 1; i < ROW_THREADS / 32 / 4; i++) {
        const float4 more = ((const float4 *)sums)[i];
        all.x += more.x, all.y += more.y, all.z += more.z, all.w += more.w;
    }
    return (all.x + all.y) + (all.z + all.w);
}

template <int N> static __device__ __forceinline__ void load_floats(const float *p, float *v)
{
#pragma unroll
    for (int i = 0; i < N; i += 4)
        *(float4 *)(v + i) = *(const float4 *)(p + i);
}

template <int N, typename T> static __device__ __forceinline__ void store_values(T *p, const float *v)
{
    union {
        uint4 wide[N * sizeof(T) >= 16 ? N * sizeof(T) / 16 : 1];
        uint2 narrow;
    } u;
    T *e = (T *)&u;
#pragma unroll
    for (int i = 0; i < N; i++)
        e[i] = from_f32<T>(v[i]);
    if constexpr (N * sizeof(T) < 16)
        *(uint2 *)p = u.narrow;
    else
#pragma unroll
        for (int i = 0; i < (int)(N * sizeof(T) / 16); i++)
            ((uint4 *)p)[i] = u.wide[i];
}

/* Neighbours (0,1) (2,3) turned by (cos, sin). */
template <int N> static __device__ __forceinline__ void rotate(float *v, const float *angles)
{
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        const float x = v[k], y = v[k + 1];
        v[k] = x * angles[k] - y * angles[k + 1];
        v[k + 1] = x * angles[k + 1] + y * angles[k];
    }
}

/* MEAN: LayerNorm, perhaps shifted; else RMS, perhaps rotated. A thread's pieces are whole heads apart, so all of them
 * are turned by the same angles. */
template <typename TY, typename TX, bool MEAN>
static __global__ void
__launch_bounds__(ROW_THREADS, !MEAN && sizeof(TX) + sizeof(TY) == 4 ? 2 : 1) /* F32 and shifts would spill at 2 */
norm_stream_kernel(const rf_norm_args a, int slot)
{
    typedef shape<TX> S;
    constexpr int VEC = S::VEC, PIECES = S::PIECES;
    extern __shared__ __align__(16) char shared[];
    __shared__ __align__(16) float sums[2][ROW_THREADS / 32];
    const int t = threadIdx.x, n_threads = blockDim.x;
    const uint32_t slots = shared_address(shared);
    float scale[PIECES][VEC], shift[PIECES][VEC];
#pragma unroll
    for (int s = 0; s < S::STAGES - 1; s++)
        ask_for_row<TX, MEAN>(a, slots + s * slot, blockIdx.x + (int64_t)s * gridDim.x);
    if (t < 2 * ROW_THREADS / 32)
        sums[0][t] = 0;
    __syncthreads();
#pragma unroll
    for (int c = 0; c < PIECES; c++) {
        const int i = (c * n_threads + t) * VEC;
#pragma unroll
        for (int k = 0; k < VEC; k++)
            scale[c][k] = a.one_plus ? 0 : 1, shift[c][k] = 0;
        if (i < (int)a.dim && a.scale)
            load_floats<VEC>(a.scale + i, scale[c]);
        if (MEAN && i < (int)a.dim && a.shift)
            load_floats<VEC>(a.shift + i, shift[c]);
#pragma unroll
        for (int k = 0; k < VEC; k++)
            scale[c][k] += a.one_plus ? 1 : 0;
    }
    int now = 0, turn = 0;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const char *from = shared + now * slot;
        float v[PIECES][VEC], sum = 0, mean = 0;
        cp_async_wait<S::STAGES - 2>();
#pragma unroll
        for (int c = 0; c < PIECES; c++) {
            const int p = c * n_threads + t;
            piece<TX> u;
            u.raw = p * VEC < (int)a.dim ? ((const uint4 *)from)[p] : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int k = 0; k < VEC; k++) {
                v[c][k] = to_f32(u.e[k]);
                sum += MEAN ? v[c][k] : v[c][k] * v[c][k];
            }
        }
        if (MEAN) {
            mean = sum_of_block(sum, sums[turn]) / (float)a.dim;
            turn ^= 1;
            sum = 0;
#pragma unroll
            for (int c = 0; c < PIECES; c++)
                if ((c * n_threads + t) * VEC < (int)a.dim)
#pragma unroll
                    for (int k = 0; k < VEC; k++)
                        sum += (v[c][k] - mean) * (v[c][k] - mean);
        }
        const float factor = rsqrtf(sum_of_block(sum, sums[turn]) / (float)a.dim + a.eps);
        turn ^= 1;
        const int before = now == 0 ? S::STAGES - 1 : now - 1;
        ask_for_row<TX, MEAN>(a, slots + before * slot, row + (int64_t)(S::STAGES - 1) * gridDim.x);
        float angles[VEC];
        if (!MEAN && a.freqs)
            load_floats<VEC>((const float *)(from + PIECES * n_threads * 16) + t * VEC % (int)a.head_dim, angles);
        TY *y = (TY *)a.y + row * a.dim;
#pragma unroll
        for (int c = 0; c < PIECES; c++) {
            const int i = (c * n_threads + t) * VEC;
#pragma unroll
            for (int k = 0; k < VEC; k++)
                v[c][k] = (v[c][k] - mean) * factor * scale[c][k] + shift[c][k];
            if (!MEAN && a.freqs)
                rotate<VEC>(v[c], angles);
            if (i < (int)a.dim)
                store_values<VEC>(y + i, v[c]);
        }
        now = now == S::STAGES - 1 ? 0 : now + 1;
    }
}

extern "C" bool rf_norm_can_stream(const struct rf_norm_args *a)
{
    const int stride = row_threads(a->dim) * (a->x_type == RF_KT_F32 ? 4 : 8); /* from piece to piece of a thread */
    const int stages = a->x_type == RF_KT_F32 ? shape<float>::STAGES : shape<bf16>::STAGES;
    return a->dim % 8 == 0 && a->dim <= ROW_THREADS * PER_THREAD && aligned16(a->x) && aligned16(a->y) &&
           aligned16(a->scale) && aligned16(a->shift) && aligned16(a->freqs) &&
           (a->subtract_mean ? a->freqs == NULL : a->shift == NULL) &&
           (a->freqs == NULL || (a->head_dim % 8 == 0 && stride % a->head_dim == 0)) &&
           slot_bytes(a) * stages <= SLOTS_LIMIT;
}

template <typename TY, typename TX, bool MEAN>
static cudaError_t launch_rows(cudaStream_t stream, const rf_norm_args &a)
{
    const int n_threads = row_threads(a.dim), slot = slot_bytes(&a), bytes = slot * shape<TX>::STAGES;
    int64_t blocks;
    cudaError_t status = resident_blocks((const void *)norm_stream_kernel<TY, TX, MEAN>, n_threads, bytes, &blocks);
    if (status != cudaSuccess)
        return status;
    const unsigned grid = (unsigned)(a.rows < blocks ? a.rows : blocks);
    norm_stream_kernel<TY, TX, MEAN><<<grid, n_threads, bytes, stream>>>(a, slot);
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_norm_stream(cudaStream_t stream, const struct rf_norm_args *args)
{
    RF_WITH_ACT_TYPE(args->x_type, TX,
        RF_WITH_ACT_TYPE(args->y_type, TY,
            return args->subtract_mean ? launch_rows<TY, TX, true>(stream, *args)
                                       : launch_rows<TY, TX, false>(stream, *args)))
}

/* ---- the VAE's norm: LANES neighbouring lanes have a pixel of 24 * LANES channels, three pieces each ---- */

#define CHANNEL_THREADS 256
#define CHANNEL_PIECES 3
#define CHANNEL_STAGES 4 /* of 12 KB */

/* z * sigmoid(z), right to 2^-20, which rounding to bf16 hides; the library's division and exponential take three times
 * as many instructions and would cost more time than memory. */
static __device__ __forceinline__ float silu_fast(float z)
{
    float sigmoid;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(sigmoid) : "f"(1.0f + exp2_fast(-1.442695041f * z)));
    return z * sigmoid;
}

template <int LANES, bool SILU>
static __global__ void __launch_bounds__(CHANNEL_THREADS, 3)
channel_stream_kernel(bf16 *y, const bf16 *x, const float *gamma, int64_t rows, float root)
{
    constexpr int C = LANES * CHANNEL_PIECES * 8, ROWS = CHANNEL_THREADS / LANES;
    __shared__ uint4 slots[CHANNEL_STAGES][CHANNEL_PIECES][CHANNEL_THREADS];
    const int lane = threadIdx.x % LANES;
    const int64_t step = (int64_t)gridDim.x * ROWS, first = (int64_t)blockIdx.x * ROWS + threadIdx.x / LANES;
    const auto ask = [&](int stage, int64_t row) {
#pragma unroll
        for (int k = 0; k < CHANNEL_PIECES; k++)
            cp_async16(shared_address(&slots[stage][k][threadIdx.x]), x + row * C + (k * LANES + lane) * 8, row < rows);
        cp_async_commit();
    };
#pragma unroll
    for (int s = 0; s < CHANNEL_STAGES - 1; s++)
        ask(s, first + s * step);
    float g[CHANNEL_PIECES][8];
#pragma unroll
    for (int k = 0; k < CHANNEL_PIECES; k++)
        load8(gamma + (k * LANES + lane) * 8, g[k]);
    int now = 0;
    for (int64_t row = first; row - threadIdx.x / LANES < rows; row += step) { /* all lanes meet in the sums */
        float v[CHANNEL_PIECES][8], part[CHANNEL_PIECES] = {0, 0, 0};
        cp_async_wait<CHANNEL_STAGES - 2>();
        ask((now + CHANNEL_STAGES - 1) % CHANNEL_STAGES, row + (CHANNEL_STAGES - 1) * step);
#pragma unroll
        for (int k = 0; k < CHANNEL_PIECES; k++) {
            piece<bf16> u;
            u.raw = slots[now][k][threadIdx.x];
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[k][e] = to_f32(u.e[e]);
                part[k] += v[k][e] * v[k][e];
            }
        }
        float sum = part[0] + part[1] + part[2];
#pragma unroll
        for (int d = LANES / 2; d > 0; d /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        /* The floor is on the length, not on the mean: an all-zero pixel must give zeros, not a huge factor. */
        const float factor = root * rsqrtf(fmaxf(sum, 1e-24f));
        if (row < rows)
#pragma unroll
            for (int k = 0; k < CHANNEL_PIECES; k++) {
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    const float z = v[k][e] * factor * g[k][e];
                    v[k][e] = SILU ? silu_fast(z) : z;
                }
                store_values<8>(y + row * C + (k * LANES + lane) * 8, v[k]);
            }
        now = (now + 1) % CHANNEL_STAGES;
    }
}

extern "C" bool rf_channel_norm_can_stream(const void *y, int y_type, const void *x, int x_type, const float *gamma,
                                           int act, int64_t c)
{
    return x_type == RF_KT_BF16 && y_type == RF_KT_BF16 && (c == 96 || c == 192 || c == 384) &&
           (act == RF_KA_SILU || act == RF_KA_NONE) && aligned16(x) && aligned16(y) && aligned16(gamma);
}

template <int LANES, bool SILU>
static cudaError_t launch_channels(cudaStream_t stream, void *y, const void *x, const float *gamma, int64_t rows)
{
    const int64_t needed = ceil_div(rows, CHANNEL_THREADS / LANES);
    const float root = sqrtf((float)(LANES * CHANNEL_PIECES * 8));
    int64_t blocks;
    cudaError_t status =
        resident_blocks((const void *)channel_stream_kernel<LANES, SILU>, CHANNEL_THREADS, 0, &blocks);
    if (status != cudaSuccess)
        return status;
    const unsigned grid = (unsigned)(needed < blocks ? needed : blocks);
    channel_stream_kernel<LANES, SILU>
        <<<grid, CHANNEL_THREADS, 0, stream>>>((bf16 *)y, (const bf16 *)x, gamma, rows, root);
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_channel_norm_stream(cudaStream_t stream, void *y, const void *x, const float *gamma,
                                                     int act, int64_t rows, int64_t c)
{
    const bool silu = act == RF_KA_SILU;
    if (c == 96)
        return silu ? launch_channels<4, true>(stream, y, x, gamma, rows)
                    : launch_channels<4, false>(stream, y, x, gamma, rows);
    if (c == 192)
        return silu ? launch_channels<8, true>(stream, y, x, gamma, rows)
                    : launch_channels<8, false>(stream, y, x, gamma, rows);
    return silu ? launch_channels<16, true>(stream, y, x, gamma, rows)
                : launch_channels<16, false>(stream, y, x, gamma, rows);
}
