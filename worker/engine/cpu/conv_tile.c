/* The inner loop of the convolution, compiled once per vector width (see conv_tile.h).
 *
 * For each 16 input channels the input pixels that the tile can see are gathered into a small panel, one cache line per
 * pixel, with zeros outside the frame and doubled pixels when upsampling is fused. The multiply loop then has constant
 * strides whatever the channel count, and no unfolded image of the frame ever exists. The tile stays in registers:
 * 24 of 32 with AVX-512, 12 of 16 with AVX2, 8 of 16 with SSE.
 * Each output is summed in one fixed order, whatever its place in tile, row or chunk: chunked equals whole, bit for
 * bit.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/cpu/conv_tile.h"

#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define KERNELS rf_conv_kernels_avx512
#define NAME "avx512"
#elif defined(__AVX2__)
#define LANES 8
#define KERNELS rf_conv_kernels_avx2
#define NAME "avx2"
#else
#define LANES 4
#define KERNELS rf_conv_kernels_plain
#define NAME "plain"
#endif

#define CHUNK 16                                        /* input channels per panel pixel: one cache line */
#define PANEL_ROWS 9                                    /* rows gathered at a time: 28 KiB, in the first-level cache */
#define PANEL_PIXELS ((RF_CONV_MAX_TILE - 1) * 2 + 3)

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

struct panel {
    float x[PANEL_ROWS][PANEL_PIXELS][CHUNK] __attribute__((aligned(64)));
};

static inline __attribute__((always_inline)) void copy_pixel(float *dst, const float *src, int n)
{
    if (n == CHUNK) {
        for (int v = 0; v < CHUNK; v += LANES)
            *(vec *)(dst + v) = *(const vec *)(src + v);
    } else {
        for (int c = 0; c < n; c++)
            dst[c] = src[c];
    }
}

/* Channels [c0, c0 + n) of `n_pixels` pixels from x0 on. */
static inline __attribute__((always_inline)) void gather_row(float (*dst)[CHUNK], const float *row,
                                                             const struct rf_conv_tile *t, int n_pixels, int64_t c0,
                                                             int n)
{
    if (!t->upsample && t->x0 >= 0 && t->x0 + n_pixels <= t->width) { /* most tiles */
        const float *src = row + t->x0 * t->n_in + c0;
        for (int i = 0; i < n_pixels; i++, src += t->n_in)
            copy_pixel(dst[i], src, n);
        return;
    }
    for (int i = 0; i < n_pixels; i++) {
        int64_t x = t->x0 + i;
        if (x < 0 || x >= t->width)
            memset(dst[i], 0, CHUNK * sizeof(float));
        else
            copy_pixel(dst[i], row + (t->upsample ? x / 2 : x) * t->n_in + c0, n);
    }
}

/* acc += panel * weights for n channels of one chunk; everything that matters is a constant after inlining. */
static inline __attribute__((always_inline)) void multiply(struct rf_conv_tile *t, const struct panel *panel,
                                                           int first_row, int n_rows, int64_t c0, int n, const int n_v,
                                                           const int tile, const int stride)
{
    const int64_t block = (int64_t)n_v * LANES;
    vec acc[RF_CONV_MAX_TILE];                          /* tile * n_v of them are used, always at most 24 */
#pragma GCC unroll 24
    for (int i = 0; i < tile * n_v; i++)
        acc[i] = *(const vec *)(t->acc + i * LANES);
    for (int r = 0; r < n_rows; r++) {
        for (int dx = 0; dx < t->kw; dx++) {
            const float *x = panel->x[r][dx];
            const float *w = t->w + ((t->row_k[first_row + r] * t->kw + dx) * t->n_in + c0) * block;
            for (int c = 0; c < n; c++, x++, w += block) {
#pragma GCC unroll 24
                for (int i = 0; i < tile; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < n_v; v++)
                        acc[i * n_v + v] += x[i * stride * CHUNK] * *(const vec *)(w + v * LANES);
            }
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < tile * n_v; i++)
        *(vec *)(t->acc + i * LANES) = acc[i];
}

static inline __attribute__((always_inline)) void run_tile(struct rf_conv_tile *t, const int n_v, const int tile,
                                                           const int stride)
{
    struct panel panel;
    for (int64_t c0 = 0; c0 < t->n_in; c0 += CHUNK) {
        int n = t->n_in - c0 < CHUNK ? (int)(t->n_in - c0) : CHUNK;
        for (int first = 0; first < t->n_rows; first += PANEL_ROWS) {
            int n_rows = t->n_rows - first < PANEL_ROWS ? t->n_rows - first : PANEL_ROWS;
            for (int r = 0; r < n_rows; r++)
                gather_row(panel.x[r], t->row_x[first + r], t, (tile - 1) * stride + t->kw, c0, n);
            multiply(t, &panel, first, n_rows, c0, n, n_v, tile, stride);
        }
    }
}

#define INSTANCE(name, n_v, tile, stride)                                                                            \
    static void name(struct rf_conv_tile *t)                                                                         \
    {                                                                                                                \
        run_tile(t, n_v, tile, stride);                                                                              \
    }

#if LANES == 16
INSTANCE(wide_1, 2, 12, 1)
INSTANCE(wide_2, 2, 12, 2)
INSTANCE(slim_1, 1, 24, 1)
INSTANCE(slim_2, 1, 24, 2)
const struct rf_conv_kernels KERNELS = {NAME, {{32, 12, {wide_1, wide_2}}, {16, 24, {slim_1, slim_2}}}};
#elif LANES == 8
INSTANCE(both_1, 2, 6, 1)
INSTANCE(both_2, 2, 6, 2)
const struct rf_conv_kernels KERNELS = {NAME, {{16, 6, {both_1, both_2}}, {16, 6, {both_1, both_2}}}};
#else
INSTANCE(both_1, 4, 2, 1)
INSTANCE(both_2, 4, 2, 2)
const struct rf_conv_kernels KERNELS = {NAME, {{16, 2, {both_1, both_2}}, {16, 2, {both_1, both_2}}}};
#endif
