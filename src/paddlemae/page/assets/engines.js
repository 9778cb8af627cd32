'use strict';
// Where the model runs: in a worker, or in the page itself where there are no workers. One interface:
//
// engine.run(request, onProgress) -> Promise of a result; a newer run cancels the older one, whose promise is rejected
// with an AbortError. engine.cancel() cancels, engine.close() ends. engine.where is 'worker', 'page' or 'server'.
//
// request: pixels Float32Array [H W C], shares of the value range; removed Uint8Array [L], 1 where a patch is removed;
//   attention null or {part: 'encoder' or 'decoder', block}; features true for the feature of the whole image too.
// result: plain Float32Array [L P] or null; logits or null, with logitsGrid [h, w] for a segmenter; attention null or
//   {heads, queries, keys, queryPatches, keyPatches, weights [heads, queries, keys]}; features or null; milliseconds.

const paddlemaeEngines = (() => {
  const SLICE = 12; // milliseconds of work between two looks at new messages

  const abortError = () => new DOMException('a newer request took its place', 'AbortError');

  /** Run the steps of a request, looking at messages in between; throws an AbortError when `isCurrent` turns false. */
  async function drive(model, request, isCurrent, onProgress) {
    const begun = performance.now();
    const steps = paddlemaeNetwork.run(model, request);
    const total = paddlemaeNetwork.stepsOf(model, request);
    let paused = begun;
    for (let done = 1; ; done++) {
      const { value, done: isDone } = steps.next();
      if (isDone) return { ...value, milliseconds: performance.now() - begun };
      if (performance.now() - paused > SLICE) {
        onProgress({ done, total });
        await messagesRead();
        paused = performance.now();
      }
      if (!isCurrent()) throw abortError();
    }
  }

  /** Wait until the messages that have arrived are handled. */
  function messagesRead() {
    return new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(null);
    });
  }

  /** Answer the messages of a page, inside a worker. */
  function serveWorker(scope) {
    let model, current = 0;
    scope.onmessage = async ({ data }) => {
      if (data.type === 'load') {
        model = paddlemaeNetwork.readModel(data.header, data.bytes);
        scope.postMessage({ type: 'ready' });
      } else if (data.type === 'cancel') {
        current = 0;
      } else {
        const { id } = data;
        current = id;
        await messagesRead(); // of several requests that wait, only the newest is computed
        if (current !== id) return scope.postMessage({ type: 'aborted', id });
        try {
          const say = (progress) => scope.postMessage({ type: 'progress', id, progress });
          const result = await drive(model, data.request, () => current === id, say);
          scope.postMessage({ type: 'result', id, result });
        } catch (error) {
          scope.postMessage({ type: error.name === 'AbortError' ? 'aborted' : 'failed', id, message: String(error) });
        }
      }
    };
  }

  /** Return an engine in a worker made from the page's own scripts; rejects where that is not possible. */
  function createWorkerEngine(header, bytes, source) {
    return new Promise((resolve, reject) => {
      const url = URL.createObjectURL(new Blob([source, '\npaddlemaeEngines.serveWorker(self);'], { type: 'text/javascript' }));
      const worker = new Worker(url);
      const waiting = new Map(); // id -> {resolve, reject, onProgress}
      let last = 0;
      const settle = (id, settled) => {
        const one = waiting.get(id);
        waiting.delete(id);
        if (one) settled(one);
      };
      worker.onerror = (event) => reject(new Error(event.message || 'the worker did not start'));
      worker.onmessage = ({ data }) => {
        if (data.type === 'ready') {
          URL.revokeObjectURL(url);
          resolve({ run, cancel, close: () => worker.terminate(), where: 'worker' });
        } else if (data.type === 'progress') waiting.get(data.id)?.onProgress(data.progress);
        else if (data.type === 'result') settle(data.id, (one) => one.resolve(data.result));
        else if (data.type === 'aborted') settle(data.id, (one) => one.reject(abortError()));
        else settle(data.id, (one) => one.reject(new Error(data.message)));
      };
      worker.postMessage({ type: 'load', header, bytes });

      function run(request, onProgress = () => {}) {
        const id = ++last;
        return new Promise((done, failed) => {
          waiting.set(id, { resolve: done, reject: failed, onProgress });
          worker.postMessage({ type: 'run', id, request });
        });
      }

      function cancel() {
        worker.postMessage({ type: 'cancel' });
      }
    });
  }

  function createPageEngine(header, bytes) {
    const model = paddlemaeNetwork.readModel(header, bytes);
    let current = 0, last = 0;
    async function run(request, onProgress = () => {}) {
      const id = current = ++last;
      await messagesRead();
      if (current !== id) throw abortError();
      return drive(model, request, () => current === id, onProgress);
    }
    return { run, cancel: () => { current = 0; }, close: () => {}, where: 'page' };
  }

  /** Return the bytes of base64 text. */
  function bytesOf(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  }

  /** Return the bytes of a page's content: base64 of what zlib compressed. */
  async function contentOf(text) {
    if (typeof DecompressionStream === 'undefined') {
      throw new Error('this browser is too old for the page; use one of 2023 or later');
    }
    const unpacked = new Blob([bytesOf(text.trim())]).stream().pipeThrough(new DecompressionStream('deflate'));
    return new Uint8Array(await new Response(unpacked).arrayBuffer());
  }

  /**
   * Return the engine that fits the page and the browser.
   *
   * @param source the text of the scripts that a worker needs: simd, arithmetic, heads, network, engines.
   */
  async function createEngine(header, bytes, source) {
    if (header.endpoint) return createServerEngine(header);
    try {
      return await createWorkerEngine(header, bytes, source);
    } catch {
      return createPageEngine(header, bytes);
    }
  }

  return { createEngine, createPageEngine, createWorkerEngine, serveWorker, bytesOf, contentOf };
})();
