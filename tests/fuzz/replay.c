/* Runs a fuzz target over files given on the command line (folders: all files in them), without libFuzzer: what the test
 * suite does with the corpus, and how a finding is looked at in a debugger.
 * SPDX-License-Identifier: Apache-2.0 */
#include "schema/base.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 0;
    }
    struct stat info;
    size_t room = fstat(fileno(file), &info) == 0 ? (size_t)info.st_size : 0;
    /* Exactly as large as the input, so that the address sanitizer sees a read past its end. */
    uint8_t *data = rf_calloc(room, 1);
    size_t n = fread(data, 1, room, file);
    fclose(file);
    LLVMFuzzerTestOneInput(data, n);
    free(data);
    return 1;
}

static int run_path(const char *path)
{
    DIR *dir = opendir(path);
    int n = 0;
    if (dir == NULL)
        return run_file(path);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        char *inside = rf_asprintf("%s/%s", path, entry->d_name);
        n += run_file(inside);
        free(inside);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++)
        n += run_path(argv[i]);
    printf("%d inputs\n", n);
    return n > 0 ? 0 : 1;
}
