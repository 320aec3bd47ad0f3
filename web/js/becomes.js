/* What the request will become, said before it is sent: the plan at once, from the page's own arithmetic; the expected
 * time from a dry run, a moment after the typing stops.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h} from './dom.js';
import {exact, inAbout, nowSeconds, plural, roughly} from './format.js';
import {makePlan, planSentence} from './plan.js';
import {guessSeconds} from './stages.js';

const PAUSE_MS = 500;
let estimate = null, asking = null, timer = 0;

/* like: what all of them have in common (num_frames, fps, width, height); n: how many. */
export function showBecomes(like, n, maxSegment) {
  let text;
  try {
    text = planSentence(makePlan(like.num_frames, like.fps, maxSegment));
  } catch (e) {
    text = e.message;
  }
  if (n > 1) text = `${plural(n, 'video')}, each ${text}`;
  const parts = [text], work = guessSeconds(like);
  const took = estimate && estimate.expected_end_at - (estimate.expected_start_at ?? nowSeconds());
  if (n > 1 && (estimate || work)) parts.push(`, takes about ${roughly((estimate ? took : work) * n)}`);
  else if (!estimate && work) parts.push(`, takes about ${roughly(work)}`);
  if (estimate && n === 1) {
    parts.push(', ', h('span', {title: `Expected ${exact(estimate.expected_end_at)}`},
      `takes about ${roughly(took)}, ready ${inAbout(estimate.expected_end_at)}`));
  }
  const node = $('#becomes');
  if (node.textContent !== parts.map(p => p.textContent ?? p).join('')) node.replaceChildren(...parts);
}

/* Asks the farm when it would be done; request null: there is nothing to ask. told(error): the answer is here, with what
 * a person can put right while typing. Anything else is said when they send. */
export function askEstimate(request, told) {
  clearTimeout(timer);
  asking?.abort();
  estimate = null;
  if (!request) return;
  timer = setTimeout(async () => {
    asking = new AbortController();
    try {
      const v = await api.dryRun(request, asking.signal);
      estimate = v.expected_end_at ? v : null;
      told(null);
    } catch (e) {
      if (e.status === 400 || e.status === 422) told(e);
    }
  }, PAUSE_MS);
}
