/* Media: frames in, file out, and back. The only room that knows FFmpeg.
 *
 * Frames are packed RGB, 8 bits, [height, width, 3], as the VAE gives them. Every file is written beside its name,
 * synced and renamed by the caller's file layer; here a path is just written.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MEDIA_MEDIA_H
#define RF_MEDIA_MEDIA_H

#include "schema/err.h"

/* ---- stills ---- */

struct rf_image {
    int width, height;
    uint8_t *rgb; /* [height, width, 3] */
};
void rf_image_finish(struct rf_image *image);

/* Decodes PNG, JPEG or WebP bytes from outside, applies the EXIF orientation, blends transparency over mid grey,
 * centre-crops to the aspect of width x height and scales to it (width 0: keep the original size).
 *   ret_image      rf_image_finish() it. Untouched on failure
 *   RF_ERR_FORMAT  not one of the three, damaged, cut short, animated or in printing inks: the message is for the user
 *   RF_ERR_LIMIT   more than 64 megapixels, or a side over 16384: refused before decoding */
enum rf_code rf_image_decode(const void *bytes, size_t size_bytes, int width, int height, struct rf_image *ret_image,
                             struct rf_err *err);

enum rf_image_format { RF_IMAGE_PNG, RF_IMAGE_WEBP, RF_IMAGE_FORMAT_COUNT };
/* ret_bytes: malloc'd, free() it. PNG is lossless: the border frame between two segments travels so. */
enum rf_code rf_image_encode(const struct rf_image *image, enum rf_image_format format, void **ret_bytes,
                             size_t *ret_size_bytes, struct rf_err *err);

/* ---- video ---- */

struct rf_video_opts {
    int width, height; /* even */
    int fps;
    int crf;             /* 0: the default, 18 */
    const char *preset;  /* x264's; NULL: "medium" */
    int n_threads;       /* of the encoder; 0: four. The bits depend on it, so it never follows the number of cores */
};

/* H.264 in mp4 as browsers play it: yuv420p, BT.709 limited range and tagged so, constant rate, starting at 0, one
 * closed GOP per second or two, index in front. The same opts give streams that join without re-encoding. */
struct rf_video_writer;
enum rf_code rf_video_writer_open(const char *path, const struct rf_video_opts *opts,
                                  struct rf_video_writer **ret_writer, struct rf_err *err);
/* rgb [height, width, 3] */
enum rf_code rf_video_writer_push(struct rf_video_writer *w, const uint8_t *rgb, struct rf_err *err);
/* Flushes and finishes the file. destroy without finish leaves an unusable file. */
enum rf_code rf_video_writer_finish(struct rf_video_writer *w, struct rf_err *err);
void rf_video_writer_destroy(struct rf_video_writer **w);

struct rf_video_info {
    int width, height, fps, n_frames;
    double seconds;
    int64_t size_bytes;
};
/* Reads the file's packets, not only its header: n_frames is counted. */
enum rf_code rf_video_probe(const char *path, struct rf_video_info *ret_info, struct rf_err *err);

/* Joins the streams of n files, all written with the same opts, without re-encoding and checks the result: exactly
 * n_frames at fps, no gap, no repeat.
 *   RF_ERR_FORMAT  a file is damaged, does not fit the first, or the count is not n_frames: do not use out_path */
enum rf_code rf_video_concat(const char *const *paths, int n_paths, const char *out_path, int n_frames, int fps,
                             struct rf_err *err);

/* One frame of a finished file as an image. */
enum rf_code rf_video_frame(const char *path, int frame, struct rf_image *ret_image, struct rf_err *err);
/* columns x rows frames, evenly spread, scaled to cell_width: the contact sheet. */
enum rf_code rf_video_sheet(const char *path, int columns, int rows, int cell_width, struct rf_image *ret_image,
                            struct rf_err *err);

/* ---- interpolation ---- */

/* Doubles the rate with FFmpeg's motion-compensated filter: n frames give 2n - 1, in order, the given ones unchanged
 * and between each pair an invented one. The clip is cut into chunks that overlap and run on n_threads (0: one per
 * core). The frames do not depend on the number of threads. Takes about 350 bytes a pixel for each thread.
 *   frames    [n, height, width, 3], any size
 *   emit      called for every output frame, in order, in the caller's thread; an error ends the work
 *   progress  `done` of `total` = n - 1 invented frames are made, in the caller's thread; false stops the work with
 *             RF_ERR_CANCELLED within one frame's time. May be NULL */
enum rf_code rf_interpolate_double(const uint8_t *frames, int n, int width, int height, int n_threads,
                                   enum rf_code (*emit)(void *self, const uint8_t *rgb, struct rf_err *err),
                                   bool (*progress)(void *self, int done, int total), void *self,
                                   struct rf_err *err);

#endif
