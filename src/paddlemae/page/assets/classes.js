'use strict';
// What models of classes say: bars of a classifier's probabilities, a segmenter's mask with its legend.

const paddlemaeClasses = (() => {
  const { byId, make, drawPixels, percent } = paddlemaeElements;
  const { toProbabilities, labelPixels, colourLabels, blendRgba, labelShares } = paddlemaePictures;
  const FEW = 5;
  const MOST = 200; // bars that are drawn, whatever the number of classes
  // where a segmenter has no palette of its own: hues a golden angle apart, in three brightnesses
  const ownColour = (place) => {
    const [hue, light] = [(place * 137.508) % 360, [0.5, 0.65, 0.38][place % 3]];
    const channel = (n) => {
      const k = (n + hue / 30) % 12;
      return Math.round(255 * (light - 0.65 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return [channel(0), channel(8), channel(4)];
  };

  /** Let a button show all of a list, or a few. Returns {count(all) -> how many to show}. */
  function createMore(button, few, most, redraw) {
    let isOpen = false;
    button.addEventListener('click', () => {
      isOpen = !isOpen;
      button.setAttribute('aria-expanded', String(isOpen));
      button.textContent = isOpen ? 'Fewer' : 'More';
      redraw();
    });
    return {
      count(all) {
        button.hidden = all <= few;
        return isOpen ? Math.min(all, most) : few;
      },
    };
  }

  /** Show a classifier's probabilities; show(logits, isWhole) with whether nothing was removed. */
  function createBars(header) {
    byId('panel-classes').hidden = false;
    const { classes, thresholds } = header;
    const shown = { now: null, whole: null };
    const more = createMore(byId('more-classes'), FEW, MOST, draw);
    byId('classes-hint').textContent = thresholds
      ? 'Each class on its own; the line in a bar is the threshold above which the model says that it is there.'
      : '';

    function draw() {
      if (!shown.now) return;
      const order = [...shown.now.keys()].sort((a, b) => shown.now[b] - shown.now[a]);
      byId('bars').replaceChildren(...order.slice(0, more.count(order.length)).map(bar));
    }

    function bar(place) {
      const share = shown.now[place];
      const isSaid = thresholds ? share >= thresholds[place] : share === Math.max(...shown.now);
      const fill = make('span', { class: 'fill' });
      fill.style.width = percent(share, 2);
      const track = make('span', { class: 'track', 'aria-hidden': 'true' }, fill);
      if (thresholds) track.append(mark('threshold', thresholds[place]));
      if (shown.whole) track.append(mark('whole', shown.whole[place]));
      const item = make('li', {}, make('span', { class: 'name' }, classes[place] ?? `class ${place}`),
        make('span', { class: 'share' }, percent(share, 1)), track);
      item.classList.toggle('said', isSaid);
      return item;
    }

    function mark(kind, share) {
      const element = make('span', { class: kind });
      element.style.left = percent(share, 2);
      return element;
    }

    function show(logits, isWhole) {
      shown.now = toProbabilities(logits, Boolean(thresholds));
      if (isWhole) shown.whole = shown.now;
      if (shown.whole && !thresholds) {
        byId('classes-hint').textContent = 'The mark in a bar is the probability with nothing removed.';
      }
      draw();
    }

    const best = () => {
      const place = shown.now.indexOf(Math.max(...shown.now));
      return `${classes[place] ?? `class ${place}`} ${percent(shown.now[place])}`;
    };
    return { show, best, forget: () => { shown.whole = null; } };
  }

  /** Show a segmenter's classes; show(result, rgba) with the picture under them. */
  function createSegments(header) {
    const { classes } = header;
    const palette = header.palette ?? classes.map((_, place) => ownColour(place));
    const [H, W] = header.image;
    const legend = byId('legend');
    const shown = { labels: null };
    for (const id of ['panel-overlay', 'panel-labels', 'legend']) byId(id).hidden = false;

    function show({ logits, logitsGrid }, rgba) {
      shown.labels = labelPixels(logits, logitsGrid, header.image);
      const coloured = colourLabels(shown.labels, palette);
      drawPixels(byId('labels'), coloured, header.image);
      drawPixels(byId('overlay'), blendRgba(rgba, coloured), header.image);
      drawLegend(labelShares(shown.labels, classes.length));
    }

    function drawLegend(shares) {
      const order = [...shares.keys()].filter((place) => shares[place] > 0).sort((a, b) => shares[b] - shares[a]);
      legend.replaceChildren(...order.map((place) => {
        const swatch = make('span', { class: 'swatch', 'aria-hidden': 'true' });
        swatch.style.background = `rgb(${palette[place].join(' ')})`;
        return make('span', { class: 'entry' }, swatch, make('span', {}, classes[place]),
          make('span', { class: 'share' }, percent(shares[place], 1)));
      }));
    }

    function point(event) {
      if (!shown.labels) return;
      const box = event.currentTarget.getBoundingClientRect();
      const [y, x] = [((event.clientY - box.top) / box.height) * H, ((event.clientX - box.left) / box.width) * W];
      const inside = y >= 0 && x >= 0 && y < H && x < W;
      byId('pointed').textContent = inside ? classes[shown.labels[Math.floor(y) * W + Math.floor(x)]] : '';
    }
    for (const id of ['overlay', 'labels']) {
      byId(id).addEventListener('pointermove', point);
      byId(id).addEventListener('pointerdown', point);
      byId(id).addEventListener('pointerleave', () => { byId('pointed').textContent = ''; });
    }
    const largest = () => {
      const shares = labelShares(shown.labels, classes.length);
      const place = shares.indexOf(Math.max(...shares));
      return `${classes[place]} ${percent(shares[place])} of the pixels`;
    };
    return { show, best: largest, forget: () => {} };
  }

  return { createBars, createSegments, createMore };
})();
