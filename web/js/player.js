/* The film: play, loop, go frame by frame, full screen. Frames are counted at the file's own rate.
 * Keys: space plays, comma and full stop (or the arrows) step, Home and End jump.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {h, icon, setText} from './dom.js';

export function createPlayer(v) {
  const fps = v.fps || 32;
  const video = h('video', {src: api.contentUrl(v.id, 'video'), poster: api.contentUrl(v.id, 'thumbnail'), muted: true,
                            playsinline: true, preload: 'auto', loop: true});
  const film = h('div', {class: 'film', tabindex: 0, role: 'group',
                         'aria-label': 'Video. Space plays, comma and full stop step.'}, video);
  const seek = h('input', {type: 'range', min: 0, value: 0, step: 1, 'aria-label': 'Frame'});
  const where = h('output', {class: 'where'});
  const button = (name, label, onclick) =>
    h('button', {type: 'button', class: 'in', 'aria-label': label, title: label, onclick}, icon(name));
  const fill = () => document.fullscreenElement ? document.exitFullscreen() : film.requestFullscreen();
  const total = () => Math.max(1, Math.round((video.duration || v.num_frames / 16) * fps));
  const frame = () => Math.min(total() - 1, Math.floor(video.currentTime * fps + 0.01));

  /* Into the middle of the frame: at its very start rounding may show the one before. */
  const go = n => {
    video.pause();
    video.currentTime = (Math.min(total() - 1, Math.max(0, n)) + 0.5) / fps;
  };
  const toggle = () => video.paused ? video.play().catch(() => {}) : video.pause();
  const playButton = button('play', 'Play', toggle);
  const loopButton = button('loop', 'Loop', () => {
    video.loop = !video.loop;
    loopButton.setAttribute('aria-pressed', video.loop);
  });
  loopButton.setAttribute('aria-pressed', 'true');

  const show = () => {
    seek.max = total() - 1;
    seek.value = frame();
    seek.setAttribute('aria-valuetext', `Frame ${frame() + 1} of ${total()}`);
    setText(where, `${frame() + 1} / ${total()}`);
  };
  const follow = () => {
    show();
    if (video.isConnected && !video.paused) requestAnimationFrame(follow);
  };
  const state = () => {
    playButton.replaceChildren(icon(video.paused ? 'play' : 'pause'));
    playButton.setAttribute('aria-label', video.paused ? 'Play' : 'Pause');
    follow();
  };
  for (const name of ['play', 'pause', 'ended']) video.addEventListener(name, state);
  for (const name of ['loadedmetadata', 'seeked']) video.addEventListener(name, show);
  video.addEventListener('click', toggle);
  seek.addEventListener('input', () => go(Number(seek.value)));
  film.addEventListener('keydown', e => {
    const act = {' ': toggle, ',': () => go(frame() - 1), '.': () => go(frame() + 1), ArrowLeft: () => go(frame() - 1),
                 ArrowRight: () => go(frame() + 1), Home: () => go(0), End: () => go(total() - 1)}[e.key];
    if (!act) return;
    e.preventDefault();
    act();
  });
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) video.autoplay = true;

  const box = h('div', {class: 'player'}, film, h('div', {class: 'controls'},
    playButton, button('prev', 'Previous frame (comma)', () => go(frame() - 1)),
    button('next', 'Next frame (full stop)', () => go(frame() + 1)), seek, where, loopButton,
    button('full', 'Full screen', fill)));
  video.addEventListener('error', () => box.append(h('p', {class: 'problem', role: 'alert'},
    'The film could not be loaded. Is the farm in reach? Closing and opening this view tries again.')), {once: true});
  show();
  return box;
}
