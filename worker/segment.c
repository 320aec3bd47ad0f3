/* A segment task: start image, generation, interpolation, encoding, upload.
 *
 * What is encoded (schema/plan.h): the first segment all its frames, a later one not the border frame it shares with
 * the one before; at 32 fps the last one holds its last frame, so that F frames become exactly 2F. The border frame
 * stays in the interpolation, so that the step over the seam is interpolated like any other.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/log.h"
#include "worker/media/media.h"
#include "worker/task.h"

#define MAX_IMAGE_BYTES (64u << 20)

/* One run, from the lease to the finished files. */
struct segment {
    struct rf_studio *studio;
    struct rf_task *task;
    struct rf_shape shape;
    const struct rf_catalogue_model *about;
    struct rf_image start; /* rgb NULL: none */
    uint8_t *frames;       /* [lease->n_frames, height, width, 3] */
    size_t frame_bytes;
    int n_frames;          /* so far */

    bool has_part;         /* a part is running: which, since when */
    enum rf_part part;
    struct rf_stopwatch watch;

    struct rf_video_writer *writer;
    int n_skip, n_written; /* frames still to leave out; encoded ones */
    double encode_seconds;
    char *video_path, *last_path;
};

/* ---- parts and their clocks ---- */

static void tell(struct segment *s, enum rf_part part, int done, int total)
{
    rf_reporter_tell(s->task->reporter, part, done, total,
                     rf_pace_fraction(&s->studio->pace, &s->shape, part, done, total));
}

static bool is_stepped(enum rf_part part)
{
    return part == RF_PART_HIGH_NOISE || part == RF_PART_LOW_NOISE;
}

static void end_part(struct segment *s)
{
    if (s->has_part && !is_stepped(s->part)) /* steps are recorded one by one */
        rf_task_timing(s->task, s->part, -1, s->watch.started_at_ms, rf_stopwatch_seconds(&s->watch));
    s->has_part = false;
}

static void begin_part(struct segment *s, enum rf_part part, int total)
{
    end_part(s);
    s->has_part = true;
    s->part = part;
    s->watch = rf_stopwatch_start();
    tell(s, part, 0, total);
}

static enum rf_part part_of(enum rf_stage stage)
{
    switch (stage) {
    case RF_STAGE_LOAD: return RF_PART_LOAD;
    case RF_STAGE_TEXT: return RF_PART_TEXT;
    case RF_STAGE_ENCODE_IMAGE: return RF_PART_ENCODE_IMAGE;
    case RF_STAGE_HIGH_NOISE: return RF_PART_HIGH_NOISE;
    case RF_STAGE_LOW_NOISE: return RF_PART_LOW_NOISE;
    case RF_STAGE_DECODE: return RF_PART_DECODE;
    case RF_STAGE_COUNT: break;
    }
    RF_ASSERT(!"a stage of the pipeline is unknown here");
}

static bool stopped(struct segment *s)
{
    return rf_stop_reason(&s->task->stop) != RF_STOP_NONE;
}

static bool on_progress(void *self, const struct rf_progress *p)
{
    struct segment *s = self;
    enum rf_part part = part_of(p->stage);
    if (p->done == 0) {
        begin_part(s, part, p->total);
    } else {
        if (is_stepped(part)) {
            rf_task_timing(s->task, part, p->done - 1, s->watch.started_at_ms, rf_stopwatch_seconds(&s->watch));
            s->watch = rf_stopwatch_start();
        }
        tell(s, part, p->done, p->total);
    }
    if (p->preview != NULL)
        rf_reporter_preview(s->task->reporter, p->preview, p->preview_w, p->preview_h);
    return !stopped(s);
}

/* ---- generation ---- */

static enum rf_code fetch_start_image(struct segment *s, struct rf_err *err)
{
    const struct rf_wire_lease *lease = s->task->lease;
    if (lease->start_image[0] == '\0')
        return RF_OK;
    RF_AUTO(rf_free) char *path = rf_scratch_file(s->studio->scratch, "start-image");
    RF_AUTO(rf_free) void *bytes = NULL;
    size_t size_bytes = 0;
    enum rf_code rc = rf_farm_fetch(s->studio->link, lease, lease->start_image, path, &s->task->stop, err);
    if (rc == RF_OK)
        rc = rf_read_file(path, MAX_IMAGE_BYTES, &bytes, &size_bytes, err);
    if (rc == RF_OK)
        rc = rf_image_decode(bytes, size_bytes, s->task->request->width, s->task->request->height, &s->start, err);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "start image '%s'", lease->start_image);
}

/* Which files, as one text: equal texts mean that the model in memory will do. */
static char *key_of(const struct rf_model_files *files)
{
    char *key = rf_asprintf("%s\n%s\n%s\n%s", files->high, files->low, files->text_encoder, files->vae);
    for (int i = 0; i < files->n_lora_high + files->n_lora_low; i++) {
        const struct rf_lora_file *lora =
            i < files->n_lora_high ? &files->lora_high[i] : &files->lora_low[i - files->n_lora_high];
        char *longer = rf_asprintf("%s\n%s %s %.9g", key, i < files->n_lora_high ? "high" : "low", lora->path,
                                   (double)lora->strength);
        free(key);
        key = longer;
    }
    return key;
}

void rf_studio_drop_model(struct rf_studio *studio)
{
    rf_model_close(&studio->model);
    free(studio->model_key);
    studio->model_key = NULL;
}

static enum rf_code choose_files(struct segment *s, struct rf_model_files *ret_files, struct rf_err *err)
{
    const struct rf_request *request = s->task->request;
    s->about = rf_catalogue_find(s->studio->catalogue, request->model);
    if (s->about == NULL)
        return rf_fail(err, RF_ERR_INVALID, "model: this worker has no '%.80s'", request->model);
    const struct rf_request_lora *loras = request->n_loras > 0 || request->no_loras ? request->lora : NULL;
    return rf_catalogue_files(s->about, s->start.rgb != NULL, loras, request->n_loras, ret_files, err);
}

static enum rf_code load_model(struct segment *s, struct rf_err *err)
{
    struct rf_studio *studio = s->studio;
    struct rf_model_files files;
    enum rf_code rc = choose_files(s, &files, err);
    if (rc != RF_OK)
        return rc;
    RF_AUTO(rf_free) char *key = key_of(&files);
    s->shape.loads = studio->model == NULL || strcmp(key, studio->model_key) != 0;
    if (!s->shape.loads)
        return RF_OK;
    begin_part(s, RF_PART_LOAD, 0);
    rf_studio_drop_model(studio); /* first: two models at once may not fit */
    rc = rf_model_open(studio->engine, &files, &studio->model, err);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "load %s", s->about->about.name);
    studio->model_key = key;
    key = NULL;
    return RF_OK;
}

static enum rf_code on_frames(void *self, const uint8_t *rgb, int n_frames, struct rf_err *err)
{
    struct segment *s = self;
    RF_ASSERT(s->n_frames + n_frames <= s->task->lease->n_frames);
    memcpy(s->frames + (size_t)s->n_frames * s->frame_bytes, rgb, (size_t)n_frames * s->frame_bytes);
    s->n_frames += n_frames;
    return RF_OK;
}

/* What the run has to say beyond its frames. The notes are about the prompt: once per job is enough. */
static void learn_from_run(struct segment *s)
{
    struct rf_generate_info info;
    rf_model_last_info(s->studio->model, &info);
    if (s->start.rgb != NULL)
        s->task->report->result.colour_shift =
            fmaxf(fabsf(info.colour_shift[0]), fmaxf(fabsf(info.colour_shift[1]), fabsf(info.colour_shift[2])));
    if (s->task->lease->small_memory)
        rf_task_note(s->task, rf_strdup("Rendered in the smallest memory plan, after one try had run out of memory."));
    if (info.prompt_truncated && s->task->lease->index == 0)
        rf_task_note(s->task, rf_asprintf("The prompt is longer than the %d tokens that the model reads; its end was "
                                          "left out.", info.n_prompt_tokens));
}

static enum rf_code generate(struct segment *s, struct rf_err *err)
{
    const struct rf_request *request = s->task->request;
    const struct rf_wire_lease *lease = s->task->lease;
    s->frame_bytes = (size_t)request->width * (size_t)request->height * 3;
    s->frames = calloc((size_t)lease->n_frames, s->frame_bytes);
    if (s->frames == NULL)
        return rf_fail(err, RF_ERR_NO_MEMORY, "no memory for %d frames of %dx%d", lease->n_frames, request->width,
                       request->height);
    struct rf_generate_params params = {
        .width = request->width,
        .height = request->height,
        .n_frames = lease->n_frames,
        .n_steps = request->n_steps,
        .switch_step = request->switch_step,
        .shift = (float)request->flow_shift,
        .guidance_high = (float)request->guidance_scale_2,
        .guidance_low = (float)request->guidance_scale,
        .seed = (uint64_t)request->seed + (uint64_t)lease->index, /* equal noise would repeat the motion */
        .prompt = request->prompt,
        .negative_prompt = request->negative_prompt,
        .start_image = s->start.rgb,
        .match_start_colour = s->start.rgb != NULL,
        .small_memory = lease->small_memory,
    };
    struct rf_generate_listener listener = {.self = s, .progress = on_progress, .frames = on_frames};
    enum rf_code rc = rf_model_generate(s->studio->model, &params, &listener, err);
    end_part(s);
    if (rc != RF_OK)
        return rc;
    RF_ASSERT(s->n_frames == lease->n_frames);
    learn_from_run(s);
    return RF_OK;
}

/* ---- encoding ---- */

static enum rf_code push(struct segment *s, const uint8_t *rgb, struct rf_err *err)
{
    if (s->n_skip > 0) {
        s->n_skip--;
        return RF_OK;
    }
    struct rf_stopwatch watch = rf_stopwatch_start();
    enum rf_code rc = rf_video_writer_push(s->writer, rgb, err);
    s->encode_seconds += rf_stopwatch_seconds(&watch);
    s->n_written++;
    return rc;
}

static enum rf_code on_interpolated(void *self, const uint8_t *rgb, struct rf_err *err)
{
    return push(self, rgb, err);
}

static bool on_interpolation(void *self, int done, int total)
{
    struct segment *s = self;
    tell(s, RF_PART_INTERPOLATE, done, total);
    return !stopped(s);
}

/* Feeds the writer: at 32 fps through the interpolation, which then takes the time that the encoder leaves. */
static enum rf_code push_frames(struct segment *s, struct rf_err *err)
{
    const struct rf_wire_lease *lease = s->task->lease;
    const struct rf_request *request = s->task->request;
    s->n_skip = lease->index > 0;
    if (!s->shape.interpolates) {
        enum rf_code rc = RF_OK;
        for (int i = 0; i < s->n_frames && rc == RF_OK; i++)
            rc = stopped(s) ? rf_fail(err, RF_ERR_CANCELLED, "stopped")
                            : push(s, s->frames + (size_t)i * s->frame_bytes, err);
        return rc;
    }
    struct rf_stopwatch watch = rf_stopwatch_start();
    tell(s, RF_PART_INTERPOLATE, 0, 0);
    enum rf_code rc = rf_interpolate_double(s->frames, s->n_frames, request->width, request->height,
                                            s->studio->n_threads, on_interpolated, on_interpolation, s, err);
    rf_task_timing(s->task, RF_PART_INTERPOLATE, -1, watch.started_at_ms,
                   fmax(0, rf_stopwatch_seconds(&watch) - s->encode_seconds));
    if (rc == RF_OK && lease->index == lease->n_segments - 1)
        rc = push(s, s->frames + (size_t)(s->n_frames - 1) * s->frame_bytes, err);
    return rc;
}

static enum rf_code check_video(struct segment *s, struct rf_err *err)
{
    const struct rf_wire_lease *lease = s->task->lease;
    struct rf_video_info info;
    enum rf_code rc = rf_video_probe(s->video_path, &info, err);
    if (rc == RF_OK && info.n_frames != lease->n_frames_out)
        rc = rf_fail(err, RF_ERR_FORMAT, "%d frames came out; the plan wants %d", info.n_frames, lease->n_frames_out);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "encoded segment");
    s->task->report->result = (struct rf_wire_result){.n_frames = info.n_frames, .width = info.width,
                                                      .height = info.height, .fps = info.fps, .seconds = info.seconds,
                                                      .colour_shift = s->task->report->result.colour_shift};
    return RF_OK;
}

static enum rf_code encode(struct segment *s, struct rf_err *err)
{
    const struct rf_request *request = s->task->request;
    struct rf_video_opts opts = {.width = request->width, .height = request->height, .fps = request->fps,
                                 .crf = request->crf};
    struct rf_stopwatch watch = rf_stopwatch_start(), finishing;
    if (s->start.rgb != NULL && s->task->lease->index > 0)
        /* The frame before ours, as people see it, is the start image itself, not our picture of it. */
        memcpy(s->frames, s->start.rgb, s->frame_bytes);
    enum rf_code rc = rf_video_writer_open(s->video_path, &opts, &s->writer, err);
    if (rc == RF_OK)
        rc = push_frames(s, err);
    finishing = rf_stopwatch_start();
    if (rc == RF_OK)
        rc = rf_video_writer_finish(s->writer, err);
    rf_video_writer_destroy(&s->writer);
    if (rc == RF_OK)
        rc = check_video(s, err);
    if (rc == RF_OK)
        rf_task_timing(s->task, RF_PART_ENCODE, -1, watch.started_at_ms,
                       s->encode_seconds + rf_stopwatch_seconds(&finishing));
    return rc;
}

static enum rf_code write_last_frame(struct segment *s, struct rf_err *err)
{
    struct rf_image image = {.width = s->task->request->width, .height = s->task->request->height,
                             .rgb = s->frames + (size_t)(s->n_frames - 1) * s->frame_bytes};
    RF_AUTO(rf_free) void *bytes = NULL;
    size_t size_bytes = 0;
    enum rf_code rc = rf_image_encode(&image, RF_IMAGE_PNG, &bytes, &size_bytes, err);
    return rc == RF_OK ? rf_write_file(s->last_path, bytes, size_bytes, err) : rc;
}

/* ---- delivery ---- */

static enum rf_code deliver(struct segment *s, struct rf_err *err)
{
    const struct rf_wire_lease *lease = s->task->lease;
    char name[RF_FILE_NAME_SIZE];
    struct rf_stopwatch watch = rf_stopwatch_start();
    tell(s, RF_PART_UPLOAD, 0, 0);
    snprintf(name, sizeof name, "segment-%d.mp4", lease->index);
    enum rf_code rc = rf_farm_deliver(s->studio->link, lease, name, s->video_path, &s->task->gone, err);
    if (rc == RF_OK && lease->index < lease->n_segments - 1) {
        snprintf(name, sizeof name, "last-%d.png", lease->index);
        rc = rf_farm_deliver(s->studio->link, lease, name, s->last_path, &s->task->gone, err);
    }
    if (rc == RF_OK)
        rf_task_timing(s->task, RF_PART_UPLOAD, -1, watch.started_at_ms, rf_stopwatch_seconds(&watch));
    return rc;
}

static enum rf_code run(struct segment *s, struct rf_err *err)
{
    const struct rf_wire_lease *lease = s->task->lease;
    enum rf_code rc = fetch_start_image(s, err);
    if (rc == RF_OK)
        rc = load_model(s, err);
    if (rc != RF_OK)
        return rc;
    if (lease->index == 0)
        rf_task_note(s->task, rf_vocabulary_note(&s->about->about, s->task->request->prompt));
    rc = generate(s, err);
    if (rc == RF_OK && lease->index < lease->n_segments - 1)
        rc = write_last_frame(s, err);
    if (rc == RF_OK)
        rc = encode(s, err);
    return rc == RF_OK ? deliver(s, err) : rc;
}

enum rf_code rf_segment_run(struct rf_studio *studio, struct rf_task *task, struct rf_err *err)
{
    const struct rf_request *request = task->request;
    struct segment s = {.studio = studio, .task = task};
    s.shape = (struct rf_shape){
        .loads = true,
        .has_image = task->lease->start_image[0] != '\0',
        .n_high = request->switch_step,
        .n_low = request->n_steps - request->switch_step,
        .interpolates = request->fps == 2 * RF_MODEL_FPS,
        .megapixels = (double)request->width * request->height * task->lease->n_frames / 1e6,
    };
    s.video_path = rf_scratch_file(studio->scratch, "segment.mp4");
    s.last_path = rf_scratch_file(studio->scratch, "last.png");
    enum rf_code rc = run(&s, err);
    if (rc == RF_OK)
        rf_pace_learn(&studio->pace, &s.shape, task->report->timings, task->report->n_timings);
    rf_video_writer_destroy(&s.writer);
    rf_image_finish(&s.start);
    free(s.frames);
    free(s.video_path);
    free(s.last_path);
    return rc;
}
