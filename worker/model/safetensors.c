/* The safetensors container: header in, checked; data stays where it is mapped.
 *
 * The format's own rule is followed to the letter: sorted by offset, tensors lie end to end and fill the data section
 * exactly. A hole or a rest means a damaged or doctored file. Names are kept sorted for look-up.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/safetensors.h"

#include "worker/model/json_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_HEADER_BYTES ((uint64_t)100 << 20) /* the limit of the public readers */

struct metadata {
    char *key, *value;
};

struct rf_safetensors {
    char *path;
    void *map; /* NULL: the bytes are the caller's */
    size_t map_bytes;
    struct rf_st_entry *entries; /* by name; names are ours */
    int n_entries, capacity;
    struct metadata *metadata;
    int n_metadata;
};


static enum rf_code bad_tensor(const char *name, const char *what, struct rf_err *err)
{
    return rf_fail(err, RF_ERR_FORMAT, "tensor '%.100s': %s", name, what);
}

static enum rf_code read_dtype(struct rf_json_reader *r, const char *name, enum rf_dtype *ret_dtype, struct rf_err *err)
{
    RF_AUTO(rf_free) char *word = NULL;
    enum rf_code rc = rf_json_string(r, &word, err);
    if (rc != RF_OK)
        return rc;
    for (int i = 0; i < RF_DTYPE_COUNT; i++)
        if (strcmp(rf_dtype_name((enum rf_dtype)i), word) == 0) {
            *ret_dtype = (enum rf_dtype)i;
            return RF_OK;
        }
    return rf_fail(err, RF_ERR_FORMAT, "tensor '%.100s': the dtype '%.20s' is unknown", name, word);
}

/* A list of whole numbers of at most `max` elements. */
static enum rf_code read_numbers(struct rf_json_reader *r, const char *name, const char *member, int max,
                                 int64_t *values, int *ret_n, struct rf_err *err)
{
    enum rf_code rc = rf_json_expect(r, '[', err);
    int n = 0;
    if (rc == RF_OK && !rf_json_take(r, ']')) {
        do {
            if (n == max)
                return rf_fail(err, RF_ERR_FORMAT, "tensor '%.100s': %s has more than %d numbers", name, member, max);
            rc = rf_json_uint(r, &values[n++], err);
        } while (rc == RF_OK && rf_json_take(r, ','));
        if (rc == RF_OK)
            rc = rf_json_expect(r, ']', err);
    }
    *ret_n = n;
    return rc;
}

/* {"dtype": …, "shape": […], "data_offsets": [begin, end]} in any order, each exactly once, nothing else. */
static enum rf_code read_tensor(struct rf_json_reader *r, struct rf_st_entry *entry, int64_t offsets[2],
                                struct rf_err *err)
{
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4, ALL = 7 };
    int seen = 0, n_offsets = 0;
    enum rf_code rc = rf_json_expect(r, '{', err);
    while (rc == RF_OK && seen != ALL) {
        if (seen != 0 && (rc = rf_json_expect(r, ',', err)) != RF_OK)
            return rc;
        RF_AUTO(rf_free) char *member = NULL;
        if ((rc = rf_json_string(r, &member, err)) != RF_OK || (rc = rf_json_expect(r, ':', err)) != RF_OK)
            return rc;
        int which = strcmp(member, "dtype") == 0          ? DTYPE
                    : strcmp(member, "shape") == 0        ? SHAPE
                    : strcmp(member, "data_offsets") == 0 ? OFFSETS
                                                          : 0;
        if (which == 0 || (seen & which))
            return rf_fail(err, RF_ERR_FORMAT, "tensor '%.100s': member '%.40s' is %s", entry->name, member,
                           which ? "there twice" : "unknown");
        seen |= which;
        if (which == DTYPE)
            rc = read_dtype(r, entry->name, &entry->dtype, err);
        else if (which == SHAPE)
            rc = read_numbers(r, entry->name, "shape", RF_MAX_DIMS, entry->shape, &entry->n_dims, err);
        else
            rc = read_numbers(r, entry->name, "data_offsets", 2, offsets, &n_offsets, err);
    }
    if (rc == RF_OK && n_offsets != 2)
        return bad_tensor(entry->name, "data_offsets needs two numbers", err);
    return rc == RF_OK ? rf_json_expect(r, '}', err) : rc;
}

/* Elements times size must be what the offsets span, and the span must lie in the data. */
static enum rf_code check_extent(struct rf_st_entry *entry, const int64_t offsets[2], int64_t data_bytes,
                                 struct rf_err *err)
{
    int64_t bytes = (int64_t)rf_dtype_size(entry->dtype);
    bool empty = false, overflow = false;
    for (int i = 0; i < entry->n_dims; i++)
        empty = empty || entry->shape[i] == 0;
    for (int i = 0; i < entry->n_dims && !empty; i++)
        overflow = overflow || __builtin_mul_overflow(bytes, entry->shape[i], &bytes);
    if (overflow)
        return bad_tensor(entry->name, "its shape has too many elements", err);
    if (empty)
        bytes = 0;
    if (offsets[0] > offsets[1] || offsets[1] > data_bytes)
        return rf_fail(err, RF_ERR_FORMAT, "tensor '%.100s': offsets %lld to %lld, but the data ends at %lld",
                       entry->name, (long long)offsets[0], (long long)offsets[1], (long long)data_bytes);
    if (offsets[1] - offsets[0] != bytes)
        return rf_fail(err, RF_ERR_FORMAT, "tensor '%.100s': its shape needs %lld bytes, its offsets span %lld",
                       entry->name, (long long)bytes, (long long)(offsets[1] - offsets[0]));
    entry->size_bytes = (size_t)bytes;
    return RF_OK;
}

static enum rf_code read_metadata(struct rf_json_reader *r, struct rf_safetensors *f, struct rf_err *err)
{
    if (f->metadata != NULL)
        return rf_fail(err, RF_ERR_FORMAT, "__metadata__ is there twice");
    enum rf_code rc = rf_json_expect(r, '{', err);
    if (rc != RF_OK)
        return rc;
    f->metadata = rf_new(struct metadata);
    if (rf_json_take(r, '}'))
        return RF_OK;
    do {
        f->metadata = rf_realloc(f->metadata, (size_t)f->n_metadata + 1, sizeof *f->metadata);
        struct metadata *m = &f->metadata[f->n_metadata++];
        *m = (struct metadata){0};
        if ((rc = rf_json_string(r, &m->key, err)) != RF_OK || (rc = rf_json_expect(r, ':', err)) != RF_OK ||
            (rc = rf_json_string(r, &m->value, err)) != RF_OK)
            return rf_wrap(err, rc, "__metadata__");
    } while (rf_json_take(r, ','));
    return rf_json_expect(r, '}', err);
}

static struct rf_st_entry *add_entry(struct rf_safetensors *f)
{
    if (f->n_entries == f->capacity) {
        f->capacity = f->capacity ? 2 * f->capacity : 64;
        f->entries = rf_realloc(f->entries, (size_t)f->capacity, sizeof *f->entries);
    }
    struct rf_st_entry *entry = &f->entries[f->n_entries++];
    *entry = (struct rf_st_entry){0};
    return entry;
}

static enum rf_code read_header(struct rf_safetensors *f, const char *text, size_t size, const char *data,
                                int64_t data_bytes, struct rf_err *err)
{
    struct rf_json_reader r = {text, size, 0};
    if (size == 0 || text[0] != '{')
        return rf_fail(err, RF_ERR_FORMAT, "the header is not a JSON object");
    enum rf_code rc = rf_json_expect(&r, '{', err);
    if (rc == RF_OK && !rf_json_take(&r, '}')) {
        do {
            RF_AUTO(rf_free) char *name = NULL;
            if ((rc = rf_json_string(&r, &name, err)) != RF_OK || (rc = rf_json_expect(&r, ':', err)) != RF_OK)
                return rc;
            if (strcmp(name, "__metadata__") == 0) {
                rc = read_metadata(&r, f, err);
                continue;
            }
            struct rf_st_entry *entry = add_entry(f);
            entry->name = name;
            name = NULL;
            int64_t offsets[2];
            if ((rc = read_tensor(&r, entry, offsets, err)) != RF_OK ||
                (rc = check_extent(entry, offsets, data_bytes, err)) != RF_OK)
                return rc;
            entry->data = data + offsets[0]; /* NULL for empty ones once their place is checked */
        } while (rc == RF_OK && rf_json_take(&r, ','));
        if (rc == RF_OK)
            rc = rf_json_expect(&r, '}', err);
    }
    if (rc == RF_OK && !rf_json_at_end(&r))
        return rf_fail(err, RF_ERR_FORMAT, "the header goes on after its JSON object");
    return rc;
}

static int by_place(const void *a, const void *b)
{
    const struct rf_st_entry *x = a, *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return (x->size_bytes > y->size_bytes) - (x->size_bytes < y->size_bytes);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct rf_st_entry *)a)->name, ((const struct rf_st_entry *)b)->name);
}

/* End to end, from the first byte of the data to the last; then in name order, each name once. */
static enum rf_code check_layout(struct rf_safetensors *f, const char *data, int64_t data_bytes, struct rf_err *err)
{
    size_t n = (size_t)f->n_entries;
    if (n > 0)
        qsort(f->entries, n, sizeof *f->entries, by_place);
    const char *expected = data;
    for (int i = 0; i < f->n_entries; i++) {
        struct rf_st_entry *entry = &f->entries[i];
        if ((const char *)entry->data != expected)
            return bad_tensor(entry->name, (const char *)entry->data < expected
                              ? "its data overlaps that of another" : "there is a hole before its data", err);
        expected += entry->size_bytes;
        if (entry->size_bytes == 0)
            entry->data = NULL;
    }
    if (expected - data != data_bytes)
        return rf_fail(err, RF_ERR_FORMAT, "%lld bytes of data, but the tensors cover %lld", (long long)data_bytes,
                       (long long)(expected - data));
    if (n > 0)
        qsort(f->entries, n, sizeof *f->entries, by_name);
    for (int i = 1; i < f->n_entries; i++)
        if (strcmp(f->entries[i - 1].name, f->entries[i].name) == 0)
            return bad_tensor(f->entries[i].name, "the name is there twice", err);
    return RF_OK;
}

static enum rf_code parse(struct rf_safetensors *f, const void *bytes, size_t size_bytes, struct rf_err *err)
{
    const unsigned char *b = bytes;
    if (size_bytes < 8)
        return rf_fail(err, RF_ERR_FORMAT, "%zu bytes are too short for a safetensors file", size_bytes);
    uint64_t header_bytes = 0;
    for (int i = 7; i >= 0; i--)
        header_bytes = header_bytes << 8 | b[i];
    if (header_bytes > MAX_HEADER_BYTES || header_bytes > size_bytes - 8)
        return rf_fail(err, RF_ERR_FORMAT, "no safetensors file, or cut off: a header of %llu bytes in a file of %zu",
                       (unsigned long long)header_bytes, size_bytes);
    const char *data = (const char *)b + 8 + header_bytes;
    int64_t data_bytes = (int64_t)(size_bytes - 8 - header_bytes);
    enum rf_code rc = read_header(f, (const char *)b + 8, (size_t)header_bytes, data, data_bytes, err);
    return rc == RF_OK ? check_layout(f, data, data_bytes, err) : rc;
}

enum rf_code rf_safetensors_parse(const char *name, const void *bytes, size_t size_bytes,
                                  struct rf_safetensors **ret_file, struct rf_err *err)
{
    RF_AUTO(rf_safetensors_close) struct rf_safetensors *f = rf_new(struct rf_safetensors);
    f->path = rf_strdup(name);
    enum rf_code rc = parse(f, bytes, size_bytes, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "%.120s", name);
    *ret_file = f;
    f = NULL;
    return RF_OK;
}

static struct {
    const char *name; /* NULL: free */
    const void *bytes;
    size_t size_bytes;
} lent[RF_ST_LENT];

void rf_safetensors_lend(const char *name, const void *bytes, size_t size_bytes)
{
    int at = -1;
    for (int i = RF_ST_LENT - 1; i >= 0; i--)
        if (lent[i].name == NULL)
            at = i;
    for (int i = 0; i < RF_ST_LENT; i++)
        if (lent[i].name != NULL && strcmp(lent[i].name, name) == 0)
            at = i;
    RF_ASSERT(at >= 0);
    lent[at].name = bytes ? name : NULL;
    lent[at].bytes = bytes;
    lent[at].size_bytes = size_bytes;
}

enum rf_code rf_safetensors_open(const char *path, struct rf_safetensors **ret_file, struct rf_err *err)
{
    for (int i = 0; i < RF_ST_LENT; i++)
        if (lent[i].name != NULL && strcmp(lent[i].name, path) == 0)
            return rf_safetensors_parse(path, lent[i].bytes, lent[i].size_bytes, ret_file, err);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return rf_fail(err, RF_ERR_IO, "%.120s: cannot open: %s", path, strerror(errno));
    struct stat st;
    void *map = MAP_FAILED;
    enum rf_code rc = RF_OK;
    if (fstat(fd, &st) != 0)
        rc = rf_fail(err, RF_ERR_IO, "%.120s: cannot stat: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = rf_fail(err, RF_ERR_IO, "%.120s: not a regular file", path);
    else if (st.st_size < 8)
        rc = rf_fail(err, RF_ERR_FORMAT, "%.120s: %lld bytes are too short for a safetensors file", path,
                     (long long)st.st_size);
    else if ((map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        rc = rf_fail(err, errno == ENOMEM ? RF_ERR_NO_MEMORY : RF_ERR_IO, "%.120s: cannot map: %s", path,
                     strerror(errno));
    close(fd);
    if (rc != RF_OK)
        return rc;
    rc = rf_safetensors_parse(path, map, (size_t)st.st_size, ret_file, err);
    if (rc != RF_OK) {
        munmap(map, (size_t)st.st_size);
        return rc;
    }
    (*ret_file)->map = map;
    (*ret_file)->map_bytes = (size_t)st.st_size;
    return RF_OK;
}

void rf_safetensors_close(struct rf_safetensors **file)
{
    struct rf_safetensors *f = *file;
    if (f == NULL)
        return;
    for (int i = 0; i < f->n_entries; i++)
        free((char *)f->entries[i].name);
    for (int i = 0; i < f->n_metadata; i++) {
        free(f->metadata[i].key);
        free(f->metadata[i].value);
    }
    if (f->map != NULL)
        munmap(f->map, f->map_bytes);
    free(f->entries);
    free(f->metadata);
    free(f->path);
    free(f);
    *file = NULL;
}

const char *rf_safetensors_path(const struct rf_safetensors *f)
{
    return f->path;
}

int rf_safetensors_count(const struct rf_safetensors *f)
{
    return f->n_entries;
}

const struct rf_st_entry *rf_safetensors_at(const struct rf_safetensors *f, int index)
{
    RF_ASSERT(index >= 0 && index < f->n_entries);
    return &f->entries[index];
}

const struct rf_st_entry *rf_safetensors_find(const struct rf_safetensors *f, const char *name)
{
    struct rf_st_entry key = {.name = name};
    return f->n_entries ? bsearch(&key, f->entries, (size_t)f->n_entries, sizeof key, by_name) : NULL;
}

const char *rf_safetensors_metadata(const struct rf_safetensors *f, const char *key)
{
    for (int i = 0; i < f->n_metadata; i++)
        if (strcmp(f->metadata[i].key, key) == 0)
            return f->metadata[i].value;
    return NULL;
}
