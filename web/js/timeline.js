/* Where the time went: stages as bars on one axis, a row per segment and attempt, then the numbers in a table.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {h} from './dom.js';
import {duration, stageName, stageWords} from './format.js';

const TINTED = ['high_noise', 'low_noise', 'decode', 'interpolate'];
const ORDER = ['load', 'text', 'encode_image', ...TINTED, 'encode', 'upload', 'assemble'];

export async function drawTimeline(section, v) {
  let rows;
  try {
    const answer = await api.timings(v.id);
    /* The task after the last segment joins them. */
    rows = answer.data.filter(r => r.stage !== 'queue').map(r => ({...r, segment: v.segments[r.task] ? r.task : null}));
  } catch (e) {
    section.replaceChildren(h('h2', {}, 'Timeline'), h('p', {class: 'faint'}, `No timings: ${e.message}`));
    return;
  }
  const tracks = makeTracks(rows, v);
  if (!tracks.length) {
    section.replaceChildren(h('h2', {}, 'Timeline'), h('p', {class: 'faint'}, 'Nothing to time yet.'));
    return;
  }
  const start = Math.min(...tracks.flatMap(t => t.bars.map(b => b.start)));
  const end = Math.max(...tracks.flatMap(t => t.bars.map(b => b.start + b.seconds)));
  const wait = v.started_at && v.created_at ? v.started_at - v.created_at : null;
  section.replaceChildren(
    h('div', {class: 'head'}, h('h2', {}, 'Timeline'),
      h('p', {class: 'faint'}, `${duration(end - start)} from first to last`,
        wait > 0 ? `, after ${duration(wait)} in the queue` : ''),
      h('a', {class: 'quiet', href: api.csvUrl(v.id), download: `${v.id}.csv`}, 'CSV')),
    chart(tracks, start, end), rows.length ? table(rows) : '');
  section.dataset.state = v.state;
}

/* Rows by segment and attempt, in order; failed attempts become a bar of their own. Times in seconds. */
function makeTracks(rows, v) {
  const tracks = new Map();
  const track = (segment, attempt, worker) => {
    const key = `${segment ?? 'end'}.${attempt ?? 1}`;
    if (!tracks.has(key)) tracks.set(key, {segment, attempt: attempt ?? 1, worker, bars: []});
    return tracks.get(key);
  };
  for (const r of rows) {
    track(r.segment, r.attempt, r.worker).bars.push({...r, start: r.started_at_ms / 1000});
  }
  for (const a of v.attempts ?? []) {
    if (a.started_at == null) continue;
    const t = track(v.segments[a.task] ? a.task : null, a.attempt, a.worker);
    t.failed = a;
    const seconds = Math.max(0.5, (a.ended_at ?? a.started_at) - a.started_at);
    t.bars.unshift({stage: 'failed', start: a.started_at, seconds, message: a.message ?? a.outcome});
  }
  return [...tracks.values()].sort((a, b) => (a.segment ?? 1e6) - (b.segment ?? 1e6) || a.attempt - b.attempt);
}

function chart(tracks, start, end) {
  const span = Math.max(0.1, end - start), percent = x => `${(100 * x / span).toFixed(3)}%`;
  const several = new Set(tracks.map(t => t.segment)).size > 1;
  const bar = b => {
    const step = b.step != null ? `, step ${b.step + 1}` : '';
    const from = b.start - start, vars = {'--x': percent(from), '--w': percent(b.seconds)};
    const title = b.message ?? `${stageWords(b.stage)}${step}: ${b.seconds.toFixed(2)} s, from ${from.toFixed(2)} s on`;
    return h('span', {class: `slot st-${b.stage}`, title, vars},
      b.seconds / span > 0.03 ? h('span', {}, fits(b, span), h('b', {}, b.seconds.toFixed(1))) : null);
  };
  const label = t => {
    const tries = t.attempt > 1 || t.failed ? `Try ${t.attempt}` : null;
    if (t.segment == null) return 'Join';
    return several ? [`Segment ${t.segment + 1}`, tries?.toLowerCase()].filter(Boolean).join(', ') : tries ?? 'Stages';
  };
  const tick = niceTick(span), ticks = [];
  for (let x = 0; x <= span + 1e-6; x += tick) ticks.push(x);
  return h('div', {class: 'timeline', 'aria-hidden': 'true'},
    tracks.map(t => h('div', {class: 'track'}, h('span', {class: 'track-name', title: t.worker ?? ''}, label(t)),
      h('div', {class: 'lane'}, t.bars.map(bar)))),
    h('div', {class: 'track axis'}, h('span', {class: 'track-name'}), h('div', {class: 'lane'},
      ticks.map(x => h('i', {vars: {'--x': percent(x)}}, tickWords(x, tick))))),
    legend(ORDER.filter(s => tracks.some(t => t.bars.some(b => b.stage === s)))));
}

/* The name where it fits (a letter is some 0.7 % of the lane), otherwise none rather than half of one. */
function fits(b, span) {
  const name = b.step != null ? `step ${b.step + 1}` : stageName(b.stage);
  return name.length * 0.0075 + 0.012 < b.seconds / span ? name : b.step != null ? String(b.step + 1) : '\u00a0';
}

const tickWords = (x, tick) => tick < 1 ? `${x.toFixed(1)} s` : x < 120 ? `${Math.round(x)} s` : duration(x);

/* About six marks at 1, 2, 5, 10, 15, 30, 60 …: steps that people count in. */
function niceTick(span) {
  const wanted = span / 7;
  return [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find(t => t >= wanted) ?? 7200;
}

/* The short stages share a grey; they are named together. */
function legend(stages) {
  const grey = stages.filter(s => !TINTED.includes(s));
  return h('p', {class: 'legend'},
    stages.filter(s => TINTED.includes(s)).map(s => h('span', {}, h('i', {class: `st-${s}`}), stageName(s))),
    grey.length ? h('span', {}, h('i', {class: 'st-encode'}), grey.map(stageName).join(', ')) : null);
}

function table(rows) {
  const stages = ORDER.filter(s => rows.some(r => r.stage === s));
  const segments = [...new Set(rows.map(r => r.segment))].sort((a, b) => (a ?? 1e6) - (b ?? 1e6));
  const sum = (segment, stage) => rows
    .filter(r => (segment === undefined || r.segment === segment) && (!stage || r.stage === stage))
    .reduce((s, r) => s + r.seconds, 0);
  const cells = segment => [...stages.map(s => sum(segment, s)), sum(segment)]
    .map(x => h('td', {}, x ? x.toFixed(2) : '–'));
  const line = (name, segment) => h('tr', {}, h('th', {scope: 'row'}, name), cells(segment));
  return h('div', {class: 'scroll', tabindex: 0, role: 'group', 'aria-label': 'Seconds per stage'}, h('table', {},
    h('caption', {class: 'sr'}, 'Seconds per stage and segment'),
    h('thead', {}, h('tr', {}, ['Seconds', ...stages.map(stageName), 'all'].map(x => h('th', {scope: 'col'}, x)))),
    h('tbody', {}, segments.map(s => line(s == null ? 'Join' : `Segment ${s + 1}`, s))),
    segments.length > 1 ? h('tfoot', {}, line('Together', undefined)) : null));
}
