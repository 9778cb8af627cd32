'use strict';
// The panel of attention: where a patch looks, in a block and head that one chooses.

const paddlemaeAttention = (() => {
  const { byId, make, oncePerFrame, prepareCanvas, percent } = paddlemaeElements;
  // from dark to light through hues that all kinds of colour vision tell apart (viridis, by van der Walt and Smith)
  const COLOURS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
    [92, 200, 99], [170, 220, 50], [253, 231, 37]];
  const TOP = 3; // patches that the text names

  function colourOf(share) {
    const place = Math.min(1, Math.max(0, share)) * (COLOURS.length - 1);
    const low = Math.min(COLOURS.length - 2, Math.floor(place));
    return COLOURS[low].map((value, c) => Math.round(value + (COLOURS[low + 1][c] - value) * (place - low)));
  }

  /**
   * Return {shares [L], toClass} of a patch's attention, or null where the block has none of it.
   *
   * head: a number, or 'mean' of all. shares are NaN of patches that the block does not look at.
   */
  function attentionOf(attention, patch, head, total) {
    const { heads, queries, keys, queryPatches, keyPatches, weights } = attention;
    const query = queryPatches.indexOf(patch);
    if (query < 0) return null;
    const chosen = head === 'mean' ? Array.from({ length: heads }, (_, place) => place) : [Number(head)];
    const found = { shares: new Float64Array(total).fill(NaN), toClass: null };
    for (let key = 0; key < keys; key++) {
      const share = chosen.reduce((sum, one) => sum + weights[(one * queries + query) * keys + key], 0) / chosen.length;
      if (keyPatches[key] < 0) found.toClass = share;
      else found.shares[keyPatches[key]] = share;
    }
    return found;
  }

  const words = (place, columns) => `row ${Math.floor(place / columns) + 1}, column ${(place % columns) + 1}`;

  /** Say in words where a patch looks. */
  function describe(found, patch, columns, part) {
    const where = words(patch, columns);
    if (!found) return `The patch at ${where} is removed: the ${part} does not see it. Choose one that is kept.`;
    const seen = [...found.shares.keys()].filter((place) => !Number.isNaN(found.shares[place]));
    const best = seen.sort((a, b) => found.shares[b] - found.shares[a]).slice(0, TOP);
    const named = best.map((place) => `${place === patch ? 'itself' : words(place, columns)} (${percent(found.shares[place], 1)})`);
    const toClass = found.toClass === null ? '' : `; at the cls token ${percent(found.toClass, 1)}`;
    return `The patch at ${where} looks most at ${named.join('; ')}${toClass}.`;
  }

  function fill(select, options, chosen) {
    select.replaceChildren(...options.map(([value, text]) => make('option', { value }, text)));
    select.value = options.some(([value]) => value === chosen) ? chosen : options[0][0];
  }

  /**
   * Show the panel if the model has attention to show.
   *
   * ask(): called when another block is wanted. Returns {wanted() -> of a request, show(attention, picture canvas)}.
   */
  function createAttention(header, { ask }) {
    const section = byId('attention');
    const [part, block, head] = ['part', 'block', 'head'].map((name) => byId(`attention-${name}`));
    const canvas = byId('attention-map');
    const [rows, columns] = header.grid;
    const blocks = header.blocks ?? {};
    const parts = ['encoder', 'decoder'].filter((name) => blocks[name]?.length);
    const shown = { attention: null, source: null, picture: null, isChosen: false }; // isChosen: the patch, by a reader
    if (!parts.length) return { wanted: () => null, show: () => {} };
    section.hidden = false;
    drawScale(byId('attention-scale'));

    const cursor = paddlemaeStage.createCursor(canvas, header.grid, () => byId('attention-text').textContent);
    const draw = oncePerFrame(() => {
      if (shown.attention && !shown.isChosen) cursor.at.splice(0, 2, ...nearestQuery(shown.attention, header.grid));
      const found = shown.attention && attentionOf(shown.attention, cursor.place(), head.value, rows * columns);
      const most = drawMap(canvas, header.grid, shown.picture, found, cursor.at);
      byId('attention-most').textContent = percent(most, 1);
      byId('attention-text').textContent = shown.attention ? describe(found, cursor.place(), columns, shown.source.part) : '';
      cursor.update();
    });

    const wanted = () => (parts.length ? { part: part.value, block: Number(block.value) } : null);
    const fillBlocks = () => fill(block, blocks[part.value].map((_, i) => [String(i), String(i + 1)]),
      String(blocks[part.value].length - 1));
    const fillHeads = () => fill(head, [['mean', 'mean of all'], ...Array.from({ length: blocks[part.value][Number(block.value)] },
      (_, i) => [String(i), String(i + 1)])], head.value);

    fill(part, parts.map((name) => [name, name]), parts[0]);
    fillBlocks();
    fillHeads();
    part.addEventListener('change', () => { fillBlocks(); fillHeads(); ask(); });
    block.addEventListener('change', () => { fillHeads(); ask(); });
    head.addEventListener('change', draw);
    listen(canvas, header.grid, cursor, () => {
      shown.isChosen = true;
      draw();
    });
    if (window.ResizeObserver) new ResizeObserver(draw).observe(canvas);
    const show = (attention, source, picture) => {
      Object.assign(shown, { attention, source, picture });
      draw();
    };
    return { wanted, show };
  }

  /** Return [row, column] of the patch nearest to the middle that looks anywhere. */
  function nearestQuery({ queryPatches }, [rows, columns]) {
    const distance = (place) => Math.hypot(Math.floor(place / columns) - rows / 2, (place % columns) - columns / 2);
    const patches = [...queryPatches].filter((place) => place >= 0).sort((a, b) => distance(a) - distance(b));
    return patches.length ? [Math.floor(patches[0] / columns), patches[0] % columns] : [0, 0];
  }

  function listen(canvas, [rows, columns], cursor, choose) {
    const point = (event) => {
      const [row, column] = paddlemaeStage.placeOf(canvas, [rows, columns], event);
      if (row < 0 || column < 0 || row >= rows || column >= columns) return;
      cursor.at.splice(0, 2, Math.floor(row), Math.floor(column));
      choose();
    };
    canvas.addEventListener('pointermove', point);
    canvas.addEventListener('pointerdown', point);
    canvas.addEventListener('keydown', (event) => {
      if (!cursor.move(event)) return;
      event.preventDefault();
      choose();
    });
  }

  /** Draw the picture in grey with the shares over it; return the largest share. */
  function drawMap(canvas, [rows, columns], picture, found, [row, column]) {
    const { context, width, height } = prepareCanvas(canvas);
    const [tall, wide] = [height / rows, width / columns];
    context.clearRect(0, 0, width, height);
    if (picture) {
      context.filter = 'grayscale(1)';
      context.drawImage(picture, 0, 0, width, height);
      context.filter = 'none';
    }
    const most = found ? found.shares.reduce((a, b) => (b > a ? b : a), 1e-9) : 0;
    for (let place = 0; place < rows * columns; place++) {
      const share = found ? found.shares[place] : NaN;
      const [red, green, blue] = Number.isNaN(share) ? [90, 94, 100] : colourOf(share / most);
      context.fillStyle = `rgb(${red} ${green} ${blue} / ${Number.isNaN(share) ? 0.85 : 0.78})`;
      context.fillRect((place % columns) * wide, Math.floor(place / columns) * tall, wide + 0.5, tall + 0.5);
    }
    for (const [colour, line] of [['#000', 5], ['#fff', 2.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.strokeRect(column * wide + 1, row * tall + 1, wide - 2, tall - 2);
    }
    return most;
  }

  function drawScale(canvas) {
    const context = canvas.getContext('2d');
    for (let x = 0; x < canvas.width; x++) {
      context.fillStyle = `rgb(${colourOf(x / (canvas.width - 1)).join(' ')})`;
      context.fillRect(x, 0, 1, 1);
    }
  }

  return { createAttention, attentionOf };
})();
