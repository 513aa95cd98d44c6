"""Tells whether samples are copies of training images, by distances in pixels or features."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dcgan_jax.quality.scores import check_features, find_nearest


class Memorisation(NamedTuple):
    """How near samples are to training images, compared with held-out images."""

    ratio: float  # mean distance to the nearest training image over that to the nearest held-out image, of as many of each
    to_training: float  # mean distance of samples to the nearest of all training images over that of held-out images
    nearest: np.ndarray  # (M,) position of each sample's nearest training image
    distances: np.ndarray  # (M,) to it


def measure_memorisation(
    samples: np.ndarray, held_out: np.ndarray, training: Iterable[np.ndarray], *, seed: int = 0
) -> Memorisation:
    """Compares distances to training and to held-out images: both ratios are about 1 for new samples, smaller for copies.

    Args: samples (M, D), held_out (H, D), training: parts of (n, D) each, in order, pixels or features. The nearest of many
        is nearer than the nearest of few, so `ratio` takes H training images, chosen anew with `seed` for each of the
        parts that hold as many; it misses most copies where H is a small share. `to_training` takes all training images.
    Raises: ValueError where no part holds H images. Source: the question of Meehan et al. 2020, arXiv:2004.05675.
    """
    samples, held_out = check_features(samples, least=1), check_features(held_out, least=1)
    random = np.random.Generator(np.random.Philox(seed))
    nearest, sampled, start = np.zeros(len(samples), np.intp), [], 0
    distances, from_held_out = np.full(len(samples), np.inf), np.full(len(held_out), np.inf)
    for part in training:
        part = check_features(part, least=1)
        positions, part_distances = find_nearest(samples, part)
        nearest = np.where(part_distances < distances, positions + start, nearest)
        distances = np.minimum(distances, part_distances)
        from_held_out = np.minimum(from_held_out, find_nearest(held_out, part)[1])
        if len(part) >= len(held_out):
            sampled.append(find_nearest(samples, part[random.permutation(len(part))[: len(held_out)]])[1].mean())
        start += len(part)
    if not sampled:
        raise ValueError(f"no part of the training images holds as many as are held out, {len(held_out)}")
    return Memorisation(
        float(np.mean(sampled) / find_nearest(samples, held_out)[1].mean()),
        float(distances.mean() / from_held_out.mean()),
        nearest,
        distances,
    )
