/* See preview.h. The patchwork stands still, and only the latents of its last four frames are looked at: a causal VAE
 * codes the first frame of a clip differently from all others, and previews show a frame from the middle.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/preview.h"

#include <math.h>

#include "worker/model/colour.h"

#define SIDE 12                       /* latents; 96 pixels */
#define PATCH 2                       /* latents of one colour, each way */
#define PIXELS (SIDE * RF_VAE_SCALE)
#define N_FRAMES 9
#define N_TERMS (RF_VAE_LATENT_CHANNELS + 1)
#define RIDGE 1e-3                    /* relative; channels that carry no colour get small factors, not wild ones */

/* Colours spread evenly over the cube: a low-discrepancy sequence, the same for every model. */
static float colour_of(int patch, int channel)
{
    static const double step[3] = {0.8191725134, 0.6710436067, 0.5497004779};
    return (float)(2 * fmod(0.5 + (patch + 1) * step[channel], 1) - 1);
}

static int patch_at(int y, int x)
{
    return y / PATCH * (SIDE / PATCH) + x / PATCH;
}

/* Solves a x = b for three right-hand sides; a is symmetric and positive definite (the ridge sees to it). */
static void solve(double a[N_TERMS][N_TERMS], double b[N_TERMS][3])
{
    for (int i = 0; i < N_TERMS; i++)
        for (int r = i + 1; r < N_TERMS; r++) {
            double f = a[r][i] / a[i][i];
            for (int c = i; c < N_TERMS; c++)
                a[r][c] -= f * a[i][c];
            for (int c = 0; c < 3; c++)
                b[r][c] -= f * b[i][c];
        }
    for (int i = N_TERMS - 1; i >= 0; i--)
        for (int c = 0; c < 3; c++) {
            for (int k = i + 1; k < N_TERMS; k++)
                b[i][c] -= a[i][k] * b[k][c];
            b[i][c] /= a[i][i];
        }
}

/* latent: raw, [SIDE, SIDE, 16]. */
static void fit(const float *latent, struct rf_preview *p)
{
    double a[N_TERMS][N_TERMS] = {{0}}, b[N_TERMS][3] = {{0}};
    for (int at = 0; at < SIDE * SIDE; at++) {
        double term[N_TERMS] = {[RF_VAE_LATENT_CHANNELS] = 1};
        for (int i = 0; i < RF_VAE_LATENT_CHANNELS; i++)
            term[i] = (latent[at * RF_VAE_LATENT_CHANNELS + i] - rf_vae_latent_mean[i]) / rf_vae_latent_deviation[i];
        for (int i = 0; i < N_TERMS; i++) {
            for (int k = 0; k < N_TERMS; k++)
                a[i][k] += term[i] * term[k];
            for (int c = 0; c < 3; c++)
                b[i][c] += term[i] * colour_of(patch_at(at / SIDE, at % SIDE), c);
        }
    }
    for (int i = 0; i < N_TERMS; i++)
        a[i][i] += RIDGE * SIDE * SIDE;
    solve(a, b);
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < RF_VAE_LATENT_CHANNELS; i++)
            p->factor[i][c] = (float)b[i][c];
        p->offset[c] = (float)b[RF_VAE_LATENT_CHANNELS][c];
    }
}

enum rf_code rf_preview_fit(struct rf_engine *e, struct rf_vae *vae, struct rf_preview *ret_preview,
                            struct rf_err *err)
{
    RF_AUTO(rf_free) float *pixels = rf_new_array(float, (size_t)N_FRAMES * PIXELS * PIXELS * 3);
    for (int i = 0; i < N_FRAMES * PIXELS * PIXELS * 3; i++) {
        int y = i / 3 / PIXELS % PIXELS, x = i / 3 % PIXELS;
        pixels[i] = colour_of(patch_at(y / RF_VAE_SCALE, x / RF_VAE_SCALE), i % 3);
    }
    RF_AUTO(rf_arena_destroy) struct rf_arena *arena = NULL;
    RF_AUTO(rf_vae_stream_destroy) struct rf_vae_stream *stream = NULL;
    const int64_t shape[] = {N_FRAMES, PIXELS, PIXELS, 3};
    enum rf_code rc = rf_arena_create(e, rf_arena_cost(RF_F32, 4, shape), &arena, err);
    if (rc == RF_OK)
        rc = rf_vae_encoder_create(vae, SIDE, SIDE, N_FRAMES, &stream, err);
    if (rc != RF_OK)
        return rc;
    struct rf_tensor clip = rf_arena_tensor(arena, RF_F32, 4, shape);
    rf_upload(e, &clip, pixels);
    struct rf_tensor latents = rf_vae_encoder_push(stream, &clip, 0);
    struct rf_tensor last = rf_tensor_slice(&latents, latents.shape[0] - 1, 1);
    float host[SIDE * SIDE * RF_VAE_LATENT_CHANNELS];
    rc = rf_download(e, &last, host, err);
    if (rc == RF_OK)
        fit(host, ret_preview);
    return rc;
}

void rf_preview_draw(const struct rf_preview *p, const float *latent, int64_t n_pixels, uint8_t *rgb)
{
    for (int64_t at = 0; at < n_pixels; at++) {
        float pixel[3] = {p->offset[0], p->offset[1], p->offset[2]};
        for (int i = 0; i < RF_VAE_LATENT_CHANNELS; i++)
            for (int c = 0; c < 3; c++)
                pixel[c] += latent[i * n_pixels + at] * p->factor[i][c];
        rf_colour_to_bytes(rgb + 3 * at, pixel, 1, (const float[3]){0, 0, 0});
    }
}
