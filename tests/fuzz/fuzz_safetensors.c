/* The safetensors reader on arbitrary bytes: it refuses, or every tensor it hands out lies inside the file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/safetensors.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct rf_safetensors *f = NULL;
    struct rf_err err = {0};
    if (rf_safetensors_parse("fuzz", data, n, &f, &err) != RF_OK) {
        RF_ASSERT(f == NULL && err.msg[0] != '\0');
        return 0;
    }
    size_t total = 0;
    for (int i = 0; i < rf_safetensors_count(f); i++) {
        const struct rf_st_entry *e = rf_safetensors_at(f, i);
        const uint8_t *at = e->data;
        size_t elements = 1;
        for (int d = 0; d < e->n_dims; d++)
            elements *= (size_t)e->shape[d];
        RF_ASSERT(elements * rf_dtype_size(e->dtype) == e->size_bytes);
        RF_ASSERT(e->size_bytes == 0 || (at >= data && e->size_bytes <= (size_t)(data + n - at)));
        RF_ASSERT(rf_safetensors_find(f, e->name) == e);
        total += e->size_bytes;
    }
    RF_ASSERT(total <= n);
    rf_safetensors_close(&f);
    return 0;
}
