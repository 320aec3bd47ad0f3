/* Images from strangers: every sort we do not take and every damaged one is refused with words.
 * SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <libavutil/intreadwrite.h>
#include <libavutil/mem.h>

#include "tests/media/image_files.h"
#include "worker/media/image_head.h"

static void other_kinds_are_refused(void **state)
{
    static const char *const others[] = { "", "x", "GIF89a\1\0\1\0\0\0\0;", "BM6\0\0\0", "<svg xmlns='x'/>",
                                          "RIFF\4\0\0\0WAVE", "\x89PNG\r\n\x1a", "\xff\xd8" };
    for (size_t i = 0; i < RF_COUNT_OF(others); i++) {
        struct bytes b = { (uint8_t *)(uintptr_t)others[i], strlen(others[i]) };
        test_refused(&b, RF_ERR_FORMAT, "not a PNG, JPEG or WebP");
    }
}

static void file_cut_anywhere_is_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(24, 16);
    struct bytes files[3] = { test_encode(&image, RF_IMAGE_PNG), test_encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1),
                              test_encode(&image, RF_IMAGE_WEBP) };
    for (int i = 0; i < 3; i++) {
        for (size_t cut = 0; cut < files[i].n; cut++) {
            /* its own block, so that the sanitizer sees a read of one byte too many */
            RF_AUTO(bytes_finish) struct bytes torn = { rf_new_array(uint8_t, cut), cut };
            memcpy(torn.data, files[i].data, cut);
            test_refused(&torn, RF_ERR_FORMAT, "");
        }
        RF_AUTO(rf_image_finish) struct rf_image whole = test_decode(&files[i], 0, 0);
        assert_int_equal(whole.width, 24);
        bytes_finish(&files[i]);
    }
}

static void flipped_bytes_never_crash(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(24, 16);
    struct bytes files[3] = { test_encode(&image, RF_IMAGE_PNG), test_encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1),
                              test_encode(&image, RF_IMAGE_WEBP) };
    uint32_t random = 1;
    for (int i = 0; i < 1500; i++) {
        RF_AUTO(bytes_finish) struct bytes b = test_insert(&files[i % 3], 0, "", 0);
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
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    png.data[png.n - 20] ^= 1;
    test_refused(&png, RF_ERR_FORMAT, "checksum");
}

/* Small files that claim giant pictures: refused from the header, no memory asked for. */
static void giant_sizes_are_refused_before_decoding(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(24, 16);
    static const uint32_t sizes[][2] = { { 16385, 1 }, { 1, 16385 }, { 16384, 16384 }, { 0x7fffffff, 0x7fffffff } };
    for (size_t i = 0; i < RF_COUNT_OF(sizes); i++) {
        RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
        AV_WB32(png.data + 16, sizes[i][0]);
        AV_WB32(png.data + 20, sizes[i][1]);
        RF_AUTO(bytes_finish) struct bytes head = test_png_chunk("IHDR", png.data + 16, 13);
        memcpy(png.data + 8, head.data, head.n);
        test_refused(&png, RF_ERR_LIMIT, "64 million");
    }
    RF_AUTO(bytes_finish) struct bytes jpeg = test_encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1);
    uint8_t *frame = memmem(jpeg.data, jpeg.n, "\xff\xc0", 2);
    memset(frame + 5, 0xff, 4);
    test_refused(&jpeg, RF_ERR_LIMIT, "65535x65535");
    RF_AUTO(bytes_finish) struct bytes webp = test_encode(&image, RF_IMAGE_WEBP);
    RF_AUTO(bytes_finish) struct bytes wide = test_webp_with_exif(&webp, 1 << 24, 1 << 24, 0, "", 0);
    test_refused(&wide, RF_ERR_LIMIT, "16777216x16777216");
    RF_AUTO(bytes_finish) struct bytes two = test_webp_with_exif(&webp, 25, 16, 0, "", 0);
    test_refused(&two, RF_ERR_FORMAT, "two sizes");
}

static void empty_sizes_are_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes jpeg = test_encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1);
    uint8_t *frame = memmem(jpeg.data, jpeg.n, "\xff\xc0", 2);
    memset(frame + 5, 0, 2);
    test_refused(&jpeg, RF_ERR_FORMAT, "no pixels");
}

static void animations_are_refused(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    RF_AUTO(bytes_finish) struct bytes webp = test_encode(&image, RF_IMAGE_WEBP);
    RF_AUTO(bytes_finish) struct bytes moving_png = test_png_with_chunk(&png, "acTL", "\0\0\0\2\0\0\0\0", 8);
    RF_AUTO(bytes_finish) struct bytes moving_webp = test_webp_with_exif(&webp, 24, 16, 2, "", 0);
    test_refused(&moving_png, RF_ERR_FORMAT, "animated");
    test_refused(&moving_webp, RF_ERR_FORMAT, "animated");
}

static void printing_inks_and_rare_jpegs_are_refused_with_advice(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes jpeg = test_encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1);
    uint8_t *frame = memmem(jpeg.data, jpeg.n, "\xff\xc0", 2);
    frame[9] = 4;
    test_refused(&jpeg, RF_ERR_FORMAT, "RGB");
    frame[4] = 12;
    test_refused(&jpeg, RF_ERR_FORMAT, "8 bits");
    frame[1] = 0xc9;
    test_refused(&jpeg, RF_ERR_FORMAT, "arithmetic");
}

/* A text chunk that unpacks to gigabytes must not reach a decompressor: what is handed on is the file without it. */
static void extra_parts_are_not_handed_on(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(24, 16);
    RF_AUTO(bytes_finish) struct bytes png = test_encode(&image, RF_IMAGE_PNG);
    RF_AUTO(rf_image_head_finish) struct rf_image_head before = { 0 }, after = { 0 };
    assert_int_equal(rf_image_head_read(png.data, png.n, &before, NULL), RF_OK);
    RF_AUTO(bytes_finish) struct bytes text = test_png_with_chunk(&png, "zTXt", "key\0\0not zlib", 13);
    RF_AUTO(bytes_finish) struct bytes both = test_png_with_chunk(&text, "iCCP", "key\0\0not zlib", 13);
    assert_int_equal(rf_image_head_read(both.data, both.n, &after, NULL), RF_OK);
    assert_int_equal(after.size_bytes, before.size_bytes);
    assert_memory_equal(after.bytes, before.bytes, before.size_bytes);
}

/* FFmpeg's own limit on one allocation stands in for a machine without memory. */
static void lack_of_memory_is_an_error(void **state)
{
    RF_AUTO(rf_image_finish) struct rf_image image = test_scene_image(200, 160);
    struct bytes files[3] = { test_encode(&image, RF_IMAGE_PNG), test_encode_jpeg(&image, AV_PIX_FMT_YUVJ420P, 1, 1),
                              test_encode(&image, RF_IMAGE_WEBP) };
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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    return cmocka_run_group_tests_name("image_hostile", tests, NULL, NULL);
}
