/* JSON tokens, strictly by RFC 8259; see json_reader.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/json_reader.h"

#include <string.h>

static void skip_space(struct rf_json_reader *r)
{
    while (r->at < r->size && strchr(" \t\n\r", r->text[r->at]) != NULL && r->text[r->at] != '\0')
        r->at++;
}

bool rf_json_take(struct rf_json_reader *r, char c)
{
    skip_space(r);
    if (r->at >= r->size || r->text[r->at] != c)
        return false;
    r->at++;
    return true;
}

static enum rf_code fail_at(const struct rf_json_reader *r, const char *wanted, struct rf_err *err)
{
    if (r->at >= r->size)
        return rf_fail(err, RF_ERR_FORMAT, "the JSON ends where %s should be", wanted);
    return rf_fail(err, RF_ERR_FORMAT, "JSON byte %zu is 0x%02x, not %s", r->at, (unsigned char)r->text[r->at], wanted);
}

enum rf_code rf_json_expect(struct rf_json_reader *r, char c, struct rf_err *err)
{
    char wanted[] = {'\'', c, '\'', '\0'};
    return rf_json_take(r, c) ? RF_OK : fail_at(r, wanted, err);
}

bool rf_json_at_end(struct rf_json_reader *r)
{
    skip_space(r);
    return r->at == r->size;
}

enum rf_code rf_json_uint(struct rf_json_reader *r, int64_t *ret_value, struct rf_err *err)
{
    skip_space(r);
    size_t first = r->at;
    int64_t value = 0;
    for (; r->at < r->size && r->text[r->at] >= '0' && r->text[r->at] <= '9'; r->at++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, r->text[r->at] - '0', &value))
            return rf_fail(err, RF_ERR_FORMAT, "the number at JSON byte %zu is too large", first);
    bool leading_zero = r->at - first > 1 && r->text[first] == '0';
    bool not_whole = r->at < r->size && strchr(".eE", r->text[r->at]) != NULL && r->text[r->at] != '\0';
    if (r->at == first || leading_zero || not_whole) {
        r->at = first;
        return fail_at(r, "a whole number", err);
    }
    *ret_value = value;
    return RF_OK;
}

/* ---- strings ---- */

/* The number of bytes of the UTF-8 character at s (of which `left` bytes are there), 0 when it is not valid UTF-8. */
static size_t utf8_length(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool outside = (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90); /* surrogates, past U+10FFFF */
    return overlong || outside ? 0 : n;
}

static size_t utf8_write(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00 >> n & 0xf0) | c);
    return n;
}

/* Four hexadecimal digits. */
static bool take_hex4(struct rf_json_reader *r, uint32_t *ret_value)
{
    static const char digits[] = "0123456789abcdef";
    if (r->size - r->at < 4)
        return false;
    *ret_value = 0;
    for (int i = 0; i < 4; i++) {
        char c = r->text[r->at + (size_t)i];
        const char *digit = c == '\0' ? NULL : strchr(digits, c >= 'A' && c <= 'F' ? c | 0x20 : c);
        if (digit == NULL)
            return false;
        *ret_value = *ret_value * 16 + (uint32_t)(digit - digits);
    }
    r->at += 4;
    return true;
}

/* What follows a backslash, as UTF-8 (at most 4 bytes, never more than its source took); 0: not an escape. */
static size_t take_escape(struct rf_json_reader *r, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (r->at >= r->size)
        return 0;
    char c = r->text[r->at++];
    const char *simple = c == '\0' ? NULL : strchr(from, c);
    if (simple != NULL) {
        *out = to[simple - from];
        return 1;
    }
    uint32_t code, low;
    if (c != 'u' || !take_hex4(r, &code) || code == 0)
        return 0;
    if (code >= 0xdc00 && code < 0xe000)
        return 0;
    if (code >= 0xd800 && code < 0xdc00) {
        if (r->size - r->at < 6 || r->text[r->at] != '\\' || r->text[r->at + 1] != 'u')
            return 0;
        r->at += 2;
        if (!take_hex4(r, &low) || low < 0xdc00 || low >= 0xe000)
            return 0;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    return utf8_write(out, code);
}

enum rf_code rf_json_string(struct rf_json_reader *r, char **ret_text, struct rf_err *err)
{
    if (!rf_json_take(r, '"'))
        return fail_at(r, "a string", err);
    size_t first = r->at, end = first;
    while (end < r->size && r->text[end] != '"')
        end += r->text[end] == '\\' ? 2 : 1;
    if (end >= r->size)
        return rf_fail(err, RF_ERR_FORMAT, "the string at JSON byte %zu does not end", first);
    RF_AUTO(rf_free) char *text = malloc(end - first + 1); /* as large as a hostile header makes it */
    if (text == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "a JSON string of %zu bytes", end - first);
    size_t n = 0;
    while (r->text[r->at] != '"') {
        unsigned char c = (unsigned char)r->text[r->at];
        if (c == '\\') {
            size_t at = r->at++, length = take_escape(r, text + n);
            if (length == 0)
                return rf_fail(err, RF_ERR_FORMAT, "bad escape at JSON byte %zu", at);
            n += length;
            continue;
        }
        size_t length = c < 0x20 ? 0 : utf8_length((const unsigned char *)r->text + r->at, end - r->at);
        if (length == 0)
            return fail_at(r, "a character", err);
        memcpy(text + n, r->text + r->at, length);
        n += length;
        r->at += length;
    }
    r->at++;
    text[n] = '\0';
    *ret_text = text;
    text = NULL;
    return RF_OK;
}
