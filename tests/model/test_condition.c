/* Start-image conditioning, colour matching and previews, on the golden VAE (random weights).
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/golden.h"

#include <string.h>

#include "worker/model/colour.h"
#include "worker/model/condition.h"
#include "worker/model/preview.h"

enum { T = 8, H = 2, W = 3, FRAMES = 4 * T - 3, PIXELS = 8 * H * 8 * W, Z = T * H * W * 16 };

static enum rf_code count(void *self, int done)
{
    int *n = self;
    assert_int_equal(done, ++*n);
    return RF_OK;
}

static enum rf_code stop_at_three(void *self, int done)
{
    (void)self;
    return done == 3 ? RF_ERR_CANCELLED : RF_OK;
}

/* The whole clip, image and grey, in one push: [T, H, W, 16]. */
static void encode_whole(struct rf_engine *e, struct rf_vae *vae, const uint8_t *image, float *ret_z)
{
    struct rf_arena *arena = NULL;
    struct rf_vae_stream *s = NULL;
    assert_int_equal(rf_arena_create(e, 1 << 20, &arena, NULL), RF_OK);
    assert_int_equal(rf_vae_encoder_create(vae, H, W, FRAMES, &s, NULL), RF_OK);
    struct rf_tensor clip = rf_arena_tensor(arena, RF_F32, RF_SHAPE(FRAMES, 8 * H, 8 * W, 3));
    RF_AUTO(rf_free) float *host = rf_new_array(float, (size_t)FRAMES * PIXELS * 3);
    for (int i = 0; i < PIXELS * 3; i++)
        host[i] = (float)image[i] * 2 / 255 - 1;
    rf_upload(e, &clip, host);
    struct rf_tensor z = rf_vae_encoder_push(s, &clip, 0);
    assert_int_equal(rf_download(e, &z, ret_z, NULL), RF_OK);
    rf_vae_stream_destroy(&s);
    rf_arena_destroy(&arena);
}

static void known_frames_are_masked_and_the_grey_tail_is_encoded(void **state)
{
    (void)state;
    struct rf_engine *e = golden_engine();
    struct rf_vae *vae = NULL;
    struct rf_arena *arena = NULL;
    assert_int_equal(rf_vae_open(e, golden_path("vae/weights.safetensors"), &vae, NULL), RF_OK);
    assert_int_equal(rf_arena_create(e, 1 << 20, &arena, NULL), RF_OK);
    static uint8_t image[PIXELS * 3];
    for (int i = 0; i < PIXELS * 3; i++)
        image[i] = (uint8_t)(i * 37);
    struct rf_tensor channels = rf_arena_tensor(arena, RF_F32, RF_SHAPE(20, T, H, W));
    struct rf_tensor z = rf_arena_tensor(arena, RF_F32, RF_SHAPE(T, H, W, 16));
    rf_fill(e, &channels, NAN);
    int n_ticks = 0;
    assert_int_equal(rf_condition_image(e, vae, RF_VAE_FRAMES, image, &channels, &z, count, &n_ticks, NULL), RF_OK);
    assert_int_equal(n_ticks, T);
    static float got[20 * T * H * W], want[Z];
    assert_int_equal(rf_download(e, &channels, got, NULL), RF_OK);
    for (int i = 0; i < 4 * T * H * W; i++)
        assert_true(got[i] == (i / (H * W) % T == 0 ? 1.0f : 0.0f));
    encode_whole(e, vae, image, want);
    for (int c = 0; c < 16; c++)
        for (int p = 0; p < T * H * W; p++) {
            float normal = (want[p * 16 + c] - rf_vae_latent_mean[c]) / rf_vae_latent_deviation[c];
            assert_true(fabsf(got[(4 + c) * T * H * W + p] - normal) <= 1e-5f * fmaxf(1, fabsf(normal)));
        }
    assert_int_equal(rf_condition_image(e, vae, RF_VAE_FRAMES, image, &channels, &z, stop_at_three, NULL, NULL), RF_ERR_CANCELLED);
    rf_arena_destroy(&arena);
    rf_vae_close(&vae);
    rf_engine_close(&e);
}

/* ---- colour ---- */

enum { SIDE = 32, N = SIDE * SIDE };

static void frame_of(const uint8_t *image, const float off[3], float *frame)
{
    for (int i = 0; i < 3 * N; i++)
        frame[i] = (float)image[i] / 127.5f - 1 - off[i % 3];
}

static void a_shift_is_found_although_an_object_moved(void **state)
{
    (void)state;
    static uint8_t image[3 * N], bytes[3 * N];
    static float frame[3 * N];
    for (int i = 0; i < 3 * N; i++)
        image[i] = (uint8_t)(60 + i % 3 * 40 + i / 3 % SIDE);
    const float off[3] = {0.03f, -0.02f, 0};
    frame_of(image, off, frame);
    for (int i = 0; i < 3 * N / 4; i++)
        frame[i] = -0.9f; /* a quarter of the picture is something else */
    float shift[3];
    rf_colour_measure(frame, image, N, shift);
    for (int c = 0; c < 3; c++)
        assert_true(fabsf(shift[c] - off[c]) < 0.002f);
    rf_colour_to_bytes(bytes, frame, N, shift);
    for (int i = 3 * N / 4; i < 3 * N; i++)
        assert_in_range(bytes[i] - image[i] + 1, 0, 2);
}

static void another_picture_is_not_taken_for_a_drift(void **state)
{
    (void)state;
    static uint8_t image[3 * N];
    static float frame[3 * N];
    memset(image, 250, sizeof image);
    for (int i = 0; i < 3 * N; i++)
        frame[i] = i % 3 == 2 ? NAN : -0.8f;
    float shift[3];
    rf_colour_measure(frame, image, N, shift);
    for (int c = 0; c < 3; c++)
        assert_true(fabsf(shift[c]) <= RF_COLOUR_MAX_SHIFT);
}

static void bytes_are_rounded_and_clamped(void **state)
{
    (void)state;
    const float frame[6] = {-1, 1, 0, -7, 7, NAN}, none[3] = {0, 0, 0};
    uint8_t rgb[6];
    rf_colour_to_bytes(rgb, frame, 2, none);
    const uint8_t want[6] = {0, 255, 128, 0, 255, 0};
    assert_memory_equal(rgb, want, sizeof want);
    for (int v = 0; v < 256; v++) { /* every byte comes back as itself */
        const float x[3] = {(float)v / 127.5f - 1, 0, 0};
        rf_colour_to_bytes(rgb, x, 1, none);
        assert_int_equal(rgb[0], v);
    }
}

/* ---- preview ---- */

static void preview_is_finite_and_follows_its_factors(void **state)
{
    (void)state;
    struct rf_engine *e = golden_engine();
    struct rf_vae *vae = NULL;
    struct rf_preview p;
    assert_int_equal(rf_vae_open(e, golden_path("vae/weights.safetensors"), &vae, NULL), RF_OK);
    assert_int_equal(rf_preview_fit(e, vae, &p, NULL), RF_OK);
    for (int i = 0; i < 16; i++)
        for (int c = 0; c < 3; c++)
            assert_true(isfinite(p.factor[i][c]) && fabsf(p.factor[i][c]) < 100);
    p = (struct rf_preview){.offset = {0, 0, 0}};
    p.factor[3][0] = 0.5f;
    float latent[16 * 2] = {0};
    latent[3 * 2] = 1;
    latent[3 * 2 + 1] = -2;
    uint8_t rgb[6];
    rf_preview_draw(&p, latent, 2, rgb);
    const uint8_t want[6] = {191, 128, 128, 0, 128, 128};
    assert_memory_equal(rgb, want, sizeof want);
    rf_vae_close(&vae);
    rf_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_frames_are_masked_and_the_grey_tail_is_encoded),
        cmocka_unit_test(a_shift_is_found_although_an_object_moved),
        cmocka_unit_test(another_picture_is_not_taken_for_a_drift),
        cmocka_unit_test(bytes_are_rounded_and_clamped),
        cmocka_unit_test(preview_is_finite_and_follows_its_factors),
    };
    return cmocka_run_group_tests_name("condition", tests, NULL, NULL);
}
