/* Jobs in progress as cards: preview, true stages, time gone and left, worker, cancel.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, keyed, setText} from './dom.js';
import {duration, exact, nowSeconds, plural, roughly, setTime, size} from './format.js';
import {createBar, doing, guessSeconds, layout, progressOf, updateBar} from './stages.js';
import {accept, farm, forget, hurry} from './store.js';
import {isPending, later, undo} from './undo.js';

const DRAWS = ['high_noise', 'low_noise', 'decode', 'interpolate', 'encode'];

/* A button that cancels and then, in the same place and under the same finger, takes it back. */
export function cancelButton(id) {
  return h('button', {type: 'button', class: 'quiet cancel', onclick: () => {
    if (isPending(id)) undo(id);
    else later(id, async options => {
      const v = await api.cancel(id, options);
      forget(id);
      if (v?.id) accept(v);
      hurry();
    }, update);
    update();
  }});
}

export function updateCancel(root, id) {
  const leaving = isPending(id);
  root.classList.toggle('leaving', leaving);
  setText($('.cancel', root), leaving ? 'Undo' : 'Cancel');
}

function create(v) {
  return h('li', {class: 'card'},
    h('a', {class: 'preview', href: `#/${v.id}`, tabindex: -1, 'aria-hidden': 'true'},
      h('span', {class: 'frame', vars: {'--ratio': (v.width / v.height).toFixed(3)}})),
    h('div', {class: 'card-text'},
      h('a', {class: 'title', href: `#/${v.id}`}, v.prompt ?? 'Without a prompt'),
      h('p', {class: 'doing'}),
      createBar(),
      h('p', {class: 'times'}, h('span', {class: 'left'}), h('span', {class: 'gone'}), h('span', {class: 'who'})),
    ),
    cancelButton(v.id));
}

function updateCard(el, v) {
  updateCancel(el, v.id);
  const leaving = isPending(v.id);
  setText($('.doing', el), leaving ? 'Cancelled' : doing(v));
  const percent = updateBar($('.stages', el), v);
  el.dataset.percent = percent;
  const segment = v.segments?.find(s => s.state === 'leased');
  setText($('.who', el), segment?.worker ? `on ${segment.worker}` : '');
  $('.who', el).title = `${size(v)}, ${plural(v.num_frames, 'frame')}`;
  showPreview($('.frame', el), v, segment);
  tick(el, v);
}

/* A new picture is asked for when the job has moved; the old one stays until the new one is there. Farms that say in
 * preview_at whether there is one are believed; others are asked a few times, not for ever. */
async function showPreview(frame, v, segment) {
  const guess = DRAWS.includes(segment?.stage) ? `${segment.index}.${segment.stage}.${segment.step}` : null;
  const mark = v.preview_at === undefined ? guess : v.preview_at;
  if (mark == null || frame.dataset.mark === String(mark) || frame.dataset.misses > 2) return;
  frame.dataset.mark = mark;
  const url = await api.preview(v.id);
  if (!url) {
    frame.dataset.misses = Number(frame.dataset.misses ?? 0) + 1;
    return;
  }
  const img = h('img', {src: url, alt: ''});
  img.onload = () => {
    URL.revokeObjectURL(url);
    frame.replaceChildren(img);
  };
}

/* The farm's word, else carried on from what is done, else judged by the last job; null when nothing is known. */
export function expectedEnd(v, done = progressOf(layout(v))) {
  const now = nowSeconds(), gone = now - (v.started_at ?? now), guess = guessSeconds(v);
  if (v.expected_end_at) return v.expected_end_at;
  if (done > (guess ? 0.3 : 0.05) && gone > 2) return now + gone * (1 - done) / done;
  return guess == null ? null : now + Math.max(guess * (1 - done), 1);
}

/* The part that time alone changes. */
function tick(el, v) {
  const now = nowSeconds(), gone = now - (v.started_at ?? now);
  const end = expectedEnd(v);
  setTime($('.left', el), end, !end ? '' : end - now < 3 ? 'almost done' : `${roughly(end - now)} left`);
  setText($('.gone', el), `${duration(Math.floor(gone)).replace(/\.0 s$/, ' s')} so far`);
  $('.gone', el).title = v.started_at ? `Started ${exact(v.started_at)}` : '';
}

export function update() {
  $('#now').hidden = !farm.running.length;
  keyed($('#now-list'), farm.running, create, updateCard);
  for (const el of document.querySelectorAll('#waiting-list > li')) updateCancel(el, el.dataset.key);
}

export function tickNow() {
  for (const el of $('#now-list').children) {
    const v = farm.running.find(j => j.id === el.dataset.key);
    if (v) tick(el, v);
  }
}
