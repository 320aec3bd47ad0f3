/* See paper.h. SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/paper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_BLOCKS 4096
#define HOST_PAGE ((size_t)4 << 20)

struct paper_device paper;

enum slot_state { SLOT_EMPTY, SLOT_FILLED, SLOT_READY, SLOT_RELEASED };

static struct block {
    char *at;
    size_t bytes;
} blocks[MAX_BLOCKS], host_blocks[MAX_BLOCKS];
static int n_blocks, n_host_blocks;
static char *next_address;
static struct {
    struct block range;
    enum slot_state state;
} slots[RF_COPY_SLOTS];

static enum rf_code paper_open(const struct rf_engine_config *config, int index, void **ret_self, const char **ret_name,
                               enum rf_dtype *ret_act_dtype, struct rf_err *err)
{
    n_blocks = n_host_blocks = 0;
    next_address = (char *)((uintptr_t)1 << 44);
    memset(slots, 0, sizeof slots);
    paper.used_bytes = paper.n_allocs = paper.n_fills = paper.n_ops = 0;
    *ret_self = &paper;
    *ret_name = "paper";
    *ret_act_dtype = RF_BF16;
    return RF_OK;
}

static void paper_close(void *self)
{
    assert_int_equal(n_blocks, 0);
    assert_int_equal(n_host_blocks, 0);
}

static void paper_memory(void *self, int64_t *ret_fixed, int64_t *ret_free)
{
    *ret_fixed = paper.fixed_bytes;
    *ret_free = paper.total_bytes - paper.taken_by_others - paper.fixed_bytes - paper.used_bytes;
}

static enum rf_code paper_alloc(void *self, size_t size_bytes, void **ret_data, struct rf_err *err)
{
    int64_t fixed, free_bytes;
    paper_memory(self, &fixed, &free_bytes);
    if ((int64_t)size_bytes > free_bytes)
        return rf_fail(err, RF_ERR_NO_MEMORY, "paper: a block of %zu MiB; %lld MiB are free", size_bytes >> 20,
                       (long long)(free_bytes >> 20));
    assert_true(n_blocks < MAX_BLOCKS);
    blocks[n_blocks++] = (struct block){next_address, size_bytes};
    *ret_data = next_address;
    next_address += (size_bytes + 0x1fffff) & ~(size_t)0x1fffff; /* never handed out again */
    paper.used_bytes += (int64_t)size_bytes;
    paper.n_allocs++;
    return RF_OK;
}

static size_t size_of(const char *at)
{
    for (int i = 0; i < n_blocks; i++)
        if (blocks[i].at == at)
            return blocks[i].bytes;
    return 0;
}

static void paper_release(void *self, void *data)
{
    for (int i = 0; i < RF_COPY_SLOTS; i++) /* the backend waits for copies on their way */
        if (slots[i].range.at >= (char *)data && slots[i].range.at < (char *)data + size_of((char *)data))
            slots[i].state = SLOT_EMPTY;
    for (int i = 0; i < n_blocks; i++)
        if (blocks[i].at == data) {
            paper.used_bytes -= (int64_t)blocks[i].bytes;
            blocks[i] = blocks[--n_blocks];
            return;
        }
    fail_msg("a block is released that is not there");
}

/* Inside a block that is allocated, and not in a slot before its copy has arrived or after it was released. */
static void check(const struct rf_tensor *t, bool is_weight)
{
    if (t == NULL || t->data == NULL)
        return;
    const char *at = t->data;
    size_t bytes = rf_tensor_bytes(t);
    bool there = false;
    for (int i = 0; i < n_blocks && !there; i++)
        there = at >= blocks[i].at && at + bytes <= blocks[i].at + blocks[i].bytes;
    assert_true(there);
    for (int i = 0; i < RF_COPY_SLOTS && is_weight; i++)
        if (at >= slots[i].range.at && at < slots[i].range.at + slots[i].range.bytes)
            assert_int_equal(slots[i].state, SLOT_READY);
}

static enum rf_code counted(struct rf_err *err)
{
    if (++paper.n_ops == paper.fail_after_ops)
        return rf_fail(err, paper.failure, "paper: told to fail");
    return RF_OK;
}

/* ---- transfers ---- */

static enum rf_code paper_upload(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err)
{
    check(&(struct rf_tensor){.data = dst, .dtype = RF_U8, .n_dims = 1, .shape = {(int64_t)size_bytes}}, false);
    return RF_OK;
}

static enum rf_code paper_download(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err)
{
    memset(dst, 0, size_bytes);
    return RF_OK;
}

static enum rf_code paper_sync(void *self, struct rf_err *err)
{
    return RF_OK;
}

/* Host memory of any size in one small piece of memory, mapped again and again: what is written is not kept. */
static enum rf_code paper_host_alloc(void *self, size_t size_bytes, void **ret_data, struct rf_err *err)
{
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("paper", MFD_CLOEXEC);
        assert_true(fd >= 0 && ftruncate(fd, (off_t)HOST_PAGE) == 0);
    }
    size_t room = (size_bytes + HOST_PAGE - 1) / HOST_PAGE * HOST_PAGE;
    char *at = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(at != MAP_FAILED && n_host_blocks < MAX_BLOCKS);
    for (size_t i = 0; i < room; i += HOST_PAGE)
        assert_true(mmap(at + i, HOST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == at + i);
    host_blocks[n_host_blocks++] = (struct block){at, room};
    *ret_data = at;
    return RF_OK;
}

static void paper_host_release(void *self, void *data)
{
    for (int i = 0; i < n_host_blocks; i++)
        if (host_blocks[i].at == data) {
            munmap(data, host_blocks[i].bytes);
            host_blocks[i] = host_blocks[--n_host_blocks];
            return;
        }
    fail_msg("host memory is released that is not there");
}

static enum rf_code paper_slot_fill(void *self, int slot, void *dst, const void *src, size_t size_bytes,
                                    struct rf_err *err)
{
    assert_true(slots[slot].state == SLOT_EMPTY || slots[slot].state == SLOT_RELEASED);
    paper_upload(self, dst, src, size_bytes, err);
    bool from_host = false;
    for (int i = 0; i < n_host_blocks; i++)
        from_host |= (const char *)src == host_blocks[i].at && size_bytes <= host_blocks[i].bytes;
    assert_true(from_host);
    slots[slot].range = (struct block){dst, size_bytes};
    slots[slot].state = SLOT_FILLED;
    paper.n_fills++;
    return RF_OK;
}

static enum rf_code paper_slot_wait(void *self, int slot, struct rf_err *err)
{
    assert_int_equal(slots[slot].state, SLOT_FILLED);
    slots[slot].state = SLOT_READY;
    return RF_OK;
}

static enum rf_code paper_slot_release(void *self, int slot, struct rf_err *err)
{
    assert_int_equal(slots[slot].state, SLOT_READY);
    slots[slot].state = SLOT_RELEASED;
    return RF_OK;
}

/* ---- ops ---- */

static enum rf_code paper_linear(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                 const struct rf_linear *w, const struct rf_linear_opts *opts, struct rf_err *err)
{
    check(y, false);
    check(x, false);
    check(&w->w, true);
    check(&w->scale, true);
    check(&w->b, true);
    for (int i = 0; i < w->n_loras; i++) {
        check(&w->lora[i].down, true);
        check(&w->lora[i].up, true);
    }
    return counted(err);
}

static enum rf_code paper_layer_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                     const struct rf_tensor *scale, const struct rf_tensor *shift, bool one_plus,
                                     float eps, struct rf_err *err)
{
    check(y, false);
    check(x, false);
    check(scale, true);
    check(shift, true);
    return counted(err);
}

static enum rf_code paper_rms_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                   const struct rf_tensor *weight, float eps, struct rf_err *err)
{
    check(y, false);
    check(x, false);
    check(weight, true);
    return counted(err);
}

static enum rf_code paper_rms_rope(void *self, const struct rf_tensor *x, const struct rf_tensor *weight,
                                   const struct rf_tensor *freqs, int n_heads, float eps, struct rf_err *err)
{
    check(x, false);
    check(weight, true);
    check(freqs, false);
    return counted(err);
}

static enum rf_code paper_attention(void *self, const struct rf_tensor *o, const struct rf_tensor *q,
                                    const struct rf_tensor *k, const struct rf_tensor *v,
                                    const struct rf_attention_opts *opts, struct rf_err *err)
{
    const struct rf_tensor *all[] = {o, q, k, v, opts->bias};
    for (size_t i = 0; i < RF_COUNT_OF(all); i++)
        check(all[i], false);
    return counted(err);
}

static enum rf_code paper_gelu_mul(void *self, const struct rf_tensor *y, const struct rf_tensor *a,
                                   const struct rf_tensor *b, struct rf_err *err)
{
    check(y, false);
    check(a, false);
    check(b, false);
    return counted(err);
}

static enum rf_code paper_embed(void *self, const struct rf_tensor *y, const struct rf_tensor *table,
                                const int32_t *ids, int64_t n, struct rf_err *err)
{
    check(y, false);
    check(table, true);
    return counted(err);
}

static enum rf_code paper_axpby(void *self, const struct rf_tensor *y, float a, const struct rf_tensor *x, float b,
                                struct rf_err *err)
{
    check(y, false);
    check(x, false);
    return counted(err);
}

static enum rf_code paper_activate(void *self, const struct rf_tensor *y, const struct rf_tensor *x, enum rf_act act,
                                   struct rf_err *err)
{
    check(y, false);
    check(x, false);
    return counted(err);
}

static enum rf_code paper_copy(void *self, const struct rf_tensor *y, const struct rf_tensor *x, struct rf_err *err)
{
    check(y, false);
    check(x, true);
    return counted(err);
}

static enum rf_code paper_fill(void *self, const struct rf_tensor *y, float value, struct rf_err *err)
{
    check(y, false);
    return counted(err);
}

static enum rf_code paper_conv(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                               const struct rf_conv *w, const struct rf_conv_opts *opts, struct rf_err *err)
{
    check(y, false);
    check(x, false);
    check(&w->w, true);
    check(&w->b, true);
    check(opts->add, false);
    for (int i = 0; opts->before && i < 2; i++)
        check(&opts->before[i], false);
    return counted(err);
}

static enum rf_code paper_channel_norm(void *self, const struct rf_tensor *y, const struct rf_tensor *x,
                                       const struct rf_tensor *gamma, enum rf_act act, struct rf_err *err)
{
    check(y, false);
    check(x, false);
    check(gamma, true);
    return counted(err);
}

static enum rf_code paper_transpose(void *self, const struct rf_tensor *y, const struct rf_tensor *x, const float *mul,
                                    const float *add, struct rf_err *err)
{
    check(y, false);
    check(x, false);
    return counted(err);
}

const struct rf_backend paper_backend = {
    .kind = "paper",
    .open = paper_open,
    .close = paper_close,
    .alloc = paper_alloc,
    .release = paper_release,
    .upload = paper_upload,
    .download = paper_download,
    .sync = paper_sync,
    .memory = paper_memory,
    .host_alloc = paper_host_alloc,
    .host_release = paper_host_release,
    .slot_fill = paper_slot_fill,
    .slot_wait = paper_slot_wait,
    .slot_release = paper_slot_release,
    .linear = paper_linear,
    .layer_norm = paper_layer_norm,
    .rms_norm = paper_rms_norm,
    .rms_rope = paper_rms_rope,
    .attention = paper_attention,
    .gelu_mul = paper_gelu_mul,
    .embed = paper_embed,
    .axpby = paper_axpby,
    .activate = paper_activate,
    .copy = paper_copy,
    .fill = paper_fill,
    .patchify = paper_copy,
    .unpatchify = paper_copy,
    .conv = paper_conv,
    .channel_norm = paper_channel_norm,
    .to_channels_last = paper_transpose,
    .from_channels_last = paper_transpose,
};
