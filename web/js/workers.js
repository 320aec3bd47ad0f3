/* The farm page's workers: device, memory, temperature, what each does, what last went wrong on it.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, keyed, setText} from './dom.js';
import {explainCall} from './failure.js';
import {ago, duration, exact, gib, nowSeconds, plural, setTime} from './format.js';
import {doing} from './stages.js';
import {farm} from './store.js';
import {say} from './undo.js';

const ERRORS_SHOWN = 3, FRESH_S = 15; // idle devices tell every ten seconds
const WORDS = {idle: 'idle', busy: 'at work', draining: 'draining', lost: 'lost', left: 'has left'};

export const workersSection = () => h('section', {'aria-labelledby': 'workers-title'},
  h('h2', {id: 'workers-title'}, 'Workers'), h('ul', {class: 'plain workers', id: 'workers'}),
  h('p', {class: 'faint', id: 'no-workers', hidden: true}));

/* Those at hand first, then the lost, then those that left; one that was started again, and again, is the same to people. */
const ORDER = ['lost', 'left'];
function inOrder(workers) {
  const here = new Set(workers.filter(w => !ORDER.includes(w.state)).map(w => w.name));
  const newest = new Map(workers.map(w => [w.name, w])); // they come oldest first
  return workers.filter(w => w.state !== 'left' || (!here.has(w.name) && newest.get(w.name) === w))
    .sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state));
}

/* videos: where their failed attempts are looked for. onChange(): a worker was told something. */
export function updateWorkers(workers, videos, onChange) {
  keyed($('#workers'), inOrder(workers), w => create(w, onChange), (el, w) => update(el, w, videos));
  const none = $('#no-workers');
  none.hidden = workers.length > 0;
  setText(none, `No worker has come yet. Start one: framefarm-worker --server ${location.origin} --models DIR`);
}

const create = (w, onChange) => h('li', {class: 'worker'},
  h('div', {class: 'worker-head'}, h('strong', {}, w.name ?? w.id), h('span', {class: 'badge'})),
  h('p', {class: 'faint device'}), h('p', {class: 'gauges'}), h('p', {class: 'task'}), h('ul', {class: 'plain last-errors'}),
  h('p', {class: 'worker-foot'}, h('span', {class: 'seen faint'}),
    h('button', {type: 'button', class: 'quiet drain', title: 'Finish what it has, take nothing new',
                 onclick: () => steer(w.id, true, onChange)}, 'Drain'),
    h('button', {type: 'button', class: 'quiet back', onclick: () => steer(w.id, false, onChange)}, 'Take back')));

async function steer(id, drain, onChange) {
  try {
    await api.drain(id, drain);
    onChange();
  } catch (e) {
    say(explainCall(e));
  }
}

/* Failed attempts on this worker, newest first. */
const errorsOf = (w, videos) => videos.flatMap(v => (v.attempts ?? []).map(a => ({...a, video: v})))
  .filter(a => a.worker === w.name && ['failed', 'expired'].includes(a.outcome) && a.ended_at)
  .sort((a, b) => b.ended_at - a.ended_at).slice(0, ERRORS_SHOWN);

function update(el, w, videos) {
  const {state} = w;
  el.dataset.state = state;
  setText($('.badge', el), WORDS[state] ?? state);
  updateDevice($('.device', el), w);
  updateGauges($('.gauges', el), w.device ?? {}, state);
  updateTask($('.task', el), w.task_id?.split('.')[0]);
  keyed($('.last-errors', el), errorsOf(w, videos), a => h('li', {}, h('a', {href: `#/${a.video.id}`})), (li, a) => {
    setText(li.firstChild, `Error ${ago(a.ended_at)}: ${a.message || a.code || 'it stopped answering'}`);
    li.title = exact(a.ended_at);
  }, a => `${a.video.id}.${a.task}.${a.attempt}`);
  const tally = [`heard from ${ago(w.seen_at)}`, `${plural(w.tasks_done, 'task')} done`];
  if (w.tasks_failed) tally.push(`${w.tasks_failed} failed`);
  setTime($('.seen', el), w.seen_at, tally.join(', '));
  $('.drain', el).hidden = !['idle', 'busy'].includes(state);
  $('.back', el).hidden = state !== 'draining';
}

function updateDevice(el, w) {
  const d = w.device ?? {}, models = (w.models ?? []).map(m => m.title ?? m.name ?? m).join(', ');
  setText(el, [d.name, d.memory_bytes && gib(d.memory_bytes), d.precision, models].filter(Boolean).join(' · '));
  el.title = [d.memory_bytes && `${d.memory_bytes.toLocaleString('en')} bytes of memory`, w.host && `on ${w.host}`,
    w.pid && `process ${w.pid}`, w.build && `version ${w.build}`].filter(Boolean).join(', ');
}

const used = n => n < 10 * 2 ** 30 ? `${(n / 2 ** 30).toFixed(1)} GiB` : gib(n);

/* What the device said of itself last, and how long ago that was. A CPU says nothing. */
function updateGauges(el, d, state) {
  const gauge = (value, words) => value == null ? null : words(value);
  const told = [gauge(d.memory_used_bytes, n => `${used(n)} in use`), gauge(d.utilization, u => `${Math.round(100 * u)} % busy`),
    gauge(d.temperature_c, t => `${Math.round(t)} °C`), gauge(d.power_w, p => `${Math.round(p)} W`)].filter(Boolean);
  el.hidden = !told.length || ['lost', 'left'].includes(state);
  if (el.hidden) return;
  const age = nowSeconds() - d.told_at;
  setText(el, [...told, age < FRESH_S ? null : `${duration(age)} ago`].filter(Boolean)
    .map(words => words.replaceAll(' ', '\u00a0')).join(' · '));
  el.classList.toggle('stale', age >= FRESH_S);
  el.title = [gauge(d.memory_used_bytes, n => `${n.toLocaleString('en')} bytes of memory in use`), exact(d.told_at)]
    .filter(Boolean).join(', ');
}

function updateTask(el, job) {
  const video = farm.running.find(v => v.id === job);
  const words = job ? `${video ? doing(video) : 'Starting'}${video?.prompt ? `: ${video.prompt}` : ''}` : '';
  if (el.textContent !== words) el.replaceChildren(job ? h('a', {href: `#/${job}`}, words) : '');
}
