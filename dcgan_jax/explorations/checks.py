"""Arguments that all explorations share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.seeds import Seeds, describe_seeds, to_seed_array

if TYPE_CHECKING:
    from dcgan_jax.api import TrainedGAN

MOST_SEEDS = 1000

Condition = Mapping[str, int] | None  # {"Smiling": 1}


def read_seeds(seeds: Seeds, argument: str = "seeds") -> np.ndarray:
    return to_seed_array(seeds, argument, MOST_SEEDS)


def read_two_or_more(seeds: Seeds) -> np.ndarray:
    found = read_seeds(seeds)
    if len(found) < 2:
        raise UserError(f"`seeds` {describe_seeds(seeds)}: give at least two")
    return found


def check_whole(**values: object) -> None:
    """Raises: UserError naming an argument that is no whole number."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise UserError(f"`{name}` {make_printable(repr(value), 100)}: give a whole number")


def make_title(gan: "TrainedGAN", condition: Condition, what: str = "") -> str:
    labels = ",".join(f"{name}={value}" for name, value in (condition or {}).items())
    return f"{gan.name}, step {gan.step:,}" + (f", {labels}" if labels else "") + (f": {what}" if what else "")
