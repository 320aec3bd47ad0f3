/* framefarm-net vae-encode: in.video [1, 3, F, H, W] in [-1, 1] -> out.latent [1, 16, T, H/8, W/8]; vae-decode the
 * other way. Latents are the network's own, not normalised. Streams as the product does: one latent frame at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/vae.h"
#include "worker/net/net.h"

struct session {
    int64_t shape[5]; /* of the input */
    float *values;
    struct rf_engine *e;
    struct rf_vae *vae;
    struct rf_arena *arena;
    struct rf_vae_stream *stream;
};

static void session_finish(struct session *s)
{
    rf_vae_stream_destroy(&s->stream);
    rf_arena_destroy(&s->arena);
    rf_vae_close(&s->vae);
    rf_engine_close(&s->e);
    free(s->values);
}

static enum rf_code session_open(const struct rf_net_options *o, const char *name, int64_t channels, struct session *s,
                                 struct rf_err *err)
{
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *file = NULL;
    enum rf_code rc = rf_safetensors_open(o->input, &file, err);
    if (rc == RF_OK)
        rc = rf_net_read(file, name, 5, s->shape, &s->values, err);
    if (rc == RF_OK && (s->shape[0] != 1 || s->shape[1] != channels || s->shape[3] > 1 << 16 || s->shape[4] > 1 << 16))
        rc = rf_fail(err, RF_ERR_FORMAT, "%.120s: '%s' must be one sample of %lld channels", o->input, name,
                     (long long)channels);
    if (rc == RF_OK && o->n_loras > 0)
        rc = rf_fail(err, RF_ERR_INVALID, "--lora: LoRA files are for the transformer");
    if (rc == RF_OK)
        rc = rf_net_open_engine(o, &s->e, err);
    if (rc == RF_OK)
        rc = rf_vae_open(s->e, o->weights, &s->vae, err);
    return rc;
}

/* Input and output of the whole clip, each channels-first as in the file and channels-last as the stream takes it. */
static enum rf_code run(struct session *s, bool encode, const int64_t out_shape[5], float *out, struct rf_err *err)
{
    const int64_t *in = s->shape;
    const int64_t in_last[] = {in[2], in[3], in[4], in[1]};
    const int64_t out_last[] = {out_shape[2], out_shape[3], out_shape[4], out_shape[1]};
    int64_t bytes = 2 * rf_arena_cost(RF_F32, 4, in_last) + 2 * rf_arena_cost(RF_F32, 4, out_last);
    enum rf_code rc = rf_arena_create(s->e, bytes, &s->arena, err);
    if (rc != RF_OK)
        return rc;
    struct rf_tensor file_in = rf_arena_tensor(s->arena, RF_F32, 4, in + 1);
    struct rf_tensor x = rf_arena_tensor(s->arena, RF_F32, 4, in_last);
    struct rf_tensor y = rf_arena_tensor(s->arena, RF_F32, 4, out_last);
    struct rf_tensor file_out = rf_arena_tensor(s->arena, RF_F32, 4, out_shape + 1);
    rf_upload(s->e, &file_in, s->values);
    rf_to_channels_last(s->e, &x, &file_in, NULL, NULL);
    for (int64_t at = 0, done = 0; at < x.shape[0];) {
        int64_t n = encode && at > 0 ? RF_VAE_FRAMES : 1;
        struct rf_tensor piece = rf_tensor_slice(&x, at, n);
        struct rf_tensor result = encode ? rf_vae_encoder_push(s->stream, &piece, 0)
                                         : rf_vae_decoder_push(s->stream, &piece);
        struct rf_tensor to = rf_tensor_slice(&y, done, result.shape[0]);
        rf_copy(s->e, &to, &result);
        done += result.shape[0];
        at += n;
    }
    rf_from_channels_last(s->e, &file_out, &y, NULL, NULL);
    return rf_download(s->e, &file_out, out, err);
}

enum rf_code rf_net_vae_encode(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    RF_AUTO(session_finish) struct session s = {0};
    enum rf_code rc = session_open(o, "in.video", 3, &s, err);
    if (rc != RF_OK)
        return rc;
    const int64_t *in = s.shape;
    if (in[2] % RF_VAE_FRAMES != 1 || in[3] % RF_VAE_SCALE != 0 || in[4] % RF_VAE_SCALE != 0)
        return rf_fail(err, RF_ERR_INVALID,
                       "in.video is %lld frames of %lldx%lld; frames must be 4k + 1, sides multiples of 8",
                       (long long)in[2], (long long)in[4], (long long)in[3]);
    int64_t shape[] = {1, RF_VAE_LATENT_CHANNELS, in[2] / RF_VAE_FRAMES + 1, in[3] / RF_VAE_SCALE,
                       in[4] / RF_VAE_SCALE};
    float *out = rf_net_result_add(result, "out.latent", 5, shape, err);
    if (!out)
        return RF_ERR_NO_MEMORY;
    rc = rf_vae_encoder_create(s.vae, (int)shape[3], (int)shape[4], RF_VAE_FRAMES, &s.stream, err);
    return rc == RF_OK ? run(&s, true, shape, out, err) : rc;
}

enum rf_code rf_net_vae_decode(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    RF_AUTO(session_finish) struct session s = {0};
    enum rf_code rc = session_open(o, "in.latent", RF_VAE_LATENT_CHANNELS, &s, err);
    if (rc != RF_OK)
        return rc;
    const int64_t *in = s.shape;
    int64_t shape[] = {1, 3, (in[2] - 1) * RF_VAE_FRAMES + 1, in[3] * RF_VAE_SCALE, in[4] * RF_VAE_SCALE};
    float *out = rf_net_result_add(result, "out.video", 5, shape, err);
    if (!out)
        return RF_ERR_NO_MEMORY;
    rc = rf_vae_decoder_create(s.vae, (int)in[3], (int)in[4], 1, &s.stream, err);
    return rc == RF_OK ? run(&s, false, shape, out, err) : rc;
}
