/* The report's moving parts: curves, map, confusion matrix, slider, theme, copying. Words and tables are the HTML's. */
(() => {
  "use strict";

  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const darkScreen = matchMedia("(prefers-color-scheme: dark)");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector, within = document) => within.querySelector(selector);
  const redraws = []; // of everything that is drawn in colours of the theme
  let printing = false;

  root.classList.add("js");

  /* -------------------------------------------------------------------------------------------------- theme */

  // distinguishable with every common colour blindness: after Okabe and Ito, made to stand out from each ground
  const SERIES = {
    light: ["#c2410c", "#0068b3", "#00806a", "#a3418a", "#7a6200", "#3f4a57"],
    dark: ["#ff9a57", "#5cb3ff", "#3ddbb0", "#f29bd4", "#e8d25a", "#c3ccd6"],
  };
  const DASHES = [[], [], [], [9, 4], [2, 4], [9, 4, 2, 4]]; // from the fourth run on, lines differ in more than colour
  const INKS = {
    light: { ink: "#1d2733", muted: "#56616e", grid: "#e8ebee", ground: "#ffffff", heat: [29, 78, 216] },
    dark: { ink: "#e4e8ed", muted: "#9ba6b3", grid: "#262d36", ground: "#12161c", heat: [96, 150, 255] },
  };

  function scheme() {
    if (printing) return "light";
    return root.dataset.theme || (darkScreen.matches ? "dark" : "light");
  }
  const inks = () => INKS[scheme()];
  const seriesColour = (place) => SERIES[scheme()][place % SERIES.light.length];

  function redraw() {
    for (const swatch of all(".swatch")) swatch.style.background = seriesColour(Number(swatch.dataset.series));
    for (const draw of redraws) draw();
  }

  function remember(key, value) {
    try { localStorage.setItem(key, value); } catch { /* a page from disk may have no storage */ }
  }

  function remembered(key) {
    try { return localStorage.getItem(key); } catch { return null; }
  }

  function setTheme(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    one(".theme").textContent = `Theme: ${root.dataset.theme || "auto"}`;
  }

  function startTheme() {
    setTheme(remembered("paddlemae-theme"));
    one(".theme").addEventListener("click", () => {
      setTheme({ auto: "light", light: "dark", dark: "auto" }[root.dataset.theme || "auto"]);
      remember("paddlemae-theme", root.dataset.theme || "auto");
      redraw();
    });
    darkScreen.addEventListener("change", redraw);
  }

  /* ------------------------------------------------------------------------------------------------ numbers */

  function short(value, digits = 4) {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (value !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits - 2).replace(/\.?0+e/, "e");
    return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size + 1))))));
  }

  function clock(seconds) {
    if (seconds == null) return "–";
    if (seconds < 120) return `${short(seconds, 3)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 120 ? `${short(seconds / 60, 3)} min` : `${short(seconds / 3600, 3)} h`;
  }

  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const place = (axis, value) =>
    axis === "seconds" ? clock(value) : axis === "step" ? `step ${Math.round(value)}` : `epoch ${short(value)}`;

  /* ---------------------------------------------------------------------------------------------------- tip */

  const tip = one(".tip");

  function showTip(x, y, ...content) {
    tip.replaceChildren(...content);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
    const top = y + 16 + height > innerHeight ? y - 16 - height : y + 16;
    tip.style.transform = `translate(${Math.max(4, Math.min(left, innerWidth - width - 4))}px, ${Math.max(4, top)}px)`;
  }

  const hideTip = () => { tip.hidden = true; };

  /* ------------------------------------------------------------------------------------------------- curves */

  function line(curve, axis) {
    const points = curve.value.map((value, index) => [curve[axis][index], value]).filter(([x]) => x != null);
    points.sort((a, b) => a[0] - b[0]);
    return [points.map(([x]) => x), points.map(([, y]) => y)];
  }

  /** An SVG of one path. */
  function drawing(size, path) {
    const [svg, shape] = [["svg", size], ["path", path]].map(([tag, attributes]) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      return element;
    });
    svg.append(shape);
    return svg;
  }

  function lineSample(series) {
    const look = { stroke: seriesColour(series), "stroke-dasharray": DASHES[series % DASHES.length].join(" ") };
    return drawing({ width: 22, height: 6 }, { d: "M0 3H22", "stroke-width": 2.5, ...look });
  }

  function fillLegend(chart) {
    const { plot, group, legend, runs } = chart;
    const indices = plot.cursor.idxs || [];
    const entries = runs.map(({ run, series }, index) => {
      const entry = document.createElement("span");
      const values = plot.data[index + 1];
      const at = indices[index + 1] ?? values.findLastIndex((value) => value != null);
      const value = document.createElement("b");
      value.textContent = short(values[at]);
      if (runs.length > 1) entry.append(lineSample(series), `${run.label} `);
      entry.append(value, ` at ${place(group.axis, plot.data[0][at])}`);
      return entry;
    });
    legend.replaceChildren(...entries);
  }

  function axes(group, chart) {
    const { muted, grid } = inks();
    const look = { stroke: muted, font: "12px system-ui, sans-serif", grid: { stroke: grid, width: 1 } };
    const ticks = { stroke: grid, width: 1, size: 4 };
    const label = (value) => (value == null ? "" : group.axis === "seconds" ? clock(value) : short(value, 6));
    const value = (tick) => (tick == null ? "" : short(tick));
    const log = chart.log() ? { filter: (plot, splits) => splits, splits: logSplits } : {};
    return [
      { ...look, ticks, size: 30, space: 64, values: (plot, splits) => splits.map(label) },
      { ...look, ticks, size: 54, space: 34, values: (plot, splits) => splits.map(value), ...log },
    ];
  }

  /** Ticks of a logarithmic axis: 1, 2, 5 of each decade, or within less than that round numbers. */
  function logSplits(plot, axis, low, high) {
    const decades = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const digit of [1, 2, 5]) decades.push(digit * 10 ** power);
    const inside = decades.filter((tick) => tick >= low && tick <= high);
    if (inside.length > 8) return inside.filter((tick) => tick.toExponential().startsWith("1"));
    if (inside.length >= 4) return inside;
    const size = 10 ** Math.floor(Math.log10((high - low) / 4));
    const step = size * [1, 2, 5, 10].find((digit) => digit * size >= (high - low) / 5);
    const ticks = [];
    for (let count = Math.ceil(low / step); count * step <= high; count++) ticks.push(count * step);
    return ticks;
  }

  function drawChart(chart) {
    const { group, element, box } = chart;
    const tables = chart.runs.map(({ run }) => line(run.curves[chart.name], group.axis));
    const joined = tables.length > 1 ? uPlot.join(tables) : tables[0];
    chart.plot?.destroy();
    const log = chart.log();
    chart.plot = new uPlot({
      width: width(chart),
      height: element.classList.contains("wide") ? 270 : 190,
      padding: [10, 24, 0, 0],
      legend: { show: false },
      cursor: {
        y: false, // a value is read from its own line
        drag: { x: true, y: false, setScale: false },
        sync: { key: group.key, scales: ["x", null], filters: { pub: (type) => /^mouse(move|leave)$/.test(type) } },
        points: { size: 7 },
        bind: { dblclick: () => () => zoom(group, null) },
      },
      scales: {
        x: { time: false, range: (plot, low, high) => group.range || [low, high === low ? low + 1 : high] },
        y: { distr: log ? 3 : 1, ...(log ? { range: (plot, low, high) => [low * 0.96, high * 1.04] } : {}) },
      },
      axes: axes(group, chart),
      series: [{}, ...chart.runs.map(({ series }) => ({
        stroke: seriesColour(series),
        width: joined[0].length > 600 ? 1.2 : 1.7,
        dash: DASHES[series % DASHES.length],
        spanGaps: true,
      }))],
      hooks: {
        setSelect: [(plot) => {
          const { left, width } = plot.select;
          if (width < 6) return;
          const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          zoom(group, range);
        }],
        setCursor: [() => chart.plot && fillLegend(chart)],
      },
    }, joined, box);
    fingers(chart);
    fillLegend(chart);
  }

  function width(chart) {
    const wide = chart.element.classList.contains("wide");
    return printing ? (wide ? 680 : 325) : Math.max(200, chart.box.clientWidth);
  }

  /** Zoom by touch: a sideways drag selects, two fingers stretch; up and down the page scrolls as usual. */
  function fingers({ plot, group }) {
    const over = plot.over;
    const touches = new Map();
    let start = null, pinch = null, lastTap = 0;
    const at = (event) => {
      const box = over.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    over.style.touchAction = "pan-y";
    over.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch") return;
      touches.set(event.pointerId, at(event).x);
      start = touches.size === 1 ? { ...at(event), selects: false } : null;
      pinch = touches.size === 2 ? [...touches].map(([id, x]) => ({ id, value: plot.posToVal(x, "x") })) : null;
    });
    over.addEventListener("pointermove", (event) => {
      if (!touches.has(event.pointerId)) return;
      const { x, y } = at(event);
      touches.set(event.pointerId, x);
      if (pinch) return stretch(plot, group, pinch, touches);
      if (!start) return;
      start.selects ||= Math.abs(x - start.x) > 10;
      plot.setCursor({ left: x, top: y });
      if (start.selects) {
        const left = Math.max(0, Math.min(x, start.x)), right = Math.min(over.clientWidth, Math.max(x, start.x));
        plot.setSelect({ left, top: 0, width: right - left, height: over.clientHeight }, false);
      }
    });
    const end = (event) => {
      if (!touches.delete(event.pointerId)) return;
      const selected = start?.selects && event.type === "pointerup";
      if (selected) plot.setSelect({ ...plot.select }, true);
      else plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      if (start && !start.selects && event.type === "pointerup") {
        if (event.timeStamp - lastTap < 350) zoom(group, null);
        lastTap = event.timeStamp;
      }
      start = pinch = null;
    };
    over.addEventListener("pointerup", end);
    over.addEventListener("pointercancel", end);
  }

  function stretch(plot, group, pinch, touches) {
    const [first, second] = pinch.map(({ id, value }) => ({ value, x: touches.get(id) }));
    if (first.x === undefined || second.x === undefined || Math.abs(second.x - first.x) < 12) return;
    const scale = (second.value - first.value) / (second.x - first.x);
    if (!(scale > 0)) return;
    const low = first.value - scale * first.x;
    zoom(group, [low, low + scale * plot.over.clientWidth]);
  }

  function zoom(group, range) {
    if (range) {
      const [low, high] = group.bounds();
      range = [Math.max(low, range[0]), Math.min(high, range[1])];
      if (!(range[1] > range[0]) || (range[0] === low && range[1] === high)) range = null;
    }
    group.range = range;
    for (const { plot } of group.charts) plot?.setData(plot.data); // which computes the ranges again
    showRange(group);
  }

  function showRange(group) {
    one(".reset", group.element).disabled = !group.range;
    one(".shown", group.element).textContent = group.range
      ? `${place(group.axis, group.range[0])} to ${place(group.axis, group.range[1])}` : "";
    group.element.dataset.range = group.range ? group.range.join(" ") : "";
  }

  function press(buttons, pressed) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === pressed));
  }

  function startCharts(element, number) {
    const wanted = element.dataset.runs;
    const runs = data.runs.map((run, series) => ({ run, series: wanted === "all" ? series : 0, number: series }))
      .filter((each) => wanted === "all" || each.number === Number(wanted));
    const group = { element, key: `charts-${number}`, axis: "step", log: false, range: null, charts: [] };
    group.charts = all(".chart", element).map((figure) => {
      const name = figure.dataset.curve;
      const drawn = runs.filter(({ run }) => run.curves[name]);
      const positive = drawn.every(({ run }) => run.curves[name].value.every((value) => value > 0));
      return {
        name, group, element: figure, plot: null, runs: drawn,
        box: one(".plot", figure), legend: one(".legend", figure),
        log: () => group.log && positive && /loss/.test(name),
      };
    });
    group.bounds = () => {
      const ends = group.charts.filter(({ plot }) => plot).map(({ plot }) => [plot.data[0][0], plot.data[0].at(-1)]);
      return [Math.min(...ends.map(([low]) => low)), Math.max(...ends.map(([, high]) => high))];
    };
    controls(group);
    watch(group);
    redraws.push(() => { for (const chart of group.charts) if (chart.plot || printing) drawChart(chart); });
  }

  function controls(group) {
    const axisButtons = all("[data-axis]", group.element), logButtons = all("[data-log]", group.element);
    const again = () => { for (const chart of group.charts) if (chart.plot) drawChart(chart); };
    for (const button of axisButtons) {
      const curves = group.charts.flatMap(({ name, runs }) => runs.map(({ run }) => run.curves[name]));
      button.disabled = !curves.some((curve) => curve[button.dataset.axis].some((x) => x != null));
      button.addEventListener("click", () => {
        group.axis = button.dataset.axis;
        group.range = null;
        press(axisButtons, button);
        again();
        showRange(group);
      });
    }
    for (const button of logButtons) {
      button.addEventListener("click", () => {
        group.log = button.dataset.log === "log";
        press(logButtons, button);
        again();
      });
    }
    one(".reset", group.element).addEventListener("click", () => zoom(group, null));
  }

  /** Draw charts when they come near the screen, and again when their room changes. */
  function watch(group) {
    const seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const chart = group.charts.find(({ element }) => element === target);
        if (isIntersecting && !chart.plot) drawChart(chart);
      }
    }, { rootMargin: "600px" });
    const resized = new ResizeObserver(() => {
      if (printing) return;
      for (const chart of group.charts) {
        const { plot } = chart;
        if (plot && plot.width !== width(chart)) plot.setSize({ width: width(chart), height: plot.height });
      }
    });
    for (const { element, box } of group.charts) { seen.observe(element); resized.observe(box); }
  }

  /* ---------------------------------------------------------------------------------------------------- map */

  // in the middle of the range of lightness: visible on both backgrounds
  const HUES = [
    "#3878c7", "#d9690f", "#2f9457", "#c93b4b", "#8b63c4", "#1596a8", "#c2559d", "#8c7a12", "#96624a", "#75808c",
  ];
  const SHAPES = [
    (path, r) => path.arc(0, 0, r, 0, 7),
    (path, r) => path.rect(-0.9 * r, -0.9 * r, 1.8 * r, 1.8 * r),
    (path, r) => outline(path, r, [0, -1.2], [1.15, 0.9], [-1.15, 0.9]),
    (path, r) => outline(path, r, [0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]),
  ];
  const outline = (path, r, ...corners) => {
    for (const [x, y] of corners) path.lineTo(x * r, y * r);
    path.closePath();
  };
  const SAMPLES = [
    "M5 0A5 5 0 1 1 4.99 0Z", "M0.5 0.5H9.5V9.5H0.5Z", "M5 0L10 9.5H0Z", "M5 -0.5L10.5 5L5 10.5L-0.5 5Z",
  ];
  // a class has a shape as well as a colour; the shift makes 40 pairs of 10 colours and 4 shapes
  const hue = (label) => (label == null ? "#75808c" : HUES[label % HUES.length]);
  const shape = (label) => (label == null ? 0 : (label + Math.floor(label / 20)) % SHAPES.length);

  function classButton(name, label, count) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = name;
    button.setAttribute("aria-pressed", "true");
    const size = { width: 11, height: 11, viewBox: "-0.5 -0.5 11 11" };
    const mark = drawing(size, { d: SAMPLES[shape(label)], fill: hue(label) });
    button.append(mark, `${name} (${count})`);
    return button;
  }

  function startMap(element) {
    const map = data.runs.find(({ id }) => id === element.dataset.run).map;
    const canvas = one("canvas", element), list = one(".list", element);
    const name = (label) => (label == null ? "no label" : map.classes[label]);
    const hidden = new Set();
    let pointed = -1, side = 0, high = 0;
    const radius = map.points.length > 2500 ? 2.2 : map.points.length > 600 ? 3.2 : 4.2;
    const extent = [0, 1].map((axis) => Math.max(1e-9, ...map.points.map((point) => point[axis])));

    function spot([x, y]) {
      const scale = Math.min((side - 28) / extent[0], (high - 28) / extent[1]);
      return [(side - scale * extent[0]) / 2 + scale * x, (high + scale * extent[1]) / 2 - scale * y];
    }

    function mark(context, point, r) {
      const [x, y] = spot(point);
      context.setTransform(context.ratio, 0, 0, context.ratio, x * context.ratio, y * context.ratio);
      context.beginPath();
      SHAPES[shape(point[2])](context, r);
    }

    function draw() {
      side = printing ? 430 : canvas.clientWidth;
      if (!side) return;
      const tall = (side - 28) * extent[1] / extent[0] + 28; // no more than the points need
      high = Math.round(Math.min(Math.max(tall, 0.4 * side), printing ? 430 : 0.8 * innerHeight, 640));
      const ratio = printing ? 3 : devicePixelRatio || 1;
      canvas.width = Math.round(side * ratio);
      canvas.height = Math.round(high * ratio);
      canvas.style.height = `${high}px`;
      const context = canvas.getContext("2d");
      context.ratio = ratio;
      context.globalAlpha = 0.85;
      for (const point of map.points) {
        if (hidden.has(point[2])) continue;
        mark(context, point, radius);
        context.fillStyle = hue(point[2]);
        context.fill();
      }
      if (pointed < 0) return;
      context.globalAlpha = 1;
      mark(context, map.points[pointed], radius + 3);
      context.strokeStyle = inks().ink;
      context.lineWidth = 2;
      context.stroke();
    }

    function nearestPoint(event) {
      const box = canvas.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      let best = -1, least = (event.pointerType === "touch" ? 30 : 14) ** 2;
      map.points.forEach((point, index) => {
        if (hidden.has(point[2])) return;
        const [px, py] = spot(point);
        const distance = (px - x) ** 2 + (py - y) ** 2;
        if (distance < least) { best = index; least = distance; }
      });
      return best;
    }

    function point(event) {
      const found = nearestPoint(event);
      if (found !== pointed) { pointed = found; draw(); }
      if (found < 0) return hideTip();
      const picture = document.createElement("div"), words = document.createElement("div");
      const { columns, width, height } = map.sheet;
      picture.className = map.sheet.name ? `tile magnified ${map.sheet.name}` : "tile lost";
      picture.style.backgroundPosition = `-${(found % columns) * width}px -${Math.floor(found / columns) * height}px`;
      words.textContent = name(map.points[found][2]);
      showTip(event.clientX, event.clientY, picture, words);
    }

    function leave() {
      hideTip();
      if (pointed >= 0) { pointed = -1; draw(); }
    }

    canvas.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") point(event); });
    canvas.addEventListener("pointerup", point);
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") leave(); });
    document.addEventListener("pointerdown", (event) => { if (event.target !== canvas) leave(); });

    const counts = new Map();
    for (const [, , label] of map.points) counts.set(label, (counts.get(label) || 0) + 1);
    const labels = [...counts.keys()].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
    const buttons = labels.map((label) => {
      const button = classButton(name(label), label, counts.get(label));
      button.addEventListener("click", () => {
        if (!hidden.delete(label)) hidden.add(label);
        button.setAttribute("aria-pressed", String(!hidden.has(label)));
        draw();
      });
      return button;
    });
    list.append(...buttons);
    for (const [selector, shown] of [[".all", true], [".none", false]]) {
      one(`.classes ${selector}`, element).addEventListener("click", () => {
        for (const label of labels) shown ? hidden.delete(label) : hidden.add(label);
        for (const button of buttons) button.setAttribute("aria-pressed", String(shown));
        draw();
      });
    }
    new ResizeObserver(() => { if (!printing && canvas.clientWidth !== side) draw(); }).observe(element);
    redraws.push(draw);
    draw();
  }

  /* ---------------------------------------------------------------------------------------------- confusion */

  const MOST_PIXELS = 1024; // of a matrix's side

  function confusionOf(element) {
    const { classes, cells, counts } = data.runs.find(({ id }) => id === element.dataset.run).confusion;
    const totals = classes.map(() => 0), found = new Map();
    cells.forEach((cell, index) => {
      totals[Math.floor(cell / classes.length)] += counts[index];
      found.set(cell, counts[index]);
    });
    const describe = (event, row, column) => {
      const count = found.get(row * classes.length + column) || 0;
      const lines = [`true: ${classes[row]}`, `predicted: ${classes[column]}`,
        `${count} of ${totals[row]} images, ${percent(count / Math.max(1, totals[row]))}`];
      showTip(event.clientX, event.clientY, ...lines.map((words) => {
        const each = document.createElement("div");
        each.textContent = words;
        return each;
      }));
    };
    return { classes, cells, counts, totals, describe };
  }

  function startConfusionTable(table) {
    const { classes, describe } = confusionOf(table);
    table.classList.toggle("upright", classes.some((name) => name.length > 4));
    const point = (event) => {
      const cell = event.target.closest("td");
      if (cell) describe(event, cell.parentNode.sectionRowIndex, cell.cellIndex - 1);
      else hideTip();
    };
    table.addEventListener("pointermove", point);
    table.addEventListener("pointerdown", point);
    table.addEventListener("pointerleave", hideTip);
  }

  function startMatrix(figure) {
    const canvas = one("canvas", figure);
    const { classes, cells, counts, totals, describe } = confusionOf(figure);
    const size = classes.length, side = Math.min(size, MOST_PIXELS); // of many classes several share a pixel
    const pixelOf = (cell) => side * Math.floor(Math.floor(cell / size) * side / size) + Math.floor((cell % size) * side / size);
    const shares = new Float64Array(side * side), strongest = new Map(); // of each pixel, and the cell that it is of
    cells.forEach((cell, index) => {
      const share = counts[index] / totals[Math.floor(cell / size)], pixel = pixelOf(cell);
      if (share <= shares[pixel]) return;
      shares[pixel] = share;
      strongest.set(pixel, cell);
    });

    function draw() {
      canvas.width = canvas.height = side;
      const context = canvas.getContext("2d");
      const image = context.createImageData(side, side);
      const [red, green, blue] = inks().heat;
      for (const pixel of strongest.keys()) {
        // the square root keeps rare confusions in sight
        image.data.set([red, green, blue, 255 * Math.sqrt(shares[pixel])], 4 * pixel);
      }
      context.putImageData(image, 0, 0);
    }

    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
        .map((part) => Math.max(0, Math.min(side - 1, Math.floor(part * side))));
      const cell = strongest.get(side * row + column);
      if (cell !== undefined) describe(event, Math.floor(cell / size), cell % size);
      else describe(event, Math.floor(row * size / side), Math.floor(column * size / side));
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", hideTip);
    redraws.push(draw);
    draw();
  }

  /* -------------------------------------------------------------------------------------- reconstructions */

  function startWatching(bar) {
    const section = bar.parentNode;
    const slider = one("input", bar), output = one("output", bar), play = one(".play", bar);
    const rows = all(".snapshot", section), pictures = rows.map((row) => one("img", row));
    const cell = one(".watched td", section), shown = new Image();
    let timer = null;

    function show(index) {
      const source = pictures[index];
      if (source) {
        for (const { name, value } of source.attributes) shown.setAttribute(name, value);
      }
      const title = one("th", rows[index]);
      one(".now", section).textContent = title.firstChild.textContent;
      output.textContent = [...title.childNodes].map((node) => node.textContent.trim()).join(", ");
      slider.value = index;
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Watch it learn";
    }

    slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
    play.addEventListener("click", () => {
      if (timer) return stop();
      let index = 0;
      play.textContent = "Stop";
      show(0);
      timer = setInterval(() => {
        index += 1;
        show(index);
        if (index === rows.length - 1) stop();
      }, 700);
    });
    cell.replaceChildren(shown);
    show(rows.length - 1);
  }

  /* ---------------------------------------------------------------------------------------- the page itself */

  async function copy(button) {
    const words = one("code", button.parentNode).textContent;
    try {
      await navigator.clipboard.writeText(words);
    } catch { // a page from disk may not be allowed to
      const area = document.createElement("textarea");
      area.value = words;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  function startContents() {
    const contents = one(".toc"), wide = matchMedia("(min-width: 1100px)");
    const fit = () => { contents.open = wide.matches; };
    wide.addEventListener("change", fit);
    fit();
    one("summary", contents).addEventListener("click", (event) => { if (wide.matches) event.preventDefault(); });
    contents.addEventListener("click", (event) => { if (event.target.closest("a")) fit(); });
    const links = new Map(all("a", contents).map((link) => [link.hash.slice(1), link]));
    const reading = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(target.id).setAttribute("aria-current", "location");
      }
    }, { rootMargin: "-15% 0px -75% 0px" });
    for (const id of links.keys()) {
      const target = document.getElementById(id);
      if (target && !one("section", target)) reading.observe(target);
    }
  }

  function startPrinting() {
    let closed = [];
    addEventListener("beforeprint", () => {
      printing = true;
      closed = all("details.opened-in-print:not([open])");
      for (const details of closed) details.open = true;
      redraw();
    });
    addEventListener("afterprint", () => {
      printing = false;
      for (const details of closed) details.open = false;
      redraw();
    });
  }

  startTheme();
  startContents();
  startPrinting();
  all(".charts").forEach(startCharts);
  all(".map").forEach(startMap);
  all("table.confusion").forEach(startConfusionTable);
  all(".matrix").forEach(startMatrix);
  all(".watch").forEach(startWatching);
  for (const button of all(".copy")) button.addEventListener("click", () => copy(button));
  addEventListener("scroll", hideTip, { passive: true });
  redraw();
})();
