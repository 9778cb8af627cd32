'use strict';
// Masks: which patches of a picture are removed. Arithmetic only, as in model/masking.py.
//
// A mask is a Uint8Array of rows x columns patches, 1 where a patch is removed. A grid is [rows, columns]. Randomness
// is the caller's: noise, or a function that draws numbers in [0, 1).

const paddlemaeMasks = (() => {
  // BEiT (arXiv 2106.08254), algorithm 1: the smallest block in patches and the range of aspect ratios
  const MIN_PATCHES = 16;
  const MIN_ASPECT = 0.3;

  /** Return a function that draws numbers in [0, 1), the same ones for the same seed (mulberry32). */
  function generator(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }

  /** Return how many of `total` patches are kept when a share of them is removed: rounded down, at least one. */
  function numKept(total, ratio) {
    return Math.max(1, Math.floor(total * (1 - ratio) + 1e-9));
  }

  /** Keep the `keep` patches with the lowest noise. */
  function randomMask(noise, keep) {
    const order = Array.from(noise, (_, place) => place).sort((a, b) => noise[a] - noise[b]);
    const removed = new Uint8Array(noise.length).fill(1);
    for (const place of order.slice(0, keep)) removed[place] = 0;
    return removed;
  }

  /** Keep the top left patch of every 2 x 2. */
  function gridMask([rows, columns]) {
    return Uint8Array.from({ length: rows * columns }, (_, place) => {
      return (Math.floor(place / columns) % 2) | (place % columns % 2);
    });
  }

  /** Remove rectangular blocks until `keep` patches are left; of the last block only as many as are missing. */
  function blockMask(draw, grid, keep) {
    const removed = new Uint8Array(grid[0] * grid[1]);
    let missing = removed.length - keep;
    while (missing > 0) missing -= removeBlock(removed, grid, drawBlock(draw, grid, missing), missing);
    return removed;
  }

  function drawBlock(draw, [rows, columns], missing) {
    const least = Math.min(MIN_PATCHES, missing);
    const area = least + draw() * (missing - least);
    const aspect = Math.exp((2 * draw() - 1) * -Math.log(MIN_ASPECT));
    const height = Math.min(rows, Math.max(1, Math.round(Math.sqrt(area * aspect))));
    const width = Math.min(columns, Math.max(1, Math.round(Math.sqrt(area / aspect))));
    const top = Math.floor(draw() * (rows - height + 1));
    const left = Math.floor(draw() * (columns - width + 1));
    return { top, left, bottom: top + height, right: left + width };
  }

  function removeBlock(removed, [, columns], { top, left, bottom, right }, most) {
    let count = 0;
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right && count < most; column++) {
        const place = row * columns + column;
        count += 1 - removed[place];
        removed[place] = 1;
      }
    }
    return count;
  }

  function countRemoved(removed) {
    let count = 0;
    for (const value of removed) count += value;
    return count;
  }

  function invertMask(removed) {
    return removed.map((value) => 1 - value);
  }

  /** Set the patches along a line with a round brush.
   *
   * from, to: [row, column] in patches, with fractions: [0.5, 0.5] is the middle of the first patch.
   * size: of the brush, in patches across.
   */
  function paintLine(removed, grid, from, to, size, value) {
    const [rows, columns] = [to[0] - from[0], to[1] - from[1]];
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(rows, columns)));
    for (let step = 0; step <= steps; step++) {
      paintDot(removed, grid, from[0] + (rows * step) / steps, from[1] + (columns * step) / steps, size, value);
    }
  }

  function paintDot(removed, [rows, columns], row, column, size, value) {
    const reach = size / 2;
    const [top, bottom] = [Math.max(0, Math.floor(row - reach)), Math.min(rows, Math.ceil(row + reach))];
    const [left, right] = [Math.max(0, Math.floor(column - reach)), Math.min(columns, Math.ceil(column + reach))];
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        const isUnder = Math.floor(row) === y && Math.floor(column) === x;
        const isNear = size > 1 && Math.hypot(y + 0.5 - row, x + 0.5 - column) <= reach;
        if (isUnder || isNear) removed[y * columns + x] = value;
      }
    }
  }

  /** Set every patch that a box touches, whose opposite corners are [row, column] in patches. */
  function paintBox(removed, [rows, columns], from, to, value) {
    const clamp = (number, most) => Math.min(most - 1, Math.max(0, Math.floor(number)));
    const [top, bottom] = [from[0], to[0]].map((one) => clamp(one, rows)).sort((a, b) => a - b);
    const [left, right] = [from[1], to[1]].map((one) => clamp(one, columns)).sort((a, b) => a - b);
    for (let row = top; row <= bottom; row++) removed.fill(value, row * columns + left, row * columns + right + 1);
  }

  /** Keep one patch of a mask of everything: the last that was kept before. Return whether that was necessary. */
  function keepOne(removed, before) {
    if (removed.includes(0)) return false;
    removed[Math.max(0, before.lastIndexOf(0))] = 0;
    return true;
  }

  return {
    generator, numKept, randomMask, gridMask, blockMask, countRemoved, invertMask, paintLine, paintBox, keepOne,
  };
})();
