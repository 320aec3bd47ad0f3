/* What the chosen model brings to the form: its sizes, defaults and LoRAs, and what it can draw in its own words. All of
 * it comes from GET /v1/models, so from the model's own file; nothing about any model is written here.
 * SPDX-License-Identifier: Apache-2.0 */
import {$, h, keyed} from './dom.js';
import {plural} from './format.js';
import {farm, model} from './store.js';

export const NUMBERS = ['num_inference_steps', 'switch_step', 'flow_shift', 'guidance_scale_2', 'guidance_scale'];
const form = $('#compose'), field = form.elements;
export const chosen = () => model(field.model.value);
export const loraInputs = () => [...form.querySelectorAll('#loras input')];

let known = '';

/* saved: values by name from the last visit, for fields that were not there before. True when a model changed. */
export function takeModels(saved) {
  const now = JSON.stringify(farm.models.map(({workers, ...m}) => m)); // how many have it is no reason to build anew
  if (known === now) return false;
  known = now;
  const before = field.model.value || saved.model;
  field.model.replaceChildren(...farm.models.map(m => h('option', {value: m.id}, m.title || m.id)));
  $('#model-field').hidden = farm.models.length < 2;
  if (farm.models.some(m => m.id === before)) field.model.value = before;
  return takeModel(saved);
}

const sizeWords = size => {
  const [w, hgt] = size.split('x').map(Number);
  return `${w}×${hgt} ${w > hgt ? 'wide' : w < hgt ? 'tall' : 'square'}`;
};

function takeSizes(m, saved) {
  const sizes = [...new Set([m.defaults?.size, ...m.sizes ?? []].filter(Boolean))];
  const before = field.size.value || saved.size;
  field.size.replaceChildren(...sizes.map(s => h('option', {value: s}, sizeWords(s))),
    h('option', {value: 'free'}, 'Other…'));
  field.size.value = [...sizes, 'free'].includes(before) ? before : sizes[0] ?? 'free';
  const [w, hgt] = (m.defaults?.size ?? '832x480').split('x');
  field.width.value ||= w;
  field.height.value ||= hgt;
}

function takeLoras(m, saved) {
  const value = id => saved[`lora:${id}`] ?? '';
  keyed($('#loras'), (m.loras ?? []).map(id => ({id})), ({id}) => h('label', {class: 'field narrow'}, h('span', {}, id),
    h('input', {type: 'number', step: '0.05', min: -10, max: 10, placeholder: '1', value: value(id), data: {lora: id},
                'aria-label': `Strength of LoRA ${id}`})), () => {});
}

/* What it can draw, in the words of its own file. */
function describe(m) {
  $('#about-model').hidden = !m.note && !m.vocabulary?.length;
  $('#about-model div').replaceChildren(...[
    h('p', {}, h('strong', {}, m.title || m.id), m.note && `. ${m.note}`),
    h('p', {}, `Sizes: ${(m.sizes ?? []).map(s => s.replace('x', '×')).join(', ')}. `
      + `Up to ${plural(m.max_segment_frames, 'frame')} in one piece.`),
    m.examples?.length && h('p', {}, `For example: ${m.examples.map(text => `“${text}”`).join(', ')}.`),
    m.vocabulary?.length && h('p', {}, `${plural(m.vocabulary.length, 'word')}: ${m.vocabulary.join(', ')}`),
  ].filter(Boolean));
}

export function takeModel(saved) {
  const m = chosen();
  if (!m) return false;
  takeSizes(m, saved);
  for (const name of NUMBERS) {
    const fallback = m.defaults?.[name] ?? (name === 'guidance_scale_2' ? m.defaults?.guidance_scale : null);
    if (fallback != null) field[name].placeholder = fallback;
  }
  $('.image-field').hidden = m.takes_image === false;
  takeLoras(m, saved);
  describe(m);
  return true;
}
