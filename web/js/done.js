/* Finished jobs as a grid of tiles (tile.js), narrowed by filters (filters.js). Fetched page by page while scrolling;
 * only the rows near the window are in the document, so ten thousand cost what sixty do.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, keyed, setText, setVars} from './dom.js';
import {explainCall} from './failure.js';
import {failedQuery, isFiltered, isNarrowed, matches, meet, query, showsOnlyFailed, startFilters, words} from './filters.js';
import {plural} from './format.js';
import {learn} from './stages.js';
import {accept, farm, forget, hurry, isFinished, on} from './store.js';
import {createTile, updateTile} from './tile.js';
import {isPending, later, say, undo} from './undo.js';

const PAGE = 60, TILE_MIN = 210, GAP = 16, CAPTION = 62, MARGIN_SCREENS = 1.5;
const grid = $('#grid'), list = $('#grid ol');
const arrivals = []; // finished while a page was being fetched
let items = [], cursor = null, more = true, busy = false, generation = 0, loaded = false, problem = null;

export const hasDone = () => loaded && items.length > 0;
export const isLoaded = () => loaded;
export const doneVideo = id => items.find(v => v.id === id);

/* ---- the list ---- */

async function loadMore() {
  if (busy || !more) return;
  busy = true;
  problem = null;
  const mine = generation;
  try {
    const page = await api.list({...query(), limit: PAGE, after: cursor});
    if (mine !== generation) return;
    meet(page.data);
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
  const best = videos.find(v => v.state === 'completed' && v.stage_durations);
  if (best) learn(best);
};

/* Newly finished: into its place by age, unless that lies beyond what has been loaded. Ids sort by age. */
function take(videos) {
  learnFrom(videos);
  meet(videos);
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

/* ---- all failed ones again ---- */

const RETRY_ALL = 'retry-all', BUTTON_FROM = 2; // one alone has its own button

/* How many there are, as far as is known: [n, are there more]. The farm counts all jobs, not what a token may see. */
function failed() {
  if (!failedQuery()) return [0, false];
  if (!isNarrowed() && !api.hasToken()) return [farm.queue.jobs?.failed ?? 0, false];
  return showsOnlyFailed() ? [items.length, more] : [0, false];
}

function updateRetryAll() {
  const [n, beyond] = failed(), button = $('#retry-all');
  button.hidden = n < BUTTON_FROM;
  button.disabled = isPending(RETRY_ALL);
  setText(button, `Retry all failed (${n.toLocaleString('en')}${beyond ? '+' : ''})`);
}

/* A call takes ten thousand, oldest first; those whose files have expired are passed over. */
async function sendRetries(filter, [n, beyond], options) {
  let retried = 0, answer;
  do {
    answer = await api.retryAll(filter, options);
    retried += answer.retried;
  } while (answer.has_more && answer.retried);
  const left = beyond ? 0 : n - retried;
  say(`${retried ? plural(retried, 'video') : 'None'} queued again${
    left > 0 ? `; the files of ${plural(left, 'other')} have expired` : ''}.`);
  restart();
  hurry();
}

function retryAll() {
  const filter = failedQuery(), count = failed();
  later(RETRY_ALL, options => sendRetries(filter, count, options), updateDone);
  updateDone();
  say(`Retrying ${count[1] ? 'all failed' : plural(count[0], 'failed video')}.`, 'Undo', () => undo(RETRY_ALL));
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
  keyed(list, shown.slice(first * columns, Math.max(first + 1, last) * columns), v => createTile(v, retry),
    updateTile, v => `${v.id}.${v.state}`);
  if (top + innerHeight + margin > rows * rowHeight && loaded && !problem) loadMore();
  return shown;
}

export function updateDone() {
  $('#done').hidden = !(items.length || isFiltered());
  updateRetryAll();
  const shown = place();
  const none = !busy && !problem && !shown.length;
  setText($('#done-end'), problem ? `${explainCall(problem)} Scroll to try again.` : busy ? 'Looking…'
    : none ? `No ${words()}.` : !more && shown.length > 12 ? `That is all: ${plural(shown.length, 'video')}.` : '');
  $('#show-all').hidden = !none || !isFiltered();
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
  $('#retry-all').addEventListener('click', retryAll);
  addEventListener('scroll', soon, {passive: true});
  new ResizeObserver(soon).observe(grid);
  startFilters(restart);
}

/* Called when the farm has answered: the first page, or another try after the line was lost. */
export function ensureDone() {
  if ((!loaded || problem) && !busy) loadMore();
}
