/* The catalogue: which models lie in the --models folder, and which files a request needs from them.
 *
 * Two kinds of folder are understood:
 *   - one with a `model.json` (the folder itself or its direct subfolders): a manifest naming the files, as in
 *     models/demo; paths in it are relative to it;
 *   - a ComfyUI `models/` folder, read by the public file names (catalogue_comfy.c).
 * What cannot be read is skipped with a warning that names the file; the rest still serves. Read once at start; then
 * constant, so any thread may read it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_CATALOGUE_H
#define RF_WORKER_CATALOGUE_H

#include "schema/wire.h"
#include "worker/digest.h"
#include "worker/model/pipeline.h"

/* A pair of files, one per expert. */
struct rf_pair {
    char *high, *low; /* paths; of a LoRA one may be NULL: that expert goes without */
};

/* A LoRA that a request may name. */
struct rf_catalogue_lora {
    char *name; /* the files' common name, without _high_noise / _low_noise and the ending */
    struct rf_pair files;
};

struct rf_catalogue_model {
    struct rf_wire_model about;   /* as it is registered; everything in it is owned here */
    struct rf_pair text_experts;  /* from a prompt alone; both NULL: it cannot */
    struct rf_pair image_experts; /* from a start image (36 input channels); both NULL: it cannot */
    char *text_encoder, *vae;
    struct rf_catalogue_lora *loras;
    int n_loras;
    int default_lora_text, default_lora_image; /* index into loras; -1: none */
};

struct rf_catalogue {
    struct rf_catalogue_model **models;
    int n_models;
    int n_warnings; /* things that were skipped (each was logged) */
};

/* Reads `folder`.
 *   RF_ERR_NOT_FOUND  no such folder, or no model in it that can be used */
enum rf_code rf_catalogue_read(const char *folder, struct rf_catalogue **ret_catalogue, struct rf_err *err);
void rf_catalogue_destroy(struct rf_catalogue **catalogue);

/* The model of this name; NULL or "" means the first. NULL: there is none. */
const struct rf_catalogue_model *rf_catalogue_find(const struct rf_catalogue *c, const char *name);

/* Which files to open: for a segment that starts from an image or not, with the LoRAs the request lists. The paths
 * belong to the catalogue.
 *   loras   NULL: the model's default; otherwise these and no other, none for n_loras 0. Strength 0 leaves one out
 *   RF_ERR_INVALID  an unknown LoRA (the message lists those there are), or a start the model cannot make */
enum rf_code rf_catalogue_files(const struct rf_catalogue_model *m, bool from_image,
                                const struct rf_request_lora *loras, int n_loras, struct rf_model_files *ret_files,
                                struct rf_err *err);

/* The words of `prompt` that a model with a vocabulary does not know, as a note for its author ("The demo model does
 * not know: dragon. It draws …"); NULL when there is nothing to say. New; free() it. In notes.c. */
char *rf_vocabulary_note(const struct rf_wire_model *about, const char *prompt);

/* ---- for the files that fill it ---- */

/* A model with nothing in it yet but the defaults that hold for all. */
struct rf_catalogue_model *rf_catalogue_model_create(void);
void rf_catalogue_model_destroy(struct rf_catalogue_model **model);
/* Takes `model` over when its files can be read and its name is new; otherwise logs why not, naming `origin`. */
void rf_catalogue_add(struct rf_catalogue *c, struct rf_catalogue_model *model, const char *origin);
void rf_catalogue_add_lora(struct rf_catalogue_model *m, const char *name, const char *high, const char *low);
void rf_list_add(char ***list, int *n, const char *text); /* appends a copy */

/* catalogue_manifest.c: the model of `folder`/model.json. False: there is no such file. */
bool rf_catalogue_read_manifest(struct rf_catalogue *c, const char *folder);
/* The same from memory, without a look at the files it names. What the fuzzer calls.
 *   ret_model  new. Untouched on failure */
enum rf_code rf_catalogue_parse_manifest(const char *text, size_t n_bytes, const char *folder,
                                         struct rf_catalogue_model **ret_model, struct rf_err *err);
/* catalogue_comfy.c: all models of a ComfyUI models/ folder; does nothing when `folder` is none. */
void rf_catalogue_read_comfy(struct rf_catalogue *c, const char *folder);

/* The name of the pair that a file belongs to: its base name without the ending and without _high_noise or _low_noise
 * (also with -, and without "noise"). ret_side: 'h', 'l', or 0 when it names no expert. New; free() it. */
char *rf_pair_name(const char *path, char *ret_side);

#endif
