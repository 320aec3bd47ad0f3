/* See image_files.h. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <libavutil/crc.h>
#include <libavutil/intreadwrite.h>

#include "tests/media/helpers.h"
#include "tests/media/image_files.h"

void bytes_finish(struct bytes *b)
{
    free(b->data);
}

struct bytes test_insert(const struct bytes *in, size_t at, const void *what, size_t n)
{
    struct bytes out = { rf_new_array(uint8_t, in->n + n), in->n + n };
    memcpy(out.data, in->data, at);
    memcpy(out.data + at, what, n);
    memcpy(out.data + at + n, in->data + at, in->n - at);
    return out;
}

struct rf_image test_scene_image(int width, int height)
{
    struct rf_image image = { width, height, rf_new_array(uint8_t, (size_t)width * (size_t)height * 3) };
    test_scene(image.rgb, width, height, 0, 0, 0);
    return image;
}

struct bytes test_encode(const struct rf_image *image, enum rf_image_format format)
{
    void *data;
    struct bytes b;
    struct rf_err err;
    if (rf_image_encode(image, format, &data, &b.n, &err) != RF_OK)
        fail_msg("%s", err.msg);
    b.data = data;
    return b;
}

struct rf_image test_decode(const struct bytes *b, int width, int height)
{
    struct rf_image image = { 0 };
    struct rf_err err;
    if (rf_image_decode(b->data, b->n, width, height, &image, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return image;
}

void test_refused(const struct bytes *b, enum rf_code code, const char *words)
{
    struct rf_image image = { 0 };
    struct rf_err err = { 0 };
    assert_int_equal(rf_image_decode(b->data, b->n, 0, 0, &image, &err), code);
    assert_null(image.rgb);
    if (strstr(err.msg, words) == NULL)
        fail_msg("'%s' does not say '%s'", err.msg, words);
}

void test_colour(const struct rf_image *image, int x, int y, int r, int g, int b, int tolerance)
{
    const uint8_t *p = image->rgb + 3 * (y * image->width + x);
    if (abs(p[0] - r) > tolerance || abs(p[1] - g) > tolerance || abs(p[2] - b) > tolerance)
        fail_msg("(%d %d %d) at %d,%d instead of (%d %d %d)", p[0], p[1], p[2], x, y, r, g, b);
}

struct bytes test_encode_frame(enum AVCodecID codec, AVFrame *frame)
{
    AVCodecContext *c = avcodec_alloc_context3(avcodec_find_encoder(codec));
    AVPacket *packet = av_packet_alloc();
    c->width = frame->width;
    c->height = frame->height;
    c->pix_fmt = frame->format;
    c->time_base = (AVRational){ 1, 1 };
    c->color_range = AVCOL_RANGE_JPEG;
    if (codec == AV_CODEC_ID_MJPEG) { /* the finest scale there is */
        c->flags |= AV_CODEC_FLAG_QSCALE;
        c->global_quality = frame->quality = FF_QP2LAMBDA;
    }
    assert_int_equal(avcodec_open2(c, NULL, NULL), 0);
    assert_int_equal(avcodec_send_frame(c, frame), 0);
    assert_int_equal(avcodec_send_frame(c, NULL), 0);
    assert_int_equal(avcodec_receive_packet(c, packet), 0);
    struct bytes b = { rf_new_array(uint8_t, (size_t)packet->size), (size_t)packet->size };
    memcpy(b.data, packet->data, b.n);
    av_packet_free(&packet);
    avcodec_free_context(&c);
    return b;
}

AVFrame *test_new_frame(enum AVPixelFormat format, int width, int height)
{
    AVFrame *f = av_frame_alloc();
    f->format = format;
    f->width = width;
    f->height = height;
    assert_int_equal(av_frame_get_buffer(f, 0), 0);
    return f;
}

/* By the JFIF formula, not by the code under test. */
static void jfif(const uint8_t *rgb, uint8_t yuv[3])
{
    double r = rgb[0], g = rgb[1], b = rgb[2];
    yuv[0] = (uint8_t)lrint(0.299 * r + 0.587 * g + 0.114 * b);
    yuv[1] = (uint8_t)fmin(255, lrint(-0.168736 * r - 0.331264 * g + 0.5 * b + 128));
    yuv[2] = (uint8_t)fmin(255, lrint(0.5 * r - 0.418688 * g - 0.081312 * b + 128));
}

struct bytes test_encode_jpeg(const struct rf_image *image, enum AVPixelFormat format, int shift_x, int shift_y)
{
    AVFrame *f = test_new_frame(format, image->width, image->height);
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++) {
            uint8_t yuv[3];
            jfif(image->rgb + 3 * (y * image->width + x), yuv);
            f->data[0][y * f->linesize[0] + x] = yuv[0];
            for (int p = 1; p < 3; p++)
                f->data[p][(y >> shift_y) * f->linesize[p] + (x >> shift_x)] = yuv[p];
        }
    struct bytes b = test_encode_frame(AV_CODEC_ID_MJPEG, f);
    av_frame_free(&f);
    return b;
}

struct rf_image test_corners(int width, int height)
{
    static const uint8_t colours[4][3] = { { 255, 0, 0 }, { 0, 255, 0 }, { 0, 0, 255 }, { 255, 255, 255 } };
    struct rf_image image = test_scene_image(width, height);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            memcpy(image.rgb + 3 * (y * width + x), colours[2 * (2 * y / height) + 2 * x / width], 3);
    return image;
}

struct bytes test_png_chunk(const char *type, const void *data, size_t n)
{
    struct bytes chunk = { rf_new_array(uint8_t, n + 12), n + 12 };
    AV_WB32(chunk.data, (uint32_t)n);
    memcpy(chunk.data + 4, type, 4);
    memcpy(chunk.data + 8, data, n);
    AV_WB32(chunk.data + 8 + n,
            av_crc(av_crc_get_table(AV_CRC_32_IEEE_LE), UINT32_MAX, chunk.data + 4, n + 4) ^ UINT32_MAX);
    return chunk;
}

/* After the header: signature 8, IHDR 25. */
struct bytes test_png_with_chunk(const struct bytes *png, const char *type, const void *data, size_t n)
{
    RF_AUTO(bytes_finish) struct bytes chunk = test_png_chunk(type, data, n);
    return test_insert(png, 33, chunk.data, chunk.n);
}

struct bytes test_webp_with_exif(const struct bytes *webp, int width, int height, int flags, const void *exif,
                                 size_t n)
{
    uint8_t head[18] = { 'V', 'P', '8', 'X', 10, 0, 0, 0, (uint8_t)flags };
    AV_WL24(head + 12, width - 1);
    AV_WL24(head + 15, height - 1);
    RF_AUTO(bytes_finish) struct bytes extended = test_insert(webp, 12, head, sizeof head);
    uint8_t tail[128] = { 'E', 'X', 'I', 'F' };
    AV_WL32(tail + 4, (uint32_t)n);
    memcpy(tail + 8, exif, n);
    struct bytes all = test_insert(&extended, extended.n, tail, 8 + n + n % 2);
    AV_WL32(all.data + 4, (uint32_t)(all.n - 8));
    return all;
}
