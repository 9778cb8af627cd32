'use strict';
// Matrix products with four numbers an instruction, as a WebAssembly module that is assembled here, or null where a
// browser has no such instructions. The module has one function; everything around it is JavaScript.

const paddlemaeSimd = (() => {
  const ROWS = 4; // of a tile
  const LANES = 4; // of a vector
  const VECTORS = 2; // of a tile's row
  const COLUMNS = LANES * VECTORS;
  const PAGE = 65536;
  const I32 = 0x7f, V128 = 0x7b, EMPTY = 0x40;

  // instructions, as bytes
  const unsigned = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >>> 7)]);
  const get = (local) => [0x20, ...unsigned(local)];
  const set = (local) => [0x21, ...unsigned(local)];
  const number = (value) => [0x41, value]; // 0 to 63
  const ADD = [0x6a], SHIFT_LEFT = [0x74], SUBTRACT = [0x6b];
  const vector = (code, ...rest) => [0xfd, ...unsigned(code), ...rest];
  const load = (offset) => vector(0x00, 2, ...unsigned(offset));
  const loadSplat = () => vector(0x09, 2, 0); // one number into all lanes
  const store = (offset) => vector(0x0b, 2, ...unsigned(offset));
  const ZEROS = vector(0x0c, ...Array(16).fill(0));
  const VECTOR_ADD = vector(228), VECTOR_MULTIPLY = vector(230);
  const loop = (body, condition) => [0x03, EMPTY, ...body, ...condition, 0x0d, 0, 0x0b]; // again while it is not 0
  const advance = (local, bytes) => [...get(local), ...bytes, ...ADD, ...set(local)];
  const section = (code, ...items) => sized([code], [...unsigned(items.length), ...items.flat()]);
  const sized = (head, content) => [...head, ...unsigned(content.length), ...content];

  /**
   * Return the bytes of a module with product(x, w, out, tiles, depth, stride).
   *
   * It writes out [4 tiles, 8] = x [4 tiles, depth] times w [depth, 8]; rows of out are `stride` bytes apart.
   */
  function assemble() {
    const [x, w, out, tiles, depth, stride] = [0, 1, 2, 3, 4, 5];
    const [left, weight, line, firstPointer] = [6, 7, 8, 9];
    const pointer = (row) => firstPointer + row;
    const firstVector = firstPointer + ROWS;
    const weights = (column) => firstVector + column;
    const splat = firstVector + VECTORS;
    const sum = (row, column) => splat + 1 + row * VECTORS + column;
    const rows = [...Array(ROWS).keys()], columns = [...Array(VECTORS).keys()];
    const depthBytes = [...get(depth), ...number(2), ...SHIFT_LEFT];

    const step = [
      ...columns.flatMap((column) => [...get(weight), ...load(16 * column), ...set(weights(column))]),
      ...rows.flatMap((row) => [
        ...get(pointer(row)), ...loadSplat(), ...set(splat),
        ...columns.flatMap((column) => [
          ...get(splat), ...get(weights(column)), ...VECTOR_MULTIPLY,
          ...get(sum(row, column)), ...VECTOR_ADD, ...set(sum(row, column)),
        ]),
        ...advance(pointer(row), number(4)),
      ]),
      ...advance(weight, number(4 * COLUMNS)),
      ...get(left), ...number(1), ...SUBTRACT, ...set(left),
    ];
    const tile = [
      ...get(x), ...set(pointer(0)),
      ...rows.slice(1).flatMap((row) => [...get(pointer(row - 1)), ...depthBytes, ...ADD, ...set(pointer(row))]),
      ...rows.flatMap((row) => columns.flatMap((column) => [...ZEROS, ...set(sum(row, column))])),
      ...get(w), ...set(weight), ...get(depth), ...set(left),
      ...loop(step, get(left)),
      ...get(out), ...set(line),
      ...rows.flatMap((row) => [
        ...columns.flatMap((column) => [...get(line), ...get(sum(row, column)), ...store(16 * column)]),
        ...advance(line, get(stride)),
      ]),
      ...get(line), ...set(out),
      ...get(pointer(ROWS - 1)), ...set(x), // each pointer has moved by a row: the last one is at the next tile
      ...get(tiles), ...number(1), ...SUBTRACT, ...set(tiles),
    ];
    const locals = [2, ...unsigned(firstVector - left), I32, ...unsigned(VECTORS + 1 + ROWS * VECTORS), V128];
    const body = [...locals, ...loop(tile, get(tiles)), 0x0b];
    const name = (text) => sized([], [...new TextEncoder().encode(text)]);
    return new Uint8Array([
      0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
      ...section(1, [0x60, 6, I32, I32, I32, I32, I32, I32, 0]),
      ...section(3, [0]),
      ...section(5, [0, 1]),
      ...section(7, [...name('memory'), 2, 0], [...name('product'), 0, 0]),
      ...section(10, sized([], body)),
    ]);
  }

  /** Return {linear, product} as in arithmetic.js, or null. */
  function create() {
    let instance;
    try {
      instance = new WebAssembly.Instance(new WebAssembly.Module(assemble()));
    } catch {
      return null; // no WebAssembly, none of these instructions, or forbidden by a policy
    }
    const { memory, product: multiply } = instance.exports;
    const packed = new WeakMap(); // weight -> where its panels are
    let used = 0; // bytes, of packed weights; what is computed with comes behind
    const padded = (count, unit) => Math.ceil(count / unit) * unit;

    function ensure(bytes) {
      const lacking = bytes - memory.buffer.byteLength;
      if (lacking > 0) memory.grow(Math.ceil(lacking / PAGE));
    }

    /** Write weight [columns, depth] as panels [columns / 8][depth][8], zeros behind the last column. */
    function pack(weight, columns, depth, at) {
      const panels = new Float32Array(memory.buffer, at, padded(columns, COLUMNS) * depth);
      panels.fill(0, Math.floor(columns / COLUMNS) * COLUMNS * depth);
      for (let j = 0; j < columns; j++) {
        let to = (j - (j % COLUMNS)) * depth + (j % COLUMNS);
        for (let k = 0, from = j * depth; k < depth; k++, from++, to += COLUMNS) panels[to] = weight[from];
      }
    }

    function place(weight, columns, depth) {
      if (!packed.has(weight)) {
        const bytes = padded(columns, COLUMNS) * depth * 4;
        ensure(used + bytes);
        pack(weight, columns, depth, used);
        packed.set(weight, used);
        used += bytes;
      }
      return packed.get(weight);
    }

    function compute(x, rows, weight, bias, keeps) {
      const depth = x.length / rows;
      const columns = weight.length / depth;
      const wide = padded(columns, COLUMNS), tall = padded(rows, ROWS);
      let at = keeps ? place(weight, columns, depth) : 0;
      let free = used;
      if (!keeps) {
        at = used;
        free += wide * depth * 4;
      }
      const outAt = free + tall * depth * 4;
      ensure(outAt + tall * wide * 4);
      if (!keeps) pack(weight, columns, depth, at);
      const given = new Float32Array(memory.buffer, free, tall * depth);
      given.set(x);
      given.fill(0, x.length);
      for (let panel = 0; panel < wide; panel += COLUMNS) {
        multiply(free, at + panel * depth * 4, outAt + panel * 4, tall / ROWS, depth, wide * 4);
      }
      return unpad(new Float32Array(memory.buffer, outAt, tall * wide), rows, columns, wide, bias);
    }

    function unpad(found, rows, columns, wide, bias) {
      const out = new Float32Array(rows * columns);
      for (let i = 0; i < rows; i++) {
        const from = i * wide, to = i * columns;
        if (!bias) out.set(found.subarray(from, from + columns), to);
        else for (let j = 0; j < columns; j++) out[to + j] = found[from + j] + bias[j];
      }
      return out;
    }

    return {
      linear: (x, rows, weight, bias) => compute(x, rows, weight, bias, true),
      product: (x, rows, weight) => compute(x, rows, weight, null, false),
    };
  }

  return { create };
})();
