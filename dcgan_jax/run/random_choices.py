"""Random choices of images for scores. A set may be sorted by class or person, so no score uses the beginning of one."""

from typing import Literal

import numpy as np

from dcgan_jax.data.batches import permute_epoch

# One stream of random numbers for each. A set that is compared with itself is so not compared with the same images.
PURPOSES = ("real", "scored", "kept", "floor")
MAX_KEPT = 10_000  # images of a larger set that are used for patches and for scores of pairs: their memory or time is limited


def shuffle_positions(seed: int, purpose: Literal["real", "scored", "kept", "floor"], total: int, count: int) -> np.ndarray:
    """Returns all positions of a set of `total` images in random order, (total,) int64, the same for one seed and count.

    purpose: what the order is for; each has its own random numbers.
    """
    return permute_epoch(seed, (PURPOSES.index(purpose) << 40) + count, total)


def choose_real(seed: int, total: int, count: int) -> np.ndarray:
    """Chooses the real images to compare with: (count,) int64 positions, ascending."""
    return np.sort(shuffle_positions(seed, "real", total, count)[:count])


def choose_scored(seed: int, total: int, count: int) -> np.ndarray:
    """Chooses sets of `count` images to score: their positions one after the other, (total // count * count,) int64.

    The sets do not overlap. Positions ascend within each.
    """
    whole = total // count * count
    return np.sort(shuffle_positions(seed, "scored", total, count)[:whole].reshape(-1, count), axis=1).ravel()


def choose_kept(seed: int, count: int) -> np.ndarray:
    """Chooses the images of a set of `count` that are used where all would be too many: at most MAX_KEPT, ascending."""
    return np.sort(shuffle_positions(seed, "kept", count, count)[:MAX_KEPT])


def split_halves(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits `count` positions into two random halves, (count // 2,) int64 each, for floors.

    Neighbours in a sorted set are often almost equal. If they were always in different halves, the floor would be too low.
    """
    order, half = shuffle_positions(seed, "floor", count, count), count // 2
    return order[:half], order[half : 2 * half]
