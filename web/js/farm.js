/* The farm page: workers and what they do, how fast work goes through, where its time goes. Loaded when first opened.
 * Figures come from the last hundred completed jobs, so the page costs the farm one list.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, keyed, setText, setVars} from './dom.js';
import {explainCall} from './failure.js';
import {ago, clock, duration, gib, nowSeconds, setTime, stageName, stageWords} from './format.js';
import {farm, on} from './store.js';
import {say} from './undo.js';

const root = $('#farm');
const POLL_MS = 3000;
let shown = false, timer = 0, done = [], workers = [], version = '', built = false;

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
  done = [...videos.filter(v => v.status === 'completed'), ...done].slice(0, 100);
  update();
});

async function poll() {
  clearTimeout(timer);
  try {
    const [w, list, health] = await Promise.all([api.workers(), done.length ? null : api.list({status: 'completed', limit: 100}),
                                                 version ? null : api.health().catch(() => ({}))]);
    workers = w.data ?? [];
    if (list) done = list.data;
    if (health) version = health.version ?? workers[0]?.build ?? '';
  } catch {
    /* The line above the page already says that the farm is out of reach. */
  }
  update();
  if (shown) timer = setTimeout(poll, POLL_MS);
}

function build() {
  if (built) return;
  built = true;
  root.replaceChildren(
    h('section', {'aria-labelledby': 'workers-title'}, h('h2', {id: 'workers-title'}, 'Workers'),
      h('ul', {class: 'plain workers', id: 'workers'}), h('p', {class: 'faint', id: 'no-workers', hidden: true})),
    h('section', {'aria-labelledby': 'figures-title'}, h('h2', {id: 'figures-title'}, 'Throughput'),
      h('dl', {class: 'figures', id: 'figures'}),
      h('figure', {class: 'chart', id: 'hours'}, h('figcaption', {}, 'Videos completed per hour'), h('div', {class: 'columns'})),
      h('figure', {class: 'chart', id: 'pace'}, h('figcaption', {}, 'Seconds of work per frame, last jobs'), h('div', {class: 'columns'})),
      h('figure', {class: 'chart', id: 'shares'}, h('figcaption', {}, 'Where the time goes'), h('div', {class: 'share-bar'}), h('p', {class: 'legend'}))),
    h('p', {class: 'faint', id: 'version'}));
}

/* ---- workers ---- */

function createWorker(w) {
  return h('li', {class: 'worker'},
    h('div', {class: 'worker-head'}, h('strong', {}, w.name ?? w.id), h('span', {class: 'badge'})),
    h('p', {class: 'faint device'}), h('p', {class: 'task'}), h('p', {class: 'last-error'}),
    h('p', {class: 'worker-foot'}, h('span', {class: 'seen faint'}),
      h('button', {type: 'button', class: 'quiet drain', title: 'Finish what it has, take nothing new', onclick: async () => {
        try {
          await api.drain(w.id);
          poll();
        } catch (e) {
          say(explainCall(e));
        }
      }}, 'Drain')));
}

const WORKER_WORDS = {idle: 'idle', busy: 'at work', draining: 'draining', lost: 'lost', gone: 'gone', left: 'left'};

function updateWorker(el, w) {
  const state = w.state ?? (w.task ? 'busy' : 'idle'), d = w.device ?? {};
  el.dataset.state = state;
  setText($('.badge', el), WORKER_WORDS[state] ?? state);
  const models = (w.models ?? []).map(m => m.title ?? m.name ?? m).join(', ');
  setText($('.device', el), [d.name, d.memory_bytes ? gib(d.memory_bytes) : null, d.precision,
    d.temperature_c ? `${Math.round(d.temperature_c)} °C` : null, models].filter(Boolean).join(' · '));
  const task = $('.task', el), job = w.task?.job_id ?? w.task?.task_id?.split('.')[0];
  const prompt = farm.running.find(v => v.id === job)?.prompt;
  const words = job ? `${stageWords(w.task.stage) || 'starting'}${prompt ? `: ${prompt}` : ''}` : '';
  if (task.textContent !== words) task.replaceChildren(job ? h('a', {href: `#/${job}`}, words) : '');
  const error = typeof w.last_error === 'string' ? {message: w.last_error} : w.last_error;
  setText($('.last-error', el), error ? `Last error${error.at ? ` (${ago(error.at)})` : ''}: ${error.message ?? error.code}` : '');
  setTime($('.seen', el), w.last_seen_at, w.last_seen_at ? `heard from ${ago(w.last_seen_at)}` : '');
  $('.drain', el).hidden = !['idle', 'busy'].includes(state);
}

/* ---- figures ---- */

const workSeconds = v => Object.entries(v.stage_durations ?? {}).reduce((sum, [stage, s]) => stage === 'queue' ? sum : sum + s, 0);

function columns(figure, values, words) {
  const top = Math.max(...values, 0);
  figure.hidden = !values.length || !top;
  keyed($('.columns', figure), values.map((value, i) => ({id: i, value})), () => h('i', {}), (el, {id, value}) => {
    setVars(el, {'--h': top ? (value / top).toFixed(3) : 0});
    el.title = words(value, id);
  });
  figure.setAttribute('aria-label', `${$('figcaption', figure).textContent}: at most ${top >= 10 ? Math.round(top) : top.toFixed(2)}`);
}

function updateFigures() {
  const now = nowSeconds(), hour = 3600, ended = done.filter(v => v.completed_at);
  const lastHour = ended.filter(v => now - v.completed_at < hour).length;
  const paces = ended.filter(v => workSeconds(v) && v.num_frames).map(v => workSeconds(v) / v.num_frames);
  const middle = [...paces].sort((a, b) => a - b)[paces.length >> 1];
  const waits = ended.filter(v => v.started_at).map(v => v.started_at - v.created_at).sort((a, b) => a - b);
  const facts = [['in the last hour', `${lastHour}`], ['waiting', farm.waitingTotal.toLocaleString('en')],
    ['per frame', middle ? duration(middle) : '–'], ['usual wait', waits.length ? duration(waits[waits.length >> 1]) : '–']];
  keyed($('#figures'), facts.map(([id, value]) => ({id, value})), f => h('div', {}, h('dd', {}), h('dt', {}, f.id)),
    (el, f) => setText($('dd', el), f.value));
  const hours = Array(12).fill(0);
  for (const v of ended) {
    const i = 11 - Math.floor((now - v.completed_at) / hour);
    if (i >= 0 && i < 12) hours[i]++;
  }
  columns($('#hours'), hours, (n, i) => `${clock(now - (12 - i) * hour)} to ${clock(now - (11 - i) * hour)}: ${n}`);
  columns($('#pace'), paces.slice(0, 60).reverse(), s => `${s.toFixed(3)} s per frame`);
  const sums = {};
  for (const v of ended) for (const [stage, s] of Object.entries(v.stage_durations ?? {})) if (stage !== 'queue') sums[stage] = (sums[stage] ?? 0) + s;
  const total = Object.values(sums).reduce((a, b) => a + b, 0);
  const parts = Object.entries(sums).filter(([, s]) => s / total >= 0.005).map(([id, s]) => ({id, share: s / total}));
  $('#shares').hidden = !total;
  keyed($('#shares .share-bar'), parts, p => h('i', {class: `st-${p.id}`}), (el, p) => {
    setVars(el, {'--share': p.share.toFixed(4)});
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
  setText(none, `No worker has come yet. Start one: framefarm-worker --server ${location.origin} --models models --device auto`);
  updateFigures();
  setText($('#version'), version ? `framefarm ${version}` : '');
}
