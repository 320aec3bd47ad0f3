/* RGB to YUV and back, the one place where numbers become colours.
 *
 * Written out instead of left to libswscale because its defaults are the classic ways to get this wrong (BT.601 for
 * everything, truncation, chroma of every second column dropped), because its bits differ between CPUs, and because the
 * accurate conversion is shorter than the flags. All results are the real-valued formula rounded to nearest, within the
 * 2^-14 of the integer coefficients.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MEDIA_COLOUR_H
#define RF_MEDIA_COLOUR_H

#include "schema/base.h"

enum rf_matrix { RF_MATRIX_BT601, RF_MATRIX_BT709, RF_MATRIX_COUNT };

/* Where a chroma sample lies when there are fewer of them than pixels: at the centre of the pixels it stands for (JPEG,
 * WebP), or at the left pixel, half way between two rows (H.264 unless it says otherwise). */
enum rf_chroma_site { RF_CHROMA_CENTRE, RF_CHROMA_LEFT };

/* Three borrowed 8-bit planes. The chroma planes are the picture's size shifted right, rounded up. */
struct rf_yuv {
    uint8_t *plane[3];
    ptrdiff_t stride[3]; /* in bytes, may be negative when read */
    int shift_x, shift_y; /* 0..2 */
    enum rf_chroma_site site;
    enum rf_matrix matrix;
    bool full_range;
};

/* rgb [height, width, 3], packed. Chroma is interpolated linearly between its samples, in both directions.
 * False only when there is no memory for a line of chroma. */
bool rf_yuv_to_rgb(const struct rf_yuv *src, int width, int height, uint8_t *rgb);

/* The other way, into planes with no subsampling or with 2x2 (sited left, even size). */
void rf_yuv_from_rgb(const uint8_t *rgb, int width, int height, const struct rf_yuv *dst);

#endif
