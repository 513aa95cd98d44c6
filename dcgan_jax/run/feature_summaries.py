"""A network's features of a set of images, computed in parts to bound memory. Those of real images are cached."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dcgan_jax.files import atomic_write
from dcgan_jax.quality import scores
from dcgan_jax.quality.scores import Moments
from dcgan_jax.run.feature_nets import FeatureNetwork

PART = 1000  # images at a time
REFERENCE_VERSION = 2  # increase it when the same key would hold other features
REFERENCE_ARRAYS = ("count", "mean", "covariance", "kept")


class RealImages(NamedTuple):
    """Real images to compare with."""

    images: np.ndarray  # (N, S, S, C) uint8, a memory map
    chosen: np.ndarray  # positions of those that are used
    index: dict  # the pack's
    cache: Path  # folder for their features


class FeatureSummary(NamedTuple):
    """Moments of a network's features of a set of images, and the features of some of them."""

    moments: Moments  # of all images
    kept_features: np.ndarray  # (K, D) float32, features of some images; 80 MB for 10,000 with the Inception


def summarise_features(network: FeatureNetwork, parts: Iterable[np.ndarray], kept_positions: np.ndarray) -> FeatureSummary:
    """Computes the features of a set.

    Args: parts: (n, S, S, C) uint8 each, n at least 2; kept_positions: (K,) ascending, in the set, of the
        features to keep.
    """
    moments, kept_features, start = None, [], 0
    for part in parts:
        features = network.features(part)
        part_moments = scores.compute_moments(features)
        moments = scores.merge_moments(moments, part_moments) if moments else part_moments
        first, last = np.searchsorted(kept_positions, (start, start + len(part)))
        kept_features.append(features[kept_positions[first:last] - start])
        start += len(part)
    assert moments  # there was a part
    return FeatureSummary(moments, np.concatenate(kept_features))


def iterate_parts(images: np.ndarray, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the chosen rows of a memory map in order, about PART at a time."""
    for positions in split_parts(chosen):
        yield images[positions]


def split_parts(positions: np.ndarray) -> list[np.ndarray]:
    """Splits positions into parts of nearly equal size, so that no part is a single image."""
    return np.array_split(positions, -(-len(positions) // PART))


def load_reference(network: FeatureNetwork, reals: RealImages, kept_positions: np.ndarray) -> FeatureSummary:
    """Loads a network's features of real images from the cache, or computes and caches them.

    The key is a hash of the pixels, the network's file, the backend that computes, the chosen positions and those of the kept
    features among them.
    """
    facts = [
        REFERENCE_VERSION,
        reals.index["pixels"],
        network.name.rpartition(":")[2],
        network.sha256,
        jax.default_backend(),  # a GPU's features differ from a CPU's by more than rounding if the function does not prevent it
        *map(_hash_positions, (reals.chosen, kept_positions)),
    ]
    file = reals.cache / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.npz"
    cached = _read_reference(file)
    if cached:
        return cached
    summary = summarise_features(network, iterate_parts(reals.images, reals.chosen), kept_positions)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(file.parent).free > 2 * (summary.kept_features.nbytes + summary.moments.covariance.nbytes):
            with atomic_write(file) as partial, partial.open("wb") as opened:
                np.savez(
                    opened,
                    count=summary.moments.count,
                    mean=summary.moments.mean,
                    covariance=summary.moments.covariance,
                    kept=summary.kept_features,
                )
    except OSError:
        return summary  # without a cache it only takes longer
    return summary


def _hash_positions(positions: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(positions, np.int64).data).hexdigest()


def _read_reference(file: Path) -> FeatureSummary | None:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            count, mean, covariance, kept = (arrays[name] for name in REFERENCE_ARRAYS)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing or truncated: computed again
        return None
    return FeatureSummary(Moments(int(count), mean, covariance), kept)


def compute_feature_scores(real: FeatureSummary, fake: FeatureSummary, seed: int) -> dict[str, float]:
    """Computes the Frechet distance of all images, and KID, precision, recall, density and coverage of the kept features."""
    return {
        "frechet": scores.frechet(real.moments, fake.moments),
        **scores.kid(real.kept_features, fake.kept_features, seed=seed),
        **scores.score_manifolds(real.kept_features, fake.kept_features),
    }
