/* See store_admin.h. SPDX-License-Identifier: Apache-2.0 */
#include "server/store_admin.h"

#include "schema/sql.h"
#include "server/store_private.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define BUSY_MS 10000

static void close_db(sqlite3 **db)
{
    sqlite3_close(*db);
    *db = NULL;
}

static int64_t read_int(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *q = NULL;
    int64_t n = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW)
        n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return n;
}

static enum rf_code connect_db(const char *path, sqlite3 **ret_db, struct rf_err *err)
{
    RF_AUTO(close_db) sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return rf_wrap(err, rf_db_fail(db, err, "open"), "database '%s'", path);
    sqlite3_busy_timeout(db, BUSY_MS);
    sqlite3_exec(db, "PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF", NULL, NULL, NULL);
    *ret_db = db;
    db = NULL;
    return RF_OK;
}

static enum rf_code open_db(const char *path, int64_t now_ms, sqlite3 **ret_db, struct rf_err *err)
{
    RF_AUTO(close_db) sqlite3 *db = NULL;
    enum rf_code rc = access(path, F_OK) == 0 ? connect_db(path, &db, err) : RF_OK;
    if (rc == RF_OK && (db == NULL || read_int(db, "PRAGMA user_version") != rf_n_migrations)) {
        close_db(&db);
        const struct rf_store_config config = {.path = path, .now_ms = now_ms};
        struct rf_store *s = NULL; /* opening it makes or upgrades the tables, or says why not */
        rc = rf_store_open(&config, &s, err);
        rf_store_destroy(&s);
        if (rc == RF_OK)
            rc = connect_db(path, &db, err);
    }
    if (rc != RF_OK)
        return rc;
    *ret_db = db;
    db = NULL;
    return RF_OK;
}

/* Runs a bound statement to its end and drops it. */
static enum rf_code run(sqlite3 *db, sqlite3_stmt *q, struct rf_err *err)
{
    int rc = q == NULL ? SQLITE_ERROR : sqlite3_step(q);
    enum rf_code code = rc == SQLITE_DONE || rc == SQLITE_ROW ? RF_OK : rf_db_fail(db, err, "write");
    sqlite3_finalize(q);
    return code;
}

static enum rf_code exec(sqlite3 *db, const char *sql, struct rf_err *err)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? RF_OK : rf_db_fail(db, err, "write");
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *q = NULL;
    sqlite3_prepare_v2(db, sql, -1, &q, NULL);
    return q;
}

/* ---- tokens ---- */

#define TOUCH_TOKENS "UPDATE meta SET value = value + 1 WHERE name = 'tokens_changed'"

enum rf_code rf_admin_token_create(const char *path, enum rf_role role, const char *name, int64_t now_ms,
                                   char ret_text[RF_TOKEN_TEXT_SIZE], struct rf_token *ret_token, struct rf_err *err)
{
    RF_AUTO(close_db) sqlite3 *db = NULL;
    struct rf_token token = {.role = role, .created_ms = now_ms};
    char id[40];
    rf_random_id("tok_", id, sizeof id);
    snprintf(token.who.id, sizeof token.who.id, "%.14s", id); /* ten characters tell a thousand tokens apart */
    snprintf(token.who.name, sizeof token.who.name, "%s", name != NULL && *name ? name : token.who.id);
    enum rf_code rc = rf_token_name_check(name != NULL && *name ? name : token.who.id, err);
    if (rc == RF_OK)
        rc = open_db(path, now_ms, &db, err);
    if (rc != RF_OK)
        return rc;
    if (read_int(db, "SELECT count(*) FROM tokens WHERE revoked_ms IS NULL") >= RF_MAX_TOKENS)
        return rf_fail(err, RF_ERR_LIMIT, "%d tokens are in use, which is the most: revoke some", RF_MAX_TOKENS);
    rf_token_make(ret_text);
    rf_token_hash(ret_text, token.hash);
    sqlite3_stmt *q = prepare(db, "INSERT INTO tokens (id, name, role, hash, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)");
    sqlite3_bind_text(q, 1, token.who.id, -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 2, token.who.name, -1, SQLITE_STATIC);
    sqlite3_bind_int(q, 3, (int)role);
    sqlite3_bind_blob(q, 4, token.hash, sizeof token.hash, SQLITE_STATIC);
    sqlite3_bind_int64(q, 5, now_ms);
    rc = exec(db, "BEGIN IMMEDIATE", err);
    if (rc != RF_OK) {
        sqlite3_finalize(q);
        return rc;
    }
    rc = run(db, q, err);
    if (rc == RF_OK)
        rc = exec(db, TOUCH_TOKENS "; COMMIT", err);
    *ret_token = token;
    return rc;
}

static void read_token(sqlite3_stmt *q, struct rf_token *t)
{
    *t = (struct rf_token){.role = (enum rf_role)sqlite3_column_int(q, 2), .created_ms = sqlite3_column_int64(q, 4),
                           .revoked_ms = sqlite3_column_int64(q, 5)};
    snprintf(t->who.id, sizeof t->who.id, "%s", (const char *)sqlite3_column_text(q, 0));
    snprintf(t->who.name, sizeof t->who.name, "%s", (const char *)sqlite3_column_text(q, 1));
    if (sqlite3_column_bytes(q, 3) == RF_TOKEN_HASH_BYTES)
        memcpy(t->hash, sqlite3_column_blob(q, 3), RF_TOKEN_HASH_BYTES);
}

enum rf_code rf_db_tokens(sqlite3 *db, struct rf_token **ret_tokens, int *ret_n, struct rf_err *err)
{
    struct rf_token *tokens = NULL;
    int n = 0, rc;
    sqlite3_stmt *q = prepare(db, "SELECT id, name, role, hash, created_ms, revoked_ms FROM tokens ORDER BY created_ms, id");
    while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
        tokens = rf_realloc(tokens, (size_t)n + 1, sizeof *tokens);
        read_token(q, &tokens[n++]);
    }
    enum rf_code code = rc == SQLITE_DONE ? RF_OK : rf_db_fail(db, err, "read tokens");
    sqlite3_finalize(q);
    if (code != RF_OK)
        free(tokens);
    else
        *ret_tokens = tokens;
    *ret_n = code == RF_OK ? n : 0;
    return code;
}

enum rf_code rf_admin_token_list(const char *path, struct rf_token **ret_tokens, int *ret_n, struct rf_err *err)
{
    RF_AUTO(close_db) sqlite3 *db = NULL;
    enum rf_code rc = open_db(path, 1, &db, err);
    return rc == RF_OK ? rf_db_tokens(db, ret_tokens, ret_n, err) : rc;
}

enum rf_code rf_admin_token_revoke(const char *path, const char *name_or_id, int64_t now_ms, int *ret_n, struct rf_err *err)
{
    RF_AUTO(close_db) sqlite3 *db = NULL;
    enum rf_code rc = open_db(path, now_ms, &db, err);
    if (rc == RF_OK)
        rc = exec(db, "BEGIN IMMEDIATE; " TOUCH_TOKENS, err);
    if (rc != RF_OK)
        return rc;
    sqlite3_stmt *q = prepare(db, "UPDATE tokens SET revoked_ms = ?2 WHERE (id = ?1 OR name = ?1) AND revoked_ms IS NULL");
    sqlite3_bind_text(q, 1, name_or_id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(q, 2, now_ms);
    rc = run(db, q, err);
    *ret_n = sqlite3_changes(db);
    if (rc == RF_OK)
        rc = exec(db, "COMMIT", err);
    if (rc == RF_OK && *ret_n == 0)
        return rf_fail(err, RF_ERR_NOT_FOUND, "no token in use is named '%.70s'; 'token list' shows them", name_or_id);
    return rc;
}

/* ---- the secret of the webhooks ---- */

static void make_secret(char ret_text[RF_WEBHOOK_SECRET_SIZE])
{
    unsigned char bytes[32];
    RF_ASSERT(getrandom(bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes);
    strcpy(ret_text, "whsec_");
    EVP_EncodeBlock((unsigned char *)ret_text + 6, bytes, sizeof bytes);
}

enum rf_code rf_admin_webhook_secret(const char *path, bool rotate, int64_t now_ms, char ret_text[RF_WEBHOOK_SECRET_SIZE],
                                     struct rf_err *err)
{
    RF_AUTO(close_db) sqlite3 *db = NULL;
    enum rf_code rc = open_db(path, now_ms, &db, err);
    if (rc == RF_OK)
        rc = exec(db, "BEGIN IMMEDIATE", err);
    if (rc != RF_OK)
        return rc;
    ret_text[0] = '\0';
    sqlite3_stmt *q = prepare(db, "SELECT value FROM settings WHERE name = 'webhook_secret'");
    if (sqlite3_step(q) == SQLITE_ROW)
        snprintf(ret_text, RF_WEBHOOK_SECRET_SIZE, "%s", (const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    bool made = rotate || ret_text[0] == '\0';
    if (made && ret_text[0] != '\0') {
        q = prepare(db, "INSERT OR REPLACE INTO settings VALUES ('webhook_secret_before', ?1), ('webhook_secret_rotated', ?2)");
        sqlite3_bind_text(q, 1, ret_text, -1, SQLITE_TRANSIENT);
        sqlite3_bind_int64(q, 2, now_ms);
        rc = run(db, q, err);
    }
    if (rc == RF_OK && made) {
        make_secret(ret_text);
        q = prepare(db, "INSERT OR REPLACE INTO settings VALUES ('webhook_secret', ?1)");
        sqlite3_bind_text(q, 1, ret_text, -1, SQLITE_STATIC);
        rc = run(db, q, err);
    }
    return rc == RF_OK ? exec(db, "COMMIT", err) : rc;
}

/* ---- the whole ---- */

enum rf_code rf_admin_backup(const char *path, const char *to, struct rf_err *err)
{
    RF_AUTO(close_db) sqlite3 *db = NULL;
    enum rf_code rc = connect_db(path, &db, err); /* as it is: no reason to upgrade what is only copied */
    return rc == RF_OK ? rf_db_backup(db, to, err) : rc;
}

static bool hash_differs(int fd, const char *sha256)
{
    static unsigned char block[1 << 16];
    unsigned char digest[EVP_MAX_MD_SIZE];
    char text[RF_SHA256_SIZE];
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    RF_ASSERT(hash != NULL && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1);
    ssize_t n;
    while ((n = read(fd, block, sizeof block)) > 0)
        EVP_DigestUpdate(hash, block, (size_t)n);
    EVP_DigestFinal_ex(hash, digest, NULL);
    EVP_MD_CTX_free(hash);
    for (size_t i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return n < 0 || strcmp(text, sha256) != 0;
}

/* A row: job_id and the columns of a file. */
static bool check_file(struct rf_files *files, sqlite3_stmt *q, bool hash, void (*each)(const char *fault))
{
    struct rf_file file = {.size_bytes = sqlite3_column_int64(q, 2)};
    struct rf_err err = {0};
    int fd = -1;
    const char *job_id = (const char *)sqlite3_column_text(q, 0);
    snprintf(file.disk_name, sizeof file.disk_name, "%s", (const char *)sqlite3_column_text(q, 1));
    enum rf_code rc = rf_files_open_read(files, job_id, &file, &fd, &err);
    if (rc == RF_OK && hash && hash_differs(fd, (const char *)sqlite3_column_text(q, 3)))
        rc = rf_fail(&err, RF_ERR_FORMAT, "'%s/%s' is not what was delivered: its SHA-256 differs", job_id, file.disk_name);
    if (fd >= 0)
        close(fd);
    if (rc != RF_OK)
        each(err.msg);
    return rc == RF_OK;
}

enum rf_code rf_admin_check(const char *path, const char *data_dir, bool hash, void (*each)(const char *fault),
                            int64_t *ret_n_files, struct rf_err *err)
{
    RF_AUTO(close_db) sqlite3 *db = NULL;
    RF_AUTO(rf_files_destroy) struct rf_files *files = NULL;
    int64_t n_bad = 0;
    *ret_n_files = 0;
    enum rf_code rc = connect_db(path, &db, err);
    if (rc == RF_OK)
        rc = rf_db_check(db, "integrity_check", err);
    if (rc == RF_OK)
        rc = rf_files_look_into(data_dir, &files, err);
    if (rc != RF_OK)
        return rc;
    sqlite3_stmt *q = prepare(db, "SELECT job_id, disk_name, size_bytes, sha256 FROM files WHERE gone_ms IS NULL");
    int step;
    for (; (step = sqlite3_step(q)) == SQLITE_ROW; ++*ret_n_files)
        n_bad += !check_file(files, q, hash, each);
    if (step != SQLITE_DONE)
        rc = rf_db_fail(db, err, "read the list of files");
    sqlite3_finalize(q);
    return rc == RF_OK && n_bad > 0 ? rf_fail(err, RF_ERR_FORMAT, "%lld of %lld files are missing or damaged",
                                              (long long)n_bad, (long long)*ret_n_files) : rc;
}
