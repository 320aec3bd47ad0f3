/* Doubling the rate: exact counts, given frames untouched, invented ones better than a blend, no seams, no flicker.
 * SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <libavutil/mem.h>

#include "tests/media/helpers.h"

/* What comes out, kept. */
struct sink {
    uint8_t *frames;
    size_t frame_bytes;
    int n, fail_at;              /* fail_at: emit refuses that frame; -1: none */
    int told, stop_at, total;    /* of progress */
};

static enum rf_code keep(void *self, const uint8_t *rgb, struct rf_err *err)
{
    struct sink *s = self;
    if (s->n == s->fail_at)
        return rf_fail(err, RF_ERR_IO, "the disk is full");
    memcpy(s->frames + (size_t)s->n++ * s->frame_bytes, rgb, s->frame_bytes);
    return RF_OK;
}

static bool note(void *self, int done, int total)
{
    struct sink *s = self;
    assert_true(done > s->told && done <= total);
    s->told = done;
    s->total = total;
    return s->stop_at < 0 || done < s->stop_at;
}

struct clip {
    uint8_t *frames, *truth; /* n given; 2n - 1 as they should come out */
    size_t frame_bytes;
    int n, width, height;
};

static struct clip make_clip(int n, int width, int height, double dx, double dy)
{
    struct clip c = { .frame_bytes = (size_t)(width * height * 3), .n = n, .width = width, .height = height };
    c.frames = rf_new_array(uint8_t, (size_t)n * c.frame_bytes);
    c.truth = rf_new_array(uint8_t, (size_t)(2 * n - 1) * c.frame_bytes);
    for (int i = 0; i < 2 * n - 1; i++) {
        test_scene(c.truth + (size_t)i * c.frame_bytes, width, height, i / 2.0, dx, dy);
        if (i % 2 == 0)
            memcpy(c.frames + (size_t)(i / 2) * c.frame_bytes, c.truth + (size_t)i * c.frame_bytes, c.frame_bytes);
    }
    return c;
}

static void clip_finish(struct clip *c)
{
    free(c->frames);
    free(c->truth);
}

static struct sink make_sink(const struct clip *c)
{
    return (struct sink){ .frames = rf_new_array(uint8_t, (size_t)(2 * c->n) * c->frame_bytes),
                          .frame_bytes = c->frame_bytes, .fail_at = -1, .stop_at = -1 };
}

static void sink_finish(struct sink *s)
{
    free(s->frames);
}

static enum rf_code run(const struct clip *c, int n_threads, struct sink *s, struct rf_err *err)
{
    return rf_interpolate_double(c->frames, c->n, c->width, c->height, n_threads, keep, note, s, err);
}

static struct sink doubled(const struct clip *c, int n_threads)
{
    struct rf_err err = { 0 };
    struct sink s = make_sink(c);
    if (run(c, n_threads, &s, &err) != RF_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(s.n, 2 * c->n - 1);
    return s;
}

static uint8_t *frame(const struct sink *s, int i)
{
    return s->frames + (size_t)i * s->frame_bytes;
}

static void n_frames_give_2n_minus_1_and_keep_the_given_ones(void **state)
{
    static const int counts[] = { 1, 2, 3, 4, 5, 11, 12, 21, 22, 23 };
    for (size_t k = 0; k < RF_COUNT_OF(counts); k++) {
        RF_AUTO(clip_finish) struct clip c = make_clip(counts[k], 64, 64, 2, 1);
        RF_AUTO(sink_finish) struct sink s = doubled(&c, 2);
        for (int i = 0; i < c.n; i++)
            assert_memory_equal(frame(&s, 2 * i), c.frames + (size_t)i * c.frame_bytes, c.frame_bytes);
        assert_int_equal(s.told, c.n - 1);
    }
}

static void every_size_works(void **state)
{
    static const int sizes[][2] = { { 1, 1 }, { 16, 16 }, { 33, 7 }, { 70, 66 }, { 200, 40 } };
    for (size_t k = 0; k < RF_COUNT_OF(sizes); k++) {
        RF_AUTO(clip_finish) struct clip c = make_clip(4, sizes[k][0], sizes[k][1], 1, 0);
        RF_AUTO(sink_finish) struct sink s = doubled(&c, 1);
        for (int i = 0; i < c.n; i++)
            assert_memory_equal(frame(&s, 2 * i), c.frames + (size_t)i * c.frame_bytes, c.frame_bytes);
    }
}

/* Against the truth, which a synthetic scene has, and against the simplest way to invent a frame. */
static void invented_frames_beat_a_blend(void **state)
{
    static const struct {
        double dx, dy, gain_db; /* measured 3.1, 6.1, 3.3 */
    } cases[] = { { 4, 0, 1.5 }, { 6, 4, 3 }, { 3, 2, 1.5 } };
    for (size_t k = 0; k < RF_COUNT_OF(cases); k++) {
        RF_AUTO(clip_finish) struct clip c = make_clip(14, 192, 128, cases[k].dx, cases[k].dy);
        RF_AUTO(sink_finish) struct sink s = doubled(&c, 2);
        uint8_t *blend = rf_new_array(uint8_t, c.frame_bytes);
        double ours = 0, theirs = 0, worst = 99;
        for (int i = 1; i < 2 * c.n - 1; i += 2) {
            const uint8_t *truth = c.truth + (size_t)i * c.frame_bytes;
            for (size_t b = 0; b < c.frame_bytes; b++)
                blend[b] = (uint8_t)((frame(&s, i - 1)[b] + frame(&s, i + 1)[b] + 1) / 2);
            double psnr = test_psnr(frame(&s, i), truth, c.frame_bytes);
            worst = psnr < worst ? psnr : worst;
            ours += psnr / (c.n - 1);
            theirs += test_psnr(blend, truth, c.frame_bytes) / (c.n - 1);
        }
        free(blend);
        if (ours < theirs + cases[k].gain_db || worst < theirs)
            fail_msg("motion %g,%g: %.2f dB (worst %.2f), blend %.2f", cases[k].dx, cases[k].dy, ours, worst, theirs);
    }
}

/* The filter averages two frames and rounds up in each of Y, Cb and Cr: a quarter of a level each, half a level of
 * red and blue in the mean, next to nothing of green. A conversion that truncates, or mixes up ranges, costs more. */
static void brightness_does_not_flicker(void **state)
{
    RF_AUTO(clip_finish) struct clip c = make_clip(12, 192, 128, 3, 2);
    RF_AUTO(sink_finish) struct sink s = doubled(&c, 2);
    for (int i = 1; i < 2 * c.n - 1; i += 2)
        for (int k = 0; k < 3; k++) {
            double before = test_mean_difference(frame(&s, i), frame(&s, i - 1), c.frame_bytes, k);
            double after = test_mean_difference(frame(&s, i), frame(&s, i + 1), c.frame_bytes, k);
            assert_true(fabs(before + after) / 2 < (k == 1 ? 0.15 : 0.7)); /* measured 0.06 and 0.55 */
        }
}

static void still_picture_stays_still(void **state)
{
    static const int sizes[][2] = { { 192, 128 }, { 70, 66 }, { 21, 13 } }; /* also where the filter needs padding */
    for (size_t j = 0; j < RF_COUNT_OF(sizes); j++) {
        RF_AUTO(clip_finish) struct clip c = make_clip(5, sizes[j][0], sizes[j][1], 0, 0);
        RF_AUTO(sink_finish) struct sink s = doubled(&c, 2);
        for (int i = 1; i < 2 * c.n - 1; i += 2) {
            assert_in_range(test_max_difference(frame(&s, i), c.frames, c.frame_bytes), 0, 1);
            for (int k = 0; k < 3; k++) /* measured 0.08, and 0.13 on the smallest */
                assert_true(fabs(test_mean_difference(frame(&s, i), c.frames, c.frame_bytes, k)) < 0.2);
        }
    }
}

static void number_of_threads_does_not_change_a_bit(void **state)
{
    RF_AUTO(clip_finish) struct clip c = make_clip(33, 128, 96, 5, 3);
    RF_AUTO(sink_finish) struct sink one = doubled(&c, 1), three = doubled(&c, 3), all = doubled(&c, 0);
    assert_memory_equal(one.frames, three.frames, (size_t)one.n * one.frame_bytes);
    assert_memory_equal(one.frames, all.frames, (size_t)one.n * one.frame_bytes);
}

/* Chunks are ten intervals. The frames around a seam, cut out as a clip of their own with no seam inside, must come
 * out as they do across two chunks, and as near to the truth. Fails with a WARM_UP of 0 or 1. */
static void seams_between_chunks_are_invisible(void **state)
{
    RF_AUTO(clip_finish) struct clip c = make_clip(31, 192, 128, 5, 3);
    RF_AUTO(sink_finish) struct sink whole = doubled(&c, 2);
    for (int seam = 10; seam <= 20; seam += 10) {
        struct clip part = c;
        part.frames = c.frames + (size_t)(seam - 7) * c.frame_bytes;
        part.n = 10;
        RF_AUTO(sink_finish) struct sink alone = doubled(&part, 1);
        for (int i = seam - 2; i < seam + 2; i++) {
            const uint8_t *across = frame(&whole, 2 * i + 1), *within = frame(&alone, 2 * (i - seam + 7) + 1);
            const uint8_t *truth = c.truth + (size_t)(2 * i + 1) * c.frame_bytes;
            assert_true(test_psnr(across, within, c.frame_bytes) > 46); /* measured 53 */
            assert_true(fabs(test_psnr(across, truth, c.frame_bytes) - test_psnr(within, truth, c.frame_bytes)) < 0.3);
        }
    }
}

static void a_listener_can_stop_the_work(void **state)
{
    RF_AUTO(clip_finish) struct clip c = make_clip(30, 64, 64, 2, 1);
    for (int stop_at = 1; stop_at < 29; stop_at += 9) {
        RF_AUTO(sink_finish) struct sink s = make_sink(&c);
        struct rf_err err = { 0 };
        s.stop_at = stop_at;
        assert_int_equal(run(&c, 2, &s, &err), RF_ERR_CANCELLED);
        assert_int_equal(s.total, 29);
    }
}

static void an_error_of_the_receiver_ends_the_work(void **state)
{
    RF_AUTO(clip_finish) struct clip c = make_clip(30, 64, 64, 2, 1);
    static const int places[] = { 0, 1, 2, 40, 58 };
    for (size_t i = 0; i < RF_COUNT_OF(places); i++) {
        RF_AUTO(sink_finish) struct sink s = make_sink(&c);
        struct rf_err err = { 0 };
        s.fail_at = places[i];
        assert_int_equal(run(&c, 2, &s, &err), RF_ERR_IO);
        assert_string_equal(err.msg, "the disk is full");
        assert_int_equal(s.n, places[i]);
    }
}

/* FFmpeg's own limit on one allocation stands in for a machine without memory. */
static void lack_of_memory_is_an_error(void **state)
{
    RF_AUTO(clip_finish) struct clip c = make_clip(13, 192, 128, 2, 1);
    /* A plane has 24 kB, the filter's notes on it 300 kB. Below 4 kB libavfilter leaks a name of its own. */
    for (size_t most = 4096; most <= 64 * 1024; most *= 4) {
        RF_AUTO(sink_finish) struct sink s = make_sink(&c);
        struct rf_err err = { 0 };
        av_max_alloc(most);
        enum rf_code rc = run(&c, 2, &s, &err);
        av_max_alloc(INT_MAX);
        assert_int_equal(rc, RF_ERR_NO_MEMORY);
        assert_true(err.msg[0] != '\0');
    }
}

static void impossible_input_is_refused(void **state)
{
    struct clip c = { .n = 0, .width = 64, .height = 64 };
    struct sink s = { .fail_at = -1, .stop_at = -1 };
    assert_int_equal(run(&c, 1, &s, NULL), RF_ERR_INVALID);
    c = (struct clip){ .n = 2, .width = 0, .height = 64 };
    assert_int_equal(run(&c, 1, &s, NULL), RF_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(n_frames_give_2n_minus_1_and_keep_the_given_ones),
        cmocka_unit_test(every_size_works),
        cmocka_unit_test(invented_frames_beat_a_blend),
        cmocka_unit_test(brightness_does_not_flicker),
        cmocka_unit_test(still_picture_stays_still),
        cmocka_unit_test(number_of_threads_does_not_change_a_bit),
        cmocka_unit_test(seams_between_chunks_are_invisible),
        cmocka_unit_test(a_listener_can_stop_the_work),
        cmocka_unit_test(an_error_of_the_receiver_ends_the_work),
        cmocka_unit_test(lack_of_memory_is_an_error),
        cmocka_unit_test(impossible_input_is_refused),
    };
    return cmocka_run_group_tests_name("interpolate", tests, NULL, NULL);
}
