/* The plan: the examples of plan.h, and what must hold for every length. SPDX-License-Identifier: Apache-2.0 */
#include "schema/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void examples_of_the_header_come_out(void **state)
{
    static const struct {
        int n_frames, fps, n_segments, frames[3], out[3];
    } cases[] = {
        {161, 32, 2, {81, 81}, {161, 161}}, {161, 16, 2, {81, 81}, {81, 80}}, {121, 32, 2, {61, 61}, {121, 121}},
        {241, 32, 3, {81, 81, 81}, {161, 160, 161}}, {81, 32, 1, {81}, {162}}, {5, 16, 1, {5}, {5}},
        {85, 32, 2, {45, 41}, {89, 81}},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        struct rf_plan p;
        assert_int_equal(rf_plan_make(cases[i].n_frames, cases[i].fps, 81, &p, NULL), RF_OK);
        assert_int_equal(p.n_segments, cases[i].n_segments);
        assert_int_equal(p.n_frames_out, cases[i].n_frames * cases[i].fps / 16);
        for (int k = 0; k < p.n_segments; k++) {
            assert_int_equal(p.segment[k].n_frames, cases[i].frames[k]);
            assert_int_equal(p.segment[k].n_frames_out, cases[i].out[k]);
        }
    }
}

static void every_length_is_covered_once_and_evenly(void **state)
{
    static const int most[] = {9, 41, 81, 161, RF_MAX_FRAMES};
    for (size_t m = 0; m < RF_COUNT_OF(most); m++)
        for (int f = 5; f <= RF_MAX_FRAMES; f += 4)
            for (int fps = 16; fps <= 32; fps += 16) {
                struct rf_plan p;
                int n_expected = (f - 2) / (most[m] - 1) + 1, rendered = 1, out = 0;
                enum rf_code rc = rf_plan_make(f, fps, most[m], &p, NULL);
                assert_int_equal(rc, n_expected > RF_MAX_SEGMENTS ? RF_ERR_INVALID : RF_OK);
                if (rc != RF_OK)
                    continue;
                assert_int_equal(p.n_segments, n_expected);
                for (int k = 0; k < p.n_segments; k++) {
                    const struct rf_plan_segment *s = &p.segment[k];
                    assert_int_equal(s->first_frame, rendered - 1); /* the border frame is shared */
                    assert_int_equal(s->n_frames % 4, 1);
                    assert_true(s->n_frames <= most[m] && s->n_frames <= p.segment[0].n_frames);
                    assert_true(p.segment[0].n_frames - s->n_frames <= 4);
                    rendered += s->n_frames - 1;
                    out += s->n_frames_out;
                }
                assert_int_equal(rendered, f);
                assert_int_equal(out, f * fps / 16);
                assert_int_equal(p.n_frames_out, out);
            }
}

static void bad_numbers_are_named(void **state)
{
    static const struct {
        int n_frames, fps, most;
        const char *says;
    } cases[] = {
        {160, 32, 81, "num_frames is 160; it must be a multiple of 4 plus 1, for example 157 or 161"},
        {1, 32, 81, "num_frames is 1"}, {4805, 32, 81, "between 5 and 4801"}, {81, 24, 81, "fps is 24"},
        {81, 32, 80, "max_segment_frames is 80"}, {4801, 32, 5, "1200 segments"}, {-3, 32, 81, "num_frames is -3"},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        struct rf_plan p;
        struct rf_err err = {0};
        assert_int_equal(rf_plan_make(cases[i].n_frames, cases[i].fps, cases[i].most, &p, &err), RF_ERR_INVALID);
        if (strstr(err.msg, cases[i].says) == NULL)
            fail_msg("'%s' does not say '%s'", err.msg, cases[i].says);
    }
}

static void seconds_become_the_nearest_length(void **state)
{
    static const struct { double seconds; int n_frames; } cases[] = {
        {5, 81}, {10, 161}, {0.25, 5}, {0, 5}, {-1, 5}, {300.0625, 4801}, {1e9, 4801}, {5.1, 81}, {5.2, 85}};
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++)
        assert_int_equal(rf_plan_frames_for_seconds(cases[i].seconds), cases[i].n_frames);
}

static void disk_is_set_aside_from_above(void **state)
{
    struct rf_plan plan;
    assert_int_equal(rf_plan_make(161, 32, 81, &plan, NULL), RF_OK);
    /* 832x480, 322 frames out: twice 12.86 MB of film, one border image, 2 MiB */
    assert_int_equal(rf_plan_disk_bytes(&plan, 832, 480, 18), 25718784 + 1198080 + (2 << 20));
    assert_int_equal(rf_plan_disk_bytes(&plan, 832, 480, 12), 2 * 25718784 + 1198080 + (2 << 20));
    assert_int_equal(rf_plan_disk_bytes(&plan, 832, 480, 24), 25718784 / 2 + 1198080 + (2 << 20));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disk_is_set_aside_from_above),
        cmocka_unit_test(examples_of_the_header_come_out),
        cmocka_unit_test(every_length_is_covered_once_and_evenly),
        cmocka_unit_test(bad_numbers_are_named),
        cmocka_unit_test(seconds_become_the_nearest_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
