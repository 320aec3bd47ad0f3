/* The single networks of framefarm-net bench: transformer, VAE both ways, text encoder.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/memory_plan.h"
#include "worker/model/noise.h"
#include "worker/model/umt5.h"
#include "worker/model/vae.h"
#include "worker/net/bench.h"

#include <string.h>

/* Normal values times `factor` in `t` (F32). */
static enum rf_code fill_normal(struct rf_engine *e, const struct rf_tensor *t, uint64_t seed, float factor,
                                struct rf_err *err)
{
    int64_t n = rf_tensor_elements(t), padded = n < 16 ? 16 : n; /* the generator starts at 16 */
    RF_AUTO(rf_free) float *values = malloc((size_t)padded * sizeof *values);
    if (values == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "%lld random values", (long long)n);
    enum rf_code rc = rf_noise_normal(seed, values, padded, err);
    for (int64_t i = 0; i < n && factor != 1; i++)
        values[i] *= factor;
    if (rc == RF_OK)
        rf_upload(e, t, values);
    return rc == RF_OK ? rf_engine_sync(e, err) : rc;
}

static enum rf_code read_out(struct rf_engine *e, const struct rf_tensor *t, float **ret_values, int64_t *ret_n,
                             struct rf_err *err)
{
    *ret_n = rf_tensor_elements(t);
    *ret_values = malloc(rf_tensor_bytes(t));
    if (*ret_values == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "%lld results", (long long)*ret_n);
    return rf_download(e, t, *ret_values, err);
}

/* ---- transformer ---- */

struct dit_bench {
    struct rf_engine *e;
    struct rf_dit_shape shape;
    struct rf_bench_file file;
    struct rf_weights *weights;
    struct rf_dit *dit;
    struct rf_arena *arena;
    struct rf_memory_plan plan;
    struct rf_dit_stream stream;
    struct rf_dit_context context;
    struct rf_dit_scratch scratch;
    struct rf_tensor latent, velocity;
    int64_t tokens;
};

static void dit_close(void *self)
{
    struct dit_bench *b = self;
    if (b == NULL)
        return;
    rf_arena_destroy(&b->arena);
    rf_dit_close(&b->dit);
    rf_weights_close(&b->weights);
    rf_bench_file_finish(&b->file);
    free(b);
}

/* The plan of a run in which nothing but one expert takes part; its weights go where it says. */
static enum rf_code dit_place(struct dit_bench *b, const struct rf_bench_size *size, struct rf_err *err)
{
    const struct rf_memory_facts facts = {
        .act = rf_engine_act_dtype(b->e), .dit = *rf_dit_config(b->dit),
        .expert_globals = {rf_dit_globals_bytes(b->dit)}, .expert_block = {rf_dit_block_bytes(b->dit)},
        .pinned = rf_engine_is_host(b->e), .fixed = rf_engine_fixed_bytes(b->e),
    };
    const struct rf_memory_request request = {.n_frames = size->n_frames, .width = size->width, .height = size->height};
    enum rf_code rc = rf_memory_plan_make(&facts, &request, rf_engine_limit_bytes(b->e), &b->plan, err);
    return rc == RF_OK ? rf_dit_place(b->dit, b->plan.n_streamed[0], err) : rc;
}

static enum rf_code dit_memory(struct dit_bench *b, int64_t t, int64_t h, int64_t w, struct rf_err *err)
{
    const struct rf_dit_layout layout = {b->plan.ffn_rows, b->plan.query_rows, b->plan.keep_text};
    enum rf_code rc = rf_arena_create(b->e, b->plan.base + b->plan.sample, &b->arena, err);
    if (rc != RF_OK)
        return rc;
    b->latent = rf_arena_tensor(b->arena, RF_F32, RF_SHAPE(b->shape.in_channels, t, h, w));
    b->velocity = rf_arena_tensor(b->arena, RF_F32, RF_SHAPE(RF_VAE_LATENT_CHANNELS, t, h, w));
    struct rf_tensor text = rf_arena_tensor(b->arena, RF_F32, RF_SHAPE(RF_TEXT_TOKENS, b->shape.text_dim));
    for (int i = 0; i < RF_COPY_SLOTS && b->plan.slot > 0; i++)
        b->stream.slot[i] = rf_arena_tensor(b->arena, RF_U8, 1, &b->plan.slot);
    b->stream.next = b->dit; /* the next run's first blocks come in during this one's last, as between two steps */
    rc = fill_normal(b->e, &b->latent, 1, 1, err);
    if (rc == RF_OK)
        rc = fill_normal(b->e, &text, 2, 0.1f, err);
    if (rc == RF_OK)
        rc = rf_dit_scratch_make(b->dit, b->arena, t, h, w, layout, &b->scratch, err);
    if (rc != RF_OK)
        return rc;
    b->scratch.stream = b->plan.slot > 0 ? &b->stream : NULL;
    b->context = rf_dit_context_make(b->dit, b->arena, &text, layout);
    return rf_engine_sync(b->e, err);
}

static enum rf_code dit_open(struct rf_engine *e, const struct rf_bench_size *size, void **ret_self, struct rf_err *err)
{
    struct dit_bench *b = rf_new(struct dit_bench);
    *ret_self = b;
    b->e = e;
    b->shape = rf_bench_dit_shape(size);
    int64_t t = size->n_frames / RF_VAE_FRAMES + 1, h = size->height / RF_VAE_SCALE, w = size->width / RF_VAE_SCALE;
    b->tokens = t * (h / 2) * (w / 2);
    struct rf_phantom_list list = {0};
    rf_shape_dit(&list, &b->shape, rf_bench_types(size));
    enum rf_code rc = rf_bench_file_map(&list, "random expert", &b->file, err);
    if (rc == RF_OK)
        rc = rf_weights_open(e, b->file.name, &b->weights, err);
    if (rc == RF_OK)
        rc = rf_dit_open_unplaced(e, b->weights, &b->dit, err);
    if (rc == RF_OK)
        rc = dit_place(b, size, err);
    return rc == RF_OK ? dit_memory(b, t, h, w, err) : rc;
}

static void dit_describe(void *self, struct rf_bench_facts *facts)
{
    const struct dit_bench *b = self;
    *facts = (struct rf_bench_facts){b->tokens, rf_shape_dit_flop(&b->shape, b->tokens, RF_TEXT_TOKENS),
                                     b->plan.peak};
}

/* Another timestep every time: the rows that depend on it are kept for a second pass at the same one. */
static enum rf_code dit_run(void *self, int turn, struct rf_err *err)
{
    struct dit_bench *b = self;
    rf_dit_forward(b->dit, &b->scratch, &b->context, &b->latent, 937.5 - turn, &b->velocity);
    return rf_engine_sync(b->e, err);
}

static enum rf_code dit_result(void *self, float **ret_values, int64_t *ret_n, struct rf_err *err)
{
    struct dit_bench *b = self;
    return read_out(b->e, &b->velocity, ret_values, ret_n, err);
}

/* 1280 tokens in the sample: shorter attention is exact always. */
const struct rf_bench_subject rf_bench_dit = {.name = "dit", .sample_side = 256, .sample_frames = 17, .open = dit_open,
                                              .close = dit_close, .describe = dit_describe, .run = dit_run,
                                              .result = dit_result};

/* ---- VAE ---- */

struct vae_bench {
    struct rf_engine *e;
    bool encode;
    int64_t t, h, w, base; /* of the latent */
    struct rf_bench_file file;
    struct rf_vae *vae;
    struct rf_vae_stream *stream;
    struct rf_arena *arena;
    struct rf_tensor in, out; /* whole clips, channels last; decoded frames leave the device in the product, so only
                                 the last ones are kept */
};

static void vae_close(void *self)
{
    struct vae_bench *b = self;
    if (b == NULL)
        return;
    rf_vae_stream_destroy(&b->stream);
    rf_arena_destroy(&b->arena);
    rf_vae_close(&b->vae);
    rf_bench_file_finish(&b->file);
    free(b);
}

static enum rf_code vae_stream(struct vae_bench *b, struct rf_err *err)
{
    rf_vae_stream_destroy(&b->stream);
    return b->encode ? rf_vae_encoder_create(b->vae, (int)b->h, (int)b->w, RF_VAE_SLICED, &b->stream, err)
                     : rf_vae_decoder_create(b->vae, (int)b->h, (int)b->w, RF_VAE_SLICED, &b->stream, err);
}

static int64_t vae_stream_bytes(const struct vae_bench *b)
{
    return b->encode ? rf_vae_encoder_bytes(b->vae, (int)b->h, (int)b->w, RF_VAE_SLICED)
                     : rf_vae_decoder_bytes(b->vae, (int)b->h, (int)b->w, RF_VAE_SLICED);
}

static enum rf_code vae_open(struct rf_engine *e, const struct rf_bench_size *size, bool encode, void **ret_self,
                             struct rf_err *err)
{
    struct vae_bench *b = rf_new(struct vae_bench);
    *ret_self = b;
    b->e = e;
    b->encode = encode;
    b->t = size->n_frames / RF_VAE_FRAMES + 1;
    b->h = size->height / RF_VAE_SCALE;
    b->w = size->width / RF_VAE_SCALE;
    b->base = rf_bench_vae_base(size);
    struct rf_phantom_list list = {0};
    rf_shape_vae(&list, b->base, strcmp(size->precision, "f32") == 0 ? RF_F32 : RF_BF16);
    enum rf_code rc = rf_bench_file_map(&list, "random VAE", &b->file, err);
    if (rc == RF_OK)
        rc = rf_vae_open(e, b->file.name, &b->vae, err);
    const int64_t latent[] = {b->t, b->h, b->w, RF_VAE_LATENT_CHANNELS};
    const int64_t push[] = {RF_VAE_FRAMES, 8 * b->h, 8 * b->w, 3};
    if (rc == RF_OK)
        rc = rf_arena_create(e, rf_arena_cost(RF_F32, 4, latent) + rf_arena_cost(RF_F32, 4, push), &b->arena, err);
    if (rc != RF_OK)
        return rc;
    struct rf_tensor clip = rf_arena_tensor(b->arena, RF_F32, 4, latent);
    struct rf_tensor frames = rf_arena_tensor(b->arena, RF_F32, 4, push);
    b->in = encode ? frames : clip;
    b->out = encode ? clip : frames;
    rc = fill_normal(e, &b->in, 3, encode ? 0.5f : 1, err);
    return rc == RF_OK ? vae_stream(b, err) : rc;
}

static enum rf_code vae_open_decode(struct rf_engine *e, const struct rf_bench_size *size, void **ret_self,
                                    struct rf_err *err)
{
    return vae_open(e, size, false, ret_self, err);
}

static enum rf_code vae_open_encode(struct rf_engine *e, const struct rf_bench_size *size, void **ret_self,
                                    struct rf_err *err)
{
    return vae_open(e, size, true, ret_self, err);
}

static void vae_describe(void *self, struct rf_bench_facts *facts)
{
    const struct vae_bench *b = self;
    *facts = (struct rf_bench_facts){
        .flop = b->encode ? rf_shape_vae_encode_flop(b->base, b->t, b->h, b->w)
                          : rf_shape_vae_decode_flop(b->base, b->t, b->h, b->w),
        .predicted_bytes = rf_engine_fixed_bytes(b->e) + rf_vae_weight_bytes(b->vae) +
                           vae_stream_bytes(b) + rf_arena_cost(RF_F32, 4, b->in.shape) +
                           rf_arena_cost(RF_F32, 4, b->out.shape),
    };
}

/* A stream is for one clip: a new one, as in the product. The pixels are the same four frames over and over, which the
 * encoder is not told. */
static enum rf_code vae_run(void *self, int turn, struct rf_err *err)
{
    struct vae_bench *b = self;
    (void)turn;
    enum rf_code rc = vae_stream(b, err);
    for (int64_t t = 0; t < b->t && rc == RF_OK; t++) {
        struct rf_tensor in = b->encode ? rf_tensor_slice(&b->in, 0, t == 0 ? 1 : RF_VAE_FRAMES)
                                        : rf_tensor_slice(&b->in, t, 1);
        struct rf_tensor y = b->encode ? rf_vae_encoder_push(b->stream, &in, 0) : rf_vae_decoder_push(b->stream, &in);
        struct rf_tensor to = b->encode ? rf_tensor_slice(&b->out, t, 1) : rf_tensor_slice(&b->out, 0, y.shape[0]);
        rf_copy(b->e, &to, &y);
    }
    return rc == RF_OK ? rf_engine_sync(b->e, err) : rc;
}

static enum rf_code vae_result(void *self, float **ret_values, int64_t *ret_n, struct rf_err *err)
{
    struct vae_bench *b = self;
    if (b->t == 1 && !b->encode)
        b->out.shape[0] = 1;
    return read_out(b->e, &b->out, ret_values, ret_n, err);
}

const struct rf_bench_subject rf_bench_vae_decode = {.name = "vae-decode", .sample_side = 128, .sample_frames = 5,
                                                     .open = vae_open_decode, .close = vae_close,
                                                     .describe = vae_describe, .run = vae_run, .result = vae_result};
const struct rf_bench_subject rf_bench_vae_encode = {.name = "vae-encode", .sample_side = 128, .sample_frames = 5,
                                                     .open = vae_open_encode, .close = vae_close,
                                                     .describe = vae_describe, .run = vae_run, .result = vae_result};

/* ---- text encoder ---- */

struct umt5_bench {
    struct rf_engine *e;
    struct rf_umt5_shape shape;
    struct rf_bench_file file;
    struct rf_umt5 *umt5;
    bool keep; /* its layers on the device */
    struct rf_arena *arena;
    struct rf_tensor hidden;
};

static void umt5_close(void *self)
{
    struct umt5_bench *b = self;
    if (b == NULL)
        return;
    rf_arena_destroy(&b->arena);
    rf_umt5_close(&b->umt5);
    rf_bench_file_finish(&b->file);
    free(b);
}

static int64_t umt5_bytes(const struct umt5_bench *b, bool keep)
{
    const int64_t hidden[] = {RF_TEXT_TOKENS, b->shape.width};
    return rf_engine_fixed_bytes(b->e) + rf_umt5_globals_bytes(b->umt5) +
           rf_umt5_layer_bytes(b->umt5) * (keep ? rf_umt5_n_layers(b->umt5) : 1) + rf_arena_cost(RF_F32, 2, hidden) +
           rf_umt5_scratch_bytes(b->umt5, RF_TEXT_TOKENS);
}

/* Layers stay on the device if they can. */
static enum rf_code umt5_place(struct umt5_bench *b, struct rf_err *err)
{
    int64_t limit = rf_engine_limit_bytes(b->e);
    b->keep = limit == 0 || umt5_bytes(b, true) <= limit;
    return rf_umt5_place(b->umt5, b->keep, err);
}

static enum rf_code umt5_open(struct rf_engine *e, const struct rf_bench_size *size, void **ret_self,
                              struct rf_err *err)
{
    struct umt5_bench *b = rf_new(struct umt5_bench);
    *ret_self = b;
    b->e = e;
    b->shape = rf_bench_umt5_shape(size);
    const int64_t hidden[] = {RF_TEXT_TOKENS, b->shape.width};
    struct rf_phantom_list list = {0};
    rf_shape_umt5(&list, &b->shape, rf_bench_types(size));
    enum rf_code rc = rf_bench_file_map(&list, "random text encoder", &b->file, err);
    if (rc == RF_OK)
        rc = rf_umt5_open_unplaced(e, b->file.name, &b->umt5, err);
    if (rc == RF_OK)
        rc = umt5_place(b, err);
    if (rc == RF_OK)
        rc = rf_arena_create(e, rf_arena_cost(RF_F32, 2, hidden), &b->arena, err);
    if (rc == RF_OK)
        b->hidden = rf_arena_tensor(b->arena, RF_F32, 2, hidden);
    return rc;
}

static void umt5_describe(void *self, struct rf_bench_facts *facts)
{
    const struct umt5_bench *b = self;
    *facts = (struct rf_bench_facts){
        .tokens = RF_TEXT_TOKENS,
        .flop = rf_shape_umt5_flop(&b->shape, RF_TEXT_TOKENS),
        .predicted_bytes = umt5_bytes(b, b->keep),
    };
}

static enum rf_code umt5_run(void *self, int turn, struct rf_err *err)
{
    struct umt5_bench *b = self;
    int32_t ids[RF_TEXT_TOKENS];
    for (int i = 0; i < RF_TEXT_TOKENS; i++)
        ids[i] = (int32_t)((i * 7919 + (turn + 1) * 131) % b->shape.vocabulary);
    enum rf_code rc = rf_umt5_encode(b->umt5, ids, RF_TEXT_TOKENS, &b->hidden, err);
    return rc == RF_OK ? rf_engine_sync(b->e, err) : rc;
}

static enum rf_code umt5_result(void *self, float **ret_values, int64_t *ret_n, struct rf_err *err)
{
    struct umt5_bench *b = self;
    return read_out(b->e, &b->hidden, ret_values, ret_n, err);
}

const struct rf_bench_subject rf_bench_umt5 = {.name = "umt5", .open = umt5_open, .close = umt5_close,
                                               .describe = umt5_describe, .run = umt5_run, .result = umt5_result};
