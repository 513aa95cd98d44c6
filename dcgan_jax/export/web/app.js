// The web page: generates faces in the browser. Its state is in the address. It loads nothing from other hosts.
import { between, latentOf, moved } from "./latents.js";

const FACES = 16;
const LAST_SEED = 2 ** 32 - 1;
const $ = (id) => document.getElementById(id);
const began = performance.now();

function say(words, kind = "") {
  $("status").textContent = words;
  $("status").className = kind;
}

const fail = (words) => say(words, "wrong");

async function fetched(file) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file}: ${answer.status} ${answer.statusText}`);
  return answer;
}

/** Returns the bytes of a file. Decompresses gzip if the server did not declare it. */
async function bytesOf(file) {
  const bytes = new Uint8Array(await (await fetched(file)).arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

/** Whether this browser has WebAssembly with SIMD. Validates a module with one SIMD instruction. */
function hasSimd() {
  return typeof WebAssembly === "object" && WebAssembly.validate(Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11));
}

/** Loads the network: {run(latents, labels), kind}, with WebGPU if it works, else WebAssembly. */
async function network(page) {
  const model = await bytesOf("generator.onnx");
  const hasGpu = navigator.gpu && await navigator.gpu.requestAdapter().catch(() => null);
  const wanted = new URLSearchParams(location.search).get("backend");
  for (const kind of hasGpu && wanted !== "wasm" ? ["webgpu", "wasm"] : ["wasm"]) {
    try {
      const ort = await import(`./ort.${kind}.bundle.min.mjs`);
      ort.env.wasm.wasmBinary = await bytesOf(`ort.${kind}.wasm.gz`);
      ort.env.wasm.numThreads = 1; // more threads need headers that static hosts do not send
      ort.env.logLevel = "error";
      const session = await ort.InferenceSession.create(model, { executionProviders: [kind] });
      const run = async (latents, labels) => {
        const count = latents.length;
        const flat = (rows, width) => new ort.Tensor("float32", Float32Array.from(rows.flatMap((row) => [...row])), [count, width]);
        const feeds = { latents: flat(latents, page.latent_dim) };
        if (page.attributes.length) feeds.labels = flat(labels, page.attributes.length);
        const { images } = await session.run(feeds);
        return images.getData ? images.getData() : images.data; // count * size * size * channels, 0 to 1
      };
      await run([latentOf(0, page.latent_dim, page.latent_law)], [page.attributes.map(() => 0)]);
      return { run, kind };
    } catch (fault) {
      if (kind === "wasm") throw fault;
    }
  }
}

/** Saves images as one PNG, in rows of `columns`, each enlarged by the whole number `scale`. */
function save(name, canvases, columns, scale) {
  const side = canvases[0].width * scale, sheet = document.createElement("canvas");
  sheet.width = columns * side;
  sheet.height = Math.ceil(canvases.length / columns) * side;
  const context = sheet.getContext("2d");
  context.imageSmoothingEnabled = false;
  canvases.forEach((canvas, i) => context.drawImage(canvas, (i % columns) * side, Math.floor(i / columns) * side, side, side));
  sheet.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

function paint(canvas, page, values, i) {
  const { size, channels } = page;
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size);
  const first = i * size * size * channels;
  for (let p = 0; p < size * size; p++) {
    for (let c = 0; c < 3; c++) image.data[4 * p + c] = Math.round(255 * values[first + p * channels + (channels === 3 ? c : 0)]);
    image.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const whole = (text, otherwise) => /^\d+$/.test(text ?? "") && Number(text) <= LAST_SEED ? Number(text) : otherwise;

/** Reads the state from the address; writeState is its inverse. */
function readState(page) {
  const params = new URLSearchParams(location.hash.slice(1));
  const steps = (params.get("steps") ?? "").split(",").map(Number);
  const labels = (params.get("condition") ?? "").split("");
  return {
    seed: whole(params.get("seed"), 0), from: whole(params.get("from"), 0), to: whole(params.get("to"), 1),
    share: Math.min(100, whole(params.get("share"), 0)),
    steps: page.directions.map((_, i) => Math.max(-3, Math.min(3, steps[i] || 0))),
    condition: page.attributes.map((_, i) => ["0", "1"].includes(labels[i]) ? labels[i] : "-"),
  };
}

function writeState(state) {
  const params = { seed: state.seed, from: state.from, to: state.to, share: state.share };
  if (state.steps.some((step) => step)) params.steps = state.steps.join(",");
  if (state.condition.some((one) => one !== "-")) params.condition = state.condition.join("");
  history.replaceState(null, "", `#${new URLSearchParams(params)}`);
}

async function main() {
  if (!hasSimd()) return fail("This browser has no WebAssembly with SIMD, which the network needs. Use a newer one.");
  const page = await (await fetched("page.json")).json();
  document.title = $("title").textContent = page.title;
  $("about").textContent = page.about;
  for (const [name, value] of page.facts) {
    const row = document.createElement("div");
    for (const [tag, words] of [["dt", name], ["dd", value]]) row.append(Object.assign(document.createElement(tag), { textContent: words }));
    $("facts").append(row);
  }
  const net = await network(page);
  let state = readState(page), next = 0;

  const latent = (seed) => latentOf(seed, page.latent_dim, page.latent_law);
  // If every training image had exactly one class, a requested class excludes the others, as in api.py.
  const areClasses = page.attributes.length > 1 && page.labels.every((row) => row.reduce((sum, label) => sum + label) === 1);
  const labelsOf = (seed) => page.attributes.map((_, i) => state.condition[i] !== "-" ? Number(state.condition[i])
    : areClasses && state.condition.includes("1") ? 0 : page.labels[seed % page.labels.length][i]);

  const cells = Array.from({ length: FACES }, () => {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.append(document.createElement("canvas"), document.createElement("span"));
    cell.addEventListener("click", () => { // sets the start and the end of the morph in turn
      state[next ? "to" : "from"] = Number(cell.dataset.seed);
      state.share = next ? 100 : 0;
      next = 1 - next;
      show();
    });
    $("grid").append(cell);
    return cell;
  });

  async function drawGrid() {
    const seeds = cells.map((_, i) => (state.seed + i) % (LAST_SEED + 1));
    const start = performance.now();
    const values = await net.run(seeds.map(latent), seeds.map(labelsOf));
    const perSecond = FACES / ((performance.now() - start) / 1000);
    cells.forEach((cell, i) => {
      paint(cell.firstChild, page, values, i);
      cell.dataset.seed = seeds[i];
      cell.lastChild.textContent = seeds[i];
      cell.setAttribute("aria-label", `face of seed ${seeds[i]}`);
    });
    return perSecond;
  }

  async function drawFace() {
    const way = between(latent(state.from), latent(state.to), state.share / 100, page.latent_law);
    const edited = moved(way, page.directions.map((one) => one.direction), state.steps, page.latent_law);
    const ends = [state.from, state.to];
    const values = await net.run([edited, ...ends.map(latent)], [labelsOf(ends[state.share < 50 ? 0 : 1]), ...ends.map(labelsOf)]);
    ["face", "from-face", "to-face"].forEach((id, i) => paint($(id), page, values, i));
    for (const cell of cells) { // the grid marks both ends
      const end = ["from", "to"].find((end) => Number(cell.dataset.seed) === state[end]);
      if (end) cell.dataset.end = end; else delete cell.dataset.end;
    }
  }

  // Only one drawing runs at a time. A change meanwhile is drawn afterwards.
  let drawing = null, again = false, speed = "", lastGrid = "";
  async function show() {
    for (const id of ["seed", "from", "to", "share"]) if (document.activeElement !== $(id)) $(id).value = state[id];
    document.querySelectorAll("[data-slider]").forEach((slider) => { slider.value = state.steps[slider.dataset.slider]; });
    document.querySelectorAll("[data-condition]").forEach((choice) => { choice.value = state.condition[choice.dataset.condition]; });
    writeState(state);
    if (drawing) { again = true; return drawing; }
    drawing = (async () => {
      do {
        again = false;
        const grid = JSON.stringify([state.seed, state.condition]);
        const perSecond = grid === lastGrid ? null : await drawGrid();
        await drawFace();
        lastGrid = grid;
        if (perSecond) {
          const since = speed ? "" : `First faces after ${((performance.now() - began) / 1000).toFixed(1)} s; `;
          speed = `${Math.round(perSecond)} faces a second with ${net.kind === "webgpu" ? "WebGPU" : "WebAssembly"}`;
          say(since + speed);
        } else if ($("status").className) { // clears an earlier error
          say(speed);
        }
      } while (again);
      document.body.dataset.shown = location.hash; // for tests: the state that is on the page
    })().catch((fault) => fail(`${fault}`)).finally(() => { drawing = null; });
    await drawing;
  }

  for (const id of ["seed", "from", "to"]) {
    $(id).addEventListener("input", () => {
      const seed = whole($(id).value.trim(), null);
      $(id).setCustomValidity(seed === null ? `a whole number from 0 to ${LAST_SEED}` : "");
      if (!$(id).reportValidity()) return;
      state[id] = seed;
      show();
    });
  }
  $("share").addEventListener("input", () => { state.share = Number($("share").value); show(); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("reroll").addEventListener("click", () => {
    state.seed = crypto.getRandomValues(new Uint32Array(1))[0];
    show();
  });
  $("copy").addEventListener("click", async () => {
    // Browsers offer no clipboard to pages served over http from another machine.
    const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    say(copied ? "Link copied." : "Copy the address of this page: it is the link.");
  });
  $("download").addEventListener("click", () => save(`faces-${state.seed}.png`, cells.map((cell) => cell.firstChild), 4, 4));
  $("save").addEventListener("click", () =>
    save(`face-${state.from}-${state.to}-${state.share}.png`, [$("face")], 1, Math.max(4, 512 / page.size)));
  $("reset").addEventListener("click", () => { state.steps.fill(0); show(); });
  page.directions.forEach(({ name }, i) => {
    const label = document.createElement("label"), slider = document.createElement("input"), words = document.createElement("span");
    words.textContent = name.replaceAll("_", " ");
    Object.assign(slider, { type: "range", min: -3, max: 3, step: 0.1, value: state.steps[i] });
    slider.dataset.slider = i;
    slider.addEventListener("input", () => { state.steps[i] = Number(slider.value); show(); });
    label.append(words, slider);
    $("sliders").append(label);
  });
  page.attributes.forEach((name, i) => {
    const label = document.createElement("label"), choice = document.createElement("select");
    for (const [value, words] of [["-", "any"], ["1", "yes"], ["0", "no"]]) choice.append(new Option(words, value));
    choice.value = state.condition[i];
    choice.dataset.condition = i;
    choice.addEventListener("change", () => { state.condition[i] = choice.value; show(); });
    label.append(name.replaceAll("_", " "), choice);
    $("condition").append(label);
  });
  addEventListener("hashchange", () => { state = readState(page); show(); });
  await show();
}

main().catch((fault) => fail(`The network could not be loaded: ${fault.message ?? fault}`));
