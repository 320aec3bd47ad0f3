/* Notes for the author of a prompt: what a model with a small vocabulary will not understand.
 *
 * A word is a run of letters; bytes above ASCII count as letters, so a word in another script is named whole. Small
 * words of grammar are not worth a note, whether the model learned them or not.
 * SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "worker/catalogue.h"

#define MAX_NAMED 8       /* words named in one note */
#define MAX_WORD_BYTES 40 /* a longer run of letters is no word; it is named cut short */

static const char *const grammar[] = {"a",  "an", "the", "of", "on", "in",   "at",   "to",   "with", "and", "or",  "is",
                                      "it", "its", "as",  "by", "for", "from", "that", "this", "then", "are", "over"};

static bool is_letter(unsigned char c)
{
    return isalpha(c) || c >= 0x80 || c == '\'';
}

static bool holds(const char *const *list, int n, const char *word)
{
    for (int i = 0; i < n; i++)
        if (strcasecmp(list[i], word) == 0)
            return true;
    return false;
}

/* The next word at or after *at, in lower case; false at the end. */
static bool next_word(const char **at, char ret_word[MAX_WORD_BYTES])
{
    const unsigned char *c = (const unsigned char *)*at;
    while (*c != '\0' && (!is_letter(*c) || *c == '\''))
        c++;
    size_t n = 0;
    bool fits = true;
    for (; is_letter(*c); c++) {
        size_t n_bytes = *c >= 0xF0 ? 4 : *c >= 0xE0 ? 3 : *c >= 0xC0 ? 2 : 1;
        if ((*c & 0xC0) != 0x80) /* a cut never leaves half a character behind */
            fits = fits && n + n_bytes < MAX_WORD_BYTES;
        if (fits)
            ret_word[n++] = (char)tolower(*c);
    }
    ret_word[n] = '\0';
    *at = (const char *)c;
    return n > 0;
}

char *rf_vocabulary_note(const struct rf_wire_model *about, const char *prompt)
{
    if (about->n_vocabulary == 0)
        return NULL;
    char unknown[MAX_NAMED][MAX_WORD_BYTES], word[MAX_WORD_BYTES];
    const char *named[MAX_NAMED];
    int n = 0;
    bool more = false;
    for (const char *at = prompt; next_word(&at, word);) {
        if (holds((const char *const *)about->vocabulary, about->n_vocabulary, word) ||
            holds(grammar, RF_COUNT_OF(grammar), word) || holds(named, n, word))
            continue;
        if (n == MAX_NAMED) {
            more = true;
            break;
        }
        memcpy(unknown[n], word, sizeof word);
        named[n] = unknown[n];
        n++;
    }
    if (n == 0)
        return NULL;
    char list[MAX_NAMED * (MAX_WORD_BYTES + 2) + 8] = "";
    size_t used = 0;
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", named[i]);
    if (more)
        snprintf(list + used, sizeof list - used, " …");
    return rf_asprintf("The %s model does not know: %s.%s%s", about->name, list, about->note[0] ? " " : "",
                       about->note);
}
