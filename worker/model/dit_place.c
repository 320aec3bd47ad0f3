/* Where an expert's blocks lie, and how those in host memory come to the device in time.
 *
 * A block is one piece of memory, measured when the file is opened: a piece of the device's, or an image in host memory
 * that is copied as a whole into a slot. Its tensors point into that piece; for a slot they are moved over as they are.
 * While one slot computes the other is filled, by one block ahead. On an engine that reads the mapped file there are no
 * pieces: everything is where the file is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/dit_private.h"
#include "worker/model/memory_plan.h"

struct rf_dit_piece {
    int64_t bytes;
    struct rf_arena *arena; /* on the device */
    void *image;            /* in host memory */
};

/* ---- measuring and placing ---- */

enum rf_code rf_dit_measure(struct rf_dit *d, struct rf_err *err)
{
    int n = d->config.n_layers;
    d->mapped = rf_engine_is_host(d->e);
    d->pieces = rf_new_array(struct rf_dit_piece, (size_t)n + 1); /* the last: all that is outside the blocks */
    rf_weights_place(d->weights, d->mapped ? RF_PLACE_MAP : RF_PLACE_MEASURE, NULL, 0);
    enum rf_code rc = rf_dit_load_globals(d, err);
    d->pieces[n].bytes = rf_weights_placed_bytes(d->weights);
    for (int i = 0; i < n && rc == RF_OK; i++) {
        rf_weights_place(d->weights, d->mapped ? RF_PLACE_MAP : RF_PLACE_MEASURE, NULL, 0);
        rc = rf_dit_load_block(d, i, err);
        d->pieces[i].bytes = rf_weights_placed_bytes(d->weights);
        if (d->pieces[i].bytes > d->block_bytes)
            d->block_bytes = d->pieces[i].bytes;
    }
    rf_weights_place(d->weights, RF_PLACE_MAP, NULL, 0);
    return rc;
}

int64_t rf_dit_globals_bytes(const struct rf_dit *d)
{
    return d->pieces[d->config.n_layers].bytes;
}

int64_t rf_dit_block_bytes(const struct rf_dit *d)
{
    return d->block_bytes;
}

static void give_back(struct rf_dit *d, struct rf_dit_piece *piece)
{
    rf_arena_destroy(&piece->arena);
    rf_host_free(d->e, piece->image);
    piece->image = NULL;
}

void rf_dit_unplace(struct rf_dit *d)
{
    for (int i = 0; d->pieces != NULL && i <= d->config.n_layers; i++)
        give_back(d, &d->pieces[i]);
    rf_free(&d->pieces);
}

/* Device memory of the block's largest size, so that what a plan adds up is what is taken whatever a block's own size.
 * */
static enum rf_code take_device(struct rf_dit *d, int index, struct rf_err *err)
{
    struct rf_dit_piece *piece = &d->pieces[index];
    int64_t bytes = index < d->config.n_layers ? d->block_bytes : piece->bytes;
    enum rf_code rc = rf_arena_create(d->e, bytes, &piece->arena, err);
    if (rc != RF_OK)
        return rc;
    struct rf_tensor memory = rf_arena_tensor(piece->arena, RF_U8, RF_SHAPE(bytes));
    rf_weights_place(d->weights, RF_PLACE_DEVICE, memory.data, bytes);
    return RF_OK;
}

static enum rf_code take_image(struct rf_dit *d, int index, struct rf_err *err)
{
    struct rf_dit_piece *piece = &d->pieces[index];
    enum rf_code rc = rf_host_alloc(d->e, piece->bytes, &piece->image, err);
    if (rc == RF_OK)
        rf_weights_place(d->weights, RF_PLACE_HOST, piece->image, piece->bytes);
    return rc;
}

/* Puts the piece where it belongs, if it is not there. A half-placed one is given back: the next try starts anew. */
static enum rf_code place(struct rf_dit *d, int index, bool streamed, struct rf_err *err)
{
    struct rf_dit_piece *piece = &d->pieces[index];
    if (streamed ? piece->image != NULL : piece->arena != NULL)
        return RF_OK;
    give_back(d, piece);
    enum rf_code rc = streamed ? take_image(d, index, err) : take_device(d, index, err);
    if (rc == RF_OK)
        rc = index < d->config.n_layers ? rf_dit_load_block(d, index, err) : rf_dit_load_globals(d, err);
    if (rc != RF_OK)
        give_back(d, piece);
    rf_weights_place(d->weights, RF_PLACE_MAP, NULL, 0);
    return rc;
}

void rf_dit_vacate(struct rf_dit *d, int n_streamed)
{
    for (int i = 0; i < d->config.n_layers; i++)
        if (rf_memory_plan_streams(n_streamed, d->config.n_layers, i))
            rf_arena_destroy(&d->pieces[i].arena);
}

enum rf_code rf_dit_place(struct rf_dit *d, int n_streamed, struct rf_err *err)
{
    int n = d->config.n_layers;
    RF_ASSERT(n_streamed >= 0 && n_streamed <= n);
    if (d->mapped) {
        RF_ASSERT(n_streamed == 0);
        return RF_OK;
    }
    rf_dit_vacate(d, n_streamed);
    enum rf_code rc = place(d, n, false, err);
    for (int i = 0; i < n && rc == RF_OK; i++)
        rc = place(d, i, rf_memory_plan_streams(n_streamed, n, i), err);
    d->n_streamed = n_streamed;
    /* Uploads still under way read the mapped file. */
    enum rf_code done = rf_engine_sync(d->e, rc == RF_OK ? err : NULL);
    return rc == RF_OK ? done : rc;
}

/* ---- a block in a slot ---- */

static void move_tensor(struct rf_tensor *t, const void *from, void *to)
{
    if (t->data != NULL)
        t->data = (char *)to + ((const char *)t->data - (const char *)from);
}

static void move_linear(struct rf_linear *l, const void *from, void *to)
{
    move_tensor(&l->w, from, to);
    move_tensor(&l->scale, from, to);
    move_tensor(&l->b, from, to);
    for (int i = 0; i < l->n_loras; i++) {
        move_tensor(&l->lora[i].down, from, to);
        move_tensor(&l->lora[i].up, from, to);
    }
}

static void move_attention(struct rf_dit_attention *a, const void *from, void *to)
{
    struct rf_linear *linears[] = {&a->q, &a->k, &a->v, &a->o};
    for (size_t i = 0; i < RF_COUNT_OF(linears); i++)
        move_linear(linears[i], from, to);
    move_tensor(&a->norm_q, from, to);
    move_tensor(&a->norm_k, from, to);
}

/* All of a block but its modulation, which is not in its piece. */
static void move_block(struct rf_dit_block *b, const void *from, void *to)
{
    move_attention(&b->self_attn, from, to);
    move_attention(&b->cross_attn, from, to);
    move_tensor(&b->norm3, from, to);
    move_tensor(&b->norm3_b, from, to);
    move_linear(&b->ffn[0], from, to);
    move_linear(&b->ffn[1], from, to);
}

/* ---- streaming ---- */

/* The first streamed block from `index` on; -1: none. */
static int streamed_from(const struct rf_dit *d, int index)
{
    for (int i = index; i < d->config.n_layers && d->n_streamed > 0; i++)
        if (d->pieces[i].image != NULL)
            return i;
    return -1;
}

static void fill(struct rf_dit_stream *stream, int slot, const struct rf_dit *d, int index)
{
    const struct rf_dit_piece *piece = &d->pieces[index];
    struct rf_tensor to = {.data = stream->slot[slot].data, .dtype = RF_U8, .n_dims = 1, .shape = {piece->bytes}};
    RF_ASSERT(piece->bytes <= (int64_t)rf_tensor_bytes(&stream->slot[slot]));
    rf_slot_fill(d->e, slot, &to, piece->image);
    stream->holds[slot].of = d;
    stream->holds[slot].index = index;
}

static bool holds(const struct rf_dit_stream *stream, int slot, const struct rf_dit *d, int index)
{
    return stream->holds[slot].of == d && stream->holds[slot].index == index;
}

void rf_dit_pass_begin(const struct rf_dit *d, struct rf_dit_stream *stream)
{
    int first = streamed_from(d, 0);
    if (first < 0)
        return;
    RF_ASSERT(stream != NULL);
    if (!holds(stream, stream->at, d, first)) /* the pass before did not know that we come */
        fill(stream, stream->at, d, first);
}

const struct rf_dit_block *rf_dit_block_begin(const struct rf_dit *d, struct rf_dit_stream *stream, int index,
                                              struct rf_dit_block *room)
{
    if (streamed_from(d, index) != index)
        return &d->blocks[index];
    int at = stream->at, next = streamed_from(d, index + 1);
    RF_ASSERT(holds(stream, at, d, index));
    rf_slot_wait(d->e, at);
    if (next >= 0)
        fill(stream, 1 - at, d, next);
    else if (stream->next != NULL && (next = streamed_from(stream->next, 0)) >= 0)
        fill(stream, 1 - at, stream->next, next);
    *room = d->blocks[index];
    move_block(room, d->pieces[index].image, stream->slot[at].data);
    return room;
}

void rf_dit_block_end(const struct rf_dit *d, struct rf_dit_stream *stream, int index)
{
    if (streamed_from(d, index) != index)
        return;
    rf_slot_release(d->e, stream->at);
    stream->holds[stream->at].of = NULL;
    stream->at = 1 - stream->at;
}
