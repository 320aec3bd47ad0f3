/* Images there and back: every sort we take comes out with the right colours. Turned and scaled ones are in
 * test_image_shape.c, hostile and damaged ones in test_image_hostile.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/media/helpers.h"
#include "tests/media/image_files.h"

static void png_is_lossless_at_every_size(void **state)
{
    static const int sizes[][2] = { { 1, 1 }, { 2, 3 }, { 37, 23 }, { 192, 128 } };
    for (size_t i = 0; i < RF_COUNT_OF(sizes); i++) {
        RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(sizes[i][0], sizes[i][1]);
        RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
        RF_AUTO(rf_image_finish) struct rf_image back = test_decode(&png, 0, 0);
        assert_int_equal(back.width, image.width);
        assert_int_equal(back.height, image.height);
        assert_memory_equal(back.rgb, image.rgb, (size_t)(image.width * image.height * 3));
    }
}

static void webp_keeps_size_and_colours(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(191, 127);
    RF_AUTO(bytes_finish) struct bytes webp = test_encode(&image, RF_IMAGE_WEBP);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    RF_AUTO(rf_image_finish) struct rf_image back = test_decode(&webp, 0, 0);
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
    RF_AUTO(rf_image_finish) struct rf_image image = test_corners(64, 32);
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        RF_AUTO(bytes_finish) struct bytes jpeg =
            test_encode_jpeg(&image, cases[i].format, cases[i].shift_x, cases[i].shift_y);
        RF_AUTO(rf_image_finish) struct rf_image back = test_decode(&jpeg, 0, 0);
        test_colour(&back, 5, 5, 255, 0, 0, 3);
        test_colour(&back, 58, 5, 0, 255, 0, 3);
        test_colour(&back, 5, 26, 0, 0, 255, 3);
        test_colour(&back, 58, 26, 255, 255, 255, 3);
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
        AVFrame *f = test_new_frame(cases[i].format, 9, 5);
        for (int k = 0; k < 5 * f->linesize[0]; k++)
            f->data[0][k] = cases[i].pixel[k % f->linesize[0] % cases[i].n_bytes];
        RF_AUTO(bytes_finish) struct bytes png = test_encode_frame(AV_CODEC_ID_PNG, f);
        RF_AUTO(rf_image_finish) struct rf_image back = test_decode(&png, 0, 0);
        test_colour(&back, 0, 0, cases[i].r, cases[i].g, cases[i].b, 0);
        test_colour(&back, 8, 4, cases[i].r, cases[i].g, cases[i].b, 0);
        av_frame_free(&f);
    }
}

static void palette_png_is_read(void **state)
{
    AVFrame *f = test_new_frame(AV_PIX_FMT_PAL8, 8, 8);
    uint32_t palette[256] = { 0xff102030, 0x00ffffff };
    memcpy(f->data[1], palette, sizeof palette);
    for (int y = 0; y < 8; y++)
        memset(f->data[0] + y * f->linesize[0], y >= 4, 8);
    RF_AUTO(bytes_finish) struct bytes png = test_encode_frame(AV_CODEC_ID_PNG, f);
    RF_AUTO(rf_image_finish) struct rf_image back = test_decode(&png, 0, 0);
    test_colour(&back, 3, 1, 0x10, 0x20, 0x30, 0);
    test_colour(&back, 3, 7, 128, 128, 128, 0);
    av_frame_free(&f);
}

static void webp_with_alpha_lies_over_grey(void **state)
{
    AVFrame *f = test_new_frame(AV_PIX_FMT_RGB32, 32, 32);
    for (int i = 0; i < 32 * f->linesize[0]; i += 4) {
        uint32_t argb = i < 16 * f->linesize[0] ? 0x00ff0000 : 0xffff0000;
        memcpy(f->data[0] + i, &argb, 4);
    }
    RF_AUTO(bytes_finish) struct bytes webp = test_encode_frame(AV_CODEC_ID_WEBP, f);
    RF_AUTO(rf_image_finish) struct rf_image back = test_decode(&webp, 0, 0);
    test_colour(&back, 16, 4, 128, 128, 128, 1);
    test_colour(&back, 16, 28, 255, 0, 0, 6);
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
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
