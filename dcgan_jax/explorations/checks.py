"""Checks of the arguments that explorations share, and the title of their sheets."""

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
    """Converts seeds in any form to (N,) uint32, at most MOST_SEEDS. Raises: UserError."""
    return to_seed_array(seeds, argument, MOST_SEEDS)


def read_two_or_more(seeds: Seeds) -> np.ndarray:
    """Converts at least two seeds to (N,) uint32. Raises: UserError."""
    found = read_seeds(seeds)
    if len(found) < 2:
        raise UserError(f"`seeds` {describe_seeds(seeds)}: give at least two")
    return found


def check_whole(**values: object) -> None:
    """Raises UserError, with the argument's name, for a value that is not a whole number."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise UserError(f"`{name}` {make_printable(repr(value), 100)}: give a whole number")


def make_title(gan: "TrainedGAN", condition: Condition, what: str = "") -> str:
    """Makes the title of a sheet: run, step, labels of the condition, and what it shows."""
    labels = ",".join(f"{name}={value}" for name, value in (condition or {}).items())
    return f"{gan.name}, step {gan.step:,}" + (f", {labels}" if labels else "") + (f": {what}" if what else "")
