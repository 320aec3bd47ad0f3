/* The queue: who is next, when it begins, pausing. Moving is in reorder.js.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, icon, keyed, setText} from './dom.js';
import {explainCall} from './failure.js';
import {inAbout, nowSeconds, setTime, size} from './format.js';
import {cancelButton, expectedEnd, updateCancel} from './now.js';
import {grip, isDragging, step, toFront} from './reorder.js';
import {guessSeconds} from './stages.js';
import {farm, hurry, lengthOf} from './store.js';
import {say} from './undo.js';

function create(v) {
  return h('li', {class: 'row', onkeydown: e => {
    if (!e.altKey || !['ArrowUp', 'ArrowDown'].includes(e.key)) return;
    e.preventDefault();
    step(v.id, e.key === 'ArrowUp' ? -1 : 1);
  }},
    grip(v.id),
    h('span', {class: 'place', 'aria-label': 'Position'}),
    h('div', {class: 'row-text'},
      h('a', {class: 'title', href: `#/${v.id}`, 'aria-keyshortcuts': 'Alt+ArrowUp Alt+ArrowDown'},
        v.prompt ?? 'Without a prompt'),
      h('p', {class: 'faint'}, h('span', {class: 'when'}), h('span', {class: 'what'}))),
    h('button', {type: 'button', class: 'quiet icon-only front', title: 'Make next', 'aria-label': 'Make next',
                 onclick: () => toFront(v.id)}, icon('top')),
    cancelButton(v.id));
}

let guesses = new Map();

/* Where the farm names no time: the work ahead, shared among its workers. Unix seconds by id. */
function guessStarts() {
  guesses = new Map();
  const now = nowSeconds();
  let ahead = 0;
  for (const v of farm.running) ahead += Math.max(0, (expectedEnd(v) ?? now) - now);
  for (const v of farm.waiting) {
    const work = guessSeconds(v);
    if (work == null || !farm.queue.workers) return;
    guesses.set(v.id, now + ahead / farm.queue.workers);
    ahead += work;
  }
}

function updateRow(el, v) {
  updateCancel(el, v.id);
  setText($('.place', el), String(v.queue_position ?? '·'));
  const held = farm.queue.paused;
  const start = held || v.nobody_can_run ? null : v.expected_start_at ?? guesses.get(v.id);
  setTime($('.when', el), start, held ? 'on hold' : v.nobody_can_run ? 'no worker can make this yet'
    : start ? `starts ${inAbout(start)}` : '');
  $('.when', el).hidden = !$('.when', el).textContent;
  const rank = v.priority ? `, priority ${v.priority > 0 ? '+' : ''}${v.priority}` : '';
  setText($('.what', el), [v.user, `${size(v)}, ${lengthOf(v).toFixed(1)} s${rank}`].filter(Boolean).join(' · '));
  $('.grip', el).hidden = farm.waiting.length < 2;
  $('.front', el).disabled = farm.waiting[0]?.id === v.id;
}

export function startWaiting() {
  $('#hold').addEventListener('click', async () => {
    try {
      const queue = await (farm.queue.paused ? api.resume() : api.pause());
      if ('paused' in (queue ?? {})) farm.queue = queue;
      updateWaiting();
    } catch (e) {
      say(explainCall(e));
    }
    hurry();
  });
}

export function updateWaiting() {
  const {waiting, queue} = farm;
  $('#waiting').hidden = !waiting.length && !queue.paused && !queue.disk?.low;
  $('#waiting').classList.toggle('paused', Boolean(queue.paused));
  setText($('#waiting .count'), farm.waitingTotal ? farm.waitingTotal.toLocaleString('en') : '');
  setText($('#hold'), queue.paused ? 'Resume' : 'Pause');
  const low = queue.disk?.low;
  $('#held').hidden = !queue.paused && !low;
  setText($('#held'), low
    ? 'The disk is nearly full. Nothing new is accepted or begun until there is room; what is being made goes on.'
    : 'The queue is paused. What is being made goes on; nothing new begins.');
  guessStarts();
  if (!isDragging()) keyed($('#waiting-list'), waiting, create, updateRow);
  const rest = farm.waitingTotal - waiting.length;
  $('#waiting-rest').hidden = rest <= 0;
  setText($('#waiting-rest'), `and ${rest.toLocaleString('en')} more`);
}
