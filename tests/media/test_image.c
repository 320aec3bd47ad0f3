/* Images from strangers: every sort we take comes out with the right colours the right way up, every sort we do not
 * take and every damaged one is refused with words.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <libavcodec/avcodec.h>
#include <libavutil/crc.h>
#include <libavutil/intreadwrite.h>
#include <libavutil/mem.h>

#include "tests/media/helpers.h"
#include "worker/media/image_head.h"

struct bytes {
    uint8_t *data;
    size_t n;
};

static void bytes_finish(struct bytes *b)
{
    free(b->data);
}

static struct bytes insert(const struct bytes *in, size_t at, const void *what, size_t n)
{
    struct bytes out = { rf_new_array(uint8_t, in->n + n), in->n + n };
    memcpy(out.data, in->data, at);
    memcpy(out.data + at, what, n);
    memcpy(out.data + at + n, in->data + at, in->n - at);
    return out;
}

static struct rf_image scene_image(int width, int height)
{
    struct rf_image image = { width, height, rf_new_array(uint8_t, (size_t)width * (size_t)height * 3) };
    test_scene(image.rgb, width, height, 0, 0, 0);
    return image;
}

static struct bytes encode(const struct rf_image *image, enum rf_image_format format)
{
    void *data;
    struct bytes b;
    struct rf_err err;
    if (rf_image_encode(image, format, &data, &b.n, &err) != RF_OK)
        fail_msg("%s", err.msg);
    b.data = data;
    return b;
}

static struct rf_image decode(const struct bytes *b, int width, int height)
{
    struct rf_image image = { 0 };
    struct rf_err err;
    if (rf_image_decode(b->data, b->n, width, height, &image, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return image;
}

static void assert_refused(const struct bytes *b, enum rf_code code, const char *words)
{
    struct rf_image image = { 0 };
    struct rf_err err = { 0 };
    assert_int_equal(rf_image_decode(b->data, b->n, 0, 0, &image, &err), code);
    assert_null(image.rgb);
    if (strstr(err.msg, words) == NULL)
        fail_msg("'%s' does not say '%s'", err.msg, words);
}

static void assert_colour(const struct rf_image *image, int x, int y, int r, int g, int b, int tolerance)
{
    const uint8_t *p = image->rgb + 3 * (y * image->width + x);
    if (abs(p[0] - r) > tolerance || abs(p[1] - g) > tolerance || abs(p[2] - b) > tolerance)
        fail_msg("(%d %d %d) at %d,%d instead of (%d %d %d)", p[0], p[1], p[2], x, y, r, g, b);
}

/* A file of any sort that FFmpeg can write, from a frame filled by the caller. */
static struct bytes encode_frame(enum AVCodecID codec, AVFrame *frame)
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

static AVFrame *new_frame(enum AVPixelFormat format, int width, int height)
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

static struct bytes encode_jpeg(const struct rf_image *image, enum AVPixelFormat format, int shift_x, int shift_y)
{
    AVFrame *f = new_frame(format, image->width, image->height);
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++) {
            uint8_t yuv[3];
            jfif(image->rgb + 3 * (y * image->width + x), yuv);
            f->data[0][y * f->linesize[0] + x] = yuv[0];
            for (int p = 1; p < 3; p++)
                f->data[p][(y >> shift_y) * f->linesize[p] + (x >> shift_x)] = yuv[p];
        }
    struct bytes b = encode_frame(AV_CODEC_ID_MJPEG, f);
    av_frame_free(&f);
    return b;
}

/* Red, green, blue, white: one per corner, so that every turn of it is a different picture. */
static struct rf_image corners(int width, int height)
{
    static const uint8_t colours[4][3] = { { 255, 0, 0 }, { 0, 255, 0 }, { 0, 0, 255 }, { 255, 255, 255 } };
    struct rf_image image = scene_image(width, height);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            memcpy(image.rgb + 3 * (y * width + x), colours[2 * (2 * y / height) + 2 * x / width], 3);
    return image;
}

/* ---- there and back ---- */

static void png_is_lossless_at_every_size(void **state)
{
    static const int sizes[][2] = { { 1, 1 }, { 2, 3 }, { 37, 23 }, { 192, 128 } };
    for (size_t i = 0; i < RF_COUNT_OF(sizes); i++) {
        RF_AUTO(rf_image_finish) struct rf_image image = scene_image(sizes[i][0], sizes[i][1]);
        RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG);
        RF_AUTO(rf_image_finish) struct rf_image back = decode(&png, 0, 0);
        assert_int_equal(back.width, image.width);
        assert_int_equal(back.height, image.height);
        assert_memory_equal(back.rgb, image.rgb, (size_t)(image.width * image.height * 3));
    }
}

static void webp_keeps_size_and_colours(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(191, 127);
    RF_AUTO(bytes_finish) struct bytes webp = encode(&image, RF_IMAGE_WEBP), png = encode(&image, RF_IMAGE_PNG);
    RF_AUTO(rf_image_finish) struct rf_image back = decode(&webp, 0, 0);
    size_t n = 191 * 127 * 3;
    assert_int_equal(back.width, 191);
    assert_int_equal(back.height, 127);
    assert_true(test_psnr(back.rgb, image.rgb, n) > 30); /* measured 33.3; a wrong range or matrix gives under 27 */
    for (int c = 0; c < 3; c++)
        assert_true(fabs(test_mean_difference(back.rgb, image.rgb, n, c)) < 0.6); /* measured 0.21 */
    assert_true(webp.n < png.n / 3);
}

static void jpeg_colours_are_right_for_every_subsampling(void **state)
{
    static const struct {
        enum AVPixelFormat format;
        int shift_x, shift_y;
    } cases[] = { { AV_PIX_FMT_YUVJ444P, 0, 0 }, { AV_PIX_FMT_YUVJ422P, 1, 0 }, { AV_PIX_FMT_YUVJ420P, 1, 1 } };
    RF_AUTO(rf_image_finish) struct rf_image image = corners(64, 32);
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        RF_AUTO(bytes_finish) struct bytes jpeg =
            encode_jpeg(&image, cases[i].format, cases[i].shift_x, cases[i].shift_y);
        RF_AUTO(rf_image_finish) struct rf_image back = decode(&jpeg, 0, 0);
        assert_colour(&back, 5, 5, 255, 0, 0, 3);
        assert_colour(&back, 58, 5, 0, 255, 0, 3);
        assert_colour(&back, 5, 26, 0, 0, 255, 3);
        assert_colour(&back, 58, 26, 255, 255, 255, 3);
    }
}

static void png_of_every_depth_and_with_alpha_is_read(void **state)
{
    static const struct {
        enum AVPixelFormat format;
        uint8_t pixel[8];
        int n_bytes;
        int r, g, b;
    } cases[] = {
        { AV_PIX_FMT_GRAY8, { 200 }, 1, 200, 200, 200 },
        { AV_PIX_FMT_GRAY8, { 3 }, 1, 3, 3, 3 }, /* limited range would crush it */
        { AV_PIX_FMT_MONOBLACK, { 0xff }, 1, 255, 255, 255 },
        { AV_PIX_FMT_GRAY16BE, { 0x80, 0x00 }, 2, 128, 128, 128 },
        { AV_PIX_FMT_YA8, { 200, 255 }, 2, 200, 200, 200 },
        { AV_PIX_FMT_YA8, { 200, 0 }, 2, 128, 128, 128 },
        { AV_PIX_FMT_YA16BE, { 200, 200, 255, 255 }, 4, 200, 200, 200 },
        { AV_PIX_FMT_RGBA, { 255, 0, 10, 0 }, 4, 128, 128, 128 },
        { AV_PIX_FMT_RGBA, { 255, 0, 128, 128 }, 4, 192, 64, 128 },
        { AV_PIX_FMT_RGB48BE, { 10, 10, 20, 20, 30, 30 }, 6, 10, 20, 30 },
        { AV_PIX_FMT_RGBA64BE, { 10, 10, 20, 20, 30, 30, 255, 255 }, 8, 10, 20, 30 },
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        AVFrame *f = new_frame(cases[i].format, 9, 5);
        for (int k = 0; k < 5 * f->linesize[0]; k++)
            f->data[0][k] = cases[i].pixel[k % f->linesize[0] % cases[i].n_bytes];
        RF_AUTO(bytes_finish) struct bytes png = encode_frame(AV_CODEC_ID_PNG, f);
        RF_AUTO(rf_image_finish) struct rf_image back = decode(&png, 0, 0);
        assert_colour(&back, 0, 0, cases[i].r, cases[i].g, cases[i].b, 0);
        assert_colour(&back, 8, 4, cases[i].r, cases[i].g, cases[i].b, 0);
        av_frame_free(&f);
    }
}

static void palette_png_is_read(void **state)
{
    AVFrame *f = new_frame(AV_PIX_FMT_PAL8, 8, 8);
    uint32_t palette[256] = { 0xff102030, 0x00ffffff };
    memcpy(f->data[1], palette, sizeof palette);
    for (int y = 0; y < 8; y++)
        memset(f->data[0] + y * f->linesize[0], y >= 4, 8);
    RF_AUTO(bytes_finish) struct bytes png = encode_frame(AV_CODEC_ID_PNG, f);
    RF_AUTO(rf_image_finish) struct rf_image back = decode(&png, 0, 0);
    assert_colour(&back, 3, 1, 0x10, 0x20, 0x30, 0);
    assert_colour(&back, 3, 7, 128, 128, 128, 0);
    av_frame_free(&f);
}

/* ---- orientation ---- */

/* A TIFF directory with one entry. */
static size_t make_tiff(uint8_t *out, bool little, int orientation)
{
    static const uint8_t intel[26] = { 'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1 };
    static const uint8_t motorola[26] = { 'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1 };
    memcpy(out, little ? intel : motorola, sizeof intel);
    out[little ? 18 : 19] = (uint8_t)orientation;
    return sizeof intel;
}

static struct bytes jpeg_with_orientation(const struct bytes *jpeg, bool little, int orientation)
{
    uint8_t app1[64] = { 0xff, 0xe1, 0, 0, 'E', 'x', 'i', 'f', 0, 0 };
    size_t n = 10 + make_tiff(app1 + 10, little, orientation);
    app1[3] = (uint8_t)(n - 2);
    return insert(jpeg, 2, app1, n);
}

static struct bytes png_chunk(const char *type, const void *data, size_t n)
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
static struct bytes png_with_chunk(const struct bytes *png, const char *type, const void *data, size_t n)
{
    RF_AUTO(bytes_finish) struct bytes chunk = png_chunk(type, data, n);
    return insert(png, 33, chunk.data, chunk.n);
}

/* A simple WebP turned into an extended one: VP8X in front, EXIF behind. */
static struct bytes webp_with_exif(const struct bytes *webp, int width, int height, int flags, const void *exif,
                                   size_t n)
{
    uint8_t head[18] = { 'V', 'P', '8', 'X', 10, 0, 0, 0, (uint8_t)flags };
    AV_WL24(head + 12, width - 1);
    AV_WL24(head + 15, height - 1);
    RF_AUTO(bytes_finish) struct bytes extended = insert(webp, 12, head, sizeof head);
    uint8_t tail[128] = { 'E', 'X', 'I', 'F' };
    AV_WL32(tail + 4, (uint32_t)n);
    memcpy(tail + 8, exif, n);
    struct bytes all = insert(&extended, extended.n, tail, 8 + n + n % 2);
    AV_WL32(all.data + 4, (uint32_t)(all.n - 8));
    return all;
}

/* Where the stored corners (0 red, 1 green, 2 blue, 3 white) are when shown: top left, top right, bottom left,
 * bottom right. */
static const int shown[9][4] = { { 0 },          { 0, 1, 2, 3 }, { 1, 0, 3, 2 }, { 3, 2, 1, 0 }, { 2, 3, 0, 1 },
                                 { 0, 2, 1, 3 }, { 2, 0, 3, 1 }, { 3, 1, 2, 0 }, { 1, 3, 0, 2 } };

static void assert_turned(const struct bytes *file, int orientation)
{
    static const int colours[4][3] = { { 255, 0, 0 }, { 0, 255, 0 }, { 0, 0, 255 }, { 255, 255, 255 } };
    RF_AUTO(rf_image_finish) struct rf_image back = decode(file, 0, 0);
    assert_int_equal(back.width, orientation >= 5 ? 32 : 64);
    assert_int_equal(back.height, orientation >= 5 ? 64 : 32);
    for (int corner = 0; corner < 4; corner++) {
        const int *c = colours[shown[orientation][corner]];
        int x = corner % 2 ? back.width - 4 : 3, y = corner / 2 ? back.height - 4 : 3;
        assert_colour(&back, x, y, c[0], c[1], c[2], 8);
    }
}

static void all_eight_exif_orientations_are_applied(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = corners(64, 32);
    RF_AUTO(bytes_finish) struct bytes jpeg = encode_jpeg(&image, AV_PIX_FMT_YUVJ444P, 0, 0);
    RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG), webp = encode(&image, RF_IMAGE_WEBP);
    for (int o = 1; o <= 8; o++) {
        uint8_t tiff[32];
        size_t n = make_tiff(tiff, o % 2, o);
        RF_AUTO(bytes_finish) struct bytes little = jpeg_with_orientation(&jpeg, true, o);
        RF_AUTO(bytes_finish) struct bytes big = jpeg_with_orientation(&jpeg, false, o);
        RF_AUTO(bytes_finish) struct bytes turned_png = png_with_chunk(&png, "eXIf", tiff, n);
        RF_AUTO(bytes_finish) struct bytes turned_webp = webp_with_exif(&webp, 64, 32, 8, tiff, n);
        assert_turned(&little, o);
        assert_turned(&big, o);
        assert_turned(&turned_png, o);
        assert_turned(&turned_webp, o);
    }
}

static void nonsense_orientation_is_ignored(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = corners(64, 32);
    RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG);
    uint8_t tiff[32];
    size_t n = make_tiff(tiff, false, 9);
    RF_AUTO(bytes_finish) struct bytes nine = png_with_chunk(&png, "eXIf", tiff, n);
    assert_turned(&nine, 1);
    for (size_t cut = 0; cut < 22; cut++) { /* a directory that runs past the end, a directory far outside */
        make_tiff(tiff, false, 6);
        RF_AUTO(bytes_finish) struct bytes torn = png_with_chunk(&png, "eXIf", tiff, cut);
        assert_turned(&torn, 1);
        memset(tiff + 4, 0xff, 4);
        RF_AUTO(bytes_finish) struct bytes far = png_with_chunk(&png, "eXIf", tiff, cut);
        assert_turned(&far, 1);
    }
}

/* ---- crop and scale ---- */

static void centre_is_cropped_to_the_aspect_asked_for(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image wide = scene_image(96, 32), tall = scene_image(32, 96);
    for (int i = 0; i < 96 * 32; i++) {
        bool in_wide = i % 96 >= 32 && i % 96 < 64, in_tall = i / 32 >= 32 && i / 32 < 64;
        memset(wide.rgb + 3 * i, in_wide ? 250 : 0, 3);
        memset(tall.rgb + 3 * i, in_tall ? 250 : 0, 3);
    }
    RF_AUTO(bytes_finish) struct bytes a = encode(&wide, RF_IMAGE_PNG), b = encode(&tall, RF_IMAGE_PNG);
    RF_AUTO(rf_image_finish) struct rf_image from_wide = decode(&a, 32, 32), from_tall = decode(&b, 32, 32);
    for (int i = 0; i < 32 * 32 * 3; i++) {
        assert_int_equal(from_wide.rgb[i], 250);
        assert_int_equal(from_tall.rgb[i], 250);
    }
}

static void shrinking_averages_instead_of_skipping(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image board = scene_image(256, 256);
    for (int i = 0; i < 256 * 256; i++)
        memset(board.rgb + 3 * i, (i % 256 + i / 256) % 2 ? 255 : 1, 3);
    RF_AUTO(bytes_finish) struct bytes png = encode(&board, RF_IMAGE_PNG);
    RF_AUTO(rf_image_finish) struct rf_image small = decode(&png, 75, 75);
    for (int y = 2; y < 73; y++)
        for (int x = 2; x < 73; x++)
            assert_in_range(small.rgb[3 * (y * 75 + x)], 126, 130); /* without widening: 44 to 212 */
}

static void scaling_keeps_position_and_brightness(void **state)
{
    static const int sizes[][2] = { { 96, 64 }, { 100, 67 }, { 384, 256 }, { 1000, 666 } };
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(192, 128);
    for (int i = 0; i < 192 * 128; i++) /* a ramp: every pixel knows where it should be */
        for (int c = 0; c < 3; c++)
            image.rgb[3 * i + c] = (uint8_t)(c == 0 ? i % 192 : c == 1 ? i / 192 : 77);
    RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG);
    for (size_t s = 0; s < RF_COUNT_OF(sizes); s++) {
        RF_AUTO(rf_image_finish) struct rf_image back = decode(&png, sizes[s][0], sizes[s][1]);
        double scale = fmin(192.0 / back.width, 128.0 / back.height);
        for (int y = back.height / 8; y < back.height * 7 / 8; y++)
            for (int x = back.width / 8; x < back.width * 7 / 8; x++) {
                const uint8_t *p = back.rgb + 3 * (y * back.width + x);
                /* rounding alone is 0.5 */
                assert_true(fabs(p[0] - ((x + 0.5 - back.width / 2.0) * scale + 95.5)) < 0.8);
                assert_true(fabs(p[1] - ((y + 0.5 - back.height / 2.0) * scale + 63.5)) < 0.8);
                assert_int_equal(p[2], 77);
            }
    }
}

static void image_of_the_right_size_is_untouched(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(192, 128);
    RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG);
    RF_AUTO(rf_image_finish) struct rf_image back = decode(&png, 192, 128);
    assert_memory_equal(back.rgb, image.rgb, 192 * 128 * 3);
}

static void bad_target_size_is_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(8, 8);
    RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG);
    struct rf_image back = { 0 };
    assert_int_equal(rf_image_decode(png.data, png.n, 8, 0, &back, NULL), RF_ERR_INVALID);
    assert_int_equal(rf_image_decode(png.data, png.n, -8, 8, &back, NULL), RF_ERR_INVALID);
    assert_int_equal(rf_image_decode(png.data, png.n, 8, 20000, &back, NULL), RF_ERR_INVALID);
}

/* ---- hostile and damaged ---- */

static void other_kinds_are_refused(void **state)
{
    static const char *const others[] = { "", "x", "GIF89a\1\0\1\0\0\0\0;", "BM6\0\0\0", "<svg xmlns='x'/>",
                                          "RIFF\4\0\0\0WAVE", "\x89PNG\r\n\x1a", "\xff\xd8" };
    for (size_t i = 0; i < RF_COUNT_OF(others); i++) {
        struct bytes b = { (uint8_t *)(uintptr_t)others[i], strlen(others[i]) };
        assert_refused(&b, RF_ERR_FORMAT, "not a PNG, JPEG or WebP");
    }
}

static void file_cut_anywhere_is_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(24, 16);
    struct bytes files[3] = { encode(&image, RF_IMAGE_PNG), encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1),
                              encode(&image, RF_IMAGE_WEBP) };
    for (int i = 0; i < 3; i++) {
        for (size_t cut = 0; cut < files[i].n; cut++) {
            /* its own block, so that the sanitizer sees a read of one byte too many */
            RF_AUTO(bytes_finish) struct bytes torn = { rf_new_array(uint8_t, cut), cut };
            memcpy(torn.data, files[i].data, cut);
            assert_refused(&torn, RF_ERR_FORMAT, "");
        }
        RF_AUTO(rf_image_finish) struct rf_image whole = decode(&files[i], 0, 0);
        assert_int_equal(whole.width, 24);
        bytes_finish(&files[i]);
    }
}

static void flipped_bytes_never_crash(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(24, 16);
    struct bytes files[3] = { encode(&image, RF_IMAGE_PNG), encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1),
                              encode(&image, RF_IMAGE_WEBP) };
    uint32_t random = 1;
    for (int i = 0; i < 1500; i++) {
        RF_AUTO(bytes_finish) struct bytes b = insert(&files[i % 3], 0, "", 0);
        for (int k = 0; k < 1 + i % 4; k++) {
            random = random * 1664525 + 1013904223;
            b.data[random % b.n] = (uint8_t)(random >> 24);
        }
        RF_AUTO(rf_image_finish) struct rf_image back = { 0 };
        struct rf_err err = { 0 };
        enum rf_code rc = rf_image_decode(b.data, b.n, 16, 16, &back, &err);
        if (rc != RF_OK && rc != RF_ERR_FORMAT && rc != RF_ERR_LIMIT)
            fail_msg("%s: %s", rf_code_name(rc), err.msg);
    }
    for (int i = 0; i < 3; i++)
        bytes_finish(&files[i]);
}

static void png_with_wrong_checksum_is_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG);
    png.data[png.n - 20] ^= 1;
    assert_refused(&png, RF_ERR_FORMAT, "checksum");
}

/* Small files that claim giant pictures: refused from the header, no memory asked for. */
static void giant_sizes_are_refused_before_decoding(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(24, 16);
    static const uint32_t sizes[][2] = { { 16385, 1 }, { 1, 16385 }, { 16384, 16384 }, { 0x7fffffff, 0x7fffffff } };
    for (size_t i = 0; i < RF_COUNT_OF(sizes); i++) {
        RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG);
        AV_WB32(png.data + 16, sizes[i][0]);
        AV_WB32(png.data + 20, sizes[i][1]);
        RF_AUTO(bytes_finish) struct bytes head = png_chunk("IHDR", png.data + 16, 13);
        memcpy(png.data + 8, head.data, head.n);
        assert_refused(&png, RF_ERR_LIMIT, "64 million");
    }
    RF_AUTO(bytes_finish) struct bytes jpeg = encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1);
    uint8_t *frame = memmem(jpeg.data, jpeg.n, "\xff\xc0", 2);
    memset(frame + 5, 0xff, 4);
    assert_refused(&jpeg, RF_ERR_LIMIT, "65535x65535");
    RF_AUTO(bytes_finish) struct bytes webp = encode(&image, RF_IMAGE_WEBP);
    RF_AUTO(bytes_finish) struct bytes wide = webp_with_exif(&webp, 1 << 24, 1 << 24, 0, "", 0);
    assert_refused(&wide, RF_ERR_LIMIT, "16777216x16777216");
    RF_AUTO(bytes_finish) struct bytes two = webp_with_exif(&webp, 25, 16, 0, "", 0);
    assert_refused(&two, RF_ERR_FORMAT, "two sizes");
}

static void empty_sizes_are_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes jpeg = encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1);
    uint8_t *frame = memmem(jpeg.data, jpeg.n, "\xff\xc0", 2);
    memset(frame + 5, 0, 2);
    assert_refused(&jpeg, RF_ERR_FORMAT, "no pixels");
}

static void animations_are_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG), webp = encode(&image, RF_IMAGE_WEBP);
    RF_AUTO(bytes_finish) struct bytes moving_png = png_with_chunk(&png, "acTL", "\0\0\0\2\0\0\0\0", 8);
    RF_AUTO(bytes_finish) struct bytes moving_webp = webp_with_exif(&webp, 24, 16, 2, "", 0);
    assert_refused(&moving_png, RF_ERR_FORMAT, "animated");
    assert_refused(&moving_webp, RF_ERR_FORMAT, "animated");
}

static void printing_inks_and_rare_jpegs_are_refused_with_advice(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes jpeg = encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1);
    uint8_t *frame = memmem(jpeg.data, jpeg.n, "\xff\xc0", 2);
    frame[9] = 4;
    assert_refused(&jpeg, RF_ERR_FORMAT, "RGB");
    frame[4] = 12;
    assert_refused(&jpeg, RF_ERR_FORMAT, "8 bits");
    frame[1] = 0xc9;
    assert_refused(&jpeg, RF_ERR_FORMAT, "arithmetic");
}

/* A text chunk that unpacks to gigabytes must not reach a decompressor: what is handed on is the file without it. */
static void extra_parts_are_not_handed_on(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes png = encode(&image, RF_IMAGE_PNG);
    RF_AUTO(rf_image_head_finish) struct rf_image_head before = { 0 }, after = { 0 };
    assert_int_equal(rf_image_head_read(png.data, png.n, &before, NULL), RF_OK);
    RF_AUTO(bytes_finish) struct bytes text = png_with_chunk(&png, "zTXt", "key\0\0not zlib", 13);
    RF_AUTO(bytes_finish) struct bytes both = png_with_chunk(&text, "iCCP", "key\0\0not zlib", 13);
    assert_int_equal(rf_image_head_read(both.data, both.n, &after, NULL), RF_OK);
    assert_int_equal(after.size_bytes, before.size_bytes);
    assert_memory_equal(after.bytes, before.bytes, before.size_bytes);
}

/* FFmpeg's own limit on one allocation stands in for a machine without memory. */
static void lack_of_memory_is_an_error(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = scene_image(200, 160);
    struct bytes files[3] = { encode(&image, RF_IMAGE_PNG), encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1),
                              encode(&image, RF_IMAGE_WEBP) };
    int n_failed = 0;
    for (int i = 0; i < 3; i++) {
        for (size_t most = 64; most < 1 << 20; most *= 2) {
            RF_AUTO(rf_image_finish) struct rf_image back = { 0 };
            struct rf_err err = { 0 };
            av_max_alloc(most);
            enum rf_code rc = rf_image_decode(files[i].data, files[i].n, 0, 0, &back, &err);
            av_max_alloc(INT_MAX);
            if (rc != RF_OK && rc != RF_ERR_NO_MEMORY && rc != RF_ERR_FORMAT) /* FFmpeg calls zlib's lack damage */
                fail_msg("%s: %s", rf_code_name(rc), err.msg);
            n_failed += rc != RF_OK;
        }
        bytes_finish(&files[i]);
    }
    assert_true(n_failed > 10);
}

static void webp_with_alpha_lies_over_grey(void **state)
{
    AVFrame *f = new_frame(AV_PIX_FMT_RGB32, 32, 32);
    for (int i = 0; i < 32 * f->linesize[0]; i += 4) {
        uint32_t argb = i < 16 * f->linesize[0] ? 0x00ff0000 : 0xffff0000;
        memcpy(f->data[0] + i, &argb, 4);
    }
    RF_AUTO(bytes_finish) struct bytes webp = encode_frame(AV_CODEC_ID_WEBP, f);
    RF_AUTO(rf_image_finish) struct rf_image back = decode(&webp, 0, 0);
    assert_colour(&back, 16, 4, 128, 128, 128, 1);
    assert_colour(&back, 16, 28, 255, 0, 0, 6);
    av_frame_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_is_lossless_at_every_size),
        cmocka_unit_test(webp_keeps_size_and_colours),
        cmocka_unit_test(webp_with_alpha_lies_over_grey),
        cmocka_unit_test(jpeg_colours_are_right_for_every_subsampling),
        cmocka_unit_test(png_of_every_depth_and_with_alpha_is_read),
        cmocka_unit_test(palette_png_is_read),
        cmocka_unit_test(all_eight_exif_orientations_are_applied),
        cmocka_unit_test(nonsense_orientation_is_ignored),
        cmocka_unit_test(centre_is_cropped_to_the_aspect_asked_for),
        cmocka_unit_test(shrinking_averages_instead_of_skipping),
        cmocka_unit_test(scaling_keeps_position_and_brightness),
        cmocka_unit_test(image_of_the_right_size_is_untouched),
        cmocka_unit_test(bad_target_size_is_refused),
        cmocka_unit_test(other_kinds_are_refused),
        cmocka_unit_test(file_cut_anywhere_is_refused),
        cmocka_unit_test(flipped_bytes_never_crash),
        cmocka_unit_test(png_with_wrong_checksum_is_refused),
        cmocka_unit_test(giant_sizes_are_refused_before_decoding),
        cmocka_unit_test(empty_sizes_are_refused),
        cmocka_unit_test(animations_are_refused),
        cmocka_unit_test(printing_inks_and_rare_jpegs_are_refused_with_advice),
        cmocka_unit_test(extra_parts_are_not_handed_on),
        cmocka_unit_test(lack_of_memory_is_an_error),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
