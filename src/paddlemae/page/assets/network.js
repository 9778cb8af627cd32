'use strict';
// The models on typed arrays: encoder, both decoders, classifier. No DOM: it runs in a worker, in a page and in Node.
// Tensors have the official names and PyTorch's layout; L patches, N visible tokens, D width, P pixels a patch.

const paddlemaeNetwork = (() => {
  const { linear, layerNorm, gelu, addTo, attention } = paddlemaeArithmetic;

  /** Return {header, tensors} with every tensor as float32, from the bytes that the header describes. */
  function readModel(header, bytes) {
    const tensors = {};
    for (const [name, { shape, offset, type }] of Object.entries(header.tensors)) {
      const count = shape.reduce((product, side) => product * side, 1);
      const size = type === 'float16' ? 2 : 4;
      const own = bytes.slice(offset, offset + count * size).buffer; // aligned, whatever the offset
      tensors[name] = type === 'float16' ? fromHalf(new Uint16Array(own)) : new Float32Array(own);
    }
    return { header, tensors };
  }

  /** Return float32 numbers from the bits of float16 ones. */
  function fromHalf(bits) {
    const out = new Float32Array(bits.length);
    for (let i = 0; i < bits.length; i++) {
      const exponent = (bits[i] >> 10) & 31;
      const fraction = bits[i] & 1023;
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      out[i] = bits[i] & 0x8000 ? -size : size;
    }
    return out;
  }

  /** Return normalised patches [L, P], pixels in the order row, column, channel, from shares [H, W, C]. */
  function patchesOf({ header }, pixels) {
    const { grid: [rows, columns], patch: [height, width], channels, mean, std } = header;
    const out = new Float32Array(pixels.length);
    const line = columns * width * channels;
    let at = 0;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        for (let y = 0; y < height; y++) {
          const from = (row * height + y) * line + column * width * channels;
          for (let x = 0; x < width * channels; x++) {
            const channel = x % channels;
            out[at++] = (pixels[from + x] - mean[channel]) / std[channel];
          }
        }
      }
    }
    return out;
  }

  /** Copy rows, by their numbers, of a table [rows, width]. */
  function takeRows(table, width, numbers) {
    const out = new Float32Array(numbers.length * width);
    numbers.forEach((number, i) => out.set(table.subarray(number * width, (number + 1) * width), i * width));
    return out;
  }

  const norm = ({ tensors }, name, x, width) =>
    layerNorm(x, width, tensors[`${name}.weight`], tensors[`${name}.bias`]);
  const layer = ({ tensors }, name, x, rows) => linear(x, rows, tensors[`${name}.weight`], tensors[`${name}.bias`]);

  function mlp(model, name, x, rows) {
    return layer(model, `${name}.mlp.fc2`, gelu(layer(model, `${name}.mlp.fc1`, x, rows)), rows);
  }

  /** Run a block with self-attention on tokens [rows, width]; `keep` receives its attention. */
  function selfBlock(model, name, x, rows, heads, bias, keep) {
    const width = x.length / rows;
    const qkv = layer(model, `${name}.attn.qkv`, norm(model, `${name}.norm1`, x, width), rows);
    const part = (number) => ({ data: qkv, stride: 3 * width, start: number * width });
    const mixed = attention(part(0), part(1), part(2), { queries: rows, keys: rows, heads, width }, bias, keep);
    addTo(x, layer(model, `${name}.attn.proj`, mixed, rows));
    return addTo(x, mlp(model, name, norm(model, `${name}.norm2`, x, width), rows));
  }

  /** Run a block in which tokens [rows, width] attend to a memory [keys, other width]. */
  function crossBlock(model, name, x, rows, memory, keys, heads, keep) {
    const width = x.length / rows;
    const query = layer(model, `${name}.attn.q`, norm(model, `${name}.norm1`, x, width), rows);
    const pairs = layer(model, `${name}.attn.kv`, memory, keys);
    const part = (number) => ({ data: pairs, stride: 2 * width, start: number * width });
    const counts = { queries: rows, keys, heads, width };
    const mixed = attention({ data: query, stride: width, start: 0 }, part(0), part(1), counts, null, keep);
    addTo(x, layer(model, `${name}.attn.proj`, mixed, rows));
    return addTo(x, mlp(model, name, norm(model, `${name}.norm2`, x, width), rows));
  }

  /** Return the bias [heads, N, N] of a block with relative positions; null without them. */
  function relativeBias({ header, tensors }, name, keep) {
    const table = tensors[`${name}.attn.relative_position_bias_table`];
    if (!table) return null;
    const { grid: [rows, columns], architecture: { num_heads: heads, cls_token: hasCls } } = header;
    const last = (2 * rows - 1) * (2 * columns - 1) + 2;
    const places = hasCls ? [-1, ...keep] : keep;
    const out = new Float32Array(heads * places.length ** 2);
    let at = 0;
    for (let head = 0; head < heads; head++) {
      for (const query of places) for (const key of places) out[at++] = table[row(query, key) * heads + head];
    }
    return out;

    function row(query, key) {
      if (query < 0) return key < 0 ? last : last - 2;
      if (key < 0) return last - 1;
      const down = Math.floor(query / columns) - Math.floor(key / columns) + rows - 1;
      return down * (2 * columns - 1) + (query % columns) - (key % columns) + columns - 1;
    }
  }

  /**
   * Encode the kept patches, before the last norm; yields after each block.
   *
   * @returns {x [N, D], maps: the first block's input and every block's output}
   */
  function* encode(model, patches, keep, wanted, wantsMaps) {
    const { header, tensors } = model;
    const { embed_dim: width, depth, num_heads: heads, cls_token: hasCls } = header.architecture;
    const front = hasCls ? 1 : 0;
    const visible = takeRows(patches, patches.length / (header.grid[0] * header.grid[1]), keep);
    const embedded = layer(model, 'patch_embed.proj', visible, keep.length);
    const x = new Float32Array((front + keep.length) * width);
    if (front) x.set(addTo(tensors.pos_embed.slice(0, width), tensors.cls_token));
    x.set(addTo(takeRows(tensors.pos_embed, width, keep.map((patch) => patch + front)), embedded), front * width);
    const rows = front + keep.length;
    const maps = wantsMaps ? [x.slice()] : [];
    for (let number = 0; number < depth; number++) {
      const attended = wanted?.part === 'encoder' && wanted.block === number;
      const weights = attended ? new Float32Array(heads * rows * rows) : null;
      const name = `blocks.${number}`;
      selfBlock(model, name, x, rows, heads, relativeBias(model, name, keep), weights);
      if (weights) wanted.found = attentionOf(weights, heads, tokens(keep, hasCls), tokens(keep, hasCls));
      if (wantsMaps) maps.push(x.slice());
      yield;
    }
    return { x, maps };
  }

  const tokens = (patches, hasCls) => Int32Array.from(hasCls ? [-1, ...patches] : patches);

  function attentionOf(weights, heads, queryPatches, keyPatches) {
    return { heads, queries: queryPatches.length, keys: keyPatches.length, queryPatches, keyPatches, weights };
  }

  /** Predict every patch, [L, P] in the image's order, with self-attention over visible and mask tokens. */
  function* decodeMae(model, x, keep, wanted) {
    const { header, tensors } = model;
    const { decoder_embed_dim: width, decoder_depth: depth, decoder_num_heads: heads } = header.architecture;
    const hasCls = header.architecture.cls_token;
    const front = hasCls ? 1 : 0;
    const patches = header.grid[0] * header.grid[1];
    const rows = front + patches;
    const visible = layer(model, 'decoder_embed', x, front + keep.length);
    const all = new Float32Array(rows * width);
    for (let i = 0; i < rows; i++) all.set(tensors.mask_token, i * width);
    if (front) all.set(visible.subarray(0, width));
    keep.forEach((patch, i) => {
      const from = (front + i) * width;
      all.set(visible.subarray(from, from + width), (front + patch) * width);
    });
    addTo(all, tensors.decoder_pos_embed);
    for (let number = 0; number < depth; number++) {
      const attended = wanted?.part === 'decoder' && wanted.block === number;
      const weights = attended ? new Float32Array(heads * rows * rows) : null;
      selfBlock(model, `decoder_blocks.${number}`, all, rows, heads, null, weights);
      const places = tokens([...Array(patches).keys()], hasCls);
      if (weights) wanted.found = attentionOf(weights, heads, places, places);
      yield;
    }
    return predictPixels(model, all.subarray(front * width), patches);
  }

  const predictPixels = (model, x, rows) =>
    layer(model, 'decoder_pred', norm(model, 'decoder_norm', x, x.length / rows), rows);

  /** The same with CrossMAE's decoder: every patch's mask token attends to the visible tokens. */
  function* decodeCross(model, memories, keep, wanted) {
    const { header, tensors } = model;
    const { decoder_embed_dim: width, decoder_depth: depth, decoder_num_heads: heads } = header.architecture;
    const hasCls = header.architecture.cls_token;
    const patches = header.grid[0] * header.grid[1];
    const x = tensors.decoder_pos_embed.slice(hasCls ? width : 0);
    for (let i = 0; i < x.length; i++) x[i] += tensors.mask_token[i % width];
    const keys = keep.length + (hasCls ? 1 : 0);
    for (let number = 0; number < depth; number++) {
      const attended = wanted?.part === 'decoder' && wanted.block === number;
      const weights = attended ? new Float32Array(heads * patches * keys) : null;
      crossBlock(model, `decoder_blocks.${number}`, x, patches, memories[number], keys, heads, weights);
      const queries = tokens([...Array(patches).keys()], false);
      if (weights) wanted.found = attentionOf(weights, heads, queries, tokens(keep, hasCls));
      yield;
    }
    return predictPixels(model, x, patches);
  }

  /** Return what each block of CrossMAE's decoder attends to: weighted sums of all maps, or the last norm's output. */
  function memoriesOf(model, { x, maps }) {
    const { embed_dim: width, decoder_depth: depth } = model.header.architecture;
    const weights = model.tensors['inter_block.weight'];
    if (!weights) return Array(depth).fill(norm(model, 'norm', x, width));
    return Array.from({ length: depth }, (_, block) => {
      const sum = new Float32Array(x.length);
      maps.forEach((map, number) => {
        const weight = weights[block * maps.length + number];
        for (let i = 0; i < sum.length; i++) sum[i] += weight * map[i];
      });
      return norm(model, `inter_block.norms.${block}`, sum, width);
    });
  }

  function* reconstruct(model, patches, keep, wanted) {
    const isCross = model.header.architecture.decoder === 'cross';
    const encoded = yield* encode(model, patches, keep, wanted, isCross);
    if (isCross) return yield* decodeCross(model, memoriesOf(model, encoded), keep, wanted);
    const { embed_dim: width } = model.header.architecture;
    return yield* decodeMae(model, norm(model, 'norm', encoded.x, width), keep, wanted);
  }

  /** Return the cls token of x [N, D], the mean of its patch tokens, or their mean and deviation. */
  function poolTokens(x, width, pool, hasCls) {
    if (pool === 'cls') return x.slice(0, width);
    const from = hasCls ? width : 0;
    const out = new Float32Array(width);
    for (let i = from; i < x.length; i++) out[i % width] += x[i];
    const rows = (x.length - from) / width;
    const mean = out.map((value) => value / rows);
    if (pool !== 'mean+std') return mean;
    const squares = new Float64Array(width);
    for (let i = from; i < x.length; i++) squares[i % width] += (x[i] - mean[i % width]) ** 2;
    return Float32Array.from([...mean, ...squares.map((value) => Math.sqrt(value / rows))]);
  }

  /** Return one feature vector [D] from encoded tokens, as `model.encoder.features` does. */
  function featureOf(model, x) {
    const { architecture, kind } = model.header;
    const width = architecture.embed_dim;
    const hasCls = architecture.cls_token;
    const pool = kind === 'classifier' ? architecture.pool : hasCls ? 'cls' : 'mean';
    if (model.tensors['fc_norm.weight']) {
      const pooled = poolTokens(x, width, pool, hasCls);
      return norm(model, 'fc_norm', pooled, pooled.length);
    }
    const normed = model.tensors['norm.weight'] ? norm(model, 'norm', x, width) : x;
    return poolTokens(normed, width, pool, hasCls);
  }

  function unitLength(feature) {
    const length = Math.hypot(...feature) || 1;
    return feature.map((value) => value / length);
  }

  /** Return how many steps `run` yields for a request, for progress. */
  function stepsOf({ header }, request) {
    const { depth, decoder_depth: decoderDepth } = header.architecture;
    return depth * (request.features ? 2 : 1) + (header.kind === 'mae' ? decoderDepth : 0);
  }

  /**
   * Run a model on one image; yields after each block.
   *
   * @param request {pixels, removed, attention, features}: see engines.js.
   * @returns {plain, logits, logitsGrid, attention, features}.
   */
  function* run(model, request) {
    const { header } = model;
    const wanted = request.attention ? { ...request.attention, found: null } : null;
    const patches = patchesOf(model, request.pixels);
    const every = [...request.removed.keys()];
    const keep = every.filter((patch) => !request.removed[patch]);
    const result = { plain: null, logits: null, logitsGrid: null, attention: null, features: null };
    if (header.kind === 'mae') {
      result.plain = yield* reconstruct(model, patches, keep, wanted);
    } else if (header.kind === 'segmenter') {
      const size = patches.length / every.length;
      every.forEach((patch) => request.removed[patch] && patches.fill(0, patch * size, (patch + 1) * size));
      const encoded = yield* encode(model, patches, every, wanted, header.architecture.head === 'upernet');
      Object.assign(result, paddlemaeHeads.segment(model, encoded));
    } else {
      const { x } = yield* encode(model, patches, keep, wanted, false);
      const feature = featureOf(model, x);
      if (header.kind === 'classifier') result.logits = layer(model, 'head', feature, 1);
    }
    if (request.features) {
      const { x } = yield* encode(model, patchesOf(model, request.pixels), every, null, false);
      result.features = unitLength(featureOf(model, x));
    }
    result.attention = wanted?.found ?? null;
    return result;
  }

  return { readModel, run, stepsOf };
})();
