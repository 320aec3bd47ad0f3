/* A checkpoint that fills address space, not memory: names, types and shapes of a real one, random values.
 *
 * Its tensors lie in a map of one short random block repeated (one block per type and kind of value), so a 14 B expert
 * takes 64 MB and is there at once; whoever opens it through rf_safetensors_lend() sees an ordinary file. Repeating
 * values is safe for timing: the block's length shares no factor with any row, and no kernel looks for it. Values
 * depend on type, kind and place alone: the same list gives the same bytes everywhere.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_NET_PHANTOM_H
#define RF_NET_PHANTOM_H

#include "worker/model/safetensors.h"

enum rf_values {
    RF_VALUES_MATRIX, /* normal, deviation 0.02 (in FP8: 32, for a scale that makes it 0.02) */
    RF_VALUES_GAIN,   /* of a norm: 1 + normal / 10 */
    RF_VALUES_SCALE,  /* of an FP8 matrix: 0.02 / 32 */
    RF_VALUES_ALPHA,  /* of a LoRA: 8 */
    RF_VALUES_COUNT
};

struct rf_phantom_tensor {
    struct rf_st_entry entry; /* name and data owned by the list; data NULL: `values` says what is in it */
    enum rf_values values;
};

/* What is to be in a checkpoint, in any order. */
struct rf_phantom_list {
    struct rf_phantom_tensor *tensors;
    int n, capacity;
};

void rf_phantom_add(struct rf_phantom_list *list, const char *name, enum rf_dtype dtype, enum rf_values values,
                    int n_dims, const int64_t *shape);
/* A tensor with these bytes (copied). */
void rf_phantom_add_bytes(struct rf_phantom_list *list, const char *name, const void *bytes, size_t size_bytes);
void rf_phantom_list_finish(struct rf_phantom_list *list);

struct rf_phantom {
    const char *bytes; /* a whole safetensors file */
    size_t size_bytes;
};

/* Sorts the list.
 *   RF_ERR_NO_MEMORY  no address space, or no memory for the blocks */
enum rf_code rf_phantom_map(struct rf_phantom_list *list, struct rf_phantom *ret_phantom, struct rf_err *err);
void rf_phantom_finish(struct rf_phantom *phantom);

#endif
