/* Walks PNG, JPEG and WebP files: magic bytes, size, orientation, completeness. See image_head.h.
 *
 * This is the door for bytes from strangers. Every read is checked against the end, every count has a limit, and
 * only the parts that make the picture are copied on. tests/fuzz/fuzz_image.c knocks at it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/image_head.h"

#include <libavcodec/defs.h>
#include <libavutil/crc.h>
#include <libavutil/intreadwrite.h>
#include <string.h>

enum {
    MAX_SIDE = 16384,
    MAX_PIXELS = 64 * 1000 * 1000,
    MAX_SCANS = 64, /* a progressive JPEG has about ten; each costs a pass over the picture, however few its bytes */
};

/* The file, and the copy that grows from it: never longer than the file. */
struct walk {
    const uint8_t *in;
    size_t size, at;
    struct rf_image_head *head;
};

static void keep(struct walk *w, size_t from, size_t n)
{
    memcpy(w->head->bytes + w->head->size_bytes, w->in + from, n);
    w->head->size_bytes += n;
}

static enum rf_code ends_early(struct rf_err *err, const char *kind)
{
    return rf_fail(err, RF_ERR_FORMAT, "the %s file ends early: it was cut short", kind);
}

static enum rf_code check_size(int64_t width, int64_t height, struct rf_image_head *head, struct rf_err *err)
{
    if (width < 1 || height < 1)
        return rf_fail(err, RF_ERR_FORMAT, "the image says it has no pixels");
    if (width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS)
        return rf_fail(err, RF_ERR_LIMIT, "the image has %lldx%lld pixels; at most %d million and %d a side",
                       (long long)width, (long long)height, MAX_PIXELS / 1000000, MAX_SIDE);
    head->width = (int)width;
    head->height = (int)height;
    return RF_OK;
}

/* ---- EXIF: a TIFF header, then a directory of 12-byte entries ---- */

/* Anything odd counts as "says nothing": no picture is worth refusing over its orientation. */
static int exif_orientation(const uint8_t *tiff, size_t size)
{
    if (size < 8)
        return 1;
    bool little = tiff[0] == 'I';
    size_t at = little ? AV_RL32(tiff + 4) : AV_RB32(tiff + 4);
    if (at > size - 2)
        return 1;
    size_t n = little ? AV_RL16(tiff + at) : AV_RB16(tiff + at);
    at += 2;
    for (; n > 0 && size - at >= 12; n--, at += 12) {
        const uint8_t *entry = tiff + at;
        if ((little ? AV_RL16(entry) : AV_RB16(entry)) != 0x0112)
            continue;
        int value = little ? AV_RL16(entry + 8) : AV_RB16(entry + 8);
        return value >= 1 && value <= 8 ? value : 1;
    }
    return 1;
}

/* JPEG, and some writers of WebP, put a name in front. */
static int named_exif_orientation(const uint8_t *data, size_t size)
{
    static const char name[6] = "Exif\0";
    if (size >= sizeof name && memcmp(data, name, sizeof name) == 0)
        return exif_orientation(data + sizeof name, size - sizeof name);
    return 1;
}

/* ---- PNG: length, type, data, checksum ---- */

static bool checksum_right(const uint8_t *type, size_t n)
{
    uint32_t crc = av_crc(av_crc_get_table(AV_CRC_32_IEEE_LE), UINT32_MAX, type, n + 4) ^ UINT32_MAX;
    return crc == AV_RB32(type + 4 + n);
}

static enum rf_code walk_png(struct walk *w, struct rf_err *err)
{
    keep(w, 0, 8);
    for (w->at = 8; w->size - w->at >= 12;) {
        const uint8_t *chunk = w->in + w->at, *type = chunk + 4, *data = chunk + 8;
        size_t n = AV_RB32(chunk);
        if (n > w->size - w->at - 12)
            return ends_early(err, "PNG");
        if (!checksum_right(type, n))
            return rf_fail(err, RF_ERR_FORMAT, "the PNG file is damaged: a checksum at byte %zu is wrong", w->at);
        bool is_head = memcmp(type, "IHDR", 4) == 0;
        if (is_head != (w->at == 8) || (is_head && n != 13))
            return rf_fail(err, RF_ERR_FORMAT, "the PNG file is damaged: its header is not where it belongs");
        if (memcmp(type, "acTL", 4) == 0)
            return rf_fail(err, RF_ERR_FORMAT, "the PNG is animated; a start image is one picture");
        if (is_head) {
            enum rf_code rc = check_size(AV_RB32(data), AV_RB32(data + 4), w->head, err);
            if (rc != RF_OK)
                return rc;
        }
        if (memcmp(type, "eXIf", 4) == 0)
            w->head->orientation = exif_orientation(data, n);
        bool end = memcmp(type, "IEND", 4) == 0;
        if (is_head || end || memcmp(type, "PLTE", 4) == 0 || memcmp(type, "tRNS", 4) == 0 ||
            memcmp(type, "IDAT", 4) == 0)
            keep(w, w->at, n + 12);
        if (end)
            return RF_OK;
        w->at += n + 12;
    }
    return ends_early(err, "PNG");
}

/* ---- JPEG: markers with a length, entropy-coded data after each start of scan ---- */

enum {
    DHT = 0xc4, RST0 = 0xd0, RST7 = 0xd7, SOI, EOI, SOS, DQT, DNL, DRI, /* in a row from RST7 on */
    APP1 = 0xe1, APP14 = 0xee,
};

static bool starts_frame(int marker)
{
    return marker >= 0xc0 && marker <= 0xcf && marker != DHT && marker != 0xc8 && marker != 0xcc;
}

static bool makes_pixels(int marker)
{
    return marker == DHT || marker == DQT || marker == DRI || marker == SOS || marker == APP14 || starts_frame(marker);
}

static enum rf_code read_frame_header(int marker, const uint8_t *data, size_t n, struct rf_image_head *head,
                                      struct rf_err *err)
{
    if (marker > 0xc2)
        return rf_fail(err, RF_ERR_FORMAT, "a JPEG of a rare sort (lossless or arithmetic); save it as a common one");
    if (n < 6 || data[0] != 8)
        return rf_fail(err, RF_ERR_FORMAT, "a JPEG with other than 8 bits per colour; save it with 8");
    if (data[5] == 4)
        return rf_fail(err, RF_ERR_FORMAT, "a JPEG in printing inks (CMYK), whose look a press decides; save as RGB");
    if (data[5] != 1 && data[5] != 3)
        return rf_fail(err, RF_ERR_FORMAT, "a JPEG with %d colour components", data[5]);
    if (head->width != 0)
        return rf_fail(err, RF_ERR_FORMAT, "the JPEG file is damaged: two frame headers");
    return check_size(AV_RB16(data + 3), AV_RB16(data + 1), head, err);
}

/* From the first byte of entropy-coded data to the marker after it. */
static size_t skip_scan(const struct walk *w, size_t at)
{
    for (; w->size - at >= 2; at++)
        if (w->in[at] == 0xff && w->in[at + 1] != 0 && w->in[at + 1] != 0xff &&
            !(w->in[at + 1] >= RST0 && w->in[at + 1] <= RST7))
            return at;
    return w->size;
}

static enum rf_code walk_jpeg(struct walk *w, struct rf_err *err)
{
    int n_scans = 0;
    keep(w, 0, 2);
    for (w->at = 2; w->size - w->at >= 2;) {
        int marker = w->in[w->at + 1];
        if (w->in[w->at] != 0xff || marker == 0 || marker == SOI || marker == DNL)
            return rf_fail(err, RF_ERR_FORMAT, "the JPEG file is damaged at byte %zu", w->at);
        if (marker == 0xff) { /* filling */
            w->at++;
            continue;
        }
        if (marker == EOI) {
            keep(w, w->at, 2);
            return n_scans > 0 ? RF_OK : rf_fail(err, RF_ERR_FORMAT, "the JPEG file holds no picture");
        }
        size_t n = w->size - w->at >= 4 ? AV_RB16(w->in + w->at + 2) : 0;
        if (n < 2 || n > w->size - w->at - 2)
            return ends_early(err, "JPEG");
        const uint8_t *data = w->in + w->at + 4;
        enum rf_code rc = starts_frame(marker) ? read_frame_header(marker, data, n - 2, w->head, err) : RF_OK;
        if (rc != RF_OK)
            return rc;
        if (marker == APP1 && w->head->orientation == 1)
            w->head->orientation = named_exif_orientation(data, n - 2);
        if (marker == SOS && (w->head->width == 0 || ++n_scans > MAX_SCANS))
            return rf_fail(err, RF_ERR_FORMAT, "the JPEG file is damaged: a scan with no frame, or over %d",
                           MAX_SCANS);
        size_t end = marker == SOS ? skip_scan(w, w->at + 2 + n) : w->at + 2 + n;
        if (makes_pixels(marker))
            keep(w, w->at, end - w->at);
        w->at = end;
    }
    return ends_early(err, "JPEG");
}

/* ---- WebP: RIFF chunks ---- */

static enum rf_code read_webp_size(const uint8_t *type, const uint8_t *data, size_t n, struct rf_image_head *head,
                                   struct rf_err *err)
{
    int64_t width, height;
    if (memcmp(type, "VP8X", 4) == 0 && n >= 10) {
        width = 1 + AV_RL24(data + 4);
        height = 1 + AV_RL24(data + 7);
    } else if (memcmp(type, "VP8L", 4) == 0 && n >= 5 && data[0] == 0x2f) {
        uint32_t bits = AV_RL32(data + 1);
        width = 1 + (bits & 0x3fff);
        height = 1 + (bits >> 14 & 0x3fff);
    } else if (memcmp(type, "VP8 ", 4) == 0 && n >= 10 && memcmp(data + 3, "\x9d\x01\x2a", 3) == 0) {
        width = AV_RL16(data + 6) & 0x3fff;
        height = AV_RL16(data + 8) & 0x3fff;
    } else {
        return rf_fail(err, RF_ERR_FORMAT, "the WebP file is damaged: no picture header in '%.4s'", (const char *)type);
    }
    if (head->width != 0 && (head->width != width || head->height != height))
        return rf_fail(err, RF_ERR_FORMAT, "the WebP file is damaged: it has two sizes");
    return check_size(width, height, head, err);
}

static enum rf_code walk_webp(struct walk *w, struct rf_err *err)
{
    size_t end = (size_t)AV_RL32(w->in + 4) + 8;
    if (end > w->size || end < 12)
        return ends_early(err, "WebP");
    int n_pictures = 0;
    keep(w, 0, 12);
    for (w->at = 12; end - w->at >= 8;) {
        const uint8_t *type = w->in + w->at, *data = type + 8;
        size_t n = AV_RL32(type + 4), padded = n + n % 2;
        if (n > end - w->at - 8)
            return ends_early(err, "WebP");
        if (padded > end - w->at - 8)
            padded = n; /* the last filling byte is missing in some files */
        bool extended = memcmp(type, "VP8X", 4) == 0, picture = !extended && memcmp(type, "VP8", 3) == 0;
        if ((extended && n > 0 && data[0] & 2) || memcmp(type, "ANIM", 4) == 0 || memcmp(type, "ANMF", 4) == 0)
            return rf_fail(err, RF_ERR_FORMAT, "the WebP is animated; a start image is one picture");
        if (extended || picture) {
            enum rf_code rc = read_webp_size(type, data, n, w->head, err);
            if (rc != RF_OK)
                return rc;
        }
        if (memcmp(type, "EXIF", 4) == 0)
            w->head->orientation = n > 0 && data[0] == 'E' ? named_exif_orientation(data, n)
                                                           : exif_orientation(data, n);
        if (extended || picture || memcmp(type, "ALPH", 4) == 0)
            keep(w, w->at, 8 + padded);
        n_pictures += picture;
        w->at += 8 + padded;
    }
    if (n_pictures != 1)
        return rf_fail(err, RF_ERR_FORMAT, "the WebP file holds %d pictures instead of one", n_pictures);
    AV_WL32(w->head->bytes + 4, (uint32_t)(w->head->size_bytes - 8));
    return RF_OK;
}

/* ---- the door ---- */

void rf_image_head_finish(struct rf_image_head *head)
{
    free(head->bytes);
    head->bytes = NULL;
}

enum rf_code rf_image_head_read(const void *bytes, size_t size_bytes, struct rf_image_head *ret_head,
                                struct rf_err *err)
{
    RF_AUTO(rf_image_head_finish) struct rf_image_head head = { .orientation = 1 };
    struct walk w = { .in = bytes, .size = size_bytes, .head = &head };
    enum rf_code (*walk_kind)(struct walk *, struct rf_err *);
    if (size_bytes >= 8 && memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0) {
        head.kind = RF_IMAGE_KIND_PNG;
        walk_kind = walk_png;
    } else if (size_bytes >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0) {
        head.kind = RF_IMAGE_KIND_JPEG;
        walk_kind = walk_jpeg;
    } else if (size_bytes >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(w.in + 8, "WEBP", 4) == 0) {
        head.kind = RF_IMAGE_KIND_WEBP;
        walk_kind = walk_webp;
    } else {
        return rf_fail(err, RF_ERR_FORMAT, "not a PNG, JPEG or WebP image (%zu bytes)", size_bytes);
    }
    if (size_bytes > INT32_MAX / 2)
        return rf_fail(err, RF_ERR_LIMIT, "an image file of %zu bytes", size_bytes);
    head.bytes = calloc(size_bytes + AV_INPUT_BUFFER_PADDING_SIZE, 1);
    if (head.bytes == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for an image file of %zu bytes", size_bytes);
    enum rf_code rc = walk_kind(&w, err);
    if (rc != RF_OK)
        return rc;
    *ret_head = head;
    head.bytes = NULL;
    return RF_OK;
}
