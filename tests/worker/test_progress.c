/* The progress bar: from 0 to 1, never back, in proportion to what was measured.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "worker/progress.h"

static const struct rf_shape whole = {.loads = true, .has_image = true, .n_high = 2, .n_low = 2, .interpolates = true,
                                      .megapixels = 2};

static void the_wire_knows_every_part_by_its_name(void **state)
{
    for (int i = 0; i < RF_PART_COUNT; i++)
        assert_true(rf_stage_known(rf_part_name((enum rf_part)i)));
}

static void fraction_grows_from_0_to_1_over_all_parts(void **state)
{
    double last = 0;
    assert_true(rf_pace_fraction(&rf_pace_guess, &whole, RF_PART_LOAD, 0, 0) == 0);
    for (int part = 0; part <= RF_PART_UPLOAD; part++)
        for (int done = 0; done <= 4; done++) {
            double f = rf_pace_fraction(&rf_pace_guess, &whole, (enum rf_part)part, done, 4);
            assert_true(f >= last && f <= 1 + 1e-9);
            last = f;
        }
    assert_true(last > 1 - 1e-9);
}

static void fraction_is_the_measured_share_of_the_time(void **state)
{
    struct rf_pace pace = rf_pace_guess;
    struct rf_wire_timing timings[] = {{"load", -1, 0, 1},      {"text", -1, 0, 1},       {"encode_image", -1, 0, 2},
                                       {"high_noise", 0, 0, 3}, {"high_noise", 1, 0, 5},  {"low_noise", 0, 0, 4},
                                       {"low_noise", 1, 0, 4},  {"decode", -1, 0, 2},     {"interpolate", -1, 0, 1},
                                       {"encode", -1, 0, 0.5},  {"upload", -1, 0, 0.5}};
    rf_pace_learn(&pace, &whole, timings, (int)RF_COUNT_OF(timings)); /* 24 s in all */
    assert_true(rf_pace_fraction(&pace, &whole, RF_PART_HIGH_NOISE, 1, 2) * 24 > 8 - 1e-6);
    assert_true(rf_pace_fraction(&pace, &whole, RF_PART_HIGH_NOISE, 1, 2) * 24 < 8 + 1e-6);
    assert_true(rf_pace_fraction(&pace, &whole, RF_PART_DECODE, 0, 0) * 24 > 20 - 1e-6);
    assert_true(rf_pace_fraction(&pace, &whole, RF_PART_DECODE, 0, 0) * 24 < 20 + 1e-6);
}

static void parts_that_a_task_does_not_have_take_no_share(void **state)
{
    struct rf_shape bare = {.n_high = 1, .n_low = 1, .megapixels = 1};
    struct rf_pace pace = {.seconds = {[RF_PART_LOAD] = 100, [RF_PART_ENCODE_IMAGE] = 100, [RF_PART_INTERPOLATE] = 100,
                                       [RF_PART_HIGH_NOISE] = 1, [RF_PART_LOW_NOISE] = 1}};
    assert_true(rf_pace_fraction(&pace, &bare, RF_PART_LOW_NOISE, 0, 1) == 0.5);
}

static void a_part_that_was_not_measured_keeps_its_expectation(void **state)
{
    struct rf_pace pace = rf_pace_guess;
    struct rf_wire_timing text = {"text", -1, 0, 7};
    rf_pace_learn(&pace, &whole, &text, 1);
    assert_true(pace.seconds[RF_PART_TEXT] == 7);
    assert_true(pace.seconds[RF_PART_DECODE] == rf_pace_guess.seconds[RF_PART_DECODE]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_wire_knows_every_part_by_its_name),
        cmocka_unit_test(fraction_grows_from_0_to_1_over_all_parts),
        cmocka_unit_test(fraction_is_the_measured_share_of_the_time),
        cmocka_unit_test(parts_that_a_task_does_not_have_take_no_share),
        cmocka_unit_test(a_part_that_was_not_measured_keeps_its_expectation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
