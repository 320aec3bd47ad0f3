/* Holds web/js/plan.js against schema/plan.c: plan_table (built from it) prints every plan, this compares them all.
 * Without an argument a few plans are held against what schema/plan.h says in words.
 * Run: node plan_test.mjs [path of plan_table]
 * SPDX-License-Identifier: Apache-2.0 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {framesForSeconds, makePlan, nearestFrames, planSentence} from '../../web/js/plan.js';

const sizes = (...args) => makePlan(...args).segments.map(s => s.nFrames);
assert.deepEqual(sizes(81, 32), [81]);
assert.deepEqual(sizes(161, 32), [81, 81]);
assert.deepEqual(sizes(121, 32), [61, 61]);
assert.deepEqual(sizes(241, 16), [81, 81, 81]);
assert.deepEqual(makePlan(161, 32).segments.map(s => s.nFramesOut), [161, 161]);
assert.deepEqual(makePlan(161, 16).segments.map(s => s.nFramesOut), [81, 80]);
assert.equal(planSentence(makePlan(161, 32)), '161 frames = 2 segments, 322 frames at 32 fps, 10.06 s');
assert.equal(planSentence(makePlan(81, 16)), '81 frames in one piece at 16 fps, 5.06 s');
assert.equal(framesForSeconds(5), 81);
assert.equal(framesForSeconds(10), 161);
assert.equal(framesForSeconds(0), 5);
assert.equal(framesForSeconds(9999), 4801);
assert.equal(nearestFrames(83), 85);
assert.equal(nearestFrames(NaN), 81);
for (const bad of [[80, 32], [1, 32], [4805, 32], [81, 24], [81, 32, 80], ['81', 32]])
  assert.throws(() => makePlan(...bad), RangeError);

let held = 0;
if (process.argv[2]) {
  const table = execFileSync(process.argv[2], {encoding: 'utf8', maxBuffer: 2 ** 28}).trim().split('\n');
  for (const line of table) {
    const [kind, ...fields] = line.split(' ');
    if (kind === 'seconds') {
      assert.equal(framesForSeconds(Number(fields[0])), Number(fields[1]), line);
    } else {
      const [n, fps, most, out, ...segments] = fields;
      const plan = makePlan(Number(n), Number(fps), Number(most));
      assert.equal(plan.nFramesOut, Number(out), line);
      const made = plan.segments.map(s => `${s.nFrames}:${s.firstFrame}:${s.nFramesOut}`);
      assert.equal(made.join(' '), segments.join(' '), line);
    }
    held++;
  }
  assert.ok(held > 9000, `only ${held} lines`);
}
console.log(`plan.js agrees with ${held} plans of plan.c`);
