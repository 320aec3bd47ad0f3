/* The private folder and its lock; see scratch.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "framefarm-worker-"
#define LOCK_NAME ".lock"
#define SWEEP_AGE_S 60 /* a younger folder may be between mkdtemp() and its lock */

struct rf_scratch {
    char *path;
    int lock_fd; /* flock()ed as long as we live; the kernel lets go when we die, however that happens */
};

/* Removes the files in `path`; folders in it (we make none) stay. */
static void clear_folder(const char *path, bool keep_lock)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (!keep_lock || strcmp(entry->d_name, LOCK_NAME) != 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
}

static void sweep_one(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid() ||
        time(NULL) - info.st_mtime < SWEEP_AGE_S)
        return;
    RF_AUTO(rf_free) char *lock_path = rf_asprintf("%s/" LOCK_NAME, path);
    int fd = open(lock_path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd); /* its worker lives */
        return;
    }
    clear_folder(path, false);
    rmdir(path);
    if (fd >= 0)
        close(fd);
}

static void sweep(const char *parent)
{
    DIR *dir = opendir(parent);
    if (dir == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) != 0)
            continue;
        RF_AUTO(rf_free) char *path = rf_asprintf("%s/%s", parent, entry->d_name);
        sweep_one(path);
    }
    closedir(dir);
}

enum rf_code rf_scratch_create(struct rf_scratch **ret_scratch, struct rf_err *err)
{
    const char *parent = getenv("TMPDIR");
    if (parent == NULL || parent[0] == '\0')
        parent = "/tmp";
    sweep(parent);
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/" PREFIX "XXXXXX", parent);
    if (mkdtemp(path) == NULL)
        return rf_fail(err, RF_ERR_IO, "make a folder in '%s': %s", parent, strerror(errno));
    RF_AUTO(rf_free) char *lock_path = rf_asprintf("%s/" LOCK_NAME, path);
    int fd = open(lock_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0) {
        enum rf_code rc = rf_fail(err, RF_ERR_IO, "lock '%s': %s", lock_path, strerror(errno));
        if (fd >= 0)
            close(fd);
        clear_folder(path, false);
        rmdir(path);
        return rc;
    }
    struct rf_scratch *s = rf_new(struct rf_scratch);
    s->path = path;
    s->lock_fd = fd;
    path = NULL;
    *ret_scratch = s;
    return RF_OK;
}

void rf_scratch_destroy(struct rf_scratch **scratch)
{
    struct rf_scratch *s = *scratch;
    *scratch = NULL;
    if (s == NULL)
        return;
    clear_folder(s->path, false);
    rmdir(s->path);
    close(s->lock_fd);
    free(s->path);
    free(s);
}

const char *rf_scratch_path(const struct rf_scratch *s)
{
    return s->path;
}

char *rf_scratch_file(const struct rf_scratch *s, const char *name)
{
    return rf_asprintf("%s/%s", s->path, name);
}

void rf_scratch_clear(const struct rf_scratch *s)
{
    clear_folder(s->path, true);
}

enum rf_code rf_read_file(const char *path, size_t max_bytes, void **ret_bytes, size_t *ret_size_bytes,
                          struct rf_err *err)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return rf_fail(err, errno == ENOENT ? RF_ERR_NOT_FOUND : RF_ERR_IO, "open '%s': %s", path, strerror(errno));
    struct stat info;
    if (fstat(fileno(f), &info) != 0 || !S_ISREG(info.st_mode)) {
        fclose(f);
        return rf_fail(err, RF_ERR_IO, "'%s' is not a file", path);
    }
    if ((uint64_t)info.st_size > max_bytes) {
        fclose(f);
        return rf_fail(err, RF_ERR_LIMIT, "'%s' has %lld bytes; at most %zu are read", path, (long long)info.st_size,
                       max_bytes);
    }
    char *bytes = malloc((size_t)info.st_size + 1);
    if (bytes == NULL) {
        fclose(f);
        return rf_fail(err, RF_ERR_NO_MEMORY, "'%s': no memory for %lld bytes", path, (long long)info.st_size);
    }
    size_t n = fread(bytes, 1, (size_t)info.st_size, f);
    bool bad = ferror(f) != 0;
    fclose(f);
    if (bad) {
        free(bytes);
        return rf_fail(err, RF_ERR_IO, "read '%s': %s", path, strerror(errno));
    }
    bytes[n] = '\0';
    *ret_bytes = bytes;
    *ret_size_bytes = n;
    return RF_OK;
}

enum rf_code rf_write_file(const char *path, const void *bytes, size_t size_bytes, struct rf_err *err)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL)
        return rf_fail(err, RF_ERR_IO, "open '%s': %s", path, strerror(errno));
    bool bad = fwrite(bytes, 1, size_bytes, f) != size_bytes;
    bad |= fclose(f) != 0;
    return bad ? rf_fail(err, RF_ERR_IO, "write '%s': %s", path, strerror(errno)) : RF_OK;
}
