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

static enum rf_dit_plan dit_plan(const struct rf_generate_params *p)
{
    return p->small_memory ? RF_DIT_SMALL : RF_DIT_FAST;
}

static int decoder_push(const struct rf_generate_params *p)
{
    return p->small_memory ? RF_VAE_SLICED : 1;
}

static int encoder_push(const struct rf_generate_params *p)
{
    return p->small_memory ? RF_VAE_SLICED : RF_VAE_FRAMES;
}

struct rf_run_memory rf_run_memory(const struct rf_model *m, const struct rf_generate_params *p)
{
    const struct rf_dit *d = m->dit[RF_EXPERT_HIGH];
    const struct rf_dit_config *c = rf_dit_config(d);
    int64_t t = latent_frames(p->n_frames), h = p->height / RF_VAE_SCALE, w = p->width / RF_VAE_SCALE;
    enum rf_dit_plan plan = dit_plan(p);
    int n_texts = any_guided(p) ? 2 : 1;
    const int64_t input[] = {c->in_channels, t, h, w}, latent[] = {LATENT, t, h, w};
    const int64_t text[] = {RF_TEXT_TOKENS, c->text_dim};
    struct rf_run_memory memory = {
        .host = host_floats(p) * (int64_t)sizeof(float) + (int64_t)RF_VAE_FRAMES * p->width * p->height * 3,
        .base = rf_arena_cost(RF_F32, 4, input) + rf_arena_cost(RF_F32, 4, latent) * n_texts +
                rf_arena_cost(RF_F32, 2, text) * n_texts,
        .text = rf_umt5_scratch_bytes(m->umt5, RF_TEXT_TOKENS),
        .sample = rf_dit_scratch_bytes(d, t, h, w, plan) + rf_dit_context_peak_bytes(d, RF_TEXT_TOKENS, plan) +
                  rf_dit_context_bytes(d, RF_TEXT_TOKENS, plan) * (n_texts - 1),
        .decode = rf_vae_decoder_bytes(m->vae, (int)h, (int)w, decoder_push(p)),
    };
    if (p->start_image)
        memory.encode_image = rf_condition_bytes(m->vae, (int)h, (int)w, encoder_push(p));
    return memory;
}

int64_t rf_run_memory_peak(const struct rf_run_memory *memory)
{
    int64_t part = memory->text;
    part = memory->encode_image > part ? memory->encode_image : part;
    part = memory->sample > part ? memory->sample : part;
    part = memory->decode > part ? memory->decode : part;
    return memory->base + part;
}

/* Asks for all the engine memory of the run at once and gives it back: what does not fit is refused before it starts.
 * */
static enum rf_code check_memory(struct run *r)
{
    struct rf_run_memory memory = rf_run_memory(r->m, r->p);
    int64_t bytes = rf_run_memory_peak(&memory);
    struct rf_arena *trial = NULL;
    enum rf_code rc = rf_arena_create(r->e, bytes, &trial, r->err);
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
    struct rf_run_memory memory = rf_run_memory(r->m, r->p);
    const struct rf_dit_config *c = rf_dit_config(r->m->dit[RF_EXPERT_HIGH]);
    enum rf_code rc = rf_arena_create(r->e, memory.base, &r->arena, r->err);
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
    return rf_condition_image(r->e, r->m->vae, encoder_push(r->p), r->p->start_image, &channels, &r->z, tell_encoded, r,
                              r->err);
}

/* ---- sampling ---- */

struct sampling {
    struct rf_arena *arena;
    struct rf_dit_scratch scratch;
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

static enum rf_code run_expert(struct run *r, struct sampling *s, enum rf_expert which, int first, int last)
{
    if (first == last)
        return RF_OK;
    enum rf_stage stage = which == RF_EXPERT_HIGH ? RF_STAGE_HIGH_NOISE : RF_STAGE_LOW_NOISE;
    float guidance = which == RF_EXPERT_HIGH ? r->p->guidance_high : r->p->guidance_low;
    struct rf_dit *dit = r->m->dit[which];
    enum rf_code rc = begin_stage(r, stage, last - first);
    int64_t mark = rf_arena_mark(s->arena);
    s->text = rf_dit_context_make(dit, s->arena, &r->text, dit_plan(r->p));
    if (is_guided(guidance))
        s->text_negative = rf_dit_context_make(dit, s->arena, &r->text_negative, dit_plan(r->p));
    for (int i = first; i < last && rc == RF_OK; i++) {
        double timestep = 1000.0 * (double)r->sigmas[i];
        rf_dit_forward(dit, &s->scratch, &s->text, &r->input, timestep, &r->velocity);
        if (is_guided(guidance)) {
            rf_dit_forward(dit, &s->scratch, &s->text_negative, &r->input, timestep, &r->velocity_negative);
            rf_sampler_guide(r->e, &r->velocity, &r->velocity_negative, guidance);
        }
        rf_sampler_step(r->e, &r->x, &r->velocity, r->sigmas[i], r->sigmas[i + 1]);
        rc = rf_engine_sync(r->e, r->err);
        if (rc == RF_OK)
            rc = tell_step(r, stage, i + 1 - first, last - first, r->sigmas[i + 1]);
    }
    rf_arena_rewind(s->arena, mark);
    return rc;
}

static enum rf_code sample(struct run *r)
{
    struct rf_run_memory memory = rf_run_memory(r->m, r->p);
    struct sampling s = {0};
    enum rf_code rc = rf_arena_create(r->e, memory.sample, &s.arena, r->err);
    if (rc != RF_OK)
        return rc;
    rc = rf_dit_scratch_make(r->m->dit[RF_EXPERT_HIGH], s.arena, r->t, r->h, r->w, dit_plan(r->p), &s.scratch,
                             r->err);
    if (rc == RF_OK)
        rc = run_expert(r, &s, RF_EXPERT_HIGH, 0, r->p->switch_step);
    if (rc == RF_OK)
        rc = run_expert(r, &s, RF_EXPERT_LOW, r->p->switch_step, r->p->n_steps);
    rf_arena_destroy(&s.arena);
    return rc;
}

/* ---- decoding ---- */

static enum rf_code deliver(struct run *r, const struct rf_tensor *frames, float shift[3], int *n_done)
{
    enum rf_code rc = rf_download(r->e, frames, r->host, r->err);
    if (rc != RF_OK)
        return rc;
    int64_t pixels = (int64_t)r->p->width * r->p->height;
    int n = (int)frames->shape[0];
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
        rc = rf_vae_decoder_create(r->m->vae, (int)r->h, (int)r->w, decoder_push(r->p), &decoder, r->err);
    if (rc != RF_OK)
        return rc;
    rf_to_channels_last(r->e, &r->z, &r->x, rf_vae_latent_deviation, rf_vae_latent_mean);
    float shift[3] = {0, 0, 0};
    int n_done = 0;
    for (int64_t t = 0; t < r->t && rc == RF_OK; t++) {
        struct rf_tensor latent = rf_tensor_slice(&r->z, t, 1);
        struct rf_tensor frames = rf_vae_decoder_push(decoder, &latent);
        rc = deliver(r, &frames, shift, &n_done);
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
    return rc == RF_OK ? decode(&r) : rc;
}
