/* The engine: tensors and some twenty operations, at the altitude of the papers. All that models see of a device.
 *
 * - Shapes are written outermost first; tensors are packed. "Rows" are all leading dimensions taken together.
 * - Ops return nothing. The first failure sticks, later ops do nothing, rf_engine_sync() and downloads report it: the
 *   model reads like the paper and no failure is lost. Shapes that disagree are our own mistake and abort.
 * - Activations are F32 on the CPU and rf_engine_act_dtype() elsewhere. The residual stream, norm statistics,
 *   modulation and the sampler's state are F32 whatever the precision. An op converts between the types of its
 * arguments. - Memory comes from arenas, each one block sized before the first step; nothing is allocated inside a
 * step. - One thread drives an engine. The CPU backend uses its own threads inside an op.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_ENGINE_ENGINE_H
#define RF_ENGINE_ENGINE_H

#include "schema/err.h"

#define RF_MAX_DIMS 5
#define RF_MAX_LORAS 8

/* The last six occur in files only; no op takes them. */
enum rf_dtype {
    RF_F32, RF_F16, RF_BF16, RF_F8_E4M3, RF_F8_E5M2, RF_I8, RF_U8, RF_I32, RF_I64,
    RF_F64, RF_BOOL, RF_I16, RF_U16, RF_U32, RF_U64, RF_DTYPE_COUNT
};

size_t rf_dtype_size(enum rf_dtype dtype);
const char *rf_dtype_name(enum rf_dtype dtype); /* the word of the safetensors format: "F32", "BF16", "F8_E4M3" … */

/* A view of engine memory. A plain value: copy it freely, it owns nothing. data NULL: absent (an optional argument). */
struct rf_tensor {
    void *data; /* device memory: never touch it outside worker/engine */
    enum rf_dtype dtype;
    int n_dims;
    int64_t shape[RF_MAX_DIMS];
};

int64_t rf_tensor_elements(const struct rf_tensor *t);
size_t rf_tensor_bytes(const struct rf_tensor *t);
/* Rows [first, first + n) of the outermost dimension, as a view. */
struct rf_tensor rf_tensor_slice(const struct rf_tensor *t, int64_t first, int64_t n);
/* The same memory under another shape with as many elements. */
struct rf_tensor rf_tensor_reshape(const struct rf_tensor *t, int n_dims, const int64_t *shape);

/* ---- opening ---- */

struct rf_engine;
struct rf_engine_config {
    const char *device;  /* "cpu", "cuda:0", "auto" (cuda:0 if one works, else cpu); NULL means auto */
    const char *precision; /* "f32", "bf16", "fp8"; NULL: f32 on the CPU, bf16 on CUDA. The CPU computes in f32 whatever
                              it says, which is at least as exact; rf_engine_act_dtype() tells */
    const char *attention; /* "exact", or "8bit": long attention with heads of 128 and no bias from quantised operands,
                              as attention8.h says; the rest stays exact. NULL: exact */
    int n_threads;       /* CPU threads; 0: one per core */
    int64_t budget_bytes; /* device memory this engine may use; 0: all that is free */
    bool separate_memory; /* CPU, for tests: behave as a device that cannot read host memory, so that weights are
                             copied, streamed and counted as on a GPU; rf_engine_is_host() is then false */
};

/*   RF_ERR_INVALID  a word in the configuration is unknown; the message lists the known ones
 *   RF_ERR_DEVICE   no such device here, or this build has no CUDA; the message says which */
enum rf_code rf_engine_open(const struct rf_engine_config *config, struct rf_engine **ret_engine, struct rf_err *err);

/* How many devices "cuda:N" there are, those that do not open included; 0 without CUDA or a driver. */
int rf_engine_n_cuda(void);
void rf_engine_close(struct rf_engine **engine);

const char *rf_engine_device_name(const struct rf_engine *e);  /* "AMD EPYC, 2 threads", "NVIDIA H200" */
/* "00000000:18:00.0", by which other libraries know the device; NULL: it has none. */
const char *rf_engine_pci_address(const struct rf_engine *e);
const char *rf_engine_device_kind(const struct rf_engine *e);  /* "cpu", "cuda" */
enum rf_dtype rf_engine_act_dtype(const struct rf_engine *e);

/* Waits for all work and reports the first failure since the last call, clearing it. */
enum rf_code rf_engine_sync(struct rf_engine *e, struct rf_err *err);

/* ---- memory ---- */

/* What the engine holds of the device, in bytes: what the backend took when it opened (`fixed`: workspace, scratch),
 * and that plus all arenas: now, and at the most since rf_engine_reset_peak(). The driver's own context is not in it.
 * */
int64_t rf_engine_fixed_bytes(const struct rf_engine *e);
int64_t rf_engine_held_bytes(const struct rf_engine *e);
int64_t rf_engine_peak_bytes(const struct rf_engine *e);
void rf_engine_reset_peak(struct rf_engine *e);
/* The most it may hold: the budget, or all that is held or free if that is less. 0: no limit is known. */
int64_t rf_engine_limit_bytes(struct rf_engine *e);

/* A block of engine memory handed out from the front.
 *   RF_ERR_NO_MEMORY  over the budget, or the device has no more (a neighbour?): worth another try elsewhere */
struct rf_arena;
enum rf_code rf_arena_create(struct rf_engine *e, int64_t size_bytes, struct rf_arena **ret_arena, struct rf_err *err);
void rf_arena_destroy(struct rf_arena **arena);
/* A tensor from the arena, contents undefined (poisoned in debug builds). A full arena is our own mistake: aborts. */
struct rf_tensor rf_arena_tensor(struct rf_arena *a, enum rf_dtype dtype, int n_dims, const int64_t *shape);
#define RF_SHAPE(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__}
int64_t rf_arena_mark(const struct rf_arena *a);              /* how much is in use, in bytes */
void rf_arena_rewind(struct rf_arena *a, int64_t mark);       /* everything handed out since is free again */
/* What rf_arena_tensor() will take for this tensor, alignment included: plans add these up. */
int64_t rf_arena_cost(enum rf_dtype dtype, int n_dims, const int64_t *shape);

void rf_upload(struct rf_engine *e, const struct rf_tensor *t, const void *host); /* rf_tensor_bytes(t) bytes */
enum rf_code rf_download(struct rf_engine *e, const struct rf_tensor *t, void *host, struct rf_err *err);
/* True when the engine reads host memory in place: weights may then stay in the mapped file. */
bool rf_engine_is_host(const struct rf_engine *e);

/* ---- weights on their way: host memory copied into one of two slots beside the ops ---- */

#define RF_COPY_SLOTS 2

/* Host memory from which copies run at full speed and beside the ops (pinned, on a GPU).
 *   RF_ERR_NO_MEMORY  there is not that much */
enum rf_code rf_host_alloc(struct rf_engine *e, int64_t size_bytes, void **ret_data, struct rf_err *err);
void rf_host_free(struct rf_engine *e, void *data);

/* Fill: begins to copy `host` (from rf_host_alloc(), unchanged until the wait's ops have run) into `t`, once the ops
 * before the slot's last release are done. Wait: ops from here on see it. Release: no op from here on reads it. */
void rf_slot_fill(struct rf_engine *e, int slot, const struct rf_tensor *t, const void *host);
void rf_slot_wait(struct rf_engine *e, int slot);
void rf_slot_release(struct rf_engine *e, int slot);

/* ---- weights ---- */

/* A run-time LoRA branch: y += scale * up (down x). down [rank, in], up [out, rank], scale strength * alpha / rank. */
struct rf_lora_weight {
    struct rf_tensor down, up;
    float scale;
};

/* y = x w^T * scale + b, plus the LoRA branches.
 *   w      [out, in]  F32, F16, BF16 or F8
 *   scale  [1] or [out]  F32, absent: 1. It multiplies: dequantised w = f8(byte) * scale.
 *   b      [out]  F32, absent: none */
struct rf_linear {
    struct rf_tensor w, scale, b;
    int n_loras;
    struct rf_lora_weight lora[RF_MAX_LORAS];
};

/* w [out, kt, kh, kw, in] (repacked from the file's [out, in, kt, kh, kw] at load), b [out] F32. */
struct rf_conv {
    struct rf_tensor w, b;
};

/* ---- ops: transformer and text encoder ---- */

enum rf_act { RF_ACT_NONE, RF_ACT_GELU_TANH, RF_ACT_SILU, RF_ACT_COUNT };

struct rf_linear_opts {
    enum rf_act act;
    bool add;                     /* y += gate * (...) instead of y = ...; y is then the F32 residual stream */
    bool wide;                    /* fp8 weights are widened, whatever the precision: rows are not rounded to fp8 */
    const struct rf_tensor *gate; /* [out] F32, only with add; NULL: 1 */
};

/* y [rows, out] = act(x w^T + b), x [rows, in]. opts NULL: plain. */
void rf_linear(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_linear *w,
               const struct rf_linear_opts *opts);

/* y = LN(x) * (one_plus ? 1 + scale : scale) + shift over the last dimension; biased variance, eps inside the root.
 *   x, y [rows, dim]; scale, shift [dim] F32, both absent: plain normalisation. y may be x. */
void rf_layer_norm(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x,
                   const struct rf_tensor *scale, const struct rf_tensor *shift, bool one_plus, float eps);

/* y = x * rsqrt(mean(x^2) + eps) * weight over the last dimension; no mean is subtracted. y may be x. */
void rf_rms_norm(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x,
                 const struct rf_tensor *weight, float eps);

/* RMS norm over the whole row (all heads together), then rotary embedding per head, in place.
 *   x       [tokens, n_heads * head_dim]
 *   weight  [n_heads * head_dim] F32
 *   freqs   [tokens, head_dim / 2, 2] F32 (cos, sin); absent: norm only (cross-attention)
 * Pairs are neighbours (0,1) (2,3), not halves: the wrong choice runs and ruins the picture. */
void rf_rms_rope(struct rf_engine *e, const struct rf_tensor *x, const struct rf_tensor *weight,
                 const struct rf_tensor *freqs, int n_heads, float eps);

struct rf_attention_opts {
    int n_heads;
    float scale;                  /* of the logits; UMT5 uses 1 */
    const struct rf_tensor *bias; /* [n_heads, n_q + n_k - 1] F32 added to the logits by distance: key k and query q take
                                     element k - q + n_q - 1; NULL: none */
    int64_t n_valid_keys;         /* keys at and after it do not exist; 0: all exist */
};

/* o [n_q, heads * head_dim] = softmax(scale * q k^T + bias) v per head; k, v [n_k, heads * head_dim]. o is not q.
 * In 8 bits where the engine was opened so and the op is long enough to gain: the caller need not know. */
void rf_attention(struct rf_engine *e, const struct rf_tensor *o, const struct rf_tensor *q, const struct rf_tensor *k,
                  const struct rf_tensor *v, const struct rf_attention_opts *opts);

/* y = gelu_tanh(a) * b, elementwise; y may be a. */
void rf_gelu_mul(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *a, const struct rf_tensor *b);

/* y [n, dim] = rows ids[i] of table [vocab, dim]; ids on the host, checked against vocab by the caller. */
void rf_embed(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *table, const int32_t *ids,
              int64_t n);

/* y = a * x + b * y, elementwise, F32 (y may alias x). The sampler's arithmetic. */
void rf_axpby(struct rf_engine *e, const struct rf_tensor *y, float a, const struct rf_tensor *x, float b);

/* y = act(x). */
void rf_activate(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, enum rf_act act);

/* y = x converted to y's type; same number of elements. */
void rf_copy(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x);
void rf_fill(struct rf_engine *e, const struct rf_tensor *y, float value);

/* tokens [T*Hp*Wp, C*4] from latent [C, T, 2Hp, 2Wp]: token (t,y,x), feature (c*2 + ky)*2 + kx. */
void rf_patchify(struct rf_engine *e, const struct rf_tensor *tokens, const struct rf_tensor *latent);
/* latent [C, T, 2Hp, 2Wp] from tokens [T*Hp*Wp, 4*C] with feature (py*2 + px)*C + c: the opposite nesting. */
void rf_unpatchify(struct rf_engine *e, const struct rf_tensor *latent, const struct rf_tensor *tokens);

/* ---- ops: VAE. Frames are channels-last: [frames, height, width, channels]. ---- */

struct rf_conv_opts {
    int stride_t;                /* 0 means 1 */
    int stride_s;                /* 0 means 1; 2 pads right and bottom by one instead of all sides by one (the
                                    reference does; a symmetric pad shifts the picture) */
    bool upsample;               /* read x through a nearest-neighbour doubling of height and width */
    const struct rf_tensor *add; /* shape of y, added to the result (residual); NULL: none; may be y */
    const struct rf_tensor *before; /* array of 2, each [1, H, W, in] of x's type, anywhere: the frames before x, older
                                       first. NULL: there are none, or the caller put them in front of x */
};

/* y [To, Ho, Wo, out] = conv(x [Ti, H, W, in]). No padding in time: To = (Ti - kt) / stride_t + 1, or with `before`
 * (Ti + 2 - kt) / stride_t + 1; a causal caller names its history so, or puts it in front of x: the result is the same to
 * the last bit. Zero padding of (k - 1) / 2 in space (see stride_s). */
void rf_conv(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, const struct rf_conv *w,
             const struct rf_conv_opts *opts);

/* y = x / max(|x|, 1e-12) * sqrt(C) * gamma over the channels of each position, then act. gamma [C] F32. y may be x. */
void rf_channel_norm(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x,
                     const struct rf_tensor *gamma, enum rf_act act);

/* y [T, H, W, C] from x [C, T, H, W] and back, each channel c mapped to x * mul[c] + add[c] (host arrays of C floats;
 * NULL: 1 and 0). How latents get their mean and deviation, and pixels their layout. */
void rf_to_channels_last(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, const float *mul,
                         const float *add);
void rf_from_channels_last(struct rf_engine *e, const struct rf_tensor *y, const struct rf_tensor *x, const float *mul,
                           const float *add);

#endif
