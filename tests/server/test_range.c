/* Range, If-Range, If-None-Match.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/range.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct {
    const char *header;
    int64_t size;
    enum rf_range kind;
    int64_t first, length;
} cases[] = {
    {NULL, 10, RF_RANGE_WHOLE, 0, 0},
    {"", 10, RF_RANGE_WHOLE, 0, 0},
    {"bytes=0-0", 10, RF_RANGE_PART, 0, 1},
    {"bytes=0-", 10, RF_RANGE_PART, 0, 10},
    {"Bytes=3-5", 10, RF_RANGE_PART, 3, 3},
    {"bytes= 3-5 ", 10, RF_RANGE_PART, 3, 3},
    {"bytes=9-99", 10, RF_RANGE_PART, 9, 1},
    {"bytes=9-99999999999999999999999999", 10, RF_RANGE_PART, 9, 1},
    {"bytes=10-", 10, RF_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=99999999999999999999999-", 10, RF_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=0-10", 10, RF_RANGE_PART, 0, 10},
    {"bytes=18446744073709551616-", 10, RF_RANGE_UNSATISFIABLE, 0, 0}, /* 2^64: would wrap to 0 */
    {"bytes=-3", 10, RF_RANGE_PART, 7, 3},
    {"bytes=-99", 10, RF_RANGE_PART, 0, 10},
    {"bytes=-0", 10, RF_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=0-", 0, RF_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=-1", 0, RF_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=5-3", 10, RF_RANGE_WHOLE, 0, 0},
    {"bytes=-", 10, RF_RANGE_WHOLE, 0, 0},
    {"bytes=--1", 10, RF_RANGE_WHOLE, 0, 0},
    {"bytes=a-b", 10, RF_RANGE_WHOLE, 0, 0},
    {"bytes=1-2,4-5", 10, RF_RANGE_WHOLE, 0, 0},
    {"bytes=1", 10, RF_RANGE_WHOLE, 0, 0},
    {"items=1-2", 10, RF_RANGE_WHOLE, 0, 0},
    {"bytes=1-2x", 10, RF_RANGE_WHOLE, 0, 0},
};

static void every_range_is_read_as_the_table_says(void **state)
{
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        int64_t first = 0, length = 0;
        enum rf_range kind = rf_range_parse(cases[i].header, cases[i].size, &first, &length);
        if (kind != cases[i].kind || (kind == RF_RANGE_PART && (first != cases[i].first || length != cases[i].length)))
            fail_msg("'%s' of %d: kind %d, %d+%d", cases[i].header, (int)cases[i].size, kind, (int)first, (int)length);
    }
}

static void if_none_match_finds_the_etag_in_a_list(void **state)
{
    assert_false(rf_etag_listed(NULL, "\"a\""));
    assert_true(rf_etag_listed("*", "\"a\""));
    assert_true(rf_etag_listed("\"a\"", "\"a\""));
    assert_true(rf_etag_listed("W/\"a\"", "\"a\""));
    assert_true(rf_etag_listed("\"b,\" , W/\"c\",\"a\"", "\"a\""));
    assert_false(rf_etag_listed("\"b\", \"ab\"", "\"a\""));
    assert_false(rf_etag_listed("a", "\"a\""));
    assert_false(rf_etag_listed("\"a", "\"a\""));
    assert_false(rf_etag_listed(", ,", "\"a\""));
}

static void if_range_holds_only_for_the_exact_strong_etag(void **state)
{
    assert_true(rf_if_range_holds(NULL, "\"a\""));
    assert_true(rf_if_range_holds("\"a\"", "\"a\""));
    assert_false(rf_if_range_holds("W/\"a\"", "\"a\""));
    assert_false(rf_if_range_holds("Wed, 21 Oct 2015 07:28:00 GMT", "\"a\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_range_is_read_as_the_table_says),
        cmocka_unit_test(if_none_match_finds_the_etag_in_a_list),
        cmocka_unit_test(if_range_holds_only_for_the_exact_strong_etag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
