/* 8-bit attention on Hopper (attention8.h): the structure of attention_hopper.cuh with wgmma over bytes.
 *
 * A tile of 128 keys is 16 KB, of values too, so four of each are in flight. p v of a tile is summed in integers of its
 * own, exactly, and joins the F32 sums afterwards. Registers of a computing thread: 64 scores (then 32 pairs of weights),
 * 64 of the tile's sum, 64 of the sums, 16 of operands; 240 are all there are, 160 with three computing warpgroups.
 * Several arrangements stand side by side until they have been timed (FRAMEFARM_CUDA=a8-N; SPEED.md says what each is
 * for): one of them will stay.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cuda/attention8.cuh"
#include "worker/engine/cuda/attention_hopper.cuh"

#define TILE RF_A8_TILE
#define STAGES 4
#define TILE_BYTES (TILE * 128)
#define SHARED_BYTES (TILE_BYTES * (1 + 2 * STAGES) + 1024) /* and room to align to 1024 */
#define COPIER_REGISTERS 24
#define COMPUTER_REGISTERS 240 /* 24 * 128 + 240 * 256 <= 65536 */

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

/* One computing warpgroup, 0 or 1: 64 queries over all tiles.
 *   FRONT  of the 16 blocks of weights are made before the wait for the tile's sum
 *   TURNS  the groups issue their products in turns
 *   UNDER  a tile's sum joins the others while the next but one tile's scores are computed, not in the softmax */
template <int FRONT, bool TURNS, bool UNDER>
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

    if (TURNS && group == 1 && n_tiles > 1)
        named_arrive(1, 2 * GROUP); /* group 0 issues first */
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
    pack8<0, 4>(p, pairs, rows, change);
    pin_operands(p);
    float last_gain[2] = {0, 0}; /* UNDER: of the sum in t, which is zeros for now */

    for (int i = 1; i < n_tiles; i++) {
        const int stage = i % STAGES, last = (i - 1) % STAGES;
        scales -= RF_A8_GROUPS;
        scale = *scales; /* on its way while the scores are computed */
        barrier_wait(shared_address(&b.full_k[stage]), i / STAGES & 1);
        if (TURNS)
            named_sync(1 + group, 2 * GROUP);
        pin(s);
        pin(t);
        wgmma_fence();
        issue_scores(s, q_rows, k_tiles + stage * (TILE_BYTES / 16));
        if (UNDER) {
            pin(t);
            add_tile(o, t, last_gain);
            pin(o);
            pin(t);
        }
        barrier_wait(shared_address(&b.full_v[last]), (i - 1) / STAGES & 1);
        wgmma_fence(); /* the wait is a loop: without it the compiler adds one here */
        issue_sum(t, p, v_tiles + last * (TILE_BYTES / 16));
        if (TURNS && (group == 0 || i + 1 < n_tiles)) /* the last word of group 1 would find nobody */
            named_arrive(2 - group, 2 * GROUP);
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
        if (UNDER) {
            last_gain[0] = change.gain[0];
            last_gain[1] = change.gain[1];
        } else {
            add_tile(o, t, change.gain);
        }
        change = next_change;
        pack8<0, 4>(p, pairs, rows, change);
        pin_operands(p);
    }
    const int last = (n_tiles - 1) % STAGES;
    if (UNDER)
        add_tile(o, t, last_gain);
    barrier_wait(shared_address(&b.full_v[last]), (n_tiles - 1) / STAGES & 1);
    pin(t);
    wgmma_fence();
    issue_sum(t, p, v_tiles + last * (TILE_BYTES / 16));
    wgmma_wait<0>();
    pin(t);
    add_tile(o, t, change.gain);
    store_rows8(a, o, rows, row, blockIdx.y);
}

/* wgmma_shared_s8() for fewer rows of b: d [64, KEYS]. FIRST: d is not read; its registers are free until then. */
#define LIST16 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define LIST32 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define LIST48 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
    "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47}"
#define NEW8(d, i) \
    "=r"(d[i]), "=r"(d[i + 1]), "=r"(d[i + 2]), "=r"(d[i + 3]), "=r"(d[i + 4]), "=r"(d[i + 5]), "=r"(d[i + 6]), \
        "=r"(d[i + 7])
#define SCORES(keys, list, a, b, p) \
    "wgmma.mma_async.sync.aligned.m64n" keys "k32.s32.s8.s8 " list ", " a ", " b ", " p ";"
template <int KEYS, bool FIRST>
static __device__ __forceinline__ void wgmma_shared_s8(int32_t *d, uint64_t a, uint64_t b)
{
    if (KEYS == 32 && FIRST)
        asm volatile(SCORES("32", LIST16, "%16", "%17", "0") : NEW8(d, 0), NEW8(d, 8) : "l"(a), "l"(b));
    else if (KEYS == 32)
        asm volatile(SCORES("32", LIST16, "%16", "%17", "1") : RF_I8(d, 0), RF_I8(d, 8) : "l"(a), "l"(b));
    else if (KEYS == 64 && FIRST)
        asm volatile(SCORES("64", LIST32, "%32", "%33", "0")
                     : NEW8(d, 0), NEW8(d, 8), NEW8(d, 16), NEW8(d, 24)
                     : "l"(a), "l"(b));
    else if (KEYS == 64)
        asm volatile(SCORES("64", LIST32, "%32", "%33", "1")
                     : RF_I8(d, 0), RF_I8(d, 8), RF_I8(d, 16), RF_I8(d, 24)
                     : "l"(a), "l"(b));
    else if (FIRST)
        asm volatile(SCORES("96", LIST48, "%48", "%49", "0")
                     : NEW8(d, 0), NEW8(d, 8), NEW8(d, 16), NEW8(d, 24), NEW8(d, 32), NEW8(d, 40)
                     : "l"(a), "l"(b));
    else
        asm volatile(SCORES("96", LIST48, "%48", "%49", "1")
                     : RF_I8(d, 0), RF_I8(d, 8), RF_I8(d, 16), RF_I8(d, 24), RF_I8(d, 32), RF_I8(d, 40)
                     : "l"(a), "l"(b));
}

/* The first of a sum's products, the same for 128 keys: what d held before is not read. */
#define NEW64(d) \
    NEW8(d, 0), NEW8(d, 8), NEW8(d, 16), NEW8(d, 24), NEW8(d, 32), NEW8(d, 40), NEW8(d, 48), NEW8(d, 56)
static __device__ __forceinline__ void wgmma_first_s8(int32_t (&d)[64], uint64_t a, uint64_t b)
{
    asm volatile(SCORES("128", RF_LIST64, "%64", "%65", "0") : NEW64(d) : "l"(a), "l"(b));
}

static __device__ __forceinline__ void wgmma_first_u8(int32_t (&d)[64], const uint32_t a[4], uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 " RF_LIST64 ", {%64, %65, %66, %67}, %68, 0;"
                 : NEW64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

static __device__ __forceinline__ void issue_new_scores(int32_t (&s)[64], uint32_t q_rows, uint32_t k_tile)
{
    wgmma_first_s8(s, at(q_rows, 0), at(k_tile, 0));
#pragma unroll
    for (int d = 1; d < 4; d++)
        wgmma_shared_s8(s, at(q_rows, d * 32), at(k_tile, d * 32), true);
    wgmma_commit();
}

/* The scores of COUNT keys from FIRST on, in flight on return. */
template <int FIRST, int COUNT>
static __device__ __forceinline__ void issue_some_scores(int32_t (&s)[64], uint32_t q_rows, uint32_t k_tile)
{
    wgmma_shared_s8<COUNT, true>(s + FIRST / 2, at(q_rows, 0), at(k_tile, FIRST * 128));
#pragma unroll
    for (int d = 1; d < 4; d++)
        wgmma_shared_s8<COUNT, false>(s + FIRST / 2, at(q_rows, d * 32), at(k_tile, FIRST * 128 + d * 32));
    wgmma_commit();
}

/* The logarithms of the weights of the blocks from FRONT on. */
template <bool MASKED, int FRONT>
static __device__ __forceinline__ void find_logarithms(float (&x)[64 - 4 * FRONT], const int32_t (&s)[64],
                                                       const weigher8 &with)
{
#pragma unroll
    for (int j = 4 * FRONT; j < 64; j++) {
        float &y = x[j - 4 * FRONT];
        y = fmaf((float)s[j], with.factor[j / 2 % 2], with.shift[j / 2 % 2]);
        if (MASKED && s[j] == INT32_MIN)
            y = -INFINITY;
        asm volatile("" : "+f"(y)::"memory");
    }
}

template <int FRONT>
static __device__ __forceinline__ void weigh_others(uint32_t (&pairs)[32], const float (&x)[64 - 4 * FRONT])
{
#pragma unroll
    for (int j = 2 * FRONT; j < 32; j++) {
        const int i = 2 * (j - 2 * FRONT);
        pairs[j] = round_pair(exp2_fast(x[i]), exp2_fast(x[i + 1]));
    }
}

/* The same as compute(), but the scores of the next tile's first keys are computed as soon as this tile's have become
 * weights: the softmax waits for the few others only. */
template <int FRONT>
static __device__ __forceinline__ void compute_early(const rf_attention8_args &a, uint32_t tiles, barriers<STAGES> &b,
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
    float o[64], x[64 - 4 * FRONT]; /* logarithms of the weights that are not made yet */
    uint32_t p[4][4], pairs[32];
    change8 change;
    float last_gain[2] = {0, 0}; /* of the sum in t, which is zeros for now */
#pragma unroll
    for (int i = 0; i < 64; i++) {
        o[i] = 0;
        t[i] = 0;
    }

    barrier_wait(shared_address(&b.full_q), 0);
    barrier_wait(shared_address(&b.full_k[0]), 0);
    pin(s);
    wgmma_fence();
    issue_scores(s, q_rows, k_tiles);
    wgmma_wait<0>();
    pin(s);
    if (lane == 0)
        barrier_arrive(shared_address(&b.empty_k[0]));
    weigher8 with = find_maxima8<true>(s, rows, *scales, change, (int)(a.n_keys - (int64_t)(n_tiles - 1) * TILE));
    weigh8<true, 0, FRONT>(pairs, s, with);
    find_logarithms<true, FRONT>(x, s, with);
    pack8<0, FRONT / 4>(p, pairs, rows, change);

    for (int i = 1; i < n_tiles; i++) {
        const int stage = i % STAGES, last = (i - 1) % STAGES;
        scales -= RF_A8_GROUPS;
        const float2 scale = *scales; /* on its way while the scores are computed */
        barrier_wait(shared_address(&b.full_k[stage]), i / STAGES & 1);
        pin(t);
        wgmma_fence();
        issue_some_scores<0, 8 * FRONT>(s, q_rows, k_tiles + stage * (TILE_BYTES / 16));
        weigh_others<FRONT>(pairs, x);
        add_tile(o, t, last_gain);
        pack8<FRONT / 4, 4>(p, pairs, rows, change);
        pin_operands(p);
        pin(o);
        pin(t);
        wgmma_fence();
        issue_some_scores<8 * FRONT, 128 - 8 * FRONT>(s, q_rows, k_tiles + stage * (TILE_BYTES / 16));
        barrier_wait(shared_address(&b.full_v[last]), (i - 1) / STAGES & 1);
        wgmma_fence(); /* the wait is a loop: without it the compiler adds one here */
        issue_sum(t, p, v_tiles + last * (TILE_BYTES / 16));
        last_gain[0] = change.gain[0];
        last_gain[1] = change.gain[1];
        wgmma_wait<1>(); /* the scores */
        pin(s);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_k[stage]));
        with = find_maxima8<false>(s, rows, scale, change, TILE);
        weigh8<false, 0, FRONT>(pairs, s, with);
#pragma unroll
        for (int j = 0; j < 2 * FRONT; j++)
            asm volatile("" : "+r"(pairs[j])::"memory");
        /* Rows grow in the first tiles, hardly after. The branch also keeps the wait behind the weights made so far:
         * the compiler moves it up to the last jump. */
        if (any_grew(change)) {
#pragma unroll
            for (int j = 0; j < 64; j++)
                o[j] *= change.keep[j / 2 % 2];
            last_gain[0] *= change.keep[0];
            last_gain[1] *= change.keep[1];
        }
        wgmma_wait<0>(); /* the sum */
        pin(t);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_v[last]));
        find_logarithms<false, FRONT>(x, s, with);
        pack8<0, FRONT / 4>(p, pairs, rows, change);
    }
    const int last = (n_tiles - 1) % STAGES;
    weigh_others<FRONT>(pairs, x);
    add_tile(o, t, last_gain);
    pack8<FRONT / 4, 4>(p, pairs, rows, change);
    pin_operands(p);
    barrier_wait(shared_address(&b.full_v[last]), (n_tiles - 1) / STAGES & 1);
    pin(t);
    wgmma_fence();
    issue_sum(t, p, v_tiles + last * (TILE_BYTES / 16));
    wgmma_wait<0>();
    pin(t);
    add_tile(o, t, change.gain);
    store_rows8(a, o, rows, row, blockIdx.y);
}

/* ---- two tiles at a time ---- */

static __device__ __forceinline__ void mask8(int32_t (&s)[64], int n_here)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 64; i++)
        if (i / 4 * 8 + 2 * (lane % 4) + i % 2 >= n_here)
            s[i] = INT32_MIN; /* far below any score, which is under 2^21 */
}

/* The tile's maxima over a row: what they do to the sums, and to the logarithms of the weights. */
static __device__ __forceinline__ void settle_one(rows8 &rows, float (&local)[2], weigher8 &with, change8 &change)
{
#pragma unroll
    for (int step = 1; step < 4; step *= 2) /* a row lies in four neighbouring lanes */
#pragma unroll
        for (int r = 0; r < 2; r++)
            local[r] = fmaxf(local[r], __shfl_xor_sync(0xffffffffu, local[r], step));
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float next = fmaxf(rows.top[r], local[r]);
        with.shift[r] += RF_A8_LOG2_LEVELS + ONE_STEP - local[r];
        change.keep[r] = exp2_fast(rows.top[r] - next);
        change.gain[r] = exp2_fast(local[r] - next);
        rows.top[r] = next;
        rows.sum[r] *= change.keep[r];
    }
}

/* What a row's maxima over one of the two tiles come to. */
template <bool MASKED>
static __device__ __forceinline__ void highest(float (&local)[2], weigher8 &with, int32_t (&s)[64], const rows8 &rows,
                                               float2 scale, int n_here)
{
    const int lane = threadIdx.x % 32;
    if (MASKED) {
#pragma unroll
        for (int i = 0; i < 64; i++)
            if (i / 4 * 8 + 2 * (lane % 4) + i % 2 >= n_here)
                s[i] = INT32_MIN; /* far below any score, which is under 2^21 */
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int32_t high = s[2 * r];
#pragma unroll
        for (int j = 0; j < 16; j++)
            high = __vimax3_s32(high, s[4 * j + 2 * r], s[4 * j + 2 * r + 1]);
        with.factor[r] = fmaxf(rows.q_scale[r] * scale.x, 2e-8f); /* so that what is masked comes to 0 times 2^-42 */
        with.shift[r] = scale.y;
        local[r] = fmaf((float)high, with.factor[r], scale.y);
    }
}

/* The pair's maxima: what they do to the sums, and to the logarithms of the weights. */
static __device__ __forceinline__ void settle(rows8 &rows, float (&local)[2], const float (&other)[2],
                                              weigher8 (&with)[2], change8 &change)
{
#pragma unroll
    for (int r = 0; r < 2; r++)
        local[r] = fmaxf(local[r], other[r]);
#pragma unroll
    for (int step = 1; step < 4; step *= 2) /* a row lies in four neighbouring lanes */
#pragma unroll
        for (int r = 0; r < 2; r++)
            local[r] = fmaxf(local[r], __shfl_xor_sync(0xffffffffu, local[r], step));
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float next = fmaxf(rows.top[r], local[r]), shift = RF_A8_LOG2_LEVELS + ONE_STEP - local[r];
        with[0].shift[r] += shift;
        with[1].shift[r] += shift;
        change.keep[r] = exp2_fast(rows.top[r] - next);
        change.gain[r] = exp2_fast(local[r] - next);
        rows.top[r] = next;
        rows.sum[r] *= change.keep[r];
    }
}

/* Scores of the keys 32 FIRST .. 32 LAST - 1 of a tile to operands, and into the sums. */
template <int FIRST, int LAST>
static __device__ __forceinline__ void to_operands(uint32_t (&p)[4][4], const int32_t (&s)[64], const weigher8 &with,
                                                   rows8 &rows, change8 &change, float log_v)
{
    uint32_t pairs[32];
    const float of_v = exp2_fast(-log_v);
    change.share[0] = change.gain[0] * of_v;
    change.share[1] = change.gain[1] * of_v;
    weigh8<false, 4 * FIRST, 4 * LAST>(pairs, s, with);
    pack8<FIRST, LAST>(p, pairs, rows, change);
#pragma unroll
    for (int k = FIRST; k < LAST; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("" : "+r"(p[k][i])::"memory");
}

/* t = p v, or += */
template <bool MORE>
static __device__ __forceinline__ void issue_part(int32_t (&t)[64], const uint32_t (&p)[4][4], uint32_t v_tile)
{
    if (MORE)
        wgmma_registers_u8(t, p[0], at(v_tile, 0), true);
    else
        wgmma_first_u8(t, p[0], at(v_tile, 0));
#pragma unroll
    for (int k = 1; k < 4; k++)
        wgmma_registers_u8(t, p[k], at(v_tile, k * 32), true);
    wgmma_commit();
}

/* One computing warpgroup over pairs of tiles: maxima, and the integers of p v, are of 256 keys, so that a pair's sum
 * joins the others in the time of one tile's. */
/* BEFORE: so many quarters of the tile weighed second become weights before the first product starts */
template <int BEFORE, bool TURNS>
static __device__ __forceinline__ void compute_pairs(const rf_attention8_args &a, uint32_t tiles, barriers<STAGES> &b,
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
    int32_t s[2][64], (&t)[64] = s[1]; /* a pair's sum comes where its second tile's scores have been */
    float o[64], local[2], other[2];
    uint32_t p[2][4][4];
    change8 change;
    weigher8 with[2];
    float2 scale[2] = {scales[0], scales[-RF_A8_GROUPS]};
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] = 0;

    const int n_last = (int)(a.n_keys - (int64_t)(n_tiles - 1) * TILE); /* may be none, or negative */
    barrier_wait(shared_address(&b.full_q), 0);
    barrier_wait(shared_address(&b.full_k[0]), 0);
    barrier_wait(shared_address(&b.full_k[1]), 0);
    wgmma_fence();
    issue_new_scores(s[0], q_rows, k_tiles);
    issue_new_scores(s[1], q_rows, k_tiles + TILE_BYTES / 16);
    wgmma_wait<0>();
    pin(s[0]);
    pin(s[1]);
    if (lane == 0) {
        barrier_arrive(shared_address(&b.empty_k[0]));
        barrier_arrive(shared_address(&b.empty_k[1]));
    }
    highest<true>(local, with[0], s[0], rows, scale[0], n_last);
    highest<true>(other, with[1], s[1], rows, scale[1], n_last + TILE);
    settle(rows, local, other, with, change);

    if (TURNS && group == 1)
        named_arrive(1, 2 * GROUP); /* group 0 is first */
    for (int i = 0;; i += 2) {
        const int stage = i % STAGES, next = (i + 2) % STAGES, turn = i / STAGES & 1, next_turn = (i + 2) / STAGES & 1;
        if (TURNS)
            named_sync(1 + group, 2 * GROUP);
        to_operands<0, 4>(p[1], s[1], with[1], rows, change, scale[1].y);
        to_operands<0, BEFORE>(p[0], s[0], with[0], rows, change, scale[0].y);
        barrier_wait(shared_address(&b.full_v[stage + 1]), turn);
        wgmma_fence();
        issue_part<false>(t, p[1], v_tiles + (stage + 1) * (TILE_BYTES / 16));
        if (TURNS && (group == 0 || i + 2 < n_tiles)) /* the last word of group 1 would find nobody */
            named_arrive(2 - group, 2 * GROUP);
        to_operands<BEFORE, 4>(p[0], s[0], with[0], rows, change, scale[0].y);
        barrier_wait(shared_address(&b.full_v[stage]), turn);
        wgmma_fence();
        issue_part<true>(t, p[0], v_tiles + stage * (TILE_BYTES / 16));
        if (i + 2 == n_tiles)
            break;
        scales -= 2 * RF_A8_GROUPS;
        scale[0] = scales[0]; /* on their way while the scores are computed */
        scale[1] = scales[-RF_A8_GROUPS];
        barrier_wait(shared_address(&b.full_k[next]), next_turn);
        wgmma_wait<0>(); /* the sum */
        pin(t);
        wgmma_fence();
        issue_new_scores(s[0], q_rows, k_tiles + next * (TILE_BYTES / 16));
        if (lane == 0) {
            barrier_arrive(shared_address(&b.empty_v[stage]));
            barrier_arrive(shared_address(&b.empty_v[stage + 1]));
        }
        add_tile(o, t, change.gain);
        pin(o);
        pin(t);
        barrier_wait(shared_address(&b.full_k[next + 1]), next_turn);
        wgmma_fence();
        issue_new_scores(s[1], q_rows, k_tiles + (next + 1) * (TILE_BYTES / 16));
        wgmma_wait<1>(); /* the first scores */
        pin(s[0]);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_k[next]));
        highest<false>(local, with[0], s[0], rows, scale[0], TILE);
        wgmma_wait<0>(); /* the others */
        pin(s[1]);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_k[next + 1]));
        highest<false>(other, with[1], s[1], rows, scale[1], TILE);
        settle(rows, local, other, with, change);
        if (any_grew(change)) /* in the first tiles, hardly after */
#pragma unroll
            for (int j = 0; j < 64; j++)
                o[j] *= change.keep[j / 2 % 2];
    }
    wgmma_wait<0>();
    pin(t);
    add_tile(o, t, change.gain);
    store_rows8(a, o, rows, row, blockIdx.y);
}

/* The compiler orders instructions between jumps only: this one, never taken, holds what stands around it apart. */
static __device__ __forceinline__ void hold_order(int not_negative)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ge.s32 p, %0, 0;\n"
                 "@p bra over;\n"
                 "again:\n"
                 "nanosleep.u32 100;\n"
                 "bra again;\n"
                 "over:\n"
                 "}" ::"r"(not_negative) : "memory");
}

template <int N> static __device__ __forceinline__ void pin_floats(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}

/* The logarithms of the weights of keys 32 k .. 32 k + 31. */
static __device__ __forceinline__ void quarter_logarithms(float (&x)[16], const int32_t (&s)[64],
                                                          const weigher8 &with, int k)
{
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = fmaf((float)s[16 * k + i], with.factor[i / 2 % 2], with.shift[i / 2 % 2]);
    pin_floats(x);
}

/* to_operands() in quarters: while the exponentials of one are under way, the logarithms of the next are made, and the
 * last one's weights are packed. */
static __device__ __forceinline__ void to_operands_by_quarters(uint32_t (&p)[4][4], const int32_t (&s)[64],
                                                               const weigher8 &with, rows8 &rows, change8 &change,
                                                               float log_v, int not_negative)
{
    const float of_v = exp2_fast(-log_v);
    float x[4][16], w[4][16];
    uint32_t pairs[32];
    change.share[0] = change.gain[0] * of_v;
    change.share[1] = change.gain[1] * of_v;
    quarter_logarithms(x[0], s, with, 0);
    hold_order(not_negative);
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            w[k][i] = exp2_fast(x[k][i]);
        pin_floats(w[k]);
        if (k < 3)
            quarter_logarithms(x[k + 1 < 4 ? k + 1 : 3], s, with, k + 1);
        if (k > 0)
#pragma unroll
            for (int j = 0; j < 8; j++)
                pairs[8 * (k - 1) + j] = round_pair(w[k > 0 ? k - 1 : 0][2 * j], w[k > 0 ? k - 1 : 0][2 * j + 1]);
        hold_order(not_negative);
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        pairs[24 + j] = round_pair(w[3][2 * j], w[3][2 * j + 1]);
    pack8<0, 4>(p, pairs, rows, change);
    pin_operands(p);
}

/* ---- three computing warpgroups ---- */

#define THREADS_3 (4 * GROUP)
#define BLOCK_Q_3 192
#define SHARED_BYTES_3 (TILE_BYTES * (2 + 2 * STAGES) + 1024) /* q fills two tiles, the last 64 rows for nobody */
#define COMPUTER_REGISTERS_3 160 /* 24 * 128 + 160 * 384 <= 65536 */

struct copier3 {
    const CUtensorMap *maps[3]; /* q, k, v */
    uint32_t tiles;
    int q_rows, n_tiles;

    __device__ __forceinline__ void tile(int which, int at, int column, int row, uint32_t barrier) const
    {
        copy_box(tiles + at * TILE_BYTES, maps[which], column, row, barrier);
    }
    __device__ __forceinline__ void q(uint32_t barrier) const
    {
        const int row = blockIdx.y * q_rows + blockIdx.x * BLOCK_Q_3;
        barrier_expect(barrier, 2 * TILE_BYTES);
        tile(0, 0, 0, row, barrier);
        tile(0, 1, 0, row + TILE, barrier);
    }
    __device__ __forceinline__ void k(int stage, int i, uint32_t barrier) const
    {
        barrier_expect(barrier, TILE_BYTES);
        tile(1, 2 + stage, 0, (blockIdx.y * n_tiles + i) * TILE, barrier);
    }
    __device__ __forceinline__ void v(int stage, int i, uint32_t barrier) const /* rows are channels */
    {
        barrier_expect(barrier, TILE_BYTES);
        tile(2, 2 + STAGES + stage, i * TILE, blockIdx.y * RF_A8_DIM, barrier);
    }
};

/* Scores come and become weights; the weights' product with the values comes where the scores were, and joins the sums.
 * Nothing overlaps within a warpgroup: the two others use what this one leaves idle.
 *   TURNS     one warpgroup after the other makes weights
 *   QUARTERS  by to_operands_by_quarters() */
template <bool TURNS, bool QUARTERS>
static __device__ __forceinline__ void compute_third(const rf_attention8_args &a, uint32_t tiles, barriers<STAGES> &b,
                                                     int group)
{
    const int lane = threadIdx.x % 32, n_tiles = (int)a.n_tiles;
    const int64_t row = (int64_t)blockIdx.x * BLOCK_Q_3 + group * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    const uint32_t q_rows = operand(tiles + group * 64 * 128);
    const uint32_t k_tiles = operand(tiles + 2 * TILE_BYTES), v_tiles = operand(tiles + (2 + STAGES) * TILE_BYTES);
    const float2 *scales = (const float2 *)a.kv_scale + ((int64_t)blockIdx.y * n_tiles + n_tiles - 1) * RF_A8_GROUPS +
                           lane % 4; /* of the last tile; the next is RF_A8_GROUPS before it */
    const float *q_scale = a.q_scale + blockIdx.y * a.q_rows;
    const int64_t last_row = a.q_rows - 1; /* the block may reach beyond; nothing is stored there */
    rows8 rows = {{q_scale[row < last_row ? row : last_row], q_scale[row + 8 < last_row ? row + 8 : last_row]},
                  {-INFINITY, -INFINITY}, {0, 0}};
    int32_t s[64];
    float o[64];
    uint32_t p[4][4];
    change8 change;
    weigher8 with;
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] = 0;

    if (TURNS && group == 2)
        named_arrive(1, 2 * GROUP); /* group 0 is first */
    barrier_wait(shared_address(&b.full_q), 0);
    int n_here = (int)(a.n_keys - (int64_t)(n_tiles - 1) * TILE);
    for (int i = 0; i < n_tiles; i++) {
        const int stage = i % STAGES, turn = i / STAGES & 1;
        const float2 scale = *scales; /* on its way while the scores are computed */
        float local[2];
        scales -= RF_A8_GROUPS;
        barrier_wait(shared_address(&b.full_k[stage]), turn);
        wgmma_fence();
        issue_new_scores(s, q_rows, k_tiles + stage * (TILE_BYTES / 16));
        wgmma_wait<0>();
        pin(s);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_k[stage]));
        if (i == 0 && n_here < TILE)
            mask8(s, n_here);
        highest<false>(local, with, s, rows, scale, TILE);
        settle_one(rows, local, with, change);
        if (any_grew(change)) /* in the first tiles, hardly after */
#pragma unroll
            for (int j = 0; j < 64; j++)
                o[j] *= change.keep[j / 2 % 2];
        if (TURNS)
            named_sync(1 + group, 2 * GROUP);
        if (QUARTERS)
            to_operands_by_quarters(p, s, with, rows, change, scale.y, n_tiles);
        else
            to_operands<0, 4>(p, s, with, rows, change, scale.y);
        barrier_wait(shared_address(&b.full_v[stage]), turn);
        wgmma_fence();
        issue_part<false>(s, p, v_tiles + stage * (TILE_BYTES / 16));
        if (TURNS && (group < 2 || i + 1 < n_tiles)) /* the last word of group 2 would find nobody */
            named_arrive(1 + (group + 1) % 3, 2 * GROUP);
        wgmma_wait<0>();
        pin(s);
        if (lane == 0)
            barrier_arrive(shared_address(&b.empty_v[stage]));
        add_tile(o, s, change.gain);
    }
    store_rows8(a, o, rows, row, blockIdx.y);
}

template <bool TURNS, bool QUARTERS>
static __global__ void __launch_bounds__(THREADS_3, 1)
attention8_three_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                        const __grid_constant__ CUtensorMap v, const rf_attention8_args a)
{
    extern __shared__ char shared[];
    __shared__ barriers<STAGES> b;
    const uint32_t tiles = (shared_address(shared) + 1023) / 1024 * 1024;
    const int n_tiles = (int)a.n_tiles;
    if (threadIdx.x == 0)
        init_barriers(b, 12);
    __syncthreads();
    const int role = role_of_warpgroup();
    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COPIER_REGISTERS));
        if (threadIdx.x == 0)
            copy_all(b, n_tiles, copier3{{&q, &k, &v}, tiles, (int)a.q_rows, n_tiles});
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COMPUTER_REGISTERS_3));
        compute_third<TURNS, QUARTERS>(a, tiles, b, role - 1);
    }
}

template <int FRONT, bool TURNS, bool UNDER, int EARLY>
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
        if constexpr (EARLY == 2)
            compute_pairs<FRONT, TURNS>(a, tiles, b, role - 1);
        else if constexpr (EARLY == 1)
            compute_early<FRONT>(a, tiles, b, role - 1);
        else
            compute<FRONT, TURNS, UNDER>(a, tiles, b, role - 1);
    }
}

template <int FRONT, bool TURNS, bool UNDER, int EARLY = 0>
static cudaError_t launch(cudaStream_t stream, dim3 grid, const CUtensorMap &q, const CUtensorMap &k,
                          const CUtensorMap &v, const rf_attention8_args &a)
{
    cudaError_t status = cudaFuncSetAttribute(attention8_hopper_kernel<FRONT, TURNS, UNDER, EARLY>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
    if (status != cudaSuccess)
        return status;
    attention8_hopper_kernel<FRONT, TURNS, UNDER, EARLY><<<grid, THREADS, SHARED_BYTES, stream>>>(q, k, v, a);
    return cudaGetLastError();
}

template <bool TURNS, bool QUARTERS>
static cudaError_t launch_three(cudaStream_t stream, const CUtensorMap &q, const CUtensorMap &k, const CUtensorMap &v,
                                const rf_attention8_args &a)
{
    cudaError_t status = cudaFuncSetAttribute(attention8_three_kernel<TURNS, QUARTERS>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES_3);
    if (status != cudaSuccess)
        return status;
    const dim3 grid((unsigned)((a.n_q + BLOCK_Q_3 - 1) / BLOCK_Q_3), (unsigned)a.heads);
    attention8_three_kernel<TURNS, QUARTERS><<<grid, THREADS_3, SHARED_BYTES_3, stream>>>(q, k, v, a);
    return cudaGetLastError();
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
    if (status != cudaSuccess)
        return status;
    const dim3 grid((unsigned)(a->q_rows / TILE), (unsigned)a->heads);
    switch (a->variant) {
    case 0: return launch<8, true, false>(stream, grid, q, k, v, *a);
    case 1: return launch<0, true, false>(stream, grid, q, k, v, *a);
    case 2: return launch<4, true, false>(stream, grid, q, k, v, *a);
    case 3: return launch<12, true, false>(stream, grid, q, k, v, *a);
    case 4: return launch<8, false, false>(stream, grid, q, k, v, *a);
    case 5: return launch<8, true, true>(stream, grid, q, k, v, *a);
    case 6: return launch<8, false, true>(stream, grid, q, k, v, *a);
    case 7: return launch<4, true, true>(stream, grid, q, k, v, *a);
    case 8: return launch<12, false, true>(stream, grid, q, k, v, *a);
    case 10: return launch<12, false, false, 1>(stream, grid, q, k, v, *a);
    case 11: return launch<2, false, false, 2>(stream, grid, q, k, v, *a);
    case 12: return launch<2, true, false, 2>(stream, grid, q, k, v, *a);
    case 13: return launch<0, true, false, 2>(stream, grid, q, k, v, *a);
    case 14: return launch<4, true, false, 2>(stream, grid, q, k, v, *a);
    case 15: return launch_three<false, false>(stream, q, k, v, *a);
    case 16: return launch_three<true, false>(stream, q, k, v, *a);
    case 17: return launch_three<false, true>(stream, q, k, v, *a);
    case 18: return launch_three<true, true>(stream, q, k, v, *a);
    default: return launch<16, true, false>(stream, grid, q, k, v, *a);
    }
}
