/* The inner loop of the convolution: a tile of neighbouring output pixels times a block of output channels.
 * conv_tile.c is compiled once per vector width, as kernels.c is; conv.c cuts the work and chooses.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_CPU_CONV_TILE_H
#define RF_ENGINE_CPU_CONV_TILE_H

#include <stdbool.h>
#include <stdint.h>

#define RF_CONV_MAX_ROWS 27 /* kt * kh */
#define RF_CONV_MAX_TILE 24
#define RF_CONV_MAX_BLOCK 32

/* One tile of one output row. Pixel i of the tile reads input pixels x0 + i * stride + dx, dx in 0..kw-1, counted in
 * the (virtually doubled) input row; pixels outside 0..width-1 are zero. */
struct rf_conv_tile {
    const float *row_x[RF_CONV_MAX_ROWS]; /* input rows inside the frame: [stored width, n_in] */
    int row_k[RF_CONV_MAX_ROWS];          /* which row of the kernel meets it: dt * kh + dy */
    int n_rows;
    int64_t x0, width;                    /* first input pixel, may be negative; the row's width, doubled if upsample */
    int64_t n_in;
    int kw;
    bool upsample;
    const float *w;                       /* packed block: [kernel row, kw, n_in, block] */
    /* [tile, block]: bias on entry, the sums on return. */
    float acc[RF_CONV_MAX_TILE * RF_CONV_MAX_BLOCK] __attribute__((aligned(64)));
};

typedef void rf_conv_tile_fn(struct rf_conv_tile *t);

struct rf_conv_kernels {
    const char *name; /* as rf_kernels.name */
    struct rf_conv_kernel {
        int block, tile;            /* output channels, output pixels */
        rf_conv_tile_fn *stride[2]; /* horizontal stride 1 and 2 */
    } kernel[2];                    /* widest block first; the second takes a remainder of at most its block */
};

extern const struct rf_conv_kernels rf_conv_kernels_plain, rf_conv_kernels_avx2, rf_conv_kernels_avx512;

#endif
