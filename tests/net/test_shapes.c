/* Checkpoints of random values: the published counts, sizes and costs, and values that are what they claim to be.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "worker/engine/dtype.h"
#include "worker/net/shapes.h"

static int64_t parameters(const struct rf_phantom_list *list)
{
    int64_t n = 0;
    for (int i = 0; i < list->n; i++) {
        const struct rf_st_entry *e = &list->tensors[i].entry;
        n += (int64_t)(e->size_bytes / rf_dtype_size(e->dtype));
    }
    return n;
}

static void files_have_the_published_parameters(void **state)
{
    (void)state;
    const struct rf_shape_types bf16 = {RF_BF16, RF_BF16};
    struct rf_dit_shape i2v = rf_shape_t2v_14b;
    i2v.in_channels = 36;
    struct rf_phantom_list list = {0};
    rf_shape_dit(&list, &rf_shape_t2v_14b, bf16);
    assert_int_equal(list.n, 1095);
    assert_int_equal(parameters(&list), 14288491584);
    rf_phantom_list_finish(&list);
    rf_shape_dit(&list, &i2v, bf16);
    assert_int_equal(parameters(&list), 14288901184);
    rf_phantom_list_finish(&list);
    rf_shape_umt5(&list, &rf_shape_umt5_xxl, bf16);
    assert_int_equal(list.n, 242);
    assert_int_equal(parameters(&list), 5680910336);
    rf_phantom_list_finish(&list);
    rf_shape_vae(&list, 96, RF_BF16);
    assert_int_equal(list.n, 194);
    assert_int_equal(parameters(&list), 126892531);
    rf_phantom_list_finish(&list);
    rf_shape_lora(&list, &rf_shape_t2v_14b, 64);
    assert_int_equal(parameters(&list), 306708480 + 400); /* and an alpha for each pair */
    rf_phantom_list_finish(&list);
}

static void a_scaled_fp8_expert_has_the_published_keys(void **state)
{
    (void)state;
    struct rf_phantom_list list = {0};
    rf_shape_dit(&list, &rf_shape_t2v_14b, (struct rf_shape_types){RF_F8_E4M3, RF_F16});
    assert_int_equal(list.n, 1908);
    rf_phantom_list_finish(&list);
}

/* Teraflop at 832x1216, from the networks' description, which counts the keys and values of the text (2.15) too. */
static void costs_are_those_of_the_papers_arithmetic(void **state)
{
    (void)state;
    assert_true(fabs(rf_shape_dit_flop(&rf_shape_t2v_14b, 82992, 512) * 1e-12 - (7663.6 - 2.15)) < 1);
    assert_true(fabs(rf_shape_dit_flop(&rf_shape_t2v_14b, 27664, 512) * 1e-12 - (1302.1 - 2.15)) < 1);
    assert_true(fabs(rf_shape_vae_decode_flop(96, 21, 152, 104) * 1e-12 - 702.4) < 0.5);
    assert_true(fabs(rf_shape_vae_encode_flop(96, 21, 152, 104) * 1e-12 - 419.7) < 0.5);
    assert_true(fabs(rf_shape_umt5_flop(&rf_shape_umt5_xxl, 512) * 1e-12 - 4.84) < 0.01);
}

static double deviation(const struct rf_st_entry *e, double mean)
{
    int64_t n = (int64_t)(e->size_bytes / rf_dtype_size(e->dtype));
    RF_AUTO(rf_free) float *values = rf_new_array(float, (size_t)n);
    double sum = 0;
    rf_dtype_to_f32(values, e->data, e->dtype, n);
    for (int64_t i = 0; i < n; i++)
        sum += ((double)values[i] - mean) * ((double)values[i] - mean);
    return sqrt(sum / (double)n);
}

static const struct rf_st_entry *tensor(const struct rf_safetensors *file, const char *name)
{
    const struct rf_st_entry *e = rf_safetensors_find(file, name);
    assert_non_null(e);
    return e;
}

static void a_phantom_opens_as_a_file_and_its_values_are_what_they_claim(void **state)
{
    (void)state;
    const struct rf_dit_shape small = {256, 690, 128, 2, 16};
    struct rf_phantom_list list = {0};
    struct rf_phantom phantom;
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *file = NULL;
    rf_shape_dit(&list, &small, (struct rf_shape_types){RF_F8_E4M3, RF_BF16});
    rf_phantom_add_bytes(&list, "spiece_model", "bytes of its own", 16);
    assert_int_equal(rf_phantom_map(&list, &phantom, NULL), RF_OK);
    rf_safetensors_lend("a phantom", phantom.bytes, phantom.size_bytes);
    assert_int_equal(rf_safetensors_open("a phantom", &file, NULL), RF_OK);
    assert_int_equal(rf_safetensors_count(file), list.n);
    float scale;
    rf_dtype_to_f32(&scale, tensor(file, "blocks.1.ffn.0.scale_weight")->data, RF_F32, 1);
    assert_true(fabs(deviation(tensor(file, "blocks.1.ffn.0.weight"), 0) * (double)scale - 0.02) < 0.002);
    assert_true(fabs(deviation(tensor(file, "blocks.1.norm3.weight"), 1) - 0.1) < 0.02);
    assert_true(fabs(deviation(tensor(file, "time_projection.1.bias"), 0) - 0.02) < 0.002);
    assert_memory_equal(tensor(file, "spiece_model")->data, "bytes of its own", 16);
    assert_true(memcmp(tensor(file, "blocks.0.ffn.0.weight")->data, tensor(file, "blocks.1.ffn.0.weight")->data, 4096));
    rf_safetensors_lend("a phantom", NULL, 0);
    rf_safetensors_close(&file);
    assert_int_equal(rf_safetensors_open("a phantom", &file, NULL), RF_ERR_IO);
    rf_phantom_finish(&phantom);
    rf_phantom_list_finish(&list);
}

/* Longer than its block, which then repeats; the bytes at the seams must be those of their place all the same. */
static void a_long_phantom_repeats_its_block_without_a_seam(void **state)
{
    (void)state;
    const int64_t block = (int64_t)16381 * 4096, n = 3 * block / 2 + 7;
    struct rf_phantom_list list = {0};
    struct rf_phantom phantom;
    rf_phantom_add(&list, "long", RF_BF16, RF_VALUES_MATRIX, 1, &n);
    rf_phantom_add(&list, "narrow", RF_F8_E4M3, RF_VALUES_MATRIX, 1, &n);
    assert_int_equal(rf_phantom_map(&list, &phantom, NULL), RF_OK);
    size_t end = phantom.size_bytes - (size_t)n, start = end - 2 * (size_t)n;
    for (size_t at = start; at + (size_t)block < end; at += 1000)
        assert_int_equal(phantom.bytes[at], phantom.bytes[at + (size_t)block]);
    assert_int_equal(phantom.bytes[end - 1], phantom.bytes[end - 1 - (size_t)block]);
    assert_int_equal(phantom.bytes[end], phantom.bytes[end + (size_t)block]);
    rf_phantom_finish(&phantom);
    rf_phantom_list_finish(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_have_the_published_parameters),
        cmocka_unit_test(a_scaled_fp8_expert_has_the_published_keys),
        cmocka_unit_test(costs_are_those_of_the_papers_arithmetic),
        cmocka_unit_test(a_phantom_opens_as_a_file_and_its_values_are_what_they_claim),
        cmocka_unit_test(a_long_phantom_repeats_its_block_without_a_seam),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
