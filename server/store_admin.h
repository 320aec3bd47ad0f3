/* What framefarm-server's commands do to the database file, beside a running server or without one. Each call opens a
 * connection of its own; a missing or older database is made or upgraded first (only possible while no server runs: a
 * running one has done it).
 *   path         of the database
 *   RF_ERR_IO    it cannot be opened or written      RF_ERR_FORMAT  newer than this program, or damaged
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_STORE_ADMIN_H
#define RF_SERVER_STORE_ADMIN_H

#include "server/files.h"
#include "server/token.h"

/* A new token. `name` NULL or "": its id.
 *   ret_text       what to show with calls; it is nowhere else, so print it now
 *   RF_ERR_INVALID the name.   RF_ERR_LIMIT: RF_MAX_TOKENS are in use */
enum rf_code rf_admin_token_create(const char *path, enum rf_role role, const char *name, int64_t now_ms,
                                   char ret_text[RF_TOKEN_TEXT_SIZE], struct rf_token *ret_token, struct rf_err *err);
/* All, revoked ones too, oldest first. ret_tokens: free() it. */
enum rf_code rf_admin_token_list(const char *path, struct rf_token **ret_tokens, int *ret_n, struct rf_err *err);
/* By id, or all of a name.  RF_ERR_NOT_FOUND: none that is not revoked already */
enum rf_code rf_admin_token_revoke(const char *path, const char *name_or_id, int64_t now_ms, int *ret_n, struct rf_err *err);

#define RF_WEBHOOK_SECRET_SIZE 64   /* "whsec_" and base64 of 32 bytes */
/* The secret that webhooks are signed with; made when there is none yet. `rotate`: a new one; the old one signs along for
 * RF_WEBHOOK_OVERLAP_MS, so that receivers can be changed over one by one. */
#define RF_WEBHOOK_OVERLAP_MS INT64_C(86400000)
enum rf_code rf_admin_webhook_secret(const char *path, bool rotate, int64_t now_ms, char ret_text[RF_WEBHOOK_SECRET_SIZE],
                                     struct rf_err *err);

/* A whole copy of the database under `to`, synced, put in place by a rename. The files of jobs are not in it. */
enum rf_code rf_admin_backup(const char *path, const char *to, struct rf_err *err);

/* Reads everything: SQLite's own check, then every file that a job has, by size, and with `hash` by its SHA-256.
 *   each          called with a sentence about every fault
 *   RF_ERR_FORMAT there were faults */
enum rf_code rf_admin_check(const char *path, const char *data_dir, bool hash, void (*each)(const char *fault),
                            int64_t *ret_n_files, struct rf_err *err);

#endif
