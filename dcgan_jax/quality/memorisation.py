"""Detects samples that are copies of training images, by distances in pixels or features."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dcgan_jax.quality.scores import check_features, find_nearest


class Memorisation(NamedTuple):
    """Distances of samples to training images, relative to held-out images."""

    ratio: float  # samples: mean distance to the nearest training image / to the nearest held-out image, from equally many
    to_training: float  # mean distance to the nearest of all training images: of samples / of held-out images
    nearest: np.ndarray  # (M,) position of each sample's nearest training image
    distances: np.ndarray  # (M,) distance to that image


def measure_memorisation(
    samples: np.ndarray, held_out: np.ndarray, training: Iterable[np.ndarray], *, seed: int = 0
) -> Memorisation:
    """Compares distances to training and to held-out images: both ratios are about 1 for new samples, smaller for copies.

    Args: samples (M, D), held_out (H, D), training: parts of (n, D) each, in order; pixels or features.
    The nearest of many images is nearer than the nearest of few. So `ratio` uses H random training images from each part with at
    least H. It misses most copies if H is small compared with the part. `to_training` uses all training images.
    Raises: ValueError if no part has H images. Source of the idea: Meehan et al. 2020, arXiv:2004.05675.
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
        raise ValueError(f"no part of the training images has as many as the {len(held_out)} held-out images; hold out fewer")
    return Memorisation(
        float(np.mean(sampled) / find_nearest(samples, held_out)[1].mean()),
        float(distances.mean() / from_held_out.mean()),
        nearest,
        distances,
    )
