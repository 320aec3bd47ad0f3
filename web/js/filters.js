/* Which of the finished videos are shown: by state, words of the prompt, person, day. The farm does the looking; what
 * ends meanwhile is judged here by the same rules.
 * SPDX-License-Identifier: Apache-2.0 */
import {$, h} from './dom.js';
import {FINISHED} from './store.js';

const chosen = {state: '', text: '', person: '', day: ''}; // day: YYYY-MM-DD in this browser's time zone
const people = new Set();

export const isFiltered = () => Object.values(chosen).some(Boolean);

/* [from, to) in Unix seconds; days are not all 24 hours long. */
function dayBounds() {
  if (!chosen.day) return [null, null];
  const from = new Date(`${chosen.day}T00:00`), to = new Date(from);
  to.setDate(to.getDate() + 1);
  return [from / 1000, to / 1000];
}

/* As parameters of the list. */
export function query() {
  const [from, to] = dayBounds();
  return {status: chosen.state || FINISHED.join(','), q: chosen.text, user: chosen.person, created_after: from,
          created_before: to};
}

/* The failed ones among them, as parameters of the bulk retry; null when it cannot say what is chosen. */
export function failedQuery() {
  if (chosen.text || !['', 'failed'].includes(chosen.state)) return null;
  const {q, ...choice} = query();
  return {...choice, status: 'failed'};
}
export const showsOnlyFailed = () => chosen.state === 'failed';
export const isNarrowed = () => Boolean(chosen.person || chosen.day);

export function matches(v) {
  const [from, to] = dayBounds();
  return (!chosen.state || v.state === chosen.state) && (!chosen.person || v.user === chosen.person)
    && (!chosen.text || (v.prompt ?? '').toLowerCase().includes(chosen.text.toLowerCase()))
    && (from === null || (v.created_at >= from && v.created_at < to));
}

/* "failed video by ann of 3 May says “red”" */
export function words() {
  const day = chosen.day && new Date(`${chosen.day}T12:00`).toLocaleDateString('en-GB', {day: 'numeric', month: 'long'});
  return [chosen.state || 'finished', 'video', chosen.person && `by ${chosen.person}`, day && `of ${day}`,
    chosen.text ? `says “${chosen.text}”` : isFiltered() ? null : 'yet'].filter(Boolean).join(' ');
}

/* Whoever has made something can be chosen; on a farm of one person there is nothing to choose. */
export function meet(videos) {
  for (const {user} of videos) {
    if (!user || people.has(user)) continue;
    people.add(user);
    $('#people').append(h('option', {value: user}));
  }
  $('#done-person').hidden = !people.size;
}

export function startFilters(onChange) {
  const choose = (name, value) => {
    if (chosen[name] === value) return;
    chosen[name] = value;
    onChange();
  };
  for (const el of document.getElementsByName('done-state')) {
    el.addEventListener('change', () => choose('state', el.value));
  }
  let timer;
  $('#done-search').addEventListener('input', e => {
    clearTimeout(timer);
    timer = setTimeout(() => choose('text', e.target.value.trim()), 250);
  });
  const person = $('#done-person');
  person.addEventListener('input', () =>
    (!person.value || people.has(person.value)) && choose('person', person.value));
  person.addEventListener('change', () => choose('person', person.value.trim()));
  const day = $('#done-day');
  day.addEventListener('change', () => (day.classList.toggle('chosen', Boolean(day.value)), choose('day', day.value)));
  $('#show-all').addEventListener('click', () => {
    Object.assign(chosen, {state: '', text: '', person: '', day: ''});
    document.getElementsByName('done-state')[0].checked = true;
    for (const el of [$('#done-search'), person, day]) el.value = '';
    day.classList.remove('chosen');
    $('#done-search').focus();
    onChange();
  });
}
