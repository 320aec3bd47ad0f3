/* The few words of cmocka that the op suite uses, for machines without cmocka (scripts/gpu-session puts this folder on
 * the include path only there). A failure leaves the test by longjmp and counts.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_ENGINE_SMALL_CMOCKA_H
#define TESTS_ENGINE_SMALL_CMOCKA_H

#include <setjmp.h>
#include <stdio.h>

struct CMUnitTest {
    const char *name;
    void (*test)(void **state);
    void *state;
};

extern jmp_buf small_cmocka_failure; /* defined by the program: jmp_buf small_cmocka_failure; */

#define print_message(...) printf(__VA_ARGS__)
#define fail_msg(...) (printf("%s:%d: ", __FILE__, __LINE__), printf(__VA_ARGS__), putchar('\n'), \
                       longjmp(small_cmocka_failure, 1))
#define assert_true(x) ((x) ? (void)0 : fail_msg("not true: %s", #x))
#define assert_int_equal(a, b) ((long long)(a) == (long long)(b) ? (void)0 : fail_msg("%s is not %s", #a, #b))
#define cmocka_unit_test_prestate(fn, s) {#fn, (fn), (s)}
#define cmocka_run_group_tests(tests, setup, teardown) small_cmocka_run((tests), sizeof(tests) / sizeof((tests)[0]))

static inline int small_cmocka_run(const struct CMUnitTest *tests, size_t n)
{
    volatile int n_failed = 0;
    for (volatile size_t i = 0; i < n; i++) {
        void *state = tests[i].state;
        if (setjmp(small_cmocka_failure) == 0) {
            tests[i].test(&state);
            printf("ok      %s\n", tests[i].name);
        } else {
            printf("FAILED  %s\n", tests[i].name);
            n_failed++;
        }
        fflush(stdout);
    }
    return n_failed;
}

#endif
