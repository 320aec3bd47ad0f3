/* Element types: the published values, every code there and back, rounding against a search over all codes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static float widen(enum rf_dtype dtype, uint32_t code)
{
    float f;
    uint16_t half = (uint16_t)code;
    uint8_t byte = (uint8_t)code;
    rf_dtype_to_f32(&f, rf_dtype_size(dtype) == 2 ? (void *)&half : (void *)&byte, dtype, 1);
    return f;
}

static uint32_t narrow(enum rf_dtype dtype, float f)
{
    uint16_t half = 0;
    uint8_t byte = 0;
    if (rf_dtype_size(dtype) == 2)
        rf_dtype_from_f32(&half, dtype, &f, 1);
    else
        rf_dtype_from_f32(&byte, dtype, &f, 1);
    return rf_dtype_size(dtype) == 2 ? half : byte;
}

static void f8_codes_have_their_published_values(void **state)
{
    static const struct {
        uint8_t code;
        float value;
    } e4m3[] = {{0x01, 0.001953125f}, {0x08, 0.015625f}, {0x30, 0.5f}, {0x38, 1}, {0x40, 2}, {0x7e, 448}, {0xb8, -1}};
    for (size_t i = 0; i < RF_COUNT_OF(e4m3); i++)
        assert_true(widen(RF_F8_E4M3, e4m3[i].code) == e4m3[i].value);
    assert_true(isnan(widen(RF_F8_E4M3, 0x7f)) && isnan(widen(RF_F8_E4M3, 0xff)));
    assert_true(widen(RF_F8_E5M2, 0x7b) == 57344 && isinf(widen(RF_F8_E5M2, 0x7c)) && isnan(widen(RF_F8_E5M2, 0x7d)));
    assert_true(widen(RF_F16, 0x3c00) == 1 && widen(RF_F16, 0x0001) == 0x1p-24f && widen(RF_F16, 0x7bff) == 65504);
    assert_true(widen(RF_BF16, 0x3f80) == 1 && widen(RF_BF16, 0xc000) == -2);
}

static const enum rf_dtype narrow_types[] = {RF_F16, RF_BF16, RF_F8_E4M3, RF_F8_E5M2};

static void every_code_survives_widening_and_narrowing(void **state)
{
    for (size_t t = 0; t < RF_COUNT_OF(narrow_types); t++)
        for (uint32_t code = 0; code < (rf_dtype_size(narrow_types[t]) == 2 ? 65536u : 256u); code++) {
            float f = widen(narrow_types[t], code);
            uint32_t back = narrow(narrow_types[t], f);
            if (isnan(f))
                assert_true(isnan(widen(narrow_types[t], back)));
            else
                assert_int_equal(back, code);
        }
}

/* The nearest code of an 8-bit type by trying all; of two equally near ones the even. */
static uint32_t nearest(enum rf_dtype dtype, float f)
{
    uint32_t best = 0;
    for (uint32_t code = 0; code < 256; code++) {
        double value = widen(dtype, code), d = fabs(value - f), least = fabs((double)widen(dtype, best) - f);
        if (isfinite(value) && signbit((float)value) == signbit(f) &&
            (d < least || (d == least && code % 2 == 0) || signbit(widen(dtype, best)) != signbit(f)))
            best = code;
    }
    return best;
}

static void narrowing_takes_the_nearest_code_and_saturates(void **state)
{
    uint32_t random = 12345;
    for (int i = 0; i < 20000; i++) {
        random = random * 1664525 + 1013904223;
        uint32_t bits = random & 0x807fffff;
        bits |= (100 + (random >> 8) % 35) << 23; /* 2^-27 to 2^7 */
        if (i % 3 == 0)
            bits &= 0xfff80000; /* ties come up */
        float f;
        memcpy(&f, &bits, 4);
        assert_int_equal(narrow(RF_F8_E4M3, f), nearest(RF_F8_E4M3, f));
        assert_int_equal(narrow(RF_F8_E5M2, f), nearest(RF_F8_E5M2, f));
    }
    assert_int_equal(narrow(RF_F8_E4M3, 1e9f), 0x7e);
    assert_int_equal(narrow(RF_F8_E4M3, -INFINITY), 0xfe);
    assert_int_equal(narrow(RF_F8_E5M2, 1e9f), 0x7c);
    assert_int_equal(narrow(RF_F16, 65519.0f), 0x7bff);
    assert_int_equal(narrow(RF_F16, 65520.0f), 0x7c00);
    assert_int_equal(narrow(RF_BF16, 1.00390625f), 0x3f80); /* a tie goes to even */
}

static void names_are_the_words_of_the_format(void **state)
{
    assert_string_equal(rf_dtype_name(RF_F8_E4M3), "F8_E4M3");
    assert_string_equal(rf_dtype_name(RF_BF16), "BF16");
    assert_int_equal(rf_dtype_size(RF_I64), 8);
    assert_false(rf_dtype_is_float(RF_F64));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f8_codes_have_their_published_values),
        cmocka_unit_test(every_code_survives_widening_and_narrowing),
        cmocka_unit_test(narrowing_takes_the_nearest_code_and_saturates),
        cmocka_unit_test(names_are_the_words_of_the_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
