/* What a worker reports at the end of a task: complete, fail, release. SPDX-License-Identifier: Apache-2.0 */
#include "schema/wire_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static enum rf_code read_timings(const cJSON *json, struct rf_wire_report *r, struct rf_err *err)
{
    const cJSON *list = rf_wire_get(json, "timings");
    if (list == NULL)
        return RF_OK;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    if (n < 0 || n > RF_WIRE_MAX_TIMINGS)
        return rf_fail(err, RF_ERR_INVALID, "timings must be a list of at most %d", RF_WIRE_MAX_TIMINGS);
    r->timings = rf_new_array(struct rf_wire_timing, (size_t)n);
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        struct rf_wire_timing *t = &r->timings[r->n_timings];
        enum rf_code rc = rf_wire_object(item, "a timing", err);
        if (rc == RF_OK)
            rc = rf_wire_word(item, "stage", sizeof t->stage, NULL, t->stage, err);
        if (rc == RF_OK && !rf_stage_known(t->stage))
            rc = rf_fail(err, RF_ERR_INVALID, "stage '%s' is unknown", t->stage);
        if (rc == RF_OK)
            rc = rf_wire_int32(item, "step", 0, 1000, -1, &t->step, err);
        if (rc == RF_OK)
            rc = rf_wire_int(item, "started_at_ms", 0, RF_MAX_SEED, RF_WIRE_REQUIRED, &t->started_at_ms, err);
        if (rc == RF_OK)
            rc = rf_wire_double(item, "seconds", 0, 1e7, 0, &t->seconds, err);
        if (rc != RF_OK)
            return rf_wrap(err, rc, "timings[%d]", r->n_timings);
        r->n_timings++;
    }
    return RF_OK;
}

static enum rf_code read_result(const cJSON *json, struct rf_wire_result *ret, struct rf_err *err)
{
    *ret = (struct rf_wire_result){.colour_shift = NAN};
    const cJSON *result = rf_wire_get(json, "result");
    if (result == NULL)
        return RF_OK;
    enum rf_code rc = rf_wire_object(result, "result", err);
    if (rc == RF_OK)
        rc = rf_wire_int32(result, "num_frames", 0, 1000000, 0, &ret->n_frames, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(result, "width", 0, 65536, 0, &ret->width, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(result, "height", 0, 65536, 0, &ret->height, err);
    if (rc == RF_OK)
        rc = rf_wire_int32(result, "fps", 0, 1000, 0, &ret->fps, err);
    if (rc == RF_OK)
        rc = rf_wire_double(result, "seconds", 0, 1e6, 0, &ret->seconds, err);
    if (rc == RF_OK)
        rc = rf_wire_double(result, "colour_shift", -1e6, 1e6, NAN, &ret->colour_shift, err);
    return rc;
}

static enum rf_code read_failure(const cJSON *json, struct rf_wire_report *r, struct rf_err *err)
{
    enum rf_code rc = rf_wire_word(json, "code", sizeof r->code, NULL, r->code, err);
    if (rc == RF_OK && (r->code[0] == '\0' || r->code[strspn(r->code, "abcdefghijklmnopqrstuvwxyz0123456789_")] != '\0'))
        rc = rf_fail(err, RF_ERR_INVALID, "code must be a lower-case word");
    if (rc == RF_OK)
        rc = rf_wire_string(json, "message", 2000, false, &r->message, err);
    if (rc == RF_OK) {
        enum rf_code known = rf_code_from_name(r->code);
        rc = rf_wire_bool(json, "retryable", known == RF_CODE_COUNT || rf_code_retryable(known), &r->retryable, err);
    }
    return rc;
}

enum rf_code rf_wire_report_read(const cJSON *json, enum rf_wire_report_kind kind, struct rf_wire_report **ret_report,
                                 struct rf_err *err)
{
    RF_AUTO(rf_wire_report_destroy) struct rf_wire_report *r = rf_new(struct rf_wire_report);
    r->kind = kind;
    enum rf_code rc = rf_wire_worker_id_read(json, r->worker_id, err);
    if (rc == RF_OK)
        rc = rf_wire_int(json, "lease", 1, RF_MAX_SEED, RF_WIRE_REQUIRED, &r->lease, err);
    if (rc == RF_OK && kind != RF_REPORT_RELEASE)
        rc = read_timings(json, r, err);
    if (rc == RF_OK && kind == RF_REPORT_COMPLETE)
        rc = rf_wire_strings(json, "notes", RF_WIRE_MAX_NOTES, 2000, &r->notes, &r->n_notes, err);
    if (rc == RF_OK && kind == RF_REPORT_COMPLETE)
        rc = read_result(json, &r->result, err);
    if (rc == RF_OK && kind == RF_REPORT_FAIL)
        rc = read_failure(json, r, err);
    if (rc != RF_OK)
        return rc;
    *ret_report = r;
    r = NULL;
    return RF_OK;
}

static void add_result(cJSON *json, const struct rf_wire_result *m)
{
    cJSON *result = cJSON_AddObjectToObject(json, "result");
    cJSON_AddNumberToObject(result, "num_frames", m->n_frames);
    cJSON_AddNumberToObject(result, "width", m->width);
    cJSON_AddNumberToObject(result, "height", m->height);
    cJSON_AddNumberToObject(result, "fps", m->fps);
    cJSON_AddNumberToObject(result, "seconds", m->seconds);
    if (isfinite(m->colour_shift))
        cJSON_AddNumberToObject(result, "colour_shift", m->colour_shift);
}

cJSON *rf_wire_report_build(const struct rf_wire_report *r)
{
    cJSON *json = rf_wire_worker_id_build(r->worker_id);
    cJSON_AddNumberToObject(json, "lease", (double)r->lease);
    if (r->kind == RF_REPORT_RELEASE)
        return json;
    cJSON *timings = cJSON_AddArrayToObject(json, "timings");
    for (int i = 0; i < r->n_timings; i++) {
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "stage", r->timings[i].stage);
        if (r->timings[i].step >= 0)
            cJSON_AddNumberToObject(item, "step", r->timings[i].step);
        else
            cJSON_AddNullToObject(item, "step");
        cJSON_AddNumberToObject(item, "started_at_ms", (double)r->timings[i].started_at_ms);
        cJSON_AddNumberToObject(item, "seconds", r->timings[i].seconds);
        cJSON_AddItemToArray(timings, item);
    }
    if (r->kind == RF_REPORT_COMPLETE) {
        rf_wire_add_strings(json, "notes", r->notes, r->n_notes);
        add_result(json, &r->result);
    } else {
        cJSON_AddStringToObject(json, "code", r->code);
        cJSON_AddStringToObject(json, "message", r->message ? r->message : "");
        cJSON_AddBoolToObject(json, "retryable", r->retryable);
    }
    return json;
}

void rf_wire_report_destroy(struct rf_wire_report **report)
{
    struct rf_wire_report *r = *report;
    if (r == NULL)
        return;
    free(r->timings);
    rf_wire_strings_free(r->notes, r->n_notes);
    free(r->message);
    free(r);
    *report = NULL;
}
