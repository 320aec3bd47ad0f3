/* The memory plan: what lies where for one run under a budget, and the peak that follows. Pure arithmetic: no device,
 * no file, no clock. docs/design.md, part 8.
 *
 * A run takes from the engine, in this order: what the backend itself holds (`fixed`), the weights that stay
 * (`weights`), what lives through the run (`base`), and one after the other the text encoder, the start image, the
 * sampling and the decoding. What does not fit is traded against time, cheapest first: fewer rows of the hidden layer
 * at once, keys and values of the text made anew per block, queries in row chunks, blocks of the experts and of the
 * text encoder kept in host memory and copied in one ahead of the compute, the VAE in single frames. The numbers that
 * come out are the same.
 *
 * Among all plans that fit the one with the least `slowdown` is taken, so a larger budget is never slower.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_MEMORY_PLAN_H
#define RF_MODEL_MEMORY_PLAN_H

#include "worker/model/dit.h"

#define RF_N_EXPERTS 2

/* What checkpoint and device say. Bytes are of the engine's memory, rounded as its arenas round. All may be 0: nothing
 * of the kind takes part (a benchmark of one network). */
struct rf_memory_facts {
    enum rf_dtype act;
    struct rf_dit_config dit;
    int64_t expert_globals[RF_N_EXPERTS]; /* of an expert, outside its blocks: always on the device */
    int64_t expert_block[RF_N_EXPERTS];   /* its largest block; dit.n_layers of them */
    bool pinned;                          /* weights cannot leave the device (host engines read the mapped file) */
    int64_t text_globals, text_layer;     /* text encoder; its largest layer */
    int n_text_layers;
    int64_t text_scratch;
    int64_t vae_weights;
    int64_t encode_image[2], decode[2];   /* of a whole push, and sliced (RF_VAE_SLICED); 0 when there is none */
    int64_t fixed;                        /* rf_engine_fixed_bytes() */
};

struct rf_memory_request {
    int n_frames, width, height; /* of the video */
    bool guided;                 /* some step needs the second pass */
    bool start_image;
    bool small;                  /* the smallest plan there is, whatever the budget */
};

struct rf_memory_plan {
    int64_t ffn_rows;            /* rows of the hidden layer at once */
    int64_t query_rows;          /* rows of norm, queries and attention output at once; the number of tokens: all */
    bool keep_text;              /* the text's keys and values are kept for all blocks */
    bool slice_vae;
    bool keep_text_encoder;      /* false: its layers come in one by one and leave */
    int n_streamed[RF_N_EXPERTS]; /* blocks that are in host memory; which: rf_memory_plan_streams() */
    int64_t slot;                /* bytes of one device copy of a streamed block; 0: none is needed */
    int64_t fixed, weights, base, text, encode_image, sample, decode; /* bytes; sample has the slots */
    int64_t peak;                /* fixed + weights + base + the largest of the four */
    int64_t host;                /* pinned host memory of the streamed blocks */
    double slowdown;             /* expected, as a fraction of the time with everything resident; for choosing only */
};

/*   budget  bytes that the engine may hold in all; 0: no limit
 *   RF_ERR_NO_MEMORY  no plan fits; the message names the smallest budget that would do */
enum rf_code rf_memory_plan_make(const struct rf_memory_facts *facts, const struct rf_memory_request *request,
                                 int64_t budget, struct rf_memory_plan *ret_plan, struct rf_err *err);

/* The smallest budget that rf_memory_plan_make() accepts for this request. */
int64_t rf_memory_plan_least(const struct rf_memory_facts *facts, const struct rf_memory_request *request);

/* Whether block `index` of `n_blocks` is a streamed one when n_streamed are. Spread evenly, so that copies find compute
 * to hide behind; the set for n is part of the set for n + 1, so that another plan moves few blocks. */
bool rf_memory_plan_streams(int n_streamed, int n_blocks, int index);

#endif
