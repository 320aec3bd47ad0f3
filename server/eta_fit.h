/* A curve t = a + b n + c n^2 through measured durations, for guessing the next one.
 *
 * n is the number of tokens of a segment. Linear layers cost n, attention costs n^2, the rest neither, so the
 * coefficients are never negative: a curve that bends down through noise would promise the impossible for long clips.
 * Residuals count in parts of the curve's own value (a segment ten times as long errs ten times as much), and those
 * far out weigh little (Huber's weights, started from least absolute deviations), so that a segment that met a busy
 * machine spoils nothing. A weak pull towards the cost law decides where the measurements do not: with a single
 * length measured, other lengths follow from the law alone.
 *
 * Pure: no clock, no lock, and nothing is allocated. One thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_ETA_FIT_H
#define RF_SERVER_ETA_FIT_H

#include "schema/base.h"

#define RF_FIT_CELLS 24          /* different n remembered; beyond, the one not seen for longest goes */
#define RF_FIT_PER_CELL 16       /* newest measurements kept of each: many of one length drive out no other length */

/* Zeroed, but for square_at, is empty. */
struct rf_fit {
    double square_at;            /* the law: n where the square costs as much as the linear part; 0: linear alone */
    struct rf_fit_cell {
        double n, seconds[RF_FIT_PER_CELL];
        int n_seconds, next;
        uint64_t seen;
    } cell[RF_FIT_CELLS];
    int n_cells;
    uint64_t n_added;
    /* What follows is worked out when asked for. */
    bool fitted;
    double a, b, c;              /* t = a + b n + c n^2, all >= 0 */
    double spread;               /* four of five measurements lie within t * (1 +- spread) */
};

/* n > 0, seconds >= 0; others are ignored. */
void rf_fit_add(struct rf_fit *f, double n, double seconds);
/* How many measurements it rests on. */
int rf_fit_count(const struct rf_fit *f);

/* A guess and how wrong it may be: in four of five cases the truth lies within seconds +- error. The error is that of
 * the measurements, wider while they are few and where n is outside of what was measured. */
struct rf_guess {
    double seconds, error;
};
/* False: nothing was measured. */
bool rf_fit_at(struct rf_fit *f, double n, struct rf_guess *ret);

#endif
