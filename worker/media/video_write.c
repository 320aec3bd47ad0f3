/* Frames in, H.264 in mp4 out.
 *
 * Two things here are easy to lose. The bits: the same frames and options give the same file on every machine, so the
 * number of encoder threads never comes from the number of cores (see encoder_options). The clock: frame k is shown at
 * exactly k / fps and the file needs no edit list to say so (see muxer_options).
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/media.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <string.h>

#include "worker/media/av.h"
#include "worker/media/colour.h"
#include "worker/media/video.h"

enum { DEFAULT_CRF = 18, MAX_SIDE = 8192, MAX_FPS = 240, DEFAULT_THREADS = 4 };

struct rf_video_writer {
    char *path;
    AVFormatContext *mux;
    AVCodecContext *encoder;
    AVFrame *frame;
    AVPacket *packet;
    int64_t n_frames;
    bool header_written;
};

static enum rf_code check_opts(const struct rf_video_opts *o, struct rf_err *err)
{
    static const char *const presets[] = { "ultrafast", "superfast", "veryfast", "faster", "fast",
                                           "medium", "slow", "slower", "veryslow" };
    if (o->width % 2 != 0 || o->height % 2 != 0)
        return rf_fail(err, RF_ERR_INVALID, "size %dx%d: H.264 in 4:2:0 needs even sides", o->width, o->height);
    if (o->width < 16 || o->height < 16 || o->width > MAX_SIDE || o->height > MAX_SIDE)
        return rf_fail(err, RF_ERR_INVALID, "size %dx%d: sides are 16 to %d", o->width, o->height, MAX_SIDE);
    if (o->fps < 1 || o->fps > MAX_FPS)
        return rf_fail(err, RF_ERR_INVALID, "fps %d: 1 to %d", o->fps, MAX_FPS);
    if (o->crf < 0 || o->crf > 51)
        return rf_fail(err, RF_ERR_INVALID, "crf %d: 1 (best) to 51, or 0 for %d", o->crf, DEFAULT_CRF);
    if (o->n_threads < 0 || o->n_threads > 64)
        return rf_fail(err, RF_ERR_INVALID, "n_threads %d: at most 64, or 0 for %d", o->n_threads, DEFAULT_THREADS);
    if (o->preset == NULL)
        return RF_OK;
    for (size_t i = 0; i < RF_COUNT_OF(presets); i++)
        if (strcmp(o->preset, presets[i]) == 0)
            return RF_OK;
    return rf_fail(err, RF_ERR_INVALID, "preset '%.32s': not one of x264's, ultrafast to veryslow", o->preset);
}

/* x264 is deterministic for one number of threads, and its bits depend on that number (threads limit how far down a
 * vector may point). cpu-independent keeps the choice of assembly from mattering; stitchable keeps what the frames look
 * like out of the SPS and PPS, so that streams of the same options join. */
static void encoder_options(const struct rf_video_opts *o, AVDictionary **options)
{
    char crf[16];
    snprintf(crf, sizeof crf, "%d", o->crf > 0 ? o->crf : DEFAULT_CRF);
    rf_av_set(options, "crf", crf);
    rf_av_set(options, "preset", o->preset != NULL ? o->preset : "medium");
    rf_av_set(options, "x264-params", "open-gop=0:stitchable=1:cpu-independent=1");
}

static enum rf_code open_encoder(struct rf_video_writer *w, const struct rf_video_opts *o, struct rf_err *err)
{
    const AVCodec *codec = avcodec_find_encoder_by_name("libx264");
    if (codec == NULL)
        return rf_fail(err, RF_ERR_DEVICE, "this build of FFmpeg has no libx264");
    AVCodecContext *e = w->encoder = avcodec_alloc_context3(codec);
    if (e == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for an encoder");
    e->width = o->width;
    e->height = o->height;
    e->pix_fmt = AV_PIX_FMT_YUV420P;
    e->time_base = (AVRational){ 1, o->fps };
    e->framerate = (AVRational){ o->fps, 1 };
    e->gop_size = 2 * o->fps;
    e->thread_count = o->n_threads > 0 ? o->n_threads : DEFAULT_THREADS;
    e->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_CLOSED_GOP;
    e->color_range = AVCOL_RANGE_MPEG;
    e->colorspace = AVCOL_SPC_BT709;
    e->color_primaries = AVCOL_PRI_BT709;
    e->color_trc = AVCOL_TRC_BT709;
    e->chroma_sample_location = AVCHROMA_LOC_LEFT;
    RF_AUTO(av_dict_free) AVDictionary *options = NULL;
    encoder_options(o, &options);
    int ret = avcodec_open2(e, codec, &options);
    if (ret < 0)
        return rf_av_fail(err, ret, "open the H.264 encoder for %dx%d", o->width, o->height);
    return RF_OK;
}

static enum rf_code open_frame(struct rf_video_writer *w, struct rf_err *err)
{
    w->frame = av_frame_alloc();
    w->packet = av_packet_alloc();
    if (w->frame == NULL || w->packet == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a frame");
    w->frame->format = w->encoder->pix_fmt;
    w->frame->width = w->encoder->width;
    w->frame->height = w->encoder->height;
    int ret = av_frame_get_buffer(w->frame, 0);
    if (ret < 0)
        return rf_av_fail(err, ret, "a frame of %dx%d", w->frame->width, w->frame->height);
    return RF_OK;
}

enum rf_code rf_video_writer_open(const char *path, const struct rf_video_opts *opts,
                                  struct rf_video_writer **ret_writer, struct rf_err *err)
{
    rf_av_begin();
    enum rf_code rc = check_opts(opts, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "write '%s'", path);
    RF_AUTO(rf_video_writer_destroy) struct rf_video_writer *w = rf_new(struct rf_video_writer);
    w->path = rf_strdup(path);
    rc = open_encoder(w, opts, err);
    if (rc == RF_OK)
        rc = open_frame(w, err);
    if (rc == RF_OK)
        rc = rf_mp4_open(path, &w->mux, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "write '%s'", path);
    AVStream *stream = avformat_new_stream(w->mux, NULL);
    int ret = stream != NULL ? avcodec_parameters_from_context(stream->codecpar, w->encoder) : AVERROR(ENOMEM);
    if (ret < 0)
        return rf_av_fail(err, ret, "write '%s'", path);
    rc = rf_mp4_start(w->mux, opts->fps, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "write '%s'", path);
    w->header_written = true;
    *ret_writer = w;
    w = NULL;
    return RF_OK;
}

/* Gives the encoder a frame, NULL for the end, and writes all packets that it has ready. */
static enum rf_code encode(struct rf_video_writer *w, const AVFrame *frame, struct rf_err *err)
{
    int ret = avcodec_send_frame(w->encoder, frame);
    if (ret < 0)
        return rf_av_fail(err, ret, "encode '%s'", w->path);
    while ((ret = avcodec_receive_packet(w->encoder, w->packet)) >= 0) {
        w->packet->duration = 1; /* said, lest the muxer has to guess how long the last frame stays */
        enum rf_code rc = rf_mp4_packet(w->mux, w->packet, w->encoder->time_base, err);
        if (rc != RF_OK)
            return rf_wrap(err, rc, "write '%s'", w->path);
    }
    return ret == AVERROR(EAGAIN) || ret == AVERROR_EOF ? RF_OK : rf_av_fail(err, ret, "encode '%s'", w->path);
}

enum rf_code rf_video_writer_push(struct rf_video_writer *w, const uint8_t *rgb, struct rf_err *err)
{
    rf_av_begin();
    int ret = av_frame_make_writable(w->frame);
    if (ret < 0)
        return rf_av_fail(err, ret, "encode '%s'", w->path);
    struct rf_yuv planes = rf_video_planes(w->frame);
    rf_yuv_from_rgb(rgb, w->frame->width, w->frame->height, &planes);
    w->frame->pts = w->n_frames++;
    return encode(w, w->frame, err);
}

enum rf_code rf_video_writer_finish(struct rf_video_writer *w, struct rf_err *err)
{
    rf_av_begin();
    if (w->n_frames == 0)
        return rf_fail(err, RF_ERR_INVALID, "write '%s': no frames", w->path);
    enum rf_code rc = encode(w, NULL, err);
    if (rc != RF_OK)
        return rc;
    rc = rf_mp4_finish(w->mux, err);
    return rc == RF_OK ? RF_OK : rf_wrap(err, rc, "write '%s'", w->path);
}

void rf_video_writer_destroy(struct rf_video_writer **w)
{
    if (*w == NULL)
        return;
    rf_mp4_close(&(*w)->mux);
    avcodec_free_context(&(*w)->encoder);
    av_frame_free(&(*w)->frame);
    av_packet_free(&(*w)->packet);
    free((*w)->path);
    free(*w);
    *w = NULL;
}
