/* Joins segments without touching a picture: packets are copied, only their clock moves on.
 *
 * Every segment starts with a key frame and refers to nothing outside it, so after the frames of the segments before it
 * have been added to its times, the result is what one encoder would have written. The finished file is then read back
 * and counted: what leaves this function has exactly the frames that were planned.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/media/media.h"

#include <string.h>

#include "worker/media/av.h"
#include "worker/media/video.h"

enum { MAX_REORDER = 16 }; /* H.264 lets no frame wait longer */

struct join {
    AVFormatContext *mux;
    AVPacket *packet;
    int64_t n_frames; /* of the files before this one */
    int64_t n_packets; /* written so far */
    int fps;
};

static void join_finish(struct join *j)
{
    rf_mp4_close(&j->mux);
    av_packet_free(&j->packet);
}

static bool same_stream(const AVCodecParameters *a, const AVCodecParameters *b)
{
    return a->width == b->width && a->height == b->height && a->extradata_size == b->extradata_size &&
           (a->extradata_size == 0 || memcmp(a->extradata, b->extradata, (size_t)a->extradata_size) == 0);
}

static enum rf_code start_output(struct join *j, const AVCodecParameters *like, const char *out_path, struct rf_err *err)
{
    enum rf_code rc = rf_mp4_open(out_path, &j->mux, err);
    if (rc != RF_OK)
        return rc;
    AVStream *stream = avformat_new_stream(j->mux, NULL);
    int ret = stream != NULL ? avcodec_parameters_copy(stream->codecpar, like) : AVERROR(ENOMEM);
    return ret < 0 ? rf_av_fail(err, ret, "mp4 stream") : rf_mp4_start(j->mux, j->fps, err);
}

/* Moves a packet's time from its file's clock to frames of the whole. Decoding times are counted anew: how far they run
 * ahead differs from file to file (a still scene has fewer frames that refer forward), and two files' own times would
 * meet at the seam. The muxer stores only how showing and decoding differ, so that a constant lead costs nothing. */
static enum rf_code move_clock(struct join *j, AVPacket *packet, const struct rf_timeline *t, struct rf_err *err)
{
    int64_t shown = packet->pts - t->first;
    if (shown % t->tick != 0)
        return rf_fail(err, RF_ERR_FORMAT, "a frame's time is not a whole frame");
    packet->pts = shown / t->tick + j->n_frames;
    packet->dts = j->n_packets++ - MAX_REORDER;
    packet->duration = 1;
    return RF_OK;
}

static enum rf_code append(struct join *j, const char *path, const char *out_path, struct rf_err *err)
{
    RF_AUTO(avformat_close_input) AVFormatContext *demux = NULL;
    struct rf_timeline t;
    enum rf_code rc = rf_mp4_read(path, &demux, &t, err);
    if (rc != RF_OK)
        return rc;
    if (t.fps != j->fps)
        return rf_fail(err, RF_ERR_FORMAT, "runs at %d frames per second, not %d", t.fps, j->fps);
    if (j->mux == NULL)
        rc = start_output(j, demux->streams[0]->codecpar, out_path, err);
    else if (!same_stream(j->mux->streams[0]->codecpar, demux->streams[0]->codecpar))
        rc = rf_fail(err, RF_ERR_FORMAT, "was encoded with other options than the first: they do not join");
    if (rc == RF_OK)
        rc = rf_mp4_seek(demux, &t, 0, err);
    if (rc != RF_OK)
        return rc;
    for (;;) {
        bool end;
        rc = rf_mp4_next(demux, j->packet, &end, err);
        if (rc != RF_OK || end)
            break;
        rc = move_clock(j, j->packet, &t, err);
        if (rc == RF_OK)
            rc = rf_mp4_packet(j->mux, j->packet, (AVRational){ 1, j->fps }, err);
        if (rc != RF_OK)
            break;
    }
    j->n_frames += t.n_frames;
    return rc;
}

static enum rf_code check_result(const char *path, int n_frames, int fps, struct rf_err *err)
{
    RF_AUTO(avformat_close_input) AVFormatContext *demux = NULL;
    struct rf_timeline t;
    enum rf_code rc = rf_mp4_read(path, &demux, &t, err);
    if (rc != RF_OK)
        return rc;
    if (t.n_frames != n_frames || t.fps != fps || t.first != 0)
        return rf_fail(err, RF_ERR_FORMAT, "%d frames at %d per second from %lld instead of %d at %d from 0", t.n_frames,
                       t.fps, (long long)t.first, n_frames, fps);
    return RF_OK;
}

enum rf_code rf_video_concat(const char *const *paths, int n_paths, const char *out_path, int n_frames, int fps,
                             struct rf_err *err)
{
    rf_av_begin();
    if (n_paths < 1 || fps < 1)
        return rf_fail(err, RF_ERR_INVALID, "join '%s': %d files at %d frames per second", out_path, n_paths, fps);
    RF_AUTO(join_finish) struct join j = { .packet = av_packet_alloc(), .fps = fps };
    if (j.packet == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "join '%s': no memory for a packet", out_path);
    for (int i = 0; i < n_paths; i++) {
        enum rf_code rc = append(&j, paths[i], out_path, err);
        if (rc != RF_OK)
            return rf_wrap(err, rc, "join '%s': '%s'", out_path, paths[i]);
    }
    enum rf_code rc = rf_mp4_finish(j.mux, err);
    if (rc == RF_OK)
        rc = check_result(out_path, n_frames, fps, err);
    return rc == RF_OK ? RF_OK : rf_wrap(err, rc, "join '%s'", out_path);
}
