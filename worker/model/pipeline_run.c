/* One run: text, noise, start image, the two experts' steps, decoding. Shapes at every arrow: NOTES.md.
 *
 * The latent x is the first 16 channels of the experts' input, so an Euler step writes it where the next forward pass
 * reads it. Mask and image channels behind it never change. Memory is asked for once before anything is started;
 * after that each part takes and returns its own block.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/pipeline_run.h"

#include <math.h>

#include "schema/plan.h"
#include "worker/model/colour.h"
#include "worker/model/condition.h"
#include "worker/model/noise.h"
#include "worker/model/sampler.h"

#define LATENT RF_VAE_LATENT_CHANNELS
#define MAX_SIDE 16384

struct tokens {
    int32_t ids[RF_TEXT_TOKENS];
    int64_t n;
};

struct run {
    struct rf_model *m;
    struct rf_engine *e;
    const struct rf_generate_params *p;
    const struct rf_generate_listener *listener;
    struct rf_err *err;
    int64_t t, h, w;                       /* of the latent */
    bool guided;                           /* some step needs the second pass */
    struct rf_memory_plan plan;
    struct tokens prompt, negative;
    float sigmas[RF_MAX_STEPS + 1];
    struct rf_arena *arena;                /* what lives through the whole run: */
    struct rf_tensor input;                /* [in channels, T, h, w]; the first 16 are x */
    struct rf_tensor x, velocity, velocity_negative; /* [16, T, h, w] */
    struct rf_tensor text, text_negative;  /* [512, text width] */
    struct rf_tensor z;                    /* [T, h, w, 16]: image latents on their way in, x on its way out */
    float *host;                           /* four frames [4, H, W, 3], or the noise; see host_floats() */
    uint8_t *rgb;                          /* [4, H, W, 3] */
};

/* ---- telling the listener ---- */

static enum rf_code tell(struct run *r, const struct rf_progress *progress)
{
    if (r->listener->progress && !r->listener->progress(r->listener->self, progress))
        return rf_fail(r->err, RF_ERR_CANCELLED, "stopped");
    return RF_OK;
}

static enum rf_code begin_stage(struct run *r, enum rf_stage stage, int total)
{
    return tell(r, &(struct rf_progress){.stage = stage, .total = total});
}

/* ---- parameters and memory ---- */

static int64_t latent_frames(int n_frames)
{
    return (n_frames - 1) / RF_VAE_FRAMES + 1;
}

static bool is_guided(float guidance)
{
    return fabsf(guidance - 1) > 1e-6f;
}

static bool any_guided(const struct rf_generate_params *p)
{
    return (p->switch_step > 0 && is_guided(p->guidance_high)) ||
           (p->switch_step < p->n_steps && is_guided(p->guidance_low));
}

static enum rf_code check_params(const struct rf_model *m, const struct rf_generate_params *p, struct rf_err *err)
{
    if (p->width < 16 || p->height < 16 || p->width > MAX_SIDE || p->height > MAX_SIDE || p->width % 16 ||
        p->height % 16)
        return rf_fail(err, RF_ERR_INVALID, "size: %dx%d; both sides must be multiples of 16, 16 to %d", p->width,
                       p->height, MAX_SIDE);
    if (p->n_frames < 1 || p->n_frames > RF_MAX_FRAMES || p->n_frames % RF_VAE_FRAMES != 1)
        return rf_fail(err, RF_ERR_INVALID, "num_frames: %d; must be 4k + 1, at most %d", p->n_frames, RF_MAX_FRAMES);
    if (p->n_steps < 1 || p->n_steps > RF_MAX_STEPS)
        return rf_fail(err, RF_ERR_INVALID, "num_inference_steps: %d; must be 1 to %d", p->n_steps, RF_MAX_STEPS);
    if (p->switch_step < 0 || p->switch_step > p->n_steps)
        return rf_fail(err, RF_ERR_INVALID, "switch_step: %d; must be 0 to %d", p->switch_step, p->n_steps);
    if (!isfinite(p->guidance_high) || !isfinite(p->guidance_low))
        return rf_fail(err, RF_ERR_INVALID, "guidance_scale: must be a number");
    if (!p->prompt)
        return rf_fail(err, RF_ERR_INVALID, "prompt: missing");
    if (p->start_image && !rf_model_takes_image(m))
        return rf_fail(err, RF_ERR_INVALID, "input_reference: this model cannot start from an image (its experts take "
                                            "16 channels, not 36)");
    return RF_OK;
}

static int64_t host_floats(const struct rf_generate_params *p)
{
    int64_t frames = (int64_t)RF_VAE_FRAMES * p->width * p->height * 3;
    int64_t noise = LATENT * latent_frames(p->n_frames) * (p->height / 8) * (p->width / 8);
    return frames > noise ? frames : noise;
}

int64_t rf_run_host_bytes(const struct rf_generate_params *p)
{
    return host_floats(p) * (int64_t)sizeof(float) + (int64_t)RF_VAE_FRAMES * p->width * p->height * 3;
}

void rf_run_facts(const struct rf_model *m, const struct rf_generate_params *p, struct rf_memory_facts *f,
                  struct rf_memory_request *r)
{
    int h = p->height / RF_VAE_SCALE, w = p->width / RF_VAE_SCALE;
    *r = (struct rf_memory_request){.n_frames = p->n_frames, .width = p->width, .height = p->height,
                                    .guided = any_guided(p), .start_image = p->start_image != NULL,
                                    .small = p->small_memory};
    *f = (struct rf_memory_facts){
        .act = rf_engine_act_dtype(m->engine),
        .dit = *rf_dit_config(m->dit[RF_EXPERT_HIGH]),
        .pinned = rf_engine_is_host(m->engine),
        .text_globals = rf_umt5_globals_bytes(m->umt5),
        .text_layer = rf_umt5_layer_bytes(m->umt5),
        .n_text_layers = rf_umt5_n_layers(m->umt5),
        .text_scratch = rf_umt5_scratch_bytes(m->umt5, RF_TEXT_TOKENS),
        .vae_weights = m->vae_bytes,
        .encode_image = {rf_condition_bytes(m->vae, h, w, RF_VAE_FRAMES),
                         rf_condition_bytes(m->vae, h, w, RF_VAE_SLICED)},
        .decode = {rf_vae_decoder_bytes(m->vae, h, w, 1), rf_vae_decoder_bytes(m->vae, h, w, RF_VAE_SLICED)},
        .fixed = rf_engine_fixed_bytes(m->engine),
    };
    for (int i = 0; i < RF_EXPERT_COUNT; i++) {
        f->expert_globals[i] = rf_dit_globals_bytes(m->dit[i]);
        f->expert_block[i] = rf_dit_block_bytes(m->dit[i]);
    }
    if (f->pinned) /* what little the mapped files do not hold was taken when they were opened */
        f->vae_weights = rf_engine_held_bytes(m->engine) - f->fixed;
}

static struct rf_dit_layout dit_layout(const struct run *r)
{
    return (struct rf_dit_layout){r->plan.ffn_rows, r->plan.query_rows, r->plan.keep_text};
}

static int decoder_push(const struct run *r)
{
    return r->plan.slice_vae ? RF_VAE_SLICED : 1;
}

static int encoder_push(const struct run *r)
{
    return r->plan.slice_vae ? RF_VAE_SLICED : RF_VAE_FRAMES;
}

/* Moves weights to where the plan wants them; first all that makes room, then all that takes it. */
static enum rf_code place_weights(struct run *r)
{
    struct rf_model *m = r->m;
    const struct rf_memory_plan *plan = &r->plan;
    if (rf_engine_is_host(r->e) ||
        (m->placed && m->keeps_text_encoder == plan->keep_text_encoder &&
         m->n_streamed[0] == plan->n_streamed[0] && m->n_streamed[1] == plan->n_streamed[1]))
        return RF_OK;
    m->placed = false;
    enum rf_code rc = begin_stage(r, RF_STAGE_LOAD, 0);
    for (int i = 0; i < RF_EXPERT_COUNT && rc == RF_OK; i++)
        rf_dit_vacate(m->dit[i], plan->n_streamed[i]);
    if (rc == RF_OK)
        rc = rf_umt5_place(m->umt5, plan->keep_text_encoder, r->err);
    for (int i = 0; i < RF_EXPERT_COUNT && rc == RF_OK; i++) {
        rc = rf_dit_place(m->dit[i], plan->n_streamed[i], r->err);
        m->n_streamed[i] = plan->n_streamed[i];
    }
    m->keeps_text_encoder = plan->keep_text_encoder;
    m->placed = rc == RF_OK;
    return rc;
}

/* Makes the plan, moves the weights, and asks for all the engine memory of the run at once and gives it back: what does
 * not fit is refused before it starts. */
static enum rf_code check_memory(struct run *r)
{
    enum rf_code rc = rf_model_plan(r->m, r->p, &r->plan, r->err);
    if (rc != RF_OK)
        return rc;
    r->m->info.planned_bytes = r->plan.peak;
    rc = place_weights(r);
    if (rc != RF_OK)
        return rc;
    int64_t bytes = r->plan.peak - r->plan.fixed - r->plan.weights;
    struct rf_arena *trial = NULL;
    rc = rf_arena_create(r->e, bytes, &trial, r->err);
    rf_arena_destroy(&trial);
    if (rc != RF_OK)
        return rf_wrap(r->err, rc, "%dx%d, %d frames need %lld MiB beside the weights", r->p->width, r->p->height,
                       r->p->n_frames, (long long)(bytes >> 20));
    r->host = malloc((size_t)host_floats(r->p) * sizeof(float));
    r->rgb = malloc((size_t)RF_VAE_FRAMES * (size_t)r->p->width * (size_t)r->p->height * 3);
    if (!r->host || !r->rgb)
        return rf_fail(r->err, RF_ERR_NO_MEMORY, "no memory for frames of %dx%d", r->p->width, r->p->height);
    return RF_OK;
}

static enum rf_code make_base(struct run *r)
{
    const struct rf_dit_config *c = rf_dit_config(r->m->dit[RF_EXPERT_HIGH]);
    enum rf_code rc = rf_arena_create(r->e, r->plan.base, &r->arena, r->err);
    if (rc != RF_OK)
        return rc;
    r->input = rf_arena_tensor(r->arena, RF_F32, RF_SHAPE(c->in_channels, r->t, r->h, r->w));
    r->x = rf_tensor_slice(&r->input, 0, LATENT);
    r->velocity = rf_arena_tensor(r->arena, RF_F32, RF_SHAPE(LATENT, r->t, r->h, r->w));
    r->text = rf_arena_tensor(r->arena, RF_F32, RF_SHAPE(RF_TEXT_TOKENS, c->text_dim));
    if (r->guided) {
        r->velocity_negative = rf_arena_tensor(r->arena, RF_F32, RF_SHAPE(LATENT, r->t, r->h, r->w));
        r->text_negative = rf_arena_tensor(r->arena, RF_F32, RF_SHAPE(RF_TEXT_TOKENS, c->text_dim));
    }
    /* Before the first step and after the last nobody needs the velocity: z lies in its memory. */
    r->z = rf_tensor_reshape(&r->velocity, RF_SHAPE(r->t, r->h, r->w, LATENT));
    return RF_OK;
}

/* ---- text, noise, start image ---- */

static enum rf_code tokenize(struct run *r, const char *name, const char *text, struct tokens *tokens,
                             bool *ret_truncated)
{
    enum rf_code rc = rf_tokenizer_encode(r->m->tokenizer, text, RF_TEXT_TOKENS, tokens->ids, &tokens->n, ret_truncated,
                                          r->err);
    return rc == RF_OK ? rc : rf_wrap(r->err, rc, "%s", name);
}

static enum rf_code encode_text(struct run *r)
{
    enum rf_code rc = begin_stage(r, RF_STAGE_TEXT, r->guided ? 2 : 1);
    if (rc == RF_OK)
        rc = rf_umt5_encode(r->m->umt5, r->prompt.ids, r->prompt.n, &r->text, r->err);
    if (rc == RF_OK && r->guided)
        rc = rf_umt5_encode(r->m->umt5, r->negative.ids, r->negative.n, &r->text_negative, r->err);
    return rc;
}

static enum rf_code make_noise(struct run *r)
{
    enum rf_code rc = rf_noise_normal(r->p->seed, r->host, rf_tensor_elements(&r->x), r->err);
    if (rc == RF_OK)
        rf_upload(r->e, &r->x, r->host);
    return rc;
}

static enum rf_code tell_encoded(void *self, int done)
{
    struct run *r = self;
    return tell(r, &(struct rf_progress){.stage = RF_STAGE_ENCODE_IMAGE, .done = done, .total = (int)r->t});
}

/* The channels behind the noise, if the experts have any. Without an image they are all zero, mask included. */
static enum rf_code condition(struct run *r)
{
    int64_t extra = r->input.shape[0] - LATENT;
    if (extra == 0)
        return RF_OK;
    struct rf_tensor channels = rf_tensor_slice(&r->input, LATENT, extra);
    if (!r->p->start_image) {
        rf_fill(r->e, &channels, 0);
        return RF_OK;
    }
    enum rf_code rc = begin_stage(r, RF_STAGE_ENCODE_IMAGE, (int)r->t);
    if (rc != RF_OK)
        return rc;
    return rf_condition_image(r->e, r->m->vae, encoder_push(r), r->p->start_image, &channels, &r->z, tell_encoded, r,
                              r->err);
}

/* ---- sampling ---- */

struct sampling {
    struct rf_arena *arena;
    struct rf_dit_scratch scratch;
    struct rf_dit_stream stream;
    struct rf_dit_context text, text_negative;
};

/* The estimated clean latent's middle frame, as a small picture. */
static enum rf_code tell_step(struct run *r, enum rf_stage stage, int done, int total, float sigma_next)
{
    struct rf_progress progress = {.stage = stage, .done = done, .total = total};
    if (!r->listener->progress)
        return RF_OK;
    int64_t pixels = r->h * r->w;
    float *clean = r->host, *v = r->host + LATENT * pixels; /* both fit: 4 frames of 64 pixels per latent are more */
    for (int c = 0; c < LATENT; c++) {
        const struct rf_tensor *source[] = {&r->x, &r->velocity};
        for (int s = 0; s < 2; s++) {
            struct rf_tensor frame = rf_tensor_slice(source[s], c, 1);
            frame = rf_tensor_reshape(&frame, RF_SHAPE(r->t, r->h, r->w));
            frame = rf_tensor_slice(&frame, r->t / 2, 1);
            enum rf_code rc = rf_download(r->e, &frame, (s == 0 ? clean : v) + c * pixels, r->err);
            if (rc != RF_OK)
                return rc;
        }
    }
    for (int64_t i = 0; i < LATENT * pixels; i++)
        clean[i] -= sigma_next * v[i];
    rf_preview_draw(&r->m->preview, clean, pixels, r->rgb);
    progress.preview = r->rgb;
    progress.preview_w = (int)r->w;
    progress.preview_h = (int)r->h;
    return tell(r, &progress);
}

/* One pass, told which expert's blocks to bring in at its end. */
static void forward(struct run *r, struct sampling *s, enum rf_expert which, bool last,
                    const struct rf_dit_context *text, int step, const struct rf_tensor *velocity)
{
    struct rf_model *m = r->m;
    bool switches = which == RF_EXPERT_HIGH && r->p->switch_step < r->p->n_steps;
    s->stream.next = !last ? m->dit[which] : switches ? m->dit[RF_EXPERT_LOW] : NULL;
    rf_dit_forward(m->dit[which], &s->scratch, text, &r->input, 1000.0 * (double)r->sigmas[step], velocity);
}

static enum rf_code run_expert(struct run *r, struct sampling *s, enum rf_expert which, int first, int last_step)
{
    if (first == last_step)
        return RF_OK;
    enum rf_stage stage = which == RF_EXPERT_HIGH ? RF_STAGE_HIGH_NOISE : RF_STAGE_LOW_NOISE;
    float guidance = which == RF_EXPERT_HIGH ? r->p->guidance_high : r->p->guidance_low;
    struct rf_dit *dit = r->m->dit[which];
    enum rf_code rc = begin_stage(r, stage, last_step - first);
    int64_t mark = rf_arena_mark(s->arena);
    s->text = rf_dit_context_make(dit, s->arena, &r->text, dit_layout(r));
    if (is_guided(guidance))
        s->text_negative = rf_dit_context_make(dit, s->arena, &r->text_negative, dit_layout(r));
    for (int i = first; i < last_step && rc == RF_OK; i++) {
        bool last = i == last_step - 1;
        forward(r, s, which, last && !is_guided(guidance), &s->text, i, &r->velocity);
        if (is_guided(guidance)) {
            forward(r, s, which, last, &s->text_negative, i, &r->velocity_negative);
            rf_sampler_guide(r->e, &r->velocity, &r->velocity_negative, guidance);
        }
        rf_sampler_step(r->e, &r->x, &r->velocity, r->sigmas[i], r->sigmas[i + 1]);
        rc = rf_engine_sync(r->e, r->err);
        if (rc == RF_OK)
            rc = tell_step(r, stage, i + 1 - first, last_step - first, r->sigmas[i + 1]);
    }
    rf_arena_rewind(s->arena, mark);
    return rc;
}

static enum rf_code sample(struct run *r)
{
    struct sampling s = {0};
    enum rf_code rc = rf_arena_create(r->e, r->plan.sample, &s.arena, r->err);
    if (rc != RF_OK)
        return rc;
    int64_t block = r->plan.slot;
    for (int i = 0; i < RF_COPY_SLOTS && block > 0; i++)
        s.stream.slot[i] = rf_arena_tensor(s.arena, RF_U8, 1, &block);
    rc = rf_dit_scratch_make(r->m->dit[RF_EXPERT_HIGH], s.arena, r->t, r->h, r->w, dit_layout(r), &s.scratch,
                             r->err);
    s.scratch.stream = &s.stream;
    if (rc == RF_OK)
        rc = run_expert(r, &s, RF_EXPERT_HIGH, 0, r->p->switch_step);
    if (rc == RF_OK)
        rc = run_expert(r, &s, RF_EXPERT_LOW, r->p->switch_step, r->p->n_steps);
    rf_arena_destroy(&s.arena);
    return rc;
}

/* ---- decoding ---- */

/* The n frames in r->host. */
static enum rf_code deliver(struct run *r, int n, float shift[3], int *n_done)
{
    enum rf_code rc = RF_OK;
    int64_t pixels = (int64_t)r->p->width * r->p->height;
    if (*n_done == 0 && r->p->start_image && r->p->match_start_colour)
        rf_colour_measure(r->host, r->p->start_image, pixels, shift);
    rf_colour_to_bytes(r->rgb, r->host, n * pixels, shift);
    if (r->listener->frames)
        rc = r->listener->frames(r->listener->self, r->rgb, n, r->err);
    *n_done += n;
    if (rc != RF_OK)
        return rc;
    return tell(r, &(struct rf_progress){.stage = RF_STAGE_DECODE, .done = *n_done, .total = r->p->n_frames});
}

static enum rf_code decode(struct run *r)
{
    enum rf_code rc = begin_stage(r, RF_STAGE_DECODE, r->p->n_frames);
    RF_AUTO(rf_vae_stream_destroy) struct rf_vae_stream *decoder = NULL;
    if (rc == RF_OK)
        rc = rf_vae_decoder_create(r->m->vae, (int)r->h, (int)r->w, decoder_push(r), &decoder, r->err);
    if (rc != RF_OK)
        return rc;
    rf_to_channels_last(r->e, &r->z, &r->x, rf_vae_latent_deviation, rf_vae_latent_mean);
    float shift[3] = {0, 0, 0};
    int n_done = 0;
    struct rf_tensor latent = rf_tensor_slice(&r->z, 0, 1), frames = rf_vae_decoder_push(decoder, &latent);
    for (int64_t t = 1; t <= r->t && rc == RF_OK; t++) {
        int n = (int)frames.shape[0];
        rc = rf_download(r->e, &frames, r->host, r->err);
        if (rc == RF_OK && t < r->t) { /* a device decodes these while the host deals with those before them */
            latent = rf_tensor_slice(&r->z, t, 1);
            frames = rf_vae_decoder_push(decoder, &latent);
        }
        if (rc == RF_OK)
            rc = deliver(r, n, shift, &n_done);
    }
    for (int c = 0; c < 3; c++)
        r->m->info.colour_shift[c] = shift[c] * 127.5f;
    return rc;
}

/* ---- the run ---- */

static void run_finish(struct run *r)
{
    rf_arena_destroy(&r->arena);
    free(r->host);
    free(r->rgb);
}

enum rf_code rf_model_generate(struct rf_model *m, const struct rf_generate_params *params,
                               const struct rf_generate_listener *listener, struct rf_err *err)
{
    static const struct rf_generate_listener nobody;
    enum rf_code rc = check_params(m, params, err);
    if (rc != RF_OK)
        return rc;
    RF_AUTO(run_finish) struct run r = {
        .m = m, .e = m->engine, .p = params, .listener = listener ? listener : &nobody, .err = err,
        .t = latent_frames(params->n_frames), .h = params->height / RF_VAE_SCALE, .w = params->width / RF_VAE_SCALE,
        .guided = any_guided(params),
    };
    m->info = (struct rf_generate_info){0};
    rf_engine_reset_peak(m->engine);
    rc = rf_sampler_sigmas(params->n_steps, params->shift, r.sigmas, err);
    if (rc == RF_OK)
        rc = tokenize(&r, "prompt", params->prompt, &r.prompt, &m->info.prompt_truncated);
    if (rc == RF_OK && r.guided)
        rc = tokenize(&r, "negative_prompt", params->negative_prompt ? params->negative_prompt : "", &r.negative, NULL);
    m->info.n_prompt_tokens = (int)r.prompt.n;
    if (rc == RF_OK)
        rc = check_memory(&r);
    if (rc == RF_OK)
        rc = make_base(&r);
    if (rc == RF_OK)
        rc = encode_text(&r);
    if (rc == RF_OK)
        rc = condition(&r);
    if (rc == RF_OK)
        rc = make_noise(&r);
    if (rc == RF_OK)
        rc = sample(&r);
    if (rc == RF_OK)
        rc = decode(&r);
    m->info.peak_bytes = rf_engine_peak_bytes(m->engine);
    return rc;
}
