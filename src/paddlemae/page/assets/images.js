'use strict';
// Images to pixels: the page's samples, and files of any size, type and orientation as the model's evaluation view
// (data/views/augment.py) gives them: turned upright, resized by an antialiased bicubic filter, the centre cropped.
//
// Pixels are Float32Array [H x W x C], shares of the value range.

const paddlemaeImages = (() => {
  const MAX_ASPECT = 32; // of what is shown of a long and narrow image
  const TILE = 2048; // pixels a side that are read at once of a large image
  const SPARE = 4; // times the needed pixels a side that the bicubic filter gets; more are averaged before
  const BICUBIC = -0.5;

  /** Return the names of channels that files of pictures can be turned into; other models have samples only. */
  function readsFiles(header) {
    return header.channels === 1 || header.channels === 3;
  }

  /** Return the pixels of a sample. */
  function readSample(header, bytes, { offset, length }) {
    if (header.bits !== 16) return Float32Array.from(bytes.subarray(offset, offset + length), (value) => value / 255);
    const view = new DataView(bytes.buffer, bytes.byteOffset + offset, length);
    return Float32Array.from({ length: length / 2 }, (_, place) => view.getUint16(2 * place, true) / 65535);
  }

  /** Round as Python does: halves to the even number. */
  function roundEven(value) {
    const below = Math.floor(value);
    return value - below === 0.5 ? below + (below % 2) : Math.round(value);
  }

  /**
   * Return how an image of [H, W] becomes the model's view.
   *
   * box: what is used of the image; size: what the box is resized to; top, left: of the view in that.
   */
  function viewGeometry([H, W], { image: [height, width], fit, eval_crop_ratio: ratio }) {
    const box = { top: 0, left: 0, height: H, width: W };
    let [tall, wide] = [roundEven(height / ratio), roundEven(width / ratio)];
    if (fit === 'crop') {
      [box.height, box.width] = [Math.min(H, MAX_ASPECT * W), Math.min(W, MAX_ASPECT * H)];
      [box.top, box.left] = [roundEven((H - box.height) / 2), roundEven((W - box.width) / 2)];
      if (tall * box.width >= wide * box.height) wide = Math.max(wide, Math.floor((tall * box.width) / box.height));
      else tall = Math.max(tall, Math.floor((wide * box.height) / box.width));
    }
    return { box, size: [tall, wide], top: roundEven((tall - height) / 2), left: roundEven((wide - width) / 2) };
  }

  /** Return, for each of `count` outputs from `start` on, the first input and the weights of the bicubic filter. */
  function filterWeights(input, output, start, count) {
    const scale = input / output;
    const stretch = Math.max(scale, 1);
    const last = Math.ceil(input - 1e-6);
    return Array.from({ length: count }, (_, place) => {
      const centre = (start + place + 0.5) * scale;
      const first = Math.max(0, Math.floor(centre - 2 * stretch + 0.5));
      const end = Math.min(last, Math.floor(centre + 2 * stretch + 0.5));
      const weights = Array.from({ length: end - first }, (_, i) => cubic((first + i + 0.5 - centre) / stretch));
      const total = weights.reduce((a, b) => a + b, 0);
      return { first, weights: weights.map((one) => one / total) };
    });
  }

  function cubic(signed) {
    const x = Math.abs(signed);
    if (x < 1) return ((BICUBIC + 2) * x - (BICUBIC + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * BICUBIC : 0;
  }

  /** Resize each row of [rows x length x C] by such weights. */
  function filterRows(values, rows, length, C, weights) {
    const out = new Float32Array(rows * weights.length * C);
    for (let row = 0, place = 0; row < rows; row++) {
      for (const { first, weights: shares } of weights) {
        for (let c = 0; c < C; c++, place++) {
          let sum = 0;
          for (let i = 0, at = (row * length + first) * C + c; i < shares.length; i++, at += C) sum += shares[i] * values[at];
          out[place] = sum;
        }
      }
    }
    return out;
  }

  /** Turn [rows x columns x C] into [columns x rows x C]. */
  function transpose(values, rows, columns, C) {
    const out = new Float32Array(values.length);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        for (let c = 0; c < C; c++) out[(column * rows + row) * C + c] = values[(row * columns + column) * C + c];
      }
    }
    return out;
  }

  /**
   * Return the view [height x width x C] of values [rows x columns x C].
   *
   * input: [h, w] of the box in values, which ends between two of them where blocks were averaged before.
   */
  function resizeView(values, [rows, columns], C, input, { size, top, left }, [height, width]) {
    const across = filterRows(values, rows, columns, C, filterWeights(input[1], size[1], left, width));
    const turned = transpose(across, rows, width, C);
    const down = filterRows(turned, width, rows, C, filterWeights(input[0], size[0], top, height));
    return transpose(down, width, height, C);
  }

  /** Return a file's picture, upright; an element where the browser decodes it into nothing else (SVG, old browsers). */
  async function decode(file) {
    try {
      return await createImageBitmap(file, { imageOrientation: 'from-image', colorSpaceConversion: 'none' });
    } catch {
      const url = URL.createObjectURL(file);
      const element = new Image();
      element.src = url;
      try {
        await element.decode();
      } finally {
        URL.revokeObjectURL(url);
      }
      return element;
    }
  }

  const sizeOf = (picture) => [picture.naturalHeight ?? picture.videoHeight ?? picture.height,
    picture.naturalWidth ?? picture.videoWidth ?? picture.width];

  /** Return the means of blocks of factor x factor pixels, [h x w x C] with values 0..255; those at the ends are smaller. */
  async function blockMeans(picture, box, factor, C) {
    const size = [Math.ceil(box.height / factor), Math.ceil(box.width / factor)];
    const sums = new Float64Array(size[0] * size[1] * C);
    const side = factor * Math.max(1, Math.floor(TILE / factor));
    const canvas = document.createElement('canvas');
    for (let top = 0; top < box.height; top += side) {
      for (let left = 0; left < box.width; left += side) {
        const tile = { top, left, height: Math.min(side, box.height - top), width: Math.min(side, box.width - left) };
        addBlocks(sums, size[1], readTile(canvas, picture, box, tile), tile, factor, C);
        await new Promise((resolve) => setTimeout(resolve)); // so that the page can answer in between
      }
    }
    return { means: divideByCounts(sums, size, box, factor, C), size };
  }

  /** Return the RGBA of a part of the box, on white where the picture is transparent. */
  function readTile(canvas, picture, box, { top, left, height, width }) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.fillStyle = '#fff';
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, box.left + left, box.top + top, width, height, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  }

  function addBlocks(sums, across, rgba, { top, left, height, width }, factor, C) {
    for (let y = 0, from = 0; y < height; y++) {
      const start = Math.floor((top + y) / factor) * across + left / factor;
      for (let x = 0; x < width; x++, from += 4) {
        const place = (start + Math.floor(x / factor)) * C;
        if (C === 3) {
          sums[place] += rgba[from];
          sums[place + 1] += rgba[from + 1];
          sums[place + 2] += rgba[from + 2];
        } else {
          sums[place] += (rgba[from] * 19595 + rgba[from + 1] * 38470 + rgba[from + 2] * 7471 + 0x8000) >> 16; // ITU-R 601
        }
      }
    }
  }

  function divideByCounts(sums, [h, w], { height, width }, factor, C) {
    return Float32Array.from(sums, (sum, place) => {
      const [y, x] = [Math.floor(place / C / w), Math.floor(place / C) % w];
      return sum / (Math.min(factor, height - y * factor) * Math.min(factor, width - x * factor));
    });
  }

  /** Return the model's view of a picture: a bitmap, image, canvas or video. */
  async function readPicture(picture, header) {
    const size = sizeOf(picture);
    if (!size[0] || !size[1]) throw new Error('it has no size of its own');
    const geometry = viewGeometry(size, header);
    const { box } = geometry;
    const spare = Math.min(box.height / geometry.size[0], box.width / geometry.size[1]);
    const factor = Math.max(1, Math.floor(spare / SPARE));
    const { means, size: reduced } = await blockMeans(picture, box, factor, header.channels);
    const input = [box.height / factor, box.width / factor];
    const view = resizeView(means, reduced, header.channels, input, geometry, header.image);
    const white = header.bits === 16 ? 65535 : 255;
    return view.map((value) => Math.round(Math.min(1, Math.max(0, value / 255)) * white) / white);
  }

  /** Return the pixels of a file; an error says in words for readers why there are none. */
  async function readFile(file, header) {
    let picture;
    try {
      picture = await decode(file);
    } catch {
      throw new Error('this browser can\'t read it: no image, damaged, too large, or of a type that it does not know');
    }
    try {
      return await readPicture(picture, header);
    } catch (error) {
      if (error.name === 'SecurityError') throw new Error('this browser lets no page read such a drawing');
      throw new Error(`it can't be drawn (${error.message}); a smaller copy of it may work`);
    } finally {
      picture.close?.();
    }
  }

  return { readsFiles, readSample, viewGeometry, resizeView, readPicture, readFile };
})();
