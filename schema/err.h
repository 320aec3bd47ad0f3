/* Errors: one idiom for every room.
 *
 * A function returns an rf_code and, when it fails, fills `err` with a message for a person. Codes are chosen by what
 * the caller can do next; messages are never parsed. The place that notices writes the message (rf_fail), each floor
 * above adds its own name in front (rf_wrap). `err` may be NULL everywhere. A function returns its error or logs it,
 * never both.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_ERR_H
#define RF_SCHEMA_ERR_H

#include "schema/base.h"

enum rf_code {
    RF_OK,
    RF_ERR_INVALID,     /* the request is wrong: fix it, the message names the field */
    RF_ERR_NOT_FOUND,   /* no such thing (any more) */
    RF_ERR_CONFLICT,    /* the world moved on: read again */
    RF_ERR_LIMIT,       /* too much or too many: wait, or ask for less */
    RF_ERR_FORMAT,      /* bytes from a file or peer are not what they claim to be */
    RF_ERR_CANCELLED,   /* somebody asked us to stop */
    RF_ERR_IO,          /* disk or network: try again later */
    RF_ERR_NO_SPACE,    /* the disk is full: try again when there is room */
    RF_ERR_NO_MEMORY,   /* try a smaller plan or another machine */
    RF_ERR_DEVICE,      /* the accelerator failed: try another machine */
    RF_CODE_COUNT
};

struct rf_err {
    enum rf_code code;
    char msg[256];
};

/* Writes code and message into `err` (when not NULL) and returns the code:  return rf_fail(err, RF_ERR_…, "…"); */
enum rf_code rf_fail(struct rf_err *err, enum rf_code code, const char *format, ...) RF_PRINTF(3, 4);

/* Puts "<text>: " in front of the message already in `err` and returns `code` unchanged. */
enum rf_code rf_wrap(struct rf_err *err, enum rf_code code, const char *format, ...) RF_PRINTF(3, 4);

/* The code as one lower-case word ("io", "no_memory"), as used on the wire and in logs. */
const char *rf_code_name(enum rf_code code);

/* The inverse; RF_CODE_COUNT for an unknown word. */
enum rf_code rf_code_from_name(const char *name);

/* Whether the same work may succeed later or elsewhere. Decides a failed task's fate. */
bool rf_code_retryable(enum rf_code code);

/* The one table from codes to HTTP status. */
int rf_code_http_status(enum rf_code code);

#endif
