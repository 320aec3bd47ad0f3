/* The same frames under any budget: a complete tiny model on a CPU that behaves as a device with memory of its own, so
 * that weights are copied, streamed through slots, left in host memory and counted as on a GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "tests/model/tiny_model.h"
#include "worker/model/memory_plan.h"

enum { W = 128, H = 96, FRAMES = 21, FRAME_BYTES = W * H * 3 };

static struct tiny_model tiny; /* written once for all tests */

struct clip {
    uint8_t rgb[FRAMES * FRAME_BYTES];
    int n_frames;
    struct rf_engine *e;
    int64_t held_in_steps; /* while sampling; -1: it changed */
};

static bool on_progress(void *self, const struct rf_progress *p)
{
    struct clip *c = self;
    if (p->stage != RF_STAGE_HIGH_NOISE && p->stage != RF_STAGE_LOW_NOISE)
        return true;
    int64_t held = rf_engine_held_bytes(c->e);
    if (p->stage == RF_STAGE_HIGH_NOISE && p->done == 0)
        c->held_in_steps = held;
    else if (c->held_in_steps != held)
        c->held_in_steps = -1;
    return true;
}

static enum rf_code on_frames(void *self, const uint8_t *rgb, int n_frames, struct rf_err *err)
{
    struct clip *c = self;
    memcpy(c->rgb + (size_t)c->n_frames * FRAME_BYTES, rgb, (size_t)n_frames * FRAME_BYTES);
    c->n_frames += n_frames;
    return RF_OK;
}

struct fixture {
    struct rf_engine *e;
    struct rf_model *m;
};

static struct fixture fixture_open(int64_t budget, bool separate)
{
    struct fixture f = {0};
    struct rf_err err;
    const struct rf_engine_config config = {.device = "cpu", .n_threads = 2, .budget_bytes = budget,
                                            .separate_memory = separate};
    assert_int_equal(rf_engine_open(&config, &f.e, &err), RF_OK);
    struct rf_model_files files = tiny_model_files(&tiny);
    if (rf_model_open(f.e, &files, &f.m, &err) == RF_OK)
        return f;
    rf_engine_close(&f.e);
    if (strstr(err.msg, "this build has no tokenizer"))
        skip();
    fail_msg("%s", err.msg);
    return f;
}

static void fixture_close(struct fixture *f)
{
    rf_model_close(&f->m);
    rf_engine_close(&f->e);
}

static const uint8_t *start_image(void)
{
    static uint8_t image[FRAME_BYTES];
    for (int i = 0; i < FRAME_BYTES; i++)
        image[i] = (uint8_t)(i * 7 % 251);
    return image;
}

static struct rf_generate_params usual(void)
{
    return (struct rf_generate_params){.width = W, .height = H, .n_frames = FRAMES, .n_steps = 2, .switch_step = 1,
                                       .shift = 5, .guidance_high = 3, .guidance_low = 1, .seed = 7,
                                       .prompt = "red circle", .start_image = start_image()};
}

/* New; free() it. */
static struct clip *clip_of(struct fixture *f, const struct rf_generate_params *p)
{
    struct clip *c = rf_new(struct clip);
    struct rf_err err;
    c->e = f->e;
    if (rf_model_generate(f->m, p, &(struct rf_generate_listener){c, on_progress, on_frames}, &err) != RF_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(c->n_frames, p->n_frames);
    return c;
}

static struct clip *reference(const struct rf_generate_params *p)
{
    struct fixture f = fixture_open(0, false);
    struct clip *c = clip_of(&f, p);
    fixture_close(&f);
    return c;
}

static int64_t least_budget(const struct rf_generate_params *p)
{
    struct fixture f = fixture_open(0, true);
    struct rf_generate_params small = *p;
    struct rf_memory_plan plan;
    small.small_memory = true;
    assert_int_equal(rf_model_plan(f.m, &small, &plan, NULL), RF_OK);
    fixture_close(&f);
    return plan.peak;
}

static void any_budget_gives_the_same_frames_and_holds_what_was_planned(void **state)
{
    (void)state;
    struct rf_generate_params p = usual();
    RF_AUTO(rf_free) struct clip *want = reference(&p);
    int64_t least = least_budget(&p);
    int n_streamed = 0, n_resident = 0;
    for (int i = 0; i < 5; i++) {
        int64_t budget = i == 4 ? 0 : least + least * i / 12;
        struct fixture f = fixture_open(budget, true);
        RF_AUTO(rf_free) struct clip *got = clip_of(&f, &p);
        assert_memory_equal(got->rgb, want->rgb, sizeof got->rgb);
        struct rf_memory_plan plan;
        struct rf_generate_info info;
        assert_int_equal(rf_model_plan(f.m, &p, &plan, NULL), RF_OK);
        rf_model_last_info(f.m, &info);
        print_message("budget %lld: peak %lld of %lld planned, %d streamed, rows %lld %lld\n", (long long)budget,
                      (long long)info.peak_bytes, (long long)info.planned_bytes, plan.n_streamed[0],
                      (long long)plan.query_rows, (long long)plan.ffn_rows);
        assert_int_equal(info.peak_bytes, info.planned_bytes);
        assert_int_equal(info.planned_bytes, plan.peak);
        assert_true(budget == 0 || info.peak_bytes <= budget);
        assert_true(got->held_in_steps > 0); /* nothing is allocated between steps, nor at the switch of experts */
        n_streamed += plan.n_streamed[0] > 0;
        n_resident += plan.n_streamed[0] == 0;
        fixture_close(&f);
    }
    assert_true(n_streamed > 0 && n_resident > 0); /* both ways were gone */
}

static void one_byte_under_the_least_is_refused_before_anything_starts(void **state)
{
    (void)state;
    struct rf_generate_params p = usual();
    int64_t least = least_budget(&p);
    struct fixture f = fixture_open(least - 1, true);
    struct clip *c = rf_new(struct clip);
    struct rf_err err;
    c->e = f.e;
    int64_t before = rf_engine_held_bytes(f.e);
    assert_int_equal(rf_model_generate(f.m, &p, &(struct rf_generate_listener){c, on_progress, on_frames}, &err),
                     RF_ERR_NO_MEMORY);
    assert_non_null(strstr(err.msg, "at least"));
    assert_int_equal(rf_engine_held_bytes(f.e), before);
    assert_int_equal(c->held_in_steps, 0);
    free(c);
    fixture_close(&f);
}

static void another_request_moves_weights_and_back_without_a_trace(void **state)
{
    (void)state;
    struct rf_generate_params p = usual(), small = usual();
    small.small_memory = true;
    small.seed = 8;
    RF_AUTO(rf_free) struct clip *want = reference(&p);
    RF_AUTO(rf_free) struct clip *want_small = reference(&small);
    struct fixture f = fixture_open(0, true);
    int64_t held[2] = {0};
    for (int round = 0; round < 2; round++) {
        RF_AUTO(rf_free) struct clip *large = clip_of(&f, &p);
        assert_memory_equal(large->rgb, want->rgb, sizeof want->rgb);
        assert_true(round == 0 || rf_engine_held_bytes(f.e) == held[0]);
        held[0] = rf_engine_held_bytes(f.e);
        RF_AUTO(rf_free) struct clip *tight = clip_of(&f, &small);
        assert_memory_equal(tight->rgb, want_small->rgb, sizeof want->rgb);
        assert_true(round == 0 || rf_engine_held_bytes(f.e) == held[1]);
        held[1] = rf_engine_held_bytes(f.e);
    }
    assert_true(held[1] < held[0]);
    fixture_close(&f);
}

static int write_model(void **state)
{
    (void)state;
    tiny_model_write(&tiny, 36);
    return 0;
}

static int remove_model(void **state)
{
    (void)state;
    tiny_model_remove(&tiny);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_budget_gives_the_same_frames_and_holds_what_was_planned),
        cmocka_unit_test(one_byte_under_the_least_is_refused_before_anything_starts),
        cmocka_unit_test(another_request_moves_weights_and_back_without_a_trace),
    };
    return cmocka_run_group_tests(tests, write_model, remove_model);
}
