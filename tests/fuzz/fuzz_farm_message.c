/* Messages between server and worker; the first byte picks the reader. What is read must build and read again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/wire.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void registration(const cJSON *json, struct rf_err *err)
{
    RF_AUTO(rf_wire_register_destroy) struct rf_wire_register *m = NULL, *again = NULL;
    if (rf_wire_register_read(json, &m, err) != RF_OK)
        return;
    RF_AUTO(rf_json_destroy) cJSON *built = rf_wire_register_build(m);
    RF_ASSERT(rf_wire_register_read(built, &again, NULL) == RF_OK);
}

static void lease(const cJSON *json, struct rf_err *err)
{
    struct rf_wire_lease l = {0};
    RF_AUTO(rf_request_destroy) struct rf_request *r = NULL;
    if (rf_wire_lease_read(json, &l, &r, err) != RF_OK)
        return;
    struct rf_wire_lease again = {0};
    RF_AUTO(rf_json_destroy) cJSON *built = rf_wire_lease_build(&l);
    RF_ASSERT(rf_wire_lease_read(built, &again, NULL, NULL) == RF_OK);
    rf_wire_lease_finish(&again);
    rf_wire_lease_finish(&l);
}

static void report(const cJSON *json, enum rf_wire_report_kind kind, struct rf_err *err)
{
    RF_AUTO(rf_wire_report_destroy) struct rf_wire_report *r = NULL, *again = NULL;
    if (rf_wire_report_read(json, kind, &r, err) != RF_OK)
        return;
    RF_AUTO(rf_json_destroy) cJSON *built = rf_wire_report_build(r);
    RF_ASSERT(rf_wire_report_read(built, kind, &again, NULL) == RF_OK);
}

/* What is scanned from the text must be what is read from the tree. */
static void scan(const char *text, size_t n)
{
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    struct rf_wire_lease_ask ask, same_ask;
    RF_AUTO(rf_wire_report_destroy) struct rf_wire_report *r = rf_wire_complete_scan(text, n), *same = NULL;
    bool asks = rf_wire_lease_ask_scan(text, n, &ask);
    if (r == NULL && !asks)
        return;
    RF_ASSERT(rf_json_parse(text, n, RF_WIRE_MAX_BYTES, &json, NULL) == RF_OK);
    if (asks) {
        RF_ASSERT(rf_wire_lease_ask_read(json, &same_ask, NULL) == RF_OK);
        const struct rf_wire_gauges *g = &ask.device, *same_g = &same_ask.device;
        RF_ASSERT(strcmp(ask.worker_id, same_ask.worker_id) == 0 && ask.wait_ms == same_ask.wait_ms);
        RF_ASSERT(g->told == same_g->told && g->memory_used_bytes == same_g->memory_used_bytes);
        RF_ASSERT(g->utilization == same_g->utilization && g->temperature_c == same_g->temperature_c);
        RF_ASSERT(g->power_w == same_g->power_w);
    }
    if (r == NULL)
        return;
    RF_ASSERT(rf_wire_report_read(json, RF_REPORT_COMPLETE, &same, NULL) == RF_OK);
    RF_AUTO(rf_json_destroy) cJSON *a = rf_wire_report_build(r);
    RF_AUTO(rf_json_destroy) cJSON *b = rf_wire_report_build(same);
    RF_ASSERT(cJSON_Compare(a, b, true));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    RF_AUTO(rf_json_destroy) cJSON *json = NULL;
    struct rf_err err;
    struct rf_wire_heartbeat beat;
    struct rf_wire_heartbeat_answer answer;
    struct rf_wire_lease_ask ask;
    struct rf_wire_registered registered;
    char job[RF_JOB_ID_SIZE], worker[RF_WORKER_ID_SIZE];
    int index;
    if (n == 0)
        return 0;
    RF_AUTO(rf_free) char *text = rf_strndup((const char *)data + 1, n - 1);
    rf_task_id_parse(text, job, &index);
    rf_file_name_valid(text);
    scan(text, strlen(text));
    if (rf_json_parse((const char *)data + 1, n - 1, RF_WIRE_MAX_BYTES, &json, &err) != RF_OK)
        return 0;
    switch (data[0] % 8) {
    case 0: registration(json, &err); break;
    case 1: lease(json, &err); break;
    case 2: report(json, RF_REPORT_COMPLETE, &err); break;
    case 3: report(json, RF_REPORT_FAIL, &err); break;
    case 4: report(json, RF_REPORT_RELEASE, &err); break;
    case 5: rf_wire_heartbeat_read(json, &beat, &err); break;
    case 6: rf_wire_heartbeat_answer_read(json, &answer, &err); break;
    default:
        rf_wire_lease_ask_read(json, &ask, &err);
        rf_wire_registered_read(json, &registered, &err);
        rf_wire_worker_id_read(json, worker, &err);
    }
    return 0;
}
