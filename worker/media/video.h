/* What the writer, the reader and the joiner of videos share: one way to write an mp4, one way to open one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MEDIA_VIDEO_H
#define RF_MEDIA_VIDEO_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "schema/err.h"
#include "worker/media/colour.h"

/* ---- writing: open, add one stream to it, start, packets, finish; close in any case ---- */

enum rf_code rf_mp4_open(const char *path, AVFormatContext **ret_mux, struct rf_err *err);
enum rf_code rf_mp4_start(AVFormatContext *mux, int fps, struct rf_err *err);
/* `packet` counts in `time_base` and is empty afterwards. */
enum rf_code rf_mp4_packet(AVFormatContext *mux, AVPacket *packet, AVRational time_base, struct rf_err *err);
/* Index in front, all bytes handed to the system. */
enum rf_code rf_mp4_finish(AVFormatContext *mux, struct rf_err *err);
void rf_mp4_close(AVFormatContext **mux);

/* ---- reading ---- */

/* The next packet: RF_OK with *ret_end false; or true at a regular end. A packet cut short is RF_ERR_FORMAT. */
enum rf_code rf_mp4_next(AVFormatContext *demux, AVPacket *packet, bool *ret_end, struct rf_err *err);

/* When the frames of a file are shown, from all its packets. */
struct rf_timeline {
    int n_frames;
    int fps;
    int64_t first, tick; /* in the stream's time base: frame k is shown at first + k * tick */
    double seconds;
};

/* Opens an mp4 (and nothing else) with one H.264 video stream, which is stream 0, and reads it to its end once, for when
 * its frames are shown; rf_mp4_seek() goes back. The caller adds the name to errors.
 *   ret_demux        close with avformat_close_input(). Untouched on failure, like ret_timeline.
 *   RF_ERR_FORMAT    also: no frames, a gap, a repeat, an uneven rate, or cut short */
enum rf_code rf_mp4_read(const char *path, AVFormatContext **ret_demux, struct rf_timeline *ret_timeline, struct rf_err *err);

/* Reading goes on at a key frame shown at or before frame number `frame`: 0 is back to the start. */
enum rf_code rf_mp4_seek(AVFormatContext *demux, const struct rf_timeline *t, int frame, struct rf_err *err);

/* The planes of a yuv420p frame as this room writes them: BT.709, limited, sited left. Borrowed. */
static inline struct rf_yuv rf_video_planes(const AVFrame *f)
{
    return (struct rf_yuv){
        .plane = { f->data[0], f->data[1], f->data[2] },
        .stride = { f->linesize[0], f->linesize[1], f->linesize[2] },
        .shift_x = 1, .shift_y = 1, .site = RF_CHROMA_LEFT, .matrix = RF_MATRIX_BT709, .full_range = false,
    };
}

#endif
