/* Where an expert's weights lie and in how many rows it works changes nothing in what comes out, to the last bit.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "worker/model/dit.h"

#define WEIGHTS RF_GOLDEN_DIR "/dit-t2v/weights.safetensors"

/* 1100 tokens: chunks of 768 and 384 rows leave a rest. */
enum { C = 16, T = 5, HEIGHT = 44, WIDTH = 40, N = C * T * HEIGHT * WIDTH, TEXT_LEN = 32, N_PASSES = 3 };

struct expert {
    struct rf_engine *e;
    struct rf_weights *w;
    struct rf_dit *d;
};

static struct expert expert_open(bool separate, int64_t budget)
{
    struct expert x = {0};
    struct rf_err err;
    const struct rf_engine_config config = {.device = "cpu", .n_threads = 2, .separate_memory = separate,
                                            .budget_bytes = budget};
    assert_int_equal(rf_engine_open(&config, &x.e, &err), RF_OK);
    if (rf_weights_open(x.e, WEIGHTS, &x.w, &err) != RF_OK || rf_dit_open_unplaced(x.e, x.w, &x.d, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return x;
}

static void expert_close(struct expert *x)
{
    rf_dit_close(&x->d);
    rf_weights_close(&x->w);
    rf_engine_close(&x->e);
}

static void fill(float *values, int64_t n, unsigned seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 8) / (float)(1 << 23) - 1;
    }
}

/* Two passes at one timestep and a third at another, the output of one being the input of the next; as guidance and
 * steps do. `next`: as told to the stream, the same expert or nobody. Returns [N], free(). */
static float *run(struct expert *x, struct rf_dit_layout layout, bool tell_next)
{
    const struct rf_dit_config *c = rf_dit_config(x->d);
    int64_t slot = rf_dit_block_bytes(x->d), text_shape[] = {TEXT_LEN, c->text_dim}, shape[] = {C, T, HEIGHT, WIDTH};
    int64_t bytes = 2 * rf_arena_cost(RF_F32, 4, shape) + rf_arena_cost(RF_F32, 2, text_shape) + RF_COPY_SLOTS * slot +
                    rf_dit_scratch_bytes(x->d, T, HEIGHT, WIDTH, layout) +
                    rf_dit_context_peak_bytes(x->d, TEXT_LEN, layout);
    RF_AUTO(rf_arena_destroy) struct rf_arena *arena = NULL;
    assert_int_equal(rf_arena_create(x->e, bytes, &arena, NULL), RF_OK);
    struct rf_tensor in = rf_arena_tensor(arena, RF_F32, 4, shape), out = rf_arena_tensor(arena, RF_F32, 4, shape);
    struct rf_tensor text = rf_arena_tensor(arena, RF_F32, 2, text_shape);
    struct rf_dit_stream stream = {0};
    for (int i = 0; i < RF_COPY_SLOTS && slot > 0; i++)
        stream.slot[i] = rf_arena_tensor(arena, RF_U8, 1, &slot);
    float *host = rf_new_array(float, N);
    fill(host, N, 1);
    rf_upload(x->e, &in, host);
    fill(host, TEXT_LEN * c->text_dim, 2);
    rf_upload(x->e, &text, host);
    struct rf_dit_context context = rf_dit_context_make(x->d, arena, &text, layout);
    struct rf_dit_scratch scratch;
    assert_int_equal(rf_dit_scratch_make(x->d, arena, T, HEIGHT, WIDTH, layout, &scratch, NULL), RF_OK);
    scratch.stream = &stream;
    for (int pass = 0; pass < N_PASSES; pass++) {
        stream.next = tell_next && pass < N_PASSES - 1 ? x->d : NULL;
        rf_dit_forward(x->d, &scratch, &context, pass % 2 ? &out : &in, pass < 2 ? 937.5 : 250, pass % 2 ? &in : &out);
    }
    assert_int_equal(rf_download(x->e, &out, host, NULL), RF_OK);
    for (int i = 0; i < N; i++)
        assert_true(isfinite(host[i]));
    return host;
}

static float *reference(void)
{
    struct expert x = expert_open(false, 0);
    float *want = run(&x, RF_DIT_FAST, false);
    expert_close(&x);
    return want;
}

static void rows_in_chunks_give_the_same_bits(void **state)
{
    (void)state;
    RF_AUTO(rf_free) float *want = reference();
    struct expert x = expert_open(false, 0);
    const struct rf_dit_layout layouts[] = {RF_DIT_SMALL, {.ffn_rows = 768, .keep_text = true},
                                            {.query_rows = 384, .keep_text = true},
                                            {.query_rows = 768, .ffn_rows = 384}};
    for (size_t i = 0; i < RF_COUNT_OF(layouts); i++) {
        RF_AUTO(rf_free) float *got = run(&x, layouts[i], false);
        assert_memory_equal(got, want, N * sizeof *got);
    }
    expert_close(&x);
}

static void streamed_blocks_give_the_same_bits_as_resident_ones(void **state)
{
    (void)state;
    RF_AUTO(rf_free) float *want = reference();
    struct expert x = expert_open(true, 0);
    int n_layers = rf_dit_config(x.d)->n_layers;
    assert_true(n_layers >= 2 && rf_dit_block_bytes(x.d) > 0);
    for (int n = n_layers; n >= 0; n--) {
        assert_int_equal(rf_dit_place(x.d, n, NULL), RF_OK);
        for (int tell = 0; tell < 2; tell++) {
            RF_AUTO(rf_free) float *got = run(&x, RF_DIT_SMALL, tell);
            assert_memory_equal(got, want, N * sizeof *got);
        }
    }
    expert_close(&x);
}

static void placing_takes_what_was_measured_and_vacating_gives_it_back(void **state)
{
    (void)state;
    struct expert x = expert_open(true, 0);
    int n_layers = rf_dit_config(x.d)->n_layers;
    int64_t block = rf_dit_block_bytes(x.d), globals = rf_dit_globals_bytes(x.d);
    assert_int_equal(rf_engine_held_bytes(x.e), 0);
    for (int n = 0; n <= n_layers; n++) {
        rf_dit_vacate(x.d, n);
        assert_true(rf_engine_held_bytes(x.e) <= globals + (n_layers - n) * block);
        assert_int_equal(rf_dit_place(x.d, n, NULL), RF_OK);
        assert_int_equal(rf_engine_held_bytes(x.e), globals + (n_layers - n) * block);
    }
    expert_close(&x);
}

static void placing_that_runs_out_goes_on_when_there_is_room(void **state)
{
    (void)state;
    RF_AUTO(rf_free) float *want = reference();
    struct expert measured = expert_open(true, 0);
    int64_t globals = rf_dit_globals_bytes(measured.d), block = rf_dit_block_bytes(measured.d);
    expert_close(&measured);
    struct expert x = expert_open(true, globals + block + (40 << 20));
    RF_AUTO(rf_arena_destroy) struct rf_arena *neighbour = NULL;
    assert_int_equal(rf_arena_create(x.e, 40 << 20, &neighbour, NULL), RF_OK);
    struct rf_err err;
    assert_int_equal(rf_dit_place(x.d, 0, &err), RF_ERR_NO_MEMORY);
    assert_non_null(strstr(err.msg, "budget"));
    rf_arena_destroy(&neighbour);
    assert_int_equal(rf_dit_place(x.d, 0, &err), RF_OK);
    RF_AUTO(rf_free) float *got = run(&x, RF_DIT_SMALL, false);
    assert_memory_equal(got, want, N * sizeof *got);
    expert_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_in_chunks_give_the_same_bits),
        cmocka_unit_test(streamed_blocks_give_the_same_bits_as_resident_ones),
        cmocka_unit_test(placing_takes_what_was_measured_and_vacating_gives_it_back),
        cmocka_unit_test(placing_that_runs_out_goes_on_when_there_is_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
