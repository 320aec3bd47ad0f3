/* The guard before cJSON, and text written without it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Comparing the keys of an object with each other is quadratic, so their number is bounded. Ours have at most 30. */
#define MAX_KEYS 128

bool rf_utf8_valid(const char *text, size_t n_bytes, size_t *ret_n_chars)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + n_bytes;
    size_t n_chars = 0;
    while (p < end) {
        uint64_t eight;
        if (end - p >= 8) { /* nearly all text is ASCII: eight letters at once, none of them 0 or above 0x7f */
            memcpy(&eight, p, 8);
            const uint64_t tops = UINT64_C(0x8080808080808080);
            if (((eight | (eight - UINT64_C(0x0101010101010101))) & tops) == 0) {
                p += 8;
                n_chars += 8;
                continue;
            }
        }
        if (*p < 0x80) {
            if (*p == 0)
                return false;
            p++;
            n_chars++;
            continue;
        }
        int n_more = *p >= 0xC2 && *p <= 0xDF ? 1 : *p >= 0xE0 && *p <= 0xEF ? 2 : *p >= 0xF0 && *p <= 0xF4 ? 3 : 0;
        if (n_more == 0 || end - p <= n_more)
            return false;
        /* The second byte alone decides about overlong forms, surrogates and numbers past U+10FFFF. */
        unsigned low = *p == 0xE0 ? 0xA0 : *p == 0xF0 ? 0x90 : 0x80;
        unsigned high = *p == 0xED ? 0x9F : *p == 0xF4 ? 0x8F : 0xBF;
        if (p[1] < low || p[1] > high)
            return false;
        for (int i = 2; i <= n_more; i++)
            if ((p[i] & 0xC0) != 0x80)
                return false;
        p += n_more + 1;
        n_chars++;
    }
    if (ret_n_chars != NULL)
        *ret_n_chars = n_chars;
    return true;
}

/* Depth, strings and their escapes; everything else is left to cJSON. */
static enum rf_code guard(const char *text, size_t n_bytes, struct rf_err *err)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (in_string) {
            if (c < 0x20)
                return rf_fail(err, RF_ERR_INVALID, "not JSON: control character in a string at byte %zu", i);
            if (c == '"') {
                in_string = false;
            } else if (c == '\\') {
                if (n_bytes - i > 5 && memcmp(text + i, "\\u0000", 6) == 0)
                    return rf_fail(err, RF_ERR_INVALID, "a string holds the character U+0000 at byte %zu", i);
                i++;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > RF_JSON_MAX_DEPTH)
                return rf_fail(err, RF_ERR_INVALID, "JSON is nested deeper than %d", RF_JSON_MAX_DEPTH);
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return RF_OK;
}

static enum rf_code check_keys(const cJSON *json, struct rf_err *err)
{
    if (cJSON_IsObject(json)) {
        int n = 0;
        for (const cJSON *a = json->child; a != NULL; a = a->next) {
            if (++n > MAX_KEYS)
                return rf_fail(err, RF_ERR_INVALID, "an object has more than %d keys", MAX_KEYS);
            for (const cJSON *b = json->child; b != a; b = b->next)
                if (strcmp(a->string, b->string) == 0)
                    return rf_fail(err, RF_ERR_INVALID, "key '%.40s' is given twice", a->string);
        }
    }
    for (const cJSON *child = json->child; child != NULL; child = child->next)
        if (child->child != NULL) {
            enum rf_code rc = check_keys(child, err);
            if (rc != RF_OK)
                return rc;
        }
    return RF_OK;
}

enum rf_code rf_json_parse(const char *text, size_t n_bytes, size_t max_bytes, cJSON **ret_json, struct rf_err *err)
{
    if (n_bytes > max_bytes)
        return rf_fail(err, RF_ERR_LIMIT, "JSON of %zu bytes; at most %zu", n_bytes, max_bytes);
    if (!rf_utf8_valid(text, n_bytes, NULL))
        return rf_fail(err, RF_ERR_INVALID, "not JSON: the text is not valid UTF-8");
    enum rf_code rc = guard(text, n_bytes, err);
    if (rc != RF_OK)
        return rc;
    const char *end = NULL;
    RF_AUTO(rf_json_destroy) cJSON *json = cJSON_ParseWithLengthOpts(text, n_bytes, &end, 0);
    size_t used = end != NULL && end >= text ? (size_t)(end - text) : 0;
    if (json == NULL)
        return rf_fail(err, RF_ERR_INVALID, "not JSON: trouble at byte %zu", used);
    while (used < n_bytes && strchr(" \t\r\n", text[used]) != NULL)
        used++;
    if (used < n_bytes)
        return rf_fail(err, RF_ERR_INVALID, "not JSON: something follows the value at byte %zu", used);
    rc = check_keys(json, err);
    if (rc != RF_OK)
        return rc;
    *ret_json = json;
    json = NULL;
    return RF_OK;
}

void rf_json_destroy(cJSON **json)
{
    cJSON_Delete(*json);
    *json = NULL;
}

static char *reserve(struct rf_text *t, size_t n_more)
{
    if (t->capacity - t->n_bytes <= n_more) {
        size_t capacity = t->capacity * 2 > t->n_bytes + n_more + 1 ? t->capacity * 2 : t->n_bytes + n_more + 256;
        t->text = rf_realloc(t->text, capacity, 1);
        t->capacity = capacity;
    }
    return t->text + t->n_bytes;
}

void rf_text_add_bytes(struct rf_text *t, const char *raw, size_t n_bytes)
{
    char *out = reserve(t, n_bytes);
    memcpy(out, raw, n_bytes);
    out[n_bytes] = '\0';
    t->n_bytes += n_bytes;
}

void rf_text_add(struct rf_text *t, const char *raw)
{
    rf_text_add_bytes(t, raw, strlen(raw));
}

void rf_text_add_string(struct rf_text *t, const char *utf8)
{
    rf_text_add_bytes(t, "\"", 1);
    const char *run = utf8;
    for (const char *p = utf8;; p++) {
        unsigned char c = (unsigned char)*p;
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        rf_text_add_bytes(t, run, (size_t)(p - run));
        run = p + 1;
        if (c == '\0')
            break;
        char escape[8];
        if (c == '"' || c == '\\')
            snprintf(escape, sizeof escape, "\\%c", c);
        else if (c == '\n')
            strcpy(escape, "\\n");
        else
            snprintf(escape, sizeof escape, "\\u%04x", c);
        rf_text_add(t, escape);
    }
    rf_text_add_bytes(t, "\"", 1);
}

void rf_text_add_int(struct rf_text *t, int64_t n)
{
    char digits[24], *p = digits + sizeof digits;
    uint64_t rest = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    do
        *--p = (char)('0' + rest % 10);
    while (rest /= 10);
    if (n < 0)
        *--p = '-';
    rf_text_add_bytes(t, p, (size_t)(digits + sizeof digits - p));
}

void rf_text_add_double(struct rf_text *t, double x)
{
    if (!isfinite(x)) {
        rf_text_add(t, "null");
        return;
    }
    if (fabs(x) < 1e15 && x == (double)(int64_t)x) { /* the common case, without printf */
        rf_text_add_int(t, (int64_t)x);
        return;
    }
    char digits[32];
    /* Up to six decimals, as times and settings have: when k / 10^6 is x (a division rounds to the nearest double, as reading
     * the digits does), the digits of k are those of x. printf needs thirty times as long. */
    if (fabs(x) < 1e9) {
        int64_t k = llround(fabs(x) * 1e6);
        if ((double)k / 1e6 == fabs(x)) {
            rf_text_add(t, x < 0 ? "-" : "");
            rf_text_add_int(t, k / 1000000);
            int n = 0;
            digits[n++] = '.'; /* there are decimals: whole numbers went above */
            for (int64_t rest = k % 1000000 * 10; rest != 0; rest = rest % 1000000 * 10)
                digits[n++] = (char)('0' + rest / 1000000);
            rf_text_add_bytes(t, digits, (size_t)n);
            return;
        }
    }
    snprintf(digits, sizeof digits, "%.15g", x);
    if (strtod(digits, NULL) != x)
        snprintf(digits, sizeof digits, "%.17g", x);
    rf_text_add(t, digits);
}

void rf_text_finish(struct rf_text *t)
{
    free(t->text);
    *t = (struct rf_text){0};
}
