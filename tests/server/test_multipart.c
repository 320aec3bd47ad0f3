/* The multipart reader: whole bodies, bodies split anywhere, and nonsense.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/multipart.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* What a listener saw, as text: "[name|filename|type]data;" per part. */
struct seen {
    char text[4096];
    size_t n;
};

static void note(struct seen *s, const char *data, size_t n)
{
    assert_true(s->n + n < sizeof s->text);
    memcpy(s->text + s->n, data, n);
    s->n += n;
    s->text[s->n] = '\0';
}

static enum rf_code on_begin(void *self, const struct rf_multipart_part *part, struct rf_err *err)
{
    char head[512];
    int n = snprintf(head, sizeof head, "[%s|%s|%s]", part->name, part->filename ? part->filename : "-",
                     part->content_type ? part->content_type : "-");
    note(self, head, (size_t)n);
    return RF_OK;
}

static enum rf_code on_data(void *self, const char *data, size_t n, struct rf_err *err)
{
    note(self, data, n);
    return RF_OK;
}

static enum rf_code on_end(void *self, struct rf_err *err)
{
    note(self, ";", 1);
    return RF_OK;
}

static enum rf_code read_in_pieces(const char *type, const char *body, size_t n, size_t piece, struct seen *seen)
{
    *seen = (struct seen){0};
    const struct rf_multipart_listener listener = {.self = seen, .begin = on_begin, .data = on_data, .end = on_end};
    RF_AUTO(rf_multipart_destroy) struct rf_multipart *m = NULL;
    enum rf_code rc = rf_multipart_create(type, &listener, &m, NULL);
    for (size_t i = 0; rc == RF_OK && i < n; i += piece)
        rc = rf_multipart_feed(m, body + i, n - i < piece ? n - i : piece, NULL);
    return rc == RF_OK ? rf_multipart_end(m, NULL) : rc;
}

#define TYPE "multipart/form-data; boundary=xYz"

static const char good[] =
    "--xYz\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na red\r\n--xY circle\r\n\r\n"
    "--xYz  \r\nContent-Type: image/png\r\ncontent-disposition: form-data; name=\"input_reference\"; filename=\"a \\\"b\\\".png\""
    "\r\n\r\n\x89PNG\r\r\n-\r\n--xYy\r\n--xYz\r\nContent-Disposition: form-data; name=loras[][w]\r\n\r\n\r\n--xYz--\r\nepilogue";
static const char good_seen[] = "[prompt|-|-]a red\r\n--xY circle\r\n;"
                                "[input_reference|a \"b\".png|image/png]\x89PNG\r\r\n-\r\n--xYy;[loras[][w]|-|-];";

static void a_form_is_read_alike_however_it_is_split(void **state)
{
    struct seen seen;
    for (size_t piece = 1; piece <= sizeof good; piece++) {
        assert_int_equal(read_in_pieces(TYPE, good, sizeof good - 1, piece, &seen), RF_OK);
        assert_string_equal(seen.text, good_seen);
    }
}

static void a_body_cut_anywhere_before_its_closing_boundary_is_refused(void **state)
{
    struct seen seen;
    size_t closing = (size_t)(strstr(good, "--xYz--") - good) + 7;
    for (size_t n = 0; n < closing; n++)
        assert_int_equal(read_in_pieces(TYPE, good, n, 7, &seen), RF_ERR_INVALID);
    assert_int_equal(read_in_pieces(TYPE, good, closing, 7, &seen), RF_OK);
}

static void a_quoted_boundary_with_a_preamble_is_read(void **state)
{
    struct seen seen;
    static const char body[] = "hello\r\n--a b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1\r\n--a b--";
    assert_int_equal(read_in_pieces("Multipart/Form-Data; charset=utf-8; boundary=\"a b\"", body, sizeof body - 1, 3, &seen),
                     RF_OK);
    assert_string_equal(seen.text, "[x|-|-]1;");
}

static void content_types_without_a_usable_boundary_are_refused(void **state)
{
    static const char *const bad[] = {
        "", "text/plain", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\"\"",
        "multipart/form-data; boundary=\"open", "multipart/form-datax; boundary=a", "multipart/mixed; boundary=a",
        "multipart/form-data; boundary=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "multipart/form-data; boundary=a\x80", "multipart/form-data; boundary",
    };
    struct seen seen;
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++)
        assert_int_equal(read_in_pieces(bad[i], "", 0, 1, &seen), RF_ERR_INVALID);
}

static void nonsense_in_a_part_is_refused(void **state)
{
    static const char *const bad[] = {
        "--xYz\r\n\r\n1\r\n--xYz--",                                                            /* no name */
        "--xYz\r\nContent-Disposition: form-data\r\n\r\n1\r\n--xYz--",                          /* no name */
        "--xYz\r\nContent-Disposition: form-data; name=\"\"\r\n\r\n1\r\n--xYz--",               /* empty name */
        "--xYz\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\n1\r\n--xYz--",             /* no form-data */
        "--xYz\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--xYz--",                /* open quote */
        "--xYz\r\nno colon\r\n\r\n1\r\n--xYz--",
        "--xYz\r\nContent-Disposition: form-data; name=\"%zz\"\r\n\r\n1\r\n--xYz--",
        "--xYz\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\n1\r\n--xYz--",
        "--xYz\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--xYz--",
        "--xYzContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--xYz--",                  /* no line end */
        "--xYz -- \r\n",
    };
    struct seen seen;
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++)
        if (read_in_pieces(TYPE, bad[i], strlen(bad[i]), 5, &seen) != RF_ERR_INVALID)
            fail_msg("accepted: %s", bad[i]);
}

static void endless_headers_and_endless_parts_are_refused(void **state)
{
    struct seen seen;
    static char body[40000];
    int n = snprintf(body, sizeof body, "--xYz\r\nX: ");
    memset(body + n, 'a', 4000);
    assert_int_equal(read_in_pieces(TYPE, body, (size_t)n + 4000, 100, &seen), RF_ERR_INVALID);
    size_t used = 0;
    for (int i = 0; i <= RF_MULTIPART_MAX_PARTS; i++)
        used += (size_t)snprintf(body + used, sizeof body - used,
                                 "%s--xYz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n", i ? "\r\n" : "");
    const struct rf_multipart_listener listener = {.self = &seen, .begin = on_begin, .data = on_data, .end = on_end};
    seen = (struct seen){0};
    RF_AUTO(rf_multipart_destroy) struct rf_multipart *m = NULL;
    struct rf_err err = {0};
    assert_int_equal(rf_multipart_create(TYPE, &listener, &m, &err), RF_OK);
    assert_int_equal(rf_multipart_feed(m, body, used, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "more than 256 parts"));
    assert_int_equal(rf_multipart_feed(m, "x", 1, &err), RF_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_form_is_read_alike_however_it_is_split),
        cmocka_unit_test(a_body_cut_anywhere_before_its_closing_boundary_is_refused),
        cmocka_unit_test(a_quoted_boundary_with_a_preamble_is_read),
        cmocka_unit_test(content_types_without_a_usable_boundary_are_refused),
        cmocka_unit_test(nonsense_in_a_part_is_refused),
        cmocka_unit_test(endless_headers_and_endless_parts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
