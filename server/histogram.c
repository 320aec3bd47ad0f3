/* See histogram.h. SPDX-License-Identifier: Apache-2.0 */
#include "server/histogram.h"

#include <math.h>

void rf_histogram_add(struct rf_histogram *h, const double bounds[RF_HISTOGRAM_BOUNDS], double seconds)
{
    int i = 0;
    while (i < RF_HISTOGRAM_BOUNDS && seconds > bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, llround(seconds * 1e6), memory_order_relaxed);
}

void rf_histogram_print(struct rf_out *to, const char *name, const char *label, const char *value,
                        struct rf_histogram *h, const double bounds[RF_HISTOGRAM_BOUNDS])
{
    long long n = 0;
    for (int i = 0; i < RF_HISTOGRAM_BOUNDS; i++) {
        n += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        rf_out_printf(to, "%s_bucket{%s=\"%s\",le=\"%g\"} %lld\n", name, label, value, bounds[i], n);
    }
    n += atomic_load_explicit(&h->count[RF_HISTOGRAM_BOUNDS], memory_order_relaxed);
    rf_out_printf(to, "%s_bucket{%s=\"%s\",le=\"+Inf\"} %lld\n", name, label, value, n);
    rf_out_printf(to, "%s_sum{%s=\"%s\"} %.6f\n", name, label, value,
                  (double)atomic_load_explicit(&h->sum_us, memory_order_relaxed) / 1e6);
    rf_out_printf(to, "%s_count{%s=\"%s\"} %lld\n", name, label, value, n);
}
