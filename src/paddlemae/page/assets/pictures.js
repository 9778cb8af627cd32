'use strict';
// The pictures that are shown: from pixels and the model's output to RGBA. Arithmetic only.
//
// Pixels are Float32Array [H x W x C], rows, columns, channels, as shares of the value range; those of predictions may
// lie outside 0..1. Patches are [L x P], the pixels of a patch in the same order.

const paddlemaePictures = (() => {
  const EPSILON = 1e-6; // added to the variance of a patch, as in model/targets.py
  const GREY = 128; // of removed patches
  const PERCENTILES = [0.01, 0.99]; // what of 16 bits becomes black and white
  const FULL = { black: [0], white: [1] };

  /** Call visit(patch, place in the patch, place in the picture, channel) for every value of a picture. */
  function forEachValue({ grid: [rows, columns], patch: [height, width], channels }, visit) {
    const across = columns * width * channels;
    for (let patch = 0; patch < rows * columns; patch++) {
      const start = Math.floor(patch / columns) * height * across + (patch % columns) * width * channels;
      for (let y = 0, place = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          for (let c = 0; c < channels; c++, place++) visit(patch, place, start + y * across + x * channels + c, c);
        }
      }
    }
  }

  /** Return {mean, deviation} of every patch of normalised pixels; the variance is unbiased. */
  function patchStatistics(header, pixels) {
    const count = header.patch[0] * header.patch[1] * header.channels;
    const total = header.grid[0] * header.grid[1];
    const mean = new Float64Array(total);
    const variance = new Float64Array(total);
    const normal = (place, c) => (pixels[place] - header.mean[c]) / header.std[c];
    forEachValue(header, (patch, _, place, c) => { mean[patch] += normal(place, c) / count; });
    forEachValue(header, (patch, _, place, c) => {
      variance[patch] += (normal(place, c) - mean[patch]) ** 2 / (count - 1);
    });
    const added = EPSILON + (header.architecture.norm_pix_floor ?? 0) ** 2;
    return { mean, deviation: variance.map((one) => Math.sqrt(one + added)) };
  }

  /** Return the stages of a reconstruction, each as pixels.
   *
   * plain: the decoder's output of every patch, [L x P].
   * prediction: each patch as the model predicts it, one of normalised pixels with the original's mean and deviation.
   * completed: the original where patches are kept, the prediction elsewhere. plain: the output as it is.
   */
  function drawStages(header, pixels, removed, plain) {
    const isNormalised = header.target === 'normalised';
    const { mean, deviation } = isNormalised ? patchStatistics(header, pixels) : {};
    const [prediction, completed, bare] = [0, 1, 2].map(() => new Float32Array(pixels.length));
    const count = plain.length / removed.length;
    forEachValue(header, (patch, inPatch, place, c) => {
      const output = plain[patch * count + inPatch];
      const value = isNormalised ? output * deviation[patch] + mean[patch] : output;
      bare[place] = output * header.std[c] + header.mean[c];
      prediction[place] = value * header.std[c] + header.mean[c];
      completed[place] = removed[patch] ? prediction[place] : pixels[place];
    });
    return { prediction, completed, plain: bare };
  }

  /** Return the range of values that is shown of pixels: all of 8 bits, the middle 98% of each channel of 16. */
  function shownRange(header, pixels) {
    if (header.bits !== 16) return FULL;
    const channels = Array.from({ length: header.channels }, (_, c) => c);
    const at = (share) => channels.map((c) => percentile(pixels, header.channels, c, share));
    const [black, white] = PERCENTILES.map(at);
    return { black, white: white.map((value, c) => Math.max(value, black[c] + 1 / 65535)) };
  }

  function percentile(pixels, channels, channel, share) {
    const sorted = pixels.filter((_, place) => place % channels === channel).sort();
    const place = share * (sorted.length - 1);
    const below = sorted[Math.floor(place)];
    return below + (sorted[Math.ceil(place)] - below) * (place - Math.floor(place));
  }

  /** Return the channels that are shown as red, green and blue. */
  function shownChannels(channels) {
    return channels < 3 ? [0, 0, 0] : [0, 1, 2];
  }

  /** Return pixels as RGBA of 8 bits. */
  function toRgba({ channels }, pixels, range = FULL) {
    const shown = shownChannels(channels);
    const count = pixels.length / channels;
    const rgba = new Uint8ClampedArray(4 * count).fill(255);
    for (let i = 0; i < count; i++) {
      for (let k = 0; k < 3; k++) {
        const c = shown[k];
        const black = range.black[c] ?? 0;
        const value = ((pixels[i * channels + c] - black) / ((range.white[c] ?? 1) - black)) * 255;
        rgba[4 * i + k] = Math.floor(value + 0.5);
      }
    }
    return rgba;
  }

  /** Call visit(removed or not, place of the pixel) for every pixel of a picture of patches. */
  function forEachPixel({ grid: [rows, columns], patch: [height, width] }, removed, visit) {
    for (let y = 0, place = 0; y < rows * height; y++) {
      const start = Math.floor(y / height) * columns;
      for (let x = 0; x < columns * width; x++, place++) visit(removed[start + Math.floor(x / width)], place);
    }
  }

  /** Return the RGBA of a picture with its removed patches in grey. */
  function maskRgba(header, rgba, removed) {
    const masked = rgba.slice();
    forEachPixel(header, removed, (isRemoved, place) => {
      if (isRemoved) masked.fill(GREY, 4 * place, 4 * place + 3);
    });
    return masked;
  }

  /** Return the mask as RGBA, removed patches white: `paddlemae reconstruct --mask` reads such pictures. */
  function drawMask(header, removed) {
    const rgba = new Uint8ClampedArray(4 * header.image[0] * header.image[1]).fill(255);
    forEachPixel(header, removed, (isRemoved, place) => {
      if (!isRemoved) rgba.fill(0, 4 * place, 4 * place + 3);
    });
    return rgba;
  }

  /** Return the two neighbours of each of `size` places among `count`, and the share of the second. */
  function linearPlaces(count, size) {
    return Array.from({ length: size }, (_, place) => {
      const at = Math.max(0, ((place + 0.5) * count) / size - 0.5);
      const low = Math.min(count - 1, Math.floor(at));
      return { low, high: Math.min(count - 1, low + 1), share: at - low };
    });
  }

  /** Return the class of every pixel, Uint16Array [H x W], from logits [h x w x K] that are resized bilinearly. */
  function labelPixels(logits, [h, w], [H, W]) {
    const K = logits.length / (h * w);
    const labels = new Uint16Array(H * W);
    const columns = linearPlaces(w, W);
    const row = new Float32Array(w * K);
    linearPlaces(h, H).forEach(({ low, high, share }, y) => {
      for (let i = 0; i < w * K; i++) {
        const above = logits[low * w * K + i];
        row[i] = above + (logits[high * w * K + i] - above) * share;
      }
      columns.forEach((place, x) => { labels[y * W + x] = bestClass(row, place, K); });
    });
    return labels;
  }

  function bestClass(row, { low, high, share }, K) {
    let [best, most] = [0, -Infinity];
    for (let k = 0; k < K; k++) {
      const value = row[low * K + k] + (row[high * K + k] - row[low * K + k]) * share;
      if (value > most) [best, most] = [k, value];
    }
    return best;
  }

  /** Return labels as RGBA in the colours of a palette. */
  function colourLabels(labels, palette) {
    const rgba = new Uint8ClampedArray(4 * labels.length).fill(255);
    labels.forEach((label, place) => rgba.set(palette[label], 4 * place));
    return rgba;
  }

  /** Return two pictures laid over each other, half and half. */
  function blendRgba(below, above) {
    return below.map((value, place) => (place % 4 === 3 ? 255 : (value + above[place]) / 2));
  }

  /** Return the share of the pixels that each of K classes has. */
  function labelShares(labels, K) {
    const shares = new Float64Array(K);
    for (const label of labels) shares[label] += 1 / labels.length;
    return shares;
  }

  /** Return probabilities of logits: softmax, or a sigmoid of each where classes don't exclude each other. */
  function toProbabilities(logits, areIndependent) {
    if (areIndependent) return Array.from(logits, (one) => 1 / (1 + Math.exp(-one)));
    const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const powers = Array.from(logits, (one) => Math.exp(one - most));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((one) => one / total);
  }

  /** Return {place, cosine} of all rows of `bank` [N x width], best first; all are of length one. */
  function rankByCosine(features, bank, width) {
    const ranked = Array.from({ length: bank.length / width }, (_, place) => {
      let cosine = 0;
      for (let i = 0; i < width; i++) cosine += features[i] * bank[place * width + i];
      return { place, cosine };
    });
    return ranked.sort((a, b) => b.cosine - a.cosine);
  }

  return {
    drawStages, shownRange, shownChannels, toRgba, maskRgba, drawMask, labelPixels, colourLabels, blendRgba,
    labelShares, toProbabilities, rankByCosine,
  };
})();
