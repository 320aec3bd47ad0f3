/* The pipeline on a tiny model with random weights: what it promises whatever the weights say.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "tests/model/tiny_model.h"

enum { W = 48, H = 32, FRAMES = 9, FRAME_BYTES = W * H * 3 };

struct watcher {
    uint8_t clip[FRAMES * FRAME_BYTES];
    int n_frames, n_calls, n_previews, stop_at, calls_after_stop;
    int seen[RF_STAGE_COUNT], last_done[RF_STAGE_COUNT], total[RF_STAGE_COUNT];
    enum rf_stage order[64];
    enum rf_code frames_answer;
};

static bool on_progress(void *self, const struct rf_progress *p)
{
    struct watcher *w = self;
    if (w->stop_at && w->n_calls >= w->stop_at)
        w->calls_after_stop++;
    assert_true(w->n_calls < (int)RF_COUNT_OF(w->order));
    w->order[w->n_calls++] = p->stage;
    assert_true(p->done <= p->total && p->done >= w->last_done[p->stage]);
    assert_true(w->seen[p->stage]++ > 0 || p->done == 0);
    w->last_done[p->stage] = p->done;
    w->total[p->stage] = p->total;
    if (p->preview) {
        assert_int_equal(p->preview_w, W / 8);
        assert_int_equal(p->preview_h, H / 8);
        w->n_previews++;
    }
    return w->stop_at == 0 || w->n_calls < w->stop_at;
}

static enum rf_code on_frames(void *self, const uint8_t *rgb, int n_frames, struct rf_err *err)
{
    struct watcher *w = self;
    if (w->frames_answer != RF_OK)
        return rf_fail(err, w->frames_answer, "no room for frames");
    assert_true(w->n_frames + n_frames <= FRAMES);
    memcpy(w->clip + (size_t)w->n_frames * FRAME_BYTES, rgb, (size_t)n_frames * FRAME_BYTES);
    w->n_frames += n_frames;
    return RF_OK;
}

static struct tiny_model tiny_16, tiny_36; /* written once for all tests */

struct fixture {
    struct rf_engine *e;
    struct rf_model *m;
};

static struct fixture fixture_open(const struct tiny_model *tiny)
{
    struct fixture f = {0};
    struct rf_err err;
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cpu", .n_threads = 2}, &f.e, &err), RF_OK);
    struct rf_model_files files = tiny_model_files(tiny);
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

static struct rf_generate_params usual(void)
{
    return (struct rf_generate_params){.width = W, .height = H, .n_frames = FRAMES, .n_steps = 3, .switch_step = 1,
                                       .shift = 5, .guidance_high = 1, .guidance_low = 1, .seed = 42,
                                       .prompt = "red circle"};
}

static enum rf_code generate(struct fixture *f, const struct rf_generate_params *p, struct watcher *w,
                             struct rf_err *err)
{
    return rf_model_generate(f->m, p, &(struct rf_generate_listener){w, on_progress, on_frames}, err);
}

/* Runs and returns the watcher, new; free() it. */
static struct watcher *clip_of(struct fixture *f, const struct rf_generate_params *p)
{
    struct watcher *w = rf_new(struct watcher);
    struct rf_err err;
    if (generate(f, p, w, &err) != RF_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(w->n_frames, p->n_frames);
    return w;
}

static bool same_clip(const struct watcher *a, const struct watcher *b)
{
    return memcmp(a->clip, b->clip, sizeof a->clip) == 0;
}

static void same_request_gives_same_frames_and_another_seed_others(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params p = usual(), other = usual(), prompt = usual();
    other.seed = 43;
    prompt.prompt = "circle";
    RF_AUTO(rf_free) struct watcher *first = clip_of(&f, &p);
    RF_AUTO(rf_free) struct watcher *second = clip_of(&f, &other);
    RF_AUTO(rf_free) struct watcher *again = clip_of(&f, &p);
    RF_AUTO(rf_free) struct watcher *words = clip_of(&f, &prompt);
    assert_true(same_clip(first, again));
    assert_false(same_clip(first, second));
    assert_false(same_clip(first, words));
    fixture_close(&f);
}

static void stages_come_in_order_with_their_steps_and_previews(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params p = usual();
    RF_AUTO(rf_free) struct watcher *w = clip_of(&f, &p);
    for (int i = 1; i < w->n_calls; i++)
        assert_true(w->order[i] >= w->order[i - 1]);
    assert_int_equal(w->total[RF_STAGE_HIGH_NOISE], 1);
    assert_int_equal(w->last_done[RF_STAGE_HIGH_NOISE], 1);
    assert_int_equal(w->last_done[RF_STAGE_LOW_NOISE], 2);
    assert_int_equal(w->last_done[RF_STAGE_DECODE], FRAMES);
    assert_int_equal(w->seen[RF_STAGE_TEXT], 1);
    assert_int_equal(w->seen[RF_STAGE_ENCODE_IMAGE], 0);
    assert_int_equal(w->n_previews, 3);
    fixture_close(&f);
}

static void a_listener_that_says_stop_is_not_asked_again(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params p = usual();
    RF_AUTO(rf_free) struct watcher *whole = clip_of(&f, &p);
    for (int stop = 1; stop <= whole->n_calls; stop++) {
        RF_AUTO(rf_free) struct watcher *w = rf_new(struct watcher);
        w->stop_at = stop;
        assert_int_equal(generate(&f, &p, w, NULL), RF_ERR_CANCELLED);
        assert_int_equal(w->n_calls, stop);
        assert_int_equal(w->calls_after_stop, 0);
    }
    RF_AUTO(rf_free) struct watcher *after = clip_of(&f, &p); /* and the model is as good as before */
    assert_true(same_clip(whole, after));
    fixture_close(&f);
}

static void an_error_of_the_listener_ends_the_run(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params p = usual();
    RF_AUTO(rf_free) struct watcher *w = rf_new(struct watcher);
    w->frames_answer = RF_ERR_IO;
    struct rf_err err;
    assert_int_equal(generate(&f, &p, w, &err), RF_ERR_IO);
    assert_non_null(strstr(err.msg, "no room"));
    fixture_close(&f);
}

static void fill_image(uint8_t *image, int red, int green, int blue)
{
    for (int i = 0; i < W * H; i++) {
        image[3 * i] = (uint8_t)(red + i % 7);
        image[3 * i + 1] = (uint8_t)(green + i % 5);
        image[3 * i + 2] = (uint8_t)blue;
    }
}

static double mean_distance(const uint8_t *a, const uint8_t *b)
{
    double sum = 0;
    for (int c = 0; c < 3; c++) {
        double difference = 0;
        for (int i = c; i < FRAME_BYTES; i += 3)
            difference += a[i] - b[i];
        sum += fabs(difference) / (W * H);
    }
    return sum;
}

static void start_image_reaches_every_frame_and_colours_move_towards_it(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    assert_true(rf_model_takes_image(f.m));
    static uint8_t dark[FRAME_BYTES], bright[FRAME_BYTES];
    fill_image(dark, 40, 60, 20);
    fill_image(bright, 160, 220, 90);
    struct rf_generate_params none = usual(), p = usual(), q = usual();
    p.start_image = dark;
    q.start_image = bright;
    RF_AUTO(rf_free) struct watcher *free_clip = clip_of(&f, &none);
    RF_AUTO(rf_free) struct watcher *from_dark = clip_of(&f, &p);
    RF_AUTO(rf_free) struct watcher *from_bright = clip_of(&f, &q);
    assert_int_equal(from_dark->last_done[RF_STAGE_ENCODE_IMAGE], (FRAMES - 1) / 4 + 1);
    for (int frame = 0; frame < FRAMES; frame++) {
        size_t at = (size_t)frame * FRAME_BYTES;
        assert_memory_not_equal(from_dark->clip + at, from_bright->clip + at, FRAME_BYTES);
        assert_memory_not_equal(from_dark->clip + at, free_clip->clip + at, FRAME_BYTES);
    }
    q.match_start_colour = true;
    RF_AUTO(rf_free) struct watcher *matched = clip_of(&f, &q);
    assert_true(mean_distance(matched->clip, bright) < mean_distance(from_bright->clip, bright));
    struct rf_generate_info info;
    rf_model_last_info(f.m, &info);
    for (int c = 0; c < 3; c++)
        assert_true(info.colour_shift[c] != 0 && fabsf(info.colour_shift[c]) <= 12.76f);
    fixture_close(&f);
}

static void guidance_changes_frames_and_one_needs_no_negative(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params plain = usual(), negative = usual(), guided = usual(), low = usual(), other = usual();
    negative.negative_prompt = "\xff not even UTF-8";
    guided.guidance_high = guided.guidance_low = other.guidance_high = other.guidance_low = 3;
    low.guidance_low = 3;
    other.negative_prompt = "circle";
    RF_AUTO(rf_free) struct watcher *a = clip_of(&f, &plain);
    RF_AUTO(rf_free) struct watcher *b = clip_of(&f, &negative);
    RF_AUTO(rf_free) struct watcher *c = clip_of(&f, &guided);
    RF_AUTO(rf_free) struct watcher *d = clip_of(&f, &low);
    RF_AUTO(rf_free) struct watcher *e = clip_of(&f, &other);
    assert_true(same_clip(a, b));
    assert_false(same_clip(a, c));
    assert_false(same_clip(c, d));
    assert_false(same_clip(c, e));
    guided.negative_prompt = negative.negative_prompt;
    assert_int_equal(rf_model_generate(f.m, &guided, NULL, NULL), RF_ERR_INVALID);
    fixture_close(&f);
}

static void sixteen_channel_experts_serve_text_and_refuse_an_image(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_16);
    assert_false(rf_model_takes_image(f.m));
    static uint8_t image[FRAME_BYTES];
    struct rf_generate_params p = usual();
    RF_AUTO(rf_free) struct watcher *w = clip_of(&f, &p);
    p.start_image = image;
    struct rf_err err;
    assert_int_equal(generate(&f, &p, w, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "image"));
    fixture_close(&f);
}

static void parameters_out_of_range_are_named(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    static const struct {
        const char *word;
        size_t offset;
        int value;
    } wrong[] = {
        {"size", offsetof(struct rf_generate_params, width), 40},
        {"size", offsetof(struct rf_generate_params, height), 0},
        {"num_frames", offsetof(struct rf_generate_params, n_frames), 8},
        {"num_frames", offsetof(struct rf_generate_params, n_frames), -3},
        {"num_inference_steps", offsetof(struct rf_generate_params, n_steps), 0},
        {"num_inference_steps", offsetof(struct rf_generate_params, n_steps), 1001},
        {"switch_step", offsetof(struct rf_generate_params, switch_step), 4},
        {"switch_step", offsetof(struct rf_generate_params, switch_step), -1},
    };
    for (size_t i = 0; i < RF_COUNT_OF(wrong); i++) {
        struct rf_generate_params p = usual();
        memcpy((char *)&p + wrong[i].offset, &wrong[i].value, sizeof(int));
        struct rf_err err;
        assert_int_equal(rf_model_generate(f.m, &p, NULL, &err), RF_ERR_INVALID);
        assert_non_null(strstr(err.msg, wrong[i].word));
    }
    struct rf_generate_params p = usual();
    p.shift = NAN;
    assert_int_equal(rf_model_generate(f.m, &p, NULL, NULL), RF_ERR_INVALID);
    p = usual();
    p.prompt = "a\xff";
    assert_int_equal(rf_model_generate(f.m, &p, NULL, NULL), RF_ERR_INVALID);
    fixture_close(&f);
}

static void one_expert_alone_and_one_frame_alone_work(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params p = usual();
    p.n_frames = 1;
    p.switch_step = 0;
    RF_AUTO(rf_free) struct watcher *low = clip_of(&f, &p);
    assert_int_equal(low->seen[RF_STAGE_HIGH_NOISE], 0);
    p.switch_step = p.n_steps;
    RF_AUTO(rf_free) struct watcher *high = clip_of(&f, &p);
    assert_int_equal(high->seen[RF_STAGE_LOW_NOISE], 0);
    assert_memory_not_equal(low->clip, high->clip, FRAME_BYTES);
    fixture_close(&f);
}

static void long_prompts_are_reported_as_truncated(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params p = usual();
    p.n_frames = 1;
    struct rf_generate_info info;
    RF_AUTO(rf_free) struct watcher *shorter = clip_of(&f, &p);
    assert_int_equal(shorter->n_frames, 1);
    rf_model_last_info(f.m, &info);
    assert_int_equal(info.n_prompt_tokens, 3);
    assert_false(info.prompt_truncated);
    RF_AUTO(rf_free) char *prompt = rf_new_array(char, 4 * 600 + 1);
    for (int i = 0; i < 600; i++)
        memcpy(prompt + (size_t)4 * (size_t)i, "red ", 4);
    p.prompt = prompt;
    RF_AUTO(rf_free) struct watcher *longer = clip_of(&f, &p);
    assert_int_equal(longer->n_frames, 1);
    rf_model_last_info(f.m, &info);
    assert_int_equal(info.n_prompt_tokens, 512);
    assert_true(info.prompt_truncated);
    fixture_close(&f);
}

static void peak_memory_is_told_and_over_budget_nothing_starts(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params p = usual(), longer = usual();
    longer.n_frames = 81;
    int64_t peak = rf_model_peak_bytes(f.m, &p);
    assert_true(peak > 1 << 20 && rf_model_peak_bytes(f.m, &longer) > peak);
    fixture_close(&f);

    struct rf_model_files files = tiny_model_files(&tiny_36);
    struct rf_engine_config small = {.device = "cpu", .budget_bytes = 16 << 20};
    assert_int_equal(rf_engine_open(&small, &f.e, NULL), RF_OK);
    assert_int_equal(rf_model_open(f.e, &files, &f.m, NULL), RF_OK);
    RF_AUTO(rf_free) struct watcher *w = rf_new(struct watcher);
    struct rf_err err;
    longer.width = longer.height = 512;
    assert_int_equal(generate(&f, &longer, w, &err), RF_ERR_NO_MEMORY);
    assert_int_equal(w->n_calls, 0);
    assert_non_null(strstr(err.msg, "512x512"));
    fixture_close(&f);
}

static void the_small_plan_gives_the_same_frames_in_less_memory(void **state)
{
    (void)state;
    static uint8_t image[FRAME_BYTES];
    memset(image, 90, sizeof image);
    struct fixture f = fixture_open(&tiny_36);
    struct rf_generate_params p = usual();
    p.start_image = image;
    p.guidance_high = p.guidance_low = 3;
    RF_AUTO(rf_free) struct watcher *usual_plan = clip_of(&f, &p);
    p.small_memory = true;
    RF_AUTO(rf_free) struct watcher *small_plan = clip_of(&f, &p);
    assert_true(same_clip(usual_plan, small_plan));

    p.width = 832; /* of a tiny clip the text encoder takes most, of a short one the VAE: neither can be had for less */
    p.height = 480;
    p.n_frames = 161;
    int64_t small_bytes = rf_model_peak_bytes(f.m, &p);
    p.small_memory = false;
    assert_true(small_bytes < rf_model_peak_bytes(f.m, &p));
    fixture_close(&f);
}

static void files_that_do_not_fit_each_other_are_refused_by_name(void **state)
{
    (void)state;
    struct fixture f = fixture_open(&tiny_36);
    struct rf_model *m = NULL;
    struct rf_err err;
    struct rf_model_files files = tiny_model_files(&tiny_36);
    files.low = tiny_16.low;
    assert_int_equal(rf_model_open(f.e, &files, &m, &err), RF_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "not a pair"));
    files.low = tiny_36.low;
    files.text_encoder = tiny_36.vae;
    assert_int_equal(rf_model_open(f.e, &files, &m, &err), RF_ERR_FORMAT);
    files.text_encoder = "no such file";
    assert_int_equal(rf_model_open(f.e, &files, &m, &err), RF_ERR_IO);
    assert_null(m);
    fixture_close(&f);
}

static int write_models(void **state)
{
    (void)state;
    tiny_model_write(&tiny_16, 16);
    tiny_model_write(&tiny_36, 36);
    return 0;
}

static int remove_models(void **state)
{
    (void)state;
    tiny_model_remove(&tiny_16);
    tiny_model_remove(&tiny_36);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_request_gives_same_frames_and_another_seed_others),
        cmocka_unit_test(stages_come_in_order_with_their_steps_and_previews),
        cmocka_unit_test(a_listener_that_says_stop_is_not_asked_again),
        cmocka_unit_test(an_error_of_the_listener_ends_the_run),
        cmocka_unit_test(start_image_reaches_every_frame_and_colours_move_towards_it),
        cmocka_unit_test(guidance_changes_frames_and_one_needs_no_negative),
        cmocka_unit_test(sixteen_channel_experts_serve_text_and_refuse_an_image),
        cmocka_unit_test(parameters_out_of_range_are_named),
        cmocka_unit_test(one_expert_alone_and_one_frame_alone_work),
        cmocka_unit_test(long_prompts_are_reported_as_truncated),
        cmocka_unit_test(peak_memory_is_told_and_over_budget_nothing_starts),
        cmocka_unit_test(the_small_plan_gives_the_same_frames_in_less_memory),
        cmocka_unit_test(files_that_do_not_fit_each_other_are_refused_by_name),
    };
    return cmocka_run_group_tests_name("pipeline", tests, write_models, remove_models);
}
