/* Benchmarks of single networks and of a whole job, on random weights (phantom.h). bench.c drives and reports; a
 * subject says how to open, run and read one network. SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_NET_BENCH_H
#define RF_NET_BENCH_H

#include "worker/net/shapes.h"

#define RF_BENCH_STAGES 8

struct rf_bench_size {
    int width, height, n_frames, n_layers, n_steps;
    bool limited;          /* there is a budget, so weights move when the size changes */
    int64_t dim;           /* of the transformer; the other networks shrink with it */
    const char *precision; /* "f32", "bf16", "fp8": of the weights; what computes is the engine's affair */
};

/* What a subject knows of its own size. */
struct rf_bench_facts {
    int64_t tokens; /* 0: has none */
    double flop;    /* of one run */
    int64_t predicted_bytes; /* of the engine's memory at the peak */
};

struct rf_bench_stage {
    const char *name; /* static */
    double seconds;   /* of the last run */
};

struct rf_bench_subject {
    const char *name;
    int sample_side, sample_frames; /* at most, of the run on the CPU that the error is taken from */
    enum rf_code (*open)(struct rf_engine *e, const struct rf_bench_size *size, void **ret_self, struct rf_err *err);
    void (*close)(void *self); /* NULL is allowed */
    /* One run, finished when it returns. turn: counts from 0, -1 for the warm-up; no run may profit from what the one
     * before computed. */
    enum rf_code (*run)(void *self, int turn, struct rf_err *err);
    void (*describe)(void *self, struct rf_bench_facts *ret_facts); /* after a run */
    /* What the last run computed. *ret_values: free() it. */
    enum rf_code (*result)(void *self, float **ret_values, int64_t *ret_n, struct rf_err *err);
    /* NULL: no stages. Returns how many. */
    int (*stages)(void *self, struct rf_bench_stage ret_stages[RF_BENCH_STAGES]);
};

extern const struct rf_bench_subject rf_bench_dit, rf_bench_vae_decode, rf_bench_vae_encode, rf_bench_umt5;
extern const struct rf_bench_subject rf_bench_job; /* bench_job.c; the others: bench_nets.c */

/* The networks that belong to a transformer of this width; the public ones at 5120. */
struct rf_dit_shape rf_bench_dit_shape(const struct rf_bench_size *size);
struct rf_umt5_shape rf_bench_umt5_shape(const struct rf_bench_size *size);
int64_t rf_bench_vae_base(const struct rf_bench_size *size);
struct rf_shape_types rf_bench_types(const struct rf_bench_size *size);

/* A phantom that rf_safetensors_open(name) finds until it is finished. name: static. */
struct rf_bench_file {
    const char *name;
    struct rf_phantom phantom;
};
/* Finishes the list too. */
enum rf_code rf_bench_file_map(struct rf_phantom_list *list, const char *name, struct rf_bench_file *ret_file,
                               struct rf_err *err);
void rf_bench_file_finish(struct rf_bench_file *file);

double rf_bench_now(void); /* seconds on a clock that never jumps */

#endif
