/* The start image of the form: chosen, dropped anywhere on the page, or pasted. Does not outlive a reload.
 * SPDX-License-Identifier: Apache-2.0 */
import {$, icon} from './dom.js';
import {say} from './undo.js';

const MAX_BYTES = 20 * 2 ** 20;
const NOT_ONE = 'A start image is a PNG, JPEG or WebP file.';
let image = null, onChange = () => {};

export const startImage = () => image; // a File or null

export function setStartImage(file) {
  if (file && !/^image\/(png|jpeg|webp)$/.test(file.type)) return say(NOT_ONE);
  if (file && file.size > MAX_BYTES) return say('That image is over 20 MB; a smaller one does as well.');
  const shown = $('#start-image img');
  if (shown.src) URL.revokeObjectURL(shown.src);
  image = file;
  $('#start-image').hidden = !file;
  if (file) {
    shown.src = URL.createObjectURL(file);
    shown.alt = `Start image ${file.name ?? ''}`;
  } else shown.removeAttribute('src');
  $('#image-file').value = '';
  onChange();
}

const imageIn = transfer => [...transfer?.files ?? []].find(f => f.type.startsWith('image/'));

/* Anywhere on the page, or a near miss would make the browser leave it for the picture. */
function listenForDrops() {
  const form = $('#compose');
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
    if (file) setStartImage(file);
    else say(NOT_ONE);
  });
}

export function startStartImage(changed) {
  onChange = changed;
  $('#pick-image').prepend(icon('image'));
  $('#pick-image').addEventListener('click', () => $('#image-file').click());
  $('#image-file').addEventListener('change', e => e.target.files[0] && setStartImage(e.target.files[0]));
  const remove = $('#start-image button');
  remove.append(icon('close'));
  remove.addEventListener('click', () => (setStartImage(null), $('#prompt').focus()));
  document.addEventListener('paste', e => {
    const file = imageIn(e.clipboardData);
    if (!file) return;
    e.preventDefault();
    setStartImage(file);
  });
  listenForDrops();
}
