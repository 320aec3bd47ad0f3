/* One finished video in the grid: a poster that plays while pointed at or focused, or why there is none.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, icon, setText} from './dom.js';
import {explain} from './failure.js';
import {ago, duration, exact, plural, setTime, size} from './format.js';
import {endOf, lengthOf} from './store.js';

const calm = matchMedia('(prefers-reduced-motion: reduce)');

export function createTile(v, onRetry) {
  const state = v.state;
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
    h('button', {type: 'button', class: 'quiet retry', onclick: () => onRetry(v.id)}, icon('again'), 'Retry'));
  }
  tile.append(h('p', {class: 'title', title: v.prompt ?? ''}, v.prompt ?? 'Without a prompt'),
    h('p', {class: 'faint'}, h('time', {}), h('span', {class: 'took'}), v.user && h('span', {}, ` · ${v.user}`)));
  return tile;
}

export function updateTile(tile, v) {
  const at = endOf(v) ?? v.created_at;
  setTime($('time', tile), at, ago(at));
  const took = v.completed_at && v.started_at && v.state === 'completed' ? v.completed_at - v.started_at : null;
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
