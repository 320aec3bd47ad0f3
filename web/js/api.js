/* The farm's HTTP interface (schema/api.md) and nothing else: no document, no state but the token.
 * Addresses are relative, so the page also works behind a proxy that serves it under a path.
 * SPDX-License-Identifier: Apache-2.0 */

const TIMEOUT_MS = 20000;

export class ApiError extends Error {
  /* status 0: nobody answered. */
  constructor(status, {message, code = null, param = null} = {}, requestId = null) {
    super(message ?? (status ? `The farm answered with status ${status}.` : 'The farm cannot be reached.'));
    Object.assign(this, {status, code, param, requestId});
  }
}

const TOKEN = 'framefarm.token';
const TICKET_MS = 20 * 60 * 1000; // tickets last an hour
let ticket = null;                // stands for the token in addresses that the browser fetches by itself

/* The one place where who is asking is added; farms on loopback need no token. */
function authorization() {
  const token = localStorage.getItem(TOKEN);
  return token ? {authorization: `Bearer ${token}`} : {};
}

export const hasToken = () => localStorage.getItem(TOKEN) !== null;
export function setToken(token) {
  ticket = null;
  if (token) localStorage.setItem(TOKEN, token);
  else localStorage.removeItem(TOKEN);
}

/* Before anything with a picture is shown, and from then on by itself. A farm without tickets needs none. */
export async function keepTicket() {
  if (hasToken()) ticket = await post('v1/tickets').then(t => t.ticket, () => ticket);
  clearTimeout(keepTicket.timer);
  keepTicket.timer = setTimeout(keepTicket, ticket || !hasToken() ? TICKET_MS : 5000);
}

async function send(method, path, {body, headers = {}, signal, keepalive} = {}) {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  let answer;
  try {
    answer = await fetch(path, {method, body, keepalive, cache: 'no-store', headers: {...authorization(), ...headers},
                                signal: signal ? AbortSignal.any([signal, timeout]) : timeout});
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new ApiError(0);
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) dispatchEvent(new Event('framefarm:token'));
  throw new ApiError(answer.status, problem.error, answer.headers.get('x-request-id'));
}

const get = (path, options) => send('GET', path, options).then(a => a.json());
const post = (path, body, options = {}) => send('POST', path, {
  ...options, body: body === undefined ? undefined : JSON.stringify(body),
  headers: {...(body === undefined ? {} : {'content-type': 'application/json'}), ...options.headers},
}).then(a => a.json());

function query(values) {
  const q = new URLSearchParams(Object.entries(values).filter(([, v]) => v != null && v !== ''));
  return q.size ? `?${q}` : '';
}

const video = id => `v1/videos/${encodeURIComponent(id)}`;

/* Lets a request that was sent twice because its answer got lost make one job. (crypto.randomUUID would need TLS.) */
const onceKey = () => ({'idempotency-key':
  [...crypto.getRandomValues(new Uint8Array(16))].map(b => b.toString(16).padStart(2, '0')).join('')});

export const list = (filter, options) => get(`v1/videos${query(filter)}`, options);
export const one = (id, options) => get(video(id), options);
export const timings = id => get(`${video(id)}/timings`);
export const models = () => get('v1/models');
export const workers = () => get('v1/workers');
export const queue = () => get('v1/queue');
export const throughput = hours => get(`v1/throughput${query({hours})}`);
export const health = () => get('healthz');
export const pause = () => post('v1/queue/pause');
export const resume = () => post('v1/queue/resume');
export const drain = (id, drain) => post(`v1/workers/${encodeURIComponent(id)}/drain`, {drain});
export const cancel = (id, options) => post(`${video(id)}/cancel`, undefined, options);
export const retry = id => post(`${video(id)}/retry`);
/* filter: status, user, created_after, created_before -> {retried, has_more} */
export const retryAll = (filter, options) => post(`v1/videos/retry${query(filter)}`, undefined, options);
export const move = (id, place) => post(`${video(id)}/move`, place); // {before: id} or {after: id}
export const setPriority = (id, priority) => post(`${video(id)}/priority`, {priority});
export const remove = (id, options) => send('DELETE', video(id), options).then(a => a.json());
export const contentUrl = (id, variant) => `${video(id)}/content${query({variant, ticket})}`;
export const csvUrl = id => `${video(id)}/timings${query({format: 'csv', ticket})}`;

/* The latest preview as a blob: address, to be revoked by the caller; null when there is none (yet). */
export const preview = id => send('GET', contentUrl(id, 'preview')).then(a => a.blob())
  .then(blob => URL.createObjectURL(blob), () => null);

/* What the request would become, with expected times, without making a job. */
export const dryRun = (request, signal) => post('v1/videos?dry_run=1', request, {signal});

/* request: fields of schema/api.md; image: a File or null. */
export function create(request, image) {
  if (!image) return post('v1/videos', request, {headers: onceKey()});
  const form = new FormData();
  for (const [name, value] of Object.entries(request)) {
    const pairs = name !== 'loras' ? [[name, value]]
      : value.flatMap(lora => Object.entries(lora).map(([key, x]) => [`loras[][${key}]`, x]));
    for (const [key, x] of pairs) form.append(key, String(x));
  }
  form.append('input_reference', image, image.name || 'start.png');
  return send('POST', 'v1/videos', {body: form, headers: onceKey()}).then(a => a.json());
}

/* All requests in one transaction; per line {line, id} or {line, error}. */
export async function createBatch(requests) {
  const body = requests.map(r => JSON.stringify(r) + '\n').join('');
  const headers = {'content-type': 'application/x-ndjson', ...onceKey()};
  const answer = await send('POST', 'v1/videos/batch', {body, headers});
  return (await answer.text()).split('\n').filter(Boolean).map(line => JSON.parse(line));
}

/* Server-sent events over fetch, not EventSource: that can neither send a token nor tell 404 from a lost line.
 * Calls onEvent({id, type, data}) until the stream ends; throws ApiError when there is none. */
export async function events(lastId, signal, onOpen, onEvent) {
  let answer;
  try {
    answer = await fetch('v1/events', {signal, cache: 'no-store', headers: {
      accept: 'text/event-stream', ...authorization(), ...(lastId ? {'last-event-id': lastId} : {})}});
  } catch {
    throw new ApiError(0);
  }
  if (!answer.ok || !answer.headers.get('content-type')?.startsWith('text/event-stream')) {
    answer.body?.cancel();
    throw new ApiError(answer.ok ? 404 : answer.status);
  }
  onOpen();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const blocks = (text + value).split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const event = {id: null, type: 'message', data: ''};
      for (const line of block.split(/\r?\n/)) {
        const [, name, rest] = line.match(/^(\w+): ?(.*)$/) ?? [];
        if (name === 'data') event.data += rest;
        else if (name === 'event') event.type = rest;
        else if (name === 'id') event.id = rest;
      }
      if (event.data) onEvent(event);
    }
  }
}
