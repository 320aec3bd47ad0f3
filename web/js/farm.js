/* The farm page: workers and what they do, how fast work goes through, where its time goes. Loaded when first opened.
 * Figures come from the last hundred completed jobs, so the page costs the farm one list.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, keyed, setText, setVars} from './dom.js';
import {explainCall} from './failure.js';
import {ago, clock, duration, gib, nowSeconds, plural, setTime, stageName, stageWords} from './format.js';
import {doing, grow, workSeconds} from './stages.js';
import {endOf, farm, on} from './store.js';
import {say} from './undo.js';

const root = $('#farm');
const POLL_MS = 3000;
let shown = false, timer = 0, done = null, workers = [], version = '', built = false;

export function show() {
  shown = true;
  build();
  poll();
}

export function hide() {
  shown = false;
  clearTimeout(timer);
}

on('finished', videos => {
  const fresh = videos.filter(v => v.state !== 'cancelled');
  done = [...fresh, ...(done ?? []).filter(v => !fresh.some(f => f.id === v.id))].slice(0, 100);
  update();
});

async function poll() {
  clearTimeout(timer);
  try {
    const [w, list, health] = await Promise.all([
      api.workers(),
      done ? null : api.list({status: 'completed,failed', limit: 100}),
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

const columnChart = (id, caption, from, to) => h('figure', {class: 'chart', id}, h('figcaption', {}, caption),
  h('div', {class: 'columns'}), h('p', {class: 'ends faint'}, h('span', {}, from), h('span', {}, to)));

function build() {
  if (built) return;
  built = true;
  root.replaceChildren(
    h('section', {'aria-labelledby': 'workers-title'}, h('h2', {id: 'workers-title'}, 'Workers'),
      h('ul', {class: 'plain workers', id: 'workers'}), h('p', {class: 'faint', id: 'no-workers', hidden: true})),
    h('section', {'aria-labelledby': 'figures-title'}, h('h2', {id: 'figures-title'}, 'Throughput'),
      h('dl', {class: 'figures', id: 'figures'}),
      columnChart('hours', 'Videos completed per hour', '12 hours ago', 'now'),
      columnChart('pace', 'Seconds of work per frame', 'earlier jobs', 'last job'),
      h('figure', {class: 'chart', id: 'shares'}, h('figcaption', {}, 'Where the time goes'),
        h('div', {class: 'share-bar'}), h('p', {class: 'legend'}))),
    h('p', {class: 'faint', id: 'version'}));
}

/* ---- workers ---- */

function createWorker(w) {
  return h('li', {class: 'worker'},
    h('div', {class: 'worker-head'}, h('strong', {}, w.name ?? w.id), h('span', {class: 'badge'})),
    h('p', {class: 'faint device'}), h('p', {class: 'task'}), h('p', {class: 'last-error'}),
    h('p', {class: 'worker-foot'}, h('span', {class: 'seen faint'}),
      h('button', {type: 'button', class: 'quiet drain', title: 'Finish what it has, take nothing new',
                   onclick: () => drain(w.id)}, 'Drain')));
}

async function drain(id) {
  try {
    await api.drain(id);
    poll();
  } catch (e) {
    say(explainCall(e));
  }
}

/* The newest failed attempt of this worker among the jobs that were read. */
function lastError(name) {
  return (done ?? []).flatMap(v => v.attempts)
    .filter(a => a.worker === name && a.outcome !== 'released' && a.ended_at)
    .sort((a, b) => b.ended_at - a.ended_at)[0];
}

const WORKER_WORDS = {idle: 'idle', busy: 'at work', draining: 'draining', lost: 'lost', left: 'has left'};

function updateWorker(el, w) {
  const {state} = w, d = w.device ?? {};
  el.dataset.state = state;
  setText($('.badge', el), WORKER_WORDS[state] ?? state);
  const models = (w.models ?? []).map(m => m.title ?? m.name ?? m).join(', ');
  setText($('.device', el), [d.name, d.memory_bytes ? gib(d.memory_bytes) : null, d.precision,
    d.temperature_c ? `${Math.round(d.temperature_c)} °C` : null, models].filter(Boolean).join(' · '));
  const task = $('.task', el), job = w.task_id?.split('.')[0];
  const video = farm.running.find(v => v.id === job);
  const words = job ? `${video ? doing(video) : 'Starting'}${video?.prompt ? `: ${video.prompt}` : ''}` : '';
  if (task.textContent !== words) task.replaceChildren(job ? h('a', {href: `#/${job}`}, words) : '');
  const error = lastError(w.name);
  setText($('.last-error', el),
    error ? `Last error, ${ago(error.ended_at)}: ${error.message ?? error.code ?? error.outcome}` : '');
  const tally = [`heard from ${ago(w.seen_at)}`, `${plural(w.tasks_done, 'task')} done`];
  if (w.tasks_failed) tally.push(`${w.tasks_failed} failed`);
  setTime($('.seen', el), w.seen_at, tally.join(', '));
  $('.drain', el).hidden = !['idle', 'busy'].includes(state);
}

/* ---- figures ---- */

function columns(figure, values, words) {
  const top = Math.max(...values, 0);
  figure.hidden = !values.length || !top;
  keyed($('.columns', figure), values.map((value, i) => ({id: i, value})), () => h('i', {}), (el, {id, value}) => {
    setVars(el, {'--h': top ? (value / top).toFixed(3) : 0});
    el.title = words(value, id);
  });
  const most = top >= 10 ? Math.round(top) : top.toFixed(2);
  figure.setAttribute('aria-label', `${$('figcaption', figure).textContent}: at most ${most}`);
}

function updateFigures() {
  const now = nowSeconds(), hour = 3600, ended = (done ?? []).filter(v => v.state === 'completed');
  const lastHour = ended.filter(v => now - endOf(v) < hour).length;
  const paces = ended.filter(v => workSeconds(v) && v.num_frames).map(v => workSeconds(v) / v.num_frames);
  const middle = [...paces].sort((a, b) => a - b)[paces.length >> 1];
  const waits = ended.filter(v => v.started_at).map(v => v.started_at - v.created_at).sort((a, b) => a - b);
  const wait = waits[waits.length >> 1];
  const facts = [['in the last hour', `${lastHour}`], ['waiting', farm.waitingTotal.toLocaleString('en')],
    ['per frame', middle ? duration(middle) : '–'], ['usual wait', wait == null ? '–' : duration(wait)]];
  keyed($('#figures'), facts.map(([id, value]) => ({id, value})), f => h('div', {}, h('dd', {}), h('dt', {}, f.id)),
    (el, f) => setText($('dd', el), f.value));
  const hours = Array(12).fill(0);
  for (const v of ended) {
    const i = 11 - Math.floor((now - endOf(v)) / hour);
    if (i >= 0 && i < 12) hours[i]++;
  }
  columns($('#hours'), hours, (n, i) => `${clock(now - (12 - i) * hour)} to ${clock(now - (11 - i) * hour)}: ${n}`);
  columns($('#pace'), paces.slice(0, 60).reverse(), s => `${s.toFixed(3)} s per frame`);
  const sums = {};
  for (const [stage, s] of ended.flatMap(v => Object.entries(v.stage_durations))) {
    if (stage !== 'queue') sums[stage] = (sums[stage] ?? 0) + s;
  }
  const total = Object.values(sums).reduce((a, b) => a + b, 0);
  const parts = Object.entries(sums).filter(([, s]) => s / total >= 0.005).map(([id, s]) => ({id, share: s / total}));
  $('#shares').hidden = !total;
  keyed($('#shares .share-bar'), parts, p => h('i', {class: `st-${p.id}`}), (el, p) => {
    setVars(el, {'--share': grow(p.share)});
    el.title = `${stageWords(p.id)}: ${Math.round(100 * p.share)} %`;
  });
  keyed($('#shares .legend'), parts, p => h('span', {}, h('i', {class: `st-${p.id}`}), h('span', {})),
    (el, p) => setText(el.lastElementChild, `${stageName(p.id)} ${Math.round(100 * p.share)} %`));
}

export function update() {
  if (!shown) return;
  keyed($('#workers'), workers, createWorker, updateWorker);
  const none = $('#no-workers');
  none.hidden = workers.length > 0;
  setText(none, `No worker has come yet. Start one: framefarm-worker --server ${location.origin} --models DIR`);
  updateFigures();
  setText($('#version'), version ? `framefarm ${version}` : '');
}
