/* Wires the page: start the parts, tell them when something changed, show the page that the address names.
 * The job view and the farm page are loaded when first wanted, which keeps the first view small.
 * SPDX-License-Identifier: Apache-2.0 */
import {keepTicket} from './api.js';
import {startCompose, updateCompose, usePrompt} from './compose.js';
import {$, h, setText} from './dom.js';
import {ensureDone, hasDone, isLoaded, startDone, updateDone} from './done.js';
import {isFiltered} from './filters.js';
import * as now from './now.js';
import {farm, hurry, on, start} from './store.js';
import {startWaiting, updateWaiting} from './waiting.js';

let farmPage = null; // the module of the farm page, once loaded
let current = null;  // 'home' or 'farm'; a job's view lies over either

/* ---- what is always in sight ---- */

function updatePulse() {
  const {running, waitingTotal, queue, ready} = farm;
  const words = [];
  if (running.length) words.push(`${running.length} in the making`);
  if (waitingTotal) words.push(`${waitingTotal.toLocaleString('en')} waiting`);
  if (queue.disk?.low) words.push('disk full');
  else if (queue.paused) words.push('paused');
  setText($('#pulse'), !ready ? '' : words.length ? words.join(' · ') : 'Idle');
  $('#pulse').classList.toggle('busy', running.length > 0);
  const first = $('#now-list').firstElementChild?.dataset.percent;
  document.title = running.length && first ? `${first} % · framefarm` : 'framefarm';
}

function updateLink() {
  const {link} = farm;
  const line = $('#link');
  line.hidden = link.ok;
  if (link.ok) return;
  const s = Math.max(0, Math.ceil((link.retryAt - Date.now()) / 1000));
  const why = !link.error?.status ? 'The farm is out of reach' : `The farm answers: ${link.error.message}`;
  setText(line.firstElementChild, `${why}. What you see is from before; trying again${s > 1 ? ` in ${s} s` : ' now'}.`);
}

function updateWelcome() {
  const empty = farm.ready && isLoaded() && !hasDone() && !isFiltered() && !farm.running.length && !farm.waiting.length;
  const box = $('#welcome');
  if (box.hidden !== empty) return;
  box.hidden = !empty;
  if (!empty) return;
  const m = farm.models[0];
  const examples = (m?.examples ?? []).slice(0, 3);
  box.replaceChildren(
    h('h2', {}, 'Nothing here yet. Make the first one.'),
    m ? h('p', {}, m.note || `The model at work is ${m.title || m.id}.`)
      : h('p', {}, 'No worker has come yet, so nothing can be drawn. Start one with ',
        h('code', {}, `framefarm-worker --server ${location.origin}`), '; prompts sent before will wait for it.'),
    h('div', {class: 'examples'}, examples.map(text =>
      h('button', {type: 'button', class: 'example', onclick: () => usePrompt(text)}, text))));
}

function update() {
  updateLink();
  if (farm.ready) {
    updateCompose();
    now.update();
    updateWaiting();
    ensureDone();
    updateDone();
    updateWelcome();
  }
  updatePulse();
  farmPage?.update();
}

/* ---- addresses: #/ is home, #/farm, #/video_… a job's own view over the page it was opened from ---- */

async function route() {
  const name = location.hash.match(/^#\/(.*)$/)?.[1] ?? '';
  const job = name.startsWith('video_') ? name : null;
  const wanted = job ? current ?? 'home' : name === 'farm' ? 'farm' : 'home';
  const inside = current !== null;
  if (wanted !== current) {
    current = wanted;
    $('#home').hidden = wanted !== 'home';
    $('#farm').hidden = wanted !== 'farm';
    for (const a of document.querySelectorAll('nav a')) {
      if (a.dataset.page === wanted) a.setAttribute('aria-current', 'page');
      else a.removeAttribute('aria-current');
    }
    if (inside) scrollTo(0, 0);
    if (wanted === 'farm') {
      farmPage = await import('./farm.js');
      farmPage.show();
    } else {
      farmPage?.hide();
      updateDone();
    }
  }
  if (job) (await import('./detail.js')).open(job, inside);
  else if ($('#job').open) (await import('./detail.js')).shut();
}

startCompose();
startWaiting();
startDone();
on('change', update);
$('#link button').addEventListener('click', hurry);
addEventListener('hashchange', () => {
  if (location.hash.startsWith('#/') || !location.hash) route();
});
route();
setInterval(() => {
  if (document.hidden) return;
  now.tickNow();
  updateLink();
}, 1000);
/* Words such as "3 min ago" and "in about 4 min" grow stale slowly. */
setInterval(() => document.hidden || update(), 20000);
addEventListener('framefarm:token', async () => (await import('./token.js')).askForToken(async () => {
  await keepTicket();
  hurry();
}));
keepTicket().then(start);
