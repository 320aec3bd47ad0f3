/* Flags and variables.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/config.h"

static const char *const *fake_env; /* name, value, …, NULL */

static char *env(const char *name)
{
    for (const char *const *e = fake_env; e != NULL && *e != NULL; e += 2)
        if (strcmp(e[0], name) == 0)
            return (char *)(uintptr_t)e[1];
    return NULL;
}

static enum rf_code read_args(struct rf_config *config, struct rf_err *err, int n, const char *const *args)
{
    return rf_config_read(n, (char *const *)(uintptr_t)args, env, config, err);
}
#define READ(config, err, ...)                                                                                         \
    read_args(config, err, (int)RF_COUNT_OF(((const char *[]){"worker", __VA_ARGS__})),                                \
              (const char *[]){"worker", __VA_ARGS__, NULL})

static void a_flag_wins_over_its_variable(void **state)
{
    const char *const vars[] = {"FRAMEFARM_SERVER", "http://env", "FRAMEFARM_MODELS", "/env", "FRAMEFARM_THREADS", "3",
                                "FRAMEFARM_ONCE", "1", NULL};
    fake_env = vars;
    struct rf_config c;
    assert_int_equal(READ(&c, NULL, "--server", "http://flag", "--vram=12G"), RF_OK);
    assert_string_equal(c.server, "http://flag");
    assert_string_equal(c.models, "/env");
    assert_int_equal(c.n_threads, 3);
    assert_true(c.once);
    assert_int_equal(c.vram_bytes, INT64_C(12) << 30);
    rf_config_finish(&c);
}

static void a_wrong_option_is_named(void **state)
{
    struct rf_config c;
    struct rf_err err;
    fake_env = NULL;
    assert_int_equal(READ(&c, &err, "--sever", "x"), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "--sever"));
    assert_int_equal(READ(&c, &err, "--threads", "many"), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "--threads"));
    assert_int_equal(READ(&c, &err, "--threads"), RF_ERR_INVALID);
    assert_int_equal(READ(&c, &err, "--models", "x"), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "--server"));
    const char *const vars[] = {"FRAMEFARM_FINISH_ON_TERM", "maybe", NULL};
    fake_env = vars;
    assert_int_equal(READ(&c, &err, "--help"), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "FRAMEFARM_FINISH_ON_TERM"));
}

static void sizes_have_binary_units(void **state)
{
    int64_t n = 0;
    assert_true(rf_size_bytes_parse("12G", &n) && n == INT64_C(12) << 30);
    assert_true(rf_size_bytes_parse("1.5GiB", &n) && n == INT64_C(3) << 29);
    assert_true(rf_size_bytes_parse("500m", &n) && n == INT64_C(500) << 20);
    assert_true(rf_size_bytes_parse("7", &n) && n == 7);
    const char *const wrong[] = {"", "G", "-1G", "12X", "12GG", "nan", "inf", "1e30T", "0x10q"};
    for (size_t i = 0; i < RF_COUNT_OF(wrong); i++)
        assert_false(rf_size_bytes_parse(wrong[i], &n));
}

static void the_token_is_the_first_line_of_its_file(void **state)
{
    char path[] = "/tmp/framefarm-test-token-XXXXXX";
    int fd = mkstemp(path);
    struct rf_config c;
    struct rf_err err;
    fake_env = NULL;
    assert_int_equal(write(fd, "secret-1\nrest\n", 14), 14);
    assert_int_equal(READ(&c, &err, "--server", "x", "--models", "x", "--token-file", path), RF_OK);
    assert_string_equal(c.token, "secret-1");
    rf_config_finish(&c);
    assert_int_equal(ftruncate(fd, 0), 0);
    close(fd);
    assert_int_equal(READ(&c, &err, "--server", "x", "--models", "x", "--token-file", path), RF_ERR_INVALID);
    unlink(path);
    assert_int_equal(READ(&c, &err, "--server", "x", "--models", "x", "--token-file", path), RF_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flag_wins_over_its_variable),
        cmocka_unit_test(a_wrong_option_is_named),
        cmocka_unit_test(sizes_have_binary_units),
        cmocka_unit_test(the_token_is_the_first_line_of_its_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
