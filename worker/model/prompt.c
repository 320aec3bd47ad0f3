/* See prompt.h. Whitespace is what Unicode calls so, since the official code uses a regular expression's \s.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/prompt.h"

#include <string.h>

/* Decodes one character; returns its length in bytes, 0 when the bytes are not UTF-8 (overlong forms, surrogates and
 * values past U+10FFFF are not). Never reads past the terminating zero: it is no continuation byte. */
static int decode(const unsigned char *s, uint32_t *ret_char)
{
    if (s[0] < 0x80) {
        *ret_char = s[0];
        return 1;
    }
    int n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 0;
    uint32_t c = s[0] & (0xFFu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[n] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        return 0;
    *ret_char = c;
    return n;
}

static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

enum rf_code rf_prompt_clean(const char *prompt, char **ret_clean, struct rf_err *err)
{
    size_t length = strlen(prompt), n = 0;
    RF_AUTO(rf_free) char *clean = malloc(length + 1);
    if (!clean)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a prompt of %zu bytes", length);
    bool space = false;
    for (size_t i = 0; i < length;) {
        uint32_t c;
        int bytes = decode((const unsigned char *)prompt + i, &c);
        if (bytes == 0)
            return rf_fail(err, RF_ERR_INVALID, "the prompt is not UTF-8 (byte %zu)", i);
        if (is_space(c)) {
            space = true;
        } else {
            if (space && n > 0)
                clean[n++] = ' ';
            space = false;
            memcpy(clean + n, prompt + i, (size_t)bytes);
            n += (size_t)bytes;
        }
        i += (size_t)bytes;
    }
    clean[n] = 0;
    *ret_clean = clean;
    clean = NULL;
    return RF_OK;
}
