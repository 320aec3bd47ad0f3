/* The farm page's figures: how much goes through, at what pace, where the time goes, how much disk is left. Every number
 * says its exact value when pointed at.
 * SPDX-License-Identifier: Apache-2.0 */
import {$, h, keyed, setText, setVars} from './dom.js';
import {bytes, clock, duration, plural, size, stageName, stageWords} from './format.js';
import {grow, workSeconds} from './stages.js';
import {endOf, farm} from './store.js';

export const HOURS = 24;
const PACES = 60;

const columnChart = (id, caption, from, to) => h('figure', {class: 'chart', id},
  h('figcaption', {}, caption, h('span', {class: 'most'})), h('div', {class: 'columns', 'aria-hidden': 'true'}),
  h('p', {class: 'ends faint'}, h('span', {}, from), h('span', {}, to)));

export const figuresSection = () => h('section', {'aria-labelledby': 'figures-title'},
  h('h2', {id: 'figures-title'}, 'Throughput'),
  h('dl', {class: 'figures', id: 'figures'}),
  columnChart('hours', 'Videos completed per hour', `${HOURS} hours ago`, 'this hour'),
  columnChart('pace', 'Seconds of work per frame', 'earlier jobs', 'last job'),
  h('figure', {class: 'chart', id: 'shares'}, h('figcaption', {}, 'Where the time goes'),
    h('div', {class: 'share-bar'}), h('p', {class: 'legend'})));

export const diskSection = () => h('section', {'aria-labelledby': 'disk-title', id: 'disk', hidden: true},
  h('h2', {id: 'disk-title'}, 'Disk'), h('dl', {class: 'figures'}));

const median = numbers => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
const exactBytes = n => `${n.toLocaleString('en')} bytes`;

/* facts: [what, value, exact value] */
function showFacts(list, facts) {
  keyed(list, facts.map(([id, value, title]) => ({id, value, title})), f => h('div', {}, h('dd', {}), h('dt', {}, f.id)),
    (el, f) => {
      setText($('dd', el), f.value);
      if (f.title) el.title = f.title;
    });
}

/* bars: [{id, value, title}] */
function showColumns(figure, bars) {
  const top = Math.max(...bars.map(b => b.value), 0);
  figure.hidden = !top;
  keyed($('.columns', figure), bars, () => h('i', {}), (el, {value, title}) => {
    setVars(el, {'--h': top ? (value / top).toFixed(3) : 0});
    el.title = title;
  });
  setText($('.most', figure), `, at most ${Number.isInteger(top) ? top : top.toFixed(2)}`);
}

/* hours: {start_at, completed, failed, cancelled} each, as the farm counted them. */
function showHours(hours) {
  const words = (x, last) => [`${last ? 'since ' : ''}${clock(x.start_at)}${last ? '' : ` to ${clock(x.start_at + 3600)}`}: `
    + plural(x.completed, 'video'), x.failed && `${x.failed.toLocaleString('en')} failed`].filter(Boolean).join(', ');
  showColumns($('#hours'), hours.map((x, i) =>
    ({id: x.start_at, value: x.completed, title: words(x, i === hours.length - 1)})));
}

const paceOf = v => workSeconds(v) / v.num_frames;

function showPaces(ended) {
  const words = v => [`${clock(endOf(v))}: ${paceOf(v).toFixed(3)} s per frame`, size(v), plural(v.num_frames, 'frame')];
  showColumns($('#pace'), ended.slice(0, PACES).reverse().map(v =>
    ({id: v.id, value: paceOf(v), title: words(v).join(', ')})));
}

function showShares(ended) {
  const sums = {};
  for (const [stage, s] of ended.flatMap(v => Object.entries(v.stage_durations))) {
    if (stage !== 'queue') sums[stage] = (sums[stage] ?? 0) + s;
  }
  const total = Object.values(sums).reduce((a, b) => a + b, 0);
  const parts = Object.entries(sums).map(([id, s]) =>
    ({id, share: s / total, title: `${stageWords(id)}: ${(100 * s / total).toFixed(2)} %, ${duration(s)}`}))
    .filter(p => p.share >= 0.005);
  $('#shares').hidden = !total;
  keyed($('#shares .share-bar'), parts, p => h('i', {class: `st-${p.id}`}), (el, p) => {
    setVars(el, {'--share': grow(p.share)});
    el.title = p.title;
  });
  keyed($('#shares .legend'), parts, p => h('span', {}, h('i', {class: `st-${p.id}`}), h('span', {})), (el, p) => {
    setText(el.lastElementChild, `${stageName(p.id)} ${Math.round(100 * p.share)} %`);
    el.title = p.title;
  });
}

function showDisk() {
  const {disk} = farm.queue;
  $('#disk').hidden = !disk?.free_bytes;
  if (!disk?.free_bytes) return;
  $('#disk').classList.toggle('low', disk.low);
  showFacts($('#disk .figures'), [
    [disk.low ? 'free: too little to go on' : 'free', bytes(disk.free_bytes), exactBytes(disk.free_bytes)],
    ['set aside for accepted jobs', bytes(disk.reserved_bytes), exactBytes(disk.reserved_bytes)],
    ['kept free', bytes(disk.floor_bytes), exactBytes(disk.floor_bytes)]]);
}

/* videos: finished ones, newest first. */
export function updateFigures(videos, hours) {
  const ended = videos.filter(v => v.state === 'completed' && workSeconds(v) && v.num_frames);
  const hour = farm.queue.last_hour ?? {completed: 0, failed: 0, cancelled: 0};
  const pace = median(ended.map(paceOf));
  const wait = median(ended.filter(v => v.started_at).map(v => v.started_at - v.created_at));
  showFacts($('#figures'), [
    ['in the last hour', hour.completed.toLocaleString('en'), `${hour.failed} failed, ${hour.cancelled} cancelled`],
    ['waiting', farm.waitingTotal.toLocaleString('en'), plural(farm.waitingTotal, 'job')],
    ['per frame', pace ? duration(pace) : '–', pace ? `${pace.toFixed(3)} s` : null],
    ['usual wait', wait == null ? '–' : duration(wait), wait == null ? null : `${wait} s`]]);
  showHours(hours);
  showPaces(ended);
  showShares(ended);
  showDisk();
}
