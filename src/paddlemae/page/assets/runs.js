'use strict';
// Which requests the engine gets: of those that come while one is computed, the newest; progress of those that take long.

const paddlemaeRuns = (() => {
  const { byId } = paddlemaeElements;
  // milliseconds: a request that is expected to end sooner is not cancelled for a newer one, so that the pictures follow
  // a brush that never rests
  const PATIENCE = 1000;
  const SHOW_AFTER = 600; // milliseconds until progress is shown

  /**
   * Return {ask(), cancel()}.
   *
   * request() -> the request to make now. finished(request, result) and failed(error): how it ended; cancelled(): by a reader.
   */
  function createRuns(engine, { request, finished, failed, cancelled }) {
    let wanted = false;
    let running = false;
    let begun = 0; // when the one that runs was asked for, in milliseconds
    let usual = Infinity; // milliseconds that the last one took
    const progress = createProgress(cancel);

    async function work() {
      running = true;
      while (wanted) {
        wanted = false;
        const asked = request();
        const stop = progress.start();
        begun = performance.now();
        try {
          const result = await engine.run(asked, stop.report);
          usual = performance.now() - begun;
          finished(asked, result);
        } catch (error) {
          if (error?.name !== 'AbortError') failed(error);
        } finally {
          stop();
        }
      }
      running = false;
    }

    function ask() {
      wanted = true;
      if (!running) work();
      else if (begun + usual - performance.now() > PATIENCE) engine.cancel();
    }

    function cancel() {
      if (!running) return false;
      wanted = false;
      engine.cancel();
      cancelled();
      return true;
    }

    return { ask: paddlemaeElements.oncePerFrame(ask), cancel };
  }

  function createProgress(cancel) {
    const [panel, bar, text, button] = ['long', 'progress', 'progress-text', 'cancel'].map(byId);
    const setShown = (isShown) => {
      panel.hidden = !isShown;
      button.hidden = !isShown;
      byId('status').hidden = isShown;
    };

    function report({ done, total, position, seconds }) {
      if (position !== undefined) {
        bar.removeAttribute('value');
        const place = position === null ? 'The server has too much to do' : `${position} before you`;
        text.textContent = `${place}, about ${Math.ceil(seconds)} s`;
      } else {
        bar.value = done / total;
        text.textContent = `${Math.round((100 * done) / total)}%`;
      }
    }

    function start() {
      bar.removeAttribute('value');
      text.textContent = 'computing';
      const timer = setTimeout(() => setShown(true), SHOW_AFTER);
      const stop = () => {
        clearTimeout(timer);
        setShown(false);
      };
      stop.report = report;
      return stop;
    }

    button.addEventListener('click', cancel);
    return { start };
  }

  return { createRuns };
})();
