'use strict';
// Arithmetic on typed arrays: matrix products, norms, attention. Matrices are row-major.

const paddlemaeArithmetic = (() => {
  const NORM_EPSILON = 1e-6;
  const TILE = 4;

  let fast = paddlemaeSimd.create();

  /** Compute with plain JavaScript only, whose sums are in double precision. */
  function usePlain() {
    fast = null;
  }

  const isFast = () => fast !== null;

  /**
   * Return [rows, columns]: bias + the products of each row of x [rows, depth] with each row of weight [columns, depth].
   *
   * The weight must not change: a copy of it may be kept. `product` is for one that does.
   */
  const linear = (x, rows, weight, bias) => (fast ? fast.linear : plainLinear)(x, rows, weight, bias);
  const product = (x, rows, weight) => (fast ? fast.product : plainLinear)(x, rows, weight, null);

  function plainLinear(x, rows, weight, bias) {
    const depth = x.length / rows;
    const columns = weight.length / depth;
    const out = new Float32Array(rows * columns);
    if (rows < TILE || columns < TILE) return linearOfFew(x, rows, weight, bias, out);
    for (let j = 0; j < columns; j += TILE) {
      const column = Math.min(j, columns - TILE); // the last tile overlaps the one before it
      for (let i = 0; i < rows; i += TILE) {
        tile(x, Math.min(i, rows - TILE), weight, column, bias, depth, columns, out);
      }
    }
    return out;
  }

  /** Write a tile of 4 x 4 numbers: sixteen sums in registers. */
  function tile(x, row, weight, column, bias, depth, columns, out) {
    let a = row * depth, b = a + depth, c = b + depth, d = c + depth;
    let p = column * depth, q = p + depth, r = q + depth, s = r + depth;
    let ap = 0, aq = 0, ar = 0, as = 0, bp = 0, bq = 0, br = 0, bs = 0;
    let cp = 0, cq = 0, cr = 0, cs = 0, dp = 0, dq = 0, dr = 0, ds = 0;
    for (let k = 0; k < depth; k++, a++, b++, c++, d++, p++, q++, r++, s++) {
      const wp = weight[p], wq = weight[q], wr = weight[r], ws = weight[s];
      const xa = x[a], xb = x[b], xc = x[c], xd = x[d];
      ap += xa * wp; aq += xa * wq; ar += xa * wr; as += xa * ws;
      bp += xb * wp; bq += xb * wq; br += xb * wr; bs += xb * ws;
      cp += xc * wp; cq += xc * wq; cr += xc * wr; cs += xc * ws;
      dp += xd * wp; dq += xd * wq; dr += xd * wr; ds += xd * ws;
    }
    const bias0 = bias ? bias[column] : 0, bias1 = bias ? bias[column + 1] : 0;
    const bias2 = bias ? bias[column + 2] : 0, bias3 = bias ? bias[column + 3] : 0;
    let at = row * columns + column;
    out[at] = ap + bias0; out[at + 1] = aq + bias1; out[at + 2] = ar + bias2; out[at + 3] = as + bias3;
    at += columns;
    out[at] = bp + bias0; out[at + 1] = bq + bias1; out[at + 2] = br + bias2; out[at + 3] = bs + bias3;
    at += columns;
    out[at] = cp + bias0; out[at + 1] = cq + bias1; out[at + 2] = cr + bias2; out[at + 3] = cs + bias3;
    at += columns;
    out[at] = dp + bias0; out[at + 1] = dq + bias1; out[at + 2] = dr + bias2; out[at + 3] = ds + bias3;
  }

  function linearOfFew(x, rows, weight, bias, out) {
    const depth = x.length / rows;
    const columns = weight.length / depth;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        let sum = 0;
        for (let k = 0; k < depth; k++) sum += x[i * depth + k] * weight[j * depth + k];
        out[i * columns + j] = sum + (bias ? bias[j] : 0);
      }
    }
    return out;
  }

  /** Return x [rows, width] with each row brought to mean 0 and deviation 1, then scaled and shifted. */
  function layerNorm(x, width, weight, bias) {
    const out = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += width) {
      let mean = 0;
      for (let k = 0; k < width; k++) mean += x[start + k];
      mean /= width;
      let variance = 0;
      for (let k = 0; k < width; k++) variance += (x[start + k] - mean) ** 2;
      const scale = 1 / Math.sqrt(variance / width + NORM_EPSILON);
      for (let k = 0; k < width; k++) out[start + k] = (x[start + k] - mean) * scale * weight[k] + bias[k];
    }
    return out;
  }

  /** Apply the exact GELU in place; erf by Abramowitz and Stegun, 7.1.26 (error at most 1.5e-7). */
  function gelu(x) {
    for (let i = 0; i < x.length; i++) {
      const value = x[i];
      const z = Math.abs(value) * Math.SQRT1_2;
      const t = 1 / (1 + 0.3275911 * z);
      const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
      const upper = 0.5 * series * Math.exp(-z * z); // 1 - Phi(|value|)
      x[i] = value * (value < 0 ? upper : 1 - upper);
    }
    return x;
  }

  function relu(x) {
    for (let i = 0; i < x.length; i++) if (x[i] < 0) x[i] = 0;
    return x;
  }

  function addTo(x, other) {
    for (let i = 0; i < x.length; i++) x[i] += other[i];
    return x;
  }

  /** Replace each row of x [rows, width] by its softmax. */
  function softmax(x, width) {
    for (let start = 0; start < x.length; start += width) {
      let most = -Infinity;
      for (let k = 0; k < width; k++) if (x[start + k] > most) most = x[start + k];
      let sum = 0;
      for (let k = 0; k < width; k++) sum += x[start + k] = Math.exp(x[start + k] - most);
      for (let k = 0; k < width; k++) x[start + k] /= sum;
    }
    return x;
  }

  /**
   * Compute multi-head attention.
   *
   * @param queries {data, stride, start}: row i has the query of head h at start + i * stride + h * size.
   * @param keys, values the same of the keys and values.
   * @param counts {queries, keys, heads, width}: numbers of rows, heads, and the width of all heads together.
   * @param bias null, or what is added to the scores [heads, queries, keys].
   * @param keep null, or an array [heads, queries, keys] that receives the weights.
   * @returns Float32Array [queries, width].
   */
  function attention(queries, keys, values, counts, bias, keep) {
    const { heads, width } = counts;
    const size = width / heads;
    const out = new Float32Array(counts.queries * width);
    for (let head = 0; head < heads; head++) {
      const query = columnsOf(queries, counts.queries, head * size, size, 1 / Math.sqrt(size));
      const key = columnsOf(keys, counts.keys, head * size, size, 1);
      const scores = product(query, counts.queries, key);
      const from = head * scores.length;
      if (bias) for (let i = 0; i < scores.length; i++) scores[i] += bias[from + i];
      softmax(scores, counts.keys);
      if (keep) keep.set(scores, from);
      const mixed = product(scores, counts.queries, transposedColumns(values, counts.keys, head * size, size));
      for (let i = 0; i < counts.queries; i++) {
        out.set(mixed.subarray(i * size, (i + 1) * size), i * width + head * size);
      }
    }
    return out;
  }

  function columnsOf({ data, stride, start }, rows, offset, size, factor) {
    const out = new Float32Array(rows * size);
    for (let i = 0, at = 0; i < rows; i++) {
      const from = start + i * stride + offset;
      for (let k = 0; k < size; k++) out[at++] = data[from + k] * factor;
    }
    return out;
  }

  function transposedColumns({ data, stride, start }, rows, offset, size) {
    const out = new Float32Array(rows * size);
    for (let i = 0; i < rows; i++) {
      const from = start + i * stride + offset;
      for (let k = 0; k < size; k++) out[k * rows + i] = data[from + k];
    }
    return out;
  }

  return { linear, product, usePlain, isFast, layerNorm, gelu, relu, addTo, softmax, attention };
})();
