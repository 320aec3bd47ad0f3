/* See op_helpers.h. SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/op_helpers.h"

#include "worker/engine/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define GUARD 128 /* elements before and after */
#define ARENA_BYTES ((int64_t)64 << 20)
#define PATTERN 0xa5

void bench_begin(struct bench *b, struct rf_engine *e)
{
    *b = (struct bench){.e = e, .random = 88172645463325252u};
    assert_int_equal(rf_arena_create(e, ARENA_BYTES, &b->arena, NULL), RF_OK);
}

void bench_end(struct bench *b)
{
    struct rf_err err = {0};
    if (rf_engine_sync(b->e, &err) != RF_OK)
        fail_msg("%s", err.msg);
    for (int i = 0; i < b->n_flat; i++) {
        size_t size = rf_tensor_bytes(&b->flat[i]), guard = GUARD * rf_dtype_size(b->flat[i].dtype);
        unsigned char *bytes = malloc(size);
        assert_int_equal(rf_download(b->e, &b->flat[i], bytes, NULL), RF_OK);
        for (size_t k = 0; k < guard; k++)
            if (bytes[k] != PATTERN || bytes[size - 1 - k] != PATTERN)
                fail_msg("tensor %d: a byte outside was written", i);
        free(bytes);
    }
    rf_arena_destroy(&b->arena);
}

float *bench_random(struct bench *b, int64_t n)
{
    float *values = rf_new_array(float, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int k = 0; k < 4; k++) { /* xorshift; four uniform numbers make a fair bell */
            b->random ^= b->random << 13;
            b->random ^= b->random >> 7;
            b->random ^= b->random << 17;
            sum += (double)(b->random >> 11) * 0x1p-53 - 0.5;
        }
        values[i] = (float)(sum * 1.7320508);
    }
    return values;
}

struct rf_tensor bench_tensor(struct bench *b, enum rf_dtype dtype, const float *values, int n_dims,
                              const int64_t *shape)
{
    assert_true(b->n_flat < MAX_GUARDED);
    int64_t n = 1;
    for (int i = 0; i < n_dims; i++)
        n *= shape[i];
    struct rf_tensor flat = rf_arena_tensor(b->arena, dtype, RF_SHAPE(n + 2 * GUARD));
    b->flat[b->n_flat++] = flat;
    unsigned char *bytes = malloc(rf_tensor_bytes(&flat));
    size_t size = rf_dtype_size(dtype);
    memset(bytes, PATTERN, rf_tensor_bytes(&flat));
    if (values != NULL)
        rf_dtype_from_f32(bytes + GUARD * size, dtype, values, n);
    else
        memset(bytes + GUARD * size, 0xff, (size_t)n * size); /* NaN in every float type */
    rf_upload(b->e, &flat, bytes);
    assert_int_equal(rf_engine_sync(b->e, NULL), RF_OK);
    free(bytes);
    struct rf_tensor inner = rf_tensor_slice(&flat, GUARD, n);
    return rf_tensor_reshape(&inner, n_dims, shape);
}

struct rf_tensor bench_random_tensor(struct bench *b, enum rf_dtype dtype, float **ret_values, int n_dims,
                                     const int64_t *shape)
{
    int64_t n = 1;
    for (int i = 0; i < n_dims; i++)
        n *= shape[i];
    float *values = bench_random(b, n);
    struct rf_tensor t = bench_tensor(b, dtype, values, n_dims, shape);
    void *rounded = malloc((size_t)n * 4);
    rf_dtype_from_f32(rounded, dtype, values, n);
    rf_dtype_to_f32(values, rounded, dtype, n);
    free(rounded);
    *ret_values = values;
    return t;
}

void bench_check(struct bench *b, const char *what, const struct rf_tensor *t, const double *ref, double tolerance)
{
    struct rf_err err = {0};
    int64_t n = rf_tensor_elements(t);
    float *values = rf_new_array(float, (size_t)n);
    void *bytes = malloc(rf_tensor_bytes(t));
    if (rf_download(b->e, t, bytes, &err) != RF_OK)
        fail_msg("%s: %s", what, err.msg);
    rf_dtype_to_f32(values, bytes, t->dtype, n);
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (values[i] - ref[i]) * (values[i] - ref[i]);
        norm += ref[i] * ref[i];
    }
    double error = sqrt(difference / norm);
    if (getenv("OP_SUITE_VERBOSE") != NULL)
        print_message("%s: %.2e (limit %.0e)\n", what, error, tolerance);
    if (!(error <= tolerance))
        fail_msg("%s: error %.2e is above %.0e", what, error, tolerance);
    free(values);
    free(bytes);
}
