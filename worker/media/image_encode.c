/* RGB to PNG and WebP in memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/media.h"

#include <libavcodec/avcodec.h>
#include <string.h>

#include "worker/media/av.h"

enum { MAX_SIDE = 16383 }; /* WebP's; more than any frame here */

struct kind {
    const char *encoder;
    enum AVPixelFormat pix_fmt;
    const char *option, *value;
};

static const struct kind kinds[RF_IMAGE_FORMAT_COUNT] = {
    [RF_IMAGE_PNG] = { "png", AV_PIX_FMT_RGB24, "pred", "mixed" }, /* 30 % smaller than without prediction */
    /* Given RGB, libwebp converts by itself and to its own specification. 80: no visible loss on a poster. */
    [RF_IMAGE_WEBP] = { "libwebp", AV_PIX_FMT_RGB32, "quality", "80" },
};

static enum rf_code open_encoder(const struct kind *kind, const struct rf_image *image, AVCodecContext **ret_encoder,
                                 struct rf_err *err)
{
    const AVCodec *codec = avcodec_find_encoder_by_name(kind->encoder);
    if (codec == NULL)
        return rf_fail(err, RF_ERR_DEVICE, "this build of FFmpeg has no encoder %s", kind->encoder);
    RF_AUTO(avcodec_free_context) AVCodecContext *encoder = avcodec_alloc_context3(codec);
    if (encoder == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for an encoder");
    encoder->width = image->width;
    encoder->height = image->height;
    encoder->pix_fmt = kind->pix_fmt;
    encoder->time_base = (AVRational){ 1, 1 };
    encoder->thread_count = 1;
    RF_AUTO(av_dict_free) AVDictionary *options = NULL;
    rf_av_set(&options, kind->option, kind->value);
    int ret = avcodec_open2(encoder, codec, &options);
    if (ret < 0)
        return rf_av_fail(err, ret, "open the encoder %s", kind->encoder);
    *ret_encoder = encoder;
    encoder = NULL;
    return RF_OK;
}

static enum rf_code fill_frame(const struct kind *kind, const struct rf_image *image, AVFrame *frame,
                               struct rf_err *err)
{
    frame->format = kind->pix_fmt;
    frame->width = image->width;
    frame->height = image->height;
    int ret = av_frame_get_buffer(frame, 0);
    if (ret < 0)
        return rf_av_fail(err, ret, "a frame of %dx%d", image->width, image->height);
    size_t row_bytes = (size_t)image->width * 3;
    for (int y = 0; y < image->height; y++) {
        const uint8_t *rgb = image->rgb + (size_t)y * row_bytes;
        uint8_t *out = frame->data[0] + y * frame->linesize[0];
        if (kind->pix_fmt == AV_PIX_FMT_RGB24) {
            memcpy(out, rgb, row_bytes);
            continue;
        }
        for (int x = 0; x < image->width; x++) {
            uint32_t argb = 0xff000000u | (uint32_t)rgb[3 * x] << 16 | (uint32_t)rgb[3 * x + 1] << 8 | rgb[3 * x + 2];
            memcpy(out + 4 * x, &argb, sizeof argb);
        }
    }
    return RF_OK;
}

enum rf_code rf_image_encode(const struct rf_image *image, enum rf_image_format format, void **ret_bytes,
                             size_t *ret_size_bytes, struct rf_err *err)
{
    rf_av_begin();
    RF_ASSERT(format < RF_IMAGE_FORMAT_COUNT);
    if (image->width < 1 || image->height < 1 || image->width > MAX_SIDE || image->height > MAX_SIDE)
        return rf_fail(err, RF_ERR_INVALID, "encode an image of %dx%d: sides are 1 to %d", image->width, image->height,
                       MAX_SIDE);
    RF_AUTO(avcodec_free_context) AVCodecContext *encoder = NULL;
    RF_AUTO(av_frame_free) AVFrame *frame = av_frame_alloc();
    RF_AUTO(av_packet_free) AVPacket *packet = av_packet_alloc();
    if (frame == NULL || packet == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a frame");
    enum rf_code rc = open_encoder(&kinds[format], image, &encoder, err);
    if (rc == RF_OK)
        rc = fill_frame(&kinds[format], image, frame, err);
    if (rc != RF_OK)
        return rc;
    int ret = avcodec_send_frame(encoder, frame);
    if (ret >= 0)
        ret = avcodec_send_frame(encoder, NULL);
    if (ret >= 0)
        ret = avcodec_receive_packet(encoder, packet);
    if (ret < 0)
        return rf_av_fail(err, ret, "encode an image of %dx%d", image->width, image->height);
    void *bytes = malloc((size_t)packet->size);
    if (bytes == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for an image file of %d bytes", packet->size);
    memcpy(bytes, packet->data, (size_t)packet->size);
    *ret_bytes = bytes;
    *ret_size_bytes = (size_t)packet->size;
    return RF_OK;
}
