/* What the golden tests share: reading a case, and the error as golden/README.md defines it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_TESTS_MODEL_GOLDEN_H
#define RF_TESTS_MODEL_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "worker/model/safetensors.h"

/* RF_GOLDEN_DIR is set by the build: tests/golden of the source tree. */
static inline const char *golden_path(const char *name)
{
    static char path[4][512];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", RF_GOLDEN_DIR, name);
    return p;
}

static inline struct rf_safetensors *golden_open(const char *name)
{
    struct rf_safetensors *file = NULL;
    struct rf_err err;
    if (rf_safetensors_open(golden_path(name), &file, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return file;
}

static inline const struct rf_st_entry *golden_tensor(const struct rf_safetensors *file, const char *name,
                                                      enum rf_dtype dtype)
{
    const struct rf_st_entry *entry = rf_safetensors_find(file, name);
    assert_non_null(entry);
    assert_int_equal(entry->dtype, dtype);
    return entry;
}

/* ||out - ref|| / ||ref||; NaN when out has one. */
static inline double golden_error(const float *out, const float *ref, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)out[i] - ref[i]) * ((double)out[i] - ref[i]);
        norm += (double)ref[i] * ref[i];
    }
    return sqrt(difference / norm);
}

static inline void golden_check(const char *name, double error, double limit)
{
    print_message("    %s: relative error %.2g, limit %.2g\n", name, error, limit);
    if (!(error <= limit))
        fail_msg("%s: relative error %g, limit %g", name, error, limit);
}

static inline struct rf_engine *golden_engine(void)
{
    struct rf_engine *e = NULL;
    struct rf_err err;
    if (rf_engine_open(&(struct rf_engine_config){.device = "cpu", .n_threads = 2}, &e, &err) != RF_OK)
        fail_msg("%s", err.msg);
    return e;
}

#endif
