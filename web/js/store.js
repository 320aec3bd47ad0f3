/* What the page knows of the farm, and how it keeps knowing: one place that asks, everyone else listens.
 * Server-sent events when the farm offers them, otherwise polling; a lost line is retried ever more slowly and nothing
 * on the page moves meanwhile.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';

const WAITING_PAGE = 50;
const POLL_MS = 1500, POLL_HIDDEN_MS = 15000, POLL_WITH_EVENTS_MS = 15000, MODELS_MS = 15000;
const BACKOFF_MS = [1000, 2000, 4000, 8000, 15000];

export const farm = {
  ready: false,             // the first answer has come
  link: {ok: true, retryAt: 0},
  queue: {paused: false},
  models: [],
  running: [],              // Videos in progress, oldest first
  waiting: [],              // Videos waiting, in the farm's order; the first few
  waitingTotal: 0,
};

const listeners = {change: new Set(), finished: new Set(), deleted: new Set()};
export const on = (what, fn) => listeners[what].add(fn);

let announced = false;
function changed() {
  if (announced) return;
  announced = true;
  queueMicrotask(() => {
    announced = false;
    for (const fn of listeners.change) fn();
  });
}

export const FINISHED = ['completed', 'failed', 'cancelled'];
export const endOf = v => v.finished_at ?? v.completed_at;
export const lengthOf = v => v.num_frames / 16;
export const isFinished = v => FINISHED.includes(v.state);
export const model = name => farm.models.find(m => m.id === name) ?? farm.models[0];

/* A Video that came in by any way: an event, an answer to a click. True when it moved between lists. */
export function accept(v) {
  const state = v.state;
  const before = farm.running.find(j => j.id === v.id) ?? farm.waiting.find(j => j.id === v.id);
  const moved = !before || before.state !== state || before.queue_position !== v.queue_position;
  if (!moved) Object.assign(before, v);
  else {
    farm.running = farm.running.filter(j => j.id !== v.id);
    farm.waiting = farm.waiting.filter(j => j.id !== v.id);
    if (state === 'in_progress') farm.running = [...farm.running, v].sort(byStart);
    else if (state === 'queued') farm.waiting = [...farm.waiting, v].sort(byPosition).slice(0, WAITING_PAGE);
    else for (const fn of listeners.finished) fn([v]);
    farm.waitingTotal = Math.max(farm.waitingTotal, farm.waiting.length); // until the farm counts anew
  }
  changed();
  return moved;
}

/* What the farm will make of a move, shown before it answers: a person's jobs change their order within the places that
 * the person has. place: {before: id} or {after: id}. */
export function reorder(job, place) {
  const own = farm.waiting.filter(v => v.user === job.user && v.id !== job.id);
  own.splice(own.findIndex(v => v.id === (place.before ?? place.after)) + (place.after ? 1 : 0), 0, job);
  const places = farm.waiting.map(v => v.queue_position);
  farm.waiting = farm.waiting.map(v => v.user === job.user ? own.shift() : v);
  farm.waiting.forEach((v, i) => v.queue_position = places[i]);
  changed();
}

export function forget(id) {
  farm.running = farm.running.filter(j => j.id !== id);
  farm.waiting = farm.waiting.filter(j => j.id !== id);
  changed();
}

const byStart = (a, b) => (a.started_at ?? 0) - (b.started_at ?? 0) || (a.id < b.id ? -1 : 1);
const byPosition = (a, b) => (a.queue_position ?? 1e9) - (b.queue_position ?? 1e9) || (a.id < b.id ? -1 : 1);

function takeQueue(queue) {
  farm.queue = queue;
  farm.waitingTotal = Math.max(queue.jobs?.queued ?? 0, farm.waiting.length);
}

/* ---- asking ---- */

let modelsAt = 0;
let endedBefore = null; // how many jobs had ended when last asked
let wake = () => {}, hurried = false, eventsOpen = false, failures = 0, lastRefresh = 0;

/* Something changed: ask soon, but not more than about once a second. */
export function hurry() {
  hurried = true;
  wake();
}

/* Those that a living worker has come first, so that one of them is chosen unless a person chooses. */
async function refreshModels() {
  modelsAt = Date.now();
  const {data} = await api.models();
  farm.models = data.sort((a, b) => (b.workers > 0) - (a.workers > 0));
}

async function refresh() {
  const [running, waiting, queue] = await Promise.all([
    api.list({status: 'in_progress', order: 'asc', limit: 100}),
    api.list({status: 'queued', order: 'queue', limit: WAITING_PAGE}),
    api.queue(),
  ]);
  const seen = new Set([...running.data, ...waiting.data].map(v => v.id));
  const before = farm.waiting.length < WAITING_PAGE ? [...farm.running, ...farm.waiting] : farm.running;
  const gone = before.filter(v => !seen.has(v.id));
  const ended = FINISHED.reduce((sum, state) => sum + (queue.jobs?.[state] ?? 0), 0);
  const more = ended !== endedBefore && endedBefore !== null;
  endedBefore = ended;
  farm.running = running.data.sort(byStart);
  farm.waiting = waiting.data.sort(byPosition);
  takeQueue(queue);
  farm.ready = true;
  if (!farm.models.length || Date.now() - modelsAt > MODELS_MS) await refreshModels();
  changed();
  /* Their last word (completed or failed, with what) is not in these lists any more; some came and went unseen. */
  const last = await Promise.all(gone.slice(0, 20).map(v => api.one(v.id).catch(() => null)));
  if (more) last.push(...(await api.list({status: FINISHED.join(','), limit: 20})).data);
  const finished = last.filter(v => v && isFinished(v));
  if (finished.length) for (const fn of listeners.finished) fn(finished);
}

export async function start() {
  document.addEventListener('visibilitychange', () => document.hidden || hurry());
  addEventListener('online', hurry);
  followEvents();
  for (;;) {
    hurried = false;
    let delay;
    try {
      await refresh();
      setLink(true, 0);
      failures = 0;
      delay = document.hidden ? POLL_HIDDEN_MS : eventsOpen ? POLL_WITH_EVENTS_MS : POLL_MS;
    } catch (e) {
      if (!(e instanceof api.ApiError)) console.error(e);
      delay = BACKOFF_MS[Math.min(failures++, BACKOFF_MS.length - 1)];
      setLink(false, Date.now() + delay, e);
    }
    lastRefresh = Date.now();
    await new Promise(resolve => {
      const timer = setTimeout(resolve, delay);
      wake = () => {
        if (!hurried) return;
        clearTimeout(timer);
        setTimeout(resolve, Math.max(0, lastRefresh + 800 - Date.now()));
      };
      if (hurried) wake();
    });
  }
}

function setLink(ok, retryAt, error = null) {
  farm.link = {ok, retryAt, error};
  changed();
}

const when = test => new Promise(resolve => {
  const look = () => {
    if (!test()) return;
    document.removeEventListener('visibilitychange', look);
    resolve();
  };
  document.addEventListener('visibilitychange', look);
  look();
});

/* A page that nobody sees lets go of its stream: browsers keep six connections per farm, and pages in other tabs or
 * behind the back button would use them up until none is left for the one in sight. */
async function followEvents() {
  let lastId = null, wait = 1000, unseen = null;
  for (;;) {
    await when(() => !document.hidden);
    if (!unseen || unseen.signal.aborted) {
      const mine = unseen = new AbortController();
      when(() => document.hidden).then(() => mine.abort());
    }
    try {
      await api.events(lastId, unseen.signal, () => (eventsOpen = true, wait = 1000, hurry()), event => {
        lastId = event.id ?? lastId;
        takeEvent(event);
      });
    } catch (e) {
      /* A farm without events is polled for good; anything else may come back. */
      if (e instanceof api.ApiError && [404, 405, 501].includes(e.status)) return;
    }
    if (eventsOpen) hurry();
    eventsOpen = false;
    if (unseen.signal.aborted) continue;
    await new Promise(resolve => setTimeout(resolve, wait));
    wait = Math.min(15000, wait * 2);
  }
}

function takeEvent(event) {
  let data;
  try {
    data = JSON.parse(event.data);
  } catch {
    return;
  }
  if (event.type === 'video') {
    if (accept(data)) hurry();
  } else if (event.type === 'video.deleted') {
    forget(data.id);
    for (const fn of listeners.deleted) fn(data.id);
  } else if (event.type === 'queue') {
    takeQueue(data);
    changed();
  } else if (event.type === 'reset') hurry();
}
