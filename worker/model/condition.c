/* See condition.h. The unknown frames are mid grey and really encoded: the causal encoder still feels the first frame
 * many latents later, so neither zero latents nor the latents of grey alone would be the same.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/condition.h"

#define LATENT RF_VAE_LATENT_CHANNELS

static struct rf_tensor clip_of(int64_t height, int64_t width)
{
    return (struct rf_tensor){.dtype = RF_F32, .n_dims = 4,
                              .shape = {RF_VAE_FRAMES, height * RF_VAE_SCALE, width * RF_VAE_SCALE, 3}};
}

int64_t rf_condition_bytes(const struct rf_vae *vae, int height, int width, int max_push)
{
    struct rf_tensor clip = clip_of(height, width);
    return rf_vae_encoder_bytes(vae, height, width, max_push) + rf_arena_cost(clip.dtype, clip.n_dims, clip.shape);
}

/* By the reference's reshaping all four channels of latent frame 0 are 1, everything else is 0. */
static void make_mask(struct rf_engine *e, const struct rf_tensor *mask)
{
    rf_fill(e, mask, 0);
    for (int c = 0; c < RF_CONDITION_MASK; c++) {
        struct rf_tensor channel = rf_tensor_slice(mask, c, 1);
        channel = rf_tensor_reshape(&channel, 3, mask->shape + 1);
        struct rf_tensor first = rf_tensor_slice(&channel, 0, 1);
        rf_fill(e, &first, 1);
    }
}

static enum rf_code upload_image(struct rf_engine *e, const struct rf_tensor *frame, const uint8_t *image,
                                 struct rf_err *err)
{
    int64_t n = rf_tensor_elements(frame);
    RF_AUTO(rf_free) float *host = malloc((size_t)n * sizeof *host);
    if (!host)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for the start image");
    for (int64_t i = 0; i < n; i++)
        host[i] = (float)image[i] / 127.5f - 1;
    rf_upload(e, frame, host);
    return rf_engine_sync(e, err);
}

enum rf_code rf_condition_image(struct rf_engine *e, struct rf_vae *vae, int max_push, const uint8_t *image,
                                const struct rf_tensor *channels, const struct rf_tensor *z,
                                enum rf_code (*tick)(void *self, int done), void *self, struct rf_err *err)
{
    RF_AUTO(rf_arena_destroy) struct rf_arena *arena = NULL;
    RF_AUTO(rf_vae_stream_destroy) struct rf_vae_stream *encoder = NULL;
    int64_t height = channels->shape[2], width = channels->shape[3];
    struct rf_tensor clip = clip_of(height, width);
    enum rf_code rc = rf_arena_create(e, rf_arena_cost(clip.dtype, clip.n_dims, clip.shape), &arena, err);
    if (rc == RF_OK)
        rc = rf_vae_encoder_create(vae, (int)height, (int)width, max_push, &encoder, err);
    if (rc != RF_OK)
        return rc;
    clip = rf_arena_tensor(arena, clip.dtype, clip.n_dims, clip.shape);
    struct rf_tensor first = rf_tensor_slice(&clip, 0, 1);
    rc = upload_image(e, &first, image, err);
    for (int64_t t = 0; t < z->shape[0] && rc == RF_OK; t++) {
        struct rf_tensor latent = rf_vae_encoder_push(encoder, t == 0 ? &first : &clip, RF_VAE_FRAMES * t);
        struct rf_tensor to = rf_tensor_slice(z, t, 1);
        rf_copy(e, &to, &latent);
        if (t == 0)
            rf_fill(e, &clip, 0); /* 0 is mid grey */
        rc = rf_engine_sync(e, err);
        if (rc == RF_OK)
            rc = tick(self, (int)t + 1);
    }
    if (rc != RF_OK)
        return rc;
    float mul[LATENT], add[LATENT];
    for (int c = 0; c < LATENT; c++) {
        mul[c] = 1 / rf_vae_latent_deviation[c];
        add[c] = -rf_vae_latent_mean[c] / rf_vae_latent_deviation[c];
    }
    struct rf_tensor mask = rf_tensor_slice(channels, 0, RF_CONDITION_MASK);
    struct rf_tensor known = rf_tensor_slice(channels, RF_CONDITION_MASK, LATENT);
    make_mask(e, &mask);
    rf_from_channels_last(e, &known, z, mul, add);
    return rf_engine_sync(e, err);
}
