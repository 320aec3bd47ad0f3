/* Image files of every sort, made for the tests: by the code under test, by FFmpeg's own encoders, and by hand.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_TESTS_MEDIA_IMAGE_FILES_H
#define RF_TESTS_MEDIA_IMAGE_FILES_H

#include "worker/media/media.h"

#include <libavcodec/avcodec.h>

/* A file in memory, the caller's. */
struct bytes {
    uint8_t *data;
    size_t n;
};

void bytes_finish(struct bytes *b);
/* A copy with `what` at `at`. */
struct bytes test_insert(const struct bytes *in, size_t at, const void *what, size_t n);

struct rf_image test_scene_image(int width, int height);
/* Red, green, blue, white: one per corner, so that every turn of it is a different picture. */
struct rf_image test_corners(int width, int height);

/* There and back by the code under test; a failure is the test's. */
struct bytes test_encode(const struct rf_image *image, enum rf_image_format format);
struct rf_image test_decode(const struct bytes *b, int width, int height);
void test_refused(const struct bytes *b, enum rf_code code, const char *words);
void test_colour(const struct rf_image *image, int x, int y, int r, int g, int b, int tolerance);

/* A file of any sort that FFmpeg can write, from a frame filled by the caller. */
struct bytes test_encode_frame(enum AVCodecID codec, AVFrame *frame);
AVFrame *test_new_frame(enum AVPixelFormat format, int width, int height);
struct bytes test_encode_jpeg(const struct rf_image *image, enum AVPixelFormat format, int shift_x, int shift_y);

struct bytes test_png_chunk(const char *type, const void *data, size_t n);
/* The chunk goes right behind the header. */
struct bytes test_png_with_chunk(const struct bytes *png, const char *type, const void *data, size_t n);
/* A simple WebP turned into an extended one: VP8X in front, EXIF behind. */
struct bytes test_webp_with_exif(const struct bytes *webp, int width, int height, int flags, const void *exif,
                                 size_t n);

#endif
