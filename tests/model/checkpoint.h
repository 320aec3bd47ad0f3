/* Checkpoints made for a test: the golden transformer's tensors, changed, written as a new file, run on the golden
 * input. SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_MODEL_CHECKPOINT_H
#define TESTS_MODEL_CHECKPOINT_H

#include "worker/model/dit.h"

#define CHECKPOINT_MAX 400

struct checkpoint {
    struct rf_st_entry entries[CHECKPOINT_MAX]; /* names and data are ours */
    int n;
};

/* A copy of a file's tensors; an empty one for path NULL. */
struct checkpoint *checkpoint_load(const char *path);
void checkpoint_free(struct checkpoint **c);

struct rf_st_entry *checkpoint_find(struct checkpoint *c, const char *name);

/* The tensor as F32; free() it. */
float *checkpoint_floats(const struct rf_st_entry *entry);

/* Adds or replaces a tensor, from floats rounded to a float dtype. */
void checkpoint_set(struct checkpoint *c, const char *name, enum rf_dtype dtype, int n_dims, const int64_t *shape,
                    const float *values);
void checkpoint_remove(struct checkpoint *c, const char *name);
/* In all names that carry the prefix. */
void checkpoint_rename(struct checkpoint *c, const char *prefix, const char *new_prefix);

/* Written into the test's own folder under this name; the path is static until the 8th call after. */
const char *checkpoint_write(struct checkpoint *c, const char *file_name);
const char *checkpoint_path(const char *file_name);

/* One forward pass on tests/golden/<golden>/<io>; LoRA files as "path" with strength. *ret_velocity: free() it.
 * An error of opening comes back. */
struct lora_use {
    const char *path;
    float strength;
};
enum rf_code checkpoint_run(const char *weights, const char *io_path, const struct lora_use *loras, int n_loras,
                            float **ret_velocity, int64_t *ret_n, struct rf_err *err);

#endif
