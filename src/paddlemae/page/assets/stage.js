'use strict';
// The canvas over the original on which one paints: pointer and keys become masks. It draws the mask, not the picture.

const paddlemaeStage = (() => {
  const { oncePerFrame, prepareCanvas, make } = paddlemaeElements;
  const { paintLine, paintBox } = paddlemaeMasks;
  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  /** Return the place of a pointer on a canvas in patches, with fractions. */
  function placeOf(canvas, [rows, columns], event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * rows, ((event.clientX - box.left) / box.width) * columns];
  }

  /**
   * Make a canvas a grid that the keyboard moves in: one cell of it is described at a time.
   *
   * describe([row, column]) -> what the cell's words are.
   * Returns {at, move(event), update(selected), place(), words()}: `at` is [row, column], which callers may change.
   */
  function createCursor(canvas, [rows, columns], describe) {
    const at = [0, 0];
    const cell = make('span', { role: 'gridcell' });
    canvas.setAttribute('aria-rowcount', rows);
    canvas.setAttribute('aria-colcount', columns);
    canvas.append(make('span', { role: 'row' }, cell));

    function update(selected) {
      cell.id = `${canvas.id}-${at[0] + 1}-${at[1] + 1}`;
      cell.parentElement.setAttribute('aria-rowindex', at[0] + 1);
      cell.setAttribute('aria-colindex', at[1] + 1);
      if (selected !== undefined) cell.setAttribute('aria-selected', selected);
      cell.textContent = describe(at);
      canvas.setAttribute('aria-activedescendant', cell.id);
    }

    /** Move by a key; return whether it was one that moves. */
    function move({ key, ctrlKey }) {
      if (ARROWS[key]) {
        at[0] = Math.min(rows - 1, Math.max(0, at[0] + ARROWS[key][0]));
        at[1] = Math.min(columns - 1, Math.max(0, at[1] + ARROWS[key][1]));
      } else if (key === 'Home' || key === 'End') {
        at[1] = key === 'Home' ? 0 : columns - 1;
        if (ctrlKey) at[0] = key === 'Home' ? 0 : rows - 1;
      } else return false;
      return true;
    }

    return { at, move, update, place: () => at[0] * columns + at[1], words: () => cell.textContent };
  }

  /**
   * Let a canvas be painted on.
   *
   * hooks: mask() -> the mask now; tool() -> {kind: 'brush', 'eraser' or 'box', size}; begin() before a stroke;
   *   change(mask) with the mask that a stroke asks for; say(words) for screen readers; press(event) -> whether its
   *   key is known.
   */
  function createStage(canvas, grid, hooks) {
    const isRemoved = ([row, column]) => hooks.mask()[row * grid[1] + column];
    const describe = (at) => `row ${at[0] + 1}, column ${at[1] + 1}: ${isRemoved(at) ? 'removed' : 'kept'}`;
    const cursor = createCursor(canvas, grid, describe);
    const shown = { hover: null, corner: null, usesKeys: false };
    let stroke = null;
    const draw = oncePerFrame(() => drawStage(canvas, grid, hooks.mask(), shown, cursor.at, hooks.tool()));

    function refresh() {
      cursor.update(Boolean(isRemoved(cursor.at)));
      draw();
    }

    function paint(from, to, value, base) {
      const { kind, size } = hooks.tool();
      const mask = base.slice();
      if (kind === 'box') paintBox(mask, grid, from, to, value);
      else paintLine(mask, grid, from, to, size, value);
      hooks.change(mask);
    }

    const middle = ([row, column]) => [row + 0.5, column + 0.5];
    const valueOf = (tool, erases) => (tool.kind === 'eraser' || erases ? 0 : 1);

    canvas.addEventListener('pointerdown', (event) => {
      if (stroke || (event.button !== 0 && event.button !== 2)) return;
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      shown.usesKeys = false;
      shown.corner = null;
      const at = placeOf(canvas, grid, event);
      hooks.begin();
      stroke = { id: event.pointerId, start: at, last: at, base: hooks.mask().slice() };
      stroke.value = valueOf(hooks.tool(), event.button === 2 || event.altKey);
      paint(at, at, stroke.value, stroke.base);
    });

    canvas.addEventListener('pointermove', (event) => {
      const at = placeOf(canvas, grid, event);
      shown.hover = event.pointerType === 'touch' ? null : at;
      if (stroke && stroke.id === event.pointerId) {
        if (hooks.tool().kind === 'box') paint(stroke.start, at, stroke.value, stroke.base);
        else paint(stroke.last, at, stroke.value, hooks.mask());
        stroke.last = at;
      }
      draw();
    });

    for (const name of ['pointerup', 'pointercancel', 'lostpointercapture']) {
      canvas.addEventListener(name, (event) => {
        if (stroke && stroke.id === event.pointerId) stroke = null;
      });
    }
    canvas.addEventListener('pointerleave', () => {
      shown.hover = null;
      draw();
    });
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());

    function toggle() {
      const { kind } = hooks.tool();
      if (kind === 'box' && !shown.corner) {
        shown.corner = [...cursor.at];
        hooks.say('first corner of the box set; move, then press space again');
        return;
      }
      hooks.begin();
      if (kind === 'box') {
        paint(middle(shown.corner), middle(cursor.at), 1, hooks.mask());
        shown.corner = null;
      } else {
        const mask = hooks.mask().slice();
        mask[cursor.place()] = 1 - mask[cursor.place()];
        hooks.change(mask);
      }
    }

    function press(event) {
      if (event.key === ' ') toggle();
      else if (event.key === 'Escape' && shown.corner) shown.corner = null;
      else if (cursor.move(event)) {
        if (event.shiftKey && hooks.tool().kind !== 'box') {
          hooks.begin();
          paint(middle(cursor.at), middle(cursor.at), valueOf(hooks.tool(), event.altKey), hooks.mask());
        }
      } else return hooks.press(event);
      return true;
    }

    canvas.addEventListener('keydown', (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key !== 'Home' && event.key !== 'End') return;
      const before = hooks.mask();
      if (!press(event)) return;
      event.preventDefault();
      shown.usesKeys = true;
      refresh();
      if (hooks.mask() !== before) hooks.say(cursor.words()); // a move changes the active cell, which they read
    });
    canvas.addEventListener('focus', () => {
      shown.usesKeys = canvas.matches(':focus-visible');
      draw();
    });
    canvas.addEventListener('blur', () => {
      shown.usesKeys = false;
      draw();
    });
    if (window.ResizeObserver) new ResizeObserver(draw).observe(canvas);
    else window.addEventListener('resize', draw);
    refresh();
    return { refresh };
  }

  /** Draw the veil over removed patches, the lines between patches, what a brush would touch and the cursor. */
  function drawStage(canvas, [rows, columns], mask, { hover, corner, usesKeys }, at, tool) {
    const { context, width, height } = prepareCanvas(canvas);
    const [tall, wide] = [height / rows, width / columns];
    const cells = (visit) => {
      mask.forEach((removed, place) => visit(removed, Math.floor(place / columns), place % columns));
    };
    context.clearRect(0, 0, width, height);
    context.fillStyle = 'rgb(118 122 130 / 0.74)';
    cells((removed, row, column) => { if (removed) context.fillRect(column * wide, row * tall, wide, tall); });
    drawHatching(context, cells, wide, tall);
    drawEdges(context, mask, [rows, columns], wide, tall);
    if (hover && tool.kind !== 'box') {
      const under = new Uint8Array(mask.length);
      paintLine(under, [rows, columns], hover, hover, tool.size, 1);
      drawEdges(context, under, [rows, columns], wide, tall, ['#000', '#fff']);
    }
    if (!usesKeys) return;
    const [first, second] = [corner ?? at, at];
    const [top, left] = [0, 1].map((i) => Math.min(first[i], second[i]));
    const [bottom, right] = [0, 1].map((i) => Math.max(first[i], second[i]) + 1);
    for (const [colour, line] of [['#000', 5], ['#ffd23f', 2.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.strokeRect(left * wide, top * tall, (right - left) * wide, (bottom - top) * tall);
    }
  }

  function drawHatching(context, cells, wide, tall) {
    context.strokeStyle = 'rgb(255 255 255 / 0.28)';
    context.lineWidth = 1;
    context.beginPath();
    cells((removed, row, column) => {
      if (!removed) return;
      context.moveTo(column * wide, (row + 1) * tall);
      context.lineTo((column + 1) * wide, row * tall);
    });
    context.stroke();
  }

  /** Draw the border of a region of patches. */
  function drawEdges(context, mask, [rows, columns], wide, tall, colours = ['rgb(0 0 0 / 0.55)', '#ff8a3d']) {
    const isCell = (row, column) => row >= 0 && row < rows && column >= 0 && column < columns;
    const inside = (row, column) => isCell(row, column) && mask[row * columns + column];
    context.beginPath();
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (!inside(row, column)) continue;
        const [x, y] = [column * wide, row * tall];
        if (!inside(row - 1, column)) { context.moveTo(x, y); context.lineTo(x + wide, y); }
        if (!inside(row + 1, column)) { context.moveTo(x, y + tall); context.lineTo(x + wide, y + tall); }
        if (!inside(row, column - 1)) { context.moveTo(x, y); context.lineTo(x, y + tall); }
        if (!inside(row, column + 1)) { context.moveTo(x + wide, y); context.lineTo(x + wide, y + tall); }
      }
    }
    colours.forEach((colour, place) => {
      context.strokeStyle = colour;
      context.lineWidth = place ? 1.4 : 3;
      context.stroke();
    });
  }

  return { createStage, createCursor, placeOf };
})();
