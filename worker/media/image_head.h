/* What an image file says about itself, read before any decoder sees it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MEDIA_IMAGE_HEAD_H
#define RF_MEDIA_IMAGE_HEAD_H

#include "schema/err.h"

enum rf_image_kind { RF_IMAGE_KIND_PNG, RF_IMAGE_KIND_JPEG, RF_IMAGE_KIND_WEBP, RF_IMAGE_KIND_COUNT };

struct rf_image_head {
    enum rf_image_kind kind;
    int width, height; /* as stored, within the limits of media.h */
    int orientation;   /* EXIF's: 1 to 8, 1 when it says nothing */
    /* The file reduced to what makes its pixels, malloc'd: no text, profiles, thumbnails or further pictures, whose
     * parsers and decompressors are thereby out of a stranger's reach. Followed by the zeros that FFmpeg wants. */
    uint8_t *bytes;
    size_t size_bytes;
};
void rf_image_head_finish(struct rf_image_head *head);

/* Walks the whole container, without decoding: a file cut short anywhere is refused here.
 *   RF_ERR_FORMAT  no PNG, JPEG or WebP, damaged, cut short, animated, or of a sort we do not take: the message says so
 *   RF_ERR_LIMIT   too large */
enum rf_code rf_image_head_read(const void *bytes, size_t size_bytes, struct rf_image_head *ret_head,
                                struct rf_err *err);

#endif
