"""Compares the finest detail of samples with that of real images.

    python experiments/spectrum.py REAL.npy FACES.npy [FACES.npy ...]

Power of samples relative to that of real images, by frequency along rows and columns; the highest is half a cycle per pixel. A
grid of period two shows as a peak at the highest frequency, missing detail as values below 1.
"""

import argparse

import numpy as np


def measure_power(images: np.ndarray) -> np.ndarray:
    """Computes the mean power at each frequency along one axis: (N, S, S, C) uint8 -> (S / 2 + 1,)."""
    pixels = images.astype(np.float32) / 255
    powers = [np.square(np.abs(np.fft.rfft(pixels, axis=axis))).mean(tuple({0, 1, 2, 3} - {axis})) for axis in (1, 2)]
    return (powers[0] + powers[1]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", help="a .npy of uint8 images (N, S, S, C), such as images.npy of a pack")
    parser.add_argument("samples", nargs="+", help=".npy of samples of this size")
    parser.add_argument("--count", type=int, default=2000)
    ask = parser.parse_args()
    real = measure_power(np.load(ask.real, mmap_mode="r", allow_pickle=False)[: ask.count])
    last = len(real) - 1
    bands = {
        "lower half": slice(1, last // 2),
        "upper half": slice(last // 2, last - 1),
        "two highest": slice(last - 1, last + 1),
    }
    print("| samples | " + " | ".join(bands) + " | highest / next |\n|---|" + "---:|" * (len(bands) + 1))
    for file in ask.samples:
        power = measure_power(np.load(file, allow_pickle=False)[: ask.count])
        shares = [power[some].sum() / real[some].sum() for some in bands.values()]
        peak = (power[last] / power[last - 1]) / (real[last] / real[last - 1])
        print(f"| {file} | " + " | ".join(f"{share:.2f}" for share in (*shares, peak)) + " |", flush=True)


if __name__ == "__main__":
    main()
