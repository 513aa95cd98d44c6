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
from dcgan_jax.gan.state import describe_state
from dcgan_jax.run import checkpoints, online_score, pretrained, workdir
from dcgan_jax.run.random_choices import choose_scored
from dcgan_jax.run.training_images import find_used_crop, open_training_images


class ImageSet(NamedTuple):
    """A run's samples, by seed, or images, by position in a random order."""

    name: str  # the run or images, as they were given
    facts: dict  # added to every line of JSON about it
    shape: tuple[int, int]  # S, C
    get: Callable[[np.ndarray], np.ndarray]  # seeds or positions (N,) -> (N, S, S, C) uint8
    first: int  # the first seed or position
    most: int  # number of seeds or images from the first one on
    config: Config | None = None  # the run's; None for images
    crop: Crop | None = None  # that a run's training images really have; None for images, and if they were drawn
    get_labels: Callable[[np.ndarray], np.ndarray | None] = lambda seeds: None  # (N,) -> (N, A): requested attributes

    @property
    def step(self) -> int | None:
        return self.facts.get("step")

    @property
    def folder(self) -> Path:
        """The folder of a run."""
        return pretrained.find_run(self.name)

    def restore_discriminator(self) -> tuple[dict, dict]:
        """Restores D's parameters and statistics of a run's checkpoint. Raises: UserError."""
        config, step = self.config, self.step
        assert config and step is not None, "the images are no run's"
        return checkpoints.restore_discriminator(self.folder, describe_state(config), step)


def is_meant_as_run(place: str) -> bool:
    """Whether to open it as a run: true for a run, and for a path that is neither a run nor images (messages call it a run)."""
    path = Path(place)
    if os.path.isdir(place):
        entries = os.listdir(place)
        return "config.json" in entries or not entries or any(path.glob("*/config.json"))
    return not os.path.exists(place) or (path.is_file() and path.suffix.lower() not in (".zip", ".npy"))


def open_run_samples(place: str, step: int | Literal["best"] | None, first_seed: int) -> ImageSet:
    """Opens the samples of a run's checkpoint. Raises: UserError."""
    run = pretrained.find_run(place)
    config = workdir.read_config(run)
    shapes = describe_state(config)
    step, params, stats, table = checkpoints.restore_generator(run, shapes, online_score.resolve_step(run, step))

    def get_labels(seeds: np.ndarray) -> np.ndarray | None:
        return select_labels(table, seeds)

    def get(seeds: np.ndarray) -> np.ndarray:
        return sample_images(config.nets, params, stats, seeds, get_labels(seeds))

    shape, crop = (config.nets.size, config.nets.channels), find_used_crop(run, config)
    return ImageSet(place, {"step": step}, shape, get, first_seed, 2**32 - first_seed, config, crop, get_labels)


def open_images(place: str, channels: int, count: int, seed: int) -> ImageSet:
    """Opens square images of one size: a folder, .zip or .npy. They are scored in sets of `count`, chosen at random by the seed.

    Raises: UserError.
    """
    try:
        source = open_source(place)
    except UserError as error:
        raise UserError(str(error).removeprefix("`data` ")) from error  # another argument gave the path
    side = measure_square_side(source)
    if side not in SIZES:
        near = max((size for size in SIZES if size <= side), default=SIZES[0])
        raise UserError(
            f"{place}: images of {side} px; the side must be a power of two from {SIZES[0]} to {SIZES[-1]}: resize a copy of "
            f"them to {near} px, with Pillow's image.resize(({near}, {near})), or with ImageMagick's "
            f"magick mogrify -resize {near}x{near} *.png"
        )
    packed = pack_images(source, size=side, channels=channels, crop="centre", check=False)
    facts = {"fake": packed.index["source"]["name"], "fake_fingerprint": packed.index["fingerprint"], "shuffled_by_seed": seed}
    order = choose_scored(seed, len(packed.images), count)

    def get(positions: np.ndarray) -> np.ndarray:
        return packed.images[order[positions]]

    return ImageSet(place, facts, (side, channels), get, 0, len(packed.images))


def open_real_images(sets: list[ImageSet], data: str, split: Split | None, crop: Crop | None) -> Pack:
    """Opens the real images to compare the sets with: those that the first run was trained on, unless `data` names others.

    Any set that is a run decides the crop. Raises: UserError.
    """
    run = next((one for one in sets if one.config), None)
    if not run or not run.config:
        if not data:
            raise UserError(f"`run` {sets[0].name}: is no run; give `data`, the real images to compare with")
        size, channels = sets[0].shape
        return pack_images(open_source(data, split or "all"), size=size, channels=channels, crop=crop or "centre")
    cropped = next((one for one in sets if one.crop), run)
    if crop and cropped.crop and crop != cropped.crop:
        raise UserError(
            f"`crop` {crop}: the images of {cropped.name} have the crop {cropped.crop}, and scores of other crops do not "
            "compare; leave out `crop`"
        )
    if not (data or cropped.crop) and crop not in (None, run.config.data.crop):
        raise UserError(f"`crop` {crop}: {run.name} was trained on drawn faces, which are not cropped; leave out `crop`")
    return open_training_images(run.folder, run.config, data, split, crop or cropped.crop)
