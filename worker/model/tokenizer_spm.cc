/* SentencePiece behind tokenizer_spm.h. The only C++ of the project: no exception and no C++ type leaves this file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/tokenizer_spm.h"

#include <cstdio>
#include <new>
#include <string_view>
#include <vector>

#include <sentencepiece_processor.h>

struct rf_spm {
    sentencepiece::SentencePieceProcessor processor;
};

enum rf_spm_result rf_spm_open(const void *model, size_t size_bytes, struct rf_spm **ret_spm, char *msg,
                               size_t msg_bytes)
{
    try {
        auto spm = std::make_unique<rf_spm>();
        auto status = spm->processor.LoadFromSerializedProto(
            std::string_view(static_cast<const char *>(model), size_bytes));
        if (!status.ok() || spm->processor.GetPieceSize() < 2) {
            snprintf(msg, msg_bytes, "%s", status.ok() ? "it has no pieces" : status.error_message());
            return RF_SPM_DAMAGED;
        }
        *ret_spm = spm.release();
        return RF_SPM_OK;
    } catch (const std::bad_alloc &) {
        return RF_SPM_NO_MEMORY;
    } catch (...) {
        snprintf(msg, msg_bytes, "it cannot be read");
        return RF_SPM_DAMAGED;
    }
}

void rf_spm_close(struct rf_spm *spm)
{
    delete spm;
}

int32_t rf_spm_vocabulary(const struct rf_spm *spm)
{
    return spm->processor.GetPieceSize();
}

enum rf_spm_result rf_spm_encode(const struct rf_spm *spm, const char *text, size_t n_bytes, int32_t *ids,
                                 int64_t max_ids, int64_t *ret_total)
{
    try {
        std::vector<int> all;
        if (!spm->processor.Encode(std::string_view(text, n_bytes), &all).ok())
            return RF_SPM_DAMAGED;
        *ret_total = static_cast<int64_t>(all.size());
        for (int64_t i = 0; i < *ret_total && i < max_ids; i++)
            ids[i] = all[static_cast<size_t>(i)];
        return RF_SPM_OK;
    } catch (...) {
        return RF_SPM_NO_MEMORY;
    }
}
