/* See out.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/out.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void rf_out_finish(struct rf_out *t)
{
    rf_text_finish(&t->text);
    t->need_comma = false;
}

char *rf_out_take(struct rf_out *t, size_t *ret_n)
{
    rf_text_add_bytes(&t->text, "", 0);
    char *data = t->text.text;
    if (ret_n != NULL)
        *ret_n = t->text.n_bytes;
    *t = (struct rf_out){0};
    return data;
}

void rf_out_add(struct rf_out *t, const char *data, size_t n)
{
    rf_text_add_bytes(&t->text, data, n);
}

void rf_out_puts(struct rf_out *t, const char *text)
{
    rf_text_add(&t->text, text);
}

void rf_out_printf(struct rf_out *t, const char *format, ...)
{
    RF_ASSERT(format != NULL); /* gcc 12's -fsanitize=undefined warns of a null one otherwise */
    char line[512];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n >= (int)sizeof line) {
        char *more = rf_calloc((size_t)n + 1, 1);
        vsnprintf(more, (size_t)n + 1, format, again);
        rf_text_add_bytes(&t->text, more, (size_t)n);
        free(more);
    } else if (n > 0) {
        rf_text_add_bytes(&t->text, line, (size_t)n);
    }
    va_end(again);
}

static void begin_value(struct rf_out *t, const char *key)
{
    if (t->need_comma)
        rf_text_add_bytes(&t->text, ",", 1);
    t->need_comma = true;
    if (key != NULL) {
        rf_text_add_bytes(&t->text, "\"", 1);
        rf_text_add(&t->text, key);
        rf_text_add_bytes(&t->text, "\":", 2);
    }
}

void rf_json_open(struct rf_out *t, const char *key, char bracket)
{
    begin_value(t, key);
    rf_text_add_bytes(&t->text, &bracket, 1);
    t->need_comma = false;
}

void rf_json_close(struct rf_out *t, char bracket)
{
    rf_text_add_bytes(&t->text, &bracket, 1);
    t->need_comma = true;
}

void rf_json_str(struct rf_out *t, const char *key, const char *text)
{
    begin_value(t, key);
    if (text == NULL) {
        rf_text_add(&t->text, "null");
        return;
    }
    if (rf_utf8_valid(text, strlen(text), NULL)) {
        rf_text_add_string(&t->text, text);
        return;
    }
    RF_AUTO(rf_free) char *plain = rf_strdup(text);
    char *to = plain;
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x80)
            *to++ = *p;
    *to = '\0';
    rf_text_add_string(&t->text, plain);
}

void rf_json_int(struct rf_out *t, const char *key, int64_t value)
{
    begin_value(t, key);
    rf_text_add_int(&t->text, value);
}

void rf_json_num(struct rf_out *t, const char *key, double value)
{
    begin_value(t, key);
    rf_text_add_double(&t->text, value);
}

void rf_json_bool(struct rf_out *t, const char *key, bool value)
{
    rf_json_raw(t, key, value ? "true" : "false");
}

void rf_json_null(struct rf_out *t, const char *key)
{
    rf_json_raw(t, key, NULL);
}

void rf_json_raw(struct rf_out *t, const char *key, const char *json)
{
    begin_value(t, key);
    rf_text_add(&t->text, json ? json : "null");
}

void rf_csv_str(struct rf_out *t, const char *text)
{
    if (text == NULL)
        return;
    bool formula = *text && strchr("=+-@\t\r", *text) != NULL;
    if (!formula && strpbrk(text, ",\"\r\n") == NULL) {
        rf_out_puts(t, text);
        return;
    }
    rf_out_puts(t, formula ? "\"'" : "\"");
    for (const char *p = text; *p; p++) {
        if (*p == '"')
            rf_out_add(t, "\"", 1);
        rf_out_add(t, p, 1);
    }
    rf_out_puts(t, "\"");
}
