/* The colour shift of a clip that starts from an image: measured where it can be, taken back everywhere.
 *
 * Every round trip through the VAE, and the transformer itself, shifts colours a little; chained segments add the
 * shifts up, which is the first thing people notice in long clips. Frame 0 of such a clip is a picture whose true
 * colours are known: the start image. What frame 0 is off by, per channel, is what the segment is off by.
 *
 * A shift and no gain: see NOTES.md, "Colour".
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_COLOUR_H
#define RF_MODEL_COLOUR_H

#include "schema/err.h"

/* The most that is ever taken back, of a range of 2 (-1..1): more is another picture, not a drift. 0.1 is 12.75 of
 * 255. */
#define RF_COLOUR_MAX_SHIFT 0.1f

/* What to add to a decoded frame [n_pixels, 3] in [-1, 1] so that it has the colours of `image` [n_pixels, 3], 0..255.
 * The mean difference among the pixels that agree best (around the median): a misplaced edge or a new object does not
 * count. Each value within +-RF_COLOUR_MAX_SHIFT. */
void rf_colour_measure(const float *frame, const uint8_t *image, int64_t n_pixels, float ret_shift[3]);

/* [-1, 1] to 0..255 with the shift added, rounded, clamped. NaN becomes 0. */
void rf_colour_to_bytes(uint8_t *rgb, const float *frame, int64_t n_pixels, const float shift[3]);

#endif
