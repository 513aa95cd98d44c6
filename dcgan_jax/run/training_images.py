"""Opens the images that a run was trained on, or other images with the same crop and size."""

import os
from pathlib import Path
from typing import get_args

from dcgan_jax.config import Config, Crop, Split, UserError
from dcgan_jax.data.pack import Pack, pack_images
from dcgan_jax.data.pack_index import is_same_data
from dcgan_jax.data.sources import open_source
from dcgan_jax.run import workdir


def open_training_images(run: Path, config: Config, data: str = "", split: Split | None = None, crop: Crop | None = None) -> Pack:
    """Opens the images that the run was trained on, or those of `data`, with the crop and size of the run.

    Args: split, of a partitioned data set; None: the run's own split of its own images, all of other images; crop, of each image;
        None: as the run's images were cropped.
    Raises: UserError if the run's own images have changed or are missing.
    """
    own_split = config.data.split if not data or _is_same_place(data, config.data.data) else "all"
    source = open_source(data or config.data.data, split or own_split)
    trained_on = workdir.read_data_facts(run)
    crop = crop or find_used_crop(run, config) or config.data.crop
    is_own = not data and not split
    # A run may come from a stranger and name any folder of this machine. Decode its images only if their number is right.
    count = source.count + len(source.refused)
    changed = UserError(f"{config.data.data}: no longer contains the images that {run} was trained on; give others with `data`")
    if is_own and trained_on.get("found", count) != count:
        raise changed
    packed = pack_images(source, size=config.nets.size, channels=config.nets.channels, crop=crop)
    if is_own and not is_same_data(trained_on, packed.index):
        raise changed
    return packed


def find_used_crop(run: Path, config: Config) -> Crop | None:
    """Finds how the run's training images were cropped. None: not at all, because they were drawn.

    It differs from the run's `crop` for a published crop and images other than CelebA. Raises: UserError for a broken data.json.
    """
    # A copy of a run may come without data.json.
    used = workdir.read_data_facts(run).get("crop") if (run / "data.json").exists() else config.data.crop
    if used == "drawn":
        return None
    return used if used in get_args(Crop) else config.data.crop


def _is_same_place(data: str, other: str) -> bool:
    """Whether two values of `data` name the same file, folder or set."""
    return data == other or os.path.abspath(os.path.expanduser(data)) == os.path.abspath(os.path.expanduser(other))
