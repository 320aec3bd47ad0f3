/* The farm's messages: built, read back, and refused by name. SPDX-License-Identifier: Apache-2.0 */
#include "schema/wire.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define WORKER "worker_0123456789abcdefghjkmnpqrs"
#define JOB "video_01hzzzzzzzzzz0123456789abc"

static cJSON *parse(const char *text)
{
    cJSON *json = NULL;
    struct rf_err err = {0};
    if (rf_json_parse(text, strlen(text), RF_WIRE_MAX_BYTES, &json, &err) != RF_OK)
        fail_msg("%s: %s", text, err.msg);
    return json;
}

static void registration_of_api_md_is_read_and_built_again(void **state)
{
    RF_AUTO(rf_json_destroy) cJSON *json = parse(
        "{\"protocol\": 1, \"name\": \"host-cuda0\", \"build\": \"0.1.0\", \"host\": \"host\", \"pid\": 42,"
        " \"device\": {\"kind\": \"cuda\", \"name\": \"NVIDIA H200\", \"memory_bytes\": 150754820096, \"precision\": \"bf16\"},"
        " \"models\": [{\"name\": \"demo\", \"title\": \"Coloured shapes\", \"takes_text\": true, \"takes_image\": true,"
        " \"hash\": \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\", \"max_segment_frames\": 81,"
        " \"sizes\": [\"192x128\"], \"defaults\": {\"size\": \"192x128\", \"num_frames\": 81, \"num_inference_steps\": 4,"
        " \"switch_step\": 2, \"flow_shift\": 5.0, \"guidance_scale\": 1.0}, \"loras\": [\"demo_4steps\"], \"examples\": [\"…\"],"
        " \"vocabulary\": [\"red\"], \"note\": \"n\", \"of_the_future\": 1}]}");
    RF_AUTO(rf_wire_register_destroy) struct rf_wire_register *m = NULL, *again = NULL;
    struct rf_err err = {0};
    if (rf_wire_register_read(json, &m, &err) != RF_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(m->memory_bytes, 150754820096);
    assert_int_equal(m->models[0].defaults.width, 192);
    assert_int_equal(m->models[0].defaults.switch_step, 2);
    assert_string_equal(m->models[0].defaults.name, "demo");
    RF_AUTO(rf_json_destroy) cJSON *built = rf_wire_register_build(m);
    assert_int_equal(rf_wire_register_read(built, &again, NULL), RF_OK);
    RF_AUTO(rf_json_destroy) cJSON *rebuilt = rf_wire_register_build(again);
    assert_true(cJSON_Compare(built, rebuilt, true));
}

static void wrong_registrations_are_refused_by_name(void **state)
{
    static const struct { const char *body, *says; } cases[] = {
        {"[]", "registration"}, {"{}", "protocol is missing"}, {"{\"protocol\": \"1\"}", "protocol must be"},
        {"{\"protocol\": 1}", "name is missing"}, {"{\"protocol\": 1, \"name\": \"\"}", "name is empty"},
        {"{\"protocol\": 1, \"name\": \"w\"}", "device must be"},
        {"{\"protocol\": 1, \"name\": \"w\", \"device\": {}}", "device: kind is missing"},
        {"{\"protocol\": 1, \"name\": \"w\", \"device\": {\"kind\": \"cpu\"}}", "models must be"},
        {"{\"protocol\": 1, \"name\": \"w\", \"device\": {\"kind\": \"cpu\"}, \"models\": [{}]}", "models[0]: name is missing"},
        {"{\"protocol\": 1, \"name\": \"w\", \"device\": {\"kind\": \"cpu\"}, \"models\": [{\"name\": \"a\", \"hash\": \"A\"}]}", "hash"},
        {"{\"protocol\": 1, \"name\": \"w\", \"device\": {\"kind\": \"cpu\"}, \"models\": [{\"name\": \"a\"}, {\"name\": \"a\"}]}", "twice"},
        {"{\"protocol\": 1, \"name\": \"w\", \"device\": {\"kind\": \"cpu\"}, \"models\": [{\"name\": \"a\", \"sizes\": [1]}]}", "sizes"},
        {"{\"protocol\": 1, \"name\": \"w\", \"device\": {\"kind\": \"cpu\"}, \"models\": [{\"name\": \"a\", \"defaults\": "
         "{\"size\": \"100x64\"}}]}", "defaults.size"},
        {"{\"protocol\": 1, \"name\": \"w\", \"device\": {\"kind\": \"cpu\"}, \"models\": [{\"name\": \"a\", \"defaults\": "
         "{\"num_inference_steps\": 4, \"switch_step\": 5}}]}", "switch_step"},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        RF_AUTO(rf_json_destroy) cJSON *json = parse(cases[i].body);
        RF_AUTO(rf_wire_register_destroy) struct rf_wire_register *m = NULL;
        struct rf_err err = {0};
        if (rf_wire_register_read(json, &m, &err) != RF_ERR_INVALID || strstr(err.msg, cases[i].says) == NULL)
            fail_msg("%s: '%s'", cases[i].body, err.msg);
    }
}

static struct rf_request *request(void)
{
    struct rf_request *r = NULL;
    RF_AUTO(rf_json_destroy) cJSON *json = parse("{\"prompt\": \"a\", \"num_frames\": 161}");
    assert_int_equal(rf_request_parse(json, &r, NULL, NULL), RF_OK);
    assert_int_equal(rf_request_resolve(r, &rf_model_defaults_builtin, 1, NULL, NULL, NULL), RF_OK);
    return r;
}

static void lease_goes_over_the_wire_unchanged(void **state)
{
    RF_AUTO(rf_request_destroy) struct rf_request *r = request();
    struct rf_wire_lease sent[2] = {
        {.task_id = JOB ".1", .job_id = JOB, .lease = 17, .lease_ms = 30000, .attempt = 2, .kind = RF_TASK_SEGMENT, .index = 1,
         .n_segments = 2, .first_frame = 80, .n_frames = 81, .n_frames_out = 161, .small_memory = true,
         .start_image = "last-0.png"},
        {.task_id = JOB ".2", .job_id = JOB, .lease = 18, .lease_ms = 30000, .attempt = 1, .kind = RF_TASK_ASSEMBLE, .index = 2,
         .n_segments = 2, .n_frames_out = 322}};
    for (int i = 0; i < 2; i++) {
        struct rf_wire_lease got = {0};
        RF_AUTO(rf_request_destroy) struct rf_request *asked = NULL;
        struct rf_err err = {0};
        sent[i].request_text = rf_request_to_text(r);
        RF_AUTO(rf_json_destroy) cJSON *json = rf_wire_lease_build(&sent[i]);
        if (rf_wire_lease_read(json, &got, &asked, &err) != RF_OK)
            fail_msg("%s", err.msg);
        assert_string_equal(got.request_text, sent[i].request_text);
        RF_AUTO(rf_free) char *once = rf_wire_lease_text(&sent[i]);
        RF_AUTO(rf_free) char *twice = rf_wire_lease_text(&got); /* every field is in it */
        assert_string_equal(once, twice);
        assert_int_equal(got.index, sent[i].index);
        assert_int_equal(got.n_segments, 2);
        assert_int_equal(asked->n_frames, 161);
        rf_wire_lease_finish(&sent[i]);
        rf_wire_lease_finish(&got);
    }
}

static void lease_that_contradicts_itself_is_refused(void **state)
{
    RF_AUTO(rf_request_destroy) struct rf_request *r = request();
    struct rf_wire_lease l = {.task_id = JOB ".1", .job_id = JOB, .lease = 17, .lease_ms = 1, .attempt = 1,
                              .kind = RF_TASK_SEGMENT, .index = 1, .n_segments = 2, .n_frames = 81, .n_frames_out = 161};
    l.request_text = rf_request_to_text(r);
    static const struct { const char *key, *value, *says; } cases[] = {
        {"task_id", "\"" JOB ".0\"", "segment.index"}, {"task_id", "\"x\"", "do not fit"}, {"lease", "0", "lease"},
        {"kind", "\"other\"", "kind"}, {"start_image", "\"../x\"", "start_image"}, {"request", "{}", "prompt is missing"},
        {"segment", "null", "segment"}, {"segment", "{\"index\": 1, \"count\": 1}", "segment.index"}};
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        RF_AUTO(rf_json_destroy) cJSON *json = rf_wire_lease_build(&l);
        cJSON_ReplaceItemInObjectCaseSensitive(json, cases[i].key, cJSON_Parse(cases[i].value));
        struct rf_wire_lease got = {0};
        struct rf_err err = {0};
        if (rf_wire_lease_read(json, &got, NULL, &err) == RF_OK || strstr(err.msg, cases[i].says) == NULL)
            fail_msg("%s=%s: '%s'", cases[i].key, cases[i].value, err.msg);
    }
    free(l.request_text);
}

static void reports_go_over_the_wire_unchanged(void **state)
{
    struct rf_wire_timing timings[] = {{"high_noise", 3, 1763900000000, 1.25}, {"load", -1, 1763900000001, 0}};
    char *notes[] = {"one", "zwei …"};
    struct rf_wire_report complete = {.kind = RF_REPORT_COMPLETE, .worker_id = WORKER, .lease = 5, .timings = timings,
                                      .n_timings = 2, .notes = notes, .n_notes = 2, .result = {322, 64, 64, 32, 10.0625, 0.5}};
    struct rf_wire_report failed = {.kind = RF_REPORT_FAIL, .worker_id = WORKER, .lease = 5, .timings = timings,
                                    .n_timings = 1, .code = "no_memory", .message = (char *)"12 GiB", .retryable = true};
    RF_AUTO(rf_json_destroy) cJSON *a = rf_wire_report_build(&complete), *b = rf_wire_report_build(&failed);
    RF_AUTO(rf_wire_report_destroy) struct rf_wire_report *got = NULL;
    assert_int_equal(rf_wire_report_read(a, RF_REPORT_COMPLETE, &got, NULL), RF_OK);
    assert_int_equal(got->n_timings, 2);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(got->timings[i].stage, timings[i].stage);
        assert_int_equal(got->timings[i].step, timings[i].step);
        assert_int_equal(got->timings[i].started_at_ms, timings[i].started_at_ms);
        assert_true(got->timings[i].seconds == timings[i].seconds);
    }
    assert_string_equal(got->notes[1], "zwei …");
    assert_int_equal(got->result.n_frames, 322);
    assert_int_equal(got->result.fps, 32);
    assert_true(got->result.seconds == 10.0625 && got->result.colour_shift == 0.5);
    rf_wire_report_destroy(&got);
    assert_int_equal(rf_wire_report_read(b, RF_REPORT_FAIL, &got, NULL), RF_OK);
    assert_string_equal(got->code, "no_memory");
    assert_string_equal(got->message, "12 GiB");
    assert_true(got->retryable);
}

/* What the report is, as text; "" when it is none. By the tree, or by the scan. */
static char *as_text(struct rf_wire_report *r)
{
    RF_AUTO(rf_json_destroy) cJSON *json = r != NULL ? rf_wire_report_build(r) : NULL;
    char *text = json != NULL ? cJSON_PrintUnformatted(json) : rf_strdup("");
    rf_wire_report_destroy(&r);
    return text;
}

static char *by_tree(const char *text)
{
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    struct rf_wire_report *r = NULL;
    if (rf_json_parse(text, strlen(text), RF_WIRE_MAX_BYTES, &json, NULL) == RF_OK)
        rf_wire_report_read(json, RF_REPORT_COMPLETE, &r, NULL);
    return as_text(r);
}

/* True when the scan took it; then the tree must have taken it for the same. */
static bool scanned_alike(const char *text)
{
    RF_AUTO(rf_free) char *scan = as_text(rf_wire_complete_scan(text, strlen(text)));
    if (scan[0] == '\0')
        return false;
    RF_AUTO(rf_free) char *tree = by_tree(text);
    if (strcmp(scan, tree) != 0)
        fail_msg("%s\n is by scan %s\n and by tree %s", text, scan, tree);
    return true;
}

#define PLAIN "{\"worker_id\":\"" WORKER "\",\"lease\":17,\"timings\":[{\"stage\":\"load\",\"step\":null,\"started_at_ms\":" \
    "1763900000000,\"seconds\":0.25},{\"seconds\":3.1415926535897931,\"step\":0,\"stage\":\"high_noise\",\"started_at_ms\":0}" \
    "],\"notes\":[\"one\",\"two\"],\"result\":{\"num_frames\":162,\"width\":192,\"height\":128,\"fps\":32,\"seconds\":5.0625," \
    "\"colour_shift\":-0.001}}"

static void plain_reports_are_scanned_and_others_left_to_the_tree(void **state)
{
    static const char *const plain[] = {PLAIN, "{ \"lease\" : 1 ,\n\t\"worker_id\" : \"" WORKER "\" }\r\n",
        ("{\"lease\":9007199254740991,\"worker_id\":\"worker_1\",\"result\":{\"seconds\":0.1234567890123456789},\"notes\":[],"
        "\"timings\":[]}")};
    static const char *const others[] = {"", "{}", "[]", "{\"lease\":1}", "{\"worker_id\":\"" WORKER "\"}",
        "{\"lease\":1,\"worker_id\":\"" WORKER "\",\"newer\":1}", "{\"lease\":1,\"lease\":1,\"worker_id\":\"" WORKER "\"}",
        "{\"lease\":1,\"worker_id\":\"" WORKER "\",}", "{\"lease\":1,\"worker_id\":\"" WORKER "\"}}",
        "{\"lease\":01,\"worker_id\":\"" WORKER "\"}", "{\"lease\":1e0,\"worker_id\":\"" WORKER "\"}",
        "{\"lease\":9007199254740992,\"worker_id\":\"" WORKER "\"}", "{\"lease\":1,\"worker_id\":\"" WORKER "\",\"notes\":[\"…\"]}"};
    for (size_t i = 0; i < RF_COUNT_OF(plain); i++)
        if (!scanned_alike(plain[i]))
            fail_msg("not plain: %s", plain[i]);
    for (size_t i = 0; i < RF_COUNT_OF(others); i++)
        if (scanned_alike(others[i]))
            fail_msg("plain: %s", others[i]);
}

/* Every letter replaced by each of these, and taken out: what the scan still takes, the tree takes alike. */
static void no_slip_of_a_letter_is_scanned_otherwise_than_by_the_tree(void **state)
{
    static const char letters[] = "09-+.eE,:[]{}\" \\nulsx\x01\x7f";
    int n_taken = 0;
    for (size_t i = 0; i < sizeof PLAIN - 1; i++) {
        char text[sizeof PLAIN] = PLAIN;
        for (const char *c = letters; *c; c++) {
            text[i] = *c;
            n_taken += scanned_alike(text);
        }
        memmove(text + i, text + i + 1, sizeof PLAIN - 1 - i);
        n_taken += scanned_alike(text);
    }
    assert_true(n_taken > 500); /* digits and letters of free texts */
}

static void wrong_reports_are_refused_by_name(void **state)
{
    static const struct { const char *extra, *says; } cases[] = {
        {"\"lease\": 0", "lease must"}, {"\"lease\": 1.5", "lease must"}, {"\"lease\": 1, \"code\": \"No Memory\"", "code"},
        {"\"lease\": 1", "code is missing"}, {"\"lease\": 1, \"code\": \"io\", \"retryable\": 1", "retryable"},
        {"\"lease\": 1, \"timings\": {}", "timings must"},
        {"\"lease\": 1, \"timings\": [{\"stage\": \"lunch\"}]", "timings[0]: stage 'lunch'"},
        {"\"lease\": 1, \"timings\": [{\"stage\": \"load\", \"started_at_ms\": 1, \"seconds\": -1}]", "seconds"}};
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        char body[256];
        snprintf(body, sizeof body, "{\"worker_id\": \"" WORKER "\", %s}", cases[i].extra);
        RF_AUTO(rf_json_destroy) cJSON *json = parse(body);
        RF_AUTO(rf_wire_report_destroy) struct rf_wire_report *r = NULL;
        struct rf_err err = {0};
        if (rf_wire_report_read(json, RF_REPORT_FAIL, &r, &err) != RF_ERR_INVALID || strstr(err.msg, cases[i].says) == NULL)
            fail_msg("%s: '%s'", body, err.msg);
    }
}

static void small_messages_go_over_the_wire_unchanged(void **state)
{
    struct rf_wire_heartbeat h = {.worker_id = WORKER, .lease = 9, .stage = "decode", .step = 1, .steps = 4, .fraction = 0.75}, h2;
    RF_AUTO(rf_json_destroy) cJSON *a = rf_wire_heartbeat_build(&h);
    assert_int_equal(rf_wire_heartbeat_read(a, &h2, NULL), RF_OK);
    assert_int_equal(h2.lease, 9);
    assert_string_equal(h2.stage, "decode");
    assert_true(h2.fraction == 0.75);
    assert_false(h2.device.told);
    h.device = (struct rf_wire_gauges){true, INT64_C(99) << 30, 0.5, -1, 118.5};
    RF_AUTO(rf_json_destroy) cJSON *told = rf_wire_heartbeat_build(&h);
    assert_int_equal(rf_wire_heartbeat_read(told, &h2, NULL), RF_OK);
    assert_true(h2.device.told && h2.device.memory_used_bytes == INT64_C(99) << 30 && h2.device.temperature_c < 0);
    assert_true(h2.device.utilization > 0.49 && h2.device.utilization < 0.51 && h2.device.power_w > 118);

    struct rf_wire_heartbeat_answer c = {true, 30000}, c2;
    RF_AUTO(rf_json_destroy) cJSON *b = rf_wire_heartbeat_answer_build(&c);
    assert_int_equal(rf_wire_heartbeat_answer_read(b, &c2, NULL), RF_OK);
    assert_true(c2.cancel && c2.lease_ms == 30000);
    struct rf_wire_lease_ask q = {.worker_id = WORKER, .wait_ms = 30000}, q2, q3;
    RF_AUTO(rf_json_destroy) cJSON *d = rf_wire_lease_ask_build(&q);
    assert_int_equal(rf_wire_lease_ask_read(d, &q2, NULL), RF_OK);
    assert_true(q2.wait_ms == 30000 && !q2.device.told);
    q.device = (struct rf_wire_gauges){true, INT64_C(99) << 30, 0.35, -1, 118.5};
    RF_AUTO(rf_json_destroy) cJSON *asks = rf_wire_lease_ask_build(&q);
    RF_AUTO(rf_free) char *text = cJSON_PrintUnformatted(asks);
    assert_int_equal(rf_wire_lease_ask_read(asks, &q2, NULL), RF_OK);
    assert_true(rf_wire_lease_ask_scan(text, strlen(text), &q3)); /* what workers send is plain */
    for (const struct rf_wire_gauges *g = &q2.device; g != NULL; g = g == &q2.device ? &q3.device : NULL) {
        assert_true(g->told && g->memory_used_bytes == q.device.memory_used_bytes && g->utilization == 0.35);
        assert_true(g->temperature_c == -1 && g->power_w == 118.5);
    }
    static const char hot[] = "{\"worker_id\": \"" WORKER "\", \"device\": {\"utilization\": 97}}";
    RF_AUTO(rf_json_destroy) cJSON *wrong = parse(hot);
    assert_int_equal(rf_wire_lease_ask_read(wrong, &q2, NULL), RF_ERR_INVALID);
    assert_false(rf_wire_lease_ask_scan(hot, sizeof hot - 1, &q3));
    struct rf_wire_registered r = {WORKER, 30000, 5000}, r2;
    RF_AUTO(rf_json_destroy) cJSON *e = rf_wire_registered_build(&r);
    assert_int_equal(rf_wire_registered_read(e, &r2, NULL), RF_OK);
    assert_string_equal(r2.worker_id, WORKER);
    RF_AUTO(rf_json_destroy) cJSON *bad = parse("{\"worker_id\": \"worker_../../x\"}");
    char id[RF_WORKER_ID_SIZE];
    assert_int_equal(rf_wire_worker_id_read(bad, id, NULL), RF_ERR_INVALID);
}

static void task_ids_are_taken_apart(void **state)
{
    char job[RF_JOB_ID_SIZE];
    int index = -1;
    assert_true(rf_task_id_parse(JOB ".600", job, &index));
    assert_string_equal(job, JOB);
    assert_int_equal(index, 600);
    static const char *const bad[] = {JOB, JOB ".", JOB ".601", JOB ".01", JOB ".-1", JOB ".1 ", JOB ".1.1", "video_1.1", ".1",
                                      JOB ".99999999999", "video_01hzzzzzzzzzz0123456789abu.1"};
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++)
        assert_false(rf_task_id_parse(bad[i], job, &index));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registration_of_api_md_is_read_and_built_again),
        cmocka_unit_test(wrong_registrations_are_refused_by_name),
        cmocka_unit_test(lease_goes_over_the_wire_unchanged),
        cmocka_unit_test(lease_that_contradicts_itself_is_refused),
        cmocka_unit_test(reports_go_over_the_wire_unchanged),
        cmocka_unit_test(plain_reports_are_scanned_and_others_left_to_the_tree),
        cmocka_unit_test(no_slip_of_a_letter_is_scanned_otherwise_than_by_the_tree),
        cmocka_unit_test(wrong_reports_are_refused_by_name),
        cmocka_unit_test(small_messages_go_over_the_wire_unchanged),
        cmocka_unit_test(task_ids_are_taken_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
