/* The table of flags and their readers; see config.h. Adding a setting is one row, one field and one line of help.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/config.h"

#include "server/params.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

const char rf_config_help[] =
    "usage: framefarm-server [--listen HOST:PORT] [--data DIR] [--models DIR] [--workers auto|N]\n"
    "\n"
    "  --listen HOST:PORT      where to answer; port 0 lets the system choose   (127.0.0.1:8088)\n"
    "  --data DIR              database and files                (./data if there, else XDG data)\n"
    "  --models DIR            given to the local workers\n"
    "  --workers auto|N        local workers: one per GPU or one on the CPU; N on the CPU; 0 none (auto)\n"
    "  --port-file FILE        write the chosen port there once connections are taken\n"
    "  --web DIR               serve the page from a folder instead of the one compiled in\n"
    "  --require-tokens        ask for tokens on loopback too: for a server behind a proxy\n"
    "  --insecure-no-auth      ask nobody for a token, whatever --listen says\n"
    "  --min-free SIZE         of disk; below it nothing is accepted or begun  (1G, or 2 % if that is less)\n"
    "  --keep-days N           remove the files of jobs that ended so long ago (0: never)\n"
    "  --keep-bytes SIZE       remove files of finished jobs, oldest first, above this (0: never)\n"
    "  --forget-days N         forget finished jobs altogether after so long   (0: never)\n"
    "  --webhook-allow-private let webhooks go to loopback and private addresses\n"
    "  --webhook-retry-ms N    first pause before a webhook is sent again; doubles, for about a day (10000)\n"
    "  --http-threads N        threads that speak HTTP                          (2)\n"
    "  --max-connections N     open connections, waiting workers included       (20000)\n"
    "  --idle-seconds N        how long a client may take to send a request     (75)\n"
    "  --max-queued N          unfinished jobs; beyond it creates get 429       (1000000)\n"
    "  --trust-outputs         for benchmarks: believe workers that their files have arrived\n"
    "  --log-level LEVEL       error, warn, info or debug                       (info)\n"
    "  --routes                list the calls that are answered, and end\n"
    "\n"
    "framefarm-server token create --role user|operator|worker [--name NAME] | token list | token revoke NAME|ID\n"
    "framefarm-server webhook-secret [--rotate] | backup FILE | check [--sha256]      (with --data DIR; also while it runs)\n"
    "\n"
    "  --help, --version\n"
    "\n"
    "Each flag also as an environment variable: --port-file is FRAMEFARM_PORT_FILE. SIZE takes K, M, G, T.\n";

static enum rf_code read_listen(struct rf_config *c, const char *value, struct rf_err *err)
{
    const char *colon = strrchr(value, ':');
    int64_t port = 0;
    if (colon == NULL || colon == value || !rf_parse_int(colon + 1, 0, 65535, &port))
        return rf_fail(err, RF_ERR_INVALID, "must be HOST:PORT with a port from 0 to 65535, got '%.80s'", value);
    bool bracketed = value[0] == '[' && colon[-1] == ']';
    if (!bracketed && memchr(value, ':', (size_t)(colon - value)) != NULL)
        return rf_fail(err, RF_ERR_INVALID, "an IPv6 address needs brackets: [::1]:8088");
    free(c->host);
    c->host = bracketed ? rf_strndup(value + 1, (size_t)(colon - value) - 2) : rf_strndup(value, (size_t)(colon - value));
    c->port = (int)port;
    return RF_OK;
}

static enum rf_code read_path(char **field, const char *value, struct rf_err *err)
{
    if (*value == '\0')
        return rf_fail(err, RF_ERR_INVALID, "must not be empty");
    free(*field);
    *field = rf_strdup(value);
    return RF_OK;
}

static enum rf_code read_data(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_path(&c->data_dir, value, err);
}

static enum rf_code read_models(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_path(&c->models_dir, value, err);
}

static enum rf_code read_port_file(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_path(&c->port_file, value, err);
}

static enum rf_code read_web(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_path(&c->web_dir, value, err);
}

static enum rf_code read_count(int *field, int low, int high, const char *value, struct rf_err *err)
{
    int64_t n = 0;
    if (!rf_parse_int(value, low, high, &n))
        return rf_fail(err, RF_ERR_INVALID, "must be a whole number from %d to %d, got '%.40s'", low, high, value);
    *field = (int)n;
    return RF_OK;
}

static enum rf_code read_workers(struct rf_config *c, const char *value, struct rf_err *err)
{
    if (strcmp(value, "auto") != 0)
        return read_count(&c->n_workers, 0, 64, value, err);
    c->n_workers = RF_WORKERS_AUTO;
    return RF_OK;
}

static enum rf_code read_http_threads(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_count(&c->http_threads, 1, 64, value, err);
}

static enum rf_code read_max_connections(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_count(&c->max_connections, 16, 1000000, value, err);
}

static enum rf_code read_idle_seconds(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_count(&c->idle_seconds, 1, 86400, value, err);
}

static enum rf_code read_max_queued(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_count(&c->max_queued, 1, 1000000000, value, err);
}

static enum rf_code read_log_level(struct rf_config *c, const char *value, struct rf_err *err)
{
    c->log_level = rf_log_level_from_name(value);
    if (c->log_level == RF_LOG_LEVEL_COUNT)
        return rf_fail(err, RF_ERR_INVALID, "must be error, warn, info or debug, got '%.40s'", value);
    return RF_OK;
}

static enum rf_code read_switch(bool *field, const char *value, struct rf_err *err)
{
    *field = strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
    if (!*field && strcmp(value, "0") != 0 && strcmp(value, "false") != 0 && *value)
        return rf_fail(err, RF_ERR_INVALID, "must be 1 or 0, got '%.40s'", value);
    return RF_OK;
}

static enum rf_code read_trust(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_switch(&c->trust_outputs, value, err);
}

static enum rf_code read_insecure(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_switch(&c->insecure_no_auth, value, err);
}

static enum rf_code read_require_tokens(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_switch(&c->require_tokens, value, err);
}

static enum rf_code read_webhook_private(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_switch(&c->webhook_allow_private, value, err);
}

static enum rf_code read_webhook_retry(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_count(&c->webhook_retry_ms, 1, 3600000, value, err);
}

static enum rf_code read_keep_days(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_count(&c->keep_days, 0, 36500, value, err);
}

static enum rf_code read_forget_days(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_count(&c->forget_days, 0, 36500, value, err);
}

/* "500", "20G": powers of 1024. */
static enum rf_code read_size(int64_t *field, const char *value, struct rf_err *err)
{
    static const char units[] = "KMGT";
    size_t n = strlen(value);
    const char *unit = n > 1 ? strchr(units, toupper((unsigned char)value[n - 1])) : NULL;
    int shift = unit != NULL ? 10 * (int)(unit - units + 1) : 0;
    RF_AUTO(rf_free) char *digits = rf_strndup(value, n - (unit != NULL));
    int64_t x = 0;
    if (!rf_parse_int(digits, 0, (INT64_C(1) << 60) >> shift, &x))
        return rf_fail(err, RF_ERR_INVALID, "must be a number of bytes, such as 500M or 2T, got '%.40s'", value);
    *field = x << shift;
    return RF_OK;
}

static enum rf_code read_min_free(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_size(&c->min_free_bytes, value, err);
}

static enum rf_code read_keep_bytes(struct rf_config *c, const char *value, struct rf_err *err)
{
    return read_size(&c->keep_bytes, value, err);
}

static const struct setting {
    const char *name;
    bool is_switch; /* on the command line it stands alone */
    enum rf_code (*read)(struct rf_config *c, const char *value, struct rf_err *err);
} settings[] = {
    {"listen", false, read_listen},
    {"data", false, read_data},
    {"models", false, read_models},
    {"workers", false, read_workers},
    {"port-file", false, read_port_file},
    {"web", false, read_web},
    {"insecure-no-auth", true, read_insecure},
    {"require-tokens", true, read_require_tokens},
    {"min-free", false, read_min_free},
    {"keep-days", false, read_keep_days},
    {"keep-bytes", false, read_keep_bytes},
    {"forget-days", false, read_forget_days},
    {"webhook-allow-private", true, read_webhook_private},
    {"webhook-retry-ms", false, read_webhook_retry},
    {"trust-outputs", true, read_trust},
    {"http-threads", false, read_http_threads},
    {"max-connections", false, read_max_connections},
    {"idle-seconds", false, read_idle_seconds},
    {"max-queued", false, read_max_queued},
    {"log-level", false, read_log_level},
};

static enum rf_code read_environment(struct rf_config *c, const char *(*env)(const char *name), struct rf_err *err)
{
    for (size_t i = 0; i < RF_COUNT_OF(settings); i++) {
        char name[64] = "FRAMEFARM_";
        size_t n = strlen(name);
        for (const char *p = settings[i].name; *p; p++)
            name[n++] = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
        const char *value = env(name);
        enum rf_code rc = value && *value ? settings[i].read(c, value, err) : RF_OK;
        if (rc != RF_OK)
            return rf_wrap(err, rc, "%s", name);
    }
    return RF_OK;
}

/* Reads "--name value" or "--name=value" at argv[*at] and moves *at to its last word. */
static enum rf_code read_flag(struct rf_config *c, int argc, char **argv, int *at, struct rf_err *err)
{
    const char *word = argv[*at];
    size_t n = strcspn(word, "=");
    for (size_t i = 0; i < RF_COUNT_OF(settings); i++) {
        const struct setting *s = &settings[i];
        if (strncmp(word, "--", 2) != 0 || strlen(s->name) != n - 2 || strncmp(word + 2, s->name, n - 2) != 0)
            continue;
        const char *value = word[n] == '=' ? word + n + 1 : s->is_switch ? "1" : *at + 1 < argc ? argv[++*at] : NULL;
        if (value == NULL)
            return rf_fail(err, RF_ERR_INVALID, "--%s needs a value", s->name);
        enum rf_code rc = s->read(c, value, err);
        return rc == RF_OK ? rc : rf_wrap(err, rc, "--%s", s->name);
    }
    return rf_fail(err, RF_ERR_INVALID, "unknown argument '%.80s'; --help lists them", word);
}

/* ./data when it is there (a checkout, a container's work folder), else where desktop systems keep such things. */
static char *default_data_dir(const char *(*env)(const char *name))
{
    const char *xdg = env("XDG_DATA_HOME"), *home = env("HOME");
    if (access("data", F_OK) != 0 && xdg != NULL && *xdg == '/')
        return rf_asprintf("%s/framefarm", xdg);
    if (access("data", F_OK) != 0 && home != NULL && *home == '/')
        return rf_asprintf("%s/.local/share/framefarm", home);
    return rf_strdup("data");
}

enum rf_code rf_config_read(int argc, char **argv, const char *(*env)(const char *name), struct rf_config *ret_config,
                            enum rf_config_wish *ret_wish, struct rf_err *err)
{
    struct rf_config *c = ret_config;
    *c = (struct rf_config){
        .host = rf_strdup("127.0.0.1"),
        .port = 8088,
        .n_workers = RF_WORKERS_AUTO,
        .http_threads = 2,
        .max_connections = 20000,
        .idle_seconds = 75, /* above the 60 s that common proxies keep their side open */
        .max_queued = 1000000,
        .log_level = RF_LOG_INFO,
        .webhook_retry_ms = 10000,
        .min_free_bytes = -1,
    };
    *ret_wish = RF_CONFIG_RUN;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--version") == 0) {
            *ret_wish = argv[i][2] == 'v' ? RF_CONFIG_VERSION : RF_CONFIG_HELP;
            return RF_OK;
        }
    }
    enum rf_code rc = read_environment(c, env, err);
    for (int i = 1; i < argc && rc == RF_OK; i++)
        rc = read_flag(c, argc, argv, &i, err);
    if (rc != RF_OK)
        return rc;
    if (c->data_dir == NULL)
        c->data_dir = default_data_dir(env);
    if (c->insecure_no_auth && c->require_tokens)
        return rf_fail(err, RF_ERR_INVALID, "--insecure-no-auth and --require-tokens contradict each other");
    return RF_OK;
}

void rf_config_finish(struct rf_config *config)
{
    free(config->host);
    free(config->data_dir);
    free(config->models_dir);
    free(config->port_file);
    free(config->web_dir);
    *config = (struct rf_config){0};
}

bool rf_config_is_loopback(const char *host)
{
    /* Only dotted quads count as 127/8: "127.evil.example" is a name. */
    return strcasecmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           (strncmp(host, "127.", 4) == 0 && host[strspn(host, "0123456789.")] == '\0');
}
