/* See tokenizer.h. The official rule for long prompts: the first max - 1 pieces, then EOS.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/tokenizer.h"

#include <string.h>

#include "worker/model/prompt.h"
#include "worker/model/tokenizer_spm.h"

#define FIRST_BYTE 3 /* behind padding, end and unknown */

struct rf_tokenizer {
    struct rf_spm *spm; /* NULL: a token per byte */
};

static int64_t encode_bytes(const char *text, int32_t *ids, int64_t max_ids)
{
    int64_t n = (int64_t)strlen(text);
    for (int64_t i = 0; i < n && i < max_ids; i++)
        ids[i] = FIRST_BYTE + (unsigned char)text[i];
    return n;
}

enum rf_code rf_tokenizer_open(const void *model, size_t size_bytes, struct rf_tokenizer **ret_tokenizer,
                               struct rf_err *err)
{
    struct rf_spm *spm = NULL;
    char msg[160] = "";
    if (size_bytes == strlen(RF_TOKENIZER_BYTES) && memcmp(model, RF_TOKENIZER_BYTES, size_bytes) == 0) {
        *ret_tokenizer = rf_new(struct rf_tokenizer);
        return RF_OK;
    }
    switch (rf_spm_open(model, size_bytes, &spm, msg, sizeof msg)) {
    case RF_SPM_OK:
        *ret_tokenizer = rf_new(struct rf_tokenizer);
        (*ret_tokenizer)->spm = spm;
        return RF_OK;
    case RF_SPM_DAMAGED:
        return rf_fail(err, RF_ERR_FORMAT, "the tokenizer's model is damaged: %s", msg);
    case RF_SPM_NO_MEMORY:
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for the tokenizer's model of %zu bytes", size_bytes);
    case RF_SPM_NOT_BUILT:
        break;
    }
    return rf_fail(err, RF_ERR_INVALID, "this build has no tokenizer (Meson option 'tokenizer', libsentencepiece): it "
                                        "cannot read prompts");
}

void rf_tokenizer_close(struct rf_tokenizer **tokenizer)
{
    if (!*tokenizer)
        return;
    if ((*tokenizer)->spm != NULL)
        rf_spm_close((*tokenizer)->spm);
    rf_free(tokenizer);
}

int32_t rf_tokenizer_vocabulary(const struct rf_tokenizer *t)
{
    return t->spm != NULL ? rf_spm_vocabulary(t->spm) : FIRST_BYTE + 256;
}

enum rf_code rf_tokenizer_encode(struct rf_tokenizer *t, const char *prompt, int64_t max_ids, int32_t *ret_ids,
                                 int64_t *ret_n_ids, bool *ret_truncated, struct rf_err *err)
{
    RF_ASSERT(max_ids >= 1);
    RF_AUTO(rf_free) char *clean = NULL;
    enum rf_code rc = rf_prompt_clean(prompt, &clean, err);
    if (rc != RF_OK)
        return rc;
    int64_t total = 0;
    enum rf_spm_result result = RF_SPM_OK;
    if (t->spm != NULL)
        result = rf_spm_encode(t->spm, clean, strlen(clean), ret_ids, max_ids - 1, &total);
    else
        total = encode_bytes(clean, ret_ids, max_ids - 1);
    if (result == RF_SPM_NO_MEMORY)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for a prompt of %zu bytes", strlen(clean));
    if (result != RF_SPM_OK)
        return rf_fail(err, RF_ERR_INVALID, "the prompt cannot be tokenized");
    int64_t n = total < max_ids - 1 ? total : max_ids - 1;
    ret_ids[n] = RF_TOKEN_EOS;
    *ret_n_ids = n + 1;
    if (ret_truncated)
        *ret_truncated = n < total;
    return RF_OK;
}
