'use strict';
// The heads of segmenters on typed arrays: linear, conv, upernet. Maps are {data, rows, columns, channels}, channels last.

const paddlemaeHeads = (() => {
  const { linear, layerNorm, gelu, relu, addTo } = paddlemaeArithmetic;
  const BATCH_NORM_EPSILON = 1e-5;
  const POOLS = [1, 2, 3, 6]; // sides of the grids that UPerNet's smallest map is pooled to

  const map = (data, rows, columns) => ({ data, rows, columns, channels: data.length / (rows * columns) });
  const like = (other, data) => map(data, other.rows, other.columns);

  function classify({ tensors }, name, x) {
    return like(x, linear(x.data, x.rows * x.columns, tensors[`${name}.weight`], tensors[`${name}.bias`]));
  }

  /** Apply a 3 x 3 or 1 x 1 convolution without a bias, zeros around the map; the weight is [E, C, side, side]. */
  function convolve(model, name, x) {
    const weight = model.tensors[`${name}.weight`];
    const { shape } = model.header.tensors[`${name}.weight`];
    if (shape[2] === 1) return like(x, linear(x.data, x.rows * x.columns, weight, null));
    return like(x, linear(neighbourhoods(x), x.rows * x.columns, placesLast(model, name, weight, shape), null));
  }

  /** Return the weight as [E, 9, C], once. */
  function placesLast(model, name, weight, [outputs, channels]) {
    model.turned ??= {};
    if (!model.turned[name]) {
      const out = new Float32Array(weight.length);
      for (let e = 0, from = 0; e < outputs; e++) {
        for (let c = 0; c < channels; c++) {
          for (let place = 0; place < 9; place++) out[(e * 9 + place) * channels + c] = weight[from++];
        }
      }
      model.turned[name] = out;
    }
    return model.turned[name];
  }

  /** Return for each place the channels of its 3 x 3 neighbours: [places, 9 C]. */
  function neighbourhoods({ data, rows, columns, channels }) {
    const out = new Float32Array(rows * columns * 9 * channels);
    let to = 0;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        for (let place = 0; place < 9; place++, to += channels) {
          const y = row + Math.floor(place / 3) - 1, x = column + (place % 3) - 1;
          if (y < 0 || x < 0 || y >= rows || x >= columns) continue;
          const from = (y * columns + x) * channels;
          out.set(data.subarray(from, from + channels), to);
        }
      }
    }
    return out;
  }

  /** Turn each place into 2 x 2 by a transposed convolution; the weight is [C, E, 2, 2]. */
  function upsample(model, name, x) {
    const weight = model.tensors[`${name}.weight`], bias = model.tensors[`${name}.bias`];
    const [channels, outputs] = model.header.tensors[`${name}.weight`].shape;
    model.turned ??= {};
    model.turned[name] ??= transposePlaces(weight, channels, outputs);
    const places = linear(x.data, x.rows * x.columns, model.turned[name], null); // [h w, 4 E]
    const out = new Float32Array(places.length);
    for (let at = 0, from = 0; at < x.rows * x.columns; at++) {
      const row = Math.floor(at / x.columns), column = at % x.columns;
      for (let place = 0; place < 4; place++) {
        const to = ((2 * row + (place >> 1)) * 2 * x.columns + 2 * column + (place & 1)) * outputs;
        for (let e = 0; e < outputs; e++) out[to + e] = places[from++] + bias[e];
      }
    }
    return map(out, 2 * x.rows, 2 * x.columns);
  }

  /** Return [4 E, C] from [C, E, 2, 2]: rows by place, then output. */
  function transposePlaces(weight, channels, outputs) {
    const out = new Float32Array(weight.length);
    for (let c = 0, from = 0; c < channels; c++) {
      for (let e = 0; e < outputs; e++) {
        for (let place = 0; place < 4; place++) out[(place * outputs + e) * channels + c] = weight[from++];
      }
    }
    return out;
  }

  function channelNorm({ tensors }, name, x) {
    return like(x, layerNorm(x.data, x.channels, tensors[`${name}.weight`], tensors[`${name}.bias`]));
  }

  function batchNorm({ tensors }, name, x) {
    const of = (part) => tensors[`${name}.${part}`];
    const mean = of('running_mean'), variance = of('running_var'), weight = of('weight'), bias = of('bias');
    const scale = weight.map((value, c) => value / Math.sqrt(variance[c] + BATCH_NORM_EPSILON));
    const out = new Float32Array(x.data.length);
    for (let i = 0; i < out.length; i++) {
      const c = i % x.channels;
      out[i] = (x.data[i] - mean[c]) * scale[c] + bias[c];
    }
    return like(x, out);
  }

  const activated = (x, activate) => like(x, activate(x.data));
  const block = (model, name, x) =>
    activated(batchNorm(model, `${name}.norm`, convolve(model, `${name}.conv`, x)), relu);

  /** Resize a map by bilinear interpolation, pixels as areas (no aligned corners). */
  function resize(x, rows, columns) {
    if (x.rows === rows && x.columns === columns) return x;
    return weighted(x, bilinear(rows, x.rows), bilinear(columns, x.columns));
  }

  /** Pool a map to means of regions, as PyTorch's adaptive average pooling. */
  const pool = (x, side) => weighted(x, regions(side, x.rows), regions(side, x.columns));

  /** Return for each new place [[old place, weight], ...]. */
  function bilinear(count, old) {
    return Array.from({ length: count }, (_, i) => {
      const place = Math.min(Math.max(((i + 0.5) * old) / count - 0.5, 0), old - 1);
      const low = Math.floor(place), share = place - low;
      return share ? [[low, 1 - share], [Math.min(low + 1, old - 1), share]] : [[low, 1]];
    });
  }

  function regions(count, old) {
    return Array.from({ length: count }, (_, i) => {
      const from = Math.floor((i * old) / count), to = Math.ceil(((i + 1) * old) / count);
      return Array.from({ length: to - from }, (_, k) => [from + k, 1 / (to - from)]);
    });
  }

  function weighted(x, rowWeights, columnWeights) {
    const { columns, channels } = x;
    const out = new Float32Array(rowWeights.length * columnWeights.length * channels);
    let to = 0;
    for (const rowWeight of rowWeights) {
      for (const columnWeight of columnWeights) {
        for (const [row, a] of rowWeight) {
          for (const [column, b] of columnWeight) {
            const from = (row * columns + column) * channels;
            for (let c = 0; c < channels; c++) out[to + c] += a * b * x.data[from + c];
          }
        }
        to += channels;
      }
    }
    return map(out, rowWeights.length, columnWeights.length);
  }

  function halved(x) {
    const tall = Math.min(2, x.rows), wide = Math.min(2, x.columns);
    const rows = Math.floor(x.rows / tall), columns = Math.floor(x.columns / wide);
    const out = new Float32Array(rows * columns * x.channels).fill(-Infinity);
    for (let row = 0; row < rows * tall; row++) {
      for (let column = 0; column < columns * wide; column++) {
        const from = (row * x.columns + column) * x.channels;
        const to = (Math.floor(row / tall) * columns + Math.floor(column / wide)) * x.channels;
        for (let c = 0; c < x.channels; c++) out[to + c] = Math.max(out[to + c], x.data[from + c]);
      }
    }
    return map(out, rows, columns);
  }

  const join = (maps) => {
    const channels = maps.reduce((sum, one) => sum + one.channels, 0);
    const out = new Float32Array(maps[0].rows * maps[0].columns * channels);
    let offset = 0;
    for (const one of maps) {
      for (let i = 0, to = offset; i < one.data.length; i += one.channels, to += channels) {
        out.set(one.data.subarray(i, i + one.channels), to);
      }
      offset += one.channels;
    }
    return map(out, maps[0].rows, maps[0].columns);
  };

  function convHead(model, x) {
    for (let number = 0; number < 2; number++) {
      const name = `head.stages.${number}`;
      x = activated(channelNorm(model, `${name}.norm1`, upsample(model, `${name}.up`, x)), gelu);
      x = activated(channelNorm(model, `${name}.norm2`, convolve(model, `${name}.conv`, x)), gelu);
    }
    return x;
  }

  function uperNetHead(model, [first, second, third, last]) {
    const quadrupled = activated(batchNorm(model, 'neck.quadrupled.norm', upsample(model, 'neck.quadrupled.first', first)), gelu);
    const pyramid = [upsample(model, 'neck.quadrupled.second', quadrupled), upsample(model, 'neck.doubled', second), third, halved(last)];
    const maps = pyramid.slice(0, 3).map((one, number) => block(model, `head.laterals.${number}`, one));
    const smallest = pyramid[3];
    const pooled = POOLS.map((side, number) =>
      resize(block(model, `head.pools.${number}`, pool(smallest, side)), smallest.rows, smallest.columns));
    maps.push(block(model, 'head.pooled', join([smallest, ...pooled])));
    for (let number = 3; number > 0; number--) {
      const { rows, columns } = maps[number - 1];
      addTo(maps[number - 1].data, resize(maps[number], rows, columns).data);
    }
    const smoothed = [...maps.slice(0, 3).map((one, number) => block(model, `head.smooths.${number}`, one)), maps[3]];
    return block(model, 'head.fusion', join(smoothed.map((one) => resize(one, maps[0].rows, maps[0].columns))));
  }

  /**
   * Return {logits [h, w, K], logitsGrid [h, w]} of a segmenter.
   *
   * @param encoded {x, maps}: tokens behind the last block, and the input of the first and outputs of all blocks.
   */
  function segment(model, { x, maps }) {
    const { header, tensors } = model;
    const [rows, columns] = header.grid;
    const { embed_dim: width, cls_token: hasCls, head, taps } = header.architecture;
    const patchMap = (tokens) => map(tokens.slice(hasCls ? width : 0), rows, columns);
    let found;
    if (head === 'upernet') {
      found = uperNetHead(model, taps.map((tap) => patchMap(maps[tap])));
    } else {
      found = patchMap(layerNorm(x, width, tensors['norm.weight'], tensors['norm.bias']));
      if (head === 'conv') found = convHead(model, found);
    }
    const logits = classify(model, 'head.classifier', found);
    return { logits: logits.data, logitsGrid: [logits.rows, logits.columns] };
  }

  return { segment, resize, map };
})();
