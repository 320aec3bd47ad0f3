/* See retention.h. SPDX-License-Identifier: Apache-2.0 */
#include "server/retention.h"

#include "server/app.h"
#include "server/config.h"
#include "server/log.h"

#include <inttypes.h>

#define AT_ONCE 200
#define DAY_MS INT64_C(86400000)

enum rf_code rf_retention_look(struct rf_app *app, int64_t now_ms, struct rf_err *err)
{
    struct rf_op op = {.kind = RF_OP_DISK, .now_ms = now_ms};
    struct rf_store_counts before, after;
    int64_t total = 0;
    enum rf_code rc = rf_files_free_bytes(app->files, &op.u.disk.free_bytes, &total, err);
    if (rc != RF_OK)
        return rc;
    int64_t usual = total / 50 < INT64_C(1) << 30 ? total / 50 : INT64_C(1) << 30;
    op.u.disk.floor_bytes = app->config->min_free_bytes >= 0 ? app->config->min_free_bytes : usual;
    rf_store_counts(app->store, &before);
    rc = rf_store_run(app->store, &op, err);
    rf_store_counts(app->store, &after);
    if (after.disk_low && !before.disk_low)
        rf_log(RF_LOG_ERROR, "doing=look_at_disk free_bytes=%" PRId64 " floor_bytes=%" PRId64 " msg=\"too little room: nothing "
               "is accepted or begun until there is more\"", after.disk_free_bytes, after.disk_floor_bytes);
    if (!after.disk_low && before.disk_low)
        rf_log(RF_LOG_INFO, "doing=look_at_disk free_bytes=%" PRId64 " msg=\"there is room again\"", after.disk_free_bytes);
    return rc;
}

static enum rf_code expire(struct rf_app *app, int64_t now_ms, struct rf_err *err)
{
    const struct rf_config *c = app->config;
    RF_AUTO(rf_free) int64_t *rows = NULL;
    int n = 0;
    if (c->keep_days == 0 && c->keep_bytes == 0)
        return RF_OK;
    enum rf_code rc = rf_store_expirable(app->store, c->keep_days > 0 ? now_ms - c->keep_days * DAY_MS : 0, c->keep_bytes,
                                         AT_ONCE, &rows, &n, err);
    struct rf_op op = {.kind = RF_OP_EXPIRE, .now_ms = now_ms, .u.expire = {.rows = rows, .n_rows = n}};
    if (rc == RF_OK && n > 0)
        rc = rf_store_run(app->store, &op, err);
    if (rc == RF_OK && n > 0)
        rf_log(RF_LOG_INFO, "doing=expire n_jobs=%d", n);
    return rc;
}

static enum rf_code forget(struct rf_app *app, int64_t now_ms, struct rf_err *err)
{
    char (*ids)[RF_JOB_ID_SIZE] = NULL;
    int n = 0;
    if (app->config->forget_days == 0)
        return RF_OK;
    enum rf_code rc = rf_store_ended_before(app->store, now_ms - app->config->forget_days * DAY_MS, AT_ONCE, &ids, &n, err);
    for (int i = 0; rc == RF_OK && i < n; i++)
        rc = rf_store_delete(app->store, ids[i], now_ms, err);
    if (rc == RF_OK && n > 0)
        rf_log(RF_LOG_INFO, "doing=forget n_jobs=%d", n);
    free(ids);
    return rc;
}

enum rf_code rf_retention_run(struct rf_app *app, int64_t now_ms, struct rf_err *err)
{
    enum rf_code rc = expire(app, now_ms, err);
    return rc == RF_OK ? forget(app, now_ms, err) : rc;
}
