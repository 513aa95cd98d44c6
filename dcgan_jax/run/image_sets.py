"""Opens the images to be scored, samples of a run or images of a file or folder, and the real images to compare with."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dcgan_jax.config import SIZES, Config, Crop, Split, UserError
from dcgan_jax.data.decode import measure_square_side
from dcgan_jax.data.pack import Pack, pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.sampling import sample_images, select_labels
from dcgan_jax.gan.state import GanState, describe_state
from dcgan_jax.run import checkpoints, online_score, workdir
from dcgan_jax.run.training_images import open_training_images


class ImageSet(NamedTuple):
    """A run's samples, by seed, or images, by position."""

    name: str
    facts: dict  # added to every line of JSON about it
    shape: tuple[int, int]  # S, C
    get: Callable[[int, int], np.ndarray]  # (first, count) -> (count, S, S, C) uint8
    most: int  # number of seeds or images from the first one on
    config: Config | None = None  # the run's; None for images
    get_labels: Callable[[int, int], np.ndarray | None] = lambda first, count: None  # (count, A): requested attributes

    @property
    def step(self) -> int | None:
        return self.facts.get("step")

    def restore_state(self) -> GanState:
        """Restores the whole state of a run's checkpoint. Raises: UserError."""
        config, step = self.config, self.step
        assert config and step is not None, "the images are no run's"
        shapes = describe_state(config)
        return checkpoints.restore_step(Path(self.name), checkpoints.add_sharding(shapes), step)


def is_run(place: str) -> bool:
    """Whether messages call it a run: true for a run, and for a path that is neither a run nor images."""
    path = Path(place)
    if os.path.isdir(place):
        entries = os.listdir(place)
        return "config.json" in entries or not entries or any(path.glob("*/config.json"))
    return not os.path.exists(place) or (path.is_file() and path.suffix.lower() not in (".zip", ".npy"))


def open_run_samples(place: str, step: int | Literal["best"] | None, first_seed: int) -> ImageSet:
    """Opens the samples of a run's checkpoint. Raises: UserError."""
    run = Path(place)
    config = workdir.read_config(run)
    shapes = describe_state(config)
    step, params, stats, table = checkpoints.restore_generator(run, shapes, online_score.resolve_step(run, step))

    def get_labels(first: int, count: int) -> np.ndarray | None:
        return select_labels(table, np.arange(first, first + count))

    def get(first: int, count: int) -> np.ndarray:
        return sample_images(config.nets, params, stats, np.arange(first, first + count), get_labels(first, count))

    shape = (config.nets.size, config.nets.channels)
    return ImageSet(str(run), {"step": step}, shape, get, 2**32 - first_seed, config, get_labels)


def open_images(place: str, channels: int, first: int) -> ImageSet:
    """Opens square images of one size: a folder, .zip or .npy. first: the position that the first one counts as.

    Raises: UserError.
    """
    try:
        source = open_source(place)
    except UserError as error:
        raise UserError(str(error).removeprefix("`data` ")) from error  # another argument gave the path
    side = measure_square_side(source)
    if side not in SIZES:
        raise UserError(f"{place}: images of {side} px; the side must be a power of two from {SIZES[0]} to {SIZES[-1]}")
    packed = pack_images(source, size=side, channels=channels, crop="centre", check=False)
    facts = {"fake": packed.index["source"]["name"], "fake_fingerprint": packed.index["fingerprint"]}

    def get(start: int, count: int) -> np.ndarray:
        return packed.images[start - first : start - first + count]

    return ImageSet(place, facts, (side, channels), get, len(packed.images))


def open_real_images(fake: ImageSet, data: str, split: Split | None, crop: Crop | None) -> Pack:
    """Opens the real images to compare a set with: those a run was trained on, unless `data` names others.

    Raises: UserError.
    """
    size, channels = fake.shape
    if not fake.config:
        if not data:
            raise UserError(f"`run` {fake.name}: is no run; give `data`, the real images to compare with")
        return pack_images(open_source(data, split or "all"), size=size, channels=channels, crop=crop or "centre")
    trained = fake.config.data.crop
    if crop not in (None, trained):
        raise UserError(f"`crop` {crop}: {fake.name} was trained with `crop` {trained}, and scores of other crops do not compare")
    return open_training_images(Path(fake.name), fake.config, data, split)
