'use strict';
// The page: its state, and what happens between a choice of the reader and the pictures that are shown.

(() => {
  const { byId, drawPixels, saveCanvas, openDialog } = paddlemaeElements;
  const masks = paddlemaeMasks;
  const pictures = paddlemaePictures;
  const UNDO = 200; // masks that can be taken back
  const QUIET = 700; // milliseconds without a change until screen readers learn of the last one
  const LEADS = {
    mae: 'Paint over a picture to take parts of it away. A masked autoencoder sees what is left and fills in the rest.',
    classifier: 'Paint over a picture to take parts of it away, and watch what the classifier makes of the rest.',
    segmenter: 'Paint over a picture to take parts of it away, and watch how the model divides it into classes.',
    encoder: 'See where the patches of a picture look, and which pictures the model finds alike.',
  };
  const PLACES = {
    worker: 'in your browser',
    page: 'in your browser, which has no workers: the page may halt meanwhile',
    server: 'on the server',
    webgpu: 'in your browser, on the GPU',
  };
  const ONE_KEPT = 'One patch must be kept: without any, the model has nothing to go by.';

  const header = JSON.parse(byId('model').textContent);
  const total = header.grid[0] * header.grid[1];
  const isMae = header.kind === 'mae';

  const state = {
    picture: null, // as gallery.js makes it
    removed: firstMask(),
    undo: [],
    tool: 'brush',
    size: 1, // of the brush, in patches
    drawn: { kind: 'random', seed: 0, ratio: header.mask_ratio ?? 0.75 }, // what the slider changes
    shown: null, // {request, result, picture}: what the pictures are drawn of
  };
  let parts = null; // gallery, stage, runs, attention, neighbours, classes: made by `start`

  function firstMask() {
    return isMae ? drawMask({ kind: 'random', seed: 0, ratio: header.mask_ratio ?? 0.75 }) : new Uint8Array(total);
  }

  /* ------------------------------------------------------------------------------------------------- words */

  /** Show one line at the foot of the window, where it moves nothing under a brush; null takes it away. */
  function say(words, kind = 'warning') {
    byId('message-box').hidden = !words;
    byId('message').textContent = words ?? '';
    byId('message').dataset.kind = kind;
  }

  /** Tell screen readers. */
  function tell(words) {
    byId('live').textContent = words;
  }

  let quiet = null;
  function tellWhenQuiet(words) {
    clearTimeout(quiet);
    quiet = setTimeout(() => tell(words), QUIET);
  }

  const countWords = (removed) => `${masks.countRemoved(removed)} of ${total} patches removed`;

  function caption(removed) {
    if (!isMae) return `${countWords(removed)}.`;
    const target = byId('plain').checked ? 'plain' : header.target;
    return header.captions[target].replace('{removed}', masks.countRemoved(removed)).replace('{total}', total);
  }

  /* -------------------------------------------------------------------------------------------------- mask */

  /** Remember the mask, to be undone. */
  function begin() {
    if (state.picture) byId('original-name').textContent = state.picture.name; // who paints needs no invitation to
    state.undo.push(state.removed);
    if (state.undo.length > UNDO) state.undo.shift();
  }

  /** Take over a mask; of one of everything, one patch is kept. */
  function change(removed) {
    const isAll = masks.keepOne(removed, state.removed);
    const isKept = byId('message').textContent === ONE_KEPT;
    if (isAll) say(ONE_KEPT);
    else if (isKept) say(null);
    state.removed = removed;
    showMask();
    if (state.picture && parts) parts.runs.ask();
  }

  function replaceMask(removed) {
    begin();
    change(removed);
  }

  /** Go back to the last mask that differs: a stroke over removed patches changes nothing. */
  function undo() {
    const differs = (mask) => mask.some((value, place) => value !== state.removed[place]);
    while (state.undo.length) {
      const mask = state.undo.pop();
      if (differs(mask)) return change(mask);
    }
    showMask();
  }

  function drawMask({ kind, seed, ratio }) {
    const keep = masks.numKept(total, ratio);
    const draw = masks.generator(seed);
    if (kind === 'grid') return masks.gridMask(header.grid);
    if (kind === 'block') return masks.blockMask(draw, header.grid, keep);
    return masks.randomMask(Float64Array.from({ length: total }, draw), keep);
  }

  /** Remove another share of the patches, in the way and from the seed of the last mask that was drawn. */
  function setRatio(ratio) {
    const { kind, seed } = state.drawn;
    state.drawn = { kind: kind === 'grid' ? 'random' : kind, seed, ratio: Math.min(1, Math.max(0, ratio)) };
    const mask = drawMask(state.drawn);
    if (state.drawn.ratio === 1) mask.fill(1); // so that the reader learns why one is kept
    change(mask);
  }

  function showMask() {
    if (!parts) return; // the model is loading
    parts.stage.refresh();
    byId('undo').disabled = !state.undo.length;
    const share = Math.round((100 * masks.countRemoved(state.removed)) / total);
    byId('ratio-value').textContent = `${share}%`;
    if (document.activeElement !== byId('ratio')) byId('ratio').value = share;
    if (!state.picture) return;
    const masked = pictures.maskRgba(header, state.picture.rgba, state.removed);
    drawPixels(byId('masked'), masked, header.image);
  }

  /* ----------------------------------------------------------------------------------------------- pictures */

  function choose(picture) {
    if (picture === state.picture) return;
    state.picture = picture;
    if (!isMae) {
      state.removed = new Uint8Array(total);
      state.undo = [];
    }
    drawPixels(byId('original'), picture.rgba, header.image);
    if (!parts) return;
    byId('original-name').textContent = picture.name;
    parts.classes?.forget();
    showMask();
    parts.neighbours.show(picture);
    parts.runs.ask();
  }

  function request() {
    const { picture, removed } = state;
    return {
      pixels: picture.pixels,
      removed: removed.slice(),
      attention: parts.attention.wanted(),
      features: parts.neighbours.needs(picture),
    };
  }

  function finished(asked, result) {
    const { picture } = state;
    if (asked.pixels !== picture.pixels) return; // another picture has been chosen, and its request waits
    state.shown = { asked, result, picture };
    if (result.features) {
      picture.features = result.features;
      parts.neighbours.show(picture);
    }
    showResult();
    const took = `${Math.max(1, Math.round(result.milliseconds))} ms`;
    byId('status').textContent = `Computed in ${took} ${PLACES[parts.engine.where] ?? ''}`;
    const said = parts.classes ? `; ${parts.classes.best()}` : '';
    tellWhenQuiet(`${countWords(asked.removed)}; ${isMae ? 'reconstructed' : 'computed'} in ${took}${said}`);
  }

  /** Draw all that depends on the result. */
  function showResult() {
    const { asked, result, picture } = state.shown;
    if (result.plain) showStages(asked, result, picture);
    if (result.logits) {
      if (header.kind === 'segmenter') parts.classes.show(result, picture.rgba);
      else parts.classes.show(result.logits, !asked.removed.includes(1));
    }
    parts.attention.show(result.attention, asked.attention, byId('original'));
    byId('caption').textContent = caption(asked.removed);
  }

  function showStages({ removed }, { plain }, picture) {
    const stages = pictures.drawStages(header, picture.pixels, removed, plain);
    const isPlain = byId('plain').checked;
    const draw = (id, pixels, range) => {
      drawPixels(byId(id), pictures.toRgba(header, pixels, range), header.image);
    };
    draw('completed', stages.completed, picture.range);
    if (isPlain) draw('prediction', stages.plain, pictures.shownRange(header, stages.plain));
    else draw('prediction', stages.prediction, picture.range);
  }

  function failed(error) {
    say(`The model could not be run: ${error.message}`);
  }

  /* -------------------------------------------------------------------------------------------------- tools */

  function chooseTool(tool) {
    state.tool = tool;
    for (const button of document.querySelectorAll('[data-tool]')) {
      button.setAttribute('aria-pressed', String(button.dataset.tool === tool));
    }
    byId('size').disabled = tool === 'box';
  }

  function setSize(size) {
    byId('size').value = size;
    state.size = Number(byId('size').value);
    byId('size-value').textContent = state.size;
  }

  const stepsRatio = (by) => () => {
    begin();
    setRatio(state.drawn.ratio + by);
  };

  const draws = (kind) => () => {
    state.drawn = { kind, seed: state.drawn.seed + 1, ratio: state.drawn.ratio };
    replaceMask(drawMask(state.drawn));
  };
  const ACTIONS = {
    undo,
    clear: () => replaceMask(new Uint8Array(total)),
    invert: () => replaceMask(masks.invertMask(state.removed)),
    help: () => openDialog(byId('help')),
  };
  const KEYS = {
    b: () => chooseTool('brush'), e: () => chooseTool('eraser'), x: () => chooseTool('box'),
    '+': () => setSize(state.size + 1), '=': () => setSize(state.size + 1), '-': () => setSize(state.size - 1),
    r: draws('random'), k: draws('block'), g: draws('grid'),
    '[': stepsRatio(-0.05), ']': stepsRatio(0.05),
    c: ACTIONS.clear, i: ACTIONS.invert, z: undo, '?': ACTIONS.help,
    n: () => parts.gallery.step(1), p: () => parts.gallery.step(-1),
    Escape: () => parts.runs.cancel(),
  };

  function press({ key, altKey }) {
    const action = altKey ? null : KEYS[key] ?? KEYS[key.toLowerCase()];
    if (!action) return false;
    action();
    return true;
  }

  function listenToTools() {
    for (const button of document.querySelectorAll('[data-tool]')) {
      button.addEventListener('click', () => chooseTool(button.dataset.tool));
    }
    for (const button of document.querySelectorAll('[data-mask]')) {
      button.addEventListener('click', draws(button.dataset.mask));
    }
    for (const name of ['undo', 'clear', 'invert']) byId(name).addEventListener('click', ACTIONS[name]);
    byId('open-help').addEventListener('click', ACTIONS.help);
    byId('message-close').addEventListener('click', () => say(null));
    byId('size').max = Math.max(2, Math.ceil(Math.max(...header.grid) / 3));
    setSize(Math.max(1, Math.round(Math.max(...header.grid) / 8)));
    byId('size').addEventListener('input', () => setSize(byId('size').value));
    byId('ratio').addEventListener('pointerdown', begin);
    byId('ratio').addEventListener('keydown', (event) => { if (event.key.startsWith('Arrow')) begin(); });
    byId('ratio').addEventListener('input', () => setRatio(byId('ratio').value / 100));
    byId('plain').addEventListener('change', () => { if (state.shown) showResult(); });
    document.addEventListener('keydown', (event) => {
      if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === 'z') {
        event.preventDefault();
        undo();
      }
    });
  }

  function listenToSaves() {
    const base = () => {
      const name = (state.picture?.name ?? '').replace(/^.*[\\/]/, '').replace(/\.\w+$/, '');
      return name.replace(/[^\w-]+/g, '-') || 'picture';
    };
    byId('save-completed').addEventListener('click', () => saveCanvas(byId('completed'), `${base()}-completed.png`));
    byId('save-labels').addEventListener('click', () => saveCanvas(byId('labels'), `${base()}-classes.png`));
    byId('save-mask').addEventListener('click', () => {
      const canvas = document.createElement('canvas');
      drawPixels(canvas, pictures.drawMask(header, state.removed), header.image);
      saveCanvas(canvas, `${base()}-mask.png`);
    });
  }

  /* -------------------------------------------------------------------------------------------------- start */

  function startTheme() {
    const root = document.documentElement;
    const set = (theme) => {
      if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
      else delete root.dataset.theme;
      byId('theme').textContent = `Theme: ${root.dataset.theme ?? 'auto'}`;
    };
    try { set(localStorage.getItem('paddlemae-theme')); } catch { set(null); } // a page from disk may have no storage
    byId('theme').addEventListener('click', () => {
      set({ auto: 'light', light: 'dark', dark: 'auto' }[root.dataset.theme ?? 'auto']);
      try { localStorage.setItem('paddlemae-theme', root.dataset.theme ?? 'auto'); } catch { /* as above */ }
    });
  }

  /** Write what the model is, and show what its kind has. */
  function introduce() {
    const shapes = Object.values(header.tensors ?? {}).map(({ shape }) => shape);
    const numbers = shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
    const size = numbers >= 1e6 ? `${(numbers / 1e6).toFixed(1)} million` : `${Math.round(numbers / 1e3)} thousand`;
    const by = ([height, width]) => `${width} × ${height}`;
    const facts = [
      ...(header.name ? [header.name] : []),
      `Pictures of ${by(header.image)} pixels in ${by(header.grid)} patches of ${by(header.patch)}`,
      ...(numbers ? [`${size} parameters`] : []),
    ];
    byId('lead').textContent = LEADS[header.kind] ?? '';
    byId('status').textContent = 'The model is starting.';
    byId('facts').textContent = facts.join(' · ');
    if (header.endpoint) {
      byId('where-text').textContent = 'on the server that this page came from, which gets the pictures that you open';
    }
    for (const id of ['panel-completed', 'panel-prediction']) byId(id).hidden = !isMae;
    byId('plain-switch').hidden = header.target !== 'normalised' || !isMae;
    document.body.dataset.kind = header.kind;
    document.body.classList.toggle('coarse', Math.min(...header.image) < 96);
    document.documentElement.style.setProperty('--image-aspect', `${header.image[1]} / ${header.image[0]}`);
    document.documentElement.style.setProperty('--image-ratio', header.image[1] / header.image[0]);
    if (!paddlemaeImages.readsFiles(header)) {
      const shown = pictures.shownChannels(header.channels).map((c) => c + 1).join(', ');
      for (const id of ['open-file', 'open-camera']) byId(id).hidden = true;
      byId('own').classList.add('samples-only');
      byId('own-hint').textContent = `Images of ${header.channels} channels: samples only, `
        + `with channels ${shown} as red, green and blue.`;
    }
  }

  async function start() {
    startTheme();
    introduce();
    listenToTools();
    listenToSaves();
    let bytes;
    try {
      bytes = await paddlemaeEngines.contentOf(byId('content').textContent);
    } catch (error) {
      return failed(error);
    }
    const gallery = paddlemaeGallery.createGallery(header, bytes, { choose, say });
    gallery.select(0);
    let engine;
    try {
      engine = await paddlemaeEngines.createEngine(header, bytes, byId('engine').textContent);
    } catch (error) {
      return failed(error);
    }
    const { createBars, createSegments } = paddlemaeClasses;
    const makeClasses = { classifier: createBars, segmenter: createSegments }[header.kind];
    const cancelled = () => { byId('status').textContent = 'Cancelled: the pictures show the mask before.'; };
    parts = {
      engine,
      gallery,
      runs: paddlemaeRuns.createRuns(engine, { request, finished, failed, cancelled }),
      attention: paddlemaeAttention.createAttention(header, { ask: () => parts.runs.ask() }),
      neighbours: paddlemaeNeighbours.createNeighbours(header, bytes, {
        open: gallery.selectSample,
        thumbnailOf: gallery.thumbnailOf,
      }),
      classes: makeClasses?.(header) ?? null,
      stage: paddlemaeStage.createStage(byId('patches'), header.grid, {
        mask: () => state.removed,
        tool: () => ({ kind: state.tool, size: state.size }),
        begin,
        change,
        say: tell,
        press,
      }),
    };
    paddlemaeCamera.createCamera({
      take: async (video) => gallery.add(await paddlemaeImages.readPicture(video, header), 'camera'),
      say,
    });
    document.body.dataset.ready = engine.where;
    if (!state.picture) return say('There is no sample on this page: open a picture to begin.', 'quiet');
    showMask();
    parts.neighbours.show(state.picture);
    parts.runs.ask();
  }

  start();
})();
