/* Writing a safetensors file: header, data, sync, rename, sync of the folder.
 *
 * Tensors are laid out by falling element size, then name, as the public writers do: then every tensor is aligned.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct text {
    char *bytes;
    size_t n, capacity;
};

static void append(struct text *t, const char *bytes, size_t n)
{
    if (t->n + n > t->capacity) {
        t->capacity = 2 * (t->n + n);
        t->bytes = rf_realloc(t->bytes, t->capacity, 1);
    }
    memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
}

static void append_string(struct text *t, const char *s)
{
    append(t, "\"", 1);
    for (; *s != '\0'; s++) {
        char escape[8];
        if (*s == '"' || *s == '\\' || (unsigned char)*s < 0x20)
            append(t, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", (unsigned char)*s));
        else
            append(t, s, 1);
    }
    append(t, "\"", 1);
}

/* snprintf() with these few numbers never exceeds the buffer. */
#define APPEND_NUMBERS(t, ...) \
    do { \
        char number[64]; \
        append((t), number, (size_t)snprintf(number, sizeof number, __VA_ARGS__)); \
    } while (0)

static int by_size_then_name(const void *a, const void *b)
{
    const struct rf_st_entry *x = *(const struct rf_st_entry *const *)a, *y = *(const struct rf_st_entry *const *)b;
    size_t sx = rf_dtype_size(x->dtype), sy = rf_dtype_size(y->dtype);
    return sx != sy ? (sx < sy ? 1 : -1) : strcmp(x->name, y->name);
}

static void make_header(struct text *t, const struct rf_st_entry *const *order, int n_entries, size_t multiple)
{
    static const char place_of_length[8] = {0};
    append(t, place_of_length, sizeof place_of_length);
    append(t, "{", 1);
    size_t at = 0;
    for (int i = 0; i < n_entries; i++) {
        const struct rf_st_entry *e = order[i];
        append(t, ",", i > 0);
        append_string(t, e->name);
        APPEND_NUMBERS(t, ":{\"dtype\":\"%s\",\"shape\":[", rf_dtype_name(e->dtype));
        for (int d = 0; d < e->n_dims; d++)
            APPEND_NUMBERS(t, "%s%lld", d ? "," : "", (long long)e->shape[d]);
        APPEND_NUMBERS(t, "],\"data_offsets\":[%zu,%zu]}", at, at + e->size_bytes);
        at += e->size_bytes;
    }
    append(t, "}", 1);
    while (t->n % multiple != 0)
        append(t, " ", 1);
    uint64_t length = t->n - 8;
    for (int i = 0; i < 8; i++)
        t->bytes[i] = (char)(length >> 8 * i);
}

char *rf_safetensors_header(const struct rf_st_entry *const *order, int n_entries, size_t multiple, size_t *ret_bytes)
{
    struct text header = {0};
    make_header(&header, order, n_entries, multiple);
    *ret_bytes = header.n;
    return header.bytes;
}

static bool write_all(int fd, const void *data, size_t n)
{
    for (const char *at = data; n > 0;) {
        ssize_t wrote = write(fd, at, n);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return false;
        at += wrote;
        n -= (size_t)wrote;
    }
    return true;
}

static bool sync_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    RF_AUTO(rf_free) char *folder = slash ? rf_strndup(path, (size_t)(slash - path) + 1) : rf_strdup(".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = fsync(fd) == 0;
    close(fd);
    return ok;
}

static bool write_file(const char *path, const struct text *header, const struct rf_st_entry *const *order,
                       int n_entries)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return false;
    bool ok = write_all(fd, header->bytes, header->n);
    for (int i = 0; i < n_entries && ok; i++)
        ok = write_all(fd, order[i]->data, order[i]->size_bytes);
    ok = ok && fsync(fd) == 0;
    int reason = errno;
    close(fd);
    errno = reason;
    return ok;
}

enum rf_code rf_safetensors_write(const char *path, const struct rf_st_entry *entries, int n_entries,
                                  struct rf_err *err)
{
    RF_AUTO(rf_free) const struct rf_st_entry **order = rf_new_array(const struct rf_st_entry *, (size_t)n_entries);
    for (int i = 0; i < n_entries; i++) {
        order[i] = &entries[i];
        RF_ASSERT(entries[i].n_dims >= 0 && entries[i].n_dims <= RF_MAX_DIMS);
    }
    qsort(order, (size_t)n_entries, sizeof *order, by_size_then_name);
    struct text header = {0};
    make_header(&header, order, n_entries, 8);
    RF_AUTO(rf_free) char *beside = rf_asprintf("%s.%d.tmp", path, (int)getpid());
    bool ok = write_file(beside, &header, order, n_entries) && rename(beside, path) == 0 && sync_folder_of(path);
    free(header.bytes);
    if (ok)
        return RF_OK;
    enum rf_code rc = rf_fail(err, RF_ERR_IO, "%.150s: cannot write: %s", path, strerror(errno));
    unlink(beside);
    return rc;
}
