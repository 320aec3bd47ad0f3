/* Images come out the right way up, cropped and scaled to the size asked for.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/media/helpers.h"
#include "tests/media/image_files.h"

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
    return test_insert(jpeg, 2, app1, n);
}

/* Where the stored corners (0 red, 1 green, 2 blue, 3 white) are when shown: top left, top right, bottom left,
 * bottom right. */
static const int shown[9][4] = { { 0 },          { 0, 1, 2, 3 }, { 1, 0, 3, 2 }, { 3, 2, 1, 0 }, { 2, 3, 0, 1 },
                                 { 0, 2, 1, 3 }, { 2, 0, 3, 1 }, { 3, 1, 2, 0 }, { 1, 3, 0, 2 } };

static void assert_turned(const struct bytes *file, int orientation)
{
    static const int colours[4][3] = { { 255, 0, 0 }, { 0, 255, 0 }, { 0, 0, 255 }, { 255, 255, 255 } };
    RF_AUTO(rf_image_finish) struct rf_image back = test_decode(file, 0, 0);
    assert_int_equal(back.width, orientation >= 5 ? 32 : 64);
    assert_int_equal(back.height, orientation >= 5 ? 64 : 32);
    for (int corner = 0; corner < 4; corner++) {
        const int *c = colours[shown[orientation][corner]];
        int x = corner % 2 ? back.width - 4 : 3, y = corner / 2 ? back.height - 4 : 3;
        test_colour(&back, x, y, c[0], c[1], c[2], 8);
    }
}

static void all_eight_exif_orientations_are_applied(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_corners(64, 32);
    RF_AUTO(bytes_finish) struct bytes jpeg = test_encode_jpeg(&image, AV_PIX_FMT_YUVJ444P, 0, 0);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    RF_AUTO(bytes_finish) struct bytes webp = test_encode(&image, RF_IMAGE_WEBP);
    for (int o = 1; o <= 8; o++) {
        uint8_t tiff[32];
        size_t n = make_tiff(tiff, o % 2, o);
        RF_AUTO(bytes_finish) struct bytes little = jpeg_with_orientation(&jpeg, true, o);
        RF_AUTO(bytes_finish) struct bytes big = jpeg_with_orientation(&jpeg, false, o);
        RF_AUTO(bytes_finish) struct bytes turned_png = test_png_with_chunk(&png, "eXIf", tiff, n);
        RF_AUTO(bytes_finish) struct bytes turned_webp = test_webp_with_exif(&webp, 64, 32, 8, tiff, n);
        assert_turned(&little, o);
        assert_turned(&big, o);
        assert_turned(&turned_png, o);
        assert_turned(&turned_webp, o);
    }
}

static void nonsense_orientation_is_ignored(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_corners(64, 32);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    uint8_t tiff[32];
    size_t n = make_tiff(tiff, false, 9);
    RF_AUTO(bytes_finish) struct bytes nine = test_png_with_chunk(&png, "eXIf", tiff, n);
    assert_turned(&nine, 1);
    for (size_t cut = 0; cut < 22; cut++) { /* a directory that runs past the end, a directory far outside */
        make_tiff(tiff, false, 6);
        RF_AUTO(bytes_finish) struct bytes torn = test_png_with_chunk(&png, "eXIf", tiff, cut);
        assert_turned(&torn, 1);
        memset(tiff + 4, 0xff, 4);
        RF_AUTO(bytes_finish) struct bytes far = test_png_with_chunk(&png, "eXIf", tiff, cut);
        assert_turned(&far, 1);
    }
}

/* ---- crop and scale ---- */

static void centre_is_cropped_to_the_aspect_asked_for(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image wide = test_scene_image(96, 32), tall = test_scene_image(32, 96);
    for (int i = 0; i < 96 * 32; i++) {
        bool in_wide = i % 96 >= 32 && i % 96 < 64, in_tall = i / 32 >= 32 && i / 32 < 64;
        memset(wide.rgb + 3 * i, in_wide ? 250 : 0, 3);
        memset(tall.rgb + 3 * i, in_tall ? 250 : 0, 3);
    }
    RF_AUTO(bytes_finish) struct bytes a = test_encode(&wide, RF_IMAGE_PNG), b = test_encode(&tall, RF_IMAGE_PNG);
    RF_AUTO(rf_image_finish) struct rf_image from_wide = test_decode(&a, 32, 32), from_tall = test_decode(&b, 32, 32);
    for (int i = 0; i < 32 * 32 * 3; i++) {
        assert_int_equal(from_wide.rgb[i], 250);
        assert_int_equal(from_tall.rgb[i], 250);
    }
}

static void shrinking_averages_instead_of_skipping(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image board = test_scene_image(256, 256);
    for (int i = 0; i < 256 * 256; i++)
        memset(board.rgb + 3 * i, (i % 256 + i / 256) % 2 ? 255 : 1, 3);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&board, RF_IMAGE_PNG);
    RF_AUTO(rf_image_finish) struct rf_image small = test_decode(&png, 75, 75);
    for (int y = 2; y < 73; y++)
        for (int x = 2; x < 73; x++)
            assert_in_range(small.rgb[3 * (y * 75 + x)], 126, 130); /* without widening: 44 to 212 */
}

static void scaling_keeps_position_and_brightness(void **state)
{
    static const int sizes[][2] = { { 96, 64 }, { 100, 67 }, { 384, 256 }, { 1000, 666 } };
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(192, 128);
    for (int i = 0; i < 192 * 128; i++) /* a ramp: every pixel knows where it should be */
        for (int c = 0; c < 3; c++)
            image.rgb[3 * i + c] = (uint8_t)(c == 0 ? i % 192 : c == 1 ? i / 192 : 77);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    for (size_t s = 0; s < RF_COUNT_OF(sizes); s++) {
        RF_AUTO(rf_image_finish) struct rf_image back = test_decode(&png, sizes[s][0], sizes[s][1]);
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
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(192, 128);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    RF_AUTO(rf_image_finish) struct rf_image back = test_decode(&png, 192, 128);
    assert_memory_equal(back.rgb, image.rgb, 192 * 128 * 3);
}

static void bad_target_size_is_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(8, 8);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    struct rf_image back = { 0 };
    assert_int_equal(rf_image_decode(png.data, png.n, 8, 0, &back, NULL), RF_ERR_INVALID);
    assert_int_equal(rf_image_decode(png.data, png.n, -8, 8, &back, NULL), RF_ERR_INVALID);
    assert_int_equal(rf_image_decode(png.data, png.n, 8, 20000, &back, NULL), RF_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_eight_exif_orientations_are_applied),
        cmocka_unit_test(nonsense_orientation_is_ignored),
        cmocka_unit_test(centre_is_cropped_to_the_aspect_asked_for),
        cmocka_unit_test(shrinking_averages_instead_of_skipping),
        cmocka_unit_test(scaling_keeps_position_and_brightness),
        cmocka_unit_test(image_of_the_right_size_is_untouched),
        cmocka_unit_test(bad_target_size_is_refused),
    };
    return cmocka_run_group_tests_name("image_shape", tests, NULL, NULL);
}
