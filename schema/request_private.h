/* What the three files of the request share. Nobody else includes this.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_REQUEST_PRIVATE_H
#define RF_SCHEMA_REQUEST_PRIVATE_H

#include "schema/json.h"
#include "schema/request.h"

#include <stdarg.h>

struct rf_request_reader {
    bool form;                  /* numbers may be text */
    char param[RF_PARAM_SIZE];
    struct rf_err *err;
};

/* RF_ERR_INVALID "<param>: <text>", and remembers the param. */
enum rf_code rf_request_fail(struct rf_request_reader *in, const char *param, const char *format, ...) RF_PRINTF(3, 4);
/* Copies the remembered param out ("" after success); ret_param may be NULL. */
void rf_request_tell_param(const struct rf_request_reader *in, enum rf_code rc, char *ret_param);
enum rf_code rf_request_check_number(struct rf_request_reader *in, const struct rf_field_info *f, double x);
enum rf_code rf_request_read(struct rf_request_reader *in, const cJSON *object, struct rf_request **ret_request);
/* One field's value, checked against the table and put in its place. */
enum rf_code rf_request_read_field(struct rf_request_reader *in, enum rf_field field, const cJSON *value,
                                   struct rf_request *r);

/* The field of that name, RF_FIELD_COUNT when there is none. */
int rf_request_field_find(const char *name);
/* "frobs: unknown field; did you mean 'frames'?" */
enum rf_code rf_request_unknown(struct rf_request_reader *in, const char *name);

#endif
