// The report's chart and its images: everything they show is in the page.
const { runs, groups } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const COLOURS = ["#3b82c4", "#e07b1a", "#3f9e4d", "#c8403f", "#8d63b8", "#8a5a44", "#d467a8", "#7f7f7f", "#a5a52d", "#1fa6b5"];
const DASHES = ["", "5 3", "2 2"];
const SIDE = 52, BELOW = 36, ABOVE = 8; // px around the curves

// ---- Curves ----

/** Group -> [{label, colour, dash, curve: [kimg, mean, least, most]}]: a colour for each curve, or of several runs for each run. */
function charts() {
  const found = Object.create(null); // names are a file's
  const add = (group, run, name, words, place = 0) => {
    const curve = runs[run].curves[name];
    if (!curve || !curve[0].length) return;
    const label = [runs.length > 1 ? runs[run].name : "", words].filter(Boolean).join(": ") || name;
    const [hue, dash] = runs.length > 1 ? [run, DASHES[place]] : [place, ""];
    const colour = COLOURS[hue] || `hsl(${hue * 137.5} 55% 50%)`;
    (found[group] ||= []).push({ label, colour, dash, curve });
  };
  const known = new Set(Object.values(groups).flatMap(Object.keys));
  const others = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))].filter((name) => !known.has(name));
  runs.forEach((_, run) => {
    for (const [group, names] of Object.entries(groups)) Object.entries(names).forEach(([name, words], i) => add(group, run, name, words, i));
    for (const name of others) add(name, run, name, "");
  });
  return found;
}

/** A moving average of weight `share`, corrected at its start. */
function smoothed(values, share) {
  let sum = 0, weight = 0;
  return values.map((value) => {
    sum = share * sum + (1 - share) * value;
    weight = share * weight + (1 - share);
    return sum / weight;
  });
}

/** Round numbers from low to high, some five, with their words. */
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
let reach = null; // [kimg, kimg] where somebody looks closer
let drawn = null; // what the pointer reads

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
  // What is in reach decides the height: of the smooth lines, with some of the bands. A spike may leave the chart.
  const seen = shown.flatMap((c) => c.xs.flatMap((x, i) => (x >= from && x <= to ? [c.mean[i], c.raw[i]] : []))).sort((a, b) => a - b);
  if (!seen.length) return;
  const asLog = $("log").checked && seen[0] > 0;
  const scale = asLog ? Math.log10 : (value) => value;
  let low = scale(seen[0]), high = scale(seen[seen.length - 1 - Math.floor(seen.length / 200)]);
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
  plot.append(made("text", { x: width - 8, y: height - 4, "text-anchor": "end" }, "thousands of images shown"));
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

/** The numbers at a place, in words below the chart. */
function read(kimg) {
  const line = $("read");
  line.replaceChildren(`${short(kimg)} thousand images: `);
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
  plot.addEventListener("pointercancel", () => { since = null; mark("chosen"); });
  addEventListener("pointerup", (event) => {
    const began = since;
    since = null;
    if (began === null || !drawn) return;
    mark("chosen");
    if (Math.abs(place(event) - began) < 12) return; // a touch, not a drag
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

// ---- Pictures ----

const lengths = runs.map((run) => run.grids.length);
const when = $("when"), most = Math.max(...lengths);
const whole = Math.max(...runs.map((run) => (run.grids.length ? run.grids[run.grids.length - 1].kimg : 0)));
const longest = runs[lengths.indexOf(most)].grids;

/** Each run's newest grid at that time of the longest one. */
function show() {
  const share = when.value === when.max ? 1 : Number(when.value) / when.max; // at its end exactly all
  const kimg = runs.length > 1 ? whole * share : longest[Number(when.value)].kimg;
  document.querySelectorAll("#grids figure").forEach((figure, i) => {
    const grid = runs[i].grids.filter((grid) => grid.kimg <= kimg).pop() || runs[i].grids[0];
    figure.hidden = !grid;
    if (!grid) return;
    figure.querySelector("img").src = grid.src;
    const name = runs.length > 1 ? `${runs[i].name}: ` : "";
    figure.querySelector("figcaption").textContent = `${name}step ${grid.step.toLocaleString("en")}, ${short(grid.kimg)} thousand images shown`;
  });
}

if (most) {
  when.max = Math.max(1, runs.length > 1 ? 50 : most - 1);
  if (runs.length === 1 && most === 1) when.max = 0;
  when.value = when.max;
  when.addEventListener("input", show);
  let playing = null;
  $("play").addEventListener("click", () => {
    const stop = () => { clearInterval(playing); playing = null; $("play").textContent = "play"; };
    if (playing) return stop();
    if (when.value === when.max) when.value = 0;
    $("play").textContent = "stop";
    playing = setInterval(() => {
      when.value = Number(when.value) + 1;
      show();
      if (when.value === when.max) stop();
    }, 300);
  });
  show();
} else {
  $("grids").textContent = "There are no images yet.";
}
