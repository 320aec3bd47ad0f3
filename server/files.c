/* The data folder; files.h tells the rules. SPDX-License-Identifier: Apache-2.0 */
#include "server/files.h"

#include "server/id.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define COLLECT_AT_ONCE 256

struct rf_files {
    char *path;
    int tmp_fd, files_fd; /* folders; everything below is opened relative to them */
};

struct rf_upload {
    struct rf_files *files;
    int fd;
    char tmp_name[32];
    int64_t size, max_bytes;
    EVP_MD_CTX *hash;
    bool spent;
};

static enum rf_code fail_errno(struct rf_err *err, const char *doing, const char *name)
{
    enum rf_code code = errno == ENOENT ? RF_ERR_NOT_FOUND : errno == ENOSPC || errno == EDQUOT ? RF_ERR_NO_SPACE : RF_ERR_IO;
    return rf_fail(err, code, "%s '%s': %s", doing, name, strerror(errno));
}

/* ---- the folder ---- */

static int open_folder(int at, const char *name)
{
    if (mkdirat(at, name, 0700) != 0 && errno != EEXIST)
        return -1;
    return openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Calls `each` with every name in the folder. */
static void each_name(int folder_fd, void (*each)(void *ctx, int folder_fd, const char *name), void *ctx)
{
    int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* fdopendir takes it */
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            each(ctx, folder_fd, entry->d_name);
    closedir(dir);
}

static void remove_name(void *ctx, int folder_fd, const char *name)
{
    unlinkat(folder_fd, name, 0);
}

enum rf_code rf_files_open(const char *data_dir, struct rf_files **ret_files, struct rf_err *err)
{
    RF_AUTO(rf_files_destroy) struct rf_files *f = rf_new(struct rf_files);
    f->path = rf_strdup(data_dir);
    f->tmp_fd = f->files_fd = -1;
    int fd = open_folder(AT_FDCWD, data_dir);
    if (fd >= 0) {
        f->tmp_fd = open_folder(fd, "tmp");
        f->files_fd = f->tmp_fd >= 0 ? open_folder(fd, "files") : -1;
        fsync(fd);
        close(fd);
    }
    if (f->files_fd < 0)
        return rf_fail(err, RF_ERR_IO, "data folder '%s': %s", data_dir, strerror(errno));
    if (faccessat(f->tmp_fd, ".", W_OK, 0) != 0 || faccessat(f->files_fd, ".", W_OK, 0) != 0)
        return rf_fail(err, RF_ERR_IO, "data folder '%s' cannot be written: %s", data_dir, strerror(errno));
    each_name(f->tmp_fd, remove_name, NULL); /* uploads that an earlier end cut off */
    *ret_files = f;
    f = NULL;
    return RF_OK;
}

enum rf_code rf_files_look_into(const char *data_dir, struct rf_files **ret_files, struct rf_err *err)
{
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/files", data_dir);
    struct rf_files *f = rf_new(struct rf_files);
    f->path = rf_strdup(data_dir);
    f->tmp_fd = -1;
    f->files_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *ret_files = f;
    return f->files_fd >= 0 ? RF_OK : rf_fail(err, RF_ERR_IO, "folder '%s': %s", path, strerror(errno));
}

void rf_files_destroy(struct rf_files **files)
{
    struct rf_files *f = *files;
    if (f == NULL)
        return;
    if (f->tmp_fd >= 0)
        close(f->tmp_fd);
    if (f->files_fd >= 0)
        close(f->files_fd);
    free(f->path);
    free(f);
    *files = NULL;
}

/* ---- taking in ---- */

enum rf_code rf_upload_begin(struct rf_files *files, int64_t max_bytes, struct rf_upload **ret_upload, struct rf_err *err)
{
    RF_AUTO(rf_upload_destroy) struct rf_upload *u = rf_new(struct rf_upload);
    u->files = files;
    u->max_bytes = max_bytes;
    rf_random_id("", u->tmp_name, sizeof u->tmp_name);
    u->fd = openat(files->tmp_fd, u->tmp_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (u->fd < 0) {
        u->spent = true;
        enum rf_code rc = fail_errno(err, "create", u->tmp_name);
        return rf_wrap(err, rc, "upload");
    }
    u->hash = EVP_MD_CTX_new();
    if (u->hash == NULL || EVP_DigestInit_ex(u->hash, EVP_sha256(), NULL) != 1)
        return rf_fail(err, RF_ERR_NO_MEMORY, "upload: no memory for the hash");
    *ret_upload = u;
    u = NULL;
    return RF_OK;
}

enum rf_code rf_upload_write(struct rf_upload *u, const void *bytes, size_t n_bytes, struct rf_err *err)
{
    RF_ASSERT(!u->spent);
    if ((int64_t)n_bytes > u->max_bytes - u->size)
        return rf_fail(err, RF_ERR_LIMIT, "upload: more than %lld bytes", (long long)u->max_bytes);
    EVP_DigestUpdate(u->hash, bytes, n_bytes);
    const char *p = bytes;
    for (size_t left = n_bytes; left > 0;) {
        ssize_t n = write(u->fd, p, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rf_wrap(err, fail_errno(err, "write", u->tmp_name), "upload");
        p += n;
        left -= (size_t)n;
    }
    u->size += (int64_t)n_bytes;
    return RF_OK;
}

int64_t rf_upload_size(const struct rf_upload *u)
{
    return u->size;
}

static void hash_text(struct rf_upload *u, char ret_text[RF_SHA256_SIZE])
{
    unsigned char digest[32];
    unsigned n = 0;
    EVP_DigestFinal_ex(u->hash, digest, &n);
    RF_ASSERT(n == sizeof digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(ret_text + 2 * i, 3, "%02x", digest[i]);
}

/* Synced content, then the name, then the folder's own entry: after this the file survives a power cut. */
static enum rf_code put_in_place(struct rf_upload *u, const char *job_id, const char *disk_name, struct rf_err *err)
{
    struct rf_files *f = u->files;
    if (fsync(u->fd) != 0)
        return fail_errno(err, "sync", disk_name);
    int folder = open_folder(f->files_fd, job_id);
    if (folder < 0)
        return fail_errno(err, "folder", job_id);
    enum rf_code rc = RF_OK;
    if (renameat(f->tmp_fd, u->tmp_name, folder, disk_name) != 0)
        rc = fail_errno(err, "rename", disk_name);
    else if (u->spent = true, fsync(folder) != 0 || fsync(f->files_fd) != 0) /* whoever made the job's folder, we or an
                                                            upload beside us that has not synced it yet */
        rc = fail_errno(err, "sync folder of", disk_name);
    close(folder);
    return rc;
}

enum rf_code rf_upload_finish(struct rf_upload *u, const char *job_id, const char *name, const char *sha256,
                              int64_t now_ms, struct rf_file *ret_file, struct rf_err *err)
{
    struct rf_id id;
    RF_ASSERT(!u->spent);
    if (!rf_file_name_valid(name) || !rf_id_parse(job_id, &id))
        return rf_fail(err, RF_ERR_INVALID, "'%.60s' is not the name of a job's file", name);
    struct rf_file file = {.size_bytes = u->size, .created_ms = now_ms};
    snprintf(file.name, sizeof file.name, "%s", name);
    hash_text(u, file.sha256);
    if (sha256 != NULL && strcmp(sha256, file.sha256) != 0)
        return rf_fail(err, RF_ERR_FORMAT, "'%s' arrived damaged: SHA-256 is %s, not %.64s", name, file.sha256, sha256);
    char tag[14];
    memcpy(tag, u->tmp_name, 13); /* random already, and unique in tmp/ */
    tag[13] = '\0';
    snprintf(file.disk_name, sizeof file.disk_name, "%s-%s", tag, name);
    enum rf_code rc = put_in_place(u, job_id, file.disk_name, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc == RF_ERR_NOT_FOUND ? RF_ERR_IO : rc, "keep '%s' of %s", name, job_id);
    *ret_file = file;
    return RF_OK;
}

void rf_upload_destroy(struct rf_upload **upload)
{
    struct rf_upload *u = *upload;
    if (u == NULL)
        return;
    if (u->fd >= 0)
        close(u->fd);
    if (!u->spent)
        unlinkat(u->files->tmp_fd, u->tmp_name, 0);
    EVP_MD_CTX_free(u->hash);
    free(u);
    *upload = NULL;
}

/* ---- giving out, taking away ---- */

/* "<job id>/<disk name>", both from our own table; checked all the same, for a path is made of them. */
static bool disk_path(const char *job_id, const char *disk_name, char *ret_path, size_t size)
{
    struct rf_id id;
    const char *dash = strchr(disk_name, '-');
    return rf_id_parse(job_id, &id) && dash != NULL && dash - disk_name == 13 && rf_file_name_valid(dash + 1) &&
           strspn(disk_name, "0123456789abcdefghjkmnpqrstvwxyz") == 13 &&
           (size_t)snprintf(ret_path, size, "%s/%s", job_id, disk_name) < size;
}

enum rf_code rf_files_open_read(struct rf_files *files, const char *job_id, const struct rf_file *file, int *ret_fd,
                                struct rf_err *err)
{
    char path[128];
    struct stat st;
    if (!disk_path(job_id, file->disk_name, path, sizeof path))
        return rf_fail(err, RF_ERR_NOT_FOUND, "'%.80s' is not a file of a job", file->disk_name);
    int fd = openat(files->files_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return fail_errno(err, "open", path);
    if (fstat(fd, &st) != 0 || st.st_size != file->size_bytes) {
        close(fd);
        return rf_fail(err, RF_ERR_IO, "'%s' has another size than recorded", path);
    }
    *ret_fd = fd;
    return RF_OK;
}

void rf_files_remove(struct rf_files *files, const char *job_id, const char *disk_name)
{
    char path[128];
    if (!disk_path(job_id, disk_name, path, sizeof path))
        return;
    unlinkat(files->files_fd, path, 0);
    unlinkat(files->files_fd, job_id, AT_REMOVEDIR); /* only the last one's removal succeeds */
}

enum rf_code rf_files_collect(struct rf_files *files, struct rf_store *s, int64_t now_ms, int *ret_n, struct rf_err *err)
{
    struct rf_gone_file *gone = NULL;
    int n = 0;
    enum rf_code rc = rf_store_gone_files(s, COLLECT_AT_ONCE, &gone, &n, err);
    if (ret_n != NULL)
        *ret_n = n;
    if (rc != RF_OK || n == 0) {
        free(gone);
        return rc;
    }
    int64_t *rows = rf_new_array(int64_t, (size_t)n);
    for (int i = 0; i < n; i++) {
        rf_files_remove(files, gone[i].job_id, gone[i].disk_name);
        rows[i] = gone[i].row;
    }
    struct rf_op op = {.kind = RF_OP_FORGET_FILES, .now_ms = now_ms, .u.forget = {.rows = rows, .n_rows = n}};
    rc = rf_store_run(s, &op, err);
    free(rows);
    free(gone);
    return rc;
}

/* ---- the sweep ---- */

struct sweep {
    struct rf_store *s;
    int64_t before_ms;
    const char *job_id;
    int n;
    enum rf_code rc;
    struct rf_err *err;
};

static int64_t changed_ms(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

static void sweep_file(void *ctx, int folder_fd, const char *name)
{
    struct sweep *w = ctx;
    struct stat st;
    bool known = false;
    if (w->rc != RF_OK || fstatat(folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode) ||
        changed_ms(&st) >= w->before_ms)
        return;
    w->rc = rf_store_disk_name_known(w->s, w->job_id, name, &known, w->err);
    if (w->rc == RF_OK && !known && unlinkat(folder_fd, name, 0) == 0)
        w->n++;
}

static void sweep_folder(void *ctx, int files_fd, const char *job_id)
{
    struct sweep *w = ctx;
    struct rf_id id;
    if (w->rc != RF_OK || !rf_id_parse(job_id, &id))
        return; /* not one of ours: leave it */
    struct stat st;
    int fd = openat(files_fd, job_id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return;
    }
    w->job_id = job_id;
    each_name(fd, sweep_file, w);
    close(fd);
    if (changed_ms(&st) < w->before_ms)
        unlinkat(files_fd, job_id, AT_REMOVEDIR);
}

enum rf_code rf_files_sweep(struct rf_files *files, struct rf_store *s, int64_t before_ms, int *ret_n, struct rf_err *err)
{
    struct sweep w = {.s = s, .before_ms = before_ms, .rc = RF_OK, .err = err};
    each_name(files->files_fd, sweep_folder, &w);
    if (ret_n != NULL)
        *ret_n = w.n;
    return w.rc;
}

/* ---- space ---- */

enum rf_code rf_files_free_bytes(struct rf_files *files, int64_t *ret_bytes, int64_t *ret_total, struct rf_err *err)
{
    struct statvfs fs;
    if (fstatvfs(files->files_fd, &fs) != 0)
        return rf_fail(err, RF_ERR_IO, "free space of '%s': %s", files->path, strerror(errno));
    *ret_bytes = (int64_t)(fs.f_bavail * fs.f_frsize);
    if (ret_total != NULL)
        *ret_total = (int64_t)(fs.f_blocks * fs.f_frsize);
    return RF_OK;
}

static void add_file(void *ctx, int folder_fd, const char *name)
{
    struct stat st;
    if (fstatat(folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
        *(int64_t *)ctx += st.st_size;
}

static void add_folder(void *ctx, int files_fd, const char *name)
{
    int fd = openat(files_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return;
    each_name(fd, add_file, ctx);
    close(fd);
}

enum rf_code rf_files_used_bytes(struct rf_files *files, const char *job_id, int64_t *ret_bytes, struct rf_err *err)
{
    struct rf_id id;
    *ret_bytes = 0;
    if (job_id != NULL && !rf_id_parse(job_id, &id))
        return rf_fail(err, RF_ERR_NOT_FOUND, "there is no job '%.40s'", job_id);
    if (job_id != NULL)
        add_folder(ret_bytes, files->files_fd, job_id);
    else
        each_name(files->files_fd, add_folder, ret_bytes);
    return RF_OK;
}
