'use strict';
// The panel of nearest neighbours: the samples in the order of their features' cosine with those of the picture.

const paddlemaeNeighbours = (() => {
  const { byId, make } = paddlemaeElements;
  const { rankByCosine } = paddlemaePictures;
  const FEW = 8;
  const MOST = 60;

  /** Return the features of all samples, Float32Array [samples x width]. */
  function readFeatures(bytes, { width, offset }, count) {
    const start = bytes.byteOffset + offset;
    return new Float32Array(bytes.buffer.slice(start, start + 4 * width * count));
  }

  /**
   * Show the panel if the page has features.
   *
   * open(place): called when a sample is chosen. thumbnailOf(place) -> a new canvas of it.
   * Returns {needs(picture), show(picture)}: an own picture needs features.
   */
  function createNeighbours(header, bytes, { open, thumbnailOf }) {
    const info = header.sample_features;
    if (!info || header.samples.length < 2) return { needs: () => false, show: () => {} };
    byId('neighbours').hidden = false;
    const bank = readFeatures(bytes, info, header.samples.length);
    const shown = { picture: null };
    const more = paddlemaeClasses.createMore(byId('more-neighbours'), FEW, MOST, draw);
    const rowOf = (sample) => bank.subarray(sample * info.width, (sample + 1) * info.width);
    const featuresOf = ({ sample, features }) => (sample === null ? features : rowOf(sample));

    function draw() {
      const features = shown.picture && featuresOf(shown.picture);
      if (!features) return byId('neighbour-list').replaceChildren();
      const ranked = rankByCosine(features, bank, info.width).filter(({ place }) => place !== shown.picture.sample);
      byId('neighbour-list').replaceChildren(...ranked.slice(0, more.count(ranked.length)).map(entry));
    }

    function entry({ place, cosine }) {
      const { name, label } = header.samples[place];
      const rounded = (Math.round(100 * cosine) / 100 + 0).toFixed(2); // + 0: no "-0.00"
      const title = `${label ? `${name}: ${label}` : name}, cosine ${rounded}`;
      const button = make('button', { type: 'button', 'aria-label': `Open ${title}`, title });
      button.append(thumbnailOf(place));
      if (label) button.append(make('span', { class: 'label' }, label));
      button.append(make('span', { class: 'small' }, rounded));
      button.addEventListener('click', () => open(place));
      return make('li', {}, button);
    }

    function show(picture) {
      shown.picture = picture;
      draw();
    }

    return { needs: (picture) => picture.sample === null && !picture.features, show };
  }

  return { createNeighbours };
})();
