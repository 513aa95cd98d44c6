// The chart and the samples of report.html. All their data is in the page.
const { runs, groups } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
// Each colour has a contrast of at least 3 to the light and the dark background.
const COLOURS = ["#2f7fd0", "#d9640a", "#2e9150", "#d0424a", "#8d63c8", "#a06a4a", "#cf4f9b", "#7f7f7f", "#8f8a14", "#1391a6"];
const DASHES = ["", "5 3", "2 2"];
const SIDE = 52, BELOW = 36, ABOVE = 8; // margins of the plot, px

// ---- Curves ----

/** Returns group -> [{label, colour, dash, curve: [kimg, mean, min, max]}]. With one run, each curve has a colour; with several, each run. */
function charts() {
  const byGroup = Object.create(null); // names come from a file and may be __proto__
  const add = (group, run, name, words, place = 0) => {
    const curve = runs[run].curves[name];
    if (!curve || !curve[0].length) return;
    const label = [runs.length > 1 ? runs[run].name : "", words].filter(Boolean).join(": ") || name;
    const [hue, dash] = runs.length > 1 ? [run, DASHES[place]] : [place, ""];
    const colour = COLOURS[hue] || `hsl(${hue * 137.5} 55% 50%)`;
    (byGroup[group] ||= []).push({ label, colour, dash, curve });
  };
  const known = new Set(Object.values(groups).flatMap(Object.keys));
  const others = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))].filter((name) => !known.has(name));
  runs.forEach((_, run) => {
    for (const [group, names] of Object.entries(groups)) Object.entries(names).forEach(([name, words], i) => add(group, run, name, words, i));
    for (const name of others) add(name, run, name, "");
  });
  return byGroup;
}

/** Returns the exponential moving average with weight `share`, corrected for the start. */
function smoothed(values, share) {
  let sum = 0, weight = 0;
  return values.map((value) => {
    sum = share * sum + (1 - share) * value;
    weight = share * weight + (1 - share);
    return sum / weight;
  });
}

/** Returns about five round numbers from low to high, with their labels. */
function ticks(low, high) {
  const rough = (high - low) / 5, ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * ten >= rough) * ten;
  const first = Math.ceil(low / step), decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) =>
    ({ value: (first + i) * step, words: ((first + i) * step).toFixed(Math.min(decimals, 12)) }));
}

const short = (value) => String(Number(value.toPrecision(3)));
const made = (tag, attributes, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
};

const all = charts();
let reach = null; // [kimg, kimg] of the zoomed part; null: the whole run
let drawn = null; // the current chart: curves, scales and size
let reading = null; // kimg at which values are shown

function draw() {
  const plot = $("plot"), width = plot.clientWidth, height = plot.clientHeight;
  plot.replaceChildren();
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const share = Number($("smooth").value);
  const shown = (all[$("group").value] || []).map(({ label, colour, dash, curve: [xs, mean, least, most] }) =>
    ({ label, colour, dash, xs, mean: smoothed(mean, xs.length > 20 ? share : 0), raw: mean, least, most }));
  $("whole").hidden = !reach;
  if (!shown.length) return;
  const span = (lists, pick) => lists.reduce((so, list) => list.reduce((so, value) => pick(so, value), so), lists[0][0]);
  const [from, to] = reach || [span(shown.map((c) => c.xs), Math.min), span(shown.map((c) => c.xs), Math.max)];
  // The visible curves determine the vertical range. The largest 0.5 % of their values may be cut off.
  const values = shown.flatMap((c) => c.xs.flatMap((x, i) => (x >= from && x <= to ? [c.mean[i], c.raw[i]] : []))).sort((a, b) => a - b);
  if (!values.length) return;
  const asLog = $("log").checked && values[0] > 0;
  const scale = asLog ? Math.log10 : (value) => value;
  let low = scale(values[0]), high = scale(values[values.length - 1 - Math.floor(values.length / 200)]);
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  [low, high] = [low - (high - low) * 0.05, high + (high - low) * 0.05];
  const x = (value) => SIDE + (width - SIDE - 8) * (to > from ? (value - from) / (to - from) : 0.5);
  const y = (value) => height - BELOW - (height - BELOW - ABOVE) * ((scale(Math.max(value, asLog ? 1e-30 : -Infinity)) - low) / (high - low));
  const inside = made("clipPath", { id: "inside" });
  inside.append(made("rect", { x: SIDE, y: ABOVE, width: Math.max(0, width - SIDE - 8), height: height - BELOW - ABOVE }));
  plot.append(inside);
  for (const tick of ticks(low, high)) {
    const value = asLog ? 10 ** tick.value : tick.value;
    plot.append(made("line", { class: "grid", x1: SIDE, x2: width - 8, y1: y(value), y2: y(value) }));
    plot.append(made("text", { x: SIDE - 6, y: y(value) + 4, "text-anchor": "end" }, asLog ? short(value) : tick.words));
  }
  for (const { value, words } of to > from ? ticks(from, to) : [{ value: from, words: short(from) }]) {
    plot.append(made("text", { x: x(value), y: height - BELOW + 16, "text-anchor": "middle" }, words));
  }
  plot.append(made("text", { x: width - 8, y: height - 4, "text-anchor": "end" }, "images shown, in thousands (kimg)"));
  const curves = made("g", { "clip-path": "url(#inside)" });
  for (const { colour, dash, xs, mean, least, most } of shown) {
    const line = (values, order) => order.map((i) => `${x(xs[i]).toFixed(1)},${y(values[i]).toFixed(1)}`).join(" ");
    const forth = xs.map((_, i) => i);
    curves.append(made("polygon", { class: "band", fill: colour, points: `${line(most, forth)} ${line(least, [...forth].reverse())}` }));
    curves.append(made("polyline", { class: "curve", stroke: colour, "stroke-dasharray": dash, points: line(mean, forth) }));
    if (xs.length < 40) for (const i of forth) curves.append(made("circle", { cx: x(xs[i]), cy: y(mean[i]), r: 3, fill: colour }));
  }
  plot.append(curves);
  drawn = { shown, from, to, x, width, height, kimgAt: (px) => from + (to - from) * Math.min(1, Math.max(0, (px - SIDE) / (width - SIDE - 8))) };
  read(to);
}

/** Shows the values at this kimg below the chart. */
function read(kimg) {
  const line = $("read");
  reading = kimg;
  line.replaceChildren(`At ${short(kimg)} kimg: `);
  for (const { label, colour, dash, xs, mean } of drawn.shown) {
    let nearest = 0;
    xs.forEach((x, i) => { if (Math.abs(x - kimg) < Math.abs(xs[nearest] - kimg)) nearest = i; });
    const sign = made("svg", { viewBox: "0 0 26 10" });
    sign.append(made("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour, "stroke-width": 4, "stroke-dasharray": dash }));
    const words = document.createElement("span");
    words.append(sign, `${label} ${short(mean[nearest])}`);
    line.append(words, " ");
  }
}

function watch() {
  const plot = $("plot");
  const place = (event) => event.clientX - plot.getBoundingClientRect().left;
  let since = null;
  const mark = (name, attributes) => {
    plot.querySelector(`.${name}`)?.remove();
    if (attributes) plot.append(made(attributes.width === undefined ? "line" : "rect", { class: name, ...attributes }));
  };
  plot.addEventListener("pointerdown", (event) => { since = place(event); });
  plot.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    const px = Math.max(SIDE, Math.min(place(event), drawn.width - 8));
    read(drawn.kimgAt(px));
    mark("at", { x1: px, x2: px, y1: ABOVE, y2: drawn.height - BELOW });
    if (since !== null) mark("chosen", { x: Math.min(since, px), width: Math.abs(px - since), y: ABOVE, height: drawn.height - BELOW - ABOVE });
  });
  plot.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way || !drawn) return;
    event.preventDefault();
    read(Math.max(drawn.from, Math.min(drawn.to, reading + way * (drawn.to - drawn.from) / 50)));
    const px = drawn.x(reading);
    mark("at", { x1: px, x2: px, y1: ABOVE, y2: drawn.height - BELOW });
  });
  plot.addEventListener("pointercancel", () => { since = null; mark("chosen"); });
  addEventListener("pointerup", (event) => {
    const began = since;
    since = null;
    if (began === null || !drawn) return;
    mark("chosen");
    if (Math.abs(place(event) - began) < 12) return; // a click, not a drag
    reach = [drawn.kimgAt(began), drawn.kimgAt(place(event))].sort((a, b) => a - b);
    draw();
  });
  for (const id of ["smooth", "log"]) $(id).addEventListener("input", draw);
  $("group").addEventListener("input", () => { reach = null; draw(); });
  $("whole").addEventListener("click", () => { reach = null; draw(); });
  addEventListener("resize", draw);
}

for (const group of Object.keys(all)) $("group").append(new Option(group));
if ($("group").options.length) {
  watch();
  draw();
} else {
  $("chart").textContent = "There are no numbers yet.";
}

// ---- Samples ----

const GAP = 2; // px between the images of a sheet, as in figures.py
const lengths = runs.map((run) => run.grids.length);
const when = $("when"), most = Math.max(...lengths);
const whole = Math.max(...runs.map((run) => (run.grids.length ? run.grids[run.grids.length - 1].kimg : 0)));
const longest = runs[lengths.indexOf(most)].grids;
const figures = [...document.querySelectorAll("#grids figure")].map((element, i) => ({ element, run: runs[i], canvas: element.querySelector("canvas") }));
const sheets = new Map(); // src -> promise of the image
let enlarged = null; // [figure, position]

/** Loads the image of a sheet once. */
function load(src) {
  if (!sheets.has(src)) {
    const image = new Image();
    image.src = src;
    sheets.set(src, image.decode().then(() => image));
  }
  return sheets.get(src);
}

/** Returns {columns, count, place(i): [x, y, side]} for the images of a sheet. A sheet with an unknown layout counts as one image. */
function layout({ naturalWidth: width, naturalHeight: height }, size, samples, columns = Math.ceil(Math.sqrt(samples))) {
  const pitch = size + GAP, isWhole = (px) => (px - GAP) % pitch === 0;
  let rows = Math.ceil(samples / columns), count = samples;
  if (isWhole(width) && isWhole(height) && (columns * pitch + GAP !== width || rows * pitch + GAP !== height)) {
    [columns, rows] = [(width - GAP) / pitch, (height - GAP) / pitch]; // --grid-images was changed during the run
    count = columns * rows;
  }
  const scale = width / (columns * pitch + GAP); // large sheets are stored at a smaller scale
  if (Math.abs(height - (rows * pitch + GAP) * scale) > 2) return { columns: 1, count: 1, place: () => [0, 0, Math.min(width, height)] };
  return { columns, count, place: (i) => [((i % columns) * pitch + GAP) * scale, (Math.floor(i / columns) * pitch + GAP) * scale, size * scale] };
}

/** Draws one image into a canvas, enlarged without interpolation, so that it is not blurred. */
function enlarge(context, image, [x, y, side], left, top, width) {
  context.imageSmoothingEnabled = width < side;
  context.drawImage(image, x, y, side, side, left, top, width, width);
}

/** Draws the images of a sheet into a canvas, at the displayed width of the canvas, in rows of `columns`. */
function drawSheet(canvas, image, { count, place }, columns) {
  const width = canvas.clientWidth * devicePixelRatio, gap = Math.max(2, Math.round(width / columns / 24));
  const side = place(0)[2], cell = (width - (columns - 1) * gap) / columns;
  const drawnSide = Math.max(1, Math.ceil(cell / side)) * Math.round(side), step = drawnSide + Math.round(gap * drawnSide / cell);
  canvas.width = columns * step - (step - drawnSide);
  canvas.height = Math.ceil(count / columns) * step - (step - drawnSide);
  const context = canvas.getContext("2d");
  for (let i = 0; i < count; i++) enlarge(context, image, place(i), (i % columns) * step, Math.floor(i / columns) * step, drawnSide);
}

/** Shows the training images in the same way as the samples, at about the same size. */
function showReals() {
  const figure = $("reals"), image = figure?.querySelector("img");
  if (!image?.naturalWidth) return;
  const sheet = layout(image, runs[0].size, 20, 10);
  if (sheet.count === 1) return;
  const canvas = figure.querySelector("canvas") || document.createElement("canvas");
  canvas.role = "img";
  canvas.ariaLabel = image.alt;
  figure.append(canvas);
  image.hidden = true;
  drawSheet(canvas, image, sheet, figure.clientWidth < 700 ? 5 : 10);
}

/** Shows one sample in the dialog. */
function showOne() {
  const [figure, position] = enlarged, canvas = $("closer").querySelector("canvas"), side = Math.round(figure.place(position)[2]);
  canvas.width = canvas.height = side * Math.max(1, Math.round(512 / side));
  enlarge(canvas.getContext("2d"), figure.image, figure.place(position), 0, 0, canvas.width);
  const seed = figure.count > 1 ? `Seed ${position}, ` : "";
  $("closer").querySelector("p").textContent = `${seed}${figure.element.querySelector("figcaption").textContent} The arrow keys show other seeds.`;
}

function openOne(figure, position) {
  if (!figure.image || position < 0 || position >= figure.count) return;
  enlarged = [figure, position];
  showOne();
  $("closer").showModal();
}

/** Shows the newest samples of each run up to the point that the slider selects. */
async function show() {
  const share = when.value === when.max ? 1 : Number(when.value) / when.max; // without rounding at the end
  const kimg = runs.length > 1 ? whole * share : longest[Number(when.value)].kimg;
  await Promise.all(figures.map(async (figure) => {
    const grid = figure.run.grids.filter((grid) => grid.kimg <= kimg).pop() || figure.run.grids[0];
    figure.element.hidden = !grid;
    if (!grid) return;
    figure.grid = grid;
    figure.element.querySelector("figcaption").textContent = `Step ${grid.step.toLocaleString("en")}, after ${Math.round(grid.kimg * 1000).toLocaleString("en")} images.`;
    const image = await load(grid.src);
    if (figure.grid !== grid) return; // the slider has moved since
    Object.assign(figure, layout(image, figure.run.size, figure.run.samples), { image });
    drawSheet(figure.canvas, image, figure, figure.columns);
  }));
}

if (most) {
  when.max = Math.max(1, runs.length > 1 ? 50 : most - 1);
  if (runs.length === 1 && most === 1) when.max = 0;
  when.value = when.max;
  when.addEventListener("input", show);
  let playing = null;
  $("play").addEventListener("click", () => {
    const stop = () => { clearInterval(playing); playing = null; $("play").textContent = "Play"; };
    if (playing) return stop();
    if (when.value === when.max) when.value = 0;
    $("play").textContent = "Stop";
    playing = setInterval(() => {
      when.value = Number(when.value) + 1;
      show();
      if (when.value === when.max) stop();
    }, Math.max(120, 300 - when.max));
  });
  for (const figure of figures) {
    figure.canvas.addEventListener("click", (event) => {
      if (!figure.image) return;
      const rows = Math.ceil(figure.count / figure.columns);
      const column = Math.floor(event.offsetX / figure.canvas.clientWidth * figure.columns);
      openOne(figure, Math.floor(event.offsetY / figure.canvas.clientHeight * rows) * figure.columns + column);
    });
    figure.canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); openOne(figure, 0); }
    });
  }
  $("closer").addEventListener("keydown", (event) => {
    const [figure, position] = enlarged;
    const to = position + ({ ArrowLeft: -1, ArrowRight: 1, ArrowUp: -figure.columns, ArrowDown: figure.columns }[event.key] ?? NaN);
    if (to >= 0 && to < figure.count) { event.preventDefault(); enlarged = [figure, to]; showOne(); }
  });
  $("closer").addEventListener("click", (event) => { if (event.target === $("closer")) $("closer").close(); });
  addEventListener("resize", show);
  show();
} else {
  $("grids").textContent = "There are no samples yet.";
}

addEventListener("resize", showReals);
addEventListener("load", showReals);
