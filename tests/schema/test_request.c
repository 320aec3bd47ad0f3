/* Requests from JSON and from forms: what is taken, what is refused and by which name. SPDX-License-Identifier: Apache-2.0 */
#include "schema/json.h"
#include "schema/request.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define REQUEST RF_AUTO(rf_request_destroy) struct rf_request

static const struct rf_model_defaults demo = {
    .name = "demo", .width = 192, .height = 128, .n_frames = 49, .n_steps = 8, .switch_step = 3, .max_segment_frames = 81,
    .flow_shift = 7, .guidance_scale = 1.5, .guidance_scale_2 = 2.5,
};

static enum rf_code from_text(const char *text, struct rf_request **ret_request, char *ret_param, struct rf_err *err)
{
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    enum rf_code rc = rf_json_parse(text, strlen(text), 64 << 20, &json, err);
    return rc == RF_OK ? rf_request_parse(json, ret_request, ret_param, err) : rc;
}

static struct rf_request *good(const char *text)
{
    struct rf_request *r = NULL;
    struct rf_err err = {0};
    if (from_text(text, &r, NULL, &err) != RF_OK || rf_request_resolve(r, &demo, UINT64_MAX, NULL, NULL, &err) != RF_OK)
        fail_msg("%s: %s", text, err.msg);
    return r;
}

static void models_own_defaults_fill_the_gaps(void **state)
{
    REQUEST *r = good("{\"prompt\": \"a\"}");
    assert_string_equal(r->model, "demo");
    assert_int_equal(r->width, 192);
    assert_int_equal(r->height, 128);
    assert_int_equal(r->n_frames, 49);
    assert_int_equal(r->fps, 32);
    assert_int_equal(r->n_steps, 8);
    assert_int_equal(r->switch_step, 3);
    assert_int_equal(r->max_segment_frames, 81);
    assert_int_equal(r->crf, 18);
    assert_int_equal(r->seed, RF_MAX_SEED);
    assert_true(r->flow_shift == 7 && r->guidance_scale == 1.5 && r->guidance_scale_2 == 2.5);
    assert_string_equal(r->negative_prompt, "");
    assert_false(r->has_image);
}

static void every_field_is_taken(void **state)
{
    REQUEST *r = good(
        "{\"prompt\": \"Zwei Ä\", \"negative_prompt\": \"b\\nc\", \"model\": \"m-1\", \"size\": \"832x1216\", \"num_frames\": 161,"
        " \"fps\": 16, \"seed\": 9007199254740991, \"num_inference_steps\": 20, \"switch_step\": 0, \"guidance_scale\": 3.5,"
        " \"flow_shift\": 0.1, \"loras\": [{\"name\": \"a.b_4\"}, {\"name\": \"c\", \"strength\": -0.25}],"
        " \"max_segment_frames\": 41, \"user\": \"ann\", \"priority\": -100, \"crf\": 40, \"quality\": \"standard\","
        " \"seconds\": null}");
    assert_string_equal(r->prompt, "Zwei Ä");
    assert_int_equal(r->height, 1216);
    assert_int_equal(r->seed, RF_MAX_SEED);
    assert_int_equal(r->switch_step, 0);
    assert_true(r->guidance_scale_2 == 3.5); /* follows the one that was given */
    assert_int_equal(r->n_loras, 2);
    assert_string_equal(r->lora[0].name, "a.b_4");
    assert_true(r->lora[0].strength == 1 && r->lora[1].strength == -0.25);
    assert_int_equal(r->priority, -100);
}

static void switch_step_keeps_the_models_share(void **state)
{
    REQUEST *r = good("{\"prompt\": \"a\", \"num_inference_steps\": 16}");
    assert_int_equal(r->switch_step, 6);
    REQUEST *one = good("{\"prompt\": \"a\", \"num_inference_steps\": 1}");
    assert_int_equal(one->switch_step, 0);
}

static void seconds_may_be_text_or_number(void **state)
{
    REQUEST *text = good("{\"prompt\": \"a\", \"seconds\": \"10\"}");
    REQUEST *number = good("{\"prompt\": \"a\", \"seconds\": 10}");
    assert_int_equal(text->n_frames, 161);
    assert_int_equal(number->n_frames, 161);
}

/* The field that is at fault is the param, and the message says what to do. */
static void wrong_requests_are_refused_by_name(void **state)
{
    static const struct { const char *body, *param, *says; } cases[] = {
        {"{}", "prompt", "is missing"}, {"{\"prompt\": \" \\n\"}", "prompt", "blank"}, {"{\"prompt\": 5}", "prompt", "a string"},
        {"{\"prompt\": \"a\\u0001\"}", "prompt", "control"}, {"{\"prompt\": null}", "prompt", "is missing"},
        {"{\"prompt\": \"a\", \"num_frames\": 160}", "num_frames", "for example 157 or 161"},
        {"{\"prompt\": \"a\", \"num_frames\": 4}", "num_frames", "between 5 and 4801"},
        {"{\"prompt\": \"a\", \"num_frames\": 81.5}", "num_frames", "whole number"},
        {"{\"prompt\": \"a\", \"num_frames\": \"81\"}", "num_frames", "must be a number"},
        {"{\"prompt\": \"a\", \"num_frames\": 81, \"seconds\": 5}", "seconds", "either"},
        {"{\"prompt\": \"a\", \"seconds\": \"5s\"}", "seconds", "not a number"},
        {"{\"prompt\": \"a\", \"seconds\": \"0x10\"}", "seconds", "not a number"},
        {"{\"prompt\": \"a\", \"seconds\": \"nan\"}", "seconds", "not a number"},
        {"{\"prompt\": \"a\", \"seconds\": 301}", "seconds", "300.0"},
        {"{\"prompt\": \"a\", \"size\": \"832\"}", "size", "WIDTHxHEIGHT"},
        {"{\"prompt\": \"a\", \"size\": \"830x480\"}", "size", "multiple of 16, for example 816 or 832"},
        {"{\"prompt\": \"a\", \"size\": \"2064x480\"}", "size", "between 64 and 2048"},
        {"{\"prompt\": \"a\", \"size\": \" 64x64\"}", "size", "WIDTHxHEIGHT"},
        {"{\"prompt\": \"a\", \"size\": \"64x-64\"}", "size", "WIDTHxHEIGHT"},
        {"{\"prompt\": \"a\", \"width\": 64}", "height", "go together"},
        {"{\"prompt\": \"a\", \"size\": \"64x64\", \"height\": 64}", "height", "either"},
        {"{\"prompt\": \"a\", \"fps\": 24}", "fps", "multiple of 16, for example 16 or 32"},
        {"{\"prompt\": \"a\", \"seed\": 9007199254740992}", "seed", "out of range"}, {"{\"prompt\": \"a\", \"seed\": -1}", "seed", ""},
        {"{\"prompt\": \"a\", \"num_inference_steps\": 0}", "num_inference_steps", "between 1 and 100"},
        {"{\"prompt\": \"a\", \"num_inference_steps\": 4, \"switch_step\": 5}", "switch_step", "more than"},
        {"{\"prompt\": \"a\", \"guidance_scale_2\": 20.5}", "guidance_scale_2", "between 0 and 20"},
        {"{\"prompt\": \"a\", \"flow_shift\": 0}", "flow_shift", "between 0.1 and 100"},
        {"{\"prompt\": \"a\", \"loras\": {}}", "loras", "list"}, {"{\"prompt\": \"a\", \"loras\": [\"x\"]}", "loras[0]", "object"},
        {"{\"prompt\": \"a\", \"loras\": [{\"strength\": 1}]}", "loras[0].name", "missing"},
        {"{\"prompt\": \"a\", \"loras\": [{\"name\": \"../x\"}]}", "loras[0].name", "letters"},
        {"{\"prompt\": \"a\", \"loras\": [{\"name\": \"x\", \"weight\": 1}]}", "loras[0].weight", "unknown"},
        {"{\"prompt\": \"a\", \"loras\": [{\"name\": \"x\", \"strength\": 11}]}", "loras[0].strength", "-10 and 10"},
        {"{\"prompt\": \"a\", \"max_segment_frames\": 161}", "max_segment_frames", "at most 81"},
        {"{\"prompt\": \"a\", \"num_frames\": 4801, \"max_segment_frames\": 5}", "max_segment_frames", "segments"},
        {"{\"prompt\": \"a\", \"priority\": 101}", "priority", "-100 and 100"}, {"{\"prompt\": \"a\", \"crf\": 0}", "crf", ""},
        {"{\"prompt\": \"a\", \"quality\": \"hd\"}", "quality", "crf"},
        {"{\"prompt\": \"a\", \"extra_body\": {\"extra_body\": {}}}", "extra_body", "another"},
        {"{\"prompt\": \"a\", \"seed\": 1, \"extra_body\": {\"seed\": 2}}", "seed", "twice"},
        {"{\"prompt\": \"a\", \"input_reference\": {\"image_url\": \"https://x/y.png\"}}", "input_reference.image_url", "file part"},
        {"{\"prompt\": \"a\", \"input_reference\": {\"image_url\": \"data:image/png;base64,AAA\"}}", "input_reference.image_url", "base64"},
        {"{\"prompt\": \"a\", \"input_reference\": {\"image_url\": \"data:text/html;base64,AAAA\"}}", "input_reference.image_url", "data URL"},
        {"{\"prompt\": \"a\", \"input_reference\": {\"file_id\": \"f\"}}", "input_reference.file_id", "image itself"},
        {"{\"prompt\": \"a\", \"num_frame\": 5}", "num_frame", "did you mean 'num_frames'"},
        {"{\"prompt\": \"a\", \"steps\": 5}", "steps", "did you mean 'num_inference_steps'"},
        {"{\"prompt\": \"a\", \"Seed\": 5}", "Seed", "did you mean 'seed'"}, {"{\"promtp\": \"a\"}", "promtp", "'prompt'"},
        {"{\"prompt\": \"a\", \"frobnicate\": 5}", "frobnicate", "unknown field"},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        REQUEST *r = NULL;
        struct rf_err err = {0};
        char param[RF_PARAM_SIZE] = "?";
        enum rf_code rc = from_text(cases[i].body, &r, param, &err);
        if (rc == RF_OK)
            rc = rf_request_resolve(r, &demo, 1, NULL, param, &err);
        if (rc != RF_ERR_INVALID || strcmp(param, cases[i].param) != 0 || strstr(err.msg, cases[i].says) == NULL)
            fail_msg("%s: code %d param '%s' message '%s'", cases[i].body, rc, param, err.msg);
    }
}

static void unknown_field_without_a_near_one_gets_no_guess(void **state)
{
    REQUEST *r = NULL;
    struct rf_err err = {0};
    assert_int_equal(from_text("{\"prompt\": \"a\", \"frobnicate\": 5}", &r, NULL, &err), RF_ERR_INVALID);
    assert_null(strstr(err.msg, "mean"));
}

static void prompt_is_measured_in_characters(void **state)
{
    char *text = rf_calloc(3 * 32001 + 64, 1);
    for (int n = 32000; n <= 32001; n++) {
        strcpy(text, "{\"prompt\": \"");
        for (int i = 0; i < n; i++)
            memcpy(text + 12 + 3 * i, "…", 3);
        strcpy(text + 12 + 3 * n, "\"}");
        REQUEST *r = NULL;
        assert_int_equal(from_text(text, &r, NULL, NULL), n == 32000 ? RF_OK : RF_ERR_INVALID);
    }
    free(text);
}

static void data_url_is_decoded(void **state)
{
    REQUEST *r = NULL;
    assert_int_equal(from_text("{\"prompt\": \"a\", \"input_reference\": {\"image_url\": \"data:image/png;base64,aGFsbG8=\"}}", &r,
                               NULL, NULL), RF_OK);
    assert_true(r->has_image);
    assert_int_equal(r->image_bytes, 5);
    assert_memory_equal(r->image, "hallo", 5);
    struct rf_model_defaults text_only = demo;
    text_only.takes_no_image = true;
    char param[RF_PARAM_SIZE];
    assert_int_equal(rf_request_resolve(r, &text_only, 1, NULL, param, NULL), RF_ERR_INVALID);
    assert_string_equal(param, "input_reference");
}

/* ---- forms ---- */

static enum rf_code add(struct rf_form *form, const char *name, const char *value)
{
    return rf_form_add(form, name, value, strlen(value), NULL, NULL);
}

static void form_says_the_same_as_json(void **state)
{
    RF_AUTO(rf_form_destroy) struct rf_form *form = rf_form_create();
    assert_int_equal(add(form, "prompt", "a"), RF_OK);
    assert_int_equal(add(form, "num_frames", "161"), RF_OK);
    assert_int_equal(add(form, "guidance_scale", "2.5"), RF_OK);
    assert_int_equal(add(form, "loras[][name]", "x"), RF_OK);
    assert_int_equal(add(form, "loras[][strength]", "0.5"), RF_OK);
    assert_int_equal(add(form, "loras[][name]", "y"), RF_OK);
    assert_int_equal(add(form, "input_reference[image_url]", "data:image/jpeg;base64,aGFsbG8="), RF_OK);
    assert_int_equal(add(form, "extra_body", "{\"seed\": 7}"), RF_OK);
    REQUEST *r = NULL;
    struct rf_err err = {0};
    assert_int_equal(rf_form_parse(form, &r, NULL, &err), RF_OK);
    assert_int_equal(r->n_frames, 161);
    assert_true(r->guidance_scale == 2.5);
    assert_int_equal(r->n_loras, 2);
    assert_true(r->lora[0].strength == 0.5);
    assert_string_equal(r->lora[1].name, "y");
    assert_int_equal(r->image_bytes, 5);
    assert_int_equal(r->seed, 7);
}

static void numbered_lists_and_json_in_a_field_are_taken(void **state)
{
    RF_AUTO(rf_form_destroy) struct rf_form *form = rf_form_create();
    assert_int_equal(add(form, "prompt", "a"), RF_OK);
    assert_int_equal(add(form, "loras[0][strength]", "2"), RF_OK);
    assert_int_equal(add(form, "loras[0][name]", "x"), RF_OK);
    assert_int_equal(add(form, "loras[1][name]", "y"), RF_OK);
    REQUEST *r = NULL;
    assert_int_equal(rf_form_parse(form, &r, NULL, NULL), RF_OK);
    assert_int_equal(r->n_loras, 2);
    RF_AUTO(rf_form_destroy) struct rf_form *other = rf_form_create();
    assert_int_equal(add(other, "prompt", "{not json, a prompt}"), RF_OK);
    assert_int_equal(add(other, "loras", "[{\"name\": \"x\"}]"), RF_OK);
    rf_request_destroy(&r);
    assert_int_equal(rf_form_parse(other, &r, NULL, NULL), RF_OK);
    assert_int_equal(r->n_loras, 1);
}

static void wrong_forms_are_refused_by_name(void **state)
{
    static const struct { const char *name, *value; } cases[] = {
        {"a[b", "x"}, {"[x]", "x"}, {"a[b][c]", "x"}, {"loras[][name][x]", "x"}, {"loras[7][name]", "x"}, {"prompt", "again"},
        {"prompt[x]", "x"}, {"loras[]", "x"}, {"loras", "[{"}, {"user", "\xff"}, {"", "x"}};
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        RF_AUTO(rf_form_destroy) struct rf_form *form = rf_form_create();
        assert_int_equal(add(form, "prompt", "a"), RF_OK);
        if (add(form, cases[i].name, cases[i].value) != RF_ERR_INVALID)
            fail_msg("'%s' was taken", cases[i].name);
    }
    RF_AUTO(rf_form_destroy) struct rf_form *form = rf_form_create();
    char name[32];
    enum rf_code rc = RF_OK;
    for (int i = 0; i < 1000 && rc == RF_OK; i++) {
        snprintf(name, sizeof name, "f%d", i);
        rc = add(form, name, "x");
    }
    assert_int_equal(rc, RF_ERR_LIMIT);
}

/* ---- the stored form ---- */

static void stored_request_survives_the_round_trip(void **state)
{
    REQUEST *r = good("{\"prompt\": \"a \\\"quoted\\\" \\\\ line\\nend …\", \"guidance_scale\": 0.1, \"flow_shift\": 3.3333333333333335,"
                      " \"loras\": [{\"name\": \"x\", \"strength\": -1e-3}], \"seed\": 9007199254740991, \"user\": \"ann\"}");
    RF_AUTO(rf_free) char *text = rf_request_to_text(r);
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    assert_int_equal(rf_json_parse(text, strlen(text), 1 << 20, &json, NULL), RF_OK);
    REQUEST *back = NULL;
    struct rf_err err = {0};
    if (rf_request_from_json(json, &back, &err) != RF_OK)
        fail_msg("%s", err.msg);
    RF_AUTO(rf_free) char *again = rf_request_to_text(back);
    assert_string_equal(text, again);
    assert_string_equal(back->prompt, "a \"quoted\" \\ line\nend …");
    cJSON_AddNumberToObject(json, "from_the_future", 1);
    rf_request_destroy(&back);
    assert_int_equal(rf_request_from_json(json, &back, NULL), RF_OK);
    rf_request_destroy(&back);
    cJSON_DeleteItemFromObjectCaseSensitive(json, "seed");
    assert_int_equal(rf_request_from_json(json, &back, NULL), RF_ERR_FORMAT);
}

static void an_empty_list_of_loras_is_not_the_same_as_none_given(void **state)
{
    static const char *const texts[] = {"{\"prompt\": \"a\"}", "{\"prompt\": \"a\", \"loras\": []}"};
    for (int given = 0; given < 2; given++) {
        REQUEST *r = good(texts[given]);
        assert_int_equal(r->no_loras, given);
        RF_AUTO(rf_free) char *text = rf_request_to_text(r);
        RF_AUTO(rf_json_destroy) cJSON *json = cJSON_Parse(text);
        REQUEST *back = NULL;
        assert_int_equal(rf_request_from_json(json, &back, NULL), RF_OK);
        assert_int_equal(back->no_loras, given);
    }
}

static void table_names_every_field_once(void **state)
{
    for (int i = 0; i < RF_FIELD_COUNT; i++) {
        assert_non_null(rf_request_fields[i].name);
        assert_non_null(rf_request_fields[i].about);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(rf_request_fields[i].name, rf_request_fields[k].name);
    }
}

/* ---- the guard before cJSON ---- */

static void json_guard_refuses_what_cjson_would_take(void **state)
{
    static const char *const bad[] = {
        "", " ", "{", "{} x", "{\"a\": 1, \"a\": 2}", "{\"a\": \"\\u0000\"}", "{\"a\": \"\n\"}", "\"\xc0\x80\"", "\"\xed\xa0\x80\"",
        "\"\xff\"", "[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", "{\"a\": {\"b\": [{\"c\": 1, \"c\": 1}]}}", "[1,]", "nul"};
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++) {
        RF_AUTO(rf_json_destroy) cJSON *json = NULL;
        if (rf_json_parse(bad[i], strlen(bad[i]), 1 << 20, &json, NULL) != RF_ERR_INVALID)
            fail_msg("'%s' was taken", bad[i]);
    }
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    assert_int_equal(rf_json_parse("[1, 2]", 6, 5, &json, NULL), RF_ERR_LIMIT);
    assert_int_equal(rf_json_parse("{\"a\": \"\\\\u0000\"} \n", 18, 99, &json, NULL), RF_OK); /* a backslash, then u0000 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_own_defaults_fill_the_gaps),
        cmocka_unit_test(every_field_is_taken),
        cmocka_unit_test(switch_step_keeps_the_models_share),
        cmocka_unit_test(seconds_may_be_text_or_number),
        cmocka_unit_test(wrong_requests_are_refused_by_name),
        cmocka_unit_test(unknown_field_without_a_near_one_gets_no_guess),
        cmocka_unit_test(prompt_is_measured_in_characters),
        cmocka_unit_test(data_url_is_decoded),
        cmocka_unit_test(form_says_the_same_as_json),
        cmocka_unit_test(numbered_lists_and_json_in_a_field_are_taken),
        cmocka_unit_test(wrong_forms_are_refused_by_name),
        cmocka_unit_test(stored_request_survives_the_round_trip),
        cmocka_unit_test(an_empty_list_of_loras_is_not_the_same_as_none_given),
        cmocka_unit_test(table_names_every_field_once),
        cmocka_unit_test(json_guard_refuses_what_cjson_would_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
