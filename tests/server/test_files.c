/* The data folder: whole files or none, and no way out of it. SPDX-License-Identifier: Apache-2.0 */
#include "tests/server/store_helpers.h"

#include "server/id.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* SHA-256 of "abc" */
#define FARM RF_AUTO(farm_destroy) struct farm *f = farm_create(); \
    RF_AUTO(rf_files_destroy) struct rf_files *files = NULL; \
    assert_int_equal(rf_files_open(f->dir, &files, NULL), RF_OK)

static enum rf_code upload(struct rf_files *files, const char *id, const char *name, const char *text, const char *sha256,
                           struct rf_file *ret_file)
{
    RF_AUTO(rf_upload_destroy) struct rf_upload *u = NULL;
    enum rf_code rc = rf_upload_begin(files, 1000, &u, NULL);
    for (const char *p = text; rc == RF_OK && *p != '\0'; p++)
        rc = rf_upload_write(u, p, 1, NULL);
    return rc == RF_OK ? rf_upload_finish(u, id, name, sha256, 5, ret_file, NULL) : rc;
}

static int n_entries(struct farm *f, const char *below)
{
    RF_AUTO(rf_free) char *command = rf_asprintf("find '%s/%s' -type f | wc -l", f->dir, below);
    FILE *out = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(out, "%d", &n), 1);
    pclose(out);
    return n;
}

static void uploaded_file_is_read_back_with_its_hash(void **state)
{
    FARM;
    char id[RF_JOB_ID_SIZE], text[8] = "";
    struct rf_file file;
    int fd = -1;
    rf_store_new_id(f->s, f->now, id);
    assert_int_equal(upload(files, id, "video.mp4", "abc", ABC, &file), RF_OK);
    assert_string_equal(file.sha256, ABC);
    assert_int_equal(file.size_bytes, 3);
    assert_int_equal(file.created_ms, 5);
    assert_int_equal(rf_files_open_read(files, id, &file, &fd, NULL), RF_OK);
    assert_int_equal(read(fd, text, sizeof text), 3);
    assert_string_equal(text, "abc");
    close(fd);
    assert_int_equal(n_entries(f, "tmp"), 0);
    int64_t bytes;
    assert_int_equal(rf_files_used_bytes(files, id, &bytes, NULL), RF_OK);
    assert_int_equal(bytes, 3);
    assert_int_equal(rf_files_used_bytes(files, NULL, &bytes, NULL), RF_OK);
    assert_int_equal(bytes, 3);
    assert_int_equal(rf_files_free_bytes(files, &bytes, NULL, NULL), RF_OK);
    assert_true(bytes > 0);
}

static void second_upload_of_a_name_does_not_touch_the_first(void **state)
{
    FARM;
    char id[RF_JOB_ID_SIZE];
    struct rf_file first, second;
    rf_store_new_id(f->s, f->now, id);
    assert_int_equal(upload(files, id, "video.mp4", "abc", NULL, &first), RF_OK);
    assert_int_equal(upload(files, id, "video.mp4", "abcd", NULL, &second), RF_OK);
    assert_string_not_equal(first.disk_name, second.disk_name);
    int fd;
    assert_int_equal(rf_files_open_read(files, id, &first, &fd, NULL), RF_OK);
    close(fd);
}

static void damaged_or_too_long_or_abandoned_uploads_leave_nothing(void **state)
{
    FARM;
    char id[RF_JOB_ID_SIZE], longer[1002];
    struct rf_file file;
    rf_store_new_id(f->s, f->now, id);
    assert_int_equal(upload(files, id, "video.mp4", "abd", ABC, &file), RF_ERR_FORMAT);
    memset(longer, 'x', 1001);
    longer[1001] = '\0';
    assert_int_equal(upload(files, id, "video.mp4", longer, NULL, &file), RF_ERR_LIMIT);
    struct rf_upload *u = NULL;
    assert_int_equal(rf_upload_begin(files, 10, &u, NULL), RF_OK);
    rf_upload_destroy(&u);
    assert_int_equal(n_entries(f, "tmp") + n_entries(f, "files"), 0);
    RF_AUTO(rf_free) char *cut_off = rf_asprintf("%s/tmp/left-by-a-crash", f->dir);
    close(open(cut_off, O_WRONLY | O_CREAT, 0600));
    rf_files_destroy(&files);
    assert_int_equal(n_entries(f, "tmp"), 1);
    assert_int_equal(rf_files_open(f->dir, &files, NULL), RF_OK);
    assert_int_equal(n_entries(f, "tmp"), 0);
}

static void names_that_would_lead_elsewhere_are_refused(void **state)
{
    FARM;
    char id[RF_JOB_ID_SIZE];
    struct rf_file file;
    rf_store_new_id(f->s, f->now, id);
    const char *names[] = {"../farm.db", "video.mp4/..", "/etc/passwd", "", ".", "segment-01.mp4", "segment-.mp4",
                           "segment-1.mp4 ", "segment-600.mp4", "last--1.png", "Video.mp4"};
    for (size_t i = 0; i < RF_COUNT_OF(names); i++)
        assert_int_equal(upload(files, id, names[i], "x", NULL, &file), RF_ERR_INVALID);
    assert_int_equal(upload(files, "../../tmp/video_00000000000000", "input", "x", NULL, &file), RF_ERR_INVALID);
    assert_int_equal(upload(files, id, "segment-599.mp4", "x", NULL, &file), RF_OK);
    int fd;
    snprintf(file.disk_name, sizeof file.disk_name, "../../farm.db");
    assert_int_equal(rf_files_open_read(files, id, &file, &fd, NULL), RF_ERR_NOT_FOUND);
    rf_files_remove(files, id, "../../farm.db");
    assert_int_equal(access(f->db, F_OK), 0);
}

static void file_that_shrank_is_noticed(void **state)
{
    FARM;
    char id[RF_JOB_ID_SIZE];
    struct rf_file file;
    rf_store_new_id(f->s, f->now, id);
    assert_int_equal(upload(files, id, "video.mp4", "abc", NULL, &file), RF_OK);
    RF_AUTO(rf_free) char *path = rf_asprintf("%s/files/%s/%s", f->dir, id, file.disk_name);
    assert_int_equal(truncate(path, 2), 0);
    int fd;
    assert_int_equal(rf_files_open_read(files, id, &file, &fd, NULL), RF_ERR_IO);
    unlink(path);
    assert_int_equal(rf_files_open_read(files, id, &file, &fd, NULL), RF_ERR_NOT_FOUND);
}

static void gone_files_are_collected_and_strays_swept(void **state)
{
    FARM;
    RF_AUTO(rf_request_destroy) struct rf_request *r = farm_request("x", "", 5);
    struct rf_file kept, stray;
    struct rf_submit job = {.request = r, .input = &kept};
    rf_store_new_id(f->s, f->now, job.id);
    assert_int_equal(upload(files, job.id, "input", "abc", NULL, &kept), RF_OK);
    struct rf_op op = {.kind = RF_OP_SUBMIT, .now_ms = f->now, .u.submit = {.jobs = &job, .n_jobs = 1}};
    assert_int_equal(rf_store_run(f->s, &op, NULL), RF_OK);
    assert_int_equal(upload(files, job.id, "video.mp4", "abc", NULL, &stray), RF_OK); /* its PUT never reached the store */
    int n = -1;
    assert_int_equal(rf_files_sweep(files, f->s, 0, &n, NULL), RF_OK);
    assert_int_equal(n, 0); /* too young */
    assert_int_equal(rf_files_sweep(files, f->s, INT64_MAX, &n, NULL), RF_OK);
    assert_int_equal(n, 1);
    assert_int_equal(n_entries(f, "files"), 1);
    struct rf_wire_lease lease = farm_claim(f, farm_worker(f, "w", 0));
    assert_string_equal(lease.start_image, "input");
    rf_wire_lease_finish(&lease);
    assert_int_equal(rf_store_delete(f->s, job.id, f->now, NULL), RF_OK);
    assert_int_equal(rf_files_collect(files, f->s, f->now, &n, NULL), RF_OK);
    assert_int_equal(n, 1);
    assert_int_equal(rf_files_collect(files, f->s, f->now, &n, NULL), RF_OK);
    assert_int_equal(n, 0);
    RF_AUTO(rf_free) char *folder = rf_asprintf("%s/files/%s", f->dir, job.id);
    assert_int_not_equal(access(folder, F_OK), 0);
}

static void ids_carry_their_row_and_are_read_back_exactly(void **state)
{
    const struct rf_id samples[] = {{1, 0}, {INT64_MAX, UINT64_MAX}, {INT64_C(1763900000000) << 20, 0x123456789abcdef0}};
    char text[RF_JOB_ID_SIZE];
    for (size_t i = 0; i < RF_COUNT_OF(samples); i++) {
        struct rf_id back;
        rf_id_format(samples[i], text);
        assert_int_equal(strlen(text), 32);
        assert_true(rf_id_parse(text, &back));
        assert_int_equal(back.row, samples[i].row);
        assert_int_equal(back.tail, samples[i].tail);
    }
    struct rf_id id;
    const char *bad[] = {"", "video_", "video_0000000000000000000000000", "video_000000000000000000000000000",
                         "video_0000000000000z0000000000000z", "video_00000000000000000000000000" /* row 0 */,
                         "video_0000000000001000000000000u", "VIDEO_00000000000010000000000000",
                         "video_00000000000O10000000000000", "video_g0000000000010000000000000"};
    for (size_t i = 0; i < RF_COUNT_OF(bad); i++)
        assert_false(rf_id_parse(bad[i], &id));
    assert_int_equal(rf_id_next_row(0, 1), 1 << 20);
    assert_int_equal(rf_id_next_row(5 << 20, 1), (5 << 20) + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uploaded_file_is_read_back_with_its_hash),
        cmocka_unit_test(second_upload_of_a_name_does_not_touch_the_first),
        cmocka_unit_test(damaged_or_too_long_or_abandoned_uploads_leave_nothing),
        cmocka_unit_test(names_that_would_lead_elsewhere_are_refused),
        cmocka_unit_test(file_that_shrank_is_noticed),
        cmocka_unit_test(gone_files_are_collected_and_strays_swept),
        cmocka_unit_test(ids_carry_their_row_and_are_read_back_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
