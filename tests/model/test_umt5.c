/* The text encoder against golden vectors.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/golden.h"

#include <string.h>

#include "worker/model/umt5.h"

static struct rf_umt5 *open_golden(struct rf_engine *e)
{
    struct rf_umt5 *u = NULL;
    struct rf_err err;
    if (rf_umt5_open(e, golden_path("umt5/weights.safetensors"), &u, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return u;
}

/* Measured: 2.2e-6. */
static void hidden_states_agree_with_golden(void **state)
{
    (void)state;
    struct rf_engine *e = golden_engine();
    struct rf_umt5 *u = open_golden(e);
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *io = golden_open("umt5/io.safetensors");
    int64_t ids64[RF_TEXT_TOKENS], length;
    memcpy(ids64, golden_tensor(io, "in.ids", RF_I64)->data, sizeof ids64);
    memcpy(&length, golden_tensor(io, "in.length", RF_I64)->data, sizeof length);
    int32_t ids[RF_TEXT_TOKENS];
    for (int i = 0; i < RF_TEXT_TOKENS; i++)
        ids[i] = (int32_t)ids64[i];

    int64_t n = RF_TEXT_TOKENS * rf_umt5_width(u);
    struct rf_arena *arena = NULL;
    assert_int_equal(rf_arena_create(e, 8 << 20, &arena, NULL), RF_OK);
    struct rf_tensor hidden = rf_arena_tensor(arena, RF_F32, RF_SHAPE(RF_TEXT_TOKENS, rf_umt5_width(u)));
    rf_fill(e, &hidden, NAN);
    assert_int_equal(rf_umt5_encode(u, ids, length, &hidden, NULL), RF_OK);
    RF_AUTO(rf_free) float *out = rf_new_array(float, (size_t)n);
    RF_AUTO(rf_free) float *want = rf_new_array(float, (size_t)n);
    assert_int_equal(rf_download(e, &hidden, out, NULL), RF_OK);
    memcpy(want, golden_tensor(io, "out.hidden", RF_F32)->data, (size_t)n * sizeof(float));
    golden_check("umt5 hidden", golden_error(out, want, n), 1e-4);
    for (int64_t i = length * rf_umt5_width(u); i < n; i++)
        assert_true(out[i] == 0);
    rf_arena_destroy(&arena);
    rf_umt5_close(&u);
    rf_engine_close(&e);
}

static void ids_outside_the_vocabulary_are_an_error(void **state)
{
    (void)state;
    struct rf_engine *e = golden_engine();
    struct rf_umt5 *u = open_golden(e);
    struct rf_arena *arena = NULL;
    assert_int_equal(rf_arena_create(e, 1 << 20, &arena, NULL), RF_OK);
    struct rf_tensor hidden = rf_arena_tensor(arena, RF_F32, RF_SHAPE(RF_TEXT_TOKENS, rf_umt5_width(u)));
    struct rf_err err;
    const int32_t high[] = {3, 384}, negative[] = {-1}, good[] = {1};
    assert_int_equal(rf_umt5_encode(u, high, 2, &hidden, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "384"));
    assert_int_equal(rf_umt5_encode(u, negative, 1, &hidden, &err), RF_ERR_INVALID);
    assert_int_equal(rf_umt5_encode(u, good, 0, &hidden, &err), RF_ERR_INVALID);
    assert_int_equal(rf_umt5_encode(u, good, RF_TEXT_TOKENS + 1, &hidden, &err), RF_ERR_INVALID);
    assert_int_equal(rf_umt5_encode(u, good, 1, &hidden, &err), RF_OK);
    rf_arena_destroy(&arena);
    rf_umt5_close(&u);
    rf_engine_close(&e);
}

static void another_network_is_refused_by_name(void **state)
{
    (void)state;
    struct rf_engine *e = golden_engine();
    struct rf_umt5 *u = NULL;
    struct rf_err err;
    assert_int_equal(rf_umt5_open(e, golden_path("vae/weights.safetensors"), &u, &err), RF_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "shared.weight"));
    rf_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hidden_states_agree_with_golden),
        cmocka_unit_test(ids_outside_the_vocabulary_are_an_error),
        cmocka_unit_test(another_network_is_refused_by_name),
    };
    return cmocka_run_group_tests_name("umt5", tests, NULL, NULL);
}
