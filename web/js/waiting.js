/* The queue: who is next, when it begins, moving up and down, pausing.
 * Order is priority, then age: moving one up means giving it more priority, which is all the farm allows.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, icon, keyed, setText} from './dom.js';
import {explainCall} from './failure.js';
import {inAbout, plural, setTime, size} from './format.js';
import {cancelButton, updateCancel} from './now.js';
import {accept, farm, hurry} from './store.js';
import {say} from './undo.js';

const MAX_PRIORITY = 100;

async function setPriority(id, priority) {
  try {
    accept(await api.setPriority(id, Math.max(-MAX_PRIORITY, Math.min(MAX_PRIORITY, priority))));
  } catch (e) {
    say(explainCall(e));
  }
  hurry();
}

const find = id => farm.waiting.find(v => v.id === id);
const top = () => Math.max(0, ...farm.waiting.map(v => v.priority ?? 0));

function toFront(id) {
  if (farm.waiting[0]?.id !== id) setPriority(id, top() + 1);
}

function create(v) {
  return h('li', {class: 'row', onkeydown: e => {
    if (!e.altKey || !['ArrowUp', 'ArrowDown'].includes(e.key)) return;
    e.preventDefault();
    setPriority(v.id, (find(v.id)?.priority ?? 0) + (e.key === 'ArrowUp' ? 1 : -1));
  }},
    h('span', {class: 'place', 'aria-label': 'Position'}),
    h('div', {class: 'row-text'},
      h('a', {class: 'title', href: `#/${v.id}`, 'aria-keyshortcuts': 'Alt+ArrowUp Alt+ArrowDown'}, v.prompt ?? 'Without a prompt'),
      h('p', {class: 'faint'}, h('span', {class: 'when'}), h('span', {class: 'what'}))),
    h('button', {type: 'button', class: 'quiet icon-only front', title: 'Make next (Alt+Up: a little earlier)',
                 'aria-label': 'Make next', onclick: () => toFront(v.id)}, icon('top')),
    cancelButton(v.id));
}

function updateRow(el, v) {
  updateCancel(el, v.id);
  setText($('.place', el), String(v.queue_position ?? '·'));
  const held = farm.queue.paused;
  setTime($('.when', el), held ? null : v.expected_start_at,
    held ? 'on hold' : v.expected_start_at ? `starts ${inAbout(v.expected_start_at)}` : 'waiting for a worker');
  const rank = v.priority ? `, priority ${v.priority > 0 ? '+' : ''}${v.priority}` : '';
  setText($('.what', el), `${size(v)}, ${Number(v.seconds).toFixed(1)} s${rank}`);
  $('.front', el).disabled = farm.waiting[0]?.id === v.id;
}

export function startWaiting() {
  $('#hold').addEventListener('click', async () => {
    try {
      const queue = await (farm.queue.paused ? api.resume() : api.pause());
      if ('paused' in (queue ?? {})) farm.queue = queue;
    } catch (e) {
      say(explainCall(e));
    }
    hurry();
  });
}

export function updateWaiting() {
  const {waiting, queue} = farm;
  $('#waiting').hidden = !waiting.length && !queue.paused;
  $('#waiting').classList.toggle('paused', Boolean(queue.paused));
  setText($('#waiting .count'), farm.waitingTotal ? farm.waitingTotal.toLocaleString('en') : '');
  setText($('#hold'), queue.paused ? 'Resume' : 'Pause');
  $('#held').hidden = !queue.paused;
  keyed($('#waiting-list'), waiting, create, updateRow);
  const rest = farm.waitingTotal - waiting.length;
  $('#waiting-rest').hidden = rest <= 0;
  setText($('#waiting-rest'), `and ${plural(rest, 'more')}`.replace('mores', 'more'));
}
