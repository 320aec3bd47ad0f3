/* The memory plan at full size: the public checkpoints' shapes, 832x1216, on a device that exists on paper.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "tests/model/paper.h"
#include "worker/model/pipeline_run.h"
#include "worker/model/tokenizer.h"
#include "worker/net/shapes.h"

#define GIB ((int64_t)1 << 30)
#define MIB ((int64_t)1 << 20)
#define FIXED (320 * MIB) /* what the GPU backend takes for itself */

static struct rf_model_files lent;
static struct rf_phantom phantoms[4];
static const char *const names[4] = {"paper high", "paper low", "paper text encoder", "paper VAE"};

static void lend(int i, struct rf_phantom_list *list)
{
    struct rf_err err;
    if (rf_phantom_map(list, &phantoms[i], &err) != RF_OK)
        fail_msg("%s", err.msg);
    rf_safetensors_lend(names[i], phantoms[i].bytes, phantoms[i].size_bytes);
    rf_phantom_list_finish(list);
}

static void lend_model(enum rf_dtype matrix, int n_layers)
{
    const struct rf_shape_types types = {matrix, RF_BF16};
    struct rf_dit_shape dit = rf_shape_t2v_14b;
    struct rf_phantom_list list = {0};
    dit.n_layers = n_layers;
    dit.in_channels = 36;
    for (int i = 0; i < 2; i++) {
        rf_shape_dit(&list, &dit, types);
        lend(i, &list);
    }
    rf_shape_umt5(&list, &rf_shape_umt5_xxl, types);
    rf_phantom_add_bytes(&list, "spiece_model", RF_TOKENIZER_BYTES, strlen(RF_TOKENIZER_BYTES));
    lend(2, &list);
    rf_shape_vae(&list, 96, RF_BF16);
    lend(3, &list);
    lent = (struct rf_model_files){.high = names[0], .low = names[1], .text_encoder = names[2], .vae = names[3]};
}

static void take_back(void)
{
    for (int i = 0; i < 4; i++) {
        rf_safetensors_lend(names[i], NULL, 0);
        rf_phantom_finish(&phantoms[i]);
    }
}

struct fixture {
    struct rf_engine *e;
    struct rf_model *m;
};

static struct fixture fixture_open(enum rf_dtype matrix, int n_layers, int64_t budget)
{
    struct fixture f = {0};
    struct rf_err err;
    lend_model(matrix, n_layers);
    paper = (struct paper_device){.total_bytes = 140 * GIB, .fixed_bytes = FIXED};
    assert_int_equal(rf_front_open(&paper_backend, 0, &(struct rf_engine_config){.budget_bytes = budget}, &f.e, &err),
                     RF_OK);
    if (rf_model_open(f.e, &lent, &f.m, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return f;
}

static void fixture_close(struct fixture *f)
{
    rf_model_close(&f->m);
    rf_engine_close(&f->e);
    take_back();
}

static struct rf_generate_params clip(int width, int height, int n_frames)
{
    return (struct rf_generate_params){.width = width, .height = height, .n_frames = n_frames, .n_steps = 4,
                                       .switch_step = 2, .shift = 5, .guidance_high = 1, .guidance_low = 1, .seed = 1,
                                       .prompt = "a red circle"};
}

static struct rf_memory_facts facts_of(struct fixture *f, const struct rf_generate_params *p,
                                       struct rf_memory_request *ret_request)
{
    struct rf_memory_facts facts;
    rf_run_facts(f->m, p, &facts, ret_request);
    return facts;
}

static void print_plan(const char *what, int64_t budget, const struct rf_memory_plan *p)
{
    print_message("%-16s budget %5.1f GiB: peak %6.2f (weights %5.2f base %4.2f text %4.2f sample %5.2f decode %4.2f), "
                  "%2d streamed, rows %lld/%lld, text %d, encoder %d, sliced %d, +%.2f %%\n", what,
                  (double)budget / (double)GIB, (double)p->peak / (double)GIB, (double)p->weights / (double)GIB,
                  (double)p->base / (double)GIB, (double)p->text / (double)GIB, (double)p->sample / (double)GIB,
                  (double)p->decode / (double)GIB, p->n_streamed[0], (long long)p->query_rows, (long long)p->ffn_rows,
                  p->keep_text, p->keep_text_encoder, p->slice_vae, 100 * p->slowdown);
}

/* Budgets in GiB, 0: none. */
static void expect_fits(struct fixture *f, const char *what, struct rf_generate_params p, const int *budgets,
                        int n_budgets, double most_slowdown)
{
    struct rf_memory_request request;
    struct rf_memory_facts facts = facts_of(f, &p, &request);
    for (int i = 0; i < n_budgets; i++) {
        struct rf_memory_plan plan;
        struct rf_err err;
        if (rf_memory_plan_make(&facts, &request, budgets[i] * GIB, &plan, &err) != RF_OK)
            fail_msg("%s", err.msg);
        print_plan(what, budgets[i] * GIB, &plan);
        assert_true(budgets[i] == 0 || plan.peak <= budgets[i] * GIB);
        assert_true(plan.slowdown <= most_slowdown);
    }
}

static void full_size_fits_under_the_promised_budgets(void **state)
{
    struct fixture f = *(struct fixture *)*state;
    expect_fits(&f, "fp8, 81 frames", clip(832, 1216, 81), (int[]){0, 32, 24, 16, 12}, 5, 0.03);
    expect_fits(&f, "fp8, 161 frames", clip(832, 1216, 161), (int[]){24, 16}, 2, 0.03);
    struct rf_generate_params image = clip(832, 1216, 81);
    image.start_image = (const uint8_t *)"";
    image.guidance_high = 3.5f;
    expect_fits(&f, "fp8, image, cfg", image, (int[]){24, 12}, 2, 0.03);
    expect_fits(&f, "fp8, odd size", clip(208, 1040, 37), (int[]){24, 12, 8}, 3, 1);
    expect_fits(&f, "fp8, one frame", clip(832, 1216, 1), (int[]){24, 12}, 2, 100);
}

static void twice_the_weights_fit_too(void **state)
{
    (void)state;
    struct fixture f = fixture_open(RF_BF16, 40, 0);
    expect_fits(&f, "bf16, 81 frames", clip(832, 1216, 81), (int[]){0, 32, 24, 16, 12}, 5, 0.03);
    expect_fits(&f, "bf16, 161 frames", clip(832, 1216, 161), (int[]){24}, 1, 0.03);
    fixture_close(&f);
}

static void a_larger_budget_is_never_slower_and_the_least_is_the_least(void **state)
{
    (void)state;
    struct fixture f = *(struct fixture *)*state;
    static const int sizes[][3] = {{832, 1216, 81}, {832, 1216, 161}, {480, 832, 25}, {208, 1040, 37}, {16, 16, 1}};
    for (size_t s = 0; s < RF_COUNT_OF(sizes); s++) {
        struct rf_generate_params p = clip(sizes[s][0], sizes[s][1], sizes[s][2]);
        struct rf_memory_request request;
        struct rf_memory_facts facts = facts_of(&f, &p, &request);
        struct rf_memory_plan plan;
        int64_t least = rf_memory_plan_least(&facts, &request);
        struct rf_err err;
        assert_int_equal(rf_memory_plan_make(&facts, &request, least - 1, &plan, &err), RF_ERR_NO_MEMORY);
        assert_non_null(strstr(err.msg, "at least"));
        double before = 1e9;
        for (int64_t budget = least; budget < 48 * GIB; budget += (1 + (budget - least) / (4 * GIB)) * 150 * MIB) {
            assert_int_equal(rf_memory_plan_make(&facts, &request, budget, &plan, NULL), RF_OK);
            assert_true(plan.peak <= budget);
            assert_true(plan.slowdown <= before);
            before = plan.slowdown;
        }
        assert_int_equal(rf_memory_plan_make(&facts, &request, 0, &plan, NULL), RF_OK);
        assert_true(plan.slowdown <= before && plan.n_streamed[0] == 0);
    }
}

/* The message's number, used as a budget, works. */
static void the_budget_that_a_refusal_names_is_enough(void **state)
{
    struct fixture f = *(struct fixture *)*state;
    struct rf_generate_params p = clip(832, 1216, 161);
    struct rf_memory_request request;
    struct rf_memory_facts facts = facts_of(&f, &p, &request);
    struct rf_memory_plan plan;
    struct rf_err err;
    assert_int_equal(rf_memory_plan_make(&facts, &request, 4 * GIB, &plan, &err), RF_ERR_NO_MEMORY);
    print_message("%s\n", err.msg);
    const char *number = strstr(err.msg, "at least ");
    assert_non_null(number);
    double gib = strtod(number + strlen("at least "), NULL);
    assert_int_equal(rf_memory_plan_make(&facts, &request, (int64_t)(gib * (double)GIB), &plan, &err), RF_OK);
    assert_true((double)plan.peak > (gib - 0.02) * (double)GIB);
}

static void streamed_blocks_are_spread_and_more_of_them_include_the_fewer(void **state)
{
    (void)state;
    for (int n = 0; n <= 40; n++) {
        int count = 0, gap = 0, widest = 0;
        for (int i = 0; i < 40; i++) {
            bool streams = rf_memory_plan_streams(n, 40, i);
            assert_true(!streams || n == 40 || rf_memory_plan_streams(n + 1, 40, i));
            count += streams;
            gap = streams ? 0 : gap + 1;
            widest = gap > widest ? gap : widest;
        }
        assert_int_equal(count, n);
        assert_true(n == 0 || widest <= 2 * 40 / n + 2);
    }
}

/* ---- whole runs on paper ---- */

struct watcher {
    int n_frames, n_allocs; /* at the first step; -1: it changed */
};

static bool on_progress(void *self, const struct rf_progress *p)
{
    struct watcher *w = self;
    if (p->stage != RF_STAGE_HIGH_NOISE && p->stage != RF_STAGE_LOW_NOISE)
        return true;
    if (p->stage == RF_STAGE_HIGH_NOISE && p->done <= 1)
        w->n_allocs = paper.n_allocs; /* done 0 comes before the stage's arena at the earliest */
    else if (w->n_allocs != paper.n_allocs)
        w->n_allocs = -1;
    return true;
}

static enum rf_code on_frames(void *self, const uint8_t *rgb, int n_frames, struct rf_err *err)
{
    ((struct watcher *)self)->n_frames += n_frames;
    return RF_OK;
}

static enum rf_code run(struct fixture *f, const struct rf_generate_params *p, struct rf_generate_info *ret_info,
                        struct rf_err *err)
{
    struct watcher w = {0};
    enum rf_code rc = rf_model_generate(f->m, p, &(struct rf_generate_listener){&w, on_progress, on_frames}, err);
    rf_model_last_info(f->m, ret_info);
    if (rc == RF_OK) {
        assert_int_equal(w.n_frames, p->n_frames);
        assert_true(w.n_allocs > 0);
    }
    return rc;
}

/* 8 of 40 blocks, full width: the same paths. */
static void a_full_width_run_under_a_budget_holds_what_was_planned(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        int64_t budget = i == 0 ? 12 * GIB : 9 * GIB;
        struct fixture f = fixture_open(RF_F8_E4M3, 8, budget);
        struct rf_generate_params p = clip(832, 1216, 81);
        struct rf_generate_info info;
        struct rf_memory_plan plan;
        struct rf_err err;
        if (run(&f, &p, &info, &err) != RF_OK)
            fail_msg("%s", err.msg);
        assert_int_equal(rf_model_plan(f.m, &p, &plan, NULL), RF_OK);
        print_plan("8 blocks", budget, &plan);
        assert_int_equal(info.peak_bytes, info.planned_bytes);
        assert_int_equal(info.peak_bytes, plan.peak);
        assert_true(info.peak_bytes <= budget);
        assert_int_equal(paper.n_fills, p.n_steps * plan.n_streamed[0]); /* each once per pass, none for nothing */
        assert_true(i == 0 || plan.n_streamed[0] > 0);
        fixture_close(&f);
    }
}

static void a_neighbour_that_takes_memory_is_planned_around_or_told(void **state)
{
    (void)state;
    struct fixture f = fixture_open(RF_F8_E4M3, 2, 0);
    struct rf_generate_params p = clip(208, 304, 17);
    struct rf_generate_info info;
    struct rf_err err;
    assert_int_equal(run(&f, &p, &info, &err), RF_OK);
    int64_t alone = info.peak_bytes;
    paper.taken_by_others = paper.total_bytes - FIXED - paper.used_bytes - 10 * MIB; /* nearly all that was free */
    assert_int_equal(run(&f, &p, &info, &err), RF_OK);
    assert_true(info.peak_bytes < alone);
    paper.taken_by_others = paper.total_bytes - FIXED - paper.used_bytes; /* nothing is free any more */
    struct rf_generate_params large = clip(832, 1216, 161);
    enum rf_code rc = run(&f, &large, &info, &err);
    assert_int_equal(rc, RF_ERR_NO_MEMORY);
    assert_true(rf_code_retryable(rc));
    paper.taken_by_others = 0;
    assert_int_equal(run(&f, &p, &info, &err), RF_OK); /* the same model, when the neighbour has gone */
    fixture_close(&f);
}

static void a_device_that_fails_in_any_op_ends_the_run_and_leaks_nothing(void **state)
{
    (void)state;
    struct fixture f = fixture_open(RF_F8_E4M3, 2, 0);
    struct rf_generate_params p = clip(64, 64, 5);
    struct rf_generate_info info;
    struct rf_err err;
    p.small_memory = true;
    assert_int_equal(run(&f, &p, &info, &err), RF_OK);
    int64_t held = rf_engine_held_bytes(f.e);
    int before = paper.n_ops;
    assert_int_equal(run(&f, &p, &info, &err), RF_OK);
    int n_ops = paper.n_ops - before;
    for (int at = 1; at <= n_ops; at += 37) {
        paper.fail_after_ops = paper.n_ops + at;
        paper.failure = RF_ERR_DEVICE;
        assert_int_equal(run(&f, &p, &info, &err), RF_ERR_DEVICE);
        assert_non_null(strstr(err.msg, "told to fail"));
        assert_int_equal(rf_engine_held_bytes(f.e), held);
    }
    fixture_close(&f);
}

static int open_full_size(void **state)
{
    struct fixture *f = rf_new(struct fixture);
    *f = fixture_open(RF_F8_E4M3, 40, 0);
    *state = f;
    return 0;
}

static int close_full_size(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest full_size[] = {
        cmocka_unit_test(full_size_fits_under_the_promised_budgets),
        cmocka_unit_test(a_larger_budget_is_never_slower_and_the_least_is_the_least),
        cmocka_unit_test(the_budget_that_a_refusal_names_is_enough),
    };
    const struct CMUnitTest others[] = {
        cmocka_unit_test(twice_the_weights_fit_too),
        cmocka_unit_test(streamed_blocks_are_spread_and_more_of_them_include_the_fewer),
        cmocka_unit_test(a_full_width_run_under_a_budget_holds_what_was_planned),
        cmocka_unit_test(a_neighbour_that_takes_memory_is_planned_around_or_told),
        cmocka_unit_test(a_device_that_fails_in_any_op_ends_the_run_and_leaks_nothing),
    };
    int n_failed = cmocka_run_group_tests(full_size, open_full_size, close_full_size);
    return n_failed + cmocka_run_group_tests(others, NULL, NULL);
}
