/* What asks nothing first and can be taken back for five seconds: cancel, delete. The call to the farm is held that
 * long; leaving the page sends it at once.
 * SPDX-License-Identifier: Apache-2.0 */
import {$, h} from './dom.js';

const UNDO_MS = 5000;
const pending = new Map(); // id -> {send, back, timer}

export const isPending = id => pending.has(id);

/* send({keepalive}) does it for good; back() is called when it was undone or send failed. */
export function later(id, send, back) {
  const entry = {send, back, timer: setTimeout(async () => {
    try {
      await send({});
    } catch (e) {
      pending.delete(id);
      if (e.status !== 404) say(e.message);
      back();
    } finally {
      pending.delete(id);
    }
  }, UNDO_MS)};
  pending.set(id, entry);
}

export function undo(id) {
  const entry = pending.get(id);
  if (!entry) return;
  clearTimeout(entry.timer);
  pending.delete(id);
  entry.back();
}

addEventListener('pagehide', () => {
  for (const [id, entry] of pending) {
    clearTimeout(entry.timer);
    pending.delete(id);
    entry.send({keepalive: true}).catch(() => {});
  }
});

/* A short message at the foot of the page, in place of the one before; one with an action stays as long as that can be
 * taken. */
export function say(text, action, onAction) {
  if (!action) document.querySelectorAll('.toast:not(:has(button))').forEach(old => old.remove());
  const toast = h('p', {class: 'toast'}, h('span', {}, text),
    action && h('button', {type: 'button', class: 'text', onclick: () => (toast.remove(), onAction())}, action));
  /* An open dialog lies above everything else, so the message goes into it. */
  const host = $('dialog[open] .toasts') ?? $('#toasts');
  host.append(toast);
  setTimeout(() => toast.remove(), UNDO_MS);
  return toast;
}
