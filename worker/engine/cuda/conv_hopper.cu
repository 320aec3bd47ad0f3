/* The VAE's convolution for Hopper (sm_90a): the same product without a left matrix as conv_mma.cu, fed by the copy
 * engine.
 *
 * A block makes tiles of 16 columns x 32 rows of one output frame x 96 outputs (or 16 rows x 192), one after the other,
 * as many blocks as the chip has multiprocessors. Two warpgroups compute, half of the rows each; one thread of a third
 * asks for what they need, into STAGES buffers in turn, and runs on into the next tile while this one is stored.
 *   A stage is one tap in time and across and CHUNK input channels: a box of the picture of rows + taps - 1 rows,
 * [row][column][channel], and one tile of weights, [output][channel], per tap down. These taps read the same box at
 * offsets of one row of it, which keeps the swizzle in place; so a value is fetched three times instead of nine. Zero
 * borders and what hangs over the picture's edge are zeros of the copy engine.
 *   The copy engine also reorders the outputs of a tile of weights: row 32 g + 8 j + 2 q + e is output 32 g + 8 q + 2 j
 * + e. Lane q of four that share a pixel then has eight neighbouring outputs, a load or a store of 16 bytes.
 *
 *   barrier   who waits     who arrives
 *   full      computers     the copies of one stage
 *   empty     the copier    the eight computing warps, once their products from this stage are done
 *
 * Upsampling: a 3x3 kernel over a doubled picture sees 2x2 stored pixels, which ones depends on whether the output's
 * row and column are odd. So these are four 2x2 convolutions with sums of the weights (conv_weights.cu), 4/9 of the
 * multiplications; the sums are rounded to bf16 once more, 2^-9 of each as any weight was when it was stored.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/hopper.cuh"

#define GROUP 128 /* threads of a warpgroup */
#define THREADS (3 * GROUP)
#define SHARED_LIMIT (226 << 10)
#define COLUMNS 16 /* of pixels, of a tile */
#define BLOCK_ROWS (64 / COLUMNS)
#define CHUNK 32 /* steps of 64, with half the stages, were a quarter slower */
/* 128 * (24 + 2 * 240) = 64,512 of 65,536 */
#define COPIER_REGISTERS 24
#define COMPUTER_REGISTERS 240

/* N outputs of a tile, TAPS down that share a box. The 64 pixels of a product lie in four rows, 16 to each. */
template <int N, int TAPS> struct shape {
    static constexpr int ROWS = (N == 192 ? 256 : 512) / COLUMNS;
    static constexpr int BLOCKS = ROWS * COLUMNS / 2 / 64; /* of 64 pixels, per warpgroup */
    static constexpr int BOX_ROWS = ROWS + TAPS - 1;
    static constexpr int PIXEL = CHUNK * 2, PITCH = COLUMNS * PIXEL; /* bytes of a pixel, of a row of pixels */
    static constexpr int X_BYTES = BOX_ROWS * PITCH, W_BYTES = N * PIXEL, W_AT = (X_BYTES + 1023) / 1024 * 1024;
    static constexpr int COPIED = X_BYTES + TAPS * W_BYTES, STAGE_BYTES = W_AT + TAPS * W_BYTES;
    static constexpr int STAGES = SHARED_LIMIT / STAGE_BYTES < 8 ? SHARED_LIMIT / STAGE_BYTES : 8;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + 1024; /* tiles start at multiples of 1024 */
    static_assert(STAGES >= 2 && W_BYTES % 1024 == 0, "stages keep the swizzle's alignment");
};

/* What a launch works on; h and w are those of the picture that the tiles cover: the stored one when upsampling. */
struct job {
    void *y;
    const bf16 *add;
    const float *bias;
    bool y_wide, add_wide; /* F32, else bf16; add only beside few outputs */
    int h, w, h_out, w_out, c_out, frames;
    int tiles_x, tiles_y, tiles_n, phases, n_tiles; /* phases: 4 when upsampling, else 1 */
    int kt, kw, c_in, pad, n_before;
};

struct maps {
    CUtensorMap before[2], x, w;
};

struct tile {
    int n, phase, x, y, frame;
};

/* Neighbours in time of a band of rows follow each other, so that its input comes from memory once. */
static __device__ __forceinline__ tile tile_at(const job &j, int index)
{
    tile t;
    t.n = index % j.tiles_n;
    index /= j.tiles_n;
    t.phase = index % j.phases;
    index /= j.phases;
    t.x = index % j.tiles_x;
    index /= j.tiles_x;
    t.frame = index % j.frames;
    t.y = index / j.frames;
    return t;
}

struct barriers {
    uint64_t full[8], empty[8];
};

/* Which buffer is next, and the parity of its turn. */
struct ring {
    int stage;
    uint32_t parity;
};

template <int STAGES> static __device__ __forceinline__ void advance(ring &r)
{
    if (++r.stage == STAGES) {
        r.stage = 0;
        r.parity ^= 1;
    }
}

/* The copier's single thread. */
template <int N, int TAPS>
static __device__ __forceinline__ void copy_all(const maps &m, const job &j, barriers &b, uint32_t tiles)
{
    typedef shape<N, TAPS> S;
    ring r = {0, 1}; /* on a new barrier parity 1 has passed: all buffers are empty */
    for (int index = blockIdx.x; index < j.n_tiles; index += gridDim.x) {
        const tile t = tile_at(j, index);
        const int left = t.x * COLUMNS - j.pad + t.phase % 2, top = t.y * S::ROWS - j.pad + t.phase / 2;
        const int outputs = (t.phase * j.tiles_n + t.n) * (N / 32);
        for (int kt = 0; kt < j.kt; kt++) {
            const int frame = t.frame + kt - j.n_before;
            const CUtensorMap *x = frame >= 0 ? &m.x : frame == -1 ? &m.before[1] : &m.before[0];
            for (int c = 0; c < j.c_in; c += CHUNK)
#pragma unroll 1 /* the copier has few registers */
                for (int kx = 0; kx < j.kw; kx++) {
                    const uint32_t to = tiles + r.stage * S::STAGE_BYTES, full = shared_address(&b.full[r.stage]);
                    barrier_wait(shared_address(&b.empty[r.stage]), r.parity);
                    barrier_expect(full, S::COPIED);
                    copy_box(to, x, c, left + kx, top, frame < 0 ? 0 : frame, full);
#pragma unroll 1
                    for (int ky = 0; ky < TAPS; ky++)
                        copy_box(to + S::W_AT + ky * S::W_BYTES, &m.w, ((kt * TAPS + ky) * j.kw + kx) * j.c_in + c, 0, 0,
                                 0, outputs, full);
                    advance<S::STAGES>(r);
                }
        }
    }
}

/* The products of one stage, left under way. `rows`: this warpgroup's first row of the box. */
template <int N, int TAPS, int BLOCKS>
static __device__ __forceinline__ void issue_stage(float (&d)[BLOCKS][N / 2], uint32_t rows, uint32_t weights,
                                                   bool accumulate)
{
    typedef shape<N, TAPS> S;
    wgmma_fence();
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
        for (int k = 0; k < CHUNK / 16; k++)
#pragma unroll
            for (int i = 0; i < BLOCKS; i++)
                wgmma_shared(d[i], row_descriptor<S::PIXEL>(rows + (BLOCK_ROWS * i + tap) * S::PITCH + k * 32),
                             row_descriptor<S::PIXEL>(weights + tap * S::W_BYTES + k * 32),
                             accumulate || tap > 0 || k > 0);
    wgmma_commit();
}

/* Where a thread's part of a tile lies: pixel (i, r) is row 4 i + warp of the group's, column lane / 4 + 8 r; of
 * each 32 outputs it has eight, from `at` on. */
struct place {
    int64_t at;                /* element of y for pixel (0, 0) */
    int row_step, column_step; /* from pixel (i, r) to (i + 1, r) and (i, r + 1) */
    int rows, columns;         /* pixels that exist from (0, 0) on, in such steps: down and across */
};

template <typename S> static __device__ __forceinline__ place place_of(const job &j, const tile &t, int group, int n)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, scale = j.phases == 4 ? 2 : 1;
    const int x = t.x * COLUMNS + lane / 4, y = t.y * S::ROWS + group * (S::ROWS / 2) + warp;
    place p;
    p.at = (((int64_t)t.frame * j.h_out + y * scale + t.phase / 2) * j.w_out + x * scale + t.phase % 2) * j.c_out +
           t.n * n + 8 * (lane % 4);
    p.row_step = BLOCK_ROWS * scale * j.w_out * j.c_out;
    p.column_step = 8 * scale * j.c_out;
    p.rows = (j.h - y + BLOCK_ROWS - 1) / BLOCK_ROWS;
    p.columns = (j.w - x + 7) / 8;
    return p;
}

static __device__ __forceinline__ bool exists(const place &p, int i, int r)
{
    return i < p.rows && r < p.columns;
}

/* Sums begin with the bias: the end of a tile has no registers to spare. */
template <int N, int BLOCKS>
static __device__ __forceinline__ void begin_sums(const job &j, const tile &t, float (&d)[BLOCKS][N / 2])
{
#pragma unroll
    for (int g = 0; g < N / 32; g++) {
        const int o = t.n * N + 32 * g + 8 * (threadIdx.x % 4);
        float bias[8] = {0};
        if (j.bias)
            load8(j.bias + o, bias);
#pragma unroll
        for (int i = 0; i < BLOCKS; i++)
#pragma unroll
            for (int e = 0; e < 16; e++)
                d[i][16 * g + e] = bias[e / 4 * 2 + e % 2];
    }
}

/* The residual on its way into the second-level cache while the tile is computed. */
template <int N, int BLOCKS> static __device__ __forceinline__ void expect_residual(const job &j, const place &p)
{
#pragma unroll
    for (int i = 0; i < BLOCKS; i++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            for (int g = 0; g < N / 32 && exists(p, i, r); g++)
                prefetch_l2(j.add + p.at + i * p.row_step + r * p.column_step + 32 * g);
}

/* Pixels (i, 0) and (i, 1): BATCH pieces of the residual at a time, since each takes the time of a visit to memory. */
#define BATCH 6
template <int N>
static __device__ __forceinline__ void store_pixels(const job &j, const float (&d)[N / 2], const place &p, int i)
{
    constexpr int G = N / 32, PIECES = 2 * G;
#pragma unroll
    for (int first = 0; first < PIECES; first += BATCH) {
        uint4 residual[BATCH];
        if (j.add)
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                const int r = (first + b) / G, g = (first + b) % G;
                if (exists(p, i, r))
                    residual[b] = *(const uint4 *)(j.add + p.at + i * p.row_step + r * p.column_step + 32 * g);
            }
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const int r = (first + b) / G, g = (first + b) % G;
            if (!exists(p, i, r))
                continue;
            const int64_t at = p.at + i * p.row_step + r * p.column_step + 32 * g;
            const uint32_t pairs[4] = {residual[b].x, residual[b].y, residual[b].z, residual[b].w};
            float v[8];
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[e] = d[16 * g + 4 * (e / 2) + 2 * r + e % 2];
                if (j.add) /* a bf16 is the upper half of a float */
                    v[e] += __uint_as_float(e % 2 ? pairs[e / 2] & 0xffff0000u : pairs[e / 2] << 16);
            }
            if (j.y_wide)
                store8((float *)j.y + at, v);
            else
                store8((bf16 *)j.y + at, v);
        }
    }
}

/* The head's few outputs, one by one. */
static __device__ __forceinline__ void store_few(const job &j, const float (&d)[16], const place &p, int i)
{
    const int o = 8 * (threadIdx.x % 4);
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int e = 0; e < 8; e++) {
            if (!exists(p, i, r) || o + e >= j.c_out)
                continue;
            const int64_t at = p.at + i * p.row_step + r * p.column_step + e;
            float v = d[4 * (e / 2) + 2 * r + e % 2] + (j.bias ? j.bias[o + e] : 0.0f);
            if (j.add)
                v += j.add_wide ? ((const float *)j.add)[at] : to_f32(j.add[at]);
            if (j.y_wide)
                ((float *)j.y)[at] = v;
            else
                ((bf16 *)j.y)[at] = from_f32<bf16>(v);
        }
}

/* One computing warpgroup, 0 or 1. Products of two stages are under way at a time. */
template <int N, int TAPS>
static __device__ __forceinline__ void compute(const job &j, barriers &b, uint32_t tiles, int group)
{
    typedef shape<N, TAPS> S;
    const int lane = threadIdx.x % 32, n_steps = j.kt * j.kw * (j.c_in / CHUNK);
    float d[S::BLOCKS][N / 2];
    ring r = {0, 0};
    for (int index = blockIdx.x; index < j.n_tiles; index += gridDim.x) {
        const tile t = tile_at(j, index);
        const place p = place_of<S>(j, t, group, N);
        int last = 0;
        if constexpr (N > 32) {
            begin_sums<N>(j, t, d);
            if (j.add && lane % 4 == 0)
                expect_residual<N, S::BLOCKS>(j, p);
        }
        for (int step = 0; step < n_steps; step++) {
            const uint32_t stage = tiles + r.stage * S::STAGE_BYTES;
            barrier_wait(shared_address(&b.full[r.stage]), r.parity);
#pragma unroll
            for (int i = 0; i < S::BLOCKS; i++)
                pin(d[i]);
            issue_stage<N, TAPS>(d, stage + group * (S::ROWS / 2) * S::PITCH, stage + S::W_AT, N > 32 || step > 0);
            wgmma_wait<1>(); /* those of the stage before */
            if (step > 0 && lane == 0)
                barrier_arrive(shared_address(&b.empty[last]));
            last = r.stage;
            advance<S::STAGES>(r);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < S::BLOCKS; i++)
            pin(d[i]);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty[last]));
#pragma unroll
        for (int i = 0; i < S::BLOCKS; i++) {
            if constexpr (N == 32)
                store_few(j, d[i], p, i);
            else
                store_pixels<N>(j, d[i], p, i);
        }
    }
}

template <int N, int TAPS>
static __global__ void __launch_bounds__(THREADS, 1) conv_hopper_kernel(const __grid_constant__ maps m, const job j)
{
    extern __shared__ char shared[];
    __shared__ barriers b;
    const uint32_t tiles = (shared_address(shared) + 1023) / 1024 * 1024;
    if (threadIdx.x == 0) {
        for (int i = 0; i < shape<N, TAPS>::STAGES; i++) {
            barrier_init(shared_address(&b.full[i]), 1);
            barrier_init(shared_address(&b.empty[i]), 2 * GROUP / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); /* for the copy engine's eyes */
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    const int role = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0); /* so the compiler knows that lanes agree */
    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COPIER_REGISTERS));
        if (threadIdx.x == 0)
            copy_all<N, TAPS>(m, j, b, tiles);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COMPUTER_REGISTERS));
        compute<N, TAPS>(j, b, tiles, role - 1);
    }
}

/* ---- launch ---- */

/* Pictures [frames, h, w, c_in], in boxes of one frame. */
static cudaError_t map_frames(CUtensorMap *map, const struct rf_conv_args *a, const void *x, int64_t frames, int rows,
                              int columns)
{
    const cuuint64_t pixel = (cuuint64_t)a->c_in * 2, row = pixel * (cuuint64_t)a->w_in;
    const cuuint64_t sizes[] = {(cuuint64_t)a->c_in, (cuuint64_t)a->w_in, (cuuint64_t)a->h_in, (cuuint64_t)frames};
    const cuuint64_t strides[] = {pixel, row, row * (cuuint64_t)a->h_in};
    const cuuint32_t box[] = {CHUNK, (cuuint32_t)columns, (cuuint32_t)rows, 1};
    return make_bf16_map(map, 4, x, sizes, strides, box);
}

/* Weights [outputs, k], in boxes of n outputs in the order that the file's head tells. */
static cudaError_t map_weights(CUtensorMap *map, const void *w, int64_t outputs, int64_t k, int n)
{
    const cuuint64_t row = (cuuint64_t)k * 2;
    const cuuint64_t sizes[] = {(cuuint64_t)k, 2, 4, 4, (cuuint64_t)outputs / 32};
    const cuuint64_t strides[] = {row, 8 * row, 2 * row, 32 * row};
    const cuuint32_t box[] = {CHUNK, 2, 4, 4, (cuuint32_t)n / 32};
    return make_bf16_map(map, 5, w, sizes, strides, box);
}

template <int N, int TAPS>
static cudaError_t launch(cudaStream_t stream, const struct rf_conv_args *a)
{
    typedef shape<N, TAPS> S;
    const int phases = a->upsample ? 4 : 1, kw = a->upsample ? 2 : a->kw;
    job j = {};
    j.y = a->y, j.add = (const bf16 *)a->add, j.bias = a->bias, j.y_wide = a->y_type == RF_KT_F32;
    j.add_wide = a->add_type == RF_KT_F32;
    j.h = (int)(a->upsample ? a->h_in : a->h_out), j.w = (int)(a->upsample ? a->w_in : a->w_out);
    j.h_out = (int)a->h_out, j.w_out = (int)a->w_out, j.c_out = (int)a->c_out, j.frames = (int)a->t_out;
    j.tiles_x = (int)ceil_div(j.w, COLUMNS), j.tiles_y = (int)ceil_div(j.h, S::ROWS);
    j.tiles_n = (int)ceil_div(a->c_out, N), j.phases = phases;
    const int64_t n_tiles = (int64_t)j.tiles_x * j.tiles_y * j.tiles_n * phases * a->t_out;
    j.n_tiles = (int)n_tiles;
    j.kt = a->kt, j.kw = kw, j.c_in = (int)a->c_in, j.pad = a->kw / 2, j.n_before = a->n_before;

    maps m = {};
    int device, n_multiprocessors;
    cudaError_t status = n_tiles > INT32_MAX - (1 << 16) ? cudaErrorInvalidValue : cudaGetDevice(&device);
    if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&n_multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (status == cudaSuccess && a->t_in > 0)
        status = map_frames(&m.x, a, a->x, a->t_in, S::BOX_ROWS, COLUMNS);
    for (int i = 0; i < a->n_before && status == cudaSuccess; i++)
        status = map_frames(&m.before[i], a, a->before[i], 1, S::BOX_ROWS, COLUMNS);
    if (status == cudaSuccess)
        status = map_weights(&m.w, a->w, (int64_t)phases * j.tiles_n * N, (int64_t)a->kt * TAPS * kw * a->c_in, N);
    if (status == cudaSuccess)
        status = cudaFuncSetAttribute(conv_hopper_kernel<N, TAPS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      S::SHARED_BYTES);
    if (status != cudaSuccess)
        return status;
    const unsigned grid = (unsigned)(n_tiles < n_multiprocessors ? n_tiles : n_multiprocessors);
    conv_hopper_kernel<N, TAPS><<<grid, THREADS, S::SHARED_BYTES, stream>>>(m, j);
    return cudaGetLastError();
}

extern "C" cudaError_t rf_launch_conv_hopper(cudaStream_t stream, const struct rf_conv_args *a)
{
    if (a->t_out * a->h_out * a->w_out * a->c_out == 0)
        return cudaSuccess;
    const int taps = a->upsample ? 2 : a->kh;
    if (a->c_out <= 32)
        return taps == 3 ? launch<32, 3>(stream, a) : cudaErrorInvalidValue;
    if (a->c_out % 192 == 0)
        return taps == 3   ? launch<192, 3>(stream, a)
               : taps == 2 ? launch<192, 2>(stream, a)
                           : launch<192, 1>(stream, a);
    return taps == 3   ? launch<96, 3>(stream, a)
           : taps == 2 ? launch<96, 2>(stream, a)
                       : launch<96, 1>(stream, a);
}
