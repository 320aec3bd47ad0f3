/* The form at the top: from what a person means to a request, saying what it will become before it is sent.
 * Settings and the unsent prompt outlive a reload (localStorage); a start image does not.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {askEstimate, showBecomes} from './becomes.js';
import {$, icon, setText} from './dom.js';
import {explainCall} from './failure.js';
import {inAbout, plural} from './format.js';
import {NUMBERS, chosen, loraInputs, takeModel, takeModels} from './model_form.js';
import {framesForSeconds, nearestFrames} from './plan.js';
import {setStartImage, startImage, startStartImage} from './start_image.js';
import {accept, farm, hurry} from './store.js';
import {say} from './undo.js';
import {listWords, unknownWords} from './vocabulary.js';

const STORE = 'framefarm.compose';
const MORE = [...NUMBERS, 'negative_prompt'];
const form = $('#compose'), field = form.elements, prompt = field.prompt;
let asBatch = false, sending = false;

const saved = (() => {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? {};
  } catch {
    return {};
  }
})();

/* ---- reading the form ---- */

const lines = () => prompt.value.split('\n').map(s => s.trim()).filter(Boolean);
const number = el => el.value.trim() === '' ? null : Number(el.value);
const frames = () => nearestFrames(number(field.frames) ?? 81);
const fps = () => Number(field.fps.value) || 32;
const count = () => Math.min(100, Math.max(1, Math.round(number(field.count) ?? 1)));

/* Fields left empty stay out, so that the model's own defaults hold. */
function request(text) {
  const r = {prompt: text, num_frames: frames(), fps: fps()};
  if (field.model.value) r.model = field.model.value;
  if (field.size.value === 'free') Object.assign(r, {width: number(field.width), height: number(field.height)});
  else if (field.size.value) r.size = field.size.value;
  if (field.seed.value.trim()) r.seed = Number(field.seed.value);
  if (Number(field.priority.value)) r.priority = Number(field.priority.value);
  for (const name of MORE) {
    const value = name === 'negative_prompt' ? field[name].value.trim() || null : number(field[name]);
    if (value != null) r[name] = value;
  }
  const loras = loraInputs().filter(el => el.value.trim() !== '')
    .map(el => ({name: el.dataset.lora, strength: Number(el.value)}));
  if (loras.length) r.loras = loras;
  return r;
}

/* One request per video. Copies differ in their seed: counted on from the one given, otherwise the farm draws each. */
function requests() {
  const texts = asBatch ? lines() : [prompt.value.trim()];
  return texts.flatMap(text => Array.from({length: count()}, (_, i) => {
    const r = request(text);
    return r.seed != null ? {...r, seed: r.seed + i} : r;
  }));
}

function chosenSize() {
  const [width, height] = field.size.value === 'free' ? [number(field.width), number(field.height)]
    : field.size.value.split('x').map(Number);
  return {width, height};
}

/* ---- saying what it becomes ---- */

function becomes() {
  const n = (asBatch ? lines().length : 1) * count();
  showBecomes({...chosenSize(), num_frames: frames(), fps: fps()}, n, chosen()?.max_segment_frames ?? 81);
  $('#send').disabled = sending || !prompt.value.trim();
  setText($('#send'), n > 1 ? `Make ${n} videos` : 'Make video');
}

/* A kind word before the video, not only after it. */
function noteUnknown() {
  const words = unknownWords(prompt.value, chosen()?.vocabulary);
  $('#unknown').hidden = !words.length;
  setText($('#unknown'), words.length ? `This model does not know ${listWords(words)}. `
    + 'You get a video all the same, of what it makes of the rest.' : '');
}

function changed() {
  grow();
  const many = lines().length;
  if (many < 2) asBatch = false;
  if (startImage()) asBatch = false;
  const offer = $('#batch');
  offer.hidden = many < 2 || Boolean(startImage());
  setText(offer.firstElementChild, asBatch ? `${many} lines, one video each.` : `${many} lines, taken as one prompt.`);
  setText(offer.lastElementChild, asBatch ? 'Keep as one prompt' : `Make ${many} videos, one per line`);
  $('#free-size').hidden = field.size.value !== 'free';
  noteUnknown();
  becomes();
  save();
  const text = prompt.value.trim();
  askEstimate(text && !asBatch && farm.link.ok ? request(text) : null, error => {
    showProblem(error);
    becomes();
  });
}

function save() {
  const values = {};
  for (const el of field) {
    if (!el.name || el.type === 'file' || (el.type === 'radio' && !el.checked)) continue;
    values[el.name] = el.value;
  }
  for (const el of loraInputs()) values[`lora:${el.dataset.lora}`] = el.value;
  values.open = $('#more').open;
  localStorage.setItem(STORE, JSON.stringify(values));
}

function grow() {
  prompt.style.setProperty('height', 'auto');
  prompt.style.setProperty('height', `${Math.min(prompt.scrollHeight, innerHeight * 0.5)}px`);
}

/* ---- length: seconds and frames are one value ---- */

function setFrames(n) {
  field.frames.value = n;
  field.seconds.value = (n / 16).toFixed(2);
}

/* ---- sending ---- */

async function send() {
  if (sending || !prompt.value.trim()) return;
  sending = true;
  showProblem(null);
  becomes();
  try {
    const all = requests();
    const failed = all.length > 1 && !startImage() ? await sendBatch(all) : await sendEach(all);
    if (!failed) {
      prompt.value = '';
      setStartImage(null);
      asBatch = false;
    }
    hurry();
  } catch (e) {
    showProblem(e);
  } finally {
    sending = false;
    changed();
    prompt.focus({preventScroll: true});
  }
}

async function sendEach(all) {
  let v;
  for (const r of all) accept(v = await api.create(r, startImage()));
  const where = v.queue_position > 1 ? `Waiting at position ${v.queue_position}` : 'It is next';
  const when = v.expected_start_at ? `, starts ${inAbout(v.expected_start_at)}` : '';
  say(all.length > 1 ? `${all.length} videos are waiting.` : `${where}${when}.`);
  return 0;
}

/* Lines that were refused stay in the field, so that only those need another try. */
async function sendBatch(all) {
  const results = await api.createBatch(all);
  const bad = results.filter(r => r.error);
  say(`${plural(results.length - bad.length, 'video')} waiting.`);
  if (!bad.length) return 0;
  prompt.value = [...new Set(bad.map(r => all[r.line - 1].prompt))].join('\n');
  const first = bad[0].error;
  const message = `${plural(bad.length, 'line was', 'lines were')} refused: ${first.message}`;
  showProblem(new api.ApiError(400, {...first, message}));
  return bad.length;
}

function showProblem(error) {
  const el = $('#compose-error');
  el.hidden = !error;
  for (const bad of form.querySelectorAll('[aria-invalid]')) bad.removeAttribute('aria-invalid');
  if (!error) return;
  setText(el, explainCall(error));
  const name = {num_frames: 'frames', loras: 'model'}[error.param] ?? error.param;
  const culprit = name && field[name];
  if (culprit?.setAttribute) {
    culprit.setAttribute('aria-invalid', 'true');
    culprit.setAttribute('aria-describedby', 'compose-error');
    if (culprit.closest('#more')) $('#more').open = true;
  }
}

/* Puts a finished or failed job's request back into the form. */
export function useAgain(v) {
  prompt.value = v.prompt ?? '';
  if (farm.models.some(m => m.id === v.model)) field.model.value = v.model;
  takeModel(saved);
  const named = [...field.size.options].some(o => o.value === v.size);
  field.size.value = named ? v.size : 'free';
  if (!named) [field.width.value, field.height.value] = [v.width, v.height];
  setFrames(v.num_frames);
  field.fps.value = String(v.fps ?? 32);
  field.seed.value = v.seed ?? '';
  const usual = chosen()?.defaults ?? {};
  for (const name of MORE) field[name].value = v[name] == null || v[name] === usual[name] ? '' : v[name];
  if (v.guidance_scale_2 === v.guidance_scale) field.guidance_scale_2.value = '';
  for (const el of loraInputs())
    el.value = v.loras?.find(l => l.name === el.dataset.lora)?.strength ?? '';
  usePrompt(prompt.value);
  if (v.has_input_reference) say('Its start image is not taken over; choose it again.');
}

export function usePrompt(text) {
  prompt.value = text;
  changed();
  form.scrollIntoView({block: 'start'});
  prompt.focus();
  prompt.setSelectionRange(text.length, text.length);
}

export function startCompose() {
  for (const [name, value] of Object.entries(saved)) {
    const el = field[name];
    if (el && name !== 'size' && name !== 'model') el.value = value;
  }
  $('#more').open = saved.open ?? false;
  setFrames(frames());
  field.fps.value ||= '32';
  field.count.value ||= '1';
  $('#die').append(icon('die'));

  form.addEventListener('submit', e => (e.preventDefault(), send()));
  form.addEventListener('keydown', e => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) e.preventDefault(), send();
  });
  form.addEventListener('input', e => {
    if (e.target === field.frames) field.seconds.value = (frames() / 16).toFixed(2);
    if (e.target === field.seconds) field.frames.value = framesForSeconds(number(field.seconds) ?? 5);
    if (e.target === field.model) takeModel(saved);
    changed();
  });
  /* Values that the farm would refuse are rounded when the person leaves the field, not while they type. */
  form.addEventListener('change', e => {
    if (e.target === field.frames || e.target === field.seconds) setFrames(frames());
    if (e.target === field.count) field.count.value = count();
    changed();
  });
  $('#more').addEventListener('toggle', save);
  $('#die').addEventListener('click', () => {
    field.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
    changed();
  });
  field.seed.addEventListener('change', () => {
    field.seed.value = field.seed.value.replace(/\D/g, '').slice(0, 15);
    changed();
  });
  $('#batch button').addEventListener('click', () => (asBatch = !asBatch, changed()));
  addEventListener('resize', grow);
  startStartImage(changed);
  changed();
}

export function updateCompose() {
  if (takeModels(saved)) {
    if (!saved.frames && chosen().defaults?.num_frames) setFrames(chosen().defaults.num_frames);
    changed();
  }
  becomes();
}
