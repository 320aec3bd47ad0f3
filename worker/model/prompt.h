/* Cleaning of prompts, as the official code does it minus its repair of broken encodings: runs of whitespace become one
 * space, none at either end. Nothing else has a meaning: parentheses are text, not emphasis.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_PROMPT_H
#define RF_MODEL_PROMPT_H

#include "schema/err.h"

/* ret_clean: new, free(). Untouched on failure.
 *   RF_ERR_INVALID  not UTF-8; the message gives the byte */
enum rf_code rf_prompt_clean(const char *prompt, char **ret_clean, struct rf_err *err);

#endif
