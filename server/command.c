/* See command.h. SPDX-License-Identifier: Apache-2.0 */
#include "server/command.h"

#include "server/app.h"
#include "server/config.h"
#include "server/store_admin.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* What the words of the command line said. */
struct words {
    const char *verb, *operand;   /* "create", "NAME"; NULL: not given */
    const char *role, *name;
    bool rotate, hash;
    struct rf_config config;      /* only its data_dir counts */
    char *db;
};

static const char *environment(const char *name)
{
    return getenv(name);
}

static enum rf_code misused(struct rf_err *err, const char *usage)
{
    return rf_fail(err, RF_ERR_INVALID, "usage: framefarm-server %s [--data DIR]", usage);
}

/* Reads "--flag value" pairs and bare words; the data folder is found as the server finds it. */
static enum rf_code read_words(int argc, char **argv, bool has_verb, struct words *w, struct rf_err *err)
{
    char *data[] = {argv[0], NULL, NULL, NULL};
    int n_data = 1;
    enum rf_config_wish wish;
    for (int i = 2; i < argc; i++) {
        const char **value = strcmp(argv[i], "--role") == 0 ? &w->role : strcmp(argv[i], "--name") == 0 ? &w->name : NULL;
        if (value != NULL && i + 1 < argc)
            *value = argv[++i];
        else if (strcmp(argv[i], "--rotate") == 0)
            w->rotate = true;
        else if (strcmp(argv[i], "--sha256") == 0)
            w->hash = true;
        else if (strcmp(argv[i], "--data") == 0 && i + 1 < argc && n_data == 1) {
            data[n_data++] = argv[i];
            data[n_data++] = argv[++i];
        } else if (argv[i][0] == '-')
            return rf_fail(err, RF_ERR_INVALID, "'%.60s' is not understood here, or lacks its value", argv[i]);
        else if (has_verb && w->verb == NULL)
            w->verb = argv[i];
        else if (w->operand == NULL)
            w->operand = argv[i];
        else
            return rf_fail(err, RF_ERR_INVALID, "'%.60s' is one word too many", argv[i]);
    }
    enum rf_code rc = rf_config_read(n_data, data, environment, &w->config, &wish, err);
    if (rc == RF_OK)
        w->db = rf_asprintf("%s/farm.db", w->config.data_dir);
    return rc;
}

/* ---- token ---- */

static enum rf_code create_token(const struct words *w, struct rf_err *err)
{
    enum rf_role role = w->role != NULL ? rf_role_from_name(w->role) : RF_ROLE_COUNT;
    char text[RF_TOKEN_TEXT_SIZE];
    struct rf_token token;
    if (role == RF_ROLE_COUNT)
        return rf_fail(err, RF_ERR_INVALID, "--role must be user, operator or worker");
    mkdir(w->config.data_dir, 0700); /* before the first start of the server */
    enum rf_code rc = rf_admin_token_create(w->db, role, w->name, rf_now_ms(), text, &token, err);
    if (rc != RF_OK)
        return rc;
    printf("%s\n", text);
    fprintf(stderr, "%s token %s, name %s. It is shown this once; a running server knows it within a second.\n",
            rf_role_name(role), token.who.id, token.who.name);
    return RF_OK;
}

static void print_day(const char *before, int64_t ms)
{
    char text[32];
    time_t t = (time_t)(ms / 1000);
    struct tm parts;
    strftime(text, sizeof text, "%Y-%m-%d %H:%M", localtime_r(&t, &parts));
    printf("  %s%s", before, text);
}

static enum rf_code list_tokens(const struct words *w, struct rf_err *err)
{
    RF_AUTO(rf_free) struct rf_token *tokens = NULL;
    int n = 0;
    enum rf_code rc = rf_admin_token_list(w->db, &tokens, &n, err);
    for (int i = 0; rc == RF_OK && i < n; i++) {
        printf("%-14s  %-8s  %-24s", tokens[i].who.id, rf_role_name(tokens[i].role), tokens[i].who.name);
        print_day("made ", tokens[i].created_ms);
        if (tokens[i].revoked_ms != 0)
            print_day("revoked ", tokens[i].revoked_ms);
        putchar('\n');
    }
    return rc;
}

static enum rf_code revoke_token(const struct words *w, struct rf_err *err)
{
    int n = 0;
    enum rf_code rc = rf_admin_token_revoke(w->db, w->operand, rf_now_ms(), &n, err);
    if (rc == RF_OK)
        printf("%d revoked\n", n);
    return rc;
}

static enum rf_code do_token(const struct words *w, struct rf_err *err)
{
    const char *verb = w->verb != NULL ? w->verb : "";
    if (strcmp(verb, "create") == 0 && w->operand == NULL)
        return create_token(w, err);
    if (strcmp(verb, "list") == 0 && w->operand == NULL)
        return list_tokens(w, err);
    if (strcmp(verb, "revoke") == 0 && w->operand != NULL)
        return revoke_token(w, err);
    return misused(err, "token create --role user|operator|worker [--name NAME] | token list | token revoke NAME|ID");
}

/* ---- the others ---- */

static enum rf_code do_webhook_secret(const struct words *w, struct rf_err *err)
{
    char text[RF_WEBHOOK_SECRET_SIZE];
    if (w->operand != NULL)
        return misused(err, "webhook-secret [--rotate]");
    mkdir(w->config.data_dir, 0700);
    enum rf_code rc = rf_admin_webhook_secret(w->db, w->rotate, rf_now_ms(), text, err);
    if (rc == RF_OK)
        printf("%s\n", text);
    return rc;
}

static enum rf_code do_backup(const struct words *w, struct rf_err *err)
{
    if (w->operand == NULL)
        return misused(err, "backup FILE");
    enum rf_code rc = rf_admin_backup(w->db, w->operand, err);
    struct stat info;
    if (rc == RF_OK && stat(w->operand, &info) == 0)
        printf("%s: %" PRId64 " bytes; the videos are in %s/files\n", w->operand, (int64_t)info.st_size, w->config.data_dir);
    return rc;
}

static void print_fault(const char *fault)
{
    printf("%s\n", fault);
}

static enum rf_code do_check(const struct words *w, struct rf_err *err)
{
    int64_t n_files = 0;
    if (w->operand != NULL)
        return misused(err, "check [--sha256]");
    enum rf_code rc = rf_admin_check(w->db, w->config.data_dir, w->hash, print_fault, &n_files, err);
    if (rc == RF_OK)
        printf("ok: the database and %" PRId64 " files\n", n_files);
    return rc;
}

bool rf_command_run(int argc, char **argv, int *ret_status)
{
    static const struct {
        const char *word;
        bool has_verb;
        enum rf_code (*run)(const struct words *w, struct rf_err *err);
    } commands[] = {{"token", true, do_token}, {"webhook-secret", false, do_webhook_secret}, {"backup", false, do_backup},
                    {"check", false, do_check}};
    for (size_t i = 0; argc > 1 && i < RF_COUNT_OF(commands); i++) {
        if (strcmp(argv[1], commands[i].word) != 0)
            continue;
        struct words w = {0};
        struct rf_err err = {0};
        enum rf_code rc = read_words(argc, argv, commands[i].has_verb, &w, &err);
        if (rc == RF_OK)
            rc = commands[i].run(&w, &err);
        if (rc != RF_OK)
            fprintf(stderr, "framefarm-server: %s\n", err.msg);
        *ret_status = rc == RF_OK ? 0 : rc == RF_ERR_INVALID ? 2 : 1;
        rf_config_finish(&w.config);
        free(w.db);
        return true;
    }
    return false;
}
