/* What a request will become: the same arithmetic as schema/plan.c, so that the page can say it before it is sent.
 * tests/web/plan_test.mjs holds the two against each other. No document, no network here.
 * SPDX-License-Identifier: Apache-2.0 */

const MODEL_FPS = 16;
const MIN_FRAMES = 5;
const MAX_FRAMES = 4801;

/* Splits nFrames (4k+1) into as few segments of at most maxSegment frames as it takes, as equal as 4k+1 allows, longer
 * ones first; neighbours share a frame. Throws RangeError with a sentence for people. */
export function makePlan(nFrames, fps, maxSegment = 81) {
  for (const [name, n] of [['frames', nFrames], ['frames per segment', maxSegment]]) {
    if (!Number.isInteger(n) || n < MIN_FRAMES || n > MAX_FRAMES || n % 4 !== 1)
      throw new RangeError(`${name}: ${n} is not a multiple of 4 plus 1 between ${MIN_FRAMES} and ${MAX_FRAMES}`);
  }
  if (fps !== MODEL_FPS && fps !== 2 * MODEL_FPS) throw new RangeError(`fps: ${fps} is neither 16 nor 32`);
  const steps = (nFrames - 1) / 4;
  const count = Math.ceil(steps / ((maxSegment - 1) / 4));
  const segments = [];
  for (let i = 0, first = 0; i < count; i++) {
    const n = 4 * (Math.floor(steps / count) + (i < steps % count ? 1 : 0)) + 1;
    const fresh = i === 0 ? n : n - 1;
    const out = fps === MODEL_FPS ? fresh : 2 * fresh - (i === 0 ? 1 : 0) + (i === count - 1 ? 1 : 0);
    segments.push({nFrames: n, firstFrame: first, nFramesOut: out});
    first += n - 1;
  }
  return {nFrames, fps, nFramesOut: nFrames * fps / MODEL_FPS, seconds: nFrames / MODEL_FPS, segments};
}

export function framesForSeconds(seconds) {
  return nearestFrames(1 + 4 * Math.round(seconds * MODEL_FPS / 4));
}

/* The 4k+1 nearest to n that the farm accepts. */
export function nearestFrames(n) {
  const whole = Number.isFinite(n) ? 4 * Math.round((n - 1) / 4) + 1 : 81;
  return Math.min(MAX_FRAMES, Math.max(MIN_FRAMES, whole));
}

export function planSentence(plan) {
  const pieces = plan.segments.length === 1 ? 'in one piece' : `= ${plan.segments.length} segments`;
  const out = plan.fps === MODEL_FPS ? 'at 16 fps' : `${plan.nFramesOut} frames at 32 fps`;
  return `${plan.nFrames} frames ${pieces}${plan.fps === MODEL_FPS ? ' ' : ', '}${out}, ${plan.seconds.toFixed(2)} s`;
}
