"""Draws faces from a run: python -m dcgan_jax.sample --run runs/article --count 96 --out samples.png"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from dcgan_jax import cli, files
from dcgan_jax.api import load
from dcgan_jax.config import SEEDS, UserError
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.run import backend, figures
from dcgan_jax.seeds import MAX_SEEDS, parse_seeds


@dataclasses.dataclass(frozen=True)
class Sample:
    """Generates images with a run's EMA generator. A seed is an image: the same one in any list, on any day."""

    run: str
    """the run's folder, as runs/article"""
    count: int = 64
    """images, from the seeds --seed, --seed + 1 ..."""
    seed: int = 0
    """first seed"""
    seeds: str = ""
    """instead of --count and --seed: a list of seeds and ranges, as 7,12,40-47"""
    condition: str = ""
    """of a conditional run, labels of all samples, as Smiling=1,Male=0; the others are as frequent as in its training images"""
    out: str = "samples.png"
    """a sheet (.png), an array (.npy: uint8 N,H,W,C) or a folder/ of PNGs named by seed"""
    step: int | Literal["best"] | None = None
    """checkpoint to draw from; none: the newest; best: by the scores of its training"""


def main() -> int:
    ask = cli.parse_flags(Sample, sys.argv[1:], prog="python -m dcgan_jax.sample")
    seeds = list_seeds(ask)
    out = Path(ask.out)
    if out.suffix not in (".png", ".npy") and ((out.suffix and not ask.out.endswith("/")) or os.path.isfile(out)):
        raise UserError(f"`out` {ask.out}: ends in .png for a sheet, .npy for an array, or names a folder")
    condition = cli.parse_condition(ask.condition)
    backend.start_backend(get_cache_dir())
    gan = load(ask.run, ask.step)
    images = gan.sample(seeds, condition)
    try:
        write_images(out, images, seeds)
    except OSError as fault:
        raise UserError(f"`out` {ask.out}: {fault.strerror}; give a place that can be written") from None
    print(f"{len(seeds)} faces of step {gan.step:,}: {out}")
    return 0


def write_images(out: Path, images: np.ndarray, seeds: np.ndarray) -> None:
    """(N, S, S, C) uint8 as a sheet (.png), an array (.npy) or else a folder of images."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        figures.save_grid(out, images)
    elif out.suffix == ".npy":
        with files.atomic_write(out) as partial, partial.open("wb") as file:
            np.save(file, images, allow_pickle=False)
    else:
        out.mkdir(exist_ok=True)
        for seed, image in zip(seeds, images, strict=True):
            figures.save_png(out / f"{seed:010d}.png", image)


def list_seeds(ask: Sample) -> np.ndarray:
    """(N,) uint32 from --seeds, or from --count and --seed. Raises UserError."""
    if not 0 < ask.count <= MAX_SEEDS:
        raise UserError(f"`count` {ask.count}: give 1 to {MAX_SEEDS:,}")
    if ask.seeds:
        return parse_seeds(ask.seeds, "seeds")
    if not 0 <= ask.seed <= SEEDS - ask.count:
        raise UserError(f"`seed` {ask.seed}: seeds, `count` of them from here, are whole numbers from 0 to {SEEDS - 1}")
    return np.arange(ask.seed, ask.seed + ask.count, dtype=np.uint32)


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
