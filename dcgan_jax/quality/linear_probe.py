"""A linear probe: measures how well a linear function of features predicts known attributes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

FITTED, TESTED = 4000, 2000  # images
MIN_PROBE_IMAGES = 20  # for fit and test together; with fewer, most attributes have the same value in all images
STRENGTHS = np.logspace(-5, 2, 15)  # ridge penalties to try, relative to the mean squared norm of a standardised row


class Probe(NamedTuple):
    """Scores of a probe for each attribute, on images that it was not fitted to."""

    accuracy: np.ndarray  # (A,) share of correct predictions
    balanced: np.ndarray  # (A,) mean of the shares among images with and without the attribute; NaN if all have the same value
    most_frequent: np.ndarray  # (A,) accuracy of always predicting the more frequent value among the fitted images


def split_fit_and_test(shuffled: np.ndarray, attributes: Sequence[str], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Splits image positions into those to fit a probe to and those to test it on.

    Args: shuffled, all positions in random order; attributes, the names of the attributes; name, the data's name for messages.
    Raises: ValueError for too few images or no attributes.
    """
    if not attributes:
        raise ValueError(
            f"{name}: has no attributes, which a probe needs; give CelebA with list_attr_celeba.txt, drawn faces, or a "
            "folder for each class"
        )
    if len(shuffled) < MIN_PROBE_IMAGES:
        raise ValueError(f"{name}: too few images to fit and test a probe; give at least {MIN_PROBE_IMAGES}")
    fit_count = min(FITTED, len(shuffled) * 2 // 3)
    return shuffled[:fit_count], shuffled[fit_count : FITTED + TESTED]


def fit_and_score_probe(features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray) -> Probe:
    """Fits a probe and scores it on other images.

    Args: features (N, D), test_features (M, D) float; labels (N, A), test_labels (M, A) of 0 and 1.
    Raises: ValueError for shapes that do not fit.
    """
    return score_probe(fit_probe(features, labels)(test_features), test_labels, labels)


def fit_probe(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fits a probe for all attributes at once: ridge regression to +-1, with the penalty of the best leave-one-out accuracy.

    Args: features (N, D) float; labels (N, A) of 0 and 1. The cost grows with N^3.
    Returns: f(features (M, D)) -> (M, A) float64 margins, positive if the probe predicts the attribute.
    Raises: ValueError for shapes that do not fit, here or in f.
    Source: Radford et al. 2016, arXiv:1511.06434, section 5.1 (there an L2-SVM); leave-one-out in closed form: Allen 1974, "The
        relationship between variable selection and data augmentation and a method for prediction".
    """
    if not (features.ndim == labels.ndim == 2 and len(features) == len(labels)):
        raise ValueError(f"features are {features.shape}, labels {labels.shape}; expected (N, D) and (N, A)")
    features = features.astype(np.float64)
    mean, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 1e-6 * max(spread.max(), 1e-30), spread, np.inf)  # a constant feature has no weight
    x = (features - mean) / spread
    signs = 2.0 * labels - 1
    middle = signs.mean(0)
    y = signs - middle
    kernel = x @ x.T
    values, vectors = np.linalg.eigh(kernel)
    rotated, squares = vectors.T @ y, np.square(vectors)
    most_right, best = -1.0, 0.0
    for strength in STRENGTHS * max(np.trace(kernel) / len(x), 1e-30):
        shrunk = values.clip(0) / (values.clip(0) + strength)
        fitted, leverage = vectors @ (shrunk[:, None] * rotated), squares @ shrunk + 1 / len(x)
        left_out = signs - (y - fitted) / np.maximum(1 - leverage, 1e-9)[:, None]
        right = np.mean((left_out > 0) == (labels > 0))
        if right > most_right:
            most_right, best = right, strength
    weights = x.T @ (vectors @ (rotated / (values.clip(0) + best)[:, None]))  # (D, A)

    def compute_margins(features: np.ndarray) -> np.ndarray:
        if features.shape[1:] != mean.shape:
            raise ValueError(f"features are {features.shape}; expected (M, {mean.size}), as in the fit")
        return (features.astype(np.float64) - mean) / spread @ weights + middle

    return compute_margins


def score_probe(margins: np.ndarray, labels: np.ndarray, fitted_labels: np.ndarray) -> Probe:
    """Scores a probe's margins (M, A) against labels (M, A). fitted_labels (N, A) are the labels of the fit."""
    if margins.shape != labels.shape:
        raise ValueError(f"margins are {margins.shape}, labels {labels.shape}; both must be the same (M, A)")
    predicted, has = margins > 0, labels > 0
    with np.errstate(invalid="ignore"):
        balanced = (np.sum(predicted & has, 0) / has.sum(0) + np.sum(~predicted & ~has, 0) / (~has).sum(0)) / 2
    return Probe(np.mean(predicted == has, 0), balanced, np.mean((fitted_labels.mean(0) > 0.5) == has, 0))
