/* Expected durations and the share of them behind us; see progress.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/progress.h"

#include <string.h>

static const char *const part_names[] = {"load",   "text",        "encode_image", "high_noise", "low_noise",
                                         "decode", "interpolate", "encode",       "upload",     "assemble"};
_Static_assert(RF_COUNT_OF(part_names) == RF_PART_COUNT, "a part has no name");

/* Two CPU cores with the small model, 81 frames of 192x128; only the proportions matter, and only for one task. */
const struct rf_pace rf_pace_guess = {.seconds = {[RF_PART_LOAD] = 0.4,
                                                  [RF_PART_TEXT] = 0.02,
                                                  [RF_PART_ENCODE_IMAGE] = 1.2,
                                                  [RF_PART_HIGH_NOISE] = 0.92,
                                                  [RF_PART_LOW_NOISE] = 0.92,
                                                  [RF_PART_DECODE] = 5.7,
                                                  [RF_PART_INTERPOLATE] = 0.46,
                                                  [RF_PART_ENCODE] = 0.15,
                                                  [RF_PART_UPLOAD] = 0.01,
                                                  [RF_PART_ASSEMBLE] = 0.05}};

const char *rf_part_name(enum rf_part part)
{
    return part_names[part];
}

/* How many units of its pace a part takes in a task of this shape. */
static double units_of(const struct rf_shape *shape, enum rf_part part)
{
    switch (part) {
    case RF_PART_LOAD: return shape->loads;
    case RF_PART_TEXT: return 1;
    case RF_PART_ENCODE_IMAGE: return shape->has_image ? shape->megapixels : 0;
    case RF_PART_HIGH_NOISE: return shape->n_high * shape->megapixels;
    case RF_PART_LOW_NOISE: return shape->n_low * shape->megapixels;
    case RF_PART_INTERPOLATE: return shape->interpolates ? shape->megapixels : 0;
    case RF_PART_DECODE:
    case RF_PART_ENCODE:
    case RF_PART_UPLOAD: return shape->megapixels;
    case RF_PART_ASSEMBLE:
    case RF_PART_COUNT: return 0;
    }
    return 0;
}

double rf_pace_fraction(const struct rf_pace *pace, const struct rf_shape *shape, enum rf_part part, int done,
                        int total)
{
    double behind = 0, all = 0;
    for (int i = 0; i < RF_PART_COUNT; i++) {
        double seconds = pace->seconds[i] * units_of(shape, (enum rf_part)i);
        all += seconds;
        if (i < (int)part)
            behind += seconds;
        else if (i == (int)part && total > 0)
            behind += seconds * (done < total ? (double)done / total : 1);
    }
    return all > 0 ? behind / all : 0;
}

void rf_pace_learn(struct rf_pace *pace, const struct rf_shape *shape, const struct rf_wire_timing *timings, int n)
{
    for (int i = 0; i < RF_PART_COUNT; i++) {
        double seconds = 0, units = units_of(shape, (enum rf_part)i);
        bool measured = false;
        for (int k = 0; k < n; k++)
            if (strcmp(timings[k].stage, part_names[i]) == 0) {
                seconds += timings[k].seconds;
                measured = true;
            }
        if (measured && units > 0)
            pace->seconds[i] = seconds / units;
    }
}
