/* A job's true stages as one bar: per segment a run of cells as wide as the time each is expected to take.
 * Expected from the last finished job where there is one, so that the bar moves evenly on any machine.
 * SPDX-License-Identifier: Apache-2.0 */
import {h, setVars} from './dom.js';
import {stageWords} from './format.js';

const CELLS = ['text', 'high_noise', 'low_noise', 'decode', 'interpolate', 'encode'];
const CELL_OF = {load: 'text', encode_image: 'text', upload: 'encode'};

/* Seconds per stage of an 81-frame segment with 2+2 steps on a slow worker; only the proportions count. */
let measured = {text: 0.6, high_noise: 6.4, low_noise: 6.4, decode: 5, interpolate: 2.8, encode: 1.1};
let measuredSteps = {high_noise: 2, low_noise: 2};
let secondsPerPixel = null; // of work, per rendered pixel of all frames

const stepsOf = (v, stage) => stage === 'high_noise' ? v.switch_step ?? 2
  : stage === 'low_noise' ? (v.num_inference_steps ?? 4) - (v.switch_step ?? 2) : 1;

/* Learns the shares from a completed job. */
export function learn(v) {
  const d = v.stage_durations;
  if (!d?.decode || !(d.high_noise || d.low_noise)) return;
  measured = Object.fromEntries(CELLS.map(c => [c, d[c] ?? (c === 'interpolate' ? measured[c] : 0)]));
  measured.text += d.encode_image ?? 0;
  measured.encode += d.upload ?? 0;
  measuredSteps = {high_noise: stepsOf(v, 'high_noise') || 1, low_noise: stepsOf(v, 'low_noise') || 1};
  secondsPerPixel = workSeconds(v) / (v.width * v.height * v.num_frames);
}

/* What a finished job took, the queue not counted. */
export const workSeconds = v =>
  Object.entries(v.stage_durations).reduce((sum, [stage, s]) => stage === 'queue' ? sum : sum + s, 0);

/* What a job is likely to take, judged by the last one that finished; null while none has. Stands in where the farm
 * itself gives no expected times. */
export const guessSeconds = v =>
  secondsPerPixel == null || !v.width ? null : secondsPerPixel * v.width * v.height * v.num_frames;

/* -> [{segment, cells: [{stage, share, done}]}]; all shares together make 1. done is 0..1. */
export function layout(v) {
  const segments = v.segments?.length ? v.segments : [{index: 0, num_frames: v.num_frames ?? 81, state: 'blocked'}];
  let total = 0;
  const rows = segments.map(segment => {
    const at = CELLS.indexOf(CELL_OF[segment.stage] ?? segment.stage);
    const cells = CELLS.filter(c => c !== 'interpolate' || v.fps !== 16).map(stage => {
      const seconds = measured[stage] * stepsOf(v, stage) / (measuredSteps[stage] ?? 1);
      const weight = Math.max(0.2, seconds) * segment.num_frames;
      const i = CELLS.indexOf(stage);
      const part = segment.steps > 0 ? Math.min(1, ((segment.step ?? 0) + 0.5) / segment.steps) : 0.5;
      const done = segment.state === 'done' || (segment.state === 'leased' && i < at) ? 1
        : segment.state === 'leased' && i === at ? part : 0;
      if (stepsOf(v, stage) === 0) return null;
      total += weight;
      return {stage, share: weight, done};
    }).filter(Boolean);
    return {segment, cells};
  });
  for (const row of rows) for (const cell of row.cells) cell.share /= total;
  return rows;
}

export const progressOf = rows => rows.flatMap(r => r.cells).reduce((sum, c) => sum + c.share * c.done, 0);

/* "Segment 2 of 3 · low noise, step 1 of 2" */
export function doing(v) {
  const segment = v.segments?.find(s => s.state === 'leased');
  const stage = segment?.stage ?? v.stage;
  const of = v.segments?.length > 1 && segment ? `Segment ${segment.index + 1} of ${v.segments.length} · ` : '';
  if (v.segments?.every(s => s.state === 'done')) return 'Joining the segments';
  if (!stage) return `${of}${segment ? 'Starting' : 'Between two segments'}`;
  const step = segment?.steps > 1 ? `, step ${Math.min(segment.step + 1, segment.steps)} of ${segment.steps}` : '';
  const text = `${of}${stageWords(stage)}${step}`;
  return text[0].toUpperCase() + text.slice(1);
}

/* Flex factors that add up to less than one would leave room unfilled. */
export const grow = share => (1000 * share).toFixed(1);

export function createBar() {
  return h('div', {class: 'stages', role: 'progressbar', 'aria-valuemin': 0, 'aria-valuemax': 100});
}

export function updateBar(bar, v) {
  const rows = layout(v);
  const shape = rows.map(r => r.cells.length).join();
  if (bar.dataset.shape !== shape) {
    bar.dataset.shape = shape;
    bar.replaceChildren(...rows.map(row => h('div', {class: 'run'},
      row.cells.map(c => h('i', {class: `cell st-${c.stage}`})))));
  }
  rows.forEach((row, i) => {
    setVars(bar.children[i], {'--share': grow(row.cells.reduce((s, c) => s + c.share, 0))});
    row.cells.forEach((cell, k) => {
      const el = bar.children[i].children[k];
      setVars(el, {'--share': grow(cell.share), '--done': cell.done.toFixed(3)});
      el.title = `${rows.length > 1 ? `Segment ${i + 1}: ` : ''}${stageWords(cell.stage)}`;
    });
  });
  const percent = Math.round(100 * progressOf(rows));
  bar.setAttribute('aria-valuenow', percent);
  bar.setAttribute('aria-valuetext', `${percent} %, ${doing(v)}`);
  return percent;
}
