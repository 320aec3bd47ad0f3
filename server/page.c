/* See page.h. With --web DIR the files are read anew for every request, for people who work on the page.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/page.h"

#include "server/app.h"
#include "server/config.h"
#include "server/range.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The page loads nothing from elsewhere, runs nothing inline, and is shown in no frame. Posters and start images that were
 * just chosen are blob: or data: addresses. */
static const char policy[] = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
                             "base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

static void page_headers(struct rf_call *c)
{
    rf_answer_header(c, "Content-Security-Policy", policy);
    rf_answer_header(c, "X-Content-Type-Options", "nosniff");
    rf_answer_header(c, "Referrer-Policy", "same-origin");
    rf_answer_header(c, "Cache-Control", "no-cache");
}

static void answer_asset(struct rf_call *c, const struct rf_page_asset *asset)
{
    page_headers(c);
    rf_answer_header(c, "ETag", asset->etag);
    rf_answer_header(c, "Vary", "Accept-Encoding");
    if (rf_etag_listed(rf_call_header(c, "If-None-Match"), asset->etag)) {
        rf_answer_empty(c, 304);
        return;
    }
    const char *accepted = rf_call_header(c, "Accept-Encoding");
    bool packed = asset->gzip != NULL && accepted != NULL && strstr(accepted, "gzip") != NULL &&
                  strstr(accepted, "gzip;q=0") == NULL;
    if (packed)
        rf_answer_header(c, "Content-Encoding", "gzip");
    rf_answer_static(c, 200, asset->type, packed ? asset->gzip : asset->bytes, packed ? asset->n_gzip : asset->n_bytes);
}

static const struct rf_page_asset *find_asset(const char *path)
{
    for (size_t i = 0; i < rf_n_page_assets; i++)
        if (strcmp(rf_page_assets[i].path, path) == 0)
            return &rf_page_assets[i];
    return NULL;
}

static const char *type_of(const char *path)
{
    static const struct { const char *suffix, *type; } types[] = {
        {".html", "text/html; charset=utf-8"}, {".css", "text/css; charset=utf-8"},
        {".js", "text/javascript; charset=utf-8"}, {".svg", "image/svg+xml"}, {".webp", "image/webp"},
        {".woff2", "font/woff2"}, {".webmanifest", "application/manifest+json"},
    };
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot != NULL && i < RF_COUNT_OF(types); i++)
        if (strcmp(dot, types[i].suffix) == 0)
            return types[i].type;
    return NULL;
}

/* From the developer's folder: false when there is no such file. */
static bool answer_from_folder(struct rf_call *c, const char *folder, const char *path)
{
    struct stat info;
    const char *type = type_of(path);
    if (type == NULL || strstr(path, "..") != NULL || path[0] == '/')
        return false;
    RF_AUTO(rf_free) char *full = rf_asprintf("%s/%s", folder, path);
    int fd = open(full, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return false;
    }
    page_headers(c);
    rf_answer_file(c, 200, type, fd, 0, info.st_size);
    return true;
}

static void answer_file(struct rf_call *c, const char *path)
{
    const char *folder = c->app->config->web_dir;
    const struct rf_page_asset *asset = folder == NULL ? find_asset(path) : NULL;
    if (folder != NULL && answer_from_folder(c, folder, path))
        return;
    if (asset != NULL)
        answer_asset(c, asset);
    else
        rf_answer_error(c, 404, NULL, "unknown_url", "there is nothing at '%.200s'", c->path);
}

void rf_page_index(struct rf_call *c)
{
    answer_file(c, "index.html");
}

void rf_page_file(struct rf_call *c)
{
    answer_file(c, c->param[0]);
}

void rf_page_openapi(struct rf_call *c)
{
    answer_asset(c, find_asset("openapi.yaml"));
}
