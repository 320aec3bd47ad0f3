/* The request: what a person may ask for, checked at the door.
 *
 * Three steps, because a model's own defaults can only be filled in once we know which model was meant:
 *     parse (JSON object or form)  ->  resolve (the model's defaults, a seed, rules between fields)  ->  store as JSON
 * A parsed request knows which fields were given; a resolved one is complete: every number in it is final, and its JSON
 * form is what the database keeps and what a worker is handed. Every field's kind, range and default stand in one table,
 * rf_request_fields, which openapi.yaml and the error messages are held against.
 *
 * Strictness: an unknown field is refused by name, with a guess at the one that was meant; numbers may come as text only
 * in forms (and `seconds` always, as stock clients send it). `quality` is taken when it says "standard", as published
 * examples of the stock API do, and changes nothing; any other value is refused and points to `crf`.
 * Pure functions, any thread; a struct rf_request belongs to one thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_REQUEST_H
#define RF_SCHEMA_REQUEST_H

#include "schema/plan.h"

struct cJSON;

#define RF_REQUEST_MAX_LORAS 8
#define RF_MAX_PROMPT_CHARS 32000
#define RF_MAX_SEED ((INT64_C(1) << 53) - 1) /* every JSON reader keeps integers up to here */
#define RF_MAX_IMAGE_URL_BYTES 20971520      /* of a data URL, as in the stock API */
#define RF_PARAM_SIZE 64                     /* room for the name of the field an error is about */

enum rf_field {
    RF_FIELD_PROMPT, RF_FIELD_NEGATIVE_PROMPT, RF_FIELD_MODEL, RF_FIELD_SECONDS, RF_FIELD_NUM_FRAMES, RF_FIELD_SIZE,
    RF_FIELD_WIDTH, RF_FIELD_HEIGHT, RF_FIELD_FPS, RF_FIELD_SEED, RF_FIELD_NUM_INFERENCE_STEPS, RF_FIELD_SWITCH_STEP,
    RF_FIELD_GUIDANCE_SCALE, RF_FIELD_GUIDANCE_SCALE_2, RF_FIELD_FLOW_SHIFT, RF_FIELD_LORAS,
    RF_FIELD_MAX_SEGMENT_FRAMES, RF_FIELD_INPUT_REFERENCE, RF_FIELD_USER, RF_FIELD_PRIORITY, RF_FIELD_CRF,
    RF_FIELD_WEBHOOK_URL, RF_FIELD_QUALITY, RF_FIELD_EXTRA_BODY,
    RF_FIELD_COUNT
};

enum rf_field_kind { RF_KIND_TEXT, RF_KIND_INTEGER, RF_KIND_NUMBER, RF_KIND_OTHER, RF_KIND_COUNT };

/* One row per field. Texts are measured in characters, not bytes. */
struct rf_field_info {
    const char *name;
    enum rf_field_kind kind;
    double min, max;          /* of the number, or of the text's length */
    int multiple, remainder;  /* integers: n % multiple == remainder; 0: any */
    const char *fallback;     /* as a person would write it; "model" = the model's own */
    const char *about;
};
extern const struct rf_field_info rf_request_fields[RF_FIELD_COUNT];

struct rf_request_lora {
    char name[128];           /* a file's name without path or suffix: letters, digits, and ._+- inside */
    double strength;          /* -10..10, 1 when absent */
};

struct rf_request {
    uint32_t given;           /* bit i: enum rf_field i was in the request. Kept in memory only */
    bool resolved;
    char *prompt, *negative_prompt; /* UTF-8; negative is "" when absent */
    char model[128];          /* "" before resolving when absent */
    char user[RF_PARAM_SIZE * 4 + 1]; /* 64 characters of UTF-8; "" = nobody in particular */
    int width, height, n_frames, fps, n_steps, switch_step, max_segment_frames, priority, crf;
    int64_t seed;
    double seconds;           /* as asked; n_frames is what counts once resolved */
    double guidance_scale, guidance_scale_2, flow_shift;
    struct rf_request_lora lora[RF_REQUEST_MAX_LORAS];
    int n_loras;
    bool no_loras;            /* an empty list was given: not even the model's own */
    bool has_image;           /* a start image comes with it: set by the image_url, or by whoever took the file part */
    char *webhook_url;        /* told when the job ends; NULL: nobody. Not part of the JSON form, which workers see */
    uint8_t *image;           /* decoded from a data URL, otherwise NULL. Not part of the JSON form */
    size_t image_bytes;
};

/* What a model's registration says about itself; strings are borrowed for the call. Zero fields fall back to the
 * values of rf_model_defaults_builtin. */
struct rf_model_defaults {
    const char *name;         /* taken when the request names no model */
    int width, height, n_frames, n_steps, switch_step, max_segment_frames;
    double flow_shift, guidance_scale, guidance_scale_2;
    bool takes_no_text, takes_no_image;
};
/* Wan2.2 with its 4-step LoRAs: 832x480, 81 frames, 4 steps, switch after 2, shift 5, guidance 1. For a farm that has
 * not yet seen a worker. Its name is "". */
extern const struct rf_model_defaults rf_model_defaults_builtin;

struct rf_request *rf_request_create(void);
void rf_request_destroy(struct rf_request **request);

/* Reads a JSON object.
 *   ret_request    new; rf_request_destroy(). Untouched on failure
 *   ret_param      buffer of RF_PARAM_SIZE or NULL: the field the error is about, "" when none
 *   RF_ERR_INVALID the request is wrong; the message names the field */
enum rf_code rf_request_parse(const struct cJSON *object, struct rf_request **ret_request, char *ret_param,
                              struct rf_err *err);

/* A form's fields, gathered one by one in any order, with bracket names: "loras[][name]", "input_reference[image_url]".
 * A list of objects starts a new element when a name repeats or the brackets hold another number. */
struct rf_form *rf_form_create(void);
void rf_form_destroy(struct rf_form **form);
/*   value  n_bytes of UTF-8, copied.  RF_ERR_LIMIT: too many fields, or over 32 MiB in all */
enum rf_code rf_form_add(struct rf_form *form, const char *name, const char *value, size_t n_bytes, char *ret_param,
                         struct rf_err *err);
/* As rf_request_parse(), with numbers and booleans as text. */
enum rf_code rf_form_parse(struct rf_form *form, struct rf_request **ret_request, char *ret_param, struct rf_err *err);

/* Completes a parsed request: the model's defaults for what was not given, `random` (any 64 bits) cut to a seed when
 * none was given, frames from seconds; then the rules between fields (switch_step <= steps, seconds or num_frames, …).
 *   ret_plan       may be NULL
 *   RF_ERR_INVALID names the field, in `ret_param` too */
enum rf_code rf_request_resolve(struct rf_request *request, const struct rf_model_defaults *model, uint64_t random,
                                struct rf_plan *ret_plan, char *ret_param, struct rf_err *err);

/* The plan of a resolved request. Cannot fail for one that rf_request_resolve() accepted. */
enum rf_code rf_request_plan(const struct rf_request *request, struct rf_plan *ret_plan, struct rf_err *err);

/* The stored form: every field of a resolved request, under its wire name. to_text is free()d by the caller. */
struct cJSON *rf_request_to_json(const struct rf_request *request);
char *rf_request_to_text(const struct rf_request *request);
/* And back. Unknown keys are passed over here, so that an older server can read a newer one's rows and a worker lags
 * behind unharmed; values are still checked.
 *   RF_ERR_FORMAT  not a stored request */
enum rf_code rf_request_from_json(const struct cJSON *object, struct rf_request **ret_request, struct rf_err *err);

/* "WxH" -> two numbers; false when it is not of that form. Ranges are not checked. */
bool rf_size_parse(const char *text, int *ret_width, int *ret_height);

#endif
