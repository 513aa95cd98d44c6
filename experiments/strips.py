"""Saves the first samples of a run side by side, as README.md shows them.

    python experiments/strips.py --run runs/faces --out docs/images/best64-8min.png
    python experiments/strips.py --run FACES.npy --count 24 --out docs/images/best64-60min.png

The seeds are 0, 1, 2 ..., not selected. FACES.npy: what equal_time.py --faces has saved.
"""

import argparse
from pathlib import Path

import numpy as np

import dcgan_jax
from dcgan_jax.run.figures import save_grid

COLUMNS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run, or samples of the seeds 0, 1 ... in a .npy")
    parser.add_argument("--count", type=int, default=COLUMNS, help="number of samples")
    parser.add_argument("--out", type=Path, required=True, help="the .png to write")
    ask = parser.parse_args()
    is_array = ask.run.suffix == ".npy"
    samples = np.load(ask.run)[: ask.count] if is_array else dcgan_jax.load(ask.run).sample(range(ask.count))
    save_grid(ask.out, samples, columns=COLUMNS)


if __name__ == "__main__":
    main()
