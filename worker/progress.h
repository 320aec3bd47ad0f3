/* Progress of a task as one number: which share of its expected time is behind us.
 *
 * Expectations are the durations measured on the last task, scaled to this one's size, so the bar moves evenly; before
 * the first task a built-in guess stands in. Pure functions, tested alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_PROGRESS_H
#define RF_WORKER_PROGRESS_H

#include "schema/wire.h"

/* The parts of a task, in the order they run. Their names are the wire's. */
enum rf_part {
    RF_PART_LOAD, RF_PART_TEXT, RF_PART_ENCODE_IMAGE, RF_PART_HIGH_NOISE, RF_PART_LOW_NOISE, RF_PART_DECODE,
    RF_PART_INTERPOLATE, RF_PART_ENCODE, RF_PART_UPLOAD, RF_PART_ASSEMBLE, RF_PART_COUNT
};
const char *rf_part_name(enum rf_part part);

/* What a segment will do. */
struct rf_shape {
    bool loads;            /* the model is not in memory yet */
    bool has_image;
    int n_high, n_low;     /* steps */
    bool interpolates;
    double megapixels;     /* width * height * frames / 1e6 */
};

/* Expected seconds: of a whole load and text part, per megapixel of the others (and per step of the noise parts). */
struct rf_pace {
    double seconds[RF_PART_COUNT];
};
extern const struct rf_pace rf_pace_guess;

/* 0..1; `done` of `total` of the part are behind us (total 0: it has just begun). */
double rf_pace_fraction(const struct rf_pace *pace, const struct rf_shape *shape, enum rf_part part, int done,
                        int total);

/* Takes over what a finished task measured; parts it did not have keep their expectation. */
void rf_pace_learn(struct rf_pace *pace, const struct rf_shape *shape, const struct rf_wire_timing *timings, int n);

#endif
