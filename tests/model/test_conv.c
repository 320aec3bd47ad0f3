/* The VAE's operations on the CPU against naive loops in double: odd sizes, strides, fused upsampling, residual;
 * outputs poisoned with NaN beforehand, guard zones around every tensor.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/engine/engine.h"

#define GUARD 64            /* floats before and after each tensor */
#define GUARD_VALUE 12345.5f

struct field {              /* a tensor inside its guard zones, and what it holds on the host */
    struct rf_tensor whole, t;
    float *host;
};

struct bench {
    struct rf_engine *e;
    struct rf_arena *arena;
    uint32_t random;
};

static float draw(struct bench *b)
{
    b->random = b->random * 1664525u + 1013904223u;
    return (float)(b->random >> 8) / (float)(1 << 23) - 1.0f;
}

/* poison: NaN everywhere instead of random numbers. */
static struct field field_new(struct bench *b, bool poison, int n_dims, const int64_t *shape)
{
    struct field f = {.t = {.dtype = RF_F32, .n_dims = n_dims}};
    memcpy(f.t.shape, shape, (size_t)n_dims * sizeof *shape);
    int64_t n = rf_tensor_elements(&f.t);
    f.whole = rf_arena_tensor(b->arena, RF_F32, RF_SHAPE(n + 2 * GUARD));
    f.host = rf_new_array(float, (size_t)n + 2 * GUARD);
    for (int64_t i = 0; i < n + 2 * GUARD; i++)
        f.host[i] = i < GUARD || i >= GUARD + n ? GUARD_VALUE : poison ? NAN : draw(b);
    rf_upload(b->e, &f.whole, f.host);
    f.t.data = (float *)f.whole.data + GUARD;
    memmove(f.host, f.host + GUARD, (size_t)n * sizeof(float));
    return f;
}

/* Fetches the tensor and looks at its guard zones. */
static void field_fetch(struct bench *b, struct field *f)
{
    int64_t n = rf_tensor_elements(&f->t);
    RF_AUTO(rf_free) float *all = rf_new_array(float, (size_t)n + 2 * GUARD);
    struct rf_err err;
    assert_int_equal(rf_download(b->e, &f->whole, all, &err), RF_OK);
    for (int i = 0; i < GUARD; i++) {
        assert_true(all[i] == GUARD_VALUE);
        assert_true(all[GUARD + n + i] == GUARD_VALUE);
    }
    memcpy(f->host, all + GUARD, (size_t)n * sizeof(float));
}

static void field_finish(struct field *f)
{
    free(f->host);
}

struct conv_case {
    int64_t frames, height, width, in, out;
    int kt, ks, stride_t, stride_s;
    bool upsample, residual, no_bias;
};

static double naive_conv_at(const struct conv_case *c, const float *x, const float *w, int64_t t, int64_t y, int64_t px,
                            int64_t o)
{
    int64_t up = c->upsample ? 2 : 1, pad = c->stride_s == 2 ? 0 : (c->ks - 1) / 2;
    double sum = 0;
    for (int dt = 0; dt < c->kt; dt++)
        for (int dy = 0; dy < c->ks; dy++)
            for (int dx = 0; dx < c->ks; dx++) {
                int64_t yy = y * c->stride_s + dy - pad, xx = px * c->stride_s + dx - pad;
                if (yy < 0 || xx < 0 || yy >= c->height * up || xx >= c->width * up)
                    continue;
                int64_t row = (t * c->stride_t + dt) * c->height + yy / up;
                const float *pixel = x + (row * c->width + xx / up) * c->in;
                const float *weight = w + (((o * c->kt + dt) * c->ks + dy) * c->ks + dx) * c->in;
                for (int64_t i = 0; i < c->in; i++)
                    sum += (double)pixel[i] * weight[i];
            }
    return sum;
}

static void check_conv(const struct conv_case *c, int n_threads)
{
    struct bench b = {.random = (uint32_t)(c->in * 131 + c->out)};
    struct rf_engine_config config = {.device = "cpu", .n_threads = n_threads};
    assert_int_equal(rf_engine_open(&config, &b.e, NULL), RF_OK);
    assert_int_equal(rf_arena_create(b.e, 64 << 20, &b.arena, NULL), RF_OK);
    int64_t up = c->upsample ? 2 : 1, to = (c->frames - c->kt) / c->stride_t + 1;
    int64_t ho = c->height * up / c->stride_s, wo = c->width * up / c->stride_s;
    struct field x = field_new(&b, false, RF_SHAPE(c->frames, c->height, c->width, c->in));
    struct field w = field_new(&b, false, RF_SHAPE(c->out, c->kt, c->ks, c->ks, c->in));
    struct field bias = field_new(&b, false, RF_SHAPE(c->out));
    struct field add = field_new(&b, false, RF_SHAPE(to, ho, wo, c->out));
    struct field y = field_new(&b, true, RF_SHAPE(to, ho, wo, c->out));

    struct rf_conv conv = {w.t, c->no_bias ? (struct rf_tensor){0} : bias.t};
    rf_conv(b.e, &y.t, &x.t, &conv,
            &(struct rf_conv_opts){.stride_t = c->stride_t, .stride_s = c->stride_s, .upsample = c->upsample,
                                   .add = c->residual ? &add.t : NULL});
    assert_int_equal(rf_engine_sync(b.e, NULL), RF_OK);
    field_fetch(&b, &y);

    double worst = 0, scale = sqrt((double)(c->in * c->kt * c->ks * c->ks));
    for (int64_t i = 0; i < to * ho * wo * c->out; i++) {
        int64_t o = i % c->out, px = i / c->out % wo, py = i / c->out / wo % ho, t = i / c->out / wo / ho;
        double want = naive_conv_at(c, x.host, w.host, t, py, px, o) + (c->no_bias ? 0 : bias.host[o]) +
                      (c->residual ? add.host[i] : 0);
        double off = fabs(want - y.host[i]) / scale;
        if (!(off <= worst))
            worst = off;
    }
    if (!(worst <= 5e-6)) /* measured: up to 3.0e-6 */
        fail_msg("%lldx%lldx%lld %lld->%lld k%dx%d: error %g", (long long)c->frames, (long long)c->height,
                 (long long)c->width, (long long)c->in, (long long)c->out, c->kt, c->ks, worst);
    field_finish(&x), field_finish(&w), field_finish(&bias), field_finish(&add), field_finish(&y);
    rf_arena_destroy(&b.arena);
    rf_engine_close(&b.e);
}

static const struct conv_case cases[] = {
    {3, 5, 7, 8, 8, 3, 3, 1, 1, false, false, false},
    {4, 6, 25, 16, 16, 3, 3, 1, 1, false, true, false},
    {3, 3, 24, 16, 16, 3, 3, 1, 1, false, false, false},
    {6, 4, 13, 64, 64, 3, 3, 1, 1, false, true, false},
    {3, 4, 12, 33, 48, 3, 3, 1, 1, false, false, true},
    {3, 9, 49, 3, 17, 3, 3, 1, 1, false, false, false},
    {5, 1, 1, 96, 3, 3, 3, 1, 1, false, false, false},
    {3, 2, 5, 192, 100, 3, 3, 1, 1, false, false, false},
    {3, 3, 4, 384, 384, 3, 3, 1, 1, false, false, false}, /* two groups of blocks in the shared scratch */
    {1, 8, 26, 16, 16, 1, 3, 1, 2, false, false, false},
    {2, 7, 51, 20, 40, 1, 3, 1, 2, false, false, false},
    {2, 6, 10, 48, 33, 1, 3, 1, 2, false, true, false},
    {2, 5, 9, 32, 16, 1, 3, 1, 1, true, false, false},
    {1, 3, 25, 19, 70, 1, 3, 1, 1, true, true, false},
    {3, 5, 7, 32, 32, 3, 1, 1, 1, false, false, false},
    {7, 3, 30, 12, 20, 3, 1, 2, 1, false, false, false},
    {1, 4, 31, 32, 96, 1, 1, 1, 1, false, false, false},
    {3, 2, 2, 5, 1, 1, 1, 1, 1, false, true, true},
};

static void convolution_agrees_with_naive_loops(void **state)
{
    (void)state;
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++)
        check_conv(&cases[i], 2);
}

static void convolution_does_not_depend_on_threads(void **state)
{
    (void)state;
    check_conv(&cases[1], 1);
    check_conv(&cases[3], 5);
}

/* Why chunked equals whole: a frame's outputs are the same bits wherever the frame stands. */
static void convolution_gives_the_same_bits_wherever_a_frame_stands(void **state)
{
    (void)state;
    struct bench b = {.random = 7};
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cpu", .n_threads = 2}, &b.e, NULL), RF_OK);
    assert_int_equal(rf_arena_create(b.e, 16 << 20, &b.arena, NULL), RF_OK);
    struct field x = field_new(&b, false, RF_SHAPE(8, 5, 29, 24)), w = field_new(&b, false, RF_SHAPE(40, 3, 3, 3, 24));
    struct field whole = field_new(&b, true, RF_SHAPE(6, 5, 29, 40));
    struct field part = field_new(&b, true, RF_SHAPE(2, 5, 29, 40));
    struct rf_conv conv = {.w = w.t};
    rf_conv(b.e, &whole.t, &x.t, &conv, NULL);
    struct rf_tensor tail = rf_tensor_slice(&x.t, 4, 4);
    rf_conv(b.e, &part.t, &tail, &conv, NULL);
    field_fetch(&b, &whole);
    field_fetch(&b, &part);
    assert_memory_equal(part.host, whole.host + (size_t)4 * 5 * 29 * 40, (size_t)2 * 5 * 29 * 40 * sizeof(float));
    field_finish(&x), field_finish(&w), field_finish(&whole), field_finish(&part);
    rf_arena_destroy(&b.arena);
    rf_engine_close(&b.e);
}

static void channel_norm_agrees_with_its_formula(void **state)
{
    (void)state;
    static const int64_t channels[] = {1, 3, 8, 16, 50, 384};
    struct bench b = {.random = 3};
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cpu", .n_threads = 2}, &b.e, NULL), RF_OK);
    assert_int_equal(rf_arena_create(b.e, 16 << 20, &b.arena, NULL), RF_OK);
    for (size_t k = 0; k < 2 * RF_COUNT_OF(channels); k++) {
        int64_t c = channels[k / 2], rows = 2 * 7 * 11;
        struct field x = field_new(&b, false, RF_SHAPE(2, 7, 11, c)), gamma = field_new(&b, false, RF_SHAPE(c));
        struct field y = field_new(&b, true, RF_SHAPE(2, 7, 11, c));
        rf_fill(b.e, &(struct rf_tensor){x.t.data, RF_F32, 1, {c}}, 0); /* a black pixel stays black */
        memset(x.host, 0, (size_t)c * sizeof(float));
        rf_channel_norm(b.e, &y.t, &x.t, &gamma.t, k % 2 ? RF_ACT_SILU : RF_ACT_NONE);
        field_fetch(&b, &y);
        for (int64_t r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t i = 0; i < c; i++)
                sum += (double)x.host[r * c + i] * x.host[r * c + i];
            for (int64_t i = 0; i < c; i++) {
                double z = x.host[r * c + i] / fmax(sqrt(sum), 1e-12) * sqrt((double)c) * gamma.host[i];
                double want = k % 2 ? z / (1 + exp(-z)) : z;
                assert_true(fabs(want - y.host[r * c + i]) <= 2e-6 * fmax(1, fabs(want))); /* measured 4e-7 */
            }
        }
        field_finish(&x), field_finish(&gamma), field_finish(&y);
    }
    rf_arena_destroy(&b.arena);
    rf_engine_close(&b.e);
}

static void layouts_turn_and_turn_back_with_factor_and_offset(void **state)
{
    (void)state;
    struct bench b = {.random = 5};
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cpu", .n_threads = 2}, &b.e, NULL), RF_OK);
    assert_int_equal(rf_arena_create(b.e, 1 << 20, &b.arena, NULL), RF_OK);
    struct field x = field_new(&b, false, RF_SHAPE(5, 3, 4, 7)), y = field_new(&b, true, RF_SHAPE(3, 4, 7, 5));
    struct field back = field_new(&b, true, RF_SHAPE(5, 3, 4, 7));
    const float mul[5] = {2, 1, -1, 0.5f, 4}, add[5] = {0, 1, 2, 3, -4};
    rf_to_channels_last(b.e, &y.t, &x.t, mul, add);
    rf_from_channels_last(b.e, &back.t, &y.t, NULL, NULL);
    field_fetch(&b, &y);
    field_fetch(&b, &back);
    for (int c = 0; c < 5; c++)
        for (int p = 0; p < 3 * 4 * 7; p++) {
            float want = x.host[c * 84 + p] * mul[c] + add[c];
            assert_true(fabsf(y.host[p * 5 + c] - want) <= 1e-6f);
            assert_true(back.host[c * 84 + p] == y.host[p * 5 + c]);
        }
    field_finish(&x), field_finish(&y), field_finish(&back);
    rf_arena_destroy(&b.arena);
    rf_engine_close(&b.e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolution_agrees_with_naive_loops),
        cmocka_unit_test(convolution_does_not_depend_on_threads),
        cmocka_unit_test(convolution_gives_the_same_bits_wherever_a_frame_stands),
        cmocka_unit_test(channel_norm_agrees_with_its_formula),
        cmocka_unit_test(layouts_turn_and_turn_back_with_factor_and_offset),
    };
    return cmocka_run_group_tests_name("conv", tests, NULL, NULL);
}
