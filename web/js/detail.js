/* A job's own view: player, prompt with "use again", every parameter, what happened and when.
 * Loaded when first opened. Follows the job while it is being made.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {useAgain} from './compose.js';
import {$, copyable, h, icon, setText} from './dom.js';
import {doneVideo, removeLater, retry} from './done.js';
import {explain, explainCall} from './failure.js';
import {bytes, clock, duration, plural, size, timeNode} from './format.js';
import {cancelButton, updateCancel} from './now.js';
import {createPlayer} from './player.js';
import {createBar, doing, updateBar} from './stages.js';
import {endOf, farm, isFinished, lengthOf, on} from './store.js';
import {drawTimeline} from './timeline.js';

const dialog = $('#job');
let shown = null;     // id of the job in the view
let drawn = '';       // what of it is drawn; another mark means drawing anew
let cameFromInside = false;

const known = id => [...farm.running, ...farm.waiting].find(v => v.id === id) ?? doneVideo(id);

export async function open(id, inside) {
  cameFromInside = inside;
  shown = id;
  drawn = '';
  if (!dialog.open) dialog.showModal();
  const v = known(id);
  if (v) draw(v);
  else dialog.replaceChildren(head(), h('p', {class: 'faint'}, 'Looking…'));
  if (v && isFinished(v)) return;
  try {
    const fresh = await api.one(id);
    if (shown === id) draw(fresh);
  } catch (e) {
    if (!v && shown === id) {
      const title = e.status === 404 ? 'This video does not exist (any more)' : 'It cannot be shown now';
      dialog.replaceChildren(head(), h('h2', {}, title), h('p', {}, explainCall(e)));
    }
  }
}

export function shut() {
  shown = null;
  $('video', dialog)?.pause();
  if (dialog.open) dialog.close();
}

/* Closes at once; the address follows, which browsers do later. */
function leave() {
  shut();
  if (cameFromInside) history.back();
  else location.hash = '#/';
}

dialog.addEventListener('cancel', e => (e.preventDefault(), leave()));
dialog.addEventListener('click', e => e.target === dialog && leave());

on('change', () => shown && known(shown) && draw(known(shown)));
on('finished', videos => videos.forEach(v => v.id === shown && draw(v)));

const head = (...parts) => h('header', {class: 'job-head'}, ...parts,
  h('button', {type: 'button', class: 'round', 'aria-label': 'Close', title: 'Close (Esc)', onclick: leave},
    icon('close')));

function draw(v) {
  const state = v.state, mark = `${v.id}.${state}.${endOf(v)}`;
  if (mark !== drawn) {
    drawn = mark;
    const scroll = dialog.scrollTop;
    dialog.replaceChildren(head(h('p', {class: `state is-${state}`}, stateLine(v, state))),
      h('div', {class: 'job-main'}, stage(v, state), side(v, state)),
      h('section', {class: 'job-times', 'aria-label': 'Timings'}), h('div', {class: 'toasts'}));
    dialog.setAttribute('aria-label', v.prompt ?? 'Video');
    dialog.scrollTop = scroll;
    if (v.started_at) drawTimeline($('.job-times', dialog), v);
    /* Redrawing takes the focus away; the film takes it, so that its keys work at once. */
    if (!dialog.contains(document.activeElement) || document.activeElement === dialog)
      ($('.film', dialog) ?? $('.job-head .round', dialog)).focus();
  }
  if (state === 'in_progress') {
    updateBar($('.stages', dialog), v);
    setText($('.doing', dialog), doing(v));
  }
  const cancel = $('.cancel', dialog);
  if (cancel) updateCancel(cancel.parentElement, v.id);
}

function stateLine(v, state) {
  if (state === 'queued') return [v.queue_position ? `Waiting at position ${v.queue_position}` : 'Waiting'];
  if (state === 'in_progress') return ['In the making, since ', timeNode(v.started_at, clock)];
  const words = {completed: 'Completed ', failed: 'Failed ', cancelled: 'Cancelled '}[state];
  return [words, endOf(v) && timeNode(endOf(v)),
    state === 'completed' && v.started_at ? `, made in ${duration(endOf(v) - v.started_at)}` : null].filter(Boolean);
}

/* The left half: the film, or what stands in for it. */
function stage(v, state) {
  if (state === 'completed') return createPlayer(v);
  const box = h('div', {class: 'stage-empty'});
  if (state === 'in_progress') box.append(h('p', {class: 'doing'}), createBar());
  else if (state === 'queued') box.append(h('p', {}, 'It has not begun yet.'));
  else {
    const why = explain(v.error);
    box.append(h('h2', {}, why.title), why.message && h('p', {class: 'message'}, why.message), h('p', {}, why.advice),
      tried(v) ?? '');
  }
  return box;
}

const OUTCOMES = {expired: 'stopped answering', released: 'handed it back', failed: 'failed', cancelled: 'was stopped'};

function tried(v) {
  if (!v.attempts?.length) return null;
  return h('div', {}, h('h3', {}, `Tried ${v.attempts.length === 1 ? 'once' : plural(v.attempts.length, 'time')}`),
    h('ol', {class: 'attempts'}, v.attempts.map(a => h('li', {},
      [a.worker, v.segments?.length > 1 ? (v.segments[a.task] ? `segment ${a.task + 1}` : 'joining') : null,
        a.message ?? a.code ?? OUTCOMES[a.outcome] ?? a.outcome].filter(Boolean).join(': ')))));
}

function side(v, state) {
  const actions = h('p', {class: 'actions'});
  const button = (kind, onclick, ...words) =>
    actions.append(h('button', {type: 'button', class: kind, onclick}, ...words));
  if (state === 'completed') {
    actions.append(h('a', {class: 'primary', href: api.contentUrl(v.id, 'video'), download: `${v.id}.mp4`},
      icon('save'), v.size_bytes ? `Download ${bytes(v.size_bytes)}` : 'Download'));
  } else if (isFinished(v)) button('primary', () => retry(v.id), icon('again'), 'Retry');
  button('quiet', () => (leave(), useAgain(v)), 'Use again');
  if (isFinished(v)) button('quiet', () => (leave(), removeLater(v.id)), icon('bin'), 'Delete');
  else actions.append(cancelButton(v.id));
  return h('div', {class: 'job-side'},
    h('p', {class: 'job-prompt'}, v.prompt ?? 'Without a prompt'),
    (v.notes ?? []).map(note => h('p', {class: 'note'}, note)),
    actions, parameters(v));
}

function parameters(v) {
  const row = (name, value) =>
    value == null || value === '' ? null : h('div', {}, h('dt', {}, name), h('dd', {}, value));
  const {guidance_scale: low, guidance_scale_2: high} = v;
  const m = farm.models.find(x => x.id === v.model);
  return h('dl', {class: 'params'},
    row('Model', m?.title || v.model),
    row('Size', copyable(size(v), 'size')),
    row('Length', `${lengthOf(v).toFixed(2)} s, ${plural(v.num_frames, 'frame')}`),
    row('File', `${plural(v.num_frames_out ?? v.num_frames, 'frame')} at ${v.fps} fps`),
    row('Segments', v.segments?.length > 1 ? v.segments.map(s => s.num_frames).join(' + ') : null),
    row('Seed', v.seed == null ? null : copyable(v.seed, 'seed')),
    row('Steps', v.num_inference_steps == null ? null : `${v.num_inference_steps}, switch after ${v.switch_step}`),
    row('Shift', v.flow_shift),
    row('Guidance', low === high ? low : `${high} high, ${low} low`),
    row('Negative prompt', v.negative_prompt),
    row('LoRA', v.loras?.length === 0 ? 'none' : v.loras?.map(l => `${l.name} ${l.strength}`).join(', ')),
    row('Start image', v.has_input_reference ? 'yes' : null),
    row('Priority', v.priority || null),
    row('By', v.user),
    row('Created', timeNode(v.created_at, clock)),
    row('Kept until', v.expires_at ? timeNode(v.expires_at, clock) : null),
    row('Id', copyable(v.id, 'id')));
}
