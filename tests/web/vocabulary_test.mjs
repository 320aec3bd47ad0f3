/* Holds web/js/vocabulary.js against worker/notes.c: notes_table (built from it) names the unknown words of each prompt. And
 * the model that ships must know its own examples.
 * Run: node vocabulary_test.mjs [path of notes_table]
 * SPDX-License-Identifier: Apache-2.0 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {listWords, unknownWords} from '../../web/js/vocabulary.js';

assert.deepEqual(unknownWords('A red castle, a RED Castle!', ['red']), ['castle']);
assert.deepEqual(unknownWords('anything at all', []), []);
assert.equal(listWords(['a']), '“a”');
assert.equal(listWords(['a', 'b', 'c']), '“a”, “b” and “c”');
assert.equal(listWords(['a', 'b', 'c'], 2), '“a”, “b” …');

const model = JSON.parse(readFileSync(new URL('../../models/demo/model.json', import.meta.url)));
assert.ok(model.examples.length >= 3);
for (const example of model.examples) assert.deepEqual(unknownWords(example, model.vocabulary), [], example);

const prompts = ['a red circle moves left over a blue background', 'A Castle, a castle and the sunrise', '', '  ', '81 frames',
  "the dog's 'quoted' words don't end", 'ein grüner Würfel', '赤い 円', 'it is of the and or by for from that this then are',
  'one two three four five six seven eight', 'one two three four five six seven eight nine', 'semi;colon-dash_under.dot',
  "' '' it's", 'É e', 'red RED Red reddish'];
if (process.argv[2]) {
  const vocabulary = ['red', 'circle', 'moves', 'left', 'blue', 'background'];
  const notes = execFileSync(process.argv[2], vocabulary, {input: prompts.join('\n') + '\n', encoding: 'utf8'}).split('\n');
  prompts.forEach((prompt, i) => {
    const words = unknownWords(prompt, vocabulary);
    const note = words.length ? `The m model does not know: ${words.slice(0, 8).join(', ')}${words.length > 8 ? ' …' : ''}.` : '';
    assert.equal(notes[i], note, prompt);
  });
}
console.log(`vocabulary.js agrees with notes.c on ${prompts.length} prompts`);
