/* SHA-256 by libcrypto, which uses the CPU's own instructions; see digest.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

void rf_sha256_init(struct rf_sha256 *sha)
{
    sha->context = EVP_MD_CTX_new();
    RF_ASSERT(sha->context != NULL && EVP_DigestInit_ex(sha->context, EVP_sha256(), NULL) == 1);
}

void rf_sha256_add(struct rf_sha256 *sha, const void *bytes, size_t n_bytes)
{
    RF_ASSERT(EVP_DigestUpdate(sha->context, bytes, n_bytes) == 1);
}

void rf_sha256_finish(struct rf_sha256 *sha, char ret_hex[RF_SHA256_HEX])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    RF_ASSERT(EVP_DigestFinal_ex(sha->context, digest, &n) == 1 && n == 32);
    for (unsigned i = 0; i < n; i++)
        snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
    rf_sha256_abandon(sha);
}

void rf_sha256_abandon(struct rf_sha256 *sha)
{
    EVP_MD_CTX_free(sha->context);
    sha->context = NULL;
}

void rf_sha256_bytes(const void *bytes, size_t n_bytes, char ret_hex[RF_SHA256_HEX])
{
    struct rf_sha256 sha;
    rf_sha256_init(&sha);
    rf_sha256_add(&sha, bytes, n_bytes);
    rf_sha256_finish(&sha, ret_hex);
}

enum rf_code rf_sha256_file(const char *path, char ret_hex[RF_SHA256_HEX], int64_t *ret_size_bytes, struct rf_err *err)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return rf_fail(err, RF_ERR_IO, "open '%s': %s", path, strerror(errno));
    struct rf_sha256 sha;
    rf_sha256_init(&sha);
    unsigned char block[65536];
    int64_t size_bytes = 0;
    size_t n;
    while ((n = fread(block, 1, sizeof block, f)) > 0) {
        rf_sha256_add(&sha, block, n);
        size_bytes += (int64_t)n;
    }
    bool bad = ferror(f) != 0;
    fclose(f);
    if (bad) {
        rf_sha256_abandon(&sha);
        return rf_fail(err, RF_ERR_IO, "read '%s': %s", path, strerror(errno));
    }
    rf_sha256_finish(&sha, ret_hex);
    *ret_size_bytes = size_bytes;
    return RF_OK;
}
