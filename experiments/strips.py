"""Saves the first samples of a run side by side, as README.md shows them.

python experiments/strips.py --run runs/article --out docs/images/article-10min.png
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import dcgan_jax

COUNT = 12  # seeds 0 to 11, not selected
HEIGHT = 64  # pixels; smaller samples are enlarged without blur


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--out", type=Path, required=True, help="the .png to write")
    ask = parser.parse_args()
    faces = np.asarray(dcgan_jax.load(ask.run).sample(range(COUNT)))  # (12, S, S, C)
    scale = max(1, HEIGHT // faces.shape[1])
    strip = np.concatenate(faces.repeat(scale, 1).repeat(scale, 2), axis=1)  # (64, 12 * 64, C)
    Image.fromarray(strip.squeeze()).save(ask.out, optimize=True)


if __name__ == "__main__":
    main()
