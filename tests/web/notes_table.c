/* Prints the note of worker/notes.c for each prompt on the standard input, for vocabulary_test.mjs; an empty line: no note.
 * The words after the program's name are the vocabulary.
 * SPDX-License-Identifier: Apache-2.0 */
#include "worker/catalogue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    struct rf_wire_model about = {.vocabulary = argv + 1, .n_vocabulary = argc - 1};
    char prompt[4096], name[] = "m", empty[] = "";
    about.name = name;
    about.note = empty;
    while (fgets(prompt, sizeof prompt, stdin) != NULL) {
        prompt[strcspn(prompt, "\n")] = '\0';
        char *note = rf_vocabulary_note(&about, prompt);
        puts(note != NULL ? note : "");
        free(note);
    }
    return 0;
}
