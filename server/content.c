/* GET|HEAD /v1/videos/{id}/content: the bytes, with Range, ETag and a name to save them under. The etag is the file's
 * SHA-256, which was recorded when it came in.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/videos.h"

#include "server/app.h"
#include "server/auth.h"
#include "server/range.h"
#include "server/video_json.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct variant {
    const char *name, *file, *type, *suffix;
} variants[] = {
    {"video", "video.mp4", "video/mp4", ".mp4"},
    {"thumbnail", "thumbnail.webp", "image/webp", "-thumbnail.webp"},
    {"spritesheet", "spritesheet.webp", "image/webp", "-spritesheet.webp"},
    {"preview", NULL, "image/webp", "-preview.webp"},
};

/* The newest preview there is: of the segment that runs, or of the last one that did. */
static bool find_preview(const struct rf_job *job, char *name, size_t room)
{
    for (int i = job->n_tasks - 1; i >= 0; i--) {
        snprintf(name, room, "preview-%d.webp", i);
        for (int f = 0; f < job->n_files; f++)
            if (strcmp(job->files[f].name, name) == 0)
                return true;
    }
    return false;
}

/* "A red circle, moving!" -> "a-red-circle-moving"; what is not ASCII letters or digits becomes a dash. */
static void slug(const char *prompt, char *to, size_t room)
{
    size_t n = 0;
    for (; *prompt && n + 1 < room; prompt++) {
        if (isalnum((unsigned char)*prompt) && (unsigned char)*prompt < 0x80)
            to[n++] = (char)tolower((unsigned char)*prompt);
        else if (n > 0 && to[n - 1] != '-')
            to[n++] = '-';
    }
    while (n > 0 && to[n - 1] == '-')
        n--;
    to[n] = '\0';
    if (n == 0)
        snprintf(to, room, "video");
}

static const struct variant *read_variant(struct rf_call *c)
{
    static const char *const known[] = {"variant", NULL};
    struct rf_err err = {0};
    if (rf_params_only(&c->query, known, &err) != RF_OK) {
        rf_answer_failed(c, RF_ERR_INVALID, NULL, &err);
        return NULL;
    }
    const char *wanted = rf_params_get(&c->query, "variant");
    for (size_t i = 0; i < RF_COUNT_OF(variants); i++)
        if (strcmp(wanted ? wanted : "video", variants[i].name) == 0)
            return &variants[i];
    rf_answer_error(c, 400, "variant", "invalid", "query parameter 'variant' must be video, thumbnail, spritesheet or preview");
    return NULL;
}

static const struct rf_file *find_file(const struct rf_job *job, const struct variant *v)
{
    char name[RF_FILE_NAME_SIZE];
    snprintf(name, sizeof name, "%s", v->file ? v->file : "");
    if (v->file == NULL && !find_preview(job, name, sizeof name))
        return NULL;
    for (int i = 0; i < job->n_files; i++)
        if (strcmp(job->files[i].name, name) == 0)
            return &job->files[i];
    return NULL;
}

static void answer_bytes(struct rf_call *c, const struct rf_job *job, const struct variant *v, const struct rf_file *file)
{
    char etag[RF_SHA256_SIZE + 2];
    snprintf(etag, sizeof etag, "\"%s\"", file->sha256);
    rf_answer_header(c, "ETag", etag);
    rf_answer_header(c, "Accept-Ranges", "bytes");
    rf_answer_header(c, "Cache-Control", "private, no-cache");
    rf_answer_header(c, "X-Content-Type-Options", "nosniff");
    if (rf_etag_listed(rf_call_header(c, "If-None-Match"), etag)) {
        rf_answer_empty(c, 304);
        return;
    }
    int64_t first = 0, n = file->size_bytes;
    const char *range = rf_if_range_holds(rf_call_header(c, "If-Range"), etag) ? rf_call_header(c, "Range") : NULL;
    enum rf_range kind = rf_range_parse(range, file->size_bytes, &first, &n);
    if (kind == RF_RANGE_UNSATISFIABLE) {
        rf_answer_header_printf(c, "Content-Range", "bytes */%" PRId64, file->size_bytes);
        rf_answer_error(c, 416, NULL, "range_not_satisfiable", "the file has %" PRId64 " bytes", file->size_bytes);
        return;
    }
    int fd;
    struct rf_err err = {0};
    enum rf_code rc = rf_files_open_read(c->app->files, job->id, file, &fd, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    char words[64];
    slug(job->request->prompt, words, sizeof words);
    rf_answer_header_printf(c, "Content-Disposition", "inline; filename=\"%s-%.6s%s\"", words,
                            job->id + strlen(job->id) - 6, v->suffix);
    if (kind == RF_RANGE_PART)
        rf_answer_header_printf(c, "Content-Range", "bytes %" PRId64 "-%" PRId64 "/%" PRId64, first, first + n - 1,
                                file->size_bytes);
    rf_answer_file(c, kind == RF_RANGE_PART ? 206 : 200, v->type, fd, first, n);
}

void rf_content_handle(struct rf_call *c)
{
    const struct variant *v = read_variant(c);
    if (v == NULL)
        return;
    RF_AUTO(rf_job_destroy) struct rf_job *job = NULL;
    struct rf_err err = {0};
    enum rf_code rc = rf_store_get(c->app->store, c->param[0], RF_WITH_FILES, &job, &err);
    if (rc != RF_OK) {
        rf_answer_failed(c, rc, NULL, &err);
        return;
    }
    if (!rf_auth_may_see(c, job))
        return;
    const struct rf_file *file = find_file(job, v);
    if (file == NULL && job->expired)
        rf_answer_error(c, 410, "variant", "expired", "the files of this job were removed to make room; its record is kept");
    /* 404 rather than 409: stock clients silently send a 409 again and again. */
    else if (file == NULL)
        rf_answer_error(c, 404, "variant", "not_ready", "there is no %s of this video (yet); it is %s", v->name,
                        rf_job_state_name(job->state));
    else
        answer_bytes(c, job, v, file);
}
