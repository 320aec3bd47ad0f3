/* Videos written, read back, joined: colours, counts, clocks, and what a full disk or a torn file does.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/media/helpers.h"
#include "worker/media/video.h"

#define WIDTH 96
#define HEIGHT 64
#define FRAME_BYTES (WIDTH * HEIGHT * 3)

static const struct rf_video_opts plain = { .width = WIDTH, .height = HEIGHT, .fps = 32 };

/* n frames of the moving scene from number `first` on. */
static enum rf_code write_scene(const char *path, const struct rf_video_opts *opts, int first, int n,
                                struct rf_err *err)
{
    uint8_t *rgb = rf_new_array(uint8_t, (size_t)opts->width * (size_t)opts->height * 3);
    RF_AUTO(rf_video_writer_destroy) struct rf_video_writer *w = NULL;
    enum rf_code rc = rf_video_writer_open(path, opts, &w, err);
    for (int i = 0; rc == RF_OK && i < n; i++) {
        test_scene(rgb, opts->width, opts->height, (first + i) / 2.0, 3, 1);
        rc = rf_video_writer_push(w, rgb, err);
    }
    if (rc == RF_OK)
        rc = rf_video_writer_finish(w, err);
    free(rgb);
    return rc;
}

static const char *scene_file(const char *name, int first, int n)
{
    struct rf_err err = { 0 };
    const char *path = test_path(name);
    if (write_scene(path, &plain, first, n, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return path;
}

/* How well frame `number` of a file shows frame `of_scene`. */
static double frame_psnr(const char *path, int number, int of_scene)
{
    struct rf_err err = { 0 };
    uint8_t rgb[FRAME_BYTES];
    RF_AUTO(rf_image_finish) struct rf_image image = { 0 };
    if (rf_video_frame(path, number, &image, &err) != RF_OK)
        fail_msg("%s", err.msg);
    test_scene(rgb, WIDTH, HEIGHT, of_scene / 2.0, 3, 1);
    return test_psnr(image.rgb, rgb, FRAME_BYTES);
}

/* ---- what is in the file ---- */

static void probe_counts_every_frame(void **state)
{
    for (int n = 1; n <= 70; n += n < 6 ? 1 : 64) {
        const char *path = scene_file("n.mp4", 0, n);
        struct rf_video_info info;
        assert_int_equal(rf_video_probe(path, &info, NULL), RF_OK);
        assert_int_equal(info.n_frames, n);
        assert_int_equal(info.fps, 32);
        assert_int_equal(info.width, WIDTH);
        assert_int_equal(info.height, HEIGHT);
        assert_true(fabs(info.seconds - n / 32.0) < 1e-9);
        assert_true(info.size_bytes > 500);
    }
}

static long find(const uint8_t *bytes, size_t n, const char *name)
{
    const uint8_t *at = memmem(bytes, n, name, strlen(name));
    return at != NULL ? at - bytes : -1;
}

static void index_comes_first_without_an_edit_list(void **state)
{
    size_t n;
    uint8_t *bytes = test_read_file(scene_file("boxes.mp4", 0, 40), &n);
    assert_true(find(bytes, n, "moov") > 0);
    assert_true(find(bytes, n, "moov") < find(bytes, n, "mdat"));
    assert_int_equal(find(bytes, n, "elst"), -1);
    long colour = find(bytes, n, "colrnclx");
    assert_true(colour > 0);
    assert_memory_equal(bytes + colour + 8, "\0\1\0\1\0\1\0", 7); /* BT.709 three times, limited range */
    free(bytes);
}

static void every_frame_is_where_it_belongs(void **state)
{
    const char *path = scene_file("order.mp4", 0, 70);
    for (int i = 0; i < 70; i += 3) {
        double right = frame_psnr(path, i, i);
        assert_true(right > 30);                             /* measured 32.5 and more; 4:2:0 is most of the loss */
        assert_true(right > frame_psnr(path, i, i + 1) + 4); /* measured 4.7 and more; a neighbour is 1.5 pixels off */
    }
    assert_true(frame_psnr(path, 69, 69) > 30);
}

static void frame_out_of_range_is_refused_by_number(void **state)
{
    const char *path = scene_file("range.mp4", 0, 5);
    struct rf_err err;
    RF_AUTO(rf_image_finish) struct rf_image image = { 0 };
    assert_int_equal(rf_video_frame(path, 5, &image, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "frame 5 of 5"));
    assert_int_equal(rf_video_frame(path, -1, &image, &err), RF_ERR_INVALID);
}

static void same_input_gives_the_same_bytes(void **state)
{
    size_t n_a, n_b;
    uint8_t *a = test_read_file(scene_file("a.mp4", 0, 40), &n_a);
    uint8_t *b = test_read_file(scene_file("b.mp4", 0, 40), &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(a, b, n_a);
    free(a);
    free(b);
}

static void crf_and_preset_reach_the_encoder(void **state)
{
    struct rf_video_opts coarse = plain, fast = plain;
    coarse.crf = 40;
    fast.preset = "ultrafast";
    struct rf_video_info normal, small, quick;
    assert_int_equal(rf_video_probe(scene_file("normal.mp4", 0, 20), &normal, NULL), RF_OK);
    assert_int_equal(write_scene(test_path("coarse.mp4"), &coarse, 0, 20, NULL), RF_OK);
    assert_int_equal(write_scene(test_path("fast.mp4"), &fast, 0, 20, NULL), RF_OK);
    assert_int_equal(rf_video_probe(test_path("coarse.mp4"), &small, NULL), RF_OK);
    assert_int_equal(rf_video_probe(test_path("fast.mp4"), &quick, NULL), RF_OK);
    assert_true(small.size_bytes < normal.size_bytes / 2);
    assert_true(quick.size_bytes > normal.size_bytes);
}

/* ---- colours ---- */

static void flat_colours_survive_within_two_levels(void **state)
{
    static const int colours[][3] = { { 0, 0, 0 },      { 255, 255, 255 }, { 128, 128, 128 },
                                      { 255, 0, 0 },    { 0, 255, 0 },     { 0, 0, 255 },
                                      { 255, 255, 0 },  { 0, 255, 255 },   { 255, 0, 255 },
                                      { 200, 120, 40 }, { 17, 34, 51 },    { 250, 128, 114 } };
    struct rf_video_opts opts = plain;
    opts.crf = 4;
    for (size_t i = 0; i < RF_COUNT_OF(colours); i++) {
        uint8_t rgb[FRAME_BYTES];
        test_fill(rgb, WIDTH, HEIGHT, colours[i][0], colours[i][1], colours[i][2]);
        RF_AUTO(rf_video_writer_destroy) struct rf_video_writer *w = NULL;
        RF_AUTO(rf_image_finish) struct rf_image image = { 0 };
        const char *path = test_path("flat.mp4");
        assert_int_equal(rf_video_writer_open(path, &opts, &w, NULL), RF_OK);
        for (int k = 0; k < 3; k++)
            assert_int_equal(rf_video_writer_push(w, rgb, NULL), RF_OK);
        assert_int_equal(rf_video_writer_finish(w, NULL), RF_OK);
        assert_int_equal(rf_video_frame(path, 1, &image, NULL), RF_OK);
        int worst = test_max_difference(image.rgb, rgb, FRAME_BYTES);
        if (worst > 2) /* 2 is what 8-bit limited range costs; BT.601 in one direction alone makes it 36 */
            fail_msg("colour %zu came back %d levels away", i, worst);
    }
}

/* The numbers that players expect, from the BT.709 specification: both directions wrong alike would hide from a
 * round trip. */
static void stored_numbers_are_those_of_bt709(void **state)
{
    static const struct {
        uint8_t rgb[3], yuv[3];
    } cases[] = { { { 0, 0, 0 }, { 16, 128, 128 } },    { { 255, 255, 255 }, { 235, 128, 128 } },
                  { { 255, 0, 0 }, { 63, 102, 240 } },  { { 0, 255, 0 }, { 173, 42, 26 } },
                  { { 0, 0, 255 }, { 32, 240, 118 } },  { { 255, 255, 0 }, { 219, 16, 138 } },
                  { { 0, 255, 255 }, { 188, 154, 16 } } };
    AVFrame *f = av_frame_alloc();
    f->format = AV_PIX_FMT_YUV420P;
    f->width = f->height = 16;
    assert_int_equal(av_frame_get_buffer(f, 0), 0);
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        uint8_t rgb[16 * 16 * 3];
        test_fill(rgb, 16, 16, cases[i].rgb[0], cases[i].rgb[1], cases[i].rgb[2]);
        struct rf_yuv planes = rf_video_planes(f);
        rf_yuv_from_rgb(rgb, 16, 16, &planes);
        for (int p = 0; p < 3; p++)
            assert_int_equal(f->data[p][5 * f->linesize[p] + 3], cases[i].yuv[p]);
    }
    av_frame_free(&f);
}

/* A red bar on grey, its edges on even columns: with chroma sited left on both sides its centre of colour stays put. */
static void colour_does_not_move_sideways(void **state)
{
    uint8_t rgb[FRAME_BYTES];
    test_fill(rgb, WIDTH, HEIGHT, 110, 110, 110);
    for (int y = 0; y < HEIGHT; y++)
        test_fill(rgb + (y * WIDTH + 40) * 3, 16, 1, 210, 80, 80);
    struct rf_video_opts opts = plain;
    opts.crf = 1;
    RF_AUTO(rf_video_writer_destroy) struct rf_video_writer *w = NULL;
    RF_AUTO(rf_image_finish) struct rf_image image = { 0 };
    assert_int_equal(rf_video_writer_open(test_path("bar.mp4"), &opts, &w, NULL), RF_OK);
    assert_int_equal(rf_video_writer_push(w, rgb, NULL), RF_OK);
    assert_int_equal(rf_video_writer_finish(w, NULL), RF_OK);
    assert_int_equal(rf_video_frame(test_path("bar.mp4"), 0, &image, NULL), RF_OK);
    double weight = 0, moment = 0;
    for (int x = 0; x < WIDTH; x++) {
        const uint8_t *p = image.rgb + (HEIGHT / 2 * WIDTH + x) * 3;
        double redness = p[0] - (p[1] + p[2]) / 2.0;
        weight += redness;
        moment += redness * x;
    }
    assert_true(fabs(moment / weight - 47.5) < 0.1); /* measured 0.02; a 2x2 mean on one side alone shifts it by 0.25 */
}

/* ---- joining ---- */

static void joined_segments_are_one_clip(void **state)
{
    for (int n_files = 1; n_files <= 3; n_files++) {
        const char *paths[3] = { scene_file("s0.mp4", 0, 9), scene_file("s1.mp4", 9, 8), scene_file("s2.mp4", 17, 1) };
        static const int totals[] = { 9, 17, 18 };
        const char *out = test_path("joined.mp4");
        struct rf_err err = { 0 };
        if (rf_video_concat(paths, n_files, out, totals[n_files - 1], 32, &err) != RF_OK)
            fail_msg("%s", err.msg);
        struct rf_video_info info;
        assert_int_equal(rf_video_probe(out, &info, NULL), RF_OK);
        assert_int_equal(info.n_frames, totals[n_files - 1]);
        for (int i = 0; i < info.n_frames; i++)
            assert_true(frame_psnr(out, i, i) > 30);
    }
}

static void joining_long_segments_keeps_every_frame_at_the_seam(void **state)
{
    const char *paths[2] = { scene_file("l0.mp4", 0, 161), scene_file("l1.mp4", 161, 161) };
    const char *out = test_path("long.mp4");
    assert_int_equal(rf_video_concat(paths, 2, out, 322, 32, NULL), RF_OK);
    for (int i = 155; i < 168; i++)
        assert_true(frame_psnr(out, i, i) > 30);
}

static void joining_refuses_a_wrong_count(void **state)
{
    const char *paths[2] = { scene_file("c0.mp4", 0, 9), scene_file("c1.mp4", 9, 8) };
    struct rf_err err;
    assert_int_equal(rf_video_concat(paths, 2, test_path("count.mp4"), 18, 32, &err), RF_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "count.mp4"));
    assert_non_null(strstr(err.msg, "17 frames"));
    assert_int_equal(rf_video_concat(paths, 2, test_path("count.mp4"), 17, 16, &err), RF_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "c0.mp4"));
}

static void joining_refuses_other_sizes_and_options(void **state)
{
    struct rf_video_opts wider = plain, simpler = plain;
    wider.width += 16;
    simpler.preset = "ultrafast";
    const char *paths[2] = { scene_file("o0.mp4", 0, 5), test_path("o1.mp4") };
    struct rf_err err;
    assert_int_equal(write_scene(paths[1], &wider, 0, 5, NULL), RF_OK);
    assert_int_equal(rf_video_concat(paths, 2, test_path("o.mp4"), 10, 32, &err), RF_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "o1.mp4"));
    assert_int_equal(write_scene(paths[1], &simpler, 0, 5, NULL), RF_OK);
    assert_int_equal(rf_video_concat(paths, 2, test_path("o.mp4"), 10, 32, &err), RF_ERR_FORMAT);
}

/* ---- the contact sheet ---- */

static void sheet_shows_first_to_last_frame(void **state)
{
    const char *path = scene_file("sheet.mp4", 0, 130);
    RF_AUTO(rf_image_finish) struct rf_image sheet = { 0 }, last = { 0 };
    assert_int_equal(rf_video_sheet(path, 4, 2, WIDTH, &sheet, NULL), RF_OK);
    assert_int_equal(sheet.width, 4 * WIDTH);
    assert_int_equal(sheet.height, 2 * HEIGHT);
    assert_int_equal(rf_video_frame(path, 129, &last, NULL), RF_OK);
    for (int y = 0; y < HEIGHT; y++) /* same size: the last cell is the frame itself */
        assert_memory_equal(sheet.rgb + ((HEIGHT + y) * 4 + 3) * WIDTH * 3, last.rgb + y * WIDTH * 3, WIDTH * 3);
    RF_AUTO(rf_image_finish) struct rf_image small = { 0 };
    assert_int_equal(rf_video_sheet(path, 5, 3, 30, &small, NULL), RF_OK);
    assert_int_equal(small.width, 150);
    assert_int_equal(small.height, 60);
    assert_int_equal(rf_video_sheet(path, 0, 3, 30, &small, NULL), RF_ERR_INVALID);
    assert_int_equal(rf_video_sheet(path, 100, 3, 300, &small, NULL), RF_ERR_INVALID);
}

static void sheet_of_neighbours_skips_none(void **state)
{
    const char *path = scene_file("six.mp4", 0, 6);
    RF_AUTO(rf_image_finish) struct rf_image sheet = { 0 };
    assert_int_equal(rf_video_sheet(path, 1, 6, WIDTH, &sheet, NULL), RF_OK);
    for (int i = 0; i < 6; i++) {
        RF_AUTO(rf_image_finish) struct rf_image image = { 0 };
        assert_int_equal(rf_video_frame(path, i, &image, NULL), RF_OK);
        assert_memory_equal(sheet.rgb + i * FRAME_BYTES, image.rgb, FRAME_BYTES);
    }
}

/* ---- what goes wrong outside ---- */

static void bad_options_are_named(void **state)
{
    static const struct {
        struct rf_video_opts opts;
        const char *word;
    } cases[] = {
        { { .width = 97, .height = 64, .fps = 32 }, "97x64" },
        { { .width = 96, .height = 63, .fps = 32 }, "96x63" },
        { { .width = 96, .height = 0, .fps = 32 }, "96x0" },
        { { .width = 96, .height = 64, .fps = 0 }, "fps" },
        { { .width = 96, .height = 64, .fps = 32, .crf = 52 }, "crf" },
        { { .width = 96, .height = 64, .fps = 32, .preset = "warp" }, "warp" },
        { { .width = 96, .height = 64, .fps = 32, .n_threads = -1 }, "n_threads" },
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        struct rf_video_writer *w = NULL;
        struct rf_err err;
        assert_int_equal(rf_video_writer_open(test_path("bad.mp4"), &cases[i].opts, &w, &err), RF_ERR_INVALID);
        assert_non_null(strstr(err.msg, cases[i].word));
        assert_null(w);
    }
}

static void video_without_frames_is_refused(void **state)
{
    RF_AUTO(rf_video_writer_destroy) struct rf_video_writer *w = NULL;
    assert_int_equal(rf_video_writer_open(test_path("empty.mp4"), &plain, &w, NULL), RF_OK);
    assert_int_equal(rf_video_writer_finish(w, NULL), RF_ERR_INVALID);
}

static void full_disk_is_an_error_that_names_the_file(void **state)
{
    struct rf_err err = { 0 };
    assert_int_equal(write_scene("/dev/full", &plain, 0, 70, &err), RF_ERR_IO);
    assert_non_null(strstr(err.msg, "/dev/full"));
    assert_non_null(strstr(err.msg, "No space left"));
    const char *paths[1] = { scene_file("full.mp4", 0, 40) };
    assert_int_equal(rf_video_concat(paths, 1, "/dev/full", 40, 32, &err), RF_ERR_IO);
    assert_non_null(strstr(err.msg, "No space left"));
}

static void missing_folder_and_file_are_named(void **state)
{
    struct rf_err err = { 0 };
    struct rf_video_info info;
    assert_int_equal(write_scene(test_path("nowhere/x.mp4"), &plain, 0, 1, &err), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, "nowhere/x.mp4"));
    assert_int_equal(rf_video_probe(test_path("gone.mp4"), &info, &err), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, "gone.mp4"));
}

/* Torn anywhere, a file must be refused: the index comes first, so a file without its end still opens. */
static void torn_files_are_refused(void **state)
{
    size_t n;
    uint8_t *bytes = test_read_file(scene_file("whole.mp4", 0, 6), &n);
    const char *torn = test_path("torn.mp4"), *joined = test_path("torn-joined.mp4");
    for (size_t cut = 0; cut < n; cut += cut + 40 < n ? 37 : 1) {
        test_write_file(torn, bytes, cut);
        struct rf_video_info info;
        struct rf_err err = { 0 };
        RF_AUTO(rf_image_finish) struct rf_image image = { 0 };
        if (rf_video_probe(torn, &info, &err) == RF_OK)
            fail_msg("cut to %zu of %zu bytes and taken for whole", cut, n);
        assert_non_null(strstr(err.msg, "torn.mp4"));
        assert_int_not_equal(rf_video_concat(&torn, 1, joined, 6, 32, &err), RF_OK);
        assert_int_not_equal(rf_video_frame(torn, 5, &image, &err), RF_OK);
    }
    free(bytes);
}

static void other_files_are_not_videos(void **state)
{
    const char *path = test_path("text.mp4");
    test_write_file(path, "#EXTM3U\nfile:///etc/passwd\n", 27);
    struct rf_video_info info;
    struct rf_err err = { 0 };
    assert_int_not_equal(rf_video_probe(path, &info, &err), RF_OK);
    assert_non_null(strstr(err.msg, "text.mp4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probe_counts_every_frame),
        cmocka_unit_test(index_comes_first_without_an_edit_list),
        cmocka_unit_test(every_frame_is_where_it_belongs),
        cmocka_unit_test(frame_out_of_range_is_refused_by_number),
        cmocka_unit_test(same_input_gives_the_same_bytes),
        cmocka_unit_test(crf_and_preset_reach_the_encoder),
        cmocka_unit_test(flat_colours_survive_within_two_levels),
        cmocka_unit_test(stored_numbers_are_those_of_bt709),
        cmocka_unit_test(colour_does_not_move_sideways),
        cmocka_unit_test(joined_segments_are_one_clip),
        cmocka_unit_test(joining_long_segments_keeps_every_frame_at_the_seam),
        cmocka_unit_test(joining_refuses_a_wrong_count),
        cmocka_unit_test(joining_refuses_other_sizes_and_options),
        cmocka_unit_test(sheet_shows_first_to_last_frame),
        cmocka_unit_test(sheet_of_neighbours_skips_none),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(video_without_frames_is_refused),
        cmocka_unit_test(full_disk_is_an_error_that_names_the_file),
        cmocka_unit_test(missing_folder_and_file_are_named),
        cmocka_unit_test(torn_files_are_refused),
        cmocka_unit_test(other_files_are_not_videos),
    };
    return cmocka_run_group_tests_name("video", tests, test_folder_create, test_folder_remove);
}
