/* The form at the top: from what a person means to a request, saying what it will become before it is sent.
 * Settings and the unsent prompt outlive a reload (localStorage); a start image does not.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {$, h, icon, setText} from './dom.js';
import {explainCall} from './failure.js';
import {exact, inAbout, nowSeconds, plural, roughly} from './format.js';
import {framesForSeconds, makePlan, nearestFrames, planSentence} from './plan.js';
import {guessSeconds} from './stages.js';
import {accept, farm, hurry, model} from './store.js';
import {say} from './undo.js';

const STORE = 'framefarm.compose';
const MAX_IMAGE_BYTES = 20 * 2 ** 20;
const NUMBERS = ['num_inference_steps', 'switch_step', 'flow_shift', 'guidance_scale_2', 'guidance_scale'];
const MORE = [...NUMBERS, 'negative_prompt'];
const form = $('#compose'), field = form.elements, prompt = field.prompt;
let image = null, asBatch = false, dryRun = null, dryTimer = 0, estimate = null, sending = false;

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
const chosen = () => model(field.model.value);

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
  const loras = [...form.querySelectorAll('#loras input')].filter(el => el.value.trim() !== '')
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

function guessSize() {
  const [width, height] = field.size.value === 'free' ? [number(field.width), number(field.height)]
    : field.size.value.split('x').map(Number);
  return {width, height};
}

/* ---- saying what it becomes ---- */

function becomes() {
  const n = (asBatch ? lines().length : 1) * count();
  let text;
  try {
    text = planSentence(makePlan(frames(), fps(), chosen()?.max_segment_frames ?? 81));
  } catch (e) {
    text = e.message;
  }
  if (n > 1) text = `${plural(n, 'video')}, each ${text}`;
  const node = $('#becomes');
  const parts = [text];
  const work = guessSeconds({...guessSize(), num_frames: frames()});
  const took = estimate && estimate.expected_end_at - (estimate.expected_start_at ?? nowSeconds());
  if (n > 1 && (estimate || work)) parts.push(`, takes about ${roughly((estimate ? took : work) * n)}`);
  else if (!estimate && work) parts.push(`, takes about ${roughly(work)}`);
  if (estimate && n === 1) {
    parts.push(', ', h('span', {title: `Expected ${exact(estimate.expected_end_at)}`},
      `takes about ${roughly(took)}, ready ${inAbout(estimate.expected_end_at)}`));
  }
  if (node.textContent !== parts.map(p => p.textContent ?? p).join('')) node.replaceChildren(...parts);
  $('#send').disabled = sending || !prompt.value.trim();
  setText($('#send'), n > 1 ? `Make ${n} videos` : 'Make video');
}

/* Asks the farm when it would be done; the sentence stands without the answer. */
function askEstimate() {
  clearTimeout(dryTimer);
  dryRun?.abort();
  estimate = null;
  if (!prompt.value.trim() || asBatch || !farm.link.ok) return;
  dryTimer = setTimeout(async () => {
    dryRun = new AbortController();
    try {
      const v = await api.dryRun(request(prompt.value.trim()), dryRun.signal);
      estimate = v.expected_end_at ? v : null;
      showProblem(null);
      becomes();
    } catch (e) {
      /* Only what the person can put right while typing; anything else is said when they send. */
      if (e.status === 400 || e.status === 422) showProblem(e);
    }
  }, 500);
}

function changed() {
  grow();
  const many = lines().length;
  if (many < 2) asBatch = false;
  const offer = $('#batch');
  offer.hidden = many < 2 || Boolean(image);
  setText(offer.firstElementChild, asBatch ? `${many} lines, one video each.` : `${many} lines, taken as one prompt.`);
  setText(offer.lastElementChild, asBatch ? 'Keep as one prompt' : `Make ${many} videos, one per line`);
  $('#free-size').hidden = field.size.value !== 'free';
  becomes();
  save();
  askEstimate();
}

function save() {
  const values = {};
  for (const el of field) {
    if (!el.name || el.type === 'file' || (el.type === 'radio' && !el.checked)) continue;
    values[el.name] = el.value;
  }
  for (const el of form.querySelectorAll('#loras input')) values[`lora:${el.dataset.lora}`] = el.value;
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
    const failed = all.length > 1 && !image ? await sendBatch(all) : await sendEach(all);
    if (!failed) {
      prompt.value = '';
      setImage(null);
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
  for (const r of all) accept(v = await api.create(r, image));
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

/* ---- start image ---- */

function setImage(file) {
  if (file && !/^image\/(png|jpeg|webp)$/.test(file.type)) return say('A start image is a PNG, JPEG or WebP file.');
  if (file && file.size > MAX_IMAGE_BYTES) return say('That image is over 20 MB; a smaller one does as well.');
  const shown = $('#start-image img');
  if (shown.src) URL.revokeObjectURL(shown.src);
  image = file;
  $('#start-image').hidden = !file;
  if (file) {
    shown.src = URL.createObjectURL(file);
    shown.alt = `Start image ${file.name ?? ''}`;
    asBatch = false;
  } else shown.removeAttribute('src');
  $('#image-file').value = '';
  changed();
}

const imageIn = transfer => [...transfer?.files ?? []].find(f => f.type.startsWith('image/'));

function listenForImages() {
  $('#pick-image').addEventListener('click', () => $('#image-file').click());
  $('#image-file').addEventListener('change', e => e.target.files[0] && setImage(e.target.files[0]));
  const remove = $('#start-image button');
  remove.append(icon('close'));
  remove.addEventListener('click', () => (setImage(null), prompt.focus()));
  document.addEventListener('paste', e => {
    const file = imageIn(e.clipboardData);
    if (!file) return;
    e.preventDefault();
    setImage(file);
  });
  /* Anywhere on the page, or a near miss would make the browser leave it for the picture. */
  for (const name of ['dragenter', 'dragover']) {
    addEventListener(name, e => {
      if (!e.dataTransfer.types.includes('Files')) return;
      e.preventDefault();
      form.classList.add('dropping');
    });
  }
  addEventListener('dragleave', e => e.relatedTarget || form.classList.remove('dropping'));
  addEventListener('drop', e => {
    form.classList.remove('dropping');
    if (!e.dataTransfer.files.length) return;
    e.preventDefault();
    const file = imageIn(e.dataTransfer);
    if (file) setImage(file);
    else say('A start image is a PNG, JPEG or WebP file.');
  });
}

/* ---- the model's own sizes, defaults, LoRAs ---- */

let knownModels = '';
function takeModels() {
  const names = farm.models.map(m => m.id), now = JSON.stringify(farm.models);
  if (knownModels === now) return;
  knownModels = now;
  const before = field.model.value || saved.model;
  field.model.replaceChildren(...farm.models.map((m, i) => h('option', {value: names[i]}, m.title || names[i])));
  $('#model-field').hidden = names.length < 2;
  if (names.includes(before)) field.model.value = before;
  takeModel();
}

const sizeWords = size => {
  const [w, hgt] = size.split('x').map(Number);
  return `${w}×${hgt} ${w > hgt ? 'wide' : w < hgt ? 'tall' : 'square'}`;
};

function takeModel() {
  const m = chosen();
  if (!m) return;
  const sizes = [...new Set([m.defaults?.size, ...m.sizes ?? []].filter(Boolean))];
  const before = field.size.value || saved.size;
  const options = sizes.map(s => h('option', {value: s}, sizeWords(s)));
  field.size.replaceChildren(...options, h('option', {value: 'free'}, 'Other…'));
  field.size.value = [...sizes, 'free'].includes(before) ? before : sizes[0] ?? 'free';
  const [w, hgt] = (m.defaults?.size ?? '832x480').split('x');
  field.width.value ||= w;
  field.height.value ||= hgt;
  if (!saved.frames && m.defaults?.num_frames) setFrames(m.defaults.num_frames);
  for (const name of NUMBERS) {
    const fallback = m.defaults?.[name] ?? (name === 'guidance_scale_2' ? m.defaults?.guidance_scale : null);
    if (fallback != null) field[name].placeholder = fallback;
  }
  $('.image-field').hidden = m.takes_image === false;
  $('#loras').replaceChildren(...(m.loras ?? []).map(name => h('label', {class: 'field narrow'}, h('span', {}, name),
    h('input', {type: 'number', step: '0.05', min: -10, max: 10, placeholder: '1', value: saved[`lora:${name}`] ?? '',
                data: {lora: name}, 'aria-label': `Strength of LoRA ${name}`}))));
  changed();
}

/* Puts a finished or failed job's request back into the form. */
export function useAgain(v) {
  prompt.value = v.prompt ?? '';
  if (farm.models.some(m => m.id === v.model)) field.model.value = v.model;
  takeModel();
  const named = [...field.size.options].some(o => o.value === v.size);
  field.size.value = named ? v.size : 'free';
  if (!named) [field.width.value, field.height.value] = [v.width, v.height];
  setFrames(v.num_frames);
  field.fps.value = String(v.fps ?? 32);
  field.seed.value = v.seed ?? '';
  const usual = chosen()?.defaults ?? {};
  for (const name of MORE) field[name].value = v[name] == null || v[name] === usual[name] ? '' : v[name];
  if (v.guidance_scale_2 === v.guidance_scale) field.guidance_scale_2.value = '';
  for (const el of form.querySelectorAll('#loras input'))
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
  $('#pick-image').prepend(icon('image'));

  form.addEventListener('submit', e => (e.preventDefault(), send()));
  form.addEventListener('keydown', e => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) e.preventDefault(), send();
  });
  form.addEventListener('input', e => {
    if (e.target === field.frames) field.seconds.value = (frames() / 16).toFixed(2);
    if (e.target === field.seconds) field.frames.value = framesForSeconds(number(field.seconds) ?? 5);
    if (e.target === field.model) takeModel();
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
  listenForImages();
  changed();
}

export function updateCompose() {
  takeModels();
  becomes();
}
