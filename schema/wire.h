/* The farm's messages as structs: built and read by the same code on both sides, so they cannot drift apart.
 * schema/api.md shows each message; this file holds their limits. Every rf_wire_*_read() is strict about what it knows
 * (kinds, ranges, lengths; the error names the field) and passes over fields it does not know, so that a newer worker can
 * speak to an older server of the same protocol number. Pure functions, any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SCHEMA_WIRE_H
#define RF_SCHEMA_WIRE_H

#include "schema/json.h"
#include "schema/plan.h"
#include "schema/request.h"

#define RF_PROTOCOL 1
#define RF_JOB_ID_SIZE 33         /* "video_" + 26 + NUL */
#define RF_TASK_ID_SIZE 40        /* job id + '.' + index + NUL */
#define RF_WORKER_ID_SIZE 34      /* "worker_" + 26 + NUL */
#define RF_FILE_NAME_SIZE 48
#define RF_SHA256_SIZE 65         /* lower-case hex + NUL */
#define RF_STAGE_NAME_SIZE 16
#define RF_WIRE_MAX_BYTES (1 << 20)
#define RF_WIRE_MAX_TIMINGS 512
#define RF_WIRE_MAX_NOTES 32
#define RF_WIRE_MAX_MODELS 64

/* ---- register ---- */

struct rf_wire_model {
    char *name, *title, *hash, *note; /* hash: lower-case hex, 64; the others UTF-8, "" when absent */
    bool takes_text, takes_image;
    int max_segment_frames;
    char **sizes, **loras, **examples, **vocabulary;
    int n_sizes, n_loras, n_examples, n_vocabulary;
    struct rf_model_defaults defaults; /* name points at `name` above; absent fields are 0 */
};

struct rf_wire_register {
    int protocol;
    char *name, *build, *host;
    int64_t pid;
    char *device_kind, *device_name, *precision; /* kind "cpu" or "cuda"; precision "f32", "bf16", "fp8",
                                                    and "+8bit" behind it where attention is */
    int64_t memory_bytes;
    struct rf_wire_model *models;
    int n_models;
};

/*   RF_ERR_INVALID   a field is wrong. Another protocol number is not an error here: compare it with RF_PROTOCOL */
enum rf_code rf_wire_register_read(const cJSON *json, struct rf_wire_register **ret_message, struct rf_err *err);
cJSON *rf_wire_register_build(const struct rf_wire_register *message);
void rf_wire_register_destroy(struct rf_wire_register **message);
/* The models alone, as an array: what the server keeps and shows. */
cJSON *rf_wire_models_build(const struct rf_wire_model *models, int n_models);

struct rf_wire_registered {
    char worker_id[RF_WORKER_ID_SIZE];
    int64_t lease_ms, heartbeat_ms;
};
enum rf_code rf_wire_registered_read(const cJSON *json, struct rf_wire_registered *ret_message, struct rf_err *err);
cJSON *rf_wire_registered_build(const struct rf_wire_registered *message);

/* ---- lease ---- */

/* What the device says of itself. */
struct rf_wire_gauges {
    bool told;                      /* false: nothing, and the rest means nothing; true: -1 is what it does not tell */
    int64_t memory_used_bytes;      /* by everybody */
    double utilization;             /* 0..1 */
    double temperature_c, power_w;
};

struct rf_wire_lease_ask {
    char worker_id[RF_WORKER_ID_SIZE];
    int64_t wait_ms;              /* 0..30000 */
    struct rf_wire_gauges device; /* as the worker began to wait */
};
enum rf_code rf_wire_lease_ask_read(const cJSON *json, struct rf_wire_lease_ask *ret_message, struct rf_err *err);
/* Straight from text that ends with NUL, when it has the plain form that workers send. False: not plain, or wrong: read the
 * tree. Ten times cheaper. */
bool rf_wire_lease_ask_scan(const char *text, size_t n_bytes, struct rf_wire_lease_ask *ret_message);
cJSON *rf_wire_lease_ask_build(const struct rf_wire_lease_ask *message);

enum rf_task_kind { RF_TASK_SEGMENT, RF_TASK_ASSEMBLE, RF_TASK_KIND_COUNT };

/* One task in a worker's hands. Segment n of a job is rendered with the job's seed + n. */
struct rf_wire_lease {
    char task_id[RF_TASK_ID_SIZE], job_id[RF_JOB_ID_SIZE];
    int64_t lease, lease_ms;
    int attempt;                  /* from 1 */
    enum rf_task_kind kind;
    int index;                    /* of the segment; n_segments for the assemble task */
    int n_segments;
    int first_frame, n_frames;    /* segment only: rendered, border frame included */
    int n_frames_out;             /* of the segment, or of the whole file for assemble */
    bool small_memory;            /* an earlier attempt ran out of memory: take the smallest plan there is */
    char start_image[RF_FILE_NAME_SIZE]; /* "" = none */
    char *request_text;           /* the stored request, JSON; owned */
};
void rf_wire_lease_finish(struct rf_wire_lease *lease); /* frees what it points at */
/* read: the request is checked and comes along parsed in ret_request (rf_request_destroy()); may be NULL. */
enum rf_code rf_wire_lease_read(const cJSON *json, struct rf_wire_lease *ret_lease, struct rf_request **ret_request,
                                struct rf_err *err);
cJSON *rf_wire_lease_build(const struct rf_wire_lease *lease);
char *rf_wire_lease_text(const struct rf_wire_lease *lease); /* straight to text, no tree: the busy path. free() it */

/* ---- about a leased task ---- */

struct rf_wire_timing {
    char stage[RF_STAGE_NAME_SIZE]; /* one of rf_stage_names */
    int step;                       /* from 0; -1 = null */
    int64_t started_at_ms;
    double seconds;
};
/* NULL-terminated: load, text, encode_image, high_noise, … assemble, queue. */
extern const char *const rf_stage_names[];
bool rf_stage_known(const char *name);
int rf_stage_index(const char *name); /* within rf_stage_names; -1: unknown */

struct rf_wire_heartbeat {
    char worker_id[RF_WORKER_ID_SIZE];
    int64_t lease;
    char stage[RF_STAGE_NAME_SIZE]; /* "" before the first */
    int step, steps;
    double fraction;                /* 0..1, of the whole task */
    struct rf_wire_gauges device;
};
enum rf_code rf_wire_heartbeat_read(const cJSON *json, struct rf_wire_heartbeat *ret_message, struct rf_err *err);
cJSON *rf_wire_heartbeat_build(const struct rf_wire_heartbeat *message);

struct rf_wire_heartbeat_answer {
    bool cancel;
    int64_t lease_ms;
};
enum rf_code rf_wire_heartbeat_answer_read(const cJSON *json, struct rf_wire_heartbeat_answer *ret_message,
                                           struct rf_err *err);
cJSON *rf_wire_heartbeat_answer_build(const struct rf_wire_heartbeat_answer *message);

struct rf_wire_result {
    int n_frames, width, height, fps; /* 0 = not said */
    double seconds, colour_shift;     /* colour_shift NAN = not said */
};

/* complete, fail and release in one: the kinds differ only in which parts are read and built. */
enum rf_wire_report_kind { RF_REPORT_COMPLETE, RF_REPORT_FAIL, RF_REPORT_RELEASE, RF_REPORT_KIND_COUNT };
struct rf_wire_report {
    enum rf_wire_report_kind kind;
    char worker_id[RF_WORKER_ID_SIZE];
    int64_t lease;
    struct rf_wire_timing *timings; /* complete and fail */
    int n_timings;
    char **notes;                   /* complete: for a person, each at most 500 characters */
    int n_notes;
    struct rf_wire_result result;   /* complete */
    char code[32];                  /* fail: rf_code_name() of the worker's error, or another lower-case word */
    char *message;                  /* fail: for a person, at most 2000 characters */
    bool retryable;                 /* fail */
};
enum rf_code rf_wire_report_read(const cJSON *json, enum rf_wire_report_kind kind, struct rf_wire_report **ret_report,
                                 struct rf_err *err);
/* A `complete`, as rf_wire_lease_ask_scan() does it. New, or NULL: read the tree. */
struct rf_wire_report *rf_wire_complete_scan(const char *text, size_t n_bytes);
cJSON *rf_wire_report_build(const struct rf_wire_report *report);
void rf_wire_report_destroy(struct rf_wire_report **report);

/* {"worker_id"} of leave. ret_id has RF_WORKER_ID_SIZE bytes. */
enum rf_code rf_wire_worker_id_read(const cJSON *json, char *ret_id, struct rf_err *err);
cJSON *rf_wire_worker_id_build(const char *worker_id);

/* ---- names ---- */

/* "video_….3" -> job id and index; false when it is not of that form. */
bool rf_task_id_parse(const char *task_id, char ret_job_id[RF_JOB_ID_SIZE], int *ret_index);

/* Whether `name` is one of a job's files (input, segment-<n>.mp4, last-<n>.png, video.mp4, …); all a path may be made of. */
bool rf_file_name_valid(const char *name);

#endif
