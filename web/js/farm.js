/* The farm page: asks for what it shows while it is seen. Loaded when first opened.
 * Figures come from the last hundred completed or failed jobs, so the page costs the farm one list; only the last hour is
 * counted by the farm itself.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, setText} from './dom.js';
import {diskSection, figuresSection, updateFigures} from './figures.js';
import {endOf, on} from './store.js';
import {updateWorkers, workersSection} from './workers.js';

const root = $('#farm');
const POLL_MS = 3000, READ = 100;
let shown = false, timer = 0, done = null, workers = [], version = '';

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
  done = [...fresh, ...(done ?? []).filter(v => !fresh.some(f => f.id === v.id))].slice(0, READ);
  update();
});

async function poll() {
  clearTimeout(timer);
  try {
    const [w, list, health] = await Promise.all([
      api.workers(),
      done ? null : api.list({status: 'completed,failed', limit: READ}),
      version ? null : api.health().catch(() => ({})),
    ]);
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
  updateFigures(done ?? [], done?.length === READ ? endOf(done.at(-1)) : 0);
  setText($('#version'), version ? `framefarm ${version}` : '');
}
