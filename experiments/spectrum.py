"""Compares the finest detail of samples with that of real images.

    python experiments/spectrum.py REAL.npy FACES.npy [FACES.npy ...]

Power of samples relative to that of real images, by frequency along rows and columns; the highest is half a cycle per pixel. A
grid of period two shows as a peak at the highest frequency, missing detail as values below 1. Rows and columns are faded out
towards their ends (Hann window). Without that, the jump between opposite borders of an image adds power at all frequencies, in
samples as in real images, and hides much of what is missing. The two columns named "plain" use no window.

"grid of 2" and "grid of 4" are the power at a period of two or four pixels along both axes at once, divided by that of the
frequencies around it, and by the same of real images. 1: no grid.
"""

import argparse

import numpy as np


def measure_power(pixels: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Computes the mean power at each frequency along one axis: pixels (N, S, S, C) float32, window (S,) -> (S / 2 + 1,) float64.

    Pixels are from 0 to 1. Index k is k cycles per image. The mean of each line is removed, so index 0 has no meaning.
    """
    power = np.zeros(pixels.shape[1] // 2 + 1)
    for axis in (1, 2):
        lines = np.moveaxis(pixels, axis, -1)  # (..., S)
        lines = (lines - lines.mean(-1, keepdims=True)) * window  # the window would spread the mean to other frequencies
        power += np.square(np.abs(np.fft.rfft(lines))).mean((0, 1, 2), dtype=np.float64) / 2
    return power


def compare_bands(real: np.ndarray, samples: np.ndarray) -> list[float]:
    """Divides the power of samples by that of real images, both (S / 2 + 1,).

    Returns: the ratio in the lower half, in the upper half without the two highest frequencies, and at the two highest; then the
    ratio of the highest to the next, relative to real images.
    """
    last = len(real) - 1
    bands = slice(1, last // 2), slice(last // 2, last - 1), slice(last - 1, last + 1)
    return [samples[band].sum() / real[band].sum() for band in bands] + [(samples[-1] / samples[-2]) / (real[-1] / real[-2])]


def measure_grids(pixels: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Computes power at periods of 2 and 4 pixels along both axes, divided by that around it: (N, S, S, C) float32 -> (2,)."""
    pixels = (pixels - pixels.mean((1, 2), keepdims=True)) * np.outer(window, window)[None, :, :, None]
    power = np.square(np.abs(np.fft.fft2(pixels, axes=(1, 2)))).mean((0, 3), dtype=np.float64)  # (S, S)
    side = len(power)
    # The window spreads each frequency to its direct neighbours, so compare with those 2 and 3 away along both axes.
    away = (-3, -2, 2, 3)
    grids = []
    for k in (side // 2, side // 4):
        peaks = [power[k, k], power[k, -k]]  # both diagonals
        around = [power[(k + i) % side, (sign * k + j) % side] for sign in (1, -1) for i in away for j in away]
        grids.append(np.mean(peaks) / np.mean(around))
    return np.array(grids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", help="a .npy of uint8 images (N, S, S, C), such as images.npy of a pack")
    parser.add_argument("samples", nargs="+", help=".npy of samples of this size")
    parser.add_argument("--count", type=int, default=2000)
    ask = parser.parse_args()
    images = [np.load(file, mmap_mode="r", allow_pickle=False)[: ask.count] for file in (ask.real, *ask.samples)]
    if any(batch.shape[1:] != images[0].shape[1:] for batch in images):
        parser.error("samples and real images differ in size or channels; give some that agree")
    side = images[0].shape[1]
    hann, plain = np.hanning(side + 1)[:-1].astype(np.float32), np.ones(side, np.float32)
    measured = []
    for batch in images:
        pixels = batch.astype(np.float32) / 255
        measured.append((measure_power(pixels, hann), measure_power(pixels, plain), measure_grids(pixels, hann)))
    (real, real_plain, real_grids), *of_samples = measured
    columns = "lower half", "upper half", "two highest", "highest / next", "two highest, plain", "highest / next, plain"
    columns += "grid of 2", "grid of 4"
    print("| samples | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for file, (power, power_plain, grids) in zip(ask.samples, of_samples, strict=True):
        values = [*compare_bands(real, power), *compare_bands(real_plain, power_plain)[2:], *(grids / real_grids)]
        print(f"| {file} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()
