/* Readers of single fields, shared by the files of wire.h and by nobody else. Each names the field in its error; null
 * counts as absent. SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_WIRE_PRIVATE_H
#define RF_SCHEMA_WIRE_PRIVATE_H

#include "schema/wire.h"

#define RF_WIRE_REQUIRED INT64_MIN /* as a fallback: the field must be there */

enum rf_code rf_wire_object(const cJSON *json, const char *what, struct rf_err *err);
const cJSON *rf_wire_get(const cJSON *json, const char *name); /* NULL when absent or null */
enum rf_code rf_wire_int(const cJSON *json, const char *name, int64_t min, int64_t max, int64_t fallback, int64_t *ret_n,
                         struct rf_err *err);
enum rf_code rf_wire_int32(const cJSON *json, const char *name, int min, int max, int64_t fallback, int *ret_n,
                           struct rf_err *err);
enum rf_code rf_wire_double(const cJSON *json, const char *name, double min, double max, double fallback, double *ret_x,
                            struct rf_err *err);
enum rf_code rf_wire_bool(const cJSON *json, const char *name, bool fallback, bool *ret, struct rf_err *err);
bool rf_wire_worker_id_shaped(const char *id);
/* Replaces *ret_text by a new string ("" when absent and not required). */
enum rf_code rf_wire_string(const cJSON *json, const char *name, size_t max_bytes, bool required, char **ret_text,
                            struct rf_err *err);
/* Into a buffer of `size` bytes; fallback NULL: required. */
enum rf_code rf_wire_word(const cJSON *json, const char *name, size_t size, const char *fallback, char *ret_text,
                          struct rf_err *err);
/* A list of strings; *ret_texts and *ret_n are right even after a failure, so that the owner can free them. */
enum rf_code rf_wire_strings(const cJSON *json, const char *name, int max_n, size_t max_bytes, char ***ret_texts,
                             int *ret_n, struct rf_err *err);
void rf_wire_strings_free(char **texts, int n);
void rf_wire_add_strings(cJSON *json, const char *name, char *const *texts, int n);

#endif
