/* Noise levels against the published table, noise against PyTorch's numbers, one Euler step.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/noise.h"
#include "worker/model/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* ComfyUI's "simple" levels, printed with nine digits: enough to tell every float32. */
static const struct {
    int n_steps;
    float shift;
    const char *sigmas;
} published[] = {
    {4, 5, "1 0.9375 0.833333313 0.625 0"},
    {4, 8, "1 0.959999979 0.888888896 0.727272749 0"},
    {4, 3, "1 0.899999976 0.75 0.5 0"},
    {4, 12, "1 0.972972989 0.923076928 0.800000012 0"},
    {6, 5, "1 0.961715877 0.909214854 0.833333313 0.714897275 0.500599504 0"},
    {6, 8, "1 0.975723922 0.941259503 0.888888896 0.800479352 0.615952015 0"},
    {8, 5, "1 0.972222209 0.9375 0.892857134 0.833333313 0.75 0.625 0.416666657 0"},
    {8, 8, "1 0.982456148 0.959999979 0.930232584 0.888888896 0.827586234 0.727272749 0.533333361 0"},
    {20, 5, "1 0.989583313 0.978260875 0.965909123 0.952380955 0.9375 0.921052635 0.902777791 0.882352948 0.859375 "
            "0.833333313 0.803571403 0.769230783 0.729166687 0.681818187 0.625 0.555555582 0.46875 0.357142866 "
            "0.208333343 0"},
    {20, 8, "1 0.993464053 0.986301363 0.978417277 0.969696999 0.959999979 0.949152529 0.936936915 0.923076928 "
            "0.907216489 0.888888896 0.867469847 0.842105269 0.811594188 0.774193585 0.727272749 0.666666687 "
            "0.585365891 0.470588237 0.296296299 0"},
};

static void levels_equal_the_published_table_to_the_last_digit(void **state)
{
    for (size_t i = 0; i < RF_COUNT_OF(published); i++) {
        float sigmas[RF_MAX_STEPS + 1];
        char text[512] = "";
        assert_int_equal(rf_sampler_sigmas(published[i].n_steps, published[i].shift, sigmas, NULL), RF_OK);
        for (int k = 0; k <= published[i].n_steps; k++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%.9g", k ? " " : "", (double)sigmas[k]);
        assert_string_equal(text, published[i].sigmas);
    }
}

static void senseless_schedules_are_refused_by_name(void **state)
{
    float sigmas[RF_MAX_STEPS + 1];
    struct rf_err err;
    assert_int_equal(rf_sampler_sigmas(0, 5, sigmas, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "steps"));
    assert_int_equal(rf_sampler_sigmas(RF_MAX_STEPS + 1, 5, sigmas, &err), RF_ERR_INVALID);
    assert_int_equal(rf_sampler_sigmas(4, 0, sigmas, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "shift"));
    assert_int_equal(rf_sampler_sigmas(4, NAN, sigmas, &err), RF_ERR_INVALID);
    assert_int_equal(rf_sampler_sigmas(RF_MAX_STEPS, 5, sigmas, &err), RF_OK);
}

static void steps_lead_from_noise_to_the_clean_latent(void **state)
{
    struct rf_engine *e = NULL;
    struct rf_arena *arena = NULL;
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cpu"}, &e, NULL), RF_OK);
    assert_int_equal(rf_arena_create(e, 4096, &arena, NULL), RF_OK);
    struct rf_tensor x = rf_arena_tensor(arena, RF_F32, RF_SHAPE(2)), v = rf_arena_tensor(arena, RF_F32, RF_SHAPE(2));
    struct rf_tensor u = rf_arena_tensor(arena, RF_F32, RF_SHAPE(2));
    float clean[2] = {0.5f, -2}, noise[2] = {1, 3}, velocity[2], sigmas[5], out[2];
    for (int i = 0; i < 2; i++)
        velocity[i] = noise[i] - clean[i]; /* a perfect model */
    rf_upload(e, &x, noise);
    assert_int_equal(rf_sampler_sigmas(4, 5, sigmas, NULL), RF_OK);
    for (int i = 0; i < 4; i++) {
        rf_upload(e, &v, velocity);
        rf_sampler_step(e, &x, &v, sigmas[i], sigmas[i + 1]);
    }
    assert_int_equal(rf_download(e, &x, out, NULL), RF_OK);
    assert_true(fabsf(out[0] - clean[0]) < 1e-6f && fabsf(out[1] - clean[1]) < 1e-6f);
    float uncond[2] = {1, 1};
    rf_upload(e, &u, uncond);
    rf_sampler_guide(e, &v, &u, 3);
    assert_int_equal(rf_download(e, &v, out, NULL), RF_OK);
    assert_true(fabsf(out[0] - (1 + 3 * (velocity[0] - 1))) < 1e-5f);
    assert_true(fabsf(out[1] - (1 + 3 * (velocity[1] - 1))) < 1e-5f);
    rf_arena_destroy(&arena);
    rf_engine_close(&e);
}

static void noise_is_that_of_the_public_generator(void **state)
{
    static const struct {
        uint64_t seed;
        double values[10];
    } golden[] = {
        {0, {-1.125840, -1.152360, -0.250579, -0.433879, 0.848710, 0.692009, -0.316013, -2.115219, 0.322275,
             -1.263335}},
        {42, {1.926915, 1.487284, 0.900717, -2.105521, 0.678418, -1.234545, -0.043067, -1.604667, -0.752136, 1.648723}},
        {42 + ((uint64_t)5 << 32), {1.926915, 1.487284, 0.900717, -2.105521}}, /* only 32 bits of a seed count */
    };
    for (size_t i = 0; i < RF_COUNT_OF(golden); i++) {
        float values[64];
        assert_int_equal(rf_noise_normal(golden[i].seed, values, 64, NULL), RF_OK);
        for (int k = 0; k < 10 && golden[i].values[k] != 0; k++)
            assert_true(fabs((double)values[k] - golden[i].values[k]) < 2e-6 /* measured 5e-7: six digits printed */);
    }
}

static void noise_of_a_length_not_divisible_by_sixteen_redraws_its_end(void **state)
{
    float whole[48], odd[37], rest[16];
    assert_int_equal(rf_noise_normal(7, whole, 48, NULL), RF_OK);
    assert_int_equal(rf_noise_normal(7, odd, 37, NULL), RF_OK);
    assert_memory_equal(odd, whole, 21 * sizeof *odd); /* the last sixteen are new */
    for (int i = 0; i < 16; i++)
        rest[i] = odd[21 + i];
    assert_memory_not_equal(rest, whole + 21, sizeof rest);
    for (int i = 0; i < 16; i++)
        assert_true(isfinite(rest[i]));
    assert_int_equal(rf_noise_normal(7, odd, 15, NULL), RF_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_equal_the_published_table_to_the_last_digit),
        cmocka_unit_test(senseless_schedules_are_refused_by_name),
        cmocka_unit_test(steps_lead_from_noise_to_the_clean_latent),
        cmocka_unit_test(noise_is_that_of_the_public_generator),
        cmocka_unit_test(noise_of_a_length_not_divisible_by_sixteen_redraws_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
