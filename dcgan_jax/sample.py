"""Generates images with a trained run: python -m dcgan_jax.sample --run runs/article --count 96 --out samples.png"""

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
    """Generates images with a run's EMA generator. A seed always gives the same image, whatever the other seeds are."""

    run: str
    """folder of the run, such as runs/article; or drawn32 or drawn64, from the package"""
    count: int = 64
    """number of images; their seeds are --seed, --seed + 1 and so on"""
    seed: int = 0
    """first seed"""
    seeds: str = ""
    """seeds and ranges, such as 7,12,40-47; replaces --count and --seed"""
    condition: str = ""
    """labels of all samples of a conditional run, such as Smiling=1,Male=0; others are as frequent as in the training images"""
    out: str = "samples.png"
    """what to write: one sheet (.png), an array (.npy, uint8 N,H,W,C), or a folder/ with a PNG for each seed"""
    step: int | Literal["best"] | None = None
    """checkpoint to sample from; none: the newest; best: the one with the best score during training"""


def main() -> int:
    ask = cli.parse_flags(Sample, sys.argv[1:], prog="python -m dcgan_jax.sample")
    seeds = list_seeds(ask)
    out = Path(ask.out)
    if out.suffix not in (".png", ".npy") and ((out.suffix and not ask.out.endswith(("/", os.sep))) or os.path.isfile(out)):
        raise UserError(f"`out` {ask.out}: end it in .png for a sheet or .npy for an array, or name a folder")
    condition = cli.parse_condition(ask.condition)
    backend.start_backend(get_cache_dir())
    gan = load(ask.run, ask.step)
    images = gan.sample(seeds, condition)
    try:
        write_images(out, images, seeds)
    except OSError as fault:
        raise UserError(f"`out` {ask.out}: {fault.strerror}; give a place that can be written") from None
    print(f"{len(seeds)} samples of step {gan.step:,}: {out}")
    return 0


def write_images(out: Path, images: np.ndarray, seeds: np.ndarray) -> None:
    """Writes (N, S, S, C) uint8 images: as one sheet (.png), as an array (.npy), or as a folder with a PNG for each seed."""
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
    """Lists the requested seeds, (N,) uint32: those of --seeds, or else of --count and --seed. Raises: UserError."""
    if not 0 < ask.count <= MAX_SEEDS:
        raise UserError(f"`count` {ask.count}: give 1 to {MAX_SEEDS:,}")
    if ask.seeds:
        return parse_seeds(ask.seeds, "seeds")
    if not 0 <= ask.seed <= SEEDS - ask.count:
        raise UserError(f"`seed` {ask.seed}: the seeds, `count` of them from this one on, must be from 0 to {SEEDS - 1}")
    return np.arange(ask.seed, ask.seed + ask.count, dtype=np.uint32)


def entry() -> None:
    """Runs the command as the console script dcgan-sample."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
