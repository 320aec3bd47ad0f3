/* The farm page: asks for what it shows while it is seen. Loaded when first opened.
 * What is per job comes from the last hundred completed or failed ones, so the page costs the farm one list; hours are counted
 * by the farm itself.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, setText} from './dom.js';
import {diskSection, figuresSection, HOURS, updateFigures} from './figures.js';
import {nowSeconds} from './format.js';
import {on} from './store.js';
import {updateWorkers, workersSection} from './workers.js';

const root = $('#farm');
const POLL_MS = 3000, READ = 100, COUNT_S = 60;
let shown = false, timer = 0, done = null, workers = [], version = '', hours = [], countAt = 0;

export function show() {
  shown = true;
  if (!root.children.length)
    root.append(workersSection(), figuresSection(), diskSection(), h('p', {class: 'faint', id: 'version'}));
  poll();
}

export function hide() {
  shown = false;
  clearTimeout(timer);
}

on('finished', videos => {
  const fresh = videos.filter(v => v.state !== 'cancelled');
  countAt = 0;
  done = [...fresh, ...(done ?? []).filter(v => !fresh.some(f => f.id === v.id))].slice(0, READ);
  update();
});

async function poll() {
  clearTimeout(timer);
  try {
    const count = nowSeconds() >= countAt;
    const [w, list, health, counted] = await Promise.all([
      api.workers(),
      done ? null : api.list({status: 'completed,failed', limit: READ}),
      version ? null : api.health().catch(() => ({})),
      count ? api.throughput(HOURS) : null,
    ]);
    if (counted) {
      hours = counted.data;
      countAt = nowSeconds() + COUNT_S;
    }
    workers = w.data ?? [];
    if (list) done = list.data;
    if (health) version = health.version ?? workers[0]?.build ?? '';
  } catch {
    /* The line above the page already says that the farm is out of reach. */
  }
  update();
  if (shown) timer = setTimeout(poll, POLL_MS);
}

export function update() {
  if (!shown) return;
  updateWorkers(workers, done ?? [], poll);
  updateFigures(done ?? [], hours);
  setText($('#version'), version ? `framefarm ${version}` : '');
}
