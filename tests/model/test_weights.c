/* Checkpoint layouts and LoRA files: each is held against a plain F32 checkpoint that means the same.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/golden.h"

#include "tests/model/checkpoint.h"

#include <string.h>

#define IO "dit-i2v/io-t937.5.safetensors"
#define SAME 2e-6 /* measured below 6e-7: the same weights through other paths */

static struct checkpoint *base(void)
{
    return checkpoint_load(golden_path("dit-i2v/weights.safetensors"));
}

/* Error of `path` (with LoRAs) against checkpoint `ref`. */
static double difference(const char *path, struct checkpoint *ref, const struct lora_use *loras, int n_loras)
{
    float *a = NULL, *b = NULL;
    int64_t n;
    struct rf_err err = {0};
    if (checkpoint_run(path, golden_path(IO), loras, n_loras, &a, &n, &err) != RF_OK ||
        checkpoint_run(checkpoint_write(ref, "ref.safetensors"), golden_path(IO), NULL, 0, &b, &n, &err) != RF_OK)
        fail_msg("%s", err.msg);
    double error = golden_error(a, b, n);
    free(a);
    free(b);
    return error;
}

static enum rf_code opening_fails(const char *path, const struct lora_use *loras, int n_loras, const char *named)
{
    float *velocity = NULL;
    int64_t n;
    struct rf_err err = {0};
    enum rf_code rc = checkpoint_run(path, golden_path(IO), loras, n_loras, &velocity, &n, &err);
    free(velocity);
    if (rc == RF_OK || strstr(err.msg, named) == NULL)
        fail_msg("wanted an error that names %s, got %s \"%s\"", named, rf_code_name(rc), err.msg);
    return rc;
}

/* ---- layouts ---- */

static void prefixed_keys_are_found(void **state)
{
    static const char *const prefixes[] = {"model.diffusion_model.", "diffusion_model."};
    for (size_t i = 0; i < RF_COUNT_OF(prefixes); i++) {
        struct checkpoint *ref = base(), *c = base();
        checkpoint_rename(c, "", prefixes[i]);
        assert_true(difference(checkpoint_write(c, "prefixed.safetensors"), ref, NULL, 0) == 0);
        checkpoint_free(&c);
        checkpoint_free(&ref);
    }
}

static void f16_and_f32_files_mean_the_same(void **state)
{
    struct checkpoint *names = base(), *f16 = checkpoint_load(NULL), *f32 = checkpoint_load(NULL);
    for (int i = 0; i < names->n; i++) { /* rounded to F16 in both, stored as F32 in one */
        struct rf_st_entry *e = &names->entries[i];
        RF_AUTO(rf_free) float *values = checkpoint_floats(e);
        checkpoint_set(f16, e->name, RF_F16, e->n_dims, e->shape, values);
        RF_AUTO(rf_free) float *rounded = checkpoint_floats(checkpoint_find(f16, e->name));
        checkpoint_set(f32, e->name, RF_F32, e->n_dims, e->shape, rounded);
    }
    assert_true(difference(checkpoint_write(f16, "f16.safetensors"), f32, NULL, 0) <= SAME);
    checkpoint_free(&names), checkpoint_free(&f16), checkpoint_free(&f32);
}

struct fp8_layout {
    const char *scale_key;  /* NULL: plain cast */
    int scale_dims;         /* 0: [], 1: [1], 2: [out, 1], 3: [out] */
    int64_t marker;         /* elements of scaled_fp8; -1: no marker */
    bool blocks_only;
    enum rf_dtype dtype;
};

/* Quantises linears of `c`; `ref` gets the dequantised values as F32. */
static void quantise(struct checkpoint *c, struct checkpoint *ref, const struct fp8_layout *layout)
{
    struct checkpoint *names = base(); /* both files change under our feet */
    for (int i = 0; i < names->n; i++) {
        struct rf_st_entry e = names->entries[i];
        size_t length = strlen(e.name);
        if (e.n_dims != 2 || strcmp(e.name + length - 7, ".weight") != 0 ||
            (layout->blocks_only && strncmp(e.name, "blocks.", 7) != 0))
            continue;
        int64_t out = e.shape[0], in = e.shape[1], n_scales = layout->scale_dims >= 2 ? out : 1;
        float *values = checkpoint_floats(&e), *scales = rf_new_array(float, (size_t)n_scales);
        for (int64_t k = 0; k < out * in; k++) { /* absmax / 448, per tensor or row */
            float *s = &scales[n_scales == 1 ? 0 : k / in];
            *s = fabsf(values[k]) / 448 > *s ? fabsf(values[k]) / 448 : *s;
        }
        for (int64_t k = 0; k < out * in; k++)
            values[k] /= layout->scale_key ? scales[n_scales == 1 ? 0 : k / in] : 1;
        char name[128], stem[128], key[160];
        snprintf(name, sizeof name, "%s", e.name);
        snprintf(stem, sizeof stem, "%.*s", (int)(length - 7), e.name);
        checkpoint_set(c, name, layout->dtype, 2, e.shape, values);
        float *rounded = checkpoint_floats(checkpoint_find(c, name));
        for (int64_t k = 0; k < out * in && layout->scale_key; k++)
            rounded[k] *= scales[n_scales == 1 ? 0 : k / in];
        if (layout->scale_key) {
            static const int dims[] = {0, 1, 2, 1};
            snprintf(key, sizeof key, "%s.%s", stem, layout->scale_key);
            checkpoint_set(c, key, RF_F32, dims[layout->scale_dims], (int64_t[]){n_scales, 1}, scales);
        }
        int64_t shape[2] = {out, in};
        checkpoint_set(ref, name, RF_F32, 2, shape, rounded);
        free(values), free(rounded), free(scales);
    }
    checkpoint_free(&names);
    if (layout->marker >= 0)
        checkpoint_set(c, "scaled_fp8", RF_F8_E4M3, 1, &layout->marker, (float[2]){0});
}

static void scaled_fp8_files_of_every_producer_are_dequantised(void **state)
{
    static const struct fp8_layout layouts[] = {
        {"scale_weight", 0, 0, false, RF_F8_E4M3}, {"scale_weight", 1, 2, true, RF_F8_E4M3},
        {"weight_scale", 0, -1, false, RF_F8_E4M3}, {"weight_scale", 2, -1, true, RF_F8_E4M3},
        {"weight_scale", 3, -1, true, RF_F8_E4M3},  {NULL, 0, -1, false, RF_F8_E4M3},
        {"scale_weight", 0, 2, false, RF_F8_E5M2},
    };
    for (size_t i = 0; i < RF_COUNT_OF(layouts); i++) {
        struct checkpoint *c = base(), *ref = base();
        quantise(c, ref, &layouts[i]);
        double error = difference(checkpoint_write(c, "fp8.safetensors"), ref, NULL, 0);
        golden_check("fp8 against its own values", error, SAME);
        checkpoint_free(&c);
        checkpoint_free(&ref);
    }
}

static void misaligned_tensors_are_read_as_well(void **state)
{
    struct checkpoint *c = base(), *ref = base();
    const char *path = checkpoint_write(c, "aligned.safetensors");
    /* The same file with a header one byte longer: all data moves to odd addresses. */
    FILE *in = fopen(path, "rb"), *out = fopen(checkpoint_path("odd.safetensors"), "wb");
    assert_non_null(in);
    assert_non_null(out);
    uint64_t length;
    assert_int_equal(fread(&length, 8, 1, in), 1);
    char *header = rf_calloc(length + 1, 1), data[4096];
    assert_int_equal(fread(header, length, 1, in), 1);
    header[length++] = ' ';
    fwrite(&length, 8, 1, out);
    fwrite(header, length, 1, out);
    for (size_t n; (n = fread(data, 1, sizeof data, in)) > 0;)
        fwrite(data, n, 1, out);
    fclose(in);
    assert_int_equal(fclose(out), 0);
    free(header);
    assert_true(difference(checkpoint_path("odd.safetensors"), ref, NULL, 0) == 0);
    checkpoint_free(&c);
    checkpoint_free(&ref);
}

static void wrong_and_missing_tensors_are_named(void **state)
{
    static const char *const names[] = {"blocks.1.ffn.2.bias", "head.modulation", "blocks.0.self_attn.norm_q.weight",
                                        "blocks.1.modulation", "patch_embedding.weight", "time_projection.1.weight"};
    for (size_t i = 0; i < RF_COUNT_OF(names); i++) {
        struct checkpoint *c = base();
        checkpoint_remove(c, names[i]);
        assert_int_equal(opening_fails(checkpoint_write(c, "bad.safetensors"), NULL, 0, names[i]), RF_ERR_FORMAT);
        float values[12] = {0};
        checkpoint_set(c, names[i], RF_F32, 2, (int64_t[]){3, 4}, values);
        assert_int_equal(opening_fails(checkpoint_write(c, "bad.safetensors"), NULL, 0, names[i]), RF_ERR_FORMAT);
        checkpoint_free(&c);
    }
    struct checkpoint *c = base();
    struct rf_st_entry *e = checkpoint_find(c, "blocks.0.ffn.0.weight");
    e->dtype = RF_I8;
    e->shape[1] *= 2; /* as many bytes */
    opening_fails(checkpoint_write(c, "int8.safetensors"), NULL, 0, "quantised layout is not supported");
    checkpoint_free(&c);
    c = checkpoint_load(golden_path("vae/weights.safetensors"));
    opening_fails(checkpoint_write(c, "vae.safetensors"), NULL, 0, "not a Wan transformer");
    checkpoint_free(&c);
    c = base();
    checkpoint_set(c, "blocks.0.self_attn.q.scale_weight", RF_F32, 1, (int64_t[]){5}, (float[5]){0});
    opening_fails(checkpoint_write(c, "scale.safetensors"), NULL, 0, "blocks.0.self_attn.q.scale_weight");
    checkpoint_free(&c);
}

/* ---- LoRA ---- */

static uint32_t random_state = 1;

static float *random_values(int64_t n, float size)
{
    float *values = rf_new_array(float, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        random_state = random_state * 1664525 + 1013904223;
        values[i] = ((float)(random_state >> 8) * 0x1p-24f - 0.5f) * size;
    }
    return values;
}

/* Adds a pair for module `m` of `ref` under the given keys to `lora`, and strength * factor * up down to the weight. */
static void add_pair(struct checkpoint *lora, struct checkpoint *ref, const char *m, const char *down_key,
                     const char *up_key, int64_t rank, float factor)
{
    char name[128];
    snprintf(name, sizeof name, "%s.weight", m);
    struct rf_st_entry e = *checkpoint_find(ref, name);
    int64_t out = e.shape[0], in = 1;
    for (int i = 1; i < e.n_dims; i++)
        in *= e.shape[i];
    float *down = random_values(rank * in, 0.2f), *up = random_values(out * rank, 0.2f), *w = checkpoint_floats(&e);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            double sum = 0;
            for (int64_t r = 0; r < rank; r++)
                sum += (double)up[o * rank + r] * down[r * in + i];
            w[o * in + i] += (float)(sum * (double)factor);
        }
    checkpoint_set(lora, down_key, RF_F32, 2, (int64_t[]){rank, in}, down);
    checkpoint_set(lora, up_key, RF_F32, 2, (int64_t[]){out, rank}, up);
    int64_t shape[RF_MAX_DIMS];
    memcpy(shape, e.shape, sizeof shape);
    checkpoint_set(ref, name, RF_F32, e.n_dims, shape, w);
    free(down), free(up), free(w);
}

/* Adds `size` random values to tensor `name` of `ref`, times factor, and under `key` to `lora`. */
static void add_diff(struct checkpoint *lora, struct checkpoint *ref, const char *name, const char *key, float factor)
{
    struct rf_st_entry e = *checkpoint_find(ref, name);
    float *values = checkpoint_floats(&e);
    int64_t n = 1, shape[RF_MAX_DIMS];
    for (int i = 0; i < e.n_dims; i++)
        n *= shape[i] = e.shape[i];
    float *diff = random_values(n, 0.1f);
    for (int64_t i = 0; i < n; i++)
        values[i] += factor * diff[i];
    checkpoint_set(lora, key, RF_F32, e.n_dims, shape, diff);
    checkpoint_set(ref, name, RF_F32, e.n_dims, shape, values);
    free(values), free(diff);
}

static void check_lora(struct checkpoint *lora, struct checkpoint *ref, float strength)
{
    struct lora_use use = {checkpoint_write(lora, "lora.safetensors"), strength};
    double error = difference(golden_path("dit-i2v/weights.safetensors"), ref, &use, 1);
    golden_check("LoRA against merged weights", error, SAME);
    checkpoint_free(&lora);
    checkpoint_free(&ref);
}

static void every_key_style_reaches_its_module(void **state)
{
    static const struct {
        const char *module, *down, *up;
    } styles[] = {
        {"blocks.1.self_attn.q", "diffusion_model.blocks.1.self_attn.q.lora_down.weight",
         "diffusion_model.blocks.1.self_attn.q.lora_up.weight"},
        {"blocks.1.ffn.0", "model.diffusion_model.blocks.1.ffn.0.lora_A.weight",
         "model.diffusion_model.blocks.1.ffn.0.lora_B.weight"},
        {"blocks.0.ffn.2", "blocks.0.ffn.2.lora_A.default.weight", "blocks.0.ffn.2.lora_B.default.weight"},
        {"blocks.0.cross_attn.v", "blocks.0.cross_attn.v.lora_A", "blocks.0.cross_attn.v.lora_B"},
        {"blocks.1.cross_attn.o", "lora_unet_blocks_1_cross_attn_o.lora_down.weight",
         "lora_unet_blocks_1_cross_attn_o.lora_up.weight"},
        {"blocks.0.self_attn.k", "lora_unet__blocks_0_self_attn_k.lora_down.weight",
         "lora_unet__blocks_0_self_attn_k.lora_up.weight"},
        {"blocks.1.self_attn.o", "transformer.blocks.1.attn1.to_out.0.lora_A.weight",
         "transformer.blocks.1.attn1.to_out.0.lora_B.weight"},
        {"blocks.0.ffn.0", "transformer.blocks.0.ffn.net.0.proj.lora.down.weight",
         "transformer.blocks.0.ffn.net.0.proj.lora.up.weight"},
        {"blocks.0.cross_attn.k", "transformer.blocks.0.attn2.to_k_lora.down.weight",
         "transformer.blocks.0.attn2.to_k_lora.up.weight"},
        {"blocks.1.ffn.2", "blocks.1.ffn.net.2.lora_linear_layer.down.weight",
         "blocks.1.ffn.net.2.lora_linear_layer.up.weight"},
        {"text_embedding.2", "transformer.condition_embedder.text_embedder.linear_2.lora_A.weight",
         "transformer.condition_embedder.text_embedder.linear_2.lora_B.weight"},
        {"time_projection.1", "diffusion_model.time_projection.1.lora_down.weight",
         "diffusion_model.time_projection.1.lora_up.weight"},
        {"head.head", "transformer.proj_out.lora_A.weight", "transformer.proj_out.lora_B.weight"},
        {"patch_embedding", "diffusion_model.patch_embedding.lora_down.weight",
         "diffusion_model.patch_embedding.lora_up.weight"},
    };
    for (size_t i = 0; i < RF_COUNT_OF(styles); i++) { /* one by one: a mix-up must not hide */
        struct checkpoint *lora = checkpoint_load(NULL), *ref = base();
        add_pair(lora, ref, styles[i].module, styles[i].down, styles[i].up, 3, 0.7f);
        check_lora(lora, ref, 0.7f);
    }
}

static void alpha_divides_by_the_rank_and_strength_multiplies(void **state)
{
    static const float alpha[] = {8};
    struct checkpoint *lora = checkpoint_load(NULL), *ref = base();
    for (int dims = 0; dims < 2; dims++) { /* alpha as [] and as [1] */
        char m[32], down[64], up[64], key[64];
        snprintf(m, sizeof m, "blocks.%d.self_attn.v", dims);
        snprintf(down, sizeof down, "%s.lora_down.weight", m);
        snprintf(up, sizeof up, "%s.lora_up.weight", m);
        snprintf(key, sizeof key, "%s.alpha", m);
        add_pair(lora, ref, m, down, up, 5, -1.5f * 8 / 5);
        checkpoint_set(lora, key, dims ? RF_BF16 : RF_F32, dims, (int64_t[]){1}, alpha);
    }
    check_lora(lora, ref, -1.5f);
}

static void diffs_change_weights_biases_norms_and_modulation(void **state)
{
    struct checkpoint *lora = checkpoint_load(NULL), *ref = base();
    add_diff(lora, ref, "blocks.0.ffn.0.weight", "diffusion_model.blocks.0.ffn.0.diff", 0.5f);
    add_diff(lora, ref, "blocks.0.ffn.0.bias", "diffusion_model.blocks.0.ffn.0.diff_b", 0.5f);
    add_diff(lora, ref, "blocks.1.norm3.weight", "diffusion_model.blocks.1.norm3.diff", 0.5f);
    add_diff(lora, ref, "blocks.1.norm3.bias", "diffusion_model.blocks.1.norm3.diff_b", 0.5f);
    add_diff(lora, ref, "blocks.0.norm3.weight", "transformer.blocks.0.norm2.diff", 0.5f); /* diffusers' name */
    add_diff(lora, ref, "blocks.1.self_attn.norm_k.weight", "diffusion_model.blocks.1.self_attn.norm_k.diff", 0.5f);
    add_diff(lora, ref, "blocks.1.modulation", "diffusion_model.blocks.1.diff_m", 0.5f);
    add_diff(lora, ref, "patch_embedding.weight", "diffusion_model.patch_embedding.diff", 0.5f);
    add_pair(lora, ref, "blocks.0.ffn.0", "diffusion_model.blocks.0.ffn.0.lora_down.weight",
             "diffusion_model.blocks.0.ffn.0.lora_up.weight", 4, 0.5f); /* a pair beside the .diff */
    check_lora(lora, ref, 0.5f);
}

static void several_files_add_up_on_fp8_weights_too(void **state)
{
    static const struct fp8_layout layout = {"scale_weight", 0, 2, false, RF_F8_E4M3};
    struct checkpoint *c = base(), *ref = base(), *first = checkpoint_load(NULL), *second = checkpoint_load(NULL);
    quantise(c, ref, &layout);
    add_pair(first, ref, "blocks.0.self_attn.q", "blocks.0.self_attn.q.lora_A.weight",
             "blocks.0.self_attn.q.lora_B.weight", 6, 1);
    add_pair(second, ref, "blocks.0.self_attn.q", "lora_unet_blocks_0_self_attn_q.lora_down.weight",
             "lora_unet_blocks_0_self_attn_q.lora_up.weight", 2, 0.25f);
    add_diff(second, ref, "blocks.1.ffn.2.weight", "lora_unet_blocks_1_ffn_2.diff", 0.25f);
    struct lora_use uses[] = {{checkpoint_write(first, "first.safetensors"), 1},
                              {checkpoint_write(second, "second.safetensors"), 0.25f}};
    golden_check("two LoRA files on fp8", difference(checkpoint_write(c, "fp8.safetensors"), ref, uses, 2), SAME);
    checkpoint_free(&c), checkpoint_free(&ref), checkpoint_free(&first), checkpoint_free(&second);
}

static void lora_keys_that_match_nothing_are_named(void **state)
{
    static const struct {
        const char *down, *up, *named;
        int64_t in;
    } bad[] = {
        {"blocks.7.self_attn.q.lora_A.weight", "blocks.7.self_attn.q.lora_B.weight", "blocks.7.self_attn.q", 128},
        {"blocks.0.self_attn.q.hada_w1_a", "blocks.0.self_attn.q.hada_w1_b", "hada_w1_a", 128},
        {"blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.k.lora_B.weight", "no partner", 128},
        {"blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.q.lora_B.weight", "do not fit", 64},
        {"blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.q.lora_down.weight", "mean the same", 128},
    };
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++) {
        struct checkpoint *lora = checkpoint_load(NULL);
        float *values = random_values(2 * 128, 1);
        checkpoint_set(lora, bad[i].down, RF_F32, 2, (int64_t[]){2, bad[i].in}, values);
        checkpoint_set(lora, bad[i].up, RF_F32, 2, (int64_t[]){128, 2}, values);
        struct lora_use use = {checkpoint_write(lora, "lora.safetensors"), 1};
        assert_int_equal(opening_fails(golden_path("dit-i2v/weights.safetensors"), &use, 1, bad[i].named),
                         RF_ERR_FORMAT);
        free(values);
        checkpoint_free(&lora);
    }
    struct lora_use missing = {"/nonexistent/lora.safetensors", 1};
    assert_int_equal(opening_fails(golden_path("dit-i2v/weights.safetensors"), &missing, 1, "/nonexistent/lora"),
                     RF_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefixed_keys_are_found),
        cmocka_unit_test(f16_and_f32_files_mean_the_same),
        cmocka_unit_test(scaled_fp8_files_of_every_producer_are_dequantised),
        cmocka_unit_test(misaligned_tensors_are_read_as_well),
        cmocka_unit_test(wrong_and_missing_tensors_are_named),
        cmocka_unit_test(every_key_style_reaches_its_module),
        cmocka_unit_test(alpha_divides_by_the_rank_and_strength_multiplies),
        cmocka_unit_test(diffs_change_weights_biases_norms_and_modulation),
        cmocka_unit_test(several_files_add_up_on_fp8_weights_too),
        cmocka_unit_test(lora_keys_that_match_nothing_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
