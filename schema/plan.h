/* The plan: how a clip of F frames becomes segments. A pure function of the request, tested alone.
 *
 * Why split: attention costs the square of the length, so two segments of 81 cost far less than one of 161, and the
 * model was trained on 81. Segments share their border frame: segment k starts from the last frame of segment k-1.
 * Interpolation doubles 16 to 32 fps; each segment is encoded where it was rendered, without repeating its first
 * frame (unless it is the first segment); the last one holds its last frame, so that F frames become exactly 2F and the
 * duration F/16 s is kept:
 *     32 fps:  first 2*n - 1, later 2*(n - 1), last + 1      (161 frames: 161 + 160 + 1 = 322)
 *     16 fps:  first n,       later n - 1                    (161 frames: 81 + 80 = 161)
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_PLAN_H
#define RF_SCHEMA_PLAN_H

#include "schema/err.h"

#define RF_MODEL_FPS 16
#define RF_MAX_FRAMES 4801       /* five minutes */
#define RF_MAX_SEGMENTS 600
#define RF_DEFAULT_SEGMENT_FRAMES 81

struct rf_plan_segment {
    int n_frames;       /* rendered, border frames included: 4k+1 */
    int first_frame;    /* of the whole clip */
    int n_frames_out;   /* encoded */
};

struct rf_plan {
    int n_frames;       /* F of the whole clip */
    int fps;            /* of the file: 16 or 32 */
    int n_frames_out;   /* of the file */
    int n_segments;
    struct rf_plan_segment segment[RF_MAX_SEGMENTS];
};

/* Splits F = n_frames (4k+1, 5..RF_MAX_FRAMES) into ceil((F-1)/(max-1)) segments of at most max_segment_frames (4k+1),
 * as equal as 4k+1 allows, longer ones first: 161 = 81+81-1, 121 = 61+61-1, 241 = 81+81+81-2.
 *   RF_ERR_INVALID  a number is not of the stated form; the message names it and the nearest good ones */
enum rf_code rf_plan_make(int n_frames, int fps, int max_segment_frames, struct rf_plan *ret_plan, struct rf_err *err);

/* The clip length nearest to `seconds` at 16 fps: 5 -> 81, 10 -> 161. At least 5. */
int rf_plan_frames_for_seconds(double seconds);

/* Disk that the server sets aside for such a job until it ends, from above: twice the file (the segments, and the whole
 * joined from them) at 0.1 byte per pixel and frame, doubled for every 6 that crf lies below 18 (H.264 of moving noise at
 * crf 18 is near that, films are a fifth of it); a lossless border image per joint, 3 bytes per pixel; 2 MiB for the rest. */
int64_t rf_plan_disk_bytes(const struct rf_plan *plan, int width, int height, int crf);

#endif
