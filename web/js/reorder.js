/* Moving a waiting job by hand: drag its grip, or arrow keys. Among one person's jobs the farm takes the order that it is
 * given; between people it takes turns, so a job is put beside the nearest one of its own person (schema/api.md, Moving).
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {h, icon} from './dom.js';
import {explainCall} from './failure.js';
import {farm, hurry, reorder} from './store.js';
import {say} from './undo.js';

const at = id => farm.waiting.findIndex(v => v.id === id);
const own = job => v => v.user === job.user && v.id !== job.id;

/* The job that `job` is to stand beside when it is dropped before list[index] -> {before} or {after}, null: nowhere.
 * Between two ranks it keeps its own. */
function neighbour(list, job, index) {
  const next = list.slice(index).find(own(job)), previous = list.slice(0, index).findLast(own(job));
  if (previous && (!next || (next.priority !== job.priority && previous.priority === job.priority)))
    return {after: previous.id};
  return next ? {before: next.id} : null;
}

async function put(job, place) {
  if (!place) return say(`Nothing else of ${job.user ?? 'this person'} waits, and people take turns.`);
  reorder(job, place);
  try {
    await api.move(job.id, place);
  } catch (e) {
    say(explainCall(e));
  }
  hurry();
}

/* By keys: one place up or down among the person's own. */
export function step(id, direction) {
  const list = farm.waiting, from = at(id), job = list[from];
  if (!job) return;
  const other = direction < 0 ? list.slice(0, from).findLast(own(job)) : list.slice(from + 1).find(own(job));
  if (other) put(job, {[direction < 0 ? 'before' : 'after']: other.id});
}

export function toFront(id) {
  const job = farm.waiting[at(id)], first = farm.waiting[0];
  if (!job || job === first) return;
  if (own(job)(first)) return put(job, {before: first.id});
  raise(id, Math.min(100, Math.max(0, ...farm.waiting.map(v => v.priority)) + 1));
}

/* Past other people only a higher priority leads. */
async function raise(id, priority) {
  try {
    await api.setPriority(id, priority);
  } catch (e) {
    say(explainCall(e));
  }
  hurry();
}

/* ---- dragging ---- */

let drag = null; // {id, row, index, startY}
export const isDragging = () => drag !== null;

/* The gap between rows that the pointer is nearest to, as an index into the list. */
const gapAt = (rows, y) => rows.filter(row => {
  const box = row.getBoundingClientRect();
  return box.top + box.height / 2 < y;
}).length;

function mark(rows, index) {
  rows.forEach((row, i) => {
    row.classList.toggle('gap-above', i === index);
    row.classList.toggle('gap-below', i === rows.length - 1 && index === rows.length);
  });
}

function begin(e) {
  if (e.button) return;
  const row = e.currentTarget.closest('.row');
  e.currentTarget.setPointerCapture(e.pointerId);
  drag = {id: row.dataset.key, row, index: null, startY: e.clientY};
  row.classList.add('dragged');
}

function follow(e) {
  if (!drag) return;
  const rows = [...drag.row.parentElement.children];
  drag.row.style.setProperty('--dy', `${e.clientY - drag.startY}px`);
  drag.index = gapAt(rows.filter(row => row !== drag.row), e.clientY);
  mark(rows.filter(row => row !== drag.row), drag.index);
}

function end(drop) {
  if (!drag) return;
  const {id, row, index} = drag, from = at(id);
  drag = null;
  row.classList.remove('dragged');
  row.style.removeProperty('--dy');
  mark([...row.parentElement.children], null);
  const others = farm.waiting.filter(v => v.id !== id);
  if (drop && index !== null && from >= 0 && index !== from) {
    put(farm.waiting[from], neighbour(others, farm.waiting[from], index));
  } else hurry();
}

/* The part of a row that is taken hold of. */
export function grip(id) {
  return h('button', {type: 'button', class: 'quiet icon-only grip', title: 'Drag, or arrow keys: earlier or later',
    'aria-label': 'Move', 'aria-keyshortcuts': 'ArrowUp ArrowDown',
    onpointerdown: begin, onpointermove: follow, onpointerup: () => end(true), onpointercancel: () => end(false),
    onkeydown: e => {
      if (e.key === 'Escape' && drag) end(false);
      if (e.altKey || !['ArrowUp', 'ArrowDown'].includes(e.key)) return;
      e.preventDefault();
      step(id, e.key === 'ArrowUp' ? -1 : 1);
    }}, icon('grip'));
}
