/* FFmpeg's habits translated to ours: error numbers, log lines, paths. For the files of this folder only.
 *
 * Its free functions take the address and accept NULL, so RF_AUTO(av_frame_free) and the like work as they are.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MEDIA_AV_H
#define RF_MEDIA_AV_H

#include <libavutil/dict.h>
#include <libavutil/error.h>

#include "schema/err.h"

/* Every public function of this room calls it first. FFmpeg prints to stderr by default; from here on its last
 * complaint is kept per thread instead, to end up in the message of rf_av_fail(), and nothing is printed. */
void rf_av_begin(void);

/* rf_fail() with the code that fits FFmpeg's negative `av_error` and its words after ours:
 * "write 'x.mp4': No space left on device". */
enum rf_code rf_av_fail(struct rf_err *err, int av_error, const char *format, ...) RF_PRINTF(3, 4);

/* "file:<path>", so that a name with a colon is never taken for a protocol. Free it. */
char *rf_av_url(const char *path);

/* av_dict_set() that cannot fail silently: options are small, memory for them is there or we abort. */
void rf_av_set(AVDictionary **options, const char *key, const char *value);

#endif
