/* Words for times, sizes, stages: what people say, with the exact value kept for the tooltip.
 * SPDX-License-Identifier: Apache-2.0 */
import {h, setText} from './dom.js';

const clockFormat = new Intl.DateTimeFormat('en-GB', {hour: '2-digit', minute: '2-digit'});
const dayFormat = new Intl.DateTimeFormat('en-GB', {day: 'numeric', month: 'short'});
const exactFormat = new Intl.DateTimeFormat('en-GB', {dateStyle: 'full', timeStyle: 'medium'});

export const nowSeconds = () => Date.now() / 1000;

/* 8.4 -> "8.4 s", 110 -> "1 min 50 s", 7500 -> "2 h 5 min" */
export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s === 0 ? 0 : s < 1 ? s.toFixed(2) : s.toFixed(1)} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  const min = Math.floor((s + 0.5) / 60);
  if (min < 60) return `${min} min ${Math.floor(s + 0.5) % 60} s`;
  return `${Math.floor(min / 60)} h ${min % 60} min`;
}

/* A wait as a guess should sound: no false precision. */
export function roughly(seconds) {
  if (seconds < 8) return 'a few seconds';
  if (seconds < 55) return `${5 * Math.ceil(seconds / 5)} s`;
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min`;
  const h = Math.floor(seconds / 3600), min = 5 * Math.round(seconds % 3600 / 300);
  return h > 11 || !min ? `${Math.round(seconds / 3600)} h` : min === 60 ? `${h + 1} h` : `${h} h ${min} min`;
}

export const inAbout = at => at - nowSeconds() < 8 ? 'any moment' : `in about ${roughly(at - nowSeconds())}`;

export function ago(at) {
  const s = nowSeconds() - at;
  if (s < 45) return 'just now';
  if (s < 3600) return `${Math.max(1, Math.round(s / 60))} min ago`;
  return clock(at);
}

/* "12:40" today, "yesterday 12:40", "3 May 12:40" */
export function clock(at) {
  const date = new Date(at * 1000), time = clockFormat.format(date);
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 864e5);
  return days === 0 ? time : days === 1 ? `yesterday ${time}` : `${dayFormat.format(date)} ${time}`;
}

export const exact = at => exactFormat.format(new Date(at * 1000));

/* A time in words, exact on hover. */
export function timeNode(at, words = ago) {
  return h('time', {datetime: new Date(at * 1000).toISOString(), title: exact(at)}, words(at));
}

export function setTime(el, at, text) {
  setText(el, text);
  if (at) el.title = exact(at);
  else el.removeAttribute('title');
}

export function bytes(n) {
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB'];
  let i = 0;
  while (n >= 1000 && i < 4) n /= 1000, i++;
  return `${i && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

export const gib = n => `${Math.round(n / 2 ** 30)} GiB`;
export const plural = (n, one, many = one + 's') => `${n.toLocaleString('en')} ${n === 1 ? one : many}`;
export const size = v => `${v.width}\u00d7${v.height}`;

const STAGES = {
  queue: 'waiting', load: 'loading the model', text: 'reading the prompt', encode_image: 'reading the start image',
  high_noise: 'high noise', low_noise: 'low noise', decode: 'decoding', interpolate: 'smoothing to 32 fps',
  encode: 'encoding', upload: 'handing in', assemble: 'joining',
};
export const stageWords = stage => STAGES[stage] ?? String(stage ?? '').replaceAll('_', ' ');
export const stageName = stage => String(stage).replaceAll('_', ' ');
