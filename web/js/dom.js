/* Builds nodes. The only way data reaches the document: text becomes text nodes, never markup.
 * SPDX-License-Identifier: Apache-2.0 */

/* h('a', {class, href, onclick, data: {id}, vars: {'--x': '3%'}}, ...children): null and false children are left out.
 * vars go through the CSSOM because the content-security policy forbids style attributes. */
export function h(tag, props = {}, ...children) {
  const el = document.createElement(tag);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value == null || value === false) continue;
    if (key.startsWith('on')) el.addEventListener(key.slice(2), value);
    else if (key === 'data') Object.assign(el.dataset, value);
    else if (key === 'vars') setVars(el, value);
    else if (key === 'muted' || key === 'value' || key === 'checked') el[key] = value;
    else el.setAttribute(key, value === true ? '' : value);
  }
  el.append(...children.flat().filter(c => c != null && c !== false));
  return el;
}

export function setVars(el, vars) {
  for (const [name, value] of Object.entries(vars)) el.style.setProperty(name, value);
}

/* Writes only what changed, so that selections, tooltips and screen readers are left in peace. */
export function setText(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

export const $ = (selector, root = document) => root.querySelector(selector);

const PATHS = {
  die: 'M3 5q0-2 2-2h14q2 0 2 2v14q0 2-2 2H5q-2 0-2-2zM8 8h.01M16 8h.01M12 12h.01M8 16h.01M16 16h.01',
  image: 'M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15 9h.01',
  close: 'M6 6l12 12M18 6L6 18',
  grip: 'M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01',
  top: 'M6 4h12M12 20V9M7 13l5-5 5 5',
  play: 'M7 5l12 7-12 7z',
  pause: 'M8 5v14M16 5v14',
  prev: 'M17 6l-8 6 8 6zM7 6v12',
  next: 'M7 6l8 6-8 6zM17 6v12',
  loop: 'M17 3l3 3-3 3M20 6H8a4 4 0 0 0-4 4v1M7 21l-3-3 3-3M4 18h12a4 4 0 0 0 4-4v-1',
  save: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  again: 'M4 12a8 8 0 1 0 2.5-5.8M4 4v4h4',
  full: 'M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5',
  bin: 'M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13',
};

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(svg.namespaceURI, 'path');
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  return svg;
}

/* Makes parent's children match items, keeping one whose key stays, and the focus with it.
 * create(item) -> element, update(element, item) */
export function keyed(parent, items, create, update, keyOf = item => item.id) {
  const focused = document.activeElement;
  const old = new Map([...parent.children].map(el => [el.dataset.key, el]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let el = old.get(key);
    old.delete(key);
    if (!el) {
      el = create(item);
      el.dataset.key = key;
    }
    if (el === at) at = at.nextElementSibling;
    else parent.insertBefore(el, at);
    update(el, item);
  }
  for (const el of old.values()) el.remove();
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({preventScroll: true});
}

/* A value that one click copies: seeds, sizes, ids. */
export function copyable(text, label) {
  const button = h('button', {type: 'button', class: 'copy', title: `Copy ${label}`, onclick: async () => {
    await copyText(String(text));
    button.classList.add('copied');
    setTimeout(() => button.classList.remove('copied'), 1200);
  }}, String(text), h('span', {class: 'sr'}, ` (copy ${label})`));
  return button;
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).catch(() => {});
  /* Without TLS on another host than this one browsers offer no clipboard object; the old way still works there. */
  const area = h('textarea', {class: 'sr', value: text});
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}
