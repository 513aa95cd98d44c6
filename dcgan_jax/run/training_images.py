"""The images that a run was trained on, found again; or others, cut as its own were."""

from pathlib import Path

from dcgan_jax.config import Config, Split, UserError
from dcgan_jax.data.pack import Pack, pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.run import workdir


def open_training_images(run: Path, config: Config, data: str = "", split: Split | None = None) -> Pack:
    """The images that the run was trained on, or those of `data`, cut as its own were.

    split: part of a partitioned set; none: the run's own part of its own images, all of others.
    Raises: UserError where its own are no longer there.
    """
    source = open_source(data or config.data.data, split or ("all" if data else config.data.split))
    trained_on = workdir.read_data_facts(run)
    is_own = not data and not split
    # A run may be a stranger's, and name any folder of this machine: that is listed, and decoded only if it can be the run's own.
    found = source.count + len(source.refused)
    changed = UserError(f"{config.data.data}: no longer holds the images {run} was trained on; name others with `data`")
    if is_own and trained_on.get("found", found) != found:
        raise changed
    packed = pack_images(source, size=config.nets.size, channels=config.nets.channels, crop=config.data.crop)
    if is_own and not workdir.is_same_data(trained_on, packed.index):
        raise changed
    return packed
