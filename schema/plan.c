/* Segments of a clip; the arithmetic is explained in plan.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/plan.h"

#include <math.h>

static enum rf_code check_length(const char *name, int n, struct rf_err *err)
{
    if (n >= 5 && n <= RF_MAX_FRAMES && n % 4 == 1)
        return RF_OK;
    if (n < 5 || n > RF_MAX_FRAMES)
        return rf_fail(err, RF_ERR_INVALID, "%s is %d; it must lie between 5 and %d", name, n, RF_MAX_FRAMES);
    int below = (n - 1) / 4 * 4 + 1;
    return rf_fail(err, RF_ERR_INVALID, "%s is %d; it must be a multiple of 4 plus 1, for example %d or %d", name, n,
                   below, below + 4);
}

enum rf_code rf_plan_make(int n_frames, int fps, int max_segment_frames, struct rf_plan *ret_plan, struct rf_err *err)
{
    enum rf_code rc = check_length("num_frames", n_frames, err);
    if (rc == RF_OK)
        rc = check_length("max_segment_frames", max_segment_frames, err);
    if (rc != RF_OK)
        return rc;
    if (fps != RF_MODEL_FPS && fps != 2 * RF_MODEL_FPS)
        return rf_fail(err, RF_ERR_INVALID, "fps is %d; it must be 16 (as rendered) or 32 (interpolated)", fps);

    /* Count in latent frames after the first: each is four pixel frames, so every segment is 4k+1 by construction. */
    int n_steps = (n_frames - 1) / 4;
    int most = (max_segment_frames - 1) / 4;
    int n_segments = (n_steps + most - 1) / most;
    if (n_segments > RF_MAX_SEGMENTS)
        return rf_fail(err, RF_ERR_INVALID, "num_frames %d in pieces of %d makes %d segments; at most %d", n_frames,
                       max_segment_frames, n_segments, RF_MAX_SEGMENTS);

    *ret_plan = (struct rf_plan){.n_frames = n_frames, .fps = fps, .n_segments = n_segments};
    int first_frame = 0;
    for (int i = 0; i < n_segments; i++) {
        struct rf_plan_segment *s = &ret_plan->segment[i];
        s->n_frames = 4 * (n_steps / n_segments + (i < n_steps % n_segments)) + 1;
        s->first_frame = first_frame;
        first_frame += s->n_frames - 1;
        int n_new = i == 0 ? s->n_frames : s->n_frames - 1;
        s->n_frames_out = fps == RF_MODEL_FPS ? n_new : 2 * n_new - (i == 0) + (i == n_segments - 1);
        ret_plan->n_frames_out += s->n_frames_out;
    }
    RF_ASSERT(first_frame == n_frames - 1);
    RF_ASSERT(ret_plan->n_frames_out == n_frames * (fps / RF_MODEL_FPS));
    return RF_OK;
}

int rf_plan_frames_for_seconds(double seconds)
{
    double steps = seconds * RF_MODEL_FPS / 4;
    return steps < 1 ? 5 : steps > (RF_MAX_FRAMES - 1) / 4 ? RF_MAX_FRAMES : 4 * (int)lround(steps) + 1;
}

int64_t rf_plan_disk_bytes(const struct rf_plan *plan, int width, int height, int crf)
{
    double pixels = (double)width * height;
    double file = pixels * plan->n_frames_out * 0.1 * exp2((18 - crf) / 6.0);
    return (int64_t)(2 * file + 3 * pixels * (plan->n_segments - 1)) + (2 << 20);
}
