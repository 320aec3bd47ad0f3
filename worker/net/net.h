/* framefarm-net: one network, one file in, one file out. For people who check or debug networks.
 *
 * Each command reads tensors `in.*`, computes, and hands over `out.*` under the names of tests/golden. What happens
 * with them (writing, comparing) is the same for all and lives in main.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_NET_NET_H
#define RF_NET_NET_H

#include "worker/model/safetensors.h"

struct rf_net_options {
    const char *weights, *input, *output, *compare; /* paths; NULL: not given */
    double tolerance;
    const char *device, *precision;
    int n_threads;
    struct {
        const char *path;
        float strength;
    } loras[RF_MAX_LORAS];
    int n_loras;
    uint64_t seed;
    int64_t shape[RF_MAX_DIMS];
    int n_shape; /* 0: not given */
    int steps;   /* 0: not given */
    float shift;
    /* bench and checkpoint: */
    const char *what, *attention, *type, *tokenizer; /* which network, which file; NULL: not given */
    int width, height, n_frames, n_layers, dim, repeat; /* 0: not given */
    int64_t vram_bytes; /* 0: no limit */
    bool sparse, separate_memory;
};

/* Results on their way out; owns names and data. */
struct rf_net_result {
    struct rf_st_entry entries[4];
    int n_entries;
};

/* New F32 values of this shape under `name`, to be filled by the caller. NULL and an error when memory is short. */
float *rf_net_result_add(struct rf_net_result *r, const char *name, int n_dims, const int64_t *shape,
                         struct rf_err *err);

/* The float tensor `name` of the input file as F32, with `n_dims` dimensions; a leading batch dimension of 1 may be
 * missing in the file. *ret_values: free() it.
 *   RF_ERR_FORMAT  missing, not a float, of another rank, or empty */
enum rf_code rf_net_read(const struct rf_safetensors *file, const char *name, int n_dims, int64_t *ret_shape,
                         float **ret_values, struct rf_err *err);

/* Opens the engine that --device and --precision ask for. */
enum rf_code rf_net_open_engine(const struct rf_net_options *o, struct rf_engine **ret_engine, struct rf_err *err);

typedef enum rf_code rf_net_command(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err);

rf_net_command rf_net_dit;        /* cmd_dit.c */
rf_net_command rf_net_vae_encode; /* cmd_vae.c */
rf_net_command rf_net_vae_decode;
rf_net_command rf_net_umt5;       /* cmd_umt5.c */
rf_net_command rf_net_noise;      /* cmd_sampler.c */
rf_net_command rf_net_sigmas;
rf_net_command rf_net_checkpoint; /* cmd_checkpoint.c */
rf_net_command rf_net_bench;      /* bench.c */

#endif
