/* The VAE against golden vectors; streaming in any pieces gives the same bits; the grey tail's shortcut is exact.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/golden.h"

#include <string.h>

#include "worker/model/vae.h"

struct fixture {
    struct rf_engine *e;
    struct rf_vae *vae;
    struct rf_arena *arena;
};

static struct fixture fixture_open(void)
{
    struct fixture f = {.e = golden_engine()};
    struct rf_err err;
    if (rf_vae_open(f.e, golden_path("vae/weights.safetensors"), &f.vae, &err) != RF_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(rf_arena_create(f.e, 16 << 20, &f.arena, NULL), RF_OK);
    return f;
}

static void fixture_close(struct fixture *f)
{
    rf_arena_destroy(&f->arena);
    rf_vae_close(&f->vae);
    rf_engine_close(&f->e);
}

/* [1, C, T, H, W] of a file as [T, H, W, C] in the engine. */
static struct rf_tensor channels_last(struct fixture *f, const struct rf_st_entry *entry)
{
    assert_int_equal(entry->n_dims, 5);
    const int64_t *s = entry->shape;
    struct rf_tensor first = rf_arena_tensor(f->arena, RF_F32, RF_SHAPE(s[1], s[2], s[3], s[4]));
    struct rf_tensor last = rf_arena_tensor(f->arena, RF_F32, RF_SHAPE(s[2], s[3], s[4], s[1]));
    rf_upload(f->e, &first, entry->data);
    rf_to_channels_last(f->e, &last, &first, NULL, NULL);
    return last;
}

/* Runs `in` through a stream in pushes of `first`, then `step` frames. Returns [frames, h, w, channels], free(). */
static float *run_as(struct fixture *f, bool encode, int max_push, const struct rf_tensor *in, int64_t first,
                     int64_t step, const int64_t *still, int64_t *ret_n)
{
    int64_t scale = encode ? RF_VAE_SCALE : 1;
    int height = (int)(in->shape[1] / scale), width = (int)(in->shape[2] / scale);
    struct rf_vae_stream *s = NULL;
    enum rf_code rc = encode ? rf_vae_encoder_create(f->vae, height, width, max_push, &s, NULL)
                             : rf_vae_decoder_create(f->vae, height, width, max_push, &s, NULL);
    assert_int_equal(rc, RF_OK);
    float *out = NULL;
    int64_t used = 0, push = 0;
    for (int64_t at = 0; at < in->shape[0]; push++) {
        int64_t n = at == 0 ? first : step;
        struct rf_tensor piece = rf_tensor_slice(in, at, n);
        struct rf_tensor y = encode ? rf_vae_encoder_push(s, &piece, still ? still[push] : 0)
                                    : rf_vae_decoder_push(s, &piece);
        int64_t elements = rf_tensor_elements(&y);
        out = rf_realloc(out, (size_t)(used + elements), sizeof(float));
        struct rf_err err;
        if (rf_download(f->e, &y, out + used, &err) != RF_OK)
            fail_msg("%s", err.msg);
        used += elements;
        at += n;
    }
    rf_vae_stream_destroy(&s);
    *ret_n = used;
    return out;
}

static float *run(struct fixture *f, bool encode, const struct rf_tensor *in, int64_t first, int64_t step,
                  const int64_t *still, int64_t *ret_n)
{
    return run_as(f, encode, (int)(first > step ? first : step), in, first, step, still, ret_n);
}

static void check_against(struct fixture *f, const float *out, int64_t n, const struct rf_st_entry *want,
                          const char *name)
{
    struct rf_tensor ref = channels_last(f, want);
    assert_int_equal(n, rf_tensor_elements(&ref));
    RF_AUTO(rf_free) float *host = rf_new_array(float, (size_t)n);
    assert_int_equal(rf_download(f->e, &ref, host, NULL), RF_OK);
    golden_check(name, golden_error(out, host, n), 1e-4);
}

/* Measured: decode 1.4e-6, encode 1.1e-6. */
static void decode_agrees_with_golden(void **state)
{
    (void)state;
    struct fixture f = fixture_open();
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *io = golden_open("vae/io-decode.safetensors");
    struct rf_tensor latent = channels_last(&f, golden_tensor(io, "in.latent", RF_F32));
    int64_t n;
    RF_AUTO(rf_free) float *out = run(&f, false, &latent, 1, 1, NULL, &n);
    check_against(&f, out, n, golden_tensor(io, "out.video", RF_F32), "vae decode");
    fixture_close(&f);
}

static void encode_agrees_with_golden(void **state)
{
    (void)state;
    struct fixture f = fixture_open();
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *io = golden_open("vae/io-encode.safetensors");
    struct rf_tensor video = channels_last(&f, golden_tensor(io, "in.video", RF_F32));
    int64_t n;
    RF_AUTO(rf_free) float *out = run(&f, true, &video, 1, 4, NULL, &n);
    check_against(&f, out, n, golden_tensor(io, "out.latent", RF_F32), "vae encode");
    fixture_close(&f);
}

static void pieces_of_any_size_decode_and_encode_to_the_same_bits(void **state)
{
    (void)state;
    struct fixture f = fixture_open();
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *dec = golden_open("vae/io-decode.safetensors");
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *enc = golden_open("vae/io-encode.safetensors");
    struct rf_tensor latent = channels_last(&f, golden_tensor(dec, "in.latent", RF_F32));
    struct rf_tensor video = channels_last(&f, golden_tensor(enc, "in.video", RF_F32));
    static const struct {
        bool encode;
        int64_t first, step;
    } cuts[] = {{false, 4, 1}, {false, 2, 2}, {false, 1, 3}, {true, 9, 4}, {true, 5, 4}, {true, 1, 8}};
    for (size_t i = 0; i < RF_COUNT_OF(cuts); i++) {
        const struct rf_tensor *in = cuts[i].encode ? &video : &latent;
        int64_t n, n_whole;
        RF_AUTO(rf_free) float *whole = run(&f, cuts[i].encode, in, 1, cuts[i].encode ? 4 : 1, NULL, &n_whole);
        RF_AUTO(rf_free) float *cut = run(&f, cuts[i].encode, in, cuts[i].first, cuts[i].step, NULL, &n);
        assert_int_equal(n, n_whole);
        assert_memory_equal(cut, whole, (size_t)n * sizeof(float));
    }
    fixture_close(&f);
}

static void slices_decode_and_encode_to_the_same_bits(void **state)
{
    (void)state;
    struct fixture f = fixture_open();
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *dec = golden_open("vae/io-decode.safetensors");
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *enc = golden_open("vae/io-encode.safetensors");
    struct rf_tensor latent = channels_last(&f, golden_tensor(dec, "in.latent", RF_F32));
    struct rf_tensor video = channels_last(&f, golden_tensor(enc, "in.video", RF_F32));
    for (int encode = 0; encode < 2; encode++) {
        const struct rf_tensor *in = encode ? &video : &latent;
        int64_t n, n_whole, step = encode ? RF_VAE_FRAMES : 1;
        RF_AUTO(rf_free) float *whole = run(&f, encode, in, 1, step, NULL, &n_whole);
        RF_AUTO(rf_free) float *sliced = run_as(&f, encode, RF_VAE_SLICED, in, 1, step, NULL, &n);
        assert_int_equal(n, n_whole);
        assert_memory_equal(sliced, whole, (size_t)n * sizeof(float));
    }
    fixture_close(&f);
}

static void grey_tail_shortcut_gives_the_same_bits(void **state)
{
    (void)state;
    enum { PUSHES = 31, FRAMES = 1 + 4 * (PUSHES - 1), MOVES_AGAIN = 28 };
    struct fixture f = fixture_open();
    struct rf_tensor video = rf_arena_tensor(f.arena, RF_F32, RF_SHAPE(FRAMES, 16, 24, 3));
    float *host = rf_new_array(float, (size_t)rf_tensor_elements(&video));
    int64_t frame = 16 * 24 * 3, still[PUSHES] = {0};
    for (int64_t i = 0; i < frame; i++)
        host[i] = sinf((float)i * 0.37f);
    for (int push = 1; push < PUSHES; push++) /* frame 0 a picture, then grey, then (push 28) one that moves again */
        still[push] = push < MOVES_AGAIN ? 4 * push : 0;
    for (int64_t i = (1 + 4 * (MOVES_AGAIN - 1)) * frame; i < FRAMES * frame; i++)
        host[i] = cosf((float)i * 0.11f);
    rf_upload(f.e, &video, host);
    int64_t n, n_all;
    RF_AUTO(rf_free) float *all = run(&f, true, &video, 1, 4, NULL, &n_all);
    RF_AUTO(rf_free) float *quick = run(&f, true, &video, 1, 4, still, &n);
    assert_int_equal(n, n_all);
    assert_memory_equal(quick, all, (size_t)n * sizeof(float));
    RF_AUTO(rf_free) float *sliced = run_as(&f, true, RF_VAE_SLICED, &video, 1, 4, still, &n);
    assert_int_equal(n, n_all);
    assert_memory_equal(sliced, all, (size_t)n * sizeof(float));
    free(host);
    fixture_close(&f);
}

static void weight_bytes_are_what_the_engine_holds(void **state)
{
    (void)state;
    struct rf_engine *e = golden_engine();
    struct rf_vae *vae = NULL;
    int64_t before = rf_engine_held_bytes(e);
    assert_int_equal(rf_vae_open(e, golden_path("vae/weights.safetensors"), &vae, NULL), RF_OK);
    assert_true(rf_vae_weight_bytes(vae) > 0);
    assert_int_equal(rf_vae_weight_bytes(vae), rf_engine_held_bytes(e) - before);
    rf_vae_close(&vae);
    rf_engine_close(&e);
}

static void memory_does_not_grow_with_length_and_is_told_beforehand(void **state)
{
    (void)state;
    struct fixture f = fixture_open();
    int64_t one = rf_vae_decoder_bytes(f.vae, 5, 7, 1), two = rf_vae_decoder_bytes(f.vae, 5, 7, 2);
    assert_true(one > 0 && two > one && two < 2 * one);
    assert_true(rf_vae_encoder_bytes(f.vae, 4, 6, 4) > 0);
    /* Measured: the decoder 0.85, the encoder 0.82 of what whole pushes take. */
    double decoder = (double)rf_vae_decoder_bytes(f.vae, 60, 104, RF_VAE_SLICED) /
                     (double)rf_vae_decoder_bytes(f.vae, 60, 104, 1);
    double encoder = (double)rf_vae_encoder_bytes(f.vae, 60, 104, RF_VAE_SLICED) /
                     (double)rf_vae_encoder_bytes(f.vae, 60, 104, RF_VAE_FRAMES);
    print_message("sliced: decoder %.2f, encoder %.2f\n", decoder, encoder);
    assert_true(decoder < 0.9 && encoder < 0.9);
    fixture_close(&f);
}

static void other_files_are_refused_by_name(void **state)
{
    (void)state;
    struct rf_engine *e = golden_engine();
    struct rf_vae *vae = NULL;
    struct rf_err err;
    assert_int_equal(rf_vae_open(e, golden_path("umt5/weights.safetensors"), &vae, &err), RF_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "encoder.conv1"));
    assert_int_equal(rf_vae_open(e, golden_path("vae/absent.safetensors"), &vae, &err), RF_ERR_IO);
    assert_null(vae);
    rf_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_agrees_with_golden),
        cmocka_unit_test(encode_agrees_with_golden),
        cmocka_unit_test(pieces_of_any_size_decode_and_encode_to_the_same_bits),
        cmocka_unit_test(slices_decode_and_encode_to_the_same_bits),
        cmocka_unit_test(grey_tail_shortcut_gives_the_same_bits),
        cmocka_unit_test(weight_bytes_are_what_the_engine_holds),
        cmocka_unit_test(memory_does_not_grow_with_length_and_is_told_beforehand),
        cmocka_unit_test(other_files_are_refused_by_name),
    };
    return cmocka_run_group_tests_name("vae", tests, NULL, NULL);
}
