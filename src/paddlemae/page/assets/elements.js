'use strict';
// Elements of the page: find, make and draw them. Text from files and models is only ever set as text.

const paddlemaeElements = (() => {
  const byId = (id) => document.getElementById(id);

  /** Make an element; strings among the children become text. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** Draw RGBA values on a canvas that becomes as large as they are. */
  function drawPixels(canvas, rgba, [height, width]) {
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    canvas.getContext('2d').putImageData(new ImageData(rgba, width, height), 0, 0);
  }

  /** Give a canvas as many pixels as the screen shows of it; return its context, in CSS pixels, with its size. */
  function prepareCanvas(canvas) {
    const { width, height } = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return { context, width, height };
  }

  /** Return a function that calls `draw` once before the next frame, however often it is called itself. */
  function oncePerFrame(draw) {
    let asked = false;
    return () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        draw();
      });
    };
  }

  /** Offer a canvas as a PNG file. */
  function saveCanvas(canvas, name) {
    canvas.toBlob((blob) => {
      const url = URL.createObjectURL(blob);
      make('a', { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    }, 'image/png');
  }

  /** Open a dialog over the page, also in a browser that has no dialogs of its own. */
  function openDialog(dialog) {
    if (dialog.showModal) dialog.showModal();
    else dialog.setAttribute('open', '');
  }

  function closeDialog(dialog) {
    if (dialog.close) dialog.close();
    else dialog.removeAttribute('open');
  }

  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;

  return { byId, make, drawPixels, prepareCanvas, oncePerFrame, saveCanvas, openDialog, closeDialog, percent };
})();
