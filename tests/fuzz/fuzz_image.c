/* Start images: whatever the bytes, an image of the size asked for or an error, and never a crash.
 *
 * A PNG carries a checksum on every part, which blind mutation cannot get right; such input is tried once more with its
 * checksums put right, so that the decoder behind them is reached too.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/media.h"

#include <string.h>

#include "worker/media/image_head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static uint32_t checksum(const uint8_t *data, size_t n)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static uint32_t read_32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_checksums_right(uint8_t *png, size_t n)
{
    for (size_t at = 8; at + 12 <= n;) {
        size_t length = read_32(png + at);
        if (length > n - at - 12)
            return;
        uint32_t crc = checksum(png + at + 4, length + 4);
        for (size_t k = 0; k < 4; k++)
            png[at + 8 + length + k] = (uint8_t)(crc >> (24 - 8 * k));
        at += length + 12;
    }
}

/* A few bytes may claim 64 million pixels, within the limit: decoding them takes seconds and finds nothing new. */
static bool is_large(const uint8_t *data, size_t n)
{
    RF_AUTO(rf_image_head_finish) struct rf_image_head head = {0};
    return rf_image_head_read(data, n, &head, NULL) == RF_OK && (int64_t)head.width * head.height > 200000;
}

static void try_decode(const uint8_t *data, size_t n, int width, int height)
{
    RF_AUTO(rf_image_finish) struct rf_image image = {0};
    struct rf_err err = {0};
    if (is_large(data, n))
        return;
    enum rf_code rc = rf_image_decode(data, n, width, height, &image, &err);
    if (rc != RF_OK) {
        RF_ASSERT(image.rgb == NULL && err.code == rc && err.msg[0] != '\0');
        return;
    }
    RF_ASSERT(image.rgb != NULL && image.width > 0 && image.height > 0);
    RF_ASSERT(width == 0 || (image.width == width && image.height == height));
    volatile uint8_t last = image.rgb[(size_t)image.width * (size_t)image.height * 3 - 1];
    (void)last;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    try_decode(data, n, 0, 0);
    try_decode(data, n, 24, 17);
    if (n >= 8 && memcmp(data, "\x89PNG", 4) == 0) {
        RF_AUTO(rf_free) uint8_t *copy = rf_calloc(n, 1);
        memcpy(copy, data, n);
        put_checksums_right(copy, n);
        try_decode(copy, n, 0, 0);
    }
    return 0;
}
