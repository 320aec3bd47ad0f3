/* Preloaded into a server under test: its clock and its disk obey a page that the test maps (farm.py, class Weather).
 *
 *     origin_ns   when the clock was taken over
 *     scale       how many of the server's seconds pass in one of ours: leases run out in test time
 *     offset_ns   added; changed at any moment, it is a clock that jumps
 *     disk_full   not 0: writes to regular files fail with ENOSPC, after writing half: disks fill in the middle
 *
 * Only CLOCK_REALTIME changes, which is what the server counts in; timeouts of system calls stay as they are.
 * SPDX-License-Identifier: Apache-2.0 */
/* Both names of each call are ours, so none may become the other. */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct page {
    _Atomic int64_t origin_ns, scale, offset_ns, disk_full;
};

static struct page *page;

__attribute__((constructor)) static void map_page(void)
{
    const char *path = getenv("FAULT_PAGE");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map = fd >= 0 ? mmap(NULL, sizeof *page, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (map == MAP_FAILED)
        abort(); /* a test that silently runs without its faults proves nothing */
    close(fd);
    page = map;
}

int clock_gettime(clockid_t id, struct timespec *ret)
{
    int rc = (int)syscall(SYS_clock_gettime, id, ret);
    if (rc != 0 || id != CLOCK_REALTIME || page == NULL)
        return rc;
    int64_t origin = page->origin_ns, real = (int64_t)ret->tv_sec * 1000000000 + ret->tv_nsec;
    int64_t shown = origin + (real - origin) * page->scale + page->offset_ns;
    ret->tv_sec = shown / 1000000000;
    ret->tv_nsec = shown % 1000000000;
    return 0;
}

/* Logs go on: they are not what this is about. */
static int is_full(int fd)
{
    struct stat st;
    return page != NULL && page->disk_full != 0 && fd > 2 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    if (!is_full(fd))
        return syscall(SYS_write, fd, bytes, n);
    if (n > 1 && page->disk_full == 1)
        return syscall(SYS_write, fd, bytes, n / 2); /* whoever writes the rest is told */
    errno = ENOSPC;
    return -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at)
{
    if (!is_full(fd))
        return syscall(SYS_pwrite64, fd, bytes, n, at);
    if (n > 512)
        (void)!syscall(SYS_pwrite64, fd, bytes, n / 2, at); /* torn, and then refused */
    errno = ENOSPC;
    return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    return pwrite64(fd, bytes, n, at);
}

int ftruncate64(int fd, off64_t size)
{
    struct stat st;
    if (is_full(fd) && fstat(fd, &st) == 0 && size > st.st_size) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_ftruncate, fd, size);
}

int ftruncate(int fd, off_t size)
{
    return ftruncate64(fd, size);
}

int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
    if (is_full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, at, n);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    return fallocate64(fd, mode, at, n);
}
