/* Stands in for tokenizer_spm.cc where the build has no SentencePiece: open says so, the rest is never reached.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/tokenizer_spm.h"

enum rf_spm_result rf_spm_open(const void *model, size_t size_bytes, struct rf_spm **ret_spm, char *msg,
                               size_t msg_bytes)
{
    (void)model, (void)size_bytes, (void)ret_spm, (void)msg, (void)msg_bytes;
    return RF_SPM_NOT_BUILT;
}

void rf_spm_close(struct rf_spm *spm)
{
    (void)spm;
}

int32_t rf_spm_vocabulary(const struct rf_spm *spm)
{
    (void)spm;
    return 0;
}

enum rf_spm_result rf_spm_encode(const struct rf_spm *spm, const char *text, size_t n_bytes, int32_t *ids,
                                 int64_t max_ids, int64_t *ret_total)
{
    (void)spm, (void)text, (void)n_bytes, (void)ids, (void)max_ids, (void)ret_total;
    return RF_SPM_NOT_BUILT;
}
