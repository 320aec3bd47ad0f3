/* Reading back what this room wrote: what is in a file, one frame of it, a contact sheet.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/media.h"

#include <string.h>

#include "worker/media/av.h"
#include "worker/media/resize.h"
#include "worker/media/video.h"

enum { MAX_SHEET_SIDE = 16383 }; /* the most that WebP can hold */

/* A file being decoded. Frames have numbers: where a constant rate puts them. */
struct reader {
    AVFormatContext *demux;
    AVCodecContext *decoder;
    AVPacket *packet;
    AVFrame *frame;
    struct rf_timeline timeline;
    int next; /* the frame that decoding on would give */
};

static void reader_finish(struct reader *r)
{
    avformat_close_input(&r->demux);
    avcodec_free_context(&r->decoder);
    av_packet_free(&r->packet);
    av_frame_free(&r->frame);
}

static enum rf_code reader_init(struct reader *r, const char *path, struct rf_err *err)
{
    enum rf_code rc = rf_mp4_read(path, &r->demux, &r->timeline, err);
    if (rc != RF_OK)
        return rc;
    const AVCodec *codec = avcodec_find_decoder(AV_CODEC_ID_H264);
    if (codec == NULL)
        return rf_fail(err, RF_ERR_DEVICE, "this build of FFmpeg cannot decode H.264");
    r->decoder = avcodec_alloc_context3(codec);
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (r->decoder == NULL || r->packet == NULL || r->frame == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a decoder");
    r->decoder->thread_count = 1; /* frame threads would decode ahead of a single frame for nothing */
    r->decoder->err_recognition = AV_EF_EXPLODE;
    r->decoder->pkt_timebase = r->demux->streams[0]->time_base;
    int ret = avcodec_parameters_to_context(r->decoder, r->demux->streams[0]->codecpar);
    if (ret >= 0)
        ret = avcodec_open2(r->decoder, codec, NULL);
    r->next = r->timeline.n_frames; /* at the end: finding the timeline read it all */
    return ret < 0 ? rf_av_fail(err, ret, "open the decoder") : RF_OK;
}

/* The next frame in the order shown, into r->frame. */
static enum rf_code reader_step(struct reader *r, struct rf_err *err)
{
    for (;;) {
        int ret = avcodec_receive_frame(r->decoder, r->frame);
        if (ret >= 0)
            return RF_OK;
        if (ret != AVERROR(EAGAIN))
            return rf_av_fail(err, ret, "decode");
        bool end;
        enum rf_code rc = rf_mp4_next(r->demux, r->packet, &end, err);
        if (rc != RF_OK)
            return rc;
        ret = avcodec_send_packet(r->decoder, end ? NULL : r->packet);
        if (ret < 0)
            return rf_av_fail(err, ret, "decode");
    }
}

static enum rf_code reader_frame(struct reader *r, int number, struct rf_err *err)
{
    const AVCodecParameters *par = r->demux->streams[0]->codecpar;
    if (number < r->next || number > r->next + 2 * r->timeline.fps) {
        enum rf_code rc = rf_mp4_seek(r->demux, &r->timeline, number, err);
        if (rc != RF_OK)
            return rc;
        avcodec_flush_buffers(r->decoder);
    }
    int64_t at = r->timeline.first + number * r->timeline.tick;
    for (;;) {
        enum rf_code rc = reader_step(r, err);
        if (rc != RF_OK)
            return rf_wrap(err, rc, "frame %d", number);
        if (r->frame->pts >= at)
            break;
    }
    r->next = number + 1;
    if (r->frame->pts != at)
        return rf_fail(err, RF_ERR_FORMAT, "frame %d is missing", number);
    if (r->frame->format != AV_PIX_FMT_YUV420P || r->frame->width != par->width || r->frame->height != par->height)
        return rf_fail(err, RF_ERR_FORMAT, "frame %d is not %dx%d in yuv420p", number, par->width, par->height);
    return RF_OK;
}

static enum rf_code reader_image(struct reader *r, int number, struct rf_image *ret_image, struct rf_err *err)
{
    enum rf_code rc = reader_frame(r, number, err);
    if (rc != RF_OK)
        return rc;
    struct rf_image image = { r->frame->width, r->frame->height, NULL };
    image.rgb = malloc((size_t)image.width * (size_t)image.height * 3);
    struct rf_yuv planes = rf_video_planes(r->frame);
    if (image.rgb == NULL || !rf_yuv_to_rgb(&planes, image.width, image.height, image.rgb)) {
        rf_image_finish(&image);
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for %dx%d pixels", image.width, image.height);
    }
    *ret_image = image;
    return RF_OK;
}

enum rf_code rf_video_probe(const char *path, struct rf_video_info *ret_info, struct rf_err *err)
{
    rf_av_begin();
    RF_AUTO(avformat_close_input) AVFormatContext *demux = NULL;
    struct rf_timeline t;
    enum rf_code rc = rf_mp4_read(path, &demux, &t, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "read '%s'", path);
    *ret_info = (struct rf_video_info){
        .width = demux->streams[0]->codecpar->width,
        .height = demux->streams[0]->codecpar->height,
        .fps = t.fps,
        .n_frames = t.n_frames,
        .seconds = t.seconds,
        .size_bytes = avio_size(demux->pb),
    };
    return RF_OK;
}

enum rf_code rf_video_frame(const char *path, int frame, struct rf_image *ret_image, struct rf_err *err)
{
    rf_av_begin();
    RF_AUTO(reader_finish) struct reader r = { 0 };
    enum rf_code rc = reader_init(&r, path, err);
    if (rc == RF_OK && (frame < 0 || frame >= r.timeline.n_frames))
        rc = rf_fail(err, RF_ERR_INVALID, "frame %d of %d", frame, r.timeline.n_frames);
    if (rc == RF_OK)
        rc = reader_image(&r, frame, ret_image, err);
    return rc == RF_OK ? RF_OK : rf_wrap(err, rc, "read '%s'", path);
}

static enum rf_code draw_sheet(struct reader *r, int columns, int rows, int cell_width, int cell_height,
                               struct rf_image *sheet, struct rf_err *err)
{
    ptrdiff_t stride = 3 * (ptrdiff_t)sheet->width;
    int n_cells = columns * rows, last = r->timeline.n_frames - 1;
    for (int i = 0; i < n_cells; i++) {
        int number = n_cells > 1 ? (int)((int64_t)i * last / (n_cells - 1)) : last / 2;
        RF_AUTO(rf_image_finish) struct rf_image image = { 0 };
        enum rf_code rc = reader_image(r, number, &image, err);
        if (rc != RF_OK)
            return rc;
        struct rf_crop all = { 0, 0, image.width, image.height };
        uint8_t *cell = sheet->rgb + i / columns * cell_height * stride + i % columns * cell_width * 3;
        if (!rf_resize(image.rgb, image.width, image.height, &all, cell, stride, cell_width, cell_height))
            return rf_fail(err, RF_ERR_NO_MEMORY, "no memory to scale a frame");
    }
    return RF_OK;
}

enum rf_code rf_video_sheet(const char *path, int columns, int rows, int cell_width, struct rf_image *ret_image,
                            struct rf_err *err)
{
    rf_av_begin();
    RF_AUTO(reader_finish) struct reader r = { 0 };
    enum rf_code rc = reader_init(&r, path, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "read '%s'", path);
    const AVCodecParameters *par = r.demux->streams[0]->codecpar;
    int64_t cell_height = cell_width > 0 ? ((int64_t)cell_width * par->height + par->width / 2) / par->width : 0;
    cell_height = cell_height > 0 ? cell_height : 1;
    if (columns < 1 || rows < 1 || cell_width < 1 || (int64_t)columns * cell_width > MAX_SHEET_SIDE ||
        rows * cell_height > MAX_SHEET_SIDE)
        return rf_fail(err, RF_ERR_INVALID, "sheet of '%s': %d x %d cells %d wide; sides go up to %d", path, columns,
                       rows, cell_width, MAX_SHEET_SIDE);
    RF_AUTO(rf_image_finish) struct rf_image sheet = { columns * cell_width, rows * (int)cell_height, NULL };
    sheet.rgb = malloc((size_t)sheet.width * (size_t)sheet.height * 3);
    if (sheet.rgb == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "sheet of '%s': no memory for %dx%d", path, sheet.width, sheet.height);
    rc = draw_sheet(&r, columns, rows, cell_width, (int)cell_height, &sheet, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "sheet of '%s'", path);
    *ret_image = sheet;
    sheet.rgb = NULL;
    return RF_OK;
}
