/* The transformer against tensors of the public modules. SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/golden.h"

#include "tests/model/checkpoint.h"

static void check(const char *folder, const char *io, double limit)
{
    char weights[64], path[64];
    snprintf(weights, sizeof weights, "%s/weights.safetensors", folder);
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, io);
    float *velocity = NULL;
    int64_t n;
    struct rf_err err;
    if (checkpoint_run(golden_path(weights), golden_path(path), NULL, 0, &velocity, &n, &err) != RF_OK)
        fail_msg("%s", err.msg);
    struct rf_safetensors *file = golden_open(path);
    golden_check(path, golden_error(velocity, golden_tensor(file, "out.velocity", RF_F32)->data, n), limit);
    rf_safetensors_close(&file);
    free(velocity);
}

static void text_to_video_agrees(void **state)
{
    check("dit-t2v", "io-t1000.0", 1e-5 /* measured 3.8e-6 */);
    check("dit-t2v", "io-t937.5", 1e-5 /* measured 3.6e-6 */);
    check("dit-t2v", "io-t250.0", 1e-5 /* measured 1.3e-6 */);
}

static void image_to_video_agrees(void **state)
{
    check("dit-i2v", "io-t1000.0", 1e-5 /* measured 3.9e-6 */);
    check("dit-i2v", "io-t937.5", 1e-5 /* measured 4.5e-6 */);
    check("dit-i2v", "io-t250.0", 1e-5 /* measured 1.1e-6 */);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_to_video_agrees),
        cmocka_unit_test(image_to_video_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
