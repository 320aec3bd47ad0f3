/* Tokens: 32 random bytes that a person, a program or a worker shows with every call.
 *
 * The database keeps SHA-256 of a token, never the token. A fast hash is right here: slow ones (bcrypt, argon2) make it
 * dear to try the few million passwords that people choose, but nobody tries 2^256 random ones at any speed; and a slow
 * one would cost every call its time. Who lists tokens, makes or revokes one does so on the database file, beside a
 * running server (store_admin.h); the server reads the table again when its number of changes has moved (auth.c).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_TOKEN_H
#define RF_SERVER_TOKEN_H

#include "schema/err.h"

/* Who may call. Stored by number: do not reorder. */
enum rf_role {
    RF_ROLE_ANYONE,    /* of a route: no token is asked for */
    RF_ROLE_USER,      /* submit; see and steer the jobs that carry its name */
    RF_ROLE_OPERATOR,  /* everything on the user side */
    RF_ROLE_WORKER,    /* the farm calls and nothing else */
    RF_ROLE_COUNT
};
const char *rf_role_name(enum rf_role role);
enum rf_role rf_role_from_name(const char *name); /* RF_ROLE_COUNT when unknown; never ANYONE */

#define RF_TOKEN_TEXT_SIZE 68   /* "ff_" and 64 hex digits */
#define RF_TOKEN_HASH_BYTES 32
#define RF_MAX_TOKENS 1000      /* not revoked ones: each call is compared with all of them */

/* Names may be shared: two tokens of one name are how a person changes theirs without a gap. */
struct rf_token_name {
    char id[16];                /* "tok_…" */
    char name[65];              /* letters, digits and . _ - @ + ; the `user` of the jobs it submits */
};

struct rf_token {
    struct rf_token_name who;
    enum rf_role role;
    unsigned char hash[RF_TOKEN_HASH_BYTES];
    int64_t created_ms, revoked_ms; /* 0 = not revoked */
};

void rf_token_hash(const char *text, unsigned char ret_hash[RF_TOKEN_HASH_BYTES]);
/* A new random one. */
void rf_token_make(char ret_text[RF_TOKEN_TEXT_SIZE]);
/* RF_ERR_INVALID: says what a name may be. */
enum rf_code rf_token_name_check(const char *name, struct rf_err *err);

#endif
