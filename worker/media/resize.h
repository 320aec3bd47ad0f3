/* Scaling packed RGB: separable bicubic, widened when shrinking so that nothing aliases.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MEDIA_RESIZE_H
#define RF_MEDIA_RESIZE_H

#include "schema/base.h"

/* A part of a picture in pixels; its edges may fall between two. */
struct rf_crop {
    double x, y, width, height;
};

/* The largest part of `width` x `height` with the aspect of `like_width` x `like_height`, in the middle. */
struct rf_crop rf_crop_centre(int width, int height, int like_width, int like_height);

/* Scales the part `crop` of src [src_height, src_width, 3] to dst [height, width, 3] with rows dst_stride bytes apart.
 * A part of the same size at whole pixels is copied bit by bit. False: no memory. */
bool rf_resize(const uint8_t *src, int src_width, int src_height, const struct rf_crop *crop, uint8_t *dst,
               ptrdiff_t dst_stride, int width, int height);

#endif
