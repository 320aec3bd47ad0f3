/* A stand-in for worker/model/pipeline.c: the same calls, no network. It draws a moving gradient in no time, so that
 * the tests of the task loop can be about the loop.
 *
 * The prompt commands it: "fail <code>" fails with that code, "crash" aborts. When FAKE_PIPELINE_GATE names a FIFO, one
 * byte is read from it before each sampling step: a test holds the renderer exactly where it wants it.
 * SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/model/pipeline.h"

struct rf_model {
    bool takes_image, truncated;
};

enum rf_code rf_model_open(struct rf_engine *e, const struct rf_model_files *files, struct rf_model **ret_model,
                           struct rf_err *err)
{
    if (access(files->high, R_OK) != 0 || access(files->low, R_OK) != 0)
        return rf_fail(err, RF_ERR_IO, "'%s' is not there", files->high);
    *ret_model = rf_new(struct rf_model);
    (*ret_model)->takes_image = true;
    return RF_OK;
}

void rf_model_close(struct rf_model **model)
{
    free(*model);
    *model = NULL;
}

bool rf_model_takes_image(const struct rf_model *m)
{
    return m->takes_image;
}

int64_t rf_model_peak_bytes(const struct rf_model *m, const struct rf_generate_params *params)
{
    return 0;
}

static void pass_gate(void)
{
    const char *path = getenv("FAKE_PIPELINE_GATE");
    static int fd = -1;
    char byte;
    if (path == NULL)
        return;
    if (fd < 0)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    struct pollfd gate = {.fd = fd, .events = POLLIN};
    while (fd >= 0 && poll(&gate, 1, -1) < 0) /* not in read(): ThreadSanitizer holds signals back there */
        ;
    if (fd >= 0 && read(fd, &byte, 1) != 1)
        abort();
}

static enum rf_code obey(const char *prompt, struct rf_err *err)
{
    if (strncmp(prompt, "crash", 5) == 0)
        abort();
    if (strncmp(prompt, "fail ", 5) == 0) {
        enum rf_code code = rf_code_from_name(prompt + 5);
        return rf_fail(err, code, "the prompt asked for %s", rf_code_name(code));
    }
    return RF_OK;
}

static bool tell(const struct rf_generate_listener *l, enum rf_stage stage, int done, int total)
{
    static const uint8_t preview[4 * 4 * 3] = {200, 30, 30};
    struct rf_progress p = {.stage = stage, .done = done, .total = total};
    if (done > 0 && (stage == RF_STAGE_HIGH_NOISE || stage == RF_STAGE_LOW_NOISE)) {
        p.preview = preview;
        p.preview_w = p.preview_h = 4;
    }
    return l->progress == NULL || l->progress(l->self, &p);
}

static bool step_through(const struct rf_generate_params *p, const struct rf_generate_listener *l)
{
    const int n[] = {p->switch_step, p->n_steps - p->switch_step};
    for (int expert = 0; expert < 2; expert++) {
        enum rf_stage stage = expert ? RF_STAGE_LOW_NOISE : RF_STAGE_HIGH_NOISE;
        if (!tell(l, stage, 0, n[expert]))
            return false;
        for (int i = 0; i < n[expert]; i++) {
            pass_gate();
            if (!tell(l, stage, i + 1, n[expert]))
                return false;
        }
    }
    return true;
}

/* A gradient that slides by four pixels a frame; its colour is the seed's, or the start image's first pixel. */
static void draw(const struct rf_generate_params *p, int frame, uint8_t *rgb)
{
    if (frame == 0 && p->start_image != NULL) {
        memcpy(rgb, p->start_image, (size_t)p->width * (size_t)p->height * 3);
        return;
    }
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++, rgb += 3) {
            rgb[0] = (uint8_t)((x + 4 * frame) * 255 / (p->width + 4 * p->n_frames));
            rgb[1] = (uint8_t)(y * 255 / p->height);
            rgb[2] = p->start_image ? p->start_image[2] : (uint8_t)(p->seed * 40 % 256);
        }
}

enum rf_code rf_model_generate(struct rf_model *m, const struct rf_generate_params *params,
                               const struct rf_generate_listener *listener, struct rf_err *err)
{
    enum rf_code rc = obey(params->prompt, err);
    if (rc != RF_OK)
        return rc;
    m->truncated = strlen(params->prompt) > 2000;
    bool go_on = tell(listener, RF_STAGE_TEXT, 0, 1);
    if (go_on && params->start_image != NULL)
        go_on = tell(listener, RF_STAGE_ENCODE_IMAGE, 0, 1);
    if (!go_on || !step_through(params, listener) || !tell(listener, RF_STAGE_DECODE, 0, params->n_frames))
        return rf_fail(err, RF_ERR_CANCELLED, "the listener said stop");
    uint8_t *rgb = rf_calloc((size_t)params->width * (size_t)params->height, 3);
    for (int i = 0; i < params->n_frames && rc == RF_OK; i++) {
        draw(params, i, rgb);
        rc = listener->frames(listener->self, rgb, 1, err);
    }
    free(rgb);
    return rc;
}

void rf_model_last_info(const struct rf_model *m, struct rf_generate_info *ret_info)
{
    *ret_info = (struct rf_generate_info){.n_prompt_tokens = 512, .prompt_truncated = m->truncated,
                                          .colour_shift = {1, -3, 2}};
}
