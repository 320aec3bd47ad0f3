/* The mp4 container: how this room writes and opens one; see video.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <limits.h>
#include <math.h>

#include "worker/media/av.h"
#include "worker/media/video.h"

/* Frames that refer forward are stored before they are shown. By default the muxer then starts the first frame late and
 * adds an edit list to undo that, which some players ignore and every joiner has to understand. Signed offsets
 * (negative_cts_offsets) need no such thing: the first frame is at 0 in the file as on the screen. */
static void muxer_options(int fps, AVDictionary **options)
{
    char timescale[16];
    snprintf(timescale, sizeof timescale, "%d", fps * 512); /* 16384 at 32 fps: what players see every day */
    rf_av_set(options, "movflags", "faststart+negative_cts_offsets");
    rf_av_set(options, "use_editlist", "0");
    rf_av_set(options, "video_track_timescale", timescale);
}

enum rf_code rf_mp4_open(const char *path, AVFormatContext **ret_mux, struct rf_err *err)
{
    RF_AUTO(rf_free) char *url = rf_av_url(path);
    AVFormatContext *mux = NULL;
    int ret = avformat_alloc_output_context2(&mux, NULL, "mp4", url);
    if (ret < 0)
        return rf_av_fail(err, ret, "no mp4 muxer");
    mux->flags |= AVFMT_FLAG_BITEXACT; /* the library's version stays out of the file */
    ret = avio_open(&mux->pb, url, AVIO_FLAG_WRITE);
    if (ret < 0) {
        rf_mp4_close(&mux);
        return rf_av_fail(err, ret, "cannot create it");
    }
    *ret_mux = mux;
    return RF_OK;
}

enum rf_code rf_mp4_start(AVFormatContext *mux, int fps, struct rf_err *err)
{
    AVStream *stream = mux->streams[0];
    stream->time_base = (AVRational){ 1, fps };
    stream->avg_frame_rate = stream->r_frame_rate = (AVRational){ fps, 1 };
    stream->codecpar->codec_tag = 0;
    RF_AUTO(av_dict_free) AVDictionary *options = NULL;
    muxer_options(fps, &options);
    int ret = avformat_write_header(mux, &options);
    return ret < 0 ? rf_av_fail(err, ret, "mp4 header") : RF_OK;
}

enum rf_code rf_mp4_packet(AVFormatContext *mux, AVPacket *packet, AVRational time_base, struct rf_err *err)
{
    av_packet_rescale_ts(packet, time_base, mux->streams[0]->time_base);
    packet->stream_index = 0;
    packet->pos = -1;
    int ret = av_interleaved_write_frame(mux, packet);
    if (ret >= 0)
        ret = mux->pb->error; /* a full disk is noted here first */
    return ret < 0 ? rf_av_fail(err, ret, "frame data") : RF_OK;
}

enum rf_code rf_mp4_finish(AVFormatContext *mux, struct rf_err *err)
{
    int ret = av_write_trailer(mux);
    avio_flush(mux->pb);
    if (ret >= 0)
        ret = mux->pb->error;
    int closed = avio_closep(&mux->pb);
    if (ret >= 0)
        ret = closed;
    return ret < 0 ? rf_av_fail(err, ret, "mp4 index") : RF_OK;
}

void rf_mp4_close(AVFormatContext **mux)
{
    if (*mux == NULL)
        return;
    avio_closep(&(*mux)->pb);
    avformat_free_context(*mux);
    *mux = NULL;
}

static enum rf_code open_demux(const char *path, AVFormatContext **ret_demux, struct rf_err *err)
{
    RF_AUTO(rf_free) char *url = rf_av_url(path);
    RF_AUTO(avformat_close_input) AVFormatContext *demux = NULL;
    int ret = avformat_open_input(&demux, url, av_find_input_format("mp4"), NULL);
    if (ret < 0)
        return rf_av_fail(err, ret, "cannot open it");
    int n_video = 0;
    for (unsigned i = 0; i < demux->nb_streams; i++)
        n_video += demux->streams[i]->codecpar->codec_id == AV_CODEC_ID_H264;
    if (n_video != 1 || demux->nb_streams != 1)
        return rf_fail(err, RF_ERR_FORMAT, "not one H.264 stream but %u streams", demux->nb_streams);
    const AVCodecParameters *par = demux->streams[0]->codecpar;
    if (par->width < 2 || par->height < 2 || par->width > 16384 || par->height > 16384)
        return rf_fail(err, RF_ERR_FORMAT, "impossible size %dx%d", par->width, par->height);
    *ret_demux = demux;
    demux = NULL;
    return RF_OK;
}

enum rf_code rf_mp4_next(AVFormatContext *demux, AVPacket *packet, bool *ret_end, struct rf_err *err)
{
    av_packet_unref(packet);
    int ret = av_read_frame(demux, packet);
    *ret_end = ret == AVERROR_EOF && demux->pb->error >= 0;
    if (*ret_end)
        return RF_OK;
    if (ret < 0)
        return rf_av_fail(err, ret, "damaged or cut short");
    if (packet->flags & AV_PKT_FLAG_CORRUPT)
        return rf_fail(err, RF_ERR_FORMAT, "cut short in a frame");
    return RF_OK;
}

/* ---- the timeline ---- */

struct stamps {
    int64_t *pts;
    int64_t n, size;
};

static void stamps_finish(struct stamps *s)
{
    free(s->pts);
}

static enum rf_code collect_stamps(AVFormatContext *demux, struct stamps *s, struct rf_err *err)
{
    RF_AUTO(av_packet_free) AVPacket *packet = av_packet_alloc();
    if (packet == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a packet");
    for (;;) {
        bool end;
        enum rf_code rc = rf_mp4_next(demux, packet, &end, err);
        if (rc != RF_OK || end)
            return rc;
        if (packet->pts == AV_NOPTS_VALUE || packet->size == 0)
            return rf_fail(err, RF_ERR_FORMAT, "packet %" PRId64 " has no time or no data", s->n);
        if (s->n == s->size) {
            s->size = s->size ? 2 * s->size : 1024;
            s->pts = rf_realloc(s->pts, (size_t)s->size, sizeof *s->pts); /* 8 bytes for each frame of a file on disk */
        }
        s->pts[s->n++] = packet->pts;
    }
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static enum rf_code read_timeline(AVFormatContext *demux, struct rf_timeline *ret_timeline, struct rf_err *err)
{
    const AVStream *stream = demux->streams[0];
    RF_AUTO(stamps_finish) struct stamps s = { 0 };
    enum rf_code rc = collect_stamps(demux, &s, err);
    if (rc != RF_OK)
        return rc;
    if (s.n == 0 || s.n > INT_MAX || (stream->nb_frames > 0 && s.n != stream->nb_frames))
        return rf_fail(err, RF_ERR_FORMAT, "%" PRId64 " frames where the index says %" PRId64, s.n, stream->nb_frames);
    qsort(s.pts, (size_t)s.n, sizeof *s.pts, by_value);
    int64_t span = s.n > 1 ? s.pts[s.n - 1] - s.pts[0] : stream->duration;
    int64_t steps = s.n > 1 ? s.n - 1 : 1, tick = span / steps;
    if (tick <= 0 || stream->duration != tick * s.n)
        return rf_fail(err, RF_ERR_FORMAT, "%" PRId64 " frames do not fill its duration evenly", s.n);
    for (int64_t k = 0; k < s.n; k++)
        if (s.pts[k] != s.pts[0] + k * tick)
            return rf_fail(err, RF_ERR_FORMAT, "frame %" PRId64 " is not where a constant rate puts it", k);
    double tick_seconds = av_q2d(stream->time_base) * (double)tick;
    *ret_timeline = (struct rf_timeline){
        .n_frames = (int)s.n,
        .fps = (int)lrint(1 / tick_seconds),
        .first = s.pts[0],
        .tick = tick,
        .seconds = tick_seconds * (double)s.n,
    };
    return RF_OK;
}

enum rf_code rf_mp4_read(const char *path, AVFormatContext **ret_demux, struct rf_timeline *ret_timeline, struct rf_err *err)
{
    RF_AUTO(avformat_close_input) AVFormatContext *demux = NULL;
    enum rf_code rc = open_demux(path, &demux, err);
    if (rc == RF_OK)
        rc = read_timeline(demux, ret_timeline, err);
    if (rc != RF_OK)
        return rc;
    *ret_demux = demux;
    demux = NULL;
    return RF_OK;
}

enum rf_code rf_mp4_seek(AVFormatContext *demux, const struct rf_timeline *t, int frame, struct rf_err *err)
{
    /* Seeking goes by decoding time, which runs ahead of the time shown by the reordering depth, 16 at most. Times
     * before the first are taken as the first. */
    int64_t at = t->first + ((int64_t)frame - 16) * t->tick;
    int ret = av_seek_frame(demux, 0, at, AVSEEK_FLAG_BACKWARD);
    return ret < 0 ? rf_av_fail(err, ret, "seek to frame %d", frame) : RF_OK;
}
