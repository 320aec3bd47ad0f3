/* Runs pieces of JavaScript with the stock client, as a user would write them: one JSON line in, one out.
 *     in   {"code": "return client.videos.retrieve(args.id)", "args": {...}, "baseURL": "...", "options": {...}}
 *     out  {"value": ...} or {"error": {"class", "status", "code", "param", "type", "requestID", "message", "headers"}}
 * SPDX-License-Identifier: Apache-2.0 */
import * as buffer from 'node:buffer';
import * as fs from 'node:fs';
import * as readline from 'node:readline';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

globalThis.File ??= buffer.File; /* Node 18 has it under another name; the SDK asks for exactly this line */

const require = createRequire(pathToFileURL(process.argv[2] + '/package.json'));
const { default: OpenAI, toFile } = require('openai');
const AsyncFunction = (async () => {}).constructor;

const tell = (answer) => process.stdout.write(JSON.stringify(answer) + '\n');

for await (const line of readline.createInterface({ input: process.stdin })) {
    const { code, args, baseURL, options } = JSON.parse(line);
    const client = new OpenAI({ apiKey: 'not needed', baseURL, ...options });
    try {
        const run = new AsyncFunction('client', 'args', 'OpenAI', 'toFile', 'fs', code);
        tell({ value: (await run(client, args, OpenAI, toFile, fs)) ?? null });
    } catch (e) {
        const headers = e.headers ? Object.fromEntries(e.headers.entries()) : {};
        const { status, code: why, param, type, requestID, message } = e;
        tell({ error: { class: e.constructor.name, status, code: why, param, type, requestID, message, headers } });
    }
}
