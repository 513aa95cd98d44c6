"""Opens the images that a run was trained on, or other images with the same crop and size."""

from pathlib import Path

from dcgan_jax.config import Config, Split, UserError
from dcgan_jax.data.pack import Pack, pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.run import workdir


def open_training_images(run: Path, config: Config, data: str = "", split: Split | None = None) -> Pack:
    """Opens the images that the run was trained on, or those of `data`, with the crop and size of the run.

    split: split of a partitioned data set. None: the run's own split of its own images, all of other images.
    Raises: UserError if the run's own images have changed or are missing.
    """
    source = open_source(data or config.data.data, split or ("all" if data else config.data.split))
    trained_on = workdir.read_data_facts(run)
    is_own = not data and not split
    # A run may come from a stranger and name any folder of this machine. Decode its images only if their number is right.
    count = source.count + len(source.refused)
    changed = UserError(f"{config.data.data}: no longer contains the images that {run} was trained on; give others with `data`")
    if is_own and trained_on.get("found", count) != count:
        raise changed
    packed = pack_images(source, size=config.nets.size, channels=config.nets.channels, crop=config.data.crop)
    if is_own and not workdir.is_same_data(trained_on, packed.index):
        raise changed
    return packed
