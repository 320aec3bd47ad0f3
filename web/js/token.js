/* Asks for a token when the farm wants one, and keeps it in this browser. Loaded when that first happens.
 * SPDX-License-Identifier: Apache-2.0 */
import * as api from './api.js';
import {h} from './dom.js';

let dialog = null;

/* Resolves when there is a token to try. Asked again while it is open: nothing happens. */
export function askForToken(onToken) {
  if (dialog?.open) return;
  const had = api.hasToken();
  const input = h('input', {type: 'password', name: 'token', autocomplete: 'current-password', 'aria-label': 'Token',
    placeholder: 'ff_…', required: true});
  dialog?.remove();
  dialog = h('dialog', {id: 'token', class: 'ask', 'aria-label': 'Token'},
    h('form', {method: 'dialog', onsubmit: () => {
      api.setToken(input.value.trim());
      onToken();
    }},
      h('h2', {}, had ? 'This token is not known here (any more)' : 'This farm asks who you are'),
      h('p', {}, 'Paste the token that you were given. It stays in this browser. Without one, ask whoever runs the farm: ',
        h('code', {}, 'framefarm-server token create --role user --name you')),
      h('p', {class: 'joined'}, input),
      h('button', {class: 'primary'}, 'Come in')));
  document.body.append(dialog);
  dialog.showModal();
}
