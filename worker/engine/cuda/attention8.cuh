/* What the two kernels of 8-bit attention (attention8.h) share: a row's scores become weights, and sums become outputs.
 * Both hold 64-bit-wide rows alike: s[4 j + i] is the score of row i / 2 (of this lane's two, 8 apart) and key
 * 8 j + 2 (lane % 4) + i % 2 of the tile; all of a lane's keys are of group lane % 4.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CUDA_ATTENTION8_CUH
#define RF_ENGINE_CUDA_ATTENTION8_CUH

#include "worker/engine/attention8.h"
#include "worker/engine/cuda/mma.cuh"

/* Of this lane's two rows. Sums are this lane's part only until the end. */
struct rows8 {
    float q_scale[2], top[2], sum[2];
};

/* Two weights, at most 255.01 and times 2^-24, as the integers nearest to them in the bytes 0 and 2: subnormal halves
 * are multiples of 2^-24, so rounding to them rounds to integers, and their bits are those integers. */
#define ONE_STEP (-24.0f) /* the logarithm of such a half's last bit */
static __device__ __forceinline__ uint32_t round_pair(float low, float high)
{
    const __half2 pair = __floats2half2_rn(low, high);
    return *(const uint32_t *)&pair;
}

/* What a tile does to the rows' sums.
 *   keep   by what earlier sums must be scaled: 1 unless the row's maximum has grown
 *   gain   by what this tile's sum must be scaled before it is added
 *   share  the same for the sum of its weights, in which the scale of the values does not belong */
struct change8 {
    float keep[2], gain[2], share[2];
};

/* How a score of the tile becomes the logarithm of its weight, for either row: score * factor + shift. */
struct weigher8 {
    float factor[2], shift[2];
};

/* Finds the rows' maxima over a tile and what follows from them. scale: of this lane's group of keys, and the logarithm
 * of that of their values. The largest weight is 255 but for the rounding of `local`: under 2^-24 of a score, which
 * stays below 2^15. */
template <bool MASKED>
static __device__ __forceinline__ weigher8 find_maxima8(int32_t (&s)[64], rows8 &rows, float2 scale, change8 &change,
                                                        int n_here)
{
    const int lane = threadIdx.x % 32;
    const float of_v = exp2_fast(-scale.y);
    weigher8 w;
    float local[2];
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
        w.factor[r] = rows.q_scale[r] * scale.x;
        local[r] = fmaf((float)high, w.factor[r], scale.y);
    }
#pragma unroll
    for (int step = 1; step < 4; step *= 2) /* a row lies in four neighbouring lanes */
#pragma unroll
        for (int r = 0; r < 2; r++)
            local[r] = fmaxf(local[r], __shfl_xor_sync(0xffffffffu, local[r], step));
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float next = fmaxf(rows.top[r], local[r]);
        w.shift[r] = scale.y - local[r] + (RF_A8_LOG2_LEVELS + ONE_STEP);
        change.keep[r] = exp2_fast(rows.top[r] - next);
        change.gain[r] = exp2_fast(local[r] - next);
        change.share[r] = change.gain[r] * of_v;
        rows.top[r] = next;
        rows.sum[r] *= change.keep[r];
    }
    return w;
}

/* Scores of the blocks FIRST .. LAST - 1 of eight keys to weights in pairs. */
template <bool MASKED, int FIRST, int LAST>
static __device__ __forceinline__ void weigh8(uint32_t (&pairs)[32], const int32_t (&s)[64], const weigher8 &with)
{
#pragma unroll
    for (int j = FIRST; j < LAST; j++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float w[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int32_t score = s[4 * j + 2 * r + i];
                w[i] = exp2_fast(fmaf((float)score, with.factor[r], with.shift[r]));
                if (MASKED && score == INT32_MIN)
                    w[i] = 0;
            }
            pairs[2 * j + r] = round_pair(w[0], w[1]);
        }
}

/* Weights to operands, p[k] being the keys 32 k .. 32 k + 31, and into the sums. Apart from weigh8() because wgmma may
 * still be reading the last operands while the weights are made. */
static __device__ __forceinline__ void pack8(uint32_t (&p)[4][4], const uint32_t (&pairs)[32], rows8 &rows,
                                             const change8 &change)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t total = 0;
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int h = 0; h < 2; h++) { /* sixteen keys: blocks j, j + 1 of 8 */
                const int j = 4 * k + 2 * h;
                p[k][2 * h + r] = __byte_perm(pairs[2 * j + r], pairs[2 * j + 2 + r], 0x6420);
                total = __dp4a(p[k][2 * h + r], 0x01010101u, total);
            }
        rows.sum[r] = fmaf((float)total, change.share[r], rows.sum[r]);
    }
}

/* True when some row of the warp has grown: then all its sums must be scaled. Rare after the first tiles. */
static __device__ __forceinline__ bool any_grew(const change8 &change)
{
    return __any_sync(0xffffffffu, change.keep[0] != 1.0f || change.keep[1] != 1.0f);
}

/* Two rows of o, `row` and row + 8 of head `head` of the group; o[4 j + 2 r + e]: channel 8 j + 2 (lane % 4) + e. */
static __device__ __forceinline__ void store_rows8(const rf_attention8_args &a, const float (&o)[64], const rows8 &rows,
                                                   int64_t row, int head)
{
    const int c = 2 * (threadIdx.x % 4);
    const int64_t width = (int64_t)a.all_heads * RF_A8_DIM;
    bf16 *out = (bf16 *)a.o + (int64_t)(a.first_head + head) * RF_A8_DIM + c;
    const float *mean = a.v_mean + head * RF_A8_DIM + c, *deviation = a.v_deviation + head * RF_A8_DIM + c;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float all = rows.sum[r] + __shfl_xor_sync(0xffffffffu, rows.sum[r], 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        const float inverse = 1.0f / all;
        if (row + 8 * r < a.n_q)
#pragma unroll
            for (int j = 0; j < 16; j++) {
                const float2 m = *(const float2 *)(mean + 8 * j), d = *(const float2 *)(deviation + 8 * j);
                *(uint32_t *)(out + (row + 8 * r) * width + 8 * j) =
                    pack_bf16(o[4 * j + 2 * r] * inverse * d.x + m.x, o[4 * j + 2 * r + 1] * inverse * d.y + m.y);
            }
    }
}

#endif
