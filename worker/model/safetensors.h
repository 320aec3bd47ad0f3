/* Reading and writing safetensors files: the container of every checkpoint, LoRA and golden vector.
 *
 * A file is memory-mapped read-only and stays as it is; tensors point into the map. Everything in it comes from outside:
 * header length, JSON, names, dtypes, shapes, offsets are checked before anything is believed, and a bad file is an error
 * naming file and tensor (truncated, overlapping, out of range, wrong element count, duplicate names, unknown dtype).
 * Written from the format's description (8-byte little-endian header length, JSON object, dense little-endian data).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_MODEL_SAFETENSORS_H
#define RF_MODEL_SAFETENSORS_H

#include "worker/engine/engine.h"

struct rf_safetensors;

struct rf_st_entry {
    const char *name;   /* owned by the file */
    enum rf_dtype dtype;
    int n_dims;         /* 0: a scalar */
    int64_t shape[RF_MAX_DIMS];
    const void *data;   /* into the map; aligned to nothing in particular; NULL when the tensor has no elements */
    size_t size_bytes;
};

/*   RF_ERR_IO      cannot be opened or mapped
 *   RF_ERR_FORMAT  not a safetensors file, or a damaged one */
enum rf_code rf_safetensors_open(const char *path, struct rf_safetensors **ret_file, struct rf_err *err);
/* The same over bytes that the caller keeps alive; `name` is for messages. What the fuzzer calls. */
enum rf_code rf_safetensors_parse(const char *name, const void *bytes, size_t size_bytes,
                                  struct rf_safetensors **ret_file, struct rf_err *err);
void rf_safetensors_close(struct rf_safetensors **file);

/* From now on rf_safetensors_open(name) reads these bytes instead of a file: for checkpoints that exist in memory only
 * (benchmarks) and everything that opens by path. The caller keeps name and bytes alive until it calls again with bytes
 * NULL. Not while another thread opens files. At most RF_ST_LENT names at once. */
#define RF_ST_LENT 8
void rf_safetensors_lend(const char *name, const void *bytes, size_t size_bytes);

const char *rf_safetensors_path(const struct rf_safetensors *f);
int rf_safetensors_count(const struct rf_safetensors *f);
const struct rf_st_entry *rf_safetensors_at(const struct rf_safetensors *f, int index); /* in name order */
const struct rf_st_entry *rf_safetensors_find(const struct rf_safetensors *f, const char *name); /* NULL: none */
/* A string of the "__metadata__" object, NULL when absent. */
const char *rf_safetensors_metadata(const struct rf_safetensors *f, const char *key);

/* Writes entries (name, dtype, shape, data) as a new file: written beside, synced, renamed. */
enum rf_code rf_safetensors_write(const char *path, const struct rf_st_entry *entries, int n_entries,
                                  struct rf_err *err);
/* The header alone, length first, for entries laid end to end in this order; padded with spaces to a `multiple` of
 * bytes (8 at least), where the first tensor's data then begins. free() it. */
char *rf_safetensors_header(const struct rf_st_entry *const *order, int n_entries, size_t multiple, size_t *ret_bytes);

#endif
