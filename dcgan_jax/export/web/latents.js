// Latents of seeds, and interpolation between latents. Uniform latents equal JAX's bit for bit; normal ones may differ in their
// last bits. The same in Python: export/numpy_generator.py, gan/latents.py.

const float = new Float32Array(1), word = new Uint32Array(float.buffer);

/** Threefry-2x32 with 20 rounds, as in jax.random. Returns two 32-bit words for a key and a counter. */
export function threefry(key0, key1, x0, x1) {
  const keys = [key0, key1, key0 ^ key1 ^ 0x1bd11bda];
  const turns = [[13, 15, 26, 6], [17, 29, 16, 24]];
  x0 = (x0 + keys[0]) | 0;
  x1 = (x1 + keys[1]) | 0;
  for (let group = 0; group < 5; group++) {
    for (const turn of turns[group % 2]) {
      x0 = (x0 + x1) | 0;
      x1 = ((x1 << turn) | (x1 >>> (32 - turn))) ^ x0;
    }
    x0 = (x0 + keys[(group + 1) % 3]) | 0;
    x1 = (x1 + keys[(group + 2) % 3] + group + 1) | 0;
  }
  return [x0 >>> 0, x1 >>> 0];
}

/** Returns the latent of a seed (0 to 2**32 - 1): a Float32Array of `length` numbers, uniform in [-1, 1) or normal. */
export function latentOf(seed, length, law) {
  const latent = new Float32Array(length);
  const lowest = law === "uniform" ? -1 : -(1 - 2 ** -24);
  for (let i = 0; i < length; i++) {
    const [a, b] = threefry(0, seed, 0, i);
    word[0] = ((a ^ b) >>> 9) | 0x3f800000; // 1 to 2
    const share = float[0] - 1;
    const uniform = Math.max(lowest, Math.fround(Math.fround(share * Math.fround(1 - lowest)) + lowest));
    latent[i] = law === "uniform" ? uniform : Math.SQRT2 * inverseErf(uniform);
  }
  return latent;
}

/** Inverse error function by Giles 2012, "Approximating the erfinv function", as in XLA. x: a float32. */
export function inverseErf(x) {
  const w = -Math.log1p(-Math.fround(x * x)); // rounded to float32 as in XLA, which matters near 1 and -1
  const near = [2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941];
  const far = [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682];
  const at = w < 5 ? w - 2.5 : Math.sqrt(w) - 3;
  return (w < 5 ? near : far).reduce((sum, coefficient) => sum * at + coefficient) * x;
}

/** Error function, accurate to 1.2e-7. */
function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const tail = t * Math.exp(-x * x - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
    + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
  return x >= 0 ? 1 - tail : tail - 1;
}

const EDGE = 1 - 2e-6;

/** Convert latents of the given distribution ("uniform" or "normal") to normal ones, and back. */
export const toNormal = (latent, law) => law === "normal" ? latent
  : latent.map((z) => Math.SQRT2 * inverseErf(Math.max(-EDGE, Math.min(EDGE, z))));
export const fromNormal = (point, law) => law === "normal" ? point : point.map((x) => erf(x / Math.SQRT2));

/** Spherical interpolation from start (share 0) to end (share 1); the length is interpolated linearly. */
export function between(start, end, share, law) {
  if (share <= 0) return start;
  if (share >= 1) return end;
  const a = toNormal(start, law), b = toNormal(end, law);
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const aLength = Math.sqrt(dot(a, a)), bLength = Math.sqrt(dot(b, b));
  const angle = Math.acos(Math.max(-1, Math.min(1, dot(a, b) / Math.max(aLength * bLength, 1e-12))));
  const isFlat = Math.sin(angle) < 1e-4;
  const ofA = isFlat ? 1 - share : Math.sin((1 - share) * angle) / Math.sin(angle);
  const ofB = isFlat ? share : Math.sin(share * angle) / Math.sin(angle);
  const length = (1 - share) * aLength + share * bLength;
  return fromNormal(a.map((value, i) => length * (ofA * value / Math.max(aLength, 1e-12) + ofB * b[i] / Math.max(bLength, 1e-12))), law);
}

/** Moves a latent along directions. steps: standard deviations, one for each direction. */
export function moved(latent, directions, steps, law) {
  if (!steps.some((step) => step)) return latent;
  const point = Float32Array.from(toNormal(latent, law));
  directions.forEach((direction, i) => steps[i] && direction.forEach((value, j) => { point[j] += steps[i] * value; }));
  return fromNormal(point, law);
}
