/* A whole segment for framefarm-net bench: prompt to frames through the pipeline, as a worker does it, but for coding
 * the video. The weights are warm, the model stays open between runs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/pipeline.h"
#include "worker/model/tokenizer.h"
#include "worker/model/umt5.h"
#include "worker/model/vae.h"
#include "worker/net/bench.h"

#include <string.h>

static const char *const stage_names[RF_STAGE_COUNT] = {"load", "text", "encode_image", "high_noise", "low_noise",
                                                        "decode"};

struct job_bench {
    struct rf_bench_size size;
    struct rf_engine *e;
    struct rf_bench_file high, low, text_encoder, vae;
    struct rf_model *model;
    struct rf_generate_params params;
    char prompt[RF_TEXT_TOKENS];    /* one token per byte, and the closing one: the text encoder's fill */
    double seconds[RF_STAGE_COUNT], entered;
    int stage;                      /* -1: none yet */
    uint8_t *frames;                /* of the last run, as far as they fit */
    size_t frame_bytes, n_kept, capacity;
};

static void job_close(void *self)
{
    struct job_bench *b = self;
    if (b == NULL)
        return;
    rf_model_close(&b->model);
    rf_bench_file_finish(&b->high);
    rf_bench_file_finish(&b->low);
    rf_bench_file_finish(&b->text_encoder);
    rf_bench_file_finish(&b->vae);
    free(b->frames);
    free(b);
}

static enum rf_code map_files(struct job_bench *b, struct rf_err *err)
{
    struct rf_shape_types types = rf_bench_types(&b->size);
    struct rf_dit_shape dit = rf_bench_dit_shape(&b->size);
    struct rf_umt5_shape umt5 = rf_bench_umt5_shape(&b->size);
    struct rf_phantom_list list = {0};
    rf_shape_dit(&list, &dit, types);
    enum rf_code rc = rf_bench_file_map(&list, "random expert, high", &b->high, err);
    rf_shape_dit(&list, &dit, types);
    if (rc == RF_OK)
        rc = rf_bench_file_map(&list, "random expert, low", &b->low, err);
    rf_phantom_list_finish(&list);
    rf_shape_umt5(&list, &umt5, types);
    rf_phantom_add_bytes(&list, "spiece_model", RF_TOKENIZER_BYTES, strlen(RF_TOKENIZER_BYTES));
    if (rc == RF_OK)
        rc = rf_bench_file_map(&list, "random text encoder", &b->text_encoder, err);
    rf_phantom_list_finish(&list);
    rf_shape_vae(&list, rf_bench_vae_base(&b->size), types.rest);
    if (rc == RF_OK)
        rc = rf_bench_file_map(&list, "random VAE", &b->vae, err);
    rf_phantom_list_finish(&list);
    return rc;
}

static enum rf_code job_open(struct rf_engine *e, const struct rf_bench_size *size, void **ret_self, struct rf_err *err)
{
    struct job_bench *b = rf_new(struct job_bench);
    *ret_self = b;
    b->e = e;
    b->size = *size;
    enum rf_code rc = map_files(b, err);
    const struct rf_model_files files = {.high = b->high.name, .low = b->low.name, .vae = b->vae.name,
                                         .text_encoder = b->text_encoder.name};
    if (rc == RF_OK)
        rc = rf_model_open(e, &files, &b->model, err);
    if (rc != RF_OK)
        return rc;
    for (size_t i = 0; i < sizeof b->prompt - 1; i++)
        b->prompt[i] = (char)('a' + i * 7 % 26);
    b->params = (struct rf_generate_params){
        .width = size->width, .height = size->height, .n_frames = size->n_frames, .n_steps = size->n_steps,
        .switch_step = size->n_steps / 2, .shift = 5, .guidance_high = 1, .guidance_low = 1, .prompt = b->prompt,
    };
    b->capacity = (size_t)5 * (size_t)size->width * (size_t)size->height * 3; /* the sample's frames */
    b->frames = rf_new_array(uint8_t, b->capacity);
    return RF_OK;
}

static void job_describe(void *self, struct rf_bench_facts *facts)
{
    const struct job_bench *b = self;
    const struct rf_bench_size *s = &b->size;
    struct rf_dit_shape dit = rf_bench_dit_shape(s);
    struct rf_umt5_shape umt5 = rf_bench_umt5_shape(s);
    int64_t t = s->n_frames / RF_VAE_FRAMES + 1, h = s->height / RF_VAE_SCALE, w = s->width / RF_VAE_SCALE;
    *facts = (struct rf_bench_facts){
        .tokens = t * h * w / 4,
        .flop = s->n_steps * rf_shape_dit_flop(&dit, t * h * w / 4, RF_TEXT_TOKENS) +
                rf_shape_umt5_flop(&umt5, RF_TEXT_TOKENS) +
                rf_shape_vae_decode_flop(rf_bench_vae_base(s), t, h, w),
    };
    struct rf_generate_info info;
    rf_model_last_info(b->model, &info);
    facts->predicted_bytes = info.planned_bytes;
}

/* ---- running ---- */

static void leave_stage(struct job_bench *b)
{
    double now = rf_bench_now();
    if (b->stage >= 0)
        b->seconds[b->stage] += now - b->entered;
    b->entered = now;
}

static bool on_progress(void *self, const struct rf_progress *p)
{
    struct job_bench *b = self;
    leave_stage(b);
    b->stage = (int)p->stage;
    return true;
}

static enum rf_code on_frames(void *self, const uint8_t *rgb, int n_frames, struct rf_err *err)
{
    struct job_bench *b = self;
    (void)err;
    size_t n = (size_t)n_frames * (size_t)b->size.width * (size_t)b->size.height * 3;
    n = n < b->capacity - b->n_kept ? n : b->capacity - b->n_kept;
    memcpy(b->frames + b->n_kept, rgb, n);
    b->n_kept += n;
    return RF_OK;
}

static enum rf_code job_run(void *self, int turn, struct rf_err *err)
{
    struct job_bench *b = self;
    const struct rf_generate_listener listener = {b, on_progress, on_frames};
    struct rf_generate_params params = b->params;
    params.seed = (uint64_t)(turn + 1);
    if (turn < 0 && b->size.limited) { /* the warm-up: one step of each expert, all weights where a run wants them */
        params.n_steps = params.n_steps < 2 ? params.n_steps : 2;
        params.switch_step = params.n_steps / 2;
    } else if (turn < 0) /* a short clip loads and touches everything that a long one does */
        params.n_frames = params.n_frames < 5 ? params.n_frames : 5;
    memset(b->seconds, 0, sizeof b->seconds);
    b->stage = -1;
    b->n_kept = 0;
    enum rf_code rc = rf_model_generate(b->model, &params, &listener, err);
    leave_stage(b);
    return rc;
}

static enum rf_code job_result(void *self, float **ret_values, int64_t *ret_n, struct rf_err *err)
{
    const struct job_bench *b = self;
    *ret_n = (int64_t)b->n_kept;
    *ret_values = malloc(b->n_kept * sizeof(float) + 1);
    if (*ret_values == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "%zu values of the frames", b->n_kept);
    for (size_t i = 0; i < b->n_kept; i++)
        (*ret_values)[i] = (float)b->frames[i] - 127.5f;
    return RF_OK;
}

static int job_stages(void *self, struct rf_bench_stage ret_stages[RF_BENCH_STAGES])
{
    const struct job_bench *b = self;
    int n = 0;
    for (int i = 0; i < RF_STAGE_COUNT; i++)
        if (b->seconds[i] > 0)
            ret_stages[n++] = (struct rf_bench_stage){stage_names[i], b->seconds[i]};
    return n;
}

const struct rf_bench_subject rf_bench_job = {.name = "job", .sample_side = 128, .sample_frames = 5, .open = job_open,
                                              .close = job_close, .describe = job_describe, .run = job_run,
                                              .result = job_result, .stages = job_stages};
