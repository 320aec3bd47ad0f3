/* Random values, guarded tensors, comparison: what op tests of every backend share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_ENGINE_OP_HELPERS_H
#define TESTS_ENGINE_OP_HELPERS_H

#include "worker/engine/engine.h"

#define MAX_GUARDED 24

/* One test's tensors; begin() to end(). */
struct bench {
    struct rf_engine *e;
    struct rf_arena *arena;
    struct rf_tensor flat[MAX_GUARDED]; /* with the guard zones */
    int n_flat;
    uint64_t random;
};

void bench_begin(struct bench *b, struct rf_engine *e);
void bench_end(struct bench *b); /* fails the test when a guard zone has changed or an op has failed */

/* About normal, mean 0, deviation 1; the same sequence in every run. free() it. */
float *bench_random(struct bench *b, int64_t n);

/* A tensor between guard zones: with these values, or NaN everywhere when values is NULL. */
struct rf_tensor bench_tensor(struct bench *b, enum rf_dtype dtype, const float *values, int n_dims,
                              const int64_t *shape);

/* Random values rounded to dtype; *ret_values (free() it) has what the tensor holds. */
struct rf_tensor bench_random_tensor(struct bench *b, enum rf_dtype dtype, float **ret_values, int n_dims,
                                     const int64_t *shape);

/* Fails unless ||t - ref|| / ||ref|| <= tolerance; prints the measured value when OP_SUITE_VERBOSE is set. */
void bench_check(struct bench *b, const char *what, const struct rf_tensor *t, const double *ref, double tolerance);

#endif
