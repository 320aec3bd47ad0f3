/* Prints the plan of every clip length, at both rates and several segment lengths, for plan_test.mjs to compare with.
 *     plan F FPS MAX OUT n:first:out …        seconds S F
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/plan.h"

#include <stdio.h>

static const int max_lengths[] = {33, 49, 81, 161};

int main(void)
{
    static struct rf_plan plan; /* 600 segments: too large for comfort on the stack */
    for (unsigned m = 0; m < sizeof max_lengths / sizeof *max_lengths; m++)
        for (int n = 5; n <= RF_MAX_FRAMES; n += 4)
            for (int fps = 16; fps <= 32; fps += 16) {
                if (rf_plan_make(n, fps, max_lengths[m], &plan, NULL) != RF_OK)
                    return 1;
                printf("plan %d %d %d %d", n, fps, max_lengths[m], plan.n_frames_out);
                for (int i = 0; i < plan.n_segments; i++)
                    printf(" %d:%d:%d", plan.segment[i].n_frames, plan.segment[i].first_frame,
                           plan.segment[i].n_frames_out);
                putchar('\n');
            }
    for (int i = 0; i <= 400; i++)
        printf("seconds %.2f %d\n", i * 0.07, rf_plan_frames_for_seconds(i * 0.07));
    return 0;
}
