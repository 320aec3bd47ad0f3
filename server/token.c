/* See token.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/token.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static const char *const roles[] = {"anyone", "user", "operator", "worker"};
_Static_assert(RF_COUNT_OF(roles) == RF_ROLE_COUNT, "a role has no name");

const char *rf_role_name(enum rf_role role)
{
    return (unsigned)role < RF_ROLE_COUNT ? roles[role] : "unknown";
}

enum rf_role rf_role_from_name(const char *name)
{
    int i = RF_ROLE_USER;
    while (i < RF_ROLE_COUNT && strcmp(roles[i], name) != 0)
        i++;
    return (enum rf_role)i;
}

void rf_token_hash(const char *text, unsigned char ret_hash[RF_TOKEN_HASH_BYTES])
{
    unsigned n = 0;
    RF_ASSERT(EVP_Digest(text, strlen(text), ret_hash, &n, EVP_sha256(), NULL) == 1 && n == RF_TOKEN_HASH_BYTES);
}

void rf_token_make(char ret_text[RF_TOKEN_TEXT_SIZE])
{
    unsigned char bytes[32];
    RF_ASSERT(getrandom(bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes); /* 32 bytes come whole or not at all */
    strcpy(ret_text, "ff_");
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(ret_text + 3 + 2 * i, 3, "%02x", bytes[i]);
}

enum rf_code rf_token_name_check(const char *name, struct rf_err *err)
{
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof((struct rf_token_name *)0)->name ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@+") != n)
        return rf_fail(err, RF_ERR_INVALID, "a name has 1 to 64 letters, digits and . _ - @ +, got '%.70s'", name);
    return RF_OK;
}
