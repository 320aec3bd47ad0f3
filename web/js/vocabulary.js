/* Which words of a prompt a model with a small vocabulary does not know: the rule of worker/notes.c, so that it is said
 * before the video is made and not only after. tests/web/vocabulary_test.mjs holds the two against each other.
 * No document, no network here.
 * SPDX-License-Identifier: Apache-2.0 */

/* Small words of grammar are not worth a note, whether the model learned them or not. */
const GRAMMAR = ['a', 'an', 'the', 'of', 'on', 'in', 'at', 'to', 'with', 'and', 'or', 'is', 'it', 'its', 'as', 'by',
  'for', 'from', 'that', 'this', 'then', 'are', 'over'];
const WORD = /[A-Za-z\u0080-\u{10ffff}][A-Za-z'\u0080-\u{10ffff}]*/gu;

/* In order, each once, in lower case. An empty vocabulary is that of a model that has no such limit. */
export function unknownWords(prompt, vocabulary) {
  if (!vocabulary?.length) return [];
  const known = new Set([...GRAMMAR, ...vocabulary.map(word => word.toLowerCase())]);
  const words = (prompt.match(WORD) ?? []).map(word => word.replace(/[A-Z]/g, c => c.toLowerCase()));
  return [...new Set(words)].filter(word => !known.has(word));
}

/* "castle, hill and sunrise"; long lists are cut. */
export function listWords(words, most = 8) {
  const quoted = words.slice(0, most).map(word => `“${word}”`);
  if (words.length > most) return `${quoted.join(', ')} …`;
  return quoted.length < 2 ? quoted.join() : `${quoted.slice(0, -1).join(', ')} and ${quoted.at(-1)}`;
}
