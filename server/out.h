/* Answers being written: JSON whose commas place themselves, and CSV, into the growing text of schema/json.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_OUT_H
#define RF_SERVER_OUT_H

#include "schema/json.h"

/* Zeroed is empty. One thread. */
struct rf_out {
    struct rf_text text;
    bool need_comma; /* JSON: a value went before on this level */
};

void rf_out_finish(struct rf_out *t);
/* Hands the block to the caller (free()) and leaves `t` empty. Never NULL, NUL-terminated. */
char *rf_out_take(struct rf_out *t, size_t *ret_n);

void rf_out_add(struct rf_out *t, const char *data, size_t n);
void rf_out_puts(struct rf_out *t, const char *text);
void rf_out_printf(struct rf_out *t, const char *format, ...) RF_PRINTF(2, 3);

/* JSON. `key` is NULL inside arrays and at the top. Keys are ours and need no escaping. */
void rf_json_open(struct rf_out *t, const char *key, char bracket);    /* '{' or '[' */
void rf_json_close(struct rf_out *t, char bracket);                    /* '}' or ']' */
/* NULL is null. What is no UTF-8 (an error message may be cut inside a character) loses its bytes above 127. */
void rf_json_str(struct rf_out *t, const char *key, const char *text);
void rf_json_int(struct rf_out *t, const char *key, int64_t value);
void rf_json_num(struct rf_out *t, const char *key, double value);     /* nan and inf are null */
void rf_json_bool(struct rf_out *t, const char *key, bool value);
void rf_json_null(struct rf_out *t, const char *key);
/* `json` is a finished JSON text, put in as it is; NULL is null. */
void rf_json_raw(struct rf_out *t, const char *key, const char *json);

/* One CSV field, quoted when it must be; the caller puts the commas. A text that a spreadsheet would read as a formula
 * (= + - @) gets a leading apostrophe, because users' words end up in these files. */
void rf_csv_str(struct rf_out *t, const char *text);

#endif
