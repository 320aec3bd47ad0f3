/* Preloaded into a server under test: writes down what a disk is obliged to keep, so that the test can cut the power.
 *
 * A disk owes nothing but what was synced. Under POWERLOSS_JOURNAL this keeps, by inode number,
 *     f<inode>   the content of a file as of its last fsync
 *     d<inode>   the entries of a folder as of its last fsync, one "<f|d> <inode> <name>" a line
 * each replaced by a rename after the fact and before fsync() returns. After a SIGKILL the test builds from these the
 * tree that a power cut may have left (powerloss.py): a file never synced is empty, a rename whose folder was not
 * synced has not happened. Whatever is under POWERLOSS_ROOT is watched; SQLite's -shm is not durable and needs no sync.
 *
 * POWERLOSS_LIE=files|folders: fsync of these says yes and does nothing, as some disks do. The tests must notice.
 *
 * An inode number must not come back for another file while something durable still points to it, so whatever is
 * removed is kept open until the process ends. SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char root[512];
static int journal_fd = -1, lies_of_files, lies_of_folders;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void)
{
    const char *journal = getenv("POWERLOSS_JOURNAL"), *lie = getenv("POWERLOSS_LIE");
    const char *watched = getenv("POWERLOSS_ROOT");
    if (journal == NULL || watched == NULL || realpath(watched, root) == NULL)
        abort();
    journal_fd = open(journal, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (journal_fd < 0)
        abort();
    lies_of_files = lie != NULL && strcmp(lie, "files") == 0;
    lies_of_folders = lie != NULL && strcmp(lie, "folders") == 0;
}

static int is_watched(int fd)
{
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    size_t n_root = strlen(root);
    if (n < 0)
        return 0;
    path[n] = '\0';
    return strncmp(path, root, n_root) == 0 && (path[n_root] == '/' || path[n_root] == '\0');
}

static int write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t done = syscall(SYS_write, fd, bytes, n);
        if (done <= 0)
            return -1;
        bytes += done;
        n -= (size_t)done;
    }
    return 0;
}

/* What pread sees of an open file, also of one opened for writing only. */
static int copy_content(int fd, int to)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int from = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
    static char buffer[1 << 20]; /* under the lock */
    ssize_t n = -1;
    while (from >= 0 && (n = read(from, buffer, sizeof buffer)) > 0)
        if (write_all(to, buffer, (size_t)n) != 0)
            n = -1;
    if (from >= 0)
        close(from);
    return n == 0 ? 0 : -1;
}

static int copy_entries(int fd, int to)
{
    int folder = (int)syscall(SYS_openat, fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    DIR *dir = folder >= 0 ? fdopendir(folder) : NULL;
    int rc = dir != NULL ? 0 : -1;
    for (struct dirent *e; rc == 0 && (e = readdir(dir)) != NULL;) {
        char line[512];
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        int n = snprintf(line, sizeof line, "%c %lu %s\n", S_ISDIR(st.st_mode) ? 'd' : 'f', (unsigned long)st.st_ino,
                         e->d_name);
        rc = write_all(to, line, (size_t)n);
    }
    if (dir != NULL)
        closedir(dir);
    return rc;
}

/* A failure here would be a hole in the proof: end loudly. */
static void keep(int fd)
{
    struct stat st;
    char name[48], fresh[52];
    if (!is_watched(fd) || fstat(fd, &st) != 0)
        return;
    int is_folder = S_ISDIR(st.st_mode);
    if (is_folder ? lies_of_folders : lies_of_files)
        return;
    snprintf(name, sizeof name, "%c%lu", is_folder ? 'd' : 'f', (unsigned long)st.st_ino);
    snprintf(fresh, sizeof fresh, "%s.new", name);
    pthread_mutex_lock(&lock);
    int to = (int)syscall(SYS_openat, journal_fd, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0 || (is_folder ? copy_entries(fd, to) : copy_content(fd, to)) != 0 || close(to) != 0 ||
        syscall(SYS_renameat, journal_fd, fresh, journal_fd, name) != 0)
        abort();
    pthread_mutex_unlock(&lock);
}

/* The real sync is left out: the kernel lives on, only the journal counts. */
int fsync(int fd)
{
    if (fcntl(fd, F_GETFD) < 0)
        return -1;
    keep(fd);
    return 0;
}

int fdatasync(int fd)
{
    return fsync(fd);
}

static void hold(int at, const char *path)
{
    if (syscall(SYS_openat, at, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0) < 0 && errno != ENOENT)
        abort();
}

int unlinkat(int at, const char *path, int flags)
{
    hold(at, path);
    return (int)syscall(SYS_unlinkat, at, path, flags);
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int renameat(int from_at, const char *from, int to_at, const char *to)
{
    hold(to_at, to);
    return (int)syscall(SYS_renameat, from_at, from, to_at, to);
}

int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}
