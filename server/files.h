/* The data folder: bytes in, whole files out.
 *
 *     DATA/farm.db
 *     DATA/tmp/…                           uploads on their way
 *     DATA/files/<job id>/<tag>-<name>     whole ones
 *
 * A file is written in tmp/, hashed on the way, synced, renamed into its job's folder, and the folder is synced. The tag is
 * new for every upload, so a rename never overwrites: which upload counts is decided afterwards by one row in the store,
 * under the lease. A worker back from the dead leaves at most a stray file, which the sweep takes.
 * Names from outside are never used as paths before rf_file_name_valid() and rf_id_parse() have passed them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_FILES_H
#define RF_SERVER_FILES_H

#include "server/store.h"

struct rf_files;

/* Opens (and makes) the folder, empties tmp/. RF_ERR_IO: cannot be made or written, named. */
enum rf_code rf_files_open(const char *data_dir, struct rf_files **ret_files, struct rf_err *err);
/* The same for a look from outside, beside a running server: makes nothing, empties nothing. */
enum rf_code rf_files_look_into(const char *data_dir, struct rf_files **ret_files, struct rf_err *err);
void rf_files_destroy(struct rf_files **files);

/* ---- taking one in; an upload belongs to one thread at a time ---- */

struct rf_upload;
/*   max_bytes  more than this is RF_ERR_LIMIT at the write that passes it */
enum rf_code rf_upload_begin(struct rf_files *files, int64_t max_bytes, struct rf_upload **ret_upload, struct rf_err *err);
/*   RF_ERR_LIMIT  too long;  RF_ERR_NO_SPACE  the disk is full. The upload can only be destroyed now */
enum rf_code rf_upload_write(struct rf_upload *upload, const void *bytes, size_t n_bytes, struct rf_err *err);
int64_t rf_upload_size(const struct rf_upload *upload);
/* Syncs, checks the hash, moves the file to its place under a new tag, syncs the folder.
 *   sha256      expected, lower-case hex; NULL: whatever it is
 *   ret_file    name, disk_name, size, sha256 and created_ms filled, content_type ""
 *   RF_ERR_FORMAT   another hash: nothing is kept
 *   RF_ERR_INVALID  the name is not one of a job's files
 * The upload is spent either way; destroy it. */
enum rf_code rf_upload_finish(struct rf_upload *upload, const char *job_id, const char *name, const char *sha256,
                              int64_t now_ms, struct rf_file *ret_file, struct rf_err *err);
/* An unfinished one is removed from the disk. */
void rf_upload_destroy(struct rf_upload **upload);

/* ---- giving out ---- */

/* A descriptor open for reading; close() it. The file may be removed meanwhile, the descriptor stays good.
 *   RF_ERR_NOT_FOUND  not there;  RF_ERR_IO  there, but of another size than recorded */
enum rf_code rf_files_open_read(struct rf_files *files, const char *job_id, const struct rf_file *file, int *ret_fd,
                                struct rf_err *err);

/* ---- taking away ---- */

void rf_files_remove(struct rf_files *files, const char *job_id, const char *disk_name);

/* Removes what the store lists as gone, and then its rows; at most a few hundred files a call. Blocks on the store: not
 * from a `done`. *ret_n (may be NULL): how many. */
enum rf_code rf_files_collect(struct rf_files *files, struct rf_store *s, int64_t now_ms, int *ret_n, struct rf_err *err);

/* Removes files and folders that the store does not know and that were last changed before `before_ms` (at start: now;
 * while uploads run: an hour ago). */
enum rf_code rf_files_sweep(struct rf_files *files, struct rf_store *s, int64_t before_ms, int *ret_n, struct rf_err *err);

/* Bytes that we may still write; and of the whole file system, when ret_total is not NULL. */
enum rf_code rf_files_free_bytes(struct rf_files *files, int64_t *ret_bytes, int64_t *ret_total, struct rf_err *err);
/* Bytes of one job's folder, or of all (job_id NULL; walks the tree). */
enum rf_code rf_files_used_bytes(struct rf_files *files, const char *job_id, int64_t *ret_bytes, struct rf_err *err);

#endif
