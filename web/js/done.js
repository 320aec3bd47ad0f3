/* Finished jobs as a grid of posters. Fetched page by page while scrolling; only the rows near the window are in the
 * document, so ten thousand cost what sixty do. Posters play while pointed at or focused.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, icon, keyed, setText, setVars} from './dom.js';
import {explain, explainCall} from './failure.js';
import {ago, duration, exact, plural, setTime, size} from './format.js';
import {learn} from './stages.js';
import {FINISHED, accept, endOf, forget, hurry, isFinished, lengthOf, on, stateOf} from './store.js';
import {isPending, later, say, undo} from './undo.js';

const PAGE = 60, TILE_MIN = 210, GAP = 16, CAPTION = 62, MARGIN_SCREENS = 1.5;
const grid = $('#grid'), list = $('#grid ol'), calm = matchMedia('(prefers-reduced-motion: reduce)');
const arrivals = []; // finished while a page was being fetched
let items = [], cursor = null, more = true, busy = false, generation = 0, loaded = false, problem = null;
const filter = {status: '', q: ''};

export const hasDone = () => loaded && items.length > 0;
export const isLoaded = () => loaded;
export const isFiltered = () => Boolean(filter.status || filter.q);
export const doneVideo = id => items.find(v => v.id === id);

/* ---- the list ---- */

async function loadMore() {
  if (busy || !more) return;
  busy = true;
  problem = null;
  const mine = generation;
  try {
    const page = await api.list({status: filter.status || FINISHED.join(','), q: filter.q, limit: PAGE, after: cursor});
    if (mine !== generation) return;
    const known = new Set(items.map(v => v.id));
    items.push(...page.data.filter(v => isFinished(v) && !known.has(v.id)));
    cursor = page.last_id;
    more = Boolean(page.has_more && page.last_id);
    if (!loaded) learnFrom(page.data);
    loaded = true;
  } catch (e) {
    /* The job that the last page ended with is deleted: go on behind the one before it. */
    if (e.status === 404 && cursor) cursor = items.findLast(v => v.id !== cursor)?.id ?? null;
    problem = e;
  } finally {
    if (mine === generation) busy = false;
    take(arrivals.splice(0));
  }
}

const learnFrom = videos => {
  const best = videos.find(v => stateOf(v) === 'completed' && v.stage_durations);
  if (best) learn(best);
};

const matches = v => (!filter.status || stateOf(v) === filter.status)
  && (!filter.q || (v.prompt ?? '').toLowerCase().includes(filter.q.toLowerCase()));

/* Newly finished: into its place by age, unless that lies beyond what has been loaded. Ids sort by age. */
function take(videos) {
  learnFrom(videos);
  /* The page that is on its way may have been read before this job ended: wait for it. */
  if (busy) return void arrivals.push(...videos);
  for (const v of videos) {
    items = items.filter(j => j.id !== v.id);
    if (!matches(v)) continue;
    const at = items.findIndex(j => j.id < v.id);
    if (at >= 0) items.splice(at, 0, v);
    else if (!more) items.push(v);
  }
  updateDone();
}

function restart() {
  generation++;
  items = [];
  cursor = null;
  more = true;
  busy = false;
  updateDone();
  loadMore();
}

export async function retry(id) {
  try {
    const v = await api.retry(id);
    items = items.filter(j => j.id !== id);
    accept(v);
    updateDone();
    hurry();
  } catch (e) {
    say(explainCall(e));
  }
}

export function removeLater(id) {
  later(id, async options => {
    await api.remove(id, options);
    items = items.filter(j => j.id !== id);
    forget(id);
    updateDone();
  }, updateDone);
  updateDone();
  say('Deleted.', 'Undo', () => undo(id));
}

/* ---- tiles ---- */

function createTile(v) {
  const state = stateOf(v);
  const tile = h('li', {class: `tile is-${state}`});
  if (state === 'completed') {
    tile.append(h('a', {href: `#/${v.id}`, class: 'tile-link', 'aria-label': v.prompt ?? 'Video'},
      h('span', {class: `poster ${v.width > v.height ? '' : 'whole'}`},
        h('img', {src: api.contentUrl(v.id, 'thumbnail'), alt: '', loading: 'lazy', decoding: 'async'}),
        h('span', {class: 'length'}, `${lengthOf(v).toFixed(1)} s`))));
    for (const [start, stop] of [['mouseenter', 'mouseleave'], ['focusin', 'focusout']]) {
      tile.addEventListener(start, () => play(tile, v));
      tile.addEventListener(stop, () => stopPlaying(tile));
    }
  } else {
    const why = explain(v.error);
    tile.append(h('a', {href: `#/${v.id}`, class: 'tile-link', 'aria-label': `${why.title}: ${v.prompt ?? ''}`},
      h('span', {class: 'poster words'},
        h('strong', {}, why.title),
        state === 'failed' && h('span', {}, why.message || why.advice))),
    h('button', {type: 'button', class: 'quiet retry', onclick: () => retry(v.id)}, icon('again'), 'Retry'));
  }
  tile.append(h('p', {class: 'title', title: v.prompt ?? ''}, v.prompt ?? 'Without a prompt'),
    h('p', {class: 'faint'}, h('time', {}), h('span', {class: 'took'})));
  return tile;
}

function updateTile(tile, v) {
  const at = endOf(v) ?? v.created_at;
  setTime($('time', tile), at, ago(at));
  const took = v.completed_at && v.started_at && stateOf(v) === 'completed' ? v.completed_at - v.started_at : null;
  setText($('.took', tile), took == null ? '' : `made in ${duration(took).replace('.0 s', ' s')}`);
  $('.took', tile).title = `${size(v)}, ${plural(v.num_frames, 'frame')}; created ${exact(v.created_at)}`;
}

/* The video lies over the poster, so nothing flashes while it loads. */
function play(tile, v) {
  if (calm.matches || $('video', tile)) return;
  const src = api.contentUrl(v.id, 'video');
  const video = h('video', {src, muted: true, loop: true, playsinline: true, tabindex: -1});
  $('.poster', tile).append(video);
  video.play().catch(() => {});
}

function stopPlaying(tile) {
  const video = $('video', tile);
  if (!video || tile.matches(':hover') || tile.contains(document.activeElement)) return;
  video.pause();
  video.removeAttribute('src');
  video.load();
  video.remove();
}

/* ---- the window onto the list ---- */

function place() {
  const shown = items.filter(v => !isPending(v.id));
  const width = grid.clientWidth;
  if (!width) return shown;
  const columns = Math.max(2, Math.floor((width + GAP) / (TILE_MIN + GAP)));
  const tileWidth = (width - GAP * (columns - 1)) / columns;
  const rowHeight = Math.round(tileWidth * 2 / 3 + CAPTION + GAP);
  const rows = Math.ceil(shown.length / columns);
  const top = -grid.getBoundingClientRect().top, margin = MARGIN_SCREENS * innerHeight;
  const first = Math.max(0, Math.min(rows - 1, Math.floor((top - margin) / rowHeight)));
  const last = Math.min(rows, Math.ceil((top + innerHeight + margin) / rowHeight));
  setVars(grid, {'--columns': columns, '--row': `${rowHeight - GAP}px`, '--height': `${rows * rowHeight}px`,
                 '--offset': `${first * rowHeight}px`});
  keyed(list, shown.slice(first * columns, Math.max(first + 1, last) * columns), createTile, updateTile,
    v => `${v.id}.${stateOf(v)}`);
  if (top + innerHeight + margin > rows * rowHeight && loaded && !problem) loadMore();
  return shown;
}

export function updateDone() {
  $('#done').hidden = !(items.length || isFiltered());
  const shown = place();
  const noun = filter.status || 'finished';
  setText($('#done-end'), problem ? `${explainCall(problem)} Scroll to try again.`
    : busy ? 'Looking…' : !shown.length ? `No ${noun} video${filter.q ? ` says “${filter.q}”` : ' yet'}.`
    : more ? '' : shown.length > 12 ? `That is all: ${plural(shown.length, 'video')}.` : '');
}

export function startDone() {
  on('finished', take);
  on('deleted', id => {
    items = items.filter(v => v.id !== id);
    updateDone();
  });
  let asked = false;
  const soon = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      place();
      if (problem) loadMore();
    });
  };
  addEventListener('scroll', soon, {passive: true});
  new ResizeObserver(soon).observe(grid);
  for (const el of document.getElementsByName('done-state')) {
    el.addEventListener('change', () => (filter.status = el.value, restart()));
  }
  let timer;
  $('#done-search').addEventListener('input', e => {
    clearTimeout(timer);
    timer = setTimeout(() => (filter.q = e.target.value.trim(), restart()), 250);
  });
}

/* Called when the farm has answered: the first page, or another try after the line was lost. */
export function ensureDone() {
  if ((!loaded || problem) && !busy) loadMore();
}
