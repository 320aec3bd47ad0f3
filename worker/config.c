/* One table row per option serves flag, variable and conversion; see config.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/config.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "worker/scratch.h"

const char rf_config_help[] =
    "usage: framefarm-worker --server URL --models DIR [options]\n"
    "\n"
    "Renders the tasks that a framefarm server hands out. Every option may also be set as a variable:\n"
    "--drain-timeout is FRAMEFARM_DRAIN_TIMEOUT; switches take 1 or 0.\n"
    "\n"
    "  --server URL           the server, as http://127.0.0.1:8000\n"
    "  --models DIR           a folder with a model.json, of such folders, or a ComfyUI models folder\n"
    "  --device WHICH         auto, cpu or cuda:N (auto)\n"
    "  --precision WHICH      f32, bf16 or fp8 (f32 on the CPU, bf16 on a GPU)\n"
    "  --attention WHICH      exact, or 8bit: long attention from 8-bit operands (exact)\n"
    "  --vram SIZE            device memory to stay under, as 12G (all that is free)\n"
    "  --threads N            CPU threads (one per core)\n"
    "  --name NAME            what the page calls this worker (host and device)\n"
    "  --token-file FILE      holds the token that the server wants from its workers\n"
    "  --finish-on-term       on SIGTERM finish the task at hand; otherwise it is handed back\n"
    "  --drain-timeout S      how long handing back may take (15)\n"
    "  --once                 do one task, then exit\n"
    "  --list-devices         say which devices work here, then exit\n"
    "  --log-level WHICH      debug, info, warn or error (info)\n"
    "  --version, --help\n"
    "\n"
    "SIGTERM once: leave in good order. Twice: stop at once; the server notices when the lease runs out.\n"
    "Exit status: 0 done, 1 an error, 2 wrong options, 3 the device failed: start me again.\n";

enum kind { KIND_TEXT, KIND_INT, KIND_SIZE, KIND_SWITCH, KIND_LEVEL, KIND_TOKEN_FILE };

struct option_row {
    const char *flag, *variable; /* variable NULL: flag only */
    enum kind kind;
    size_t offset; /* of the field in struct rf_config */
    int least, most;
};

#define AT(field) offsetof(struct rf_config, field)
static const struct option_row rows[] = {
    {"--server", "FRAMEFARM_SERVER", KIND_TEXT, AT(server), 0, 0},
    {"--models", "FRAMEFARM_MODELS", KIND_TEXT, AT(models), 0, 0},
    {"--device", "FRAMEFARM_DEVICE", KIND_TEXT, AT(device), 0, 0},
    {"--precision", "FRAMEFARM_PRECISION", KIND_TEXT, AT(precision), 0, 0},
    {"--attention", "FRAMEFARM_ATTENTION", KIND_TEXT, AT(attention), 0, 0},
    {"--vram", "FRAMEFARM_VRAM", KIND_SIZE, AT(vram_bytes), 0, 0},
    {"--threads", "FRAMEFARM_THREADS", KIND_INT, AT(n_threads), 0, 1024},
    {"--name", "FRAMEFARM_NAME", KIND_TEXT, AT(name), 0, 0},
    {"--token-file", "FRAMEFARM_TOKEN_FILE", KIND_TOKEN_FILE, AT(token), 0, 0},
    {"--finish-on-term", "FRAMEFARM_FINISH_ON_TERM", KIND_SWITCH, AT(finish_on_term), 0, 0},
    {"--drain-timeout", "FRAMEFARM_DRAIN_TIMEOUT", KIND_INT, AT(drain_timeout_s), 1, 86400},
    {"--once", "FRAMEFARM_ONCE", KIND_SWITCH, AT(once), 0, 0},
    {"--log-level", "FRAMEFARM_LOG_LEVEL", KIND_LEVEL, AT(log_level), 0, 0},
    {"--list-devices", NULL, KIND_SWITCH, AT(list_devices), 0, 0},
    {"--help", NULL, KIND_SWITCH, AT(help), 0, 0},
    {"--version", NULL, KIND_SWITCH, AT(version), 0, 0},
};

bool rf_size_bytes_parse(const char *text, int64_t *ret_bytes)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    double number = strtod(text, &end);
    int shift = 0;
    if (*end != '\0') {
        static const char units[] = "KMGT";
        const char *unit = strchr(units, toupper((unsigned char)*end));
        if (unit == NULL)
            return false;
        shift = 10 * ((int)(unit - units) + 1);
        end++;
        if (strcasecmp(end, "iB") != 0 && strcasecmp(end, "B") != 0 && *end != '\0')
            return false;
    }
    number *= (double)(INT64_C(1) << shift);
    if (errno != 0 || !(number >= 0 && number <= (double)(INT64_C(1) << 50)))
        return false;
    *ret_bytes = (int64_t)number;
    return true;
}

static enum rf_code read_token(const char *path, char **ret_token, struct rf_err *err)
{
    RF_AUTO(rf_free) void *bytes = NULL;
    size_t n = 0;
    enum rf_code rc = rf_read_file(path, 4096, &bytes, &n, err);
    if (rc != RF_OK)
        return rf_wrap(err, RF_ERR_IO, "token file");
    char *text = bytes;
    text[strcspn(text, "\r\n")] = '\0';
    for (const char *c = text; *c != '\0'; c++)
        if (!isgraph((unsigned char)*c))
            return rf_fail(err, RF_ERR_INVALID, "token file '%s': its first line is not a token", path);
    if (text[0] == '\0')
        return rf_fail(err, RF_ERR_INVALID, "token file '%s' is empty", path);
    free(*ret_token);
    *ret_token = rf_strdup(text);
    return RF_OK;
}

static enum rf_code read_value(const struct option_row *row, const char *name, const char *value,
                               struct rf_config *config, struct rf_err *err)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    void *field = (char *)config + row->offset;
    char *end;
    switch (row->kind) {
    case KIND_TEXT:
        if (value[0] == '\0')
            return rf_fail(err, RF_ERR_INVALID, "%s is empty", name);
        free(*(char **)field);
        *(char **)field = rf_strdup(value);
        return RF_OK;
    case KIND_INT: {
        errno = 0;
        long number = strtol(value, &end, 10);
        if (errno != 0 || end == value || *end != '\0' || number < row->least || number > row->most)
            return rf_fail(err, RF_ERR_INVALID, "%s is '%s'; it must be a number between %d and %d", name, value,
                           row->least, row->most);
        *(int *)field = (int)number;
        return RF_OK;
    }
    case KIND_SIZE:
        return rf_size_bytes_parse(value, field)
                   ? RF_OK
                   : rf_fail(err, RF_ERR_INVALID, "%s is '%s'; it must be a size such as 12G", name, value);
    case KIND_SWITCH:
        if (strcmp(value, "1") != 0 && strcmp(value, "0") != 0)
            return rf_fail(err, RF_ERR_INVALID, "%s is '%s'; it must be 1 or 0", name, value);
        *(bool *)field = value[0] == '1';
        return RF_OK;
    case KIND_LEVEL:
        for (int i = 0; i < RF_LOG_LEVEL_COUNT; i++)
            if (strcmp(value, levels[i]) == 0) {
                *(enum rf_log_level *)field = (enum rf_log_level)i;
                return RF_OK;
            }
        return rf_fail(err, RF_ERR_INVALID, "%s is '%s'; it must be debug, info, warn or error", name, value);
    case KIND_TOKEN_FILE: return read_token(value, field, err);
    }
    return RF_OK;
}

static enum rf_code read_flags(int argc, char *const *argv, struct rf_config *config, struct rf_err *err)
{
    for (int i = 1; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');
        size_t n = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        const struct option_row *row = NULL;
        for (size_t k = 0; k < RF_COUNT_OF(rows) && row == NULL; k++)
            if (strlen(rows[k].flag) == n && strncmp(rows[k].flag, argv[i], n) == 0)
                row = &rows[k];
        if (row == NULL)
            return rf_fail(err, RF_ERR_INVALID, "unknown option '%.100s'; --help lists them", argv[i]);
        const char *value = equals ? equals + 1 : row->kind == KIND_SWITCH ? "1" : argv[++i];
        if (value == NULL)
            return rf_fail(err, RF_ERR_INVALID, "%s needs a value", row->flag);
        enum rf_code rc = read_value(row, row->flag, value, config, err);
        if (rc != RF_OK)
            return rc;
    }
    return RF_OK;
}

enum rf_code rf_config_read(int argc, char *const *argv, char *(*env)(const char *name), struct rf_config *ret_config,
                            struct rf_err *err)
{
    struct rf_config config = {.log_level = RF_LOG_INFO, .drain_timeout_s = 15};
    enum rf_code rc = RF_OK;
    for (size_t i = 0; i < RF_COUNT_OF(rows) && rc == RF_OK; i++) {
        const char *value = rows[i].variable ? env(rows[i].variable) : NULL;
        if (value != NULL && value[0] != '\0')
            rc = read_value(&rows[i], rows[i].variable, value, &config, err);
    }
    if (rc == RF_OK)
        rc = read_flags(argc, argv, &config, err);
    bool works = !config.help && !config.version && !config.list_devices;
    if (rc == RF_OK && works && config.server == NULL)
        rc = rf_fail(err, RF_ERR_INVALID, "--server is missing; --help tells more");
    if (rc == RF_OK && works && config.models == NULL)
        rc = rf_fail(err, RF_ERR_INVALID, "--models is missing; --help tells more");
    if (rc != RF_OK) {
        rf_config_finish(&config);
        return rc;
    }
    *ret_config = config;
    return RF_OK;
}

void rf_config_finish(struct rf_config *config)
{
    free(config->server);
    free(config->models);
    free(config->device);
    free(config->precision);
    free(config->attention);
    free(config->name);
    free(config->token);
    *config = (struct rf_config){0};
}
