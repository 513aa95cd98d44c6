"""Draws faces from a run: python -m dcgan_jax.sample --run runs/article --count 96 --out samples.png"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from dcgan_jax import cli
from dcgan_jax.config import BadInput, conditions, printable
from dcgan_jax.data.pack import cache_dir, nearest
from dcgan_jax.gan.sampling import SEEDS, draw_images, labels_of
from dcgan_jax.gan.state import init_state
from dcgan_jax.run import checkpoints, devices, pictures, scoring, workdir


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draws faces from a run's averaged generator. A seed is a face: the same one in any list, on any day."""

    run: str
    """the run's folder, as runs/article"""
    count: int = 64
    """images, from the seeds --seed, --seed + 1 ..."""
    seed: int = 0
    """first seed"""
    seeds: str = ""
    """instead of --count and --seed: a list of seeds and ranges, as 7,12,40-47"""
    condition: str = ""
    """of a conditional run, what all faces are to be, as Smiling=1,Male=0; the rest is asked as often as in its pictures"""
    out: str = "samples.png"
    """a sheet (.png), an array (.npy: uint8 N,H,W,C) or a folder/ of PNGs named by seed"""
    step: int | Literal["best"] | None = None
    """checkpoint to draw from; none: the newest; best: by the scores of its training"""


MAX_COUNT = 1_000_000  # they are drawn into one array: 12 GB at 64 px


def main() -> int:
    ask = cli.parse(Sample, sys.argv[1:], prog="python -m dcgan_jax.sample")
    seeds = parse_seeds(ask)
    out = Path(ask.out)
    if out.suffix not in (".png", ".npy") and ((out.suffix and not ask.out.endswith("/")) or os.path.isfile(out)):
        raise BadInput(f"--out {ask.out}: ends in .png for a sheet, .npy for an array, or names a folder")
    run = Path(ask.run)
    config = workdir.read_config(run)
    devices.start(cache_dir())
    names = conditions(config.nets)
    wanted = parse_condition(ask.condition, names, run)
    step, params, stats, table = checkpoints.restore_generator(run, jax.eval_shape(lambda: init_state(config)),
                                                               scoring.asked(run, ask.step))
    labels = labels_of(table, seeds)
    for name, value in wanted.items():
        labels[:, names.index(name)] = value
    images = draw_images(config.nets, params, stats, seeds, labels)
    try:
        write(out, images, seeds)
    except OSError as fault:
        raise BadInput(f"--out {ask.out}: {fault.strerror}; give a place that can be written") from None
    print(f"{len(seeds)} faces of step {step:,}: {out}")
    return 0


def write(out: Path, images: np.ndarray, seeds: np.ndarray) -> None:
    """(N, S, S, C) uint8 as a sheet (.png), an array (.npy) or else a folder of pictures."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        pictures.save_grid(out, images)
    elif out.suffix == ".npy":
        with workdir.whole(out) as partial, partial.open("wb") as file:
            np.save(file, images, allow_pickle=False)
    else:
        out.mkdir(exist_ok=True)
        for seed, image in zip(seeds, images, strict=True):
            pictures.save_png(out / f"{seed:010d}.png", image)


def parse_seeds(ask: Sample) -> np.ndarray:
    """(N,) uint32 from --seeds, or from --count and --seed. Raises BadInput."""
    if not 0 < ask.count <= MAX_COUNT:
        raise BadInput(f"--count {ask.count}: give 1 to {MAX_COUNT:,}")
    spans, count = [], 0
    for part in ask.seeds.split(",") if ask.seeds else [f"{ask.seed}-{ask.seed + ask.count - 1}"]:
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash) and len(part) < 50):  # int() refuses thousands of digits
            raise BadInput(f"--seeds {printable(ask.seeds, 200)}: {printable(part.strip(), 50)!r} is no seed and no range; write "
                           "7,12,40-47" if ask.seeds else f"--seed {ask.seed}: seeds are whole numbers from 0 to {SEEDS - 1}")
        span = range(int(first), int(last or first) + 1)
        if not span or span.stop > SEEDS or len(span) > MAX_COUNT:
            raise BadInput(f"--{'seeds' if ask.seeds else 'seed'} {part.strip()}: seeds are whole numbers from 0 to {SEEDS - 1}, "
                           f"ranges rise and hold at most {MAX_COUNT:,}")
        count += len(span)
        if count > MAX_COUNT:
            raise BadInput(f"--seeds {printable(ask.seeds, 200)}: more than {MAX_COUNT:,} in all; draw them in parts")
        spans.append(np.arange(span.start, span.stop, dtype=np.uint32))
    return np.concatenate(spans)


def parse_condition(condition: str, names: tuple[str, ...], run: Path) -> dict[str, int]:
    """Attribute -> 0 or 1, of a run with attributes of these names. Raises BadInput."""
    if condition and not names:
        raise BadInput(f"--condition {printable(condition, 100)}: {run} was trained without --condition")
    wanted = {}
    for part in condition.split(",") if condition else ():
        name, _, value = part.rpartition("=")
        if value not in ("0", "1"):
            raise BadInput(f"--condition {printable(part, 100)}: write attributes with 1 or 0, as {names[0]}=1")
        if name not in names:
            raise BadInput(f"--condition {printable(name, 100)}: {run} was not trained on it; {nearest(name, names)}")
        wanted[name] = int(value)
    return wanted


def entry() -> None:
    """The console script."""
    cli.run_verb(main)


if __name__ == "__main__":
    entry()
