'use strict';
// The pictures that one can choose from: the page's samples, and own ones from files, drops, the clipboard or the camera.
//
// A picture is {name, label, rgba, pixels, sample}: sample is its place among the page's, null of an own one.

const paddlemaeGallery = (() => {
  const { byId, make, drawPixels } = paddlemaeElements;
  const { readSample, readsFiles, readFile } = paddlemaeImages;
  const { toRgba, shownRange } = paddlemaePictures;
  const SAY_AFTER = 300; // milliseconds that a file takes until the page says that it is read
  const MOST_OWN = 24; // own pictures that are kept; the oldest goes first

  /** Return a picture of pixels, ready to be shown. */
  function makePicture(header, pixels, { name, label = '', sample = null }) {
    const range = shownRange(header, pixels);
    return { name, label, sample, pixels, range, rgba: toRgba(header, pixels, range) };
  }

  /** Return a canvas of a picture. */
  function thumbnail(header, picture) {
    const canvas = make('canvas', { 'aria-hidden': 'true' });
    drawPixels(canvas, picture.rgba, header.image[1], header.image[0]);
    return canvas;
  }

  /**
   * Fill the row of pictures.
   *
   * choose(picture): called when one is chosen. say(words): one line for readers; null takes the last one away.
   */
  function createGallery(header, bytes, { choose, say }) {
    const row = byId('samples');
    const pictures = [];
    let chosen = -1;

    function add(picture, atStart = false) {
      const title = picture.label ? `${picture.name}: ${picture.label}` : picture.name;
      const option = make('div', { role: 'option', tabindex: '-1', 'aria-selected': 'false', 'aria-label': title, title });
      option.append(thumbnail(header, picture));
      if (picture.label) option.append(make('span', { class: 'label' }, picture.label));
      option.addEventListener('click', () => select(pictures.findIndex((one) => one.option === option)));
      pictures.splice(atStart ? 0 : pictures.length, 0, { picture, option });
      if (atStart) row.prepend(option);
      else row.append(option);
      if (atStart && chosen >= 0) chosen += 1;
    }

    function select(place, focus = false) {
      if (!pictures[place]) return;
      chosen = place;
      pictures.forEach(({ option }, other) => {
        option.setAttribute('aria-selected', String(other === place));
        option.tabIndex = other === place ? 0 : -1;
      });
      const { option, picture } = pictures[place];
      if (focus) option.focus();
      row.scrollLeft = Math.min(Math.max(row.scrollLeft, option.offsetLeft + option.offsetWidth - row.clientWidth),
        option.offsetLeft);
      choose(picture);
    }

    row.addEventListener('keydown', (event) => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -chosen, End: pictures.length - 1 - chosen };
      if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      select(chosen + steps[event.key], true);
    });

    function dropOldest() {
      const own = pictures.map(({ picture }, place) => place).filter((place) => pictures[place].picture.sample === null);
      if (own.length <= MOST_OWN) return;
      const [{ option }] = pictures.splice(own[own.length - 1], 1);
      option.remove();
    }

    function addOwn(pixels, name) {
      add(makePicture(header, pixels, { name }), true);
      dropOldest();
      select(0);
    }

    async function openFiles(files) {
      if (!readsFiles(header)) {
        say(`This model reads images of ${header.channels} channels, which pictures don't have: only the samples can be shown.`);
        return;
      }
      const wrong = [];
      for (const file of files) {
        const name = `\u2068${file.name}\u2069`; // isolated: its letters may run from right to left
        const timer = setTimeout(() => say(`Reading ${name} …`, 'quiet'), SAY_AFTER);
        try {
          addOwn(await readFile(file, header), file.name);
        } catch (error) {
          wrong.push(`${name}: ${error.message}.`);
        } finally {
          clearTimeout(timer);
        }
      }
      say(wrong.join(' ') || null);
    }

    header.samples.forEach((sample, place) => {
      add(makePicture(header, readSample(header, bytes, sample), { ...sample, sample: place }));
    });
    acceptFiles(openFiles, say);
    return {
      add: addOwn,
      openFiles,
      select,
      step: (by) => select((chosen + by + pictures.length) % pictures.length),
      selectSample: (place) => select(pictures.findIndex(({ picture }) => picture.sample === place)),
      thumbnailOf: (place) => thumbnail(header, pictures.find(({ picture }) => picture.sample === place).picture),
    };
  }

  /** Open the files that come from the button, a drop or the clipboard. */
  function acceptFiles(open, say) {
    const input = byId('file');
    byId('open-file').addEventListener('click', () => input.click());
    input.addEventListener('change', async () => {
      await open([...input.files]);
      input.value = ''; // so that the same file can be chosen again
    });
    document.addEventListener('paste', (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) open(files);
      else say('There is no picture in the clipboard: copy one, not its address or name.');
    });
    acceptDrops(open, say);
  }

  function acceptDrops(open, say) {
    const sheet = byId('drop');
    let depth = 0; // of the elements that the pointer has entered and not left
    const show = (event) => { sheet.hidden = depth <= 0 || !event.dataTransfer?.types.includes('Files'); };
    document.addEventListener('dragenter', (event) => {
      event.preventDefault();
      depth += 1;
      show(event);
    });
    document.addEventListener('dragover', (event) => event.preventDefault());
    document.addEventListener('dragleave', (event) => {
      depth -= 1;
      show(event);
    });
    document.addEventListener('drop', (event) => {
      event.preventDefault();
      depth = 0;
      show(event);
      const files = [...(event.dataTransfer?.files ?? [])];
      if (files.length) open(files);
      else say('What was dropped is not a file: save the picture, then drop the file.');
    });
  }

  return { createGallery };
})();
