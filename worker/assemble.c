/* An assemble task: the segments of a job become one file, exactly as long as planned, with a poster and a contact
 * sheet. Nothing is encoded again.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "worker/media/media.h"
#include "worker/task.h"

#define SHEET_COLUMNS 5
#define SHEET_ROWS 4
#define SHEET_CELL_WIDTH 160

struct assembly {
    struct rf_studio *studio;
    struct rf_task *task;
    char **segment_paths;
    char *video_path, *poster_path, *sheet_path;
};

static enum rf_code fetch_segments(struct assembly *a, struct rf_err *err)
{
    const struct rf_wire_lease *lease = a->task->lease;
    for (int i = 0; i < lease->n_segments; i++) {
        char name[RF_FILE_NAME_SIZE];
        snprintf(name, sizeof name, "segment-%d.mp4", i);
        a->segment_paths[i] = rf_scratch_file(a->studio->scratch, name);
        enum rf_code rc =
            rf_farm_fetch(a->studio->link, lease, name, a->segment_paths[i], &a->task->stop, err);
        if (rc != RF_OK)
            return rc;
        rf_reporter_tell(a->task->reporter, RF_PART_ASSEMBLE, i + 1, lease->n_segments,
                         0.5 * (i + 1) / lease->n_segments);
    }
    return RF_OK;
}

static enum rf_code write_webp(const struct rf_image *image, const char *path, struct rf_err *err)
{
    RF_AUTO(rf_free) void *bytes = NULL;
    size_t size_bytes = 0;
    enum rf_code rc = rf_image_encode(image, RF_IMAGE_WEBP, &bytes, &size_bytes, err);
    return rc == RF_OK ? rf_write_file(path, bytes, size_bytes, err) : rc;
}

/* The poster is the middle frame: the first one of a clip begun from an image is that image. */
static enum rf_code make_stills(struct assembly *a, int n_frames, struct rf_err *err)
{
    struct rf_image poster = {0}, sheet = {0};
    enum rf_code rc = rf_video_frame(a->video_path, n_frames / 2, &poster, err);
    if (rc == RF_OK)
        rc = write_webp(&poster, a->poster_path, err);
    if (rc == RF_OK)
        rc = rf_video_sheet(a->video_path, SHEET_COLUMNS, SHEET_ROWS, SHEET_CELL_WIDTH, &sheet, err);
    if (rc == RF_OK)
        rc = write_webp(&sheet, a->sheet_path, err);
    rf_image_finish(&poster);
    rf_image_finish(&sheet);
    return rc == RF_OK ? rc : rf_wrap(err, rc, "stills");
}

static enum rf_code join(struct assembly *a, struct rf_err *err)
{
    const struct rf_wire_lease *lease = a->task->lease;
    struct rf_video_info info;
    enum rf_code rc = rf_video_concat((const char *const *)a->segment_paths, lease->n_segments, a->video_path,
                                      lease->n_frames_out, a->task->request->fps, err);
    if (rc == RF_OK)
        rc = rf_video_probe(a->video_path, &info, err);
    if (rc == RF_OK && info.n_frames != lease->n_frames_out)
        rc = rf_fail(err, RF_ERR_FORMAT, "%d frames came out; the plan wants %d", info.n_frames, lease->n_frames_out);
    if (rc != RF_OK)
        return rf_wrap(err, rc, "join");
    a->task->report->result = (struct rf_wire_result){.n_frames = info.n_frames, .width = info.width,
                                                      .height = info.height, .fps = info.fps, .seconds = info.seconds,
                                                      .colour_shift = a->task->report->result.colour_shift};
    rf_reporter_tell(a->task->reporter, RF_PART_ASSEMBLE, lease->n_segments, lease->n_segments, 0.7);
    return make_stills(a, info.n_frames, err);
}

static enum rf_code deliver(struct assembly *a, struct rf_err *err)
{
    struct rf_stopwatch watch = rf_stopwatch_start();
    const struct {
        const char *name, *path;
    } files[] = {{"video.mp4", a->video_path}, {"thumbnail.webp", a->poster_path}, {"spritesheet.webp", a->sheet_path}};
    rf_reporter_tell(a->task->reporter, RF_PART_UPLOAD, 0, 0, 0.8);
    for (size_t i = 0; i < RF_COUNT_OF(files); i++) {
        enum rf_code rc =
            rf_farm_deliver(a->studio->link, a->task->lease, files[i].name, files[i].path, &a->task->gone, err);
        if (rc != RF_OK)
            return rc;
    }
    rf_task_timing(a->task, RF_PART_UPLOAD, -1, watch.started_at_ms, rf_stopwatch_seconds(&watch));
    return RF_OK;
}

enum rf_code rf_assemble_run(struct rf_studio *studio, struct rf_task *task, struct rf_err *err)
{
    struct assembly a = {.studio = studio, .task = task};
    a.segment_paths = rf_new_array(char *, (size_t)task->lease->n_segments);
    a.video_path = rf_scratch_file(studio->scratch, "video.mp4");
    a.poster_path = rf_scratch_file(studio->scratch, "thumbnail.webp");
    a.sheet_path = rf_scratch_file(studio->scratch, "spritesheet.webp");
    struct rf_stopwatch watch = rf_stopwatch_start();
    rf_reporter_tell(task->reporter, RF_PART_ASSEMBLE, 0, task->lease->n_segments, 0);
    enum rf_code rc = fetch_segments(&a, err);
    if (rc == RF_OK)
        rc = join(&a, err);
    if (rc == RF_OK) {
        rf_task_timing(task, RF_PART_ASSEMBLE, -1, watch.started_at_ms, rf_stopwatch_seconds(&watch));
        rc = deliver(&a, err);
    }
    for (int i = 0; i < task->lease->n_segments; i++)
        free(a.segment_paths[i]);
    free(a.segment_paths);
    free(a.video_path);
    free(a.poster_path);
    free(a.sheet_path);
    return rc;
}
