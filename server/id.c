/* Row numbers as ids and back. SPDX-License-Identifier: Apache-2.0 */
#include "server/id.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define COUNTER_BITS 20

static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";

int64_t rf_id_first_row(int64_t now_ms)
{
    return (now_ms & ((INT64_C(1) << 43) - 1)) << COUNTER_BITS;
}

int64_t rf_id_next_row(int64_t last, int64_t now_ms)
{
    int64_t fresh = rf_id_first_row(now_ms);
    return fresh > last ? fresh : last + 1;
}

/* 13 digits hold 65 bits; the first one of 64 is 0..f. */
static void write13(uint64_t n, char *out)
{
    for (int i = 12; i >= 0; i--, n >>= 5)
        out[i] = digits[n & 31];
}

static bool read13(const char *text, uint64_t *ret_n)
{
    uint64_t n = 0;
    for (int i = 0; i < 13; i++) {
        const char *at = text[i] != '\0' ? strchr(digits, text[i]) : NULL;
        if (at == NULL || (i == 0 && at - digits > 15))
            return false;
        n = n << 5 | (uint64_t)(at - digits);
    }
    *ret_n = n;
    return true;
}

void rf_id_format(struct rf_id id, char ret_text[RF_JOB_ID_SIZE])
{
    memcpy(ret_text, "video_", 6);
    write13((uint64_t)id.row, ret_text + 6);
    write13(id.tail, ret_text + 19);
    ret_text[32] = '\0';
}

bool rf_id_parse(const char *text, struct rf_id *ret_id)
{
    uint64_t row;
    if (text == NULL || strncmp(text, "video_", 6) != 0 || strlen(text) != RF_JOB_ID_SIZE - 1 || !read13(text + 6, &row) ||
        row == 0 || row > INT64_MAX || !read13(text + 19, &ret_id->tail))
        return false;
    ret_id->row = (int64_t)row;
    return true;
}

/* From the kernel, a block at a time: two calls of it for every job were a twentieth of what a submit cost. */
uint64_t rf_random64(void)
{
    static _Thread_local uint64_t block[32];
    static _Thread_local unsigned n_left;
    if (n_left == 0) {
        RF_ASSERT(getrandom(block, sizeof block, 0) == sizeof block); /* up to 256 bytes come whole once it is seeded */
        n_left = RF_COUNT_OF(block);
    }
    uint64_t n = block[--n_left];
    block[n_left] = 0;
    return n;
}

void rf_random_id(const char *prefix, char *ret_text, size_t size)
{
    char text[27];
    write13(rf_random64(), text);
    write13(rf_random64(), text + 13);
    text[26] = '\0';
    int n = snprintf(ret_text, size, "%s%s", prefix, text);
    RF_ASSERT(n > 0 && (size_t)n < size);
}
