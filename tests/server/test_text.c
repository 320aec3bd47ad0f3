/* Query strings, JSON and CSV out, log lines, start images, lines of a batch.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/batch.h"
#include "server/image.h"
#include "server/log.h"
#include "server/out.h"
#include "server/params.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void a_query_is_split_and_decoded(void **state)
{
    struct rf_params p;
    assert_int_equal(rf_params_parse("a=1&b=two+w%C3%B6rds&c&&d=x%26y", &p, NULL), RF_OK);
    assert_int_equal(p.n, 4);
    assert_string_equal(rf_params_get(&p, "b"), "two w\xc3\xb6rds");
    assert_string_equal(rf_params_get(&p, "c"), "");
    assert_string_equal(rf_params_get(&p, "d"), "x&y");
    assert_null(rf_params_get(&p, "e"));
    int64_t n = 0;
    assert_int_equal(rf_params_int(&p, "a", 0, 5, 9, &n, NULL), RF_OK);
    assert_int_equal(n, 1);
    assert_int_equal(rf_params_int(&p, "a", 2, 5, 9, &n, NULL), RF_ERR_INVALID);
    assert_int_equal(rf_params_int(&p, "e", 2, 5, 9, &n, NULL), RF_OK);
    assert_int_equal(n, 9);
    assert_int_equal(rf_params_int(&p, "b", 2, 5, 9, &n, NULL), RF_ERR_INVALID);
    rf_params_finish(&p);
    assert_int_equal(rf_params_parse(NULL, &p, NULL), RF_OK);
    assert_int_equal(p.n, 0);
}

static void a_broken_query_names_its_parameter(void **state)
{
    static const struct { const char *text, *named; } bad[] = {
        {"limit=%", "'limit'"}, {"limit=%4", "'limit'"}, {"limit=%zz", "'limit'"}, {"limit=%00", "'limit'"},
        {"limit=%ff", "'limit'"}, {"limit=1&limit=2", "'limit'"}, {"%=1", "parameter 1"},
        {"a&b&c&d&e&f&g&h&i&j&k&l&m&n&o&p&q", "16"},
    };
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++) {
        struct rf_params p;
        struct rf_err err = {0};
        assert_int_equal(rf_params_parse(bad[i].text, &p, &err), RF_ERR_INVALID);
        if (strstr(err.msg, bad[i].named) == NULL)
            fail_msg("'%s': %s", bad[i].text, err.msg);
    }
}

static void json_places_commas_and_survives_bad_bytes(void **state)
{
    struct rf_out t = {0};
    rf_json_open(&t, NULL, '{');
    rf_json_str(&t, "s", "a\"b\\\n\x01\xc3\xb6");
    rf_json_str(&t, "cut", "ab\xc3");
    rf_json_str(&t, "null", NULL);
    rf_json_open(&t, "list", '[');
    rf_json_int(&t, NULL, INT64_MIN);
    rf_json_num(&t, NULL, 0.5);
    rf_json_num(&t, NULL, 5.0);
    rf_json_num(&t, NULL, (double)NAN);
    rf_json_open(&t, NULL, '[');
    rf_json_close(&t, ']');
    rf_json_bool(&t, NULL, true);
    rf_json_close(&t, ']');
    rf_json_close(&t, '}');
    RF_AUTO(rf_free) char *text = rf_out_take(&t, NULL);
    assert_string_equal(text, "{\"s\":\"a\\\"b\\\\\\n\\u0001\xc3\xb6\",\"cut\":\"ab\",\"null\":null,"
                              "\"list\":[-9223372036854775808,0.5,5,null,[],true]}");
}

static void csv_quotes_what_a_spreadsheet_would_misread(void **state)
{
    static const char *const cases[][2] = {
        {"gpu-1", "gpu-1"}, {"a,b", "\"a,b\""}, {"say \"hi\"", "\"say \"\"hi\"\"\""}, {"=1+1", "\"'=1+1\""},
        {"@x", "\"'@x\""}, {"two\nlines", "\"two\nlines\""}, {"", ""},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        struct rf_out t = {0};
        rf_csv_str(&t, cases[i][0]);
        RF_AUTO(rf_free) char *text = rf_out_take(&t, NULL);
        assert_string_equal(text, cases[i][1]);
    }
}

static void log_quotes_cannot_break_out_of_their_line(void **state)
{
    assert_string_equal(RF_QUOTE("a\"b\\c\nlevel=error\x7f"), "\"a\\\"b\\\\c\\x0alevel=error\\x7f\"");
    assert_string_equal(RF_QUOTE(NULL), "\"\"");
    char text[2000];
    memset(text, '\n', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(strlen(RF_QUOTE(text)), 2 + 200 * 4);
}

static void images_are_known_by_their_first_bytes(void **state)
{
    assert_string_equal(rf_image_type((const uint8_t *)"\x89PNG\r\n\x1a\nxxxx", 12), "image/png");
    assert_string_equal(rf_image_type((const uint8_t *)"\xff\xd8\xff\xe0", 4), "image/jpeg");
    assert_string_equal(rf_image_type((const uint8_t *)"RIFF1234WEBP", 12), "image/webp");
    assert_null(rf_image_type((const uint8_t *)"RIFF1234WAVE", 12));
    assert_null(rf_image_type((const uint8_t *)"RIFF1234WEBP", 11));
    assert_null(rf_image_type((const uint8_t *)"GIF89a......", 12));
    assert_null(rf_image_type(NULL, 0));
}

static void batch_lines_may_end_in_any_way(void **state)
{
    static const char body[] = "  {1}\t\r\n\n{2}\n\r\n{3}";
    static const char *const wanted[] = {"{1}", "", "{2}", "", "{3}"};
    size_t at = 0, n, count = 0;
    const char *line;
    while (rf_batch_next_line(body, sizeof body - 1, &at, &line, &n)) {
        assert_true(count < RF_COUNT_OF(wanted));
        assert_int_equal(n, strlen(wanted[count]));
        assert_memory_equal(line, wanted[count], n);
        count++;
    }
    assert_int_equal(count, RF_COUNT_OF(wanted));
    at = 0;
    assert_false(rf_batch_next_line("", 0, &at, &line, &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_query_is_split_and_decoded),
        cmocka_unit_test(a_broken_query_names_its_parameter),
        cmocka_unit_test(json_places_commas_and_survives_bad_bytes),
        cmocka_unit_test(csv_quotes_what_a_spreadsheet_would_misread),
        cmocka_unit_test(log_quotes_cannot_break_out_of_their_line),
        cmocka_unit_test(images_are_known_by_their_first_bytes),
        cmocka_unit_test(batch_lines_may_end_in_any_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
