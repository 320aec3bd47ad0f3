/* Image files from outside become RGB of the size asked for. The file's structure has been checked by image_head.c;
 * here libavcodec makes the pixels and we turn, blend, crop and scale them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/media.h"

#include <libavcodec/avcodec.h>
#include <libavutil/pixdesc.h>
#include <string.h>

#include "worker/media/av.h"
#include "worker/media/colour.h"
#include "worker/media/image_head.h"
#include "worker/media/resize.h"

enum { MAX_SIDE = 16384, MID_GREY = 128 };

void rf_image_finish(struct rf_image *image)
{
    free(image->rgb);
    image->rgb = NULL;
}

static enum rf_code image_init(struct rf_image *image, int width, int height, struct rf_err *err)
{
    *image = (struct rf_image){ width, height, malloc((size_t)width * (size_t)height * 3) };
    return image->rgb != NULL ? RF_OK : rf_fail(err, RF_ERR_NO_MEMORY, "no memory for %dx%d pixels", width, height);
}

/* ---- bytes to an FFmpeg frame ---- */

static enum AVCodecID codec_of(enum rf_image_kind kind)
{
    switch (kind) {
    case RF_IMAGE_KIND_PNG:
        return AV_CODEC_ID_PNG;
    case RF_IMAGE_KIND_JPEG:
        return AV_CODEC_ID_MJPEG;
    case RF_IMAGE_KIND_WEBP:
        return AV_CODEC_ID_WEBP;
    case RF_IMAGE_KIND_COUNT:
        break;
    }
    return AV_CODEC_ID_NONE;
}

static enum rf_code decode_frame(const struct rf_image_head *head, AVFrame **ret_frame, struct rf_err *err)
{
    const AVCodec *codec = avcodec_find_decoder(codec_of(head->kind));
    if (codec == NULL)
        return rf_fail(err, RF_ERR_DEVICE, "this build of FFmpeg cannot decode this kind of image");
    RF_AUTO(avcodec_free_context) AVCodecContext *decoder = avcodec_alloc_context3(codec);
    RF_AUTO(av_packet_free) AVPacket *packet = av_packet_alloc();
    RF_AUTO(av_frame_free) AVFrame *frame = av_frame_alloc();
    if (decoder == NULL || packet == NULL || frame == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a decoder");
    decoder->thread_count = 1;
    /* It may not find more than we did, but for the border that it adds to its buffers. */
    decoder->max_pixels = (int64_t)(head->width + 128) * (head->height + 128);
    decoder->err_recognition = AV_EF_EXPLODE;
    int ret = avcodec_open2(decoder, codec, NULL);
    packet->data = head->bytes; /* borrowed, not counted: freeing the packet leaves it */
    packet->size = (int)head->size_bytes;
    packet->flags = AV_PKT_FLAG_KEY;
    if (ret >= 0)
        ret = avcodec_send_packet(decoder, packet);
    if (ret >= 0)
        ret = avcodec_send_packet(decoder, NULL);
    if (ret >= 0)
        ret = avcodec_receive_frame(decoder, frame);
    if (ret < 0)
        return rf_av_fail(err, ret == AVERROR(ENOMEM) ? ret : AVERROR_INVALIDDATA, "the image is damaged");
    if (frame->width != head->width || frame->height != head->height || frame->decode_error_flags != 0 ||
        frame->flags & AV_FRAME_FLAG_CORRUPT)
        return rf_fail(err, RF_ERR_FORMAT, "the image is damaged: only a part of it could be decoded");
    *ret_frame = frame;
    frame = NULL;
    return RF_OK;
}

/* ---- an FFmpeg frame to RGB over mid grey ---- */

static uint8_t over_grey(unsigned value, unsigned alpha)
{
    return (uint8_t)((value * alpha + MID_GREY * (255 - alpha) + 127) / 255);
}

static void read_palette(const AVFrame *f, struct rf_image *image)
{
    for (int y = 0; y < f->height; y++) {
        uint8_t *out = image->rgb + (size_t)y * (size_t)f->width * 3;
        for (int x = 0; x < f->width; x++) {
            uint32_t argb;
            memcpy(&argb, f->data[1] + 4 * f->data[0][y * f->linesize[0] + x], sizeof argb);
            for (int c = 0; c < 3; c++)
                out[3 * x + c] = over_grey(argb >> (16 - 8 * c) & 255, argb >> 24);
        }
    }
}

/* Line `y` of component `c`, whatever its layout, byte order and depth, rounded to 8 bits. */
static void read_component(const AVFrame *f, const AVPixFmtDescriptor *desc, int y, int c, uint16_t *line)
{
    unsigned top = (1u << desc->comp[c].depth) - 1;
    av_read_image_line2(line, (const uint8_t **)f->data, f->linesize, desc, 0, y, c, f->width, 0, sizeof *line);
    for (int x = 0; x < f->width; x++)
        line[x] = (uint16_t)((line[x] * 255u + top / 2) / top);
}

/* RGB and grey of every depth, with and without alpha. */
static enum rf_code read_components(const AVFrame *f, const AVPixFmtDescriptor *desc, struct rf_image *image,
                                    struct rf_err *err)
{
    bool grey = desc->nb_components <= 2, alpha = desc->flags & AV_PIX_FMT_FLAG_ALPHA;
    size_t width = (size_t)f->width;
    RF_AUTO(rf_free) uint16_t *lines = malloc(4 * width * sizeof *lines);
    if (lines == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a line of %d pixels", f->width);
    for (int y = 0; y < f->height; y++) {
        uint8_t *out = image->rgb + (size_t)y * width * 3;
        for (int c = 0; c < desc->nb_components; c++)
            read_component(f, desc, y, c, lines + (size_t)c * width);
        const uint16_t *a = alpha ? lines + (size_t)(desc->nb_components - 1) * width : NULL;
        for (size_t x = 0; x < width; x++)
            for (size_t c = 0; c < 3; c++)
                out[3 * x + c] = over_grey(lines[(grey ? 0 : c) * width + x], a != NULL ? a[x] : 255);
    }
    return RF_OK;
}

static enum rf_code read_yuv(const AVFrame *f, const AVPixFmtDescriptor *desc, bool full_range, struct rf_image *image,
                             struct rf_err *err)
{
    if (desc->comp[0].depth != 8 || desc->nb_components < 3 || desc->log2_chroma_w > 2 || desc->log2_chroma_h > 2)
        return rf_fail(err, RF_ERR_FORMAT, "pixels stored as %s, which we do not take", desc->name);
    struct rf_yuv planes = {
        .plane = { f->data[0], f->data[1], f->data[2] },
        .stride = { f->linesize[0], f->linesize[1], f->linesize[2] },
        .shift_x = desc->log2_chroma_w, .shift_y = desc->log2_chroma_h,
        .site = RF_CHROMA_CENTRE, .matrix = RF_MATRIX_BT601, .full_range = full_range,
    };
    if (!rf_yuv_to_rgb(&planes, f->width, f->height, image->rgb))
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a line of %d pixels", f->width);
    if (!(desc->flags & AV_PIX_FMT_FLAG_ALPHA))
        return RF_OK;
    for (int y = 0; y < f->height; y++) {
        uint8_t *out = image->rgb + (size_t)y * (size_t)f->width * 3;
        for (int k = 0; k < 3 * f->width; k++)
            out[k] = over_grey(out[k], f->data[3][y * f->linesize[3] + k / 3]);
    }
    return RF_OK;
}

static enum rf_code read_frame(const AVFrame *f, enum rf_image_kind kind, struct rf_image *image, struct rf_err *err)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(f->format);
    enum rf_code rc = image_init(image, f->width, f->height, err);
    if (rc != RF_OK)
        return rc;
    if (desc->flags & AV_PIX_FMT_FLAG_PAL) {
        read_palette(f, image);
        return RF_OK;
    }
    if (desc->flags & AV_PIX_FMT_FLAG_RGB || desc->nb_components <= 2)
        return read_components(f, desc, image, err);
    /* JFIF is full range; WebP's lossy kind is limited. Both are BT.601 by their specifications. */
    return read_yuv(f, desc, kind == RF_IMAGE_KIND_JPEG, image, err);
}

/* ---- turning, cropping, scaling ---- */

/* EXIF 1 to 8: from 5 on rows and columns change places; then each axis of the stored picture may run backwards. */
static enum rf_code turn(struct rf_image *image, int orientation, struct rf_err *err)
{
    if (orientation == 1)
        return RF_OK;
    bool swap = orientation >= 5;
    bool back_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool back_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    struct rf_image turned;
    int width = swap ? image->height : image->width, height = swap ? image->width : image->height;
    enum rf_code rc = image_init(&turned, width, height, err);
    if (rc != RF_OK)
        return rc;
    uint8_t *out = turned.rgb;
    for (int y = 0; y < turned.height; y++)
        for (int x = 0; x < turned.width; x++, out += 3) {
            int from_x = swap ? y : x, from_y = swap ? x : y;
            from_x = back_x ? image->width - 1 - from_x : from_x;
            from_y = back_y ? image->height - 1 - from_y : from_y;
            memcpy(out, image->rgb + 3 * ((size_t)from_y * (size_t)image->width + (size_t)from_x), 3);
        }
    rf_image_finish(image);
    *image = turned;
    return RF_OK;
}

static enum rf_code fit(struct rf_image *image, int width, int height, struct rf_err *err)
{
    if (width == image->width && height == image->height)
        return RF_OK;
    struct rf_image fitted;
    enum rf_code rc = image_init(&fitted, width, height, err);
    if (rc != RF_OK)
        return rc;
    struct rf_crop crop = rf_crop_centre(image->width, image->height, width, height);
    if (!rf_resize(image->rgb, image->width, image->height, &crop, fitted.rgb, 3 * (ptrdiff_t)width, width, height))
        rc = rf_fail(err, RF_ERR_NO_MEMORY, "no memory to scale to %dx%d", width, height);
    rf_image_finish(rc == RF_OK ? image : &fitted);
    if (rc == RF_OK)
        *image = fitted;
    return rc;
}

enum rf_code rf_image_decode(const void *bytes, size_t size_bytes, int width, int height, struct rf_image *ret_image,
                             struct rf_err *err)
{
    rf_av_begin();
    if (width != 0 && (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE))
        return rf_fail(err, RF_ERR_INVALID, "an image of %dx%d: sides are 1 to %d", width, height, MAX_SIDE);
    RF_AUTO(rf_image_head_finish) struct rf_image_head head = { 0 };
    RF_AUTO(av_frame_free) AVFrame *frame = NULL;
    RF_AUTO(rf_image_finish) struct rf_image image = { 0 };
    enum rf_code rc = rf_image_head_read(bytes, size_bytes, &head, err);
    if (rc == RF_OK)
        rc = decode_frame(&head, &frame, err);
    if (rc == RF_OK)
        rc = read_frame(frame, head.kind, &image, err);
    av_frame_free(&frame); /* two copies of a large picture are enough */
    if (rc == RF_OK)
        rc = turn(&image, head.orientation, err);
    if (rc == RF_OK && width != 0)
        rc = fit(&image, width, height, err);
    if (rc != RF_OK)
        return rc;
    *ret_image = image;
    image.rgb = NULL;
    return RF_OK;
}
