/* Requests from outside: JSON, and the same bytes as a form ("name=value" lines). Whatever is taken and resolved must plan,
 * and survive the trip through its stored form. SPDX-License-Identifier: Apache-2.0 */
#include "schema/json.h"
#include "schema/request.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void go_on(struct rf_request *r)
{
    struct rf_plan plan;
    if (rf_request_resolve(r, &rf_model_defaults_builtin, 99, NULL, NULL, NULL) != RF_OK)
        return;
    RF_ASSERT(rf_request_plan(r, &plan, NULL) == RF_OK);
    RF_AUTO(rf_free) char *text = rf_request_to_text(r);
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    RF_AUTO(rf_request_destroy) struct rf_request *back = NULL;
    RF_ASSERT(rf_json_parse(text, strlen(text), SIZE_MAX, &json, NULL) == RF_OK);
    RF_ASSERT(rf_request_from_json(json, &back, NULL) == RF_OK);
    RF_AUTO(rf_free) char *again = rf_request_to_text(back);
    RF_ASSERT(strcmp(text, again) == 0);
}

static void as_form(const char *text)
{
    RF_AUTO(rf_form_destroy) struct rf_form *form = rf_form_create();
    RF_AUTO(rf_request_destroy) struct rf_request *r = NULL;
    RF_AUTO(rf_free) char *copy = rf_strdup(text);
    char param[RF_PARAM_SIZE], *rest = copy, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        char *value = strchr(line, '=');
        if (value == NULL)
            continue;
        *value++ = '\0';
        if (rf_form_add(form, line, value, strlen(value), param, NULL) != RF_OK)
            return;
    }
    if (rf_form_parse(form, &r, param, NULL) == RF_OK)
        go_on(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    RF_AUTO(rf_request_destroy) struct rf_request *r = NULL, *stored = NULL;
    char param[RF_PARAM_SIZE];
    struct rf_err err;
    if (rf_json_parse((const char *)data, n, 1 << 20, &json, &err) == RF_OK) {
        if (rf_request_parse(json, &r, param, &err) == RF_OK)
            go_on(r);
        rf_request_from_json(json, &stored, &err);
    }
    RF_AUTO(rf_free) char *text = rf_strndup((const char *)data, n);
    as_form(text);
    return 0;
}
