/* The curve through what was measured; eta_fit.h says why it is this one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/eta_fit.h"

#include <math.h>
#include <stdlib.h>

#define MAX_SAMPLES (RF_FIT_CELLS * RF_FIT_PER_CELL)
#define N_ROUNDS 30
#define N_ROUNDS_ABSOLUTE 12    /* of these: least absolute deviations, which no outlier can pull along */
#define ABSOLUTE_AT 0.01
#define HUBER 1.345
#define PULL 0.003              /* of the law, against 1 per measurement */
#define LEAST_SPREAD 0.02

struct sample {
    double x, t, weight, fitted; /* n and seconds in units near 1 */
};

static struct rf_fit_cell *cell_for(struct rf_fit *f, double n)
{
    int oldest = 0;
    for (int i = 0; i < f->n_cells; i++) {
        if (f->cell[i].n == n)
            return &f->cell[i];
        if (f->cell[i].seen < f->cell[oldest].seen)
            oldest = i;
    }
    struct rf_fit_cell *cell = &f->cell[f->n_cells < RF_FIT_CELLS ? f->n_cells++ : oldest];
    *cell = (struct rf_fit_cell){.n = n};
    return cell;
}

void rf_fit_add(struct rf_fit *f, double n, double seconds)
{
    if (!(n > 0) || !(seconds >= 0) || !isfinite(n) || !isfinite(seconds))
        return;
    struct rf_fit_cell *cell = cell_for(f, n);
    cell->seconds[cell->next] = seconds;
    cell->next = (cell->next + 1) % RF_FIT_PER_CELL;
    cell->n_seconds += cell->n_seconds < RF_FIT_PER_CELL;
    cell->seen = ++f->n_added;
    f->fitted = false;
}

int rf_fit_count(const struct rf_fit *f)
{
    int n = 0;
    for (int i = 0; i < f->n_cells; i++)
        n += f->cell[i].n_seconds;
    return n;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts `x`; the value below which `part` of them lie. */
static double quantile(double *x, int n, double part)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    double at = part * (n - 1);
    int i = (int)at;
    return i + 1 < n ? x[i] + (at - i) * (x[i + 1] - x[i]) : x[n - 1];
}

/* Solves m y = r for the coefficients in `set` (bits), the others being 0. False: singular. */
static bool solve(double m[3][3], const double r[3], unsigned set, double ret_y[3])
{
    double a[3][4];
    int index[3], n = 0;
    for (int i = 0; i < 3; i++)
        if (set & 1u << i)
            index[n++] = i;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++)
            a[i][k] = m[index[i]][index[k]];
        a[i][n] = r[index[i]];
    }
    ret_y[0] = ret_y[1] = ret_y[2] = 0;
    for (int i = 0; i < n; i++) {
        if (!(fabs(a[i][i]) > 1e-12))
            return false;
        for (int row = 0; row < n; row++) {
            double factor = a[row][i] / a[i][i];
            for (int k = i; row != i && k <= n; k++)
                a[row][k] -= factor * a[i][k];
        }
    }
    for (int i = 0; i < n; i++)
        ret_y[index[i]] = a[i][n] / a[i][i];
    return true;
}

/* Least squares with no negative coefficient. The best one is the unrestricted best on some subset of the coefficients,
 * and of three there are only seven subsets: try them all. */
static void solve_not_negative(double m[3][3], const double r[3], double y[3])
{
    double best = INFINITY;
    for (unsigned set = 1; set < 8; set++) {
        double z[3];
        if (!solve(m, r, set, z) || z[0] < 0 || z[1] < 0 || z[2] < 0)
            continue;
        double cost = -(r[0] * z[0] + r[1] * z[1] + r[2] * z[2]); /* y'my - 2r'y at its least */
        if (cost < best) {
            best = cost;
            y[0] = z[0];
            y[1] = z[1];
            y[2] = z[2];
        }
    }
}

static double law(const struct rf_fit *f, double n)
{
    return f->square_at > 0 ? n + n * n / f->square_at : n;
}

static int collect(const struct rf_fit *f, struct sample *s, double *ret_n_unit, double *ret_t_unit)
{
    static _Thread_local double scratch[MAX_SAMPLES];
    int n = 0;
    double logs = 0;
    for (int i = 0; i < f->n_cells; i++)
        logs += log(f->cell[i].n);
    *ret_n_unit = exp(logs / f->n_cells);
    for (int i = 0; i < f->n_cells; i++)
        for (int k = 0; k < f->cell[i].n_seconds; k++) {
            s[n] = (struct sample){.x = f->cell[i].n / *ret_n_unit, .t = f->cell[i].seconds[k]};
            scratch[n] = s[n].t * law(f, *ret_n_unit) / law(f, f->cell[i].n);
            n++;
        }
    *ret_t_unit = quantile(scratch, n, 0.5);
    if (!(*ret_t_unit > 1e-9))
        *ret_t_unit = 1e-9;
    for (int i = 0; i < n; i++)
        s[i].t /= *ret_t_unit;
    return n;
}

/* One round of reweighted least squares; `y` holds the last round's answer. */
static void round_of(struct sample *s, int n, double huber_at, const double pulled_to[3], double y[3])
{
    double m[3][3] = {{PULL, 0, 0}, {0, PULL, 0}, {0, 0, PULL}};
    double r[3] = {PULL * pulled_to[0], PULL * pulled_to[1], PULL * pulled_to[2]};
    for (int i = 0; i < n; i++) {
        double f = fmax(y[0] + y[1] * s[i].x + y[2] * s[i].x * s[i].x, 1e-9), off = fabs(s[i].t / f - 1);
        double w = (off > huber_at ? huber_at / off : 1) / (f * f);
        double row[3] = {1, s[i].x, s[i].x * s[i].x};
        for (int p = 0; p < 3; p++) {
            r[p] += w * row[p] * s[i].t;
            for (int q = 0; q < 3; q++)
                m[p][q] += w * row[p] * row[q];
        }
    }
    solve_not_negative(m, r, y);
}

/* Residuals in parts of the curve, into `off`. */
static void residuals(const struct sample *s, int n, const double y[3], double *off)
{
    for (int i = 0; i < n; i++)
        off[i] = s[i].t / fmax(y[0] + y[1] * s[i].x + y[2] * s[i].x * s[i].x, 1e-9) - 1;
}

static void fit(struct rf_fit *f)
{
    static _Thread_local struct sample s[MAX_SAMPLES];
    static _Thread_local double off[MAX_SAMPLES];
    double n_unit, t_unit;
    int n = collect(f, s, &n_unit, &t_unit);
    double square = f->square_at > 0 ? n_unit / (f->square_at + n_unit) : 0;
    const double pulled_to[3] = {0, 1 - square, square};
    double y[3] = {0, 1 - square, square};
    for (int i = 0; i < N_ROUNDS; i++) {
        double huber_at = ABSOLUTE_AT;
        if (i >= N_ROUNDS_ABSOLUTE) {
            residuals(s, n, y, off);
            for (int k = 0; k < n; k++)
                off[k] = fabs(off[k]);
            huber_at = fmax(HUBER * 1.4826 * quantile(off, n, 0.5), ABSOLUTE_AT);
        }
        round_of(s, n, huber_at, pulled_to, y);
    }
    residuals(s, n, y, off);
    double high = quantile(off, n, 0.9), low = quantile(off, n, 0.1);
    f->spread = fmax(fmax(high, -low), LEAST_SPREAD);
    f->a = y[0] * t_unit;
    f->b = y[1] * t_unit / n_unit;
    f->c = y[2] * t_unit / (n_unit * n_unit);
    f->fitted = true;
}

/* How far outside of the measured lengths n lies, as the logarithm of a ratio. */
static double outside(const struct rf_fit *f, double n)
{
    double least = INFINITY, most = 0;
    for (int i = 0; i < f->n_cells; i++) {
        least = fmin(least, f->cell[i].n);
        most = fmax(most, f->cell[i].n);
    }
    return n > most ? log(n / most) : n < least ? log(least / n) : 0;
}

bool rf_fit_at(struct rf_fit *f, double n, struct rf_guess *ret)
{
    if (f->n_cells == 0)
        return false;
    if (!f->fitted)
        fit(f);
    /* Five measurements say little about the spread of the sixth. From one length to one k times as long the truth may
     * be anything between k and k^2 times; three lengths show which. */
    double few = 0.5 / rf_fit_count(f), far = outside(f, n) * (f->n_cells < 3 ? 0.5 : 0.15);
    ret->seconds = f->a + f->b * n + f->c * n * n;
    ret->error = ret->seconds * (f->spread + few + far);
    return true;
}
