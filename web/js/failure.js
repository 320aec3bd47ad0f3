/* Failures speak: what happened, what was tried, what to do. Codes come from schema/err.h and the farm's own.
 * SPDX-License-Identifier: Apache-2.0 */

const VANISHED = ['The worker vanished', 'It stopped answering on every attempt. Look at the Farm page, then retry.'];
const SAY = {
  invalid: ['The request did not fit the model', 'Change what the message names, then send it again.'],
  not_found: ['Something it needs is missing', 'Check that the model’s files are where the worker looks for them.'],
  limit: ['It is larger than the farm allows', 'Make it shorter or smaller.'],
  format: ['A file could not be read', 'The message names the file. Often it is a damaged download: fetch it again.'],
  io: ['A disk or the network failed', 'Check free space on server and worker, then retry.'],
  no_memory: ['The worker ran out of memory', 'Retry with fewer frames or a smaller size, or on a larger worker.'],
  device: ['The device failed', 'Retry: another worker may take it. If it happens again, restart that worker.'],
  worker_lost: VANISHED,
  lease_expired: VANISHED,
  no_worker: ['No worker can make this', 'Start one that holds this model and has enough memory.'],
  cancelled: ['Cancelled', 'Nothing is wrong; retry makes it after all.'],
};

/* -> {title, message, advice} for a Video's error */
export function explain(error) {
  const [title, advice] = SAY[error?.code]
    ?? ['It could not be made', 'Retry; if it fails again, the message says where to look.'];
  return {title, message: error?.message ?? '', advice};
}

/* For a call that the farm refused or that never arrived. */
export function explainCall(error) {
  if (!error.status) return 'The farm cannot be reached. Nothing was sent; your text is safe here.';
  if (error.status === 429) return `The queue is full. ${error.message}`;
  if (error.status === 507) return `The farm’s disk is full. ${error.message}`;
  if (error.status === 401 || error.status === 403) return `Not allowed. ${error.message}`;
  if (error.status >= 500) return `The farm had a problem: ${error.message}`;
  return error.message;
}
