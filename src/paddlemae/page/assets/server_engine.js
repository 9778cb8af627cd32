'use strict';
// The engine of a page whose model runs in the server that sent it; the interface is that of engines.js.
// A message is the length of a JSON text (4 bytes, little-endian), the text, and then arrays; see serve/messages.py.

/**
 * Return an engine that asks the server.
 *
 * While a request waits in the server's queue, onProgress gets {done: 0, total: 1, position, seconds}: how many are
 * before it, or null where the server takes no more for now, and about how long it takes.
 */
function createServerEngine(header) {
  const FEWEST_MS = 150; // between two questions about a request
  const MOST_MS = 2000;
  const SETTLE_MS = 100; // without a newer request, before one is sent whose forerunner was given up
  const TRIES = 8; // of a request that the server has no room for, or has forgotten
  const base = new URL('.', document.baseURI);
  const requestUrl = new URL(header.endpoint.url, base);
  const jobUrl = (ticket) => new URL(header.endpoint.jobs + encodeURIComponent(ticket), base);
  const page = Array.from(crypto.getRandomValues(new Uint32Array(4)), (number) => number.toString(36)).join('');
  let running = null; // an AbortController
  let isHasty = false; // the last request was given up

  function cancel() {
    if (!running) return;
    isHasty = true;
    running.abort();
    running = null;
  }

  async function run(request, onProgress = () => {}) {
    cancel();
    const control = new AbortController();
    running = control;
    try {
      if (isHasty) await pause(SETTLE_MS, control.signal);
      const message = await ask(writeRequest(request), control.signal, onProgress);
      isHasty = false;
      return readAnswer(message);
    } catch (error) {
      if (control.signal.aborted) throw new DOMException('a newer request took its place', 'AbortError');
      throw error;
    } finally {
      if (running === control) running = null;
    }
  }

  /** Send a request, wait for its turn, and return the answer's bytes. */
  async function ask(body, signal, onProgress) {
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      const sent = await send(requestUrl, { method: 'POST', body, headers: { 'Content-Type': 'application/octet-stream' }, signal });
      const response = sent.status === 202 ? await waitFor(await sent.json(), signal, onProgress) : sent;
      if (response?.status === 200) return response.arrayBuffer();
      if (response && ![429, 503].includes(response.status)) throw new Error(await errorOf(response));
      const seconds = Number(response?.headers.get('Retry-After')) || 0;
      if (seconds) onProgress({ done: 0, total: 1, position: null, seconds });
      await pause(1000 * seconds, signal);
    }
    throw new Error('the server has too much to do; try again later');
  }

  /** Ask for a request in the queue until it is answered; null if the server has forgotten it. */
  async function waitFor(place, signal, onProgress) {
    const url = jobUrl(place.ticket);
    try {
      for (;;) {
        onProgress({ done: 0, total: 1, position: place.position, seconds: place.seconds });
        await pause(Math.min(MOST_MS, Math.max(FEWEST_MS, 500 * place.seconds)), signal);
        const response = await send(url, { signal });
        if (response.status === 429) await pause(1000 * Number(response.headers.get('Retry-After') || 1), signal);
        else if (response.status === 202) place = await response.json();
        else return response.status === 404 ? null : response;
      }
    } catch (error) {
      if (signal.aborted) fetch(url, { method: 'DELETE', keepalive: true }).catch(() => {});
      throw error;
    }
  }

  async function send(url, options) {
    try {
      return await fetch(url, { cache: 'no-store', credentials: 'omit', ...options });
    } catch (error) {
      if (options.signal.aborted) throw error;
      throw new Error('the server does not answer; see whether paddlemae serve still runs');
    }
  }

  async function errorOf(response) {
    try {
      return (await response.json()).error;
    } catch {
      return `the server refused this (${response.status})`;
    }
  }

  function pause(milliseconds, signal) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, milliseconds);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        reject(signal.reason);
      }, { once: true });
    });
  }

  /** Return the message of a request; `page` lets the server drop those before it. */
  function writeRequest({ pixels, removed, attention, features }) {
    const options = { attention: attention ?? null, features: Boolean(features), page };
    const text = new TextEncoder().encode(JSON.stringify(options));
    const message = new Uint8Array(4 + text.length + removed.length + 4 * pixels.length);
    const view = new DataView(message.buffer);
    view.setUint32(0, text.length, true);
    message.set(text, 4);
    message.set(removed, 4 + text.length);
    const start = 4 + text.length + removed.length;
    pixels.forEach((value, i) => view.setFloat32(start + 4 * i, value, true));
    return message;
  }

  /** Return the result that a message holds, as the other engines give it. */
  function readAnswer(message) {
    const view = new DataView(message);
    const size = view.getUint32(0, true);
    const { arrays: listed, milliseconds } = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 4, size)));
    const arrays = {};
    let offset = 4 + size;
    for (const { name, type, shape } of listed) {
      const count = shape.reduce((product, side) => product * side, 1);
      const read = type === 'float32' ? view.getFloat32 : view.getInt32;
      const data = new (type === 'float32' ? Float32Array : Int32Array)(count);
      for (let i = 0; i < count; i++) data[i] = read.call(view, offset + 4 * i, true);
      arrays[name] = { data, shape };
      offset += 4 * count;
    }
    const { plain, logits, attention, features } = arrays;
    return {
      plain: plain?.data ?? null,
      logits: logits?.data ?? null,
      logitsGrid: logits?.shape.length === 3 ? logits.shape.slice(0, 2) : null,
      attention: attention ? attentionOf(attention, arrays) : null,
      features: features?.data ?? null,
      milliseconds,
    };
  }

  function attentionOf({ data, shape: [heads, queries, keys] }, arrays) {
    const queryPatches = arrays.query_patches.data;
    return { heads, queries, keys, queryPatches, keyPatches: arrays.key_patches.data, weights: data };
  }

  return { run, cancel, close: cancel, where: 'server' };
}
