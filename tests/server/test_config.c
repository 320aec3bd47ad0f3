/* Flags and environment.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const char *nothing(const char *name)
{
    return NULL;
}

static const char *some(const char *name)
{
    if (strcmp(name, "FRAMEFARM_LISTEN") == 0)
        return "127.0.0.1:1";
    if (strcmp(name, "FRAMEFARM_HTTP_THREADS") == 0)
        return "7";
    return strcmp(name, "HOME") == 0 ? "/home/x" : NULL;
}

static enum rf_code read_words(const char *(*env)(const char *), char **words, struct rf_config *c, struct rf_err *err)
{
    char *argv[16] = {"framefarm-server"};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++)
        argv[argc] = words[argc - 1];
    enum rf_config_wish wish;
    return rf_config_read(argc, argv, env, c, &wish, err);
}

static void a_flag_wins_over_the_environment(void **state)
{
    struct rf_config c;
    char *words[] = {"--listen", "[::1]:0", "--workers=3", "--data", "d", NULL};
    assert_int_equal(read_words(some, words, &c, NULL), RF_OK);
    assert_string_equal(c.host, "::1");
    assert_int_equal(c.port, 0);
    assert_int_equal(c.n_workers, 3);
    assert_int_equal(c.http_threads, 7);
    assert_string_equal(c.data_dir, "d");
    rf_config_finish(&c);
}

static void the_defaults_are_loopback_and_auto(void **state)
{
    struct rf_config c;
    char *words[] = {NULL};
    assert_int_equal(read_words(nothing, words, &c, NULL), RF_OK);
    assert_string_equal(c.host, "127.0.0.1");
    assert_int_equal(c.port, 8088);
    assert_int_equal(c.n_workers, RF_WORKERS_AUTO);
    rf_config_finish(&c);
}

static void asking_for_tokens_and_for_none_is_a_contradiction(void **state)
{
    struct rf_config c;
    struct rf_err err = {0};
    char *words[] = {"--insecure-no-auth", "--require-tokens", NULL};
    assert_int_equal(read_words(nothing, words, &c, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "--require-tokens"));
    rf_config_finish(&c);
}

static void sizes_are_powers_of_1024(void **state)
{
    struct rf_config c;
    char *words[] = {"--min-free", "3G", "--keep-bytes", "1500", NULL};
    assert_int_equal(read_words(nothing, words, &c, NULL), RF_OK);
    assert_true(c.min_free_bytes == INT64_C(3) << 30 && c.keep_bytes == 1500);
    rf_config_finish(&c);
}

static void bad_words_are_named(void **state)
{
    static const struct { const char *first, *second, *named; } bad[] = {
        {"--listen", "80", "--listen"}, {"--listen", ":80", "--listen"}, {"--listen", "a:65536", "--listen"},
        {"--listen", "::1:80", "brackets"}, {"--listen", "a:-1", "--listen"}, {"--workers", "many", "--workers"},
        {"--workers", "65", "--workers"}, {"--data", "", "--data"}, {"--nonsense", "1", "--nonsense"},
        {"--list", "a:1", "--list"}, {"--log-level", "loud", "--log-level"}, {"--min-free", "G", "--min-free"}, {"--min-free", "1X", "--min-free"}, {"--data", NULL, "needs a value"},
        {"plain", NULL, "plain"}, {"--insecure-no-auth=maybe", NULL, "--insecure-no-auth"},
    };
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++) {
        struct rf_config c;
        struct rf_err err = {0};
        char *words[] = {(char *)(uintptr_t)bad[i].first, (char *)(uintptr_t)bad[i].second, NULL};
        assert_int_equal(read_words(nothing, words, &c, &err), RF_ERR_INVALID);
        if (strstr(err.msg, bad[i].named) == NULL)
            fail_msg("%s: %s", bad[i].first, err.msg);
        rf_config_finish(&c);
    }
}

static void only_this_machine_is_loopback(void **state)
{
    assert_true(rf_config_is_loopback("127.0.0.1"));
    assert_true(rf_config_is_loopback("127.9.9.9"));
    assert_true(rf_config_is_loopback("LOCALHOST"));
    assert_true(rf_config_is_loopback("::1"));
    assert_false(rf_config_is_loopback("127.evil.example"));
    assert_false(rf_config_is_loopback("localhost.evil.example"));
    assert_false(rf_config_is_loopback("0.0.0.0"));
    assert_false(rf_config_is_loopback("::"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flag_wins_over_the_environment),
        cmocka_unit_test(the_defaults_are_loopback_and_auto),
        cmocka_unit_test(asking_for_tokens_and_for_none_is_a_contradiction),
        cmocka_unit_test(sizes_are_powers_of_1024),
        cmocka_unit_test(bad_words_are_named),
        cmocka_unit_test(only_this_machine_is_loopback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
