/* See phantom.h. The map is pieced together page by page: pages inside a run of tensors of one type and kind are the
 * block's, again and again; the few pages where two runs meet, and small data, are written out.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/net/phantom.h"

#include "worker/engine/dtype.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define BLOCK_PAGES ((size_t)16381) /* 64 MB; a prime, so no row of weights begins where another did */
#define TABLE 65536                 /* different values of a block; each equally likely */

/* ---- the list ---- */

void rf_phantom_add(struct rf_phantom_list *list, const char *name, enum rf_dtype dtype, enum rf_values values,
                    int n_dims, const int64_t *shape)
{
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 256;
        list->tensors = rf_realloc(list->tensors, (size_t)list->capacity, sizeof *list->tensors);
    }
    struct rf_phantom_tensor *t = &list->tensors[list->n++];
    *t = (struct rf_phantom_tensor){.values = values};
    t->entry = (struct rf_st_entry){.name = rf_strdup(name), .dtype = dtype, .n_dims = n_dims,
                                    .size_bytes = rf_dtype_size(dtype)};
    for (int i = 0; i < n_dims; i++) {
        t->entry.shape[i] = shape[i];
        t->entry.size_bytes *= (size_t)shape[i];
    }
}

void rf_phantom_add_bytes(struct rf_phantom_list *list, const char *name, const void *bytes, size_t size_bytes)
{
    rf_phantom_add(list, name, RF_U8, RF_VALUES_MATRIX, 1, (int64_t[]){(int64_t)size_bytes});
    char *copy = rf_new_array(char, size_bytes + 1);
    memcpy(copy, bytes, size_bytes);
    list->tensors[list->n - 1].entry.data = copy;
}

void rf_phantom_list_finish(struct rf_phantom_list *list)
{
    for (int i = 0; i < list->n; i++) {
        free((char *)list->tensors[i].entry.name);
        free((void *)list->tensors[i].entry.data);
    }
    free(list->tensors);
    *list = (struct rf_phantom_list){0};
}

/* Wide types first, as the public writers do, so that everything is aligned; equal kinds side by side. */
static int in_file_order(const void *a, const void *b)
{
    const struct rf_phantom_tensor *x = a, *y = b;
    size_t sx = rf_dtype_size(x->entry.dtype), sy = rf_dtype_size(y->entry.dtype);
    if (sx != sy)
        return sx < sy ? 1 : -1;
    if (x->entry.dtype != y->entry.dtype)
        return x->entry.dtype < y->entry.dtype ? -1 : 1;
    if (!x->entry.data != !y->entry.data)
        return x->entry.data ? 1 : -1;
    if (x->values != y->values)
        return x->values < y->values ? -1 : 1;
    return strcmp(x->entry.name, y->entry.name);
}

/* ---- values ---- */

/* Counter-based: the i-th of any sequence, without the ones before it (the finaliser of SplitMix64). */
static uint64_t mix(uint64_t i)
{
    i += 0x9e3779b97f4a7c15u;
    i = (i ^ i >> 30) * 0xbf58476d1ce4e5b9u;
    i = (i ^ i >> 27) * 0x94d049bb133111ebu;
    return i ^ i >> 31;
}

/* Nearly normal, deviation 1: the sum of twelve uniform numbers. */
static float normal(uint64_t i)
{
    float sum = -6;
    for (uint64_t k = 0; k < 3; k++)
        for (uint64_t r = mix(3 * i + k), n = 0; n < 4; n++, r >>= 16)
            sum += (float)(r & 0xffff) * 0x1p-16f;
    return sum;
}

static float value(enum rf_values values, bool fp8, uint64_t i)
{
    switch (values) {
    case RF_VALUES_MATRIX:
        return normal(i) * (fp8 ? 32.0f : 0.02f);
    case RF_VALUES_GAIN:
        return 1 + 0.1f * normal(i);
    case RF_VALUES_SCALE:
        return 0.02f / 32;
    case RF_VALUES_ALPHA:
        return 8;
    case RF_VALUES_COUNT:
        break;
    }
    RF_ASSERT(!"a kind of value that is unknown");
}

static void fill_block(char *block, size_t bytes, enum rf_dtype dtype, enum rf_values values)
{
    static float table[TABLE];
    static char narrow[TABLE * sizeof(double)];
    size_t size = rf_dtype_size(dtype);
    bool fp8 = dtype == RF_F8_E4M3 || dtype == RF_F8_E5M2;
    uint64_t seed = ((uint64_t)dtype * RF_VALUES_COUNT + values) << 40;
    RF_ASSERT(rf_dtype_is_float(dtype));
    for (uint64_t i = 0; i < TABLE; i++)
        table[i] = value(values, fp8, seed + i);
    rf_dtype_from_f32(narrow, dtype, table, TABLE);
    uint64_t random = 0;
    for (size_t i = 0; i < bytes / size; i++, random >>= 16) {
        if (i % 4 == 0)
            random = mix(seed + TABLE + i / 4);
        memcpy(block + i * size, narrow + (random & 0xffff) * size, size);
    }
}

/* ---- the map ---- */

/* Tensors that share a block, or one with bytes of its own: file bytes [begin, end). */
struct span {
    size_t begin, end;
    const struct rf_phantom_tensor *first;
    int fd;            /* of the block; -1: none */
    const char *block; /* mapped, or the tensor's own bytes */
    size_t block_bytes;
};

static bool same_span(const struct span *s, const struct rf_phantom_tensor *t)
{
    return t->entry.data == NULL && s->first->entry.data == NULL && s->first->entry.dtype == t->entry.dtype &&
           s->first->values == t->values;
}

static int find_spans(const struct rf_phantom_list *list, size_t at, struct span *spans)
{
    int n = 0;
    for (int i = 0; i < list->n; i++) {
        const struct rf_phantom_tensor *t = &list->tensors[i];
        if (n == 0 || !same_span(&spans[n - 1], t))
            spans[n++] = (struct span){.begin = at, .first = t, .fd = -1};
        at += t->entry.size_bytes;
        spans[n - 1].end = at;
    }
    return n;
}

/* The span's bytes are its block's, place modulo the block's length: file byte i is block byte i % block_bytes. */
static bool make_block(struct span *s)
{
    if (s->first->entry.data != NULL || s->end == s->begin)
        return true;
    size_t pages = (s->end - s->begin) / PAGE + 2;
    s->block_bytes = (pages < BLOCK_PAGES ? pages : BLOCK_PAGES) * PAGE;
    s->fd = memfd_create("framefarm-phantom", MFD_CLOEXEC);
    if (s->fd < 0 || ftruncate(s->fd, (off_t)s->block_bytes) != 0)
        return false;
    char *block = mmap(NULL, s->block_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (block == MAP_FAILED)
        return false;
    fill_block(block, s->block_bytes, s->first->entry.dtype, s->first->values);
    s->block = block;
    return true;
}

/* File bytes [from, to) of the span written out. */
static void copy_out(const struct span *s, char *map, size_t from, size_t to)
{
    from = from > s->begin ? from : s->begin;
    to = to < s->end ? to : s->end;
    if (from < to && s->first->entry.data != NULL) {
        memcpy(map + from, (const char *)s->first->entry.data + (from - s->begin), to - from);
        return;
    }
    while (from < to) {
        size_t at = from % s->block_bytes, n = to - from;
        n = n < s->block_bytes - at ? n : s->block_bytes - at;
        memcpy(map + from, s->block + at, n);
        from += n;
    }
}

/* Whole pages are mapped where they are, the span's two ends copied. */
static bool place_span(const struct span *s, char *map)
{
    size_t first = (s->begin + PAGE - 1) / PAGE * PAGE, last = s->end / PAGE * PAGE;
    if (s->fd < 0 || first >= last) {
        copy_out(s, map, s->begin, s->end);
        return true;
    }
    copy_out(s, map, s->begin, first);
    copy_out(s, map, last, s->end);
    while (first < last) {
        size_t at = first % s->block_bytes, n = last - first;
        n = n < s->block_bytes - at ? n : s->block_bytes - at;
        if (mmap(map + first, n, PROT_READ, MAP_SHARED | MAP_FIXED, s->fd, (off_t)at) == MAP_FAILED)
            return false;
        first += n;
    }
    return true;
}

enum rf_code rf_phantom_map(struct rf_phantom_list *list, struct rf_phantom *ret_phantom, struct rf_err *err)
{
    if (list->n > 0)
        qsort(list->tensors, (size_t)list->n, sizeof *list->tensors, in_file_order);
    RF_AUTO(rf_free) const struct rf_st_entry **order = rf_new_array(const struct rf_st_entry *, (size_t)list->n + 1);
    size_t size = 0, header_bytes = 0;
    for (int i = 0; i < list->n; i++) {
        order[i] = &list->tensors[i].entry;
        size += order[i]->size_bytes;
    }
    RF_AUTO(rf_free) char *header = rf_safetensors_header(order, list->n, 64, &header_bytes);
    RF_AUTO(rf_free) struct span *spans = rf_new_array(struct span, (size_t)list->n + 1);
    int n = find_spans(list, header_bytes, spans);
    size += header_bytes;
    char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool ok = map != MAP_FAILED;
    if (ok)
        memcpy(map, header, header_bytes);
    for (int i = 0; i < n && ok; i++)
        ok = make_block(&spans[i]) && place_span(&spans[i], map);
    int reason = errno;
    for (int i = 0; i < n; i++) { /* the map keeps the blocks */
        if (spans[i].block != NULL)
            munmap((char *)spans[i].block, spans[i].block_bytes);
        if (spans[i].fd >= 0)
            close(spans[i].fd);
    }
    *ret_phantom = (struct rf_phantom){map == MAP_FAILED ? NULL : map, size};
    if (ok)
        return RF_OK;
    rf_phantom_finish(ret_phantom);
    return rf_fail(err, RF_ERR_NO_MEMORY, "%zu MiB of address space for random weights: %s", size >> 20,
                   strerror(reason));
}

void rf_phantom_finish(struct rf_phantom *phantom)
{
    if (phantom->bytes != NULL)
        munmap((char *)phantom->bytes, phantom->size_bytes);
    *phantom = (struct rf_phantom){0};
}
