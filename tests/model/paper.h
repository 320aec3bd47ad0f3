/* A device that exists on paper: it hands out addresses instead of memory and computes nothing, but knows what is
 * allocated and what is on its way. So a full-size run can be walked through anywhere, and every op checked for
 * reading weights that have left, or have not come yet.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_TESTS_MODEL_PAPER_H
#define RF_TESTS_MODEL_PAPER_H

#include "worker/engine/front.h"

/* bf16 activations, not host memory. Fails the test when an op touches what is not there. */
extern const struct rf_backend paper_backend;

struct paper_device {
    int64_t total_bytes;     /* what the device has; set before opening */
    int64_t taken_by_others; /* may change at any time */
    int64_t fixed_bytes;
    int64_t used_bytes;      /* told: what the engine has allocated */
    int n_allocs, n_fills, n_ops;
    int fail_after_ops;      /* the op that fails; 0: none */
    enum rf_code failure;
};
extern struct paper_device paper;

#endif
