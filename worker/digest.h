/* SHA-256 as lower-case hex: what every file carries on its way through the farm.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_WORKER_DIGEST_H
#define RF_WORKER_DIGEST_H

#include "schema/err.h"

#define RF_SHA256_HEX 65 /* with the terminating zero */

/* Part of another struct or on the stack; finish (or abandon) ends it. One thread. */
struct rf_sha256 {
    void *context;
};
void rf_sha256_init(struct rf_sha256 *sha);
void rf_sha256_add(struct rf_sha256 *sha, const void *bytes, size_t n_bytes);
void rf_sha256_finish(struct rf_sha256 *sha, char ret_hex[RF_SHA256_HEX]);
void rf_sha256_abandon(struct rf_sha256 *sha); /* accepts one that is finished or all zero */

void rf_sha256_bytes(const void *bytes, size_t n_bytes, char ret_hex[RF_SHA256_HEX]);
/*   RF_ERR_IO  cannot be read; the message names it */
enum rf_code rf_sha256_file(const char *path, char ret_hex[RF_SHA256_HEX], int64_t *ret_size_bytes, struct rf_err *err);

#endif
