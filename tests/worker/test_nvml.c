/* What a GPU tells of itself, through a library that is not NVIDIA's. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "worker/nvml.h"

#define CARD "00000000:18:00.0"

static void a_card_tells_memory_load_temperature_and_power(void **state)
{
    (void)state;
    setenv("FAKE_NVML", "2048,35,41,118500", 1);
    struct rf_nvml *n = rf_nvml_open(CARD);
    struct rf_wire_gauges g;
    assert_non_null(n);
    assert_true(rf_nvml_read(n, &g));
    assert_int_equal(g.memory_used_bytes, (int64_t)2048 << 20);
    assert_true(g.utilization > 0.349 && g.utilization < 0.351);
    assert_true(g.temperature_c > 40.9 && g.temperature_c < 41.1);
    assert_true(g.power_w > 118.4 && g.power_w < 118.6);
    assert_int_equal(rf_nvml_memory_bytes(n), (int64_t)140 << 30);
    rf_nvml_close(&n);
    assert_null(n);
}

static void what_a_card_refuses_to_tell_is_left_out(void **state)
{
    (void)state;
    setenv("FAKE_NVML", "1,,41,", 1);
    struct rf_nvml *n = rf_nvml_open(CARD);
    struct rf_wire_gauges g;
    assert_true(rf_nvml_read(n, &g));
    assert_true(g.utilization < 0 && g.power_w < 0 && g.temperature_c > 40);
    setenv("FAKE_NVML", ",,,", 1); /* fallen off the bus */
    assert_false(rf_nvml_read(n, &g));
    assert_false(g.told);
    assert_int_equal(rf_nvml_memory_bytes(n), 0);
    rf_nvml_close(&n);
}

static void without_library_or_card_nothing_is_told_and_nothing_fails(void **state)
{
    (void)state;
    setenv("FAKE_NVML", "1,1,1,1", 1);
    assert_null(rf_nvml_open("00000000:19:00.0"));
    assert_null(rf_nvml_open(NULL));
    unsetenv("FAKE_NVML"); /* the library does not start */
    assert_null(rf_nvml_open(CARD));
    RF_AUTO(rf_free) char *library = rf_strdup(getenv("FRAMEFARM_NVML"));
    setenv("FRAMEFARM_NVML", "/no/such/library.so", 1);
    struct rf_nvml *n = rf_nvml_open(CARD);
    struct rf_wire_gauges g;
    assert_null(n);
    assert_false(rf_nvml_read(n, &g));
    assert_int_equal(rf_nvml_memory_bytes(n), 0);
    rf_nvml_close(&n);
    setenv("FRAMEFARM_NVML", library, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_card_tells_memory_load_temperature_and_power),
        cmocka_unit_test(what_a_card_refuses_to_tell_is_left_out),
        cmocka_unit_test(without_library_or_card_nothing_is_told_and_nothing_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
