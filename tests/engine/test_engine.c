/* The front without arithmetic: opening, arenas, budget, views, and what happens when a device fails. The failing
 * device stands in for CUDA: this program brings its own rf_backend_cuda, so the linker leaves the library's out.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/backend.h"

#include "worker/engine/cpu/pool.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- a device that fails on request ---- */

static int n_fills_until_lost = -1, n_fills, n_open_left;

static enum rf_code faulty_open(const struct rf_engine_config *config, int index, void **ret_self,
                                const char **ret_name, enum rf_dtype *ret_act_dtype, struct rf_err *err)
{
    if (n_open_left-- <= 0)
        return rf_fail(err, RF_ERR_DEVICE, "no device cuda:%d here", index);
    *ret_self = NULL;
    *ret_name = "faulty";
    *ret_act_dtype = RF_F32;
    return RF_OK;
}

static void faulty_close(void *self)
{
}

static enum rf_code faulty_alloc(void *self, size_t size_bytes, void **ret_data, struct rf_err *err)
{
    *ret_data = malloc(size_bytes);
    return RF_OK;
}

static void faulty_release(void *self, void *data)
{
    free(data);
}

static enum rf_code faulty_download(void *self, void *dst, const void *src, size_t size_bytes, struct rf_err *err)
{
    memcpy(dst, src, size_bytes);
    return RF_OK;
}

static enum rf_code faulty_fill(void *self, const struct rf_tensor *y, float value, struct rf_err *err)
{
    n_fills++;
    if (n_fills_until_lost-- == 0)
        return rf_fail(err, RF_ERR_DEVICE, "the device fell off the bus");
    *(float *)y->data = value;
    return RF_OK;
}

static enum rf_code faulty_sync(void *self, struct rf_err *err)
{
    return RF_OK;
}

const struct rf_backend rf_backend_cuda = {.kind = "cuda", .open = faulty_open, .close = faulty_close,
    .alloc = faulty_alloc, .release = faulty_release, .download = faulty_download, .fill = faulty_fill,
    .sync = faulty_sync};

static struct rf_engine *open_engine(const char *device, int64_t budget_bytes)
{
    struct rf_engine *e = NULL;
    struct rf_err err = {0};
    if (rf_engine_open(&(struct rf_engine_config){.device = device, .n_threads = 2, .budget_bytes = budget_bytes}, &e,
                       &err) != RF_OK)
        fail_msg("%s", err.msg);
    return e;
}

/* ---- tests ---- */

static void unknown_words_are_named(void **state)
{
    struct rf_engine *e = NULL;
    struct rf_err err;
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "tpu"}, &e, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "'tpu'"));
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cuda:-1"}, &e, &err), RF_ERR_INVALID);
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cuda:1x"}, &e, &err), RF_ERR_INVALID);
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.precision = "int3"}, &e, &err), RF_ERR_INVALID);
    assert_non_null(strstr(err.msg, "bf16"));
    assert_null(e);
}

static void a_missing_device_is_an_error_but_auto_falls_back(void **state)
{
    n_open_left = 0;
    struct rf_engine *e = NULL;
    struct rf_err err;
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "cuda:2"}, &e, &err), RF_ERR_DEVICE);
    assert_non_null(strstr(err.msg, "cuda:2"));
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){.device = "auto"}, &e, &err), RF_OK);
    assert_string_equal(rf_engine_device_kind(e), "cpu");
    assert_true(rf_engine_is_host(e));
    rf_engine_close(&e);
    n_open_left = 1;
    assert_int_equal(rf_engine_open(&(struct rf_engine_config){0}, &e, &err), RF_OK);
    assert_string_equal(rf_engine_device_kind(e), "cuda");
    rf_engine_close(&e);
}

static void the_first_failure_sticks_until_it_is_asked_for(void **state)
{
    n_open_left = 1;
    struct rf_engine *e = open_engine("cuda", 0);
    struct rf_arena *arena = NULL;
    assert_int_equal(rf_arena_create(e, 4096, &arena, NULL), RF_OK);
    struct rf_tensor t = rf_arena_tensor(arena, RF_F32, RF_SHAPE(1));
    float value = 0;
    n_fills = 0;
    n_fills_until_lost = 1;
    rf_fill(e, &t, 1);
    rf_fill(e, &t, 2); /* fails */
    rf_fill(e, &t, 3); /* must not reach the device */
    assert_int_equal(n_fills, 2);
    struct rf_err err;
    assert_int_equal(rf_download(e, &t, &value, &err), RF_ERR_DEVICE);
    assert_non_null(strstr(err.msg, "fell off the bus"));
    assert_int_equal(rf_engine_sync(e, &err), RF_OK); /* told once */
    rf_fill(e, &t, 4);
    assert_int_equal(rf_download(e, &t, &value, &err), RF_OK);
    assert_true(value == 4);
    rf_arena_destroy(&arena);
    rf_engine_close(&e);
}

static void arenas_hand_out_what_was_planned_and_rewind(void **state)
{
    struct rf_engine *e = open_engine("cpu", 0);
    struct rf_arena *arena = NULL;
    int64_t cost = rf_arena_cost(RF_F32, RF_SHAPE(3, 7)) + rf_arena_cost(RF_U8, RF_SHAPE(1));
    assert_int_equal(rf_arena_create(e, cost, &arena, NULL), RF_OK);
    struct rf_tensor a = rf_arena_tensor(arena, RF_F32, RF_SHAPE(3, 7));
    int64_t mark = rf_arena_mark(arena);
    struct rf_tensor b = rf_arena_tensor(arena, RF_U8, RF_SHAPE(1));
    assert_int_equal((uintptr_t)b.data % 64, 0);
    assert_true((char *)b.data >= (char *)a.data + rf_tensor_bytes(&a));
    assert_int_equal(rf_arena_mark(arena), cost);
    rf_arena_rewind(arena, mark);
    assert_ptr_equal(rf_arena_tensor(arena, RF_U8, RF_SHAPE(1)).data, b.data);
    struct rf_tensor rows = rf_tensor_slice(&a, 1, 2), flat = rf_tensor_reshape(&rows, RF_SHAPE(14));
    assert_ptr_equal(flat.data, (char *)a.data + 7 * 4);
    assert_int_equal(rf_tensor_elements(&flat), 14);
    rf_arena_destroy(&arena);
    rf_engine_close(&e);
}

static void a_budget_refuses_with_its_number_and_counts_what_is_returned(void **state)
{
    struct rf_engine *e = open_engine("cpu", 8 << 20);
    struct rf_arena *a = NULL, *b = NULL;
    struct rf_err err;
    assert_int_equal(rf_arena_create(e, 5 << 20, &a, &err), RF_OK);
    assert_int_equal(rf_arena_create(e, 4 << 20, &b, &err), RF_ERR_NO_MEMORY);
    assert_non_null(strstr(err.msg, "8 MiB"));
    rf_arena_destroy(&a);
    assert_int_equal(rf_arena_create(e, 8 << 20, &b, &err), RF_OK);
    rf_arena_destroy(&b);
    rf_engine_close(&e);
}

/* Whether `wrong` aborts, tried in a child. */
static bool aborts(void (*wrong)(struct rf_engine *e, struct rf_arena *arena))
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka catches it otherwise */
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(3);
        struct rf_engine *e = open_engine("cpu", 0);
        struct rf_arena *arena = NULL;
        if (rf_arena_create(e, 1 << 16, &arena, NULL) == RF_OK)
            wrong(e, arena);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void ask_for_too_much(struct rf_engine *e, struct rf_arena *arena)
{
    rf_arena_tensor(arena, RF_F32, RF_SHAPE(1 << 20));
}

static void multiply_what_does_not_fit(struct rf_engine *e, struct rf_arena *arena)
{
    struct rf_tensor x = rf_arena_tensor(arena, RF_F32, RF_SHAPE(2, 5));
    struct rf_tensor y = rf_arena_tensor(arena, RF_F32, RF_SHAPE(2, 3));
    struct rf_linear w = {.w = rf_arena_tensor(arena, RF_F32, RF_SHAPE(3, 4))};
    rf_linear(e, &y, &x, &w, NULL);
}

static void write_over_the_input(struct rf_engine *e, struct rf_arena *arena)
{
    struct rf_tensor x = rf_arena_tensor(arena, RF_F32, RF_SHAPE(4, 4));
    struct rf_linear w = {.w = rf_arena_tensor(arena, RF_F32, RF_SHAPE(4, 4))};
    rf_linear(e, &x, &x, &w, NULL);
}

static void our_own_mistakes_abort_before_they_reach_a_kernel(void **state)
{
    assert_true(aborts(ask_for_too_much));
    assert_true(aborts(multiply_what_does_not_fit));
    assert_true(aborts(write_over_the_input));
}

struct tally {
    _Atomic int runs[1000];
    _Atomic int bad_worker;
};

static void count_item(void *ctx, int64_t item, int worker)
{
    struct tally *t = ctx;
    t->runs[item]++;
    if (worker < 0 || worker >= 3)
        t->bad_worker++;
}

static void a_pool_runs_every_item_exactly_once(void **state)
{
    struct rf_pool *pool = NULL;
    assert_int_equal(rf_pool_create(3, &pool, NULL), RF_OK);
    assert_int_equal(rf_pool_n_threads(pool), 3);
    struct tally t = {0};
    for (int round = 0; round < 500; round++)
        rf_pool_run(pool, round % 7 ? 1000 : 1, count_item, &t);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(t.runs[i], i == 0 ? 500 : 428);
    assert_int_equal(t.bad_worker, 0);
    rf_pool_run(pool, 0, count_item, &t);
    rf_pool_destroy(&pool);
    assert_null(pool);
}

/* Helpers take their time, the caller does not: it must wait for them all the same. */
static void finish_late(void *ctx, int64_t item, int worker)
{
    struct tally *t = ctx;
    for (volatile int i = 0; worker != 0 && i < 300000; i++)
        ;
    t->runs[item]++;
}

static void a_pool_returns_when_the_slowest_item_is_done(void **state)
{
    struct rf_pool *pool = NULL;
    assert_int_equal(rf_pool_create(3, &pool, NULL), RF_OK);
    for (int round = 0; round < 100; round++) {
        struct tally t = {0};
        rf_pool_run(pool, 40, finish_late, &t);
        for (int i = 0; i < 40; i++)
            assert_int_equal(t.runs[i], 1);
    }
    rf_pool_destroy(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_words_are_named),
        cmocka_unit_test(a_missing_device_is_an_error_but_auto_falls_back),
        cmocka_unit_test(the_first_failure_sticks_until_it_is_asked_for),
        cmocka_unit_test(arenas_hand_out_what_was_planned_and_rewind),
        cmocka_unit_test(a_budget_refuses_with_its_number_and_counts_what_is_returned),
        cmocka_unit_test(our_own_mistakes_abort_before_they_reach_a_kernel),
        cmocka_unit_test(a_pool_runs_every_item_exactly_once),
        cmocka_unit_test(a_pool_returns_when_the_slowest_item_is_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
