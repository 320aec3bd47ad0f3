/* The catalogue over folders made here: manifests good and bad, ComfyUI folders, LoRAs by name.
 * SPDX-License-Identifier: Apache-2.0 */
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/catalogue.h"
#include "worker/log.h"
#include "worker/model/safetensors.h"
#include "worker/scratch.h"

static char folder[64];

static int set_up(void **state)
{
    strcpy(folder, "/tmp/framefarm-test-catalogue-XXXXXX");
    rf_log_set_level(RF_LOG_ERROR); /* the warnings of bad manifests are meant, not news */
    return mkdtemp(folder) == NULL;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    return remove(path);
}

static int tear_down(void **state)
{
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static char *in_folder(const char *name)
{
    char *path = rf_asprintf("%s/%s", folder, name);
    for (char *slash = path + strlen(folder) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    return path;
}

static void put_text(const char *name, const char *text)
{
    RF_AUTO(rf_free) char *path = in_folder(name);
    assert_int_equal(rf_write_file(path, text, strlen(text), NULL), RF_OK);
}

/* A weight file with nothing but what the catalogue looks at. */
static void put_weights(const char *name, int64_t channels)
{
    RF_AUTO(rf_free) char *path = in_folder(name);
    float *zeros = rf_calloc((size_t)channels * 4, sizeof *zeros);
    struct rf_st_entry entry = {.name = "patch_embedding.weight", .dtype = RF_F32, .n_dims = 5,
                                .shape = {1, channels, 1, 2, 2}, .data = zeros,
                                .size_bytes = (size_t)channels * 4 * sizeof *zeros};
    assert_int_equal(rf_safetensors_write(path, &entry, 1, NULL), RF_OK);
    free(zeros);
}

static void put_demo(const char *prefix, const char *manifest)
{
    static const char *const files[] = {"high.safetensors", "low.safetensors", "text.safetensors", "vae.safetensors",
                                        "loras/demo_4steps_high_noise.safetensors",
                                        "loras/demo_4steps_low_noise.safetensors"};
    for (size_t i = 0; i < RF_COUNT_OF(files); i++) {
        RF_AUTO(rf_free) char *name = rf_asprintf("%s%s", prefix, files[i]);
        put_weights(name, 36);
    }
    RF_AUTO(rf_free) char *name = rf_asprintf("%smodel.json", prefix);
    put_text(name, manifest);
}

#define FILES "\"high\":\"high.safetensors\",\"low\":\"low.safetensors\",\"text_encoder\":\"text.safetensors\"," \
              "\"vae\":\"vae.safetensors\""
#define LORAS "\"lora_high\":\"loras/demo_4steps_high_noise.safetensors\"," \
              "\"lora_low\":\"loras/demo_4steps_low_noise.safetensors\""
#define DEMO "{\"name\":\"demo\",\"title\":\"Shapes\"," FILES "," LORAS ",\"max_segment_frames\":81," \
             "\"sizes\":[\"192x128\"],\"vocabulary\":[\"red\"],\"defaults\":{\"size\":\"192x128\",\"num_frames\":81," \
             "\"num_inference_steps\":4,\"switch_step\":2,\"flow_shift\":5.0,\"guidance_scale\":1.0}}"

static void a_manifest_becomes_a_model(void **state)
{
    put_demo("", DEMO);
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    assert_int_equal(rf_catalogue_read(folder, &c, NULL), RF_OK);
    assert_int_equal(c->n_models, 1);
    const struct rf_catalogue_model *m = rf_catalogue_find(c, "demo");
    assert_non_null(m);
    assert_ptr_equal(m, rf_catalogue_find(c, ""));
    assert_null(rf_catalogue_find(c, "other"));
    assert_true(m->about.takes_text && m->about.takes_image);
    assert_int_equal(m->about.defaults.width, 192);
    assert_int_equal(m->about.defaults.n_steps, 4);
    assert_string_equal(m->about.loras[0], "demo_4steps");
    assert_int_equal(strlen(m->about.hash), 64);
}

static void bad_manifests_are_skipped_and_the_others_load(void **state)
{
    put_demo("good/", DEMO);
    put_text("a/model.json", "{");
    put_text("b/model.json", "[]");
    put_text("c/model.json", "{\"name\":\"c\"}");
    put_demo("d/", "{\"name\":\"d\"," FILES ",\"sizes\":[\"15x16\"]}");
    put_demo("e/", "{\"name\":\"e\"," FILES ",\"max_segment_frames\":80}");
    put_demo("f/", "{\"name\":\"../f\"," FILES "}");
    put_demo("g/", "{\"name\":\"g\"," FILES ",\"defaults\":{\"flow_shift\":\"much\"}}");
    put_demo("h/", "{\"name\":\"h\",\"high\":\"gone.safetensors\",\"low\":\"low.safetensors\","
                   "\"text_encoder\":\"text.safetensors\",\"vae\":\"vae.safetensors\"}");
    put_demo("z/", DEMO); /* its name is taken */
    char title[2000];
    memset(title, 'x', sizeof title - 1);
    title[sizeof title - 1] = '\0';
    RF_AUTO(rf_free) char *refused = rf_asprintf("{\"name\":\"y\",\"title\":\"%s\"," FILES "}", title);
    put_demo("y/", refused); /* the server would not take it */
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    assert_int_equal(rf_catalogue_read(folder, &c, NULL), RF_OK);
    assert_int_equal(c->n_models, 1);
    assert_int_equal(c->n_warnings, 10);
}

static void a_folder_without_a_model_is_an_error_that_names_it(void **state)
{
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    struct rf_err err;
    assert_int_equal(rf_catalogue_read(folder, &c, &err), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, folder));
    assert_int_equal(rf_catalogue_read("/nonexistent-folder", &c, &err), RF_ERR_NOT_FOUND);
}

static void experts_of_16_channels_take_no_image(void **state)
{
    put_demo("", DEMO);
    put_weights("high.safetensors", 16);
    put_weights("low.safetensors", 16);
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    assert_int_equal(rf_catalogue_read(folder, &c, NULL), RF_OK);
    const struct rf_catalogue_model *m = rf_catalogue_find(c, "demo");
    assert_false(m->about.takes_image);
    struct rf_model_files files;
    struct rf_err err;
    assert_int_equal(rf_catalogue_files(m, false, NULL, 0, &files, &err), RF_OK);
    assert_int_equal(rf_catalogue_files(m, true, NULL, 0, &files, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "image"));
}

static void experts_that_read_different_inputs_are_no_pair(void **state)
{
    put_demo("", DEMO);
    put_weights("low.safetensors", 16);
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    assert_int_equal(rf_catalogue_read(folder, &c, NULL), RF_ERR_NOT_FOUND);
}

static void the_hash_follows_names_sizes_and_headers(void **state)
{
    put_demo("", DEMO);
    char first[RF_SHA256_HEX];
    for (int round = 0; round < 3; round++) {
        RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
        if (round == 2)
            put_weights("vae.safetensors", 20);
        assert_int_equal(rf_catalogue_read(folder, &c, NULL), RF_OK);
        if (round == 0)
            strcpy(first, c->models[0]->about.hash);
        else if (round == 1)
            assert_string_equal(first, c->models[0]->about.hash);
        else
            assert_string_not_equal(first, c->models[0]->about.hash);
    }
}

static void loras_come_by_default_by_name_or_not_at_all(void **state)
{
    put_demo("", DEMO);
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    assert_int_equal(rf_catalogue_read(folder, &c, NULL), RF_OK);
    const struct rf_catalogue_model *m = c->models[0];
    struct rf_model_files files;
    struct rf_err err;
    assert_int_equal(rf_catalogue_files(m, true, NULL, 0, &files, NULL), RF_OK);
    assert_int_equal(files.n_lora_high, 1);
    assert_true(files.lora_low[0].strength == 1);
    struct rf_request_lora choice = {.name = "demo_4steps", .strength = 0.5};
    assert_int_equal(rf_catalogue_files(m, false, &choice, 1, &files, NULL), RF_OK);
    assert_true(files.n_lora_high == 1 && files.lora_high[0].strength == 0.5f);
    choice.strength = 0;
    for (int n_loras = 0; n_loras < 2; n_loras++) { /* an empty list; one of strength 0 */
        assert_int_equal(rf_catalogue_files(m, false, &choice, n_loras, &files, NULL), RF_OK);
        assert_int_equal(files.n_lora_high + files.n_lora_low, 0);
    }
    strcpy(choice.name, "dragons");
    assert_int_equal(rf_catalogue_files(m, false, &choice, 1, &files, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "dragons"));
    assert_non_null(strstr(err.msg, "demo_4steps"));
}

static void pairs_are_named_without_their_side(void **state)
{
    static const struct {
        const char *path, *name;
        char side;
    } cases[] = {
        {"/m/wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors", "wan2.2_t2v_lightx2v_4steps_lora_v1.1", 'h'},
        {"wan2.2_t2v_A14b_low_noise_lora_rank64_lightx2v_4step_1217.safetensors",
         "wan2.2_t2v_A14b_lora_rank64_lightx2v_4step_1217", 'l'},
        {"Wan2_2-T2V-A14B_HIGH_fp8.safetensors", "Wan2_2-T2V-A14B_fp8", 'h'},
        {"style_highres.safetensors", "style_highres", 0},
    };
    for (size_t i = 0; i < RF_COUNT_OF(cases); i++) {
        char side;
        RF_AUTO(rf_free) char *name = rf_pair_name(cases[i].path, &side);
        assert_string_equal(name, cases[i].name);
        assert_int_equal(side, cases[i].side);
    }
}

static void put_comfy(const char *task, const char *precision, int channels)
{
    static const char *const sides[] = {"high", "low"};
    for (int i = 0; i < 2; i++) {
        RF_AUTO(rf_free) char *name = rf_asprintf("diffusion_models/wan2.2_%s_%s_noise_14B_%s.safetensors", task,
                                                  sides[i], precision);
        put_weights(name, channels);
    }
    put_weights("text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", 1);
    put_weights("vae/wan2.2_vae.safetensors", 1); /* of another family: must not be taken */
    put_weights("vae/wan_2.1_vae.safetensors", 1);
}

static void put_lora(const char *task)
{
    static const char *const sides[] = {"high", "low"};
    for (int i = 0; i < 2; i++) {
        RF_AUTO(rf_free) char *name = rf_asprintf("loras/wan2.2_%s_lightx2v_4steps_lora_v1_%s_noise.safetensors", task,
                                                  sides[i]);
        put_weights(name, 1);
    }
}

static void a_comfyui_folder_is_read_by_its_file_names(void **state)
{
    put_comfy("t2v", "fp8_scaled", 16);
    put_comfy("t2v", "fp16", 16);
    put_comfy("i2v", "fp8_scaled", 36);
    put_comfy("ti2v", "fp16", 48); /* another task */
    put_lora("t2v");
    put_lora("i2v");
    put_weights("loras/style.safetensors", 1);
    put_weights("loras/my style.safetensors", 1); /* no request could name it */
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    assert_int_equal(rf_catalogue_read(folder, &c, NULL), RF_OK);
    assert_int_equal(c->n_models, 2);
    assert_int_equal(c->n_warnings, 0);
    const struct rf_catalogue_model *m = rf_catalogue_find(c, "wan2.2-t2v-a14b");
    assert_non_null(m);
    assert_non_null(rf_catalogue_find(c, "wan2.2-t2v-a14b-fp16"));
    assert_int_equal(m->about.defaults.n_steps, 4);
    assert_int_equal(m->n_loras, 3);
    assert_non_null(strstr(m->vae, "wan_2.1_vae"));
    struct rf_model_files files;
    assert_int_equal(rf_catalogue_files(m, false, NULL, 0, &files, NULL), RF_OK);
    assert_non_null(strstr(files.high, "t2v_high_noise_14B_fp8_scaled"));
    assert_non_null(strstr(files.lora_low[0].path, "t2v_lightx2v_4steps_lora_v1_low_noise"));
    assert_int_equal(rf_catalogue_files(m, true, NULL, 0, &files, NULL), RF_OK);
    assert_non_null(strstr(files.low, "i2v_low_noise_14B_fp8_scaled"));
    assert_non_null(strstr(files.lora_high[0].path, "i2v_lightx2v_4steps_lora_v1_high_noise"));

    /* Named, the text pair's 4-step LoRA still becomes the image pair's own in a continued segment. */
    struct rf_request_lora choice[] = {{.name = "wan2.2_t2v_lightx2v_4steps_lora_v1", .strength = 1},
                                       {.name = "style", .strength = 0.7}};
    assert_int_equal(rf_catalogue_files(m, true, choice, 2, &files, NULL), RF_OK);
    assert_int_equal(files.n_lora_high, 2);
    assert_non_null(strstr(files.lora_high[0].path, "i2v_lightx2v"));
    assert_non_null(strstr(files.lora_low[1].path, "style"));
}

static void without_a_4_step_lora_a_comfyui_model_takes_20_guided_steps(void **state)
{
    put_comfy("i2v", "fp16", 36);
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    assert_int_equal(rf_catalogue_read(folder, &c, NULL), RF_OK);
    const struct rf_catalogue_model *m = rf_catalogue_find(c, "wan2.2-i2v-a14b");
    assert_non_null(m);
    assert_false(m->about.takes_text);
    assert_int_equal(m->about.defaults.n_steps, 20);
    assert_true(m->about.defaults.guidance_scale == 3.5);
}

static void experts_without_a_vae_are_told_apart_from_no_model(void **state)
{
    put_weights("diffusion_models/wan2.2_t2v_high_noise_14B_fp16.safetensors", 16);
    put_weights("diffusion_models/wan2.2_t2v_low_noise_14B_fp16.safetensors", 16);
    RF_AUTO(rf_catalogue_destroy) struct rf_catalogue *c = NULL;
    struct rf_err err;
    assert_int_equal(rf_catalogue_read(folder, &c, &err), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, "warnings"));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_manifest_becomes_a_model),
        CASE(bad_manifests_are_skipped_and_the_others_load),
        CASE(a_folder_without_a_model_is_an_error_that_names_it),
        CASE(experts_of_16_channels_take_no_image),
        CASE(experts_that_read_different_inputs_are_no_pair),
        CASE(the_hash_follows_names_sizes_and_headers),
        CASE(loras_come_by_default_by_name_or_not_at_all),
        CASE(pairs_are_named_without_their_side),
        CASE(a_comfyui_folder_is_read_by_its_file_names),
        CASE(without_a_4_step_lora_a_comfyui_model_takes_20_guided_steps),
        CASE(experts_without_a_vae_are_told_apart_from_no_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
