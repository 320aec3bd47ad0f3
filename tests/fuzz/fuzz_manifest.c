/* A model's manifest: whatever stands in it, it becomes a model or an error, and what became a model can be described.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/catalogue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    RF_AUTO(rf_catalogue_model_destroy) struct rf_catalogue_model *m = NULL;
    struct rf_err err;
    if (rf_catalogue_parse_manifest((const char *)data, n, "/folder", &m, &err) != RF_OK)
        return 0;
    RF_ASSERT(m->about.name[0] != '\0' && m->text_experts.high != NULL && m->text_experts.low != NULL && m->vae != NULL);
    RF_ASSERT(m->about.max_segment_frames % 4 == 1);
    free(rf_vocabulary_note(&m->about, (const char *)m->about.title));
    return 0;
}
