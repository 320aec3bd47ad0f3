/* The pipeline: one segment from a prompt to frames. Text encoder, high-noise expert, low-noise expert, VAE decode.
 *
 * It knows no jobs, files-to-be or network: it takes numbers and a start image, hands out finished frames as they are
 * decoded, and tells a listener which stage it is in. One thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_PIPELINE_H
#define RF_MODEL_PIPELINE_H

#include "worker/engine/engine.h"

struct rf_lora_file {
    const char *path;
    float strength;
};

/* Which files make a model. All paths are borrowed for the call. The same expert pair may serve text and start image
 * when it has 36 input channels; files with 16 channels serve text only. */
struct rf_model_files {
    const char *high, *low;     /* experts */
    const char *text_encoder;   /* with its tokenizer inside (tensor `spiece_model`) */
    const char *vae;
    struct rf_lora_file lora_high[RF_MAX_LORAS], lora_low[RF_MAX_LORAS];
    int n_lora_high, n_lora_low;
};

struct rf_model;

/* Maps the files, reads the configuration from their shapes, checks that they fit each other.
 *   RF_ERR_IO / RF_ERR_FORMAT  a file is missing, damaged or of another kind; named */
enum rf_code rf_model_open(struct rf_engine *e, const struct rf_model_files *files, struct rf_model **ret_model,
                           struct rf_err *err);
void rf_model_close(struct rf_model **model);

/* True when the model can start from an image (36 input channels). */
bool rf_model_takes_image(const struct rf_model *m);

enum rf_stage {
    RF_STAGE_LOAD, RF_STAGE_TEXT, RF_STAGE_ENCODE_IMAGE, RF_STAGE_HIGH_NOISE, RF_STAGE_LOW_NOISE, RF_STAGE_DECODE,
    RF_STAGE_COUNT
};

struct rf_generate_params {
    int width, height;         /* multiples of 16 */
    int n_frames;              /* 4k+1 */
    int n_steps, switch_step;  /* steps [0, switch_step) by the high-noise expert */
    float shift;
    float guidance_high, guidance_low; /* 1: no second pass, the negative prompt is not evaluated */
    uint64_t seed;
    const char *prompt, *negative_prompt; /* UTF-8; negative NULL: empty */
    const uint8_t *start_image;           /* [height, width, 3] RGB, NULL: none */
    bool match_start_colour;              /* take the VAE round trip's colour shift, measured on frame 0 against the
                                             start image, back out of every frame */
    bool small_memory;         /* the smallest plan there is, for a second try where the usual one did not fit: the same
                                  frames, more slowly */
};

/* What the listener is told. Called at the start of each stage and after each step or decoded chunk. */
struct rf_progress {
    enum rf_stage stage;
    int done, total;           /* steps of the stage (or decoded frames); 0 of total at its start */
    /* After a sampling step: a preview of the estimated clean latent's middle frame, RGB [preview_h, preview_w, 3],
     * NULL otherwise. Valid during the call. */
    const uint8_t *preview;
    int preview_w, preview_h;
};

struct rf_generate_listener {
    void *self;
    /* false: stop, rf_model_generate() returns RF_ERR_CANCELLED within one step. NULL: nobody listens. */
    bool (*progress)(void *self, const struct rf_progress *p);
    /* n_frames finished frames [n_frames, height, width, 3] RGB, in order, starting with frame 0. An error ends the
     * run. */
    enum rf_code (*frames)(void *self, const uint8_t *rgb, int n_frames, struct rf_err *err);
};

/* Bytes of memory that a run with these params needs at its peak, weights included. */
int64_t rf_model_peak_bytes(const struct rf_model *m, const struct rf_generate_params *params);

/* What lies where in a run with these params under the engine's budget (worker/model/memory_plan.h), without starting
 * it.
 *   RF_ERR_NO_MEMORY  no plan fits; the message names the smallest budget that would do */
struct rf_memory_plan;
enum rf_code rf_model_plan(const struct rf_model *m, const struct rf_generate_params *params,
                           struct rf_memory_plan *ret_plan, struct rf_err *err);

/*   RF_ERR_INVALID    a parameter is out of its range, or a start image for a model that takes none
 *   RF_ERR_CANCELLED  the listener said stop
 *   RF_ERR_NO_MEMORY  does not fit; nothing was started
 *   RF_ERR_DEVICE     the device failed
 * The same params, files, device kind and precision give the same frames. */
enum rf_code rf_model_generate(struct rf_model *m, const struct rf_generate_params *params,
                               const struct rf_generate_listener *listener, struct rf_err *err);

/* What the last successful run has to say beyond its frames: for notes and reports. */
struct rf_generate_info {
    int n_prompt_tokens;      /* the closing one included */
    bool prompt_truncated;    /* the prompt was longer than the text encoder takes; its end was left out */
    float colour_shift[3];    /* R, G, B: what match_start_colour added to every frame, in steps of 255; else 0 */
    int64_t planned_bytes, peak_bytes; /* of the engine's memory: what the plan said, and what was held at most */
};
void rf_model_last_info(const struct rf_model *m, struct rf_generate_info *ret_info);

#endif
