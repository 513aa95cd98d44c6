"""Saves the first samples of a run side by side, as README.md shows them.

    python experiments/strips.py --run runs/faces --out docs/images/best64-8min.png

The seeds are 0 to 11, not selected.
"""

import argparse
from pathlib import Path

import dcgan_jax
from dcgan_jax.run.figures import save_grid

COUNT = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--out", type=Path, required=True, help="the .png to write")
    ask = parser.parse_args()
    save_grid(ask.out, dcgan_jax.load(ask.run).sample(range(COUNT)), columns=COUNT)


if __name__ == "__main__":
    main()
