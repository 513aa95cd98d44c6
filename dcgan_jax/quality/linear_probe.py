"""A linear probe: how much of known attributes a straight line in some features tells."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dcgan_jax.config import UserError

FITTED, TESTED = 4000, 2000  # pictures
FEWEST = 20  # of both together: of fewer, all or none have most attributes
STRENGTHS = np.logspace(-5, 2, 15)  # of the ridge, in mean squared lengths of a standardised row


class Probe(NamedTuple):
    """Of each attribute, on pictures that the probe was not fitted to."""

    accuracy: np.ndarray  # (A,) share told rightly
    balanced: np.ndarray  # (A,) mean of that share among those that have it and those that do not; NaN where all are alike
    most_frequent: np.ndarray  # (A,) accuracy of always saying what most of the fitted ones are


def split_fit_and_test(mixed: np.ndarray, attributes: Sequence[str], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the pictures that a probe is fitted to, and of others to test it on.

    Args: mixed, all positions in random order; attributes, those that the pictures have; name, what they are called.
    Raises: UserError where they are too few, or have none.
    """
    if not attributes:
        raise UserError(
            f"`data`: {name} come without attributes, which a probe learns; give pictures that have some: CelebA with "
            "list_attr_celeba.txt, drawn faces, or a folder for each class"
        )
    if len(mixed) < FEWEST:
        raise UserError(f"`data`: {name}: too few to fit a probe to and to test it; give {FEWEST} or more")
    fitted_to = min(FITTED, len(mixed) * 2 // 3)
    return mixed[:fitted_to], mixed[fitted_to : FITTED + TESTED]


def fit_and_score_probe(features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray) -> Probe:
    """The probe of `fitted` on pictures it was not fitted to.

    Args: features (N, D), test_features (M, D) float; labels (N, A), test_labels (M, A) of 0 and 1.
    Raises: ValueError for shapes that do not fit.
    """
    return score_probe(fit_probe(features, labels)(test_features), test_labels, labels)


def fit_probe(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """f(features (M, D)) -> (M, A) float64 margins: how much of each attribute a straight line in the features sees, more than 0
    where it says that it is there.

    Ridge regression to +-1 for all attributes at once, its strength the one with the best accuracy left one out.
    Args: features (N, D) float; labels (N, A) of 0 and 1. N decides the cost, N^3.
    Raises: ValueError for shapes that do not fit, here or when called. Source: the evaluation of Radford et al. 2016,
        arXiv:1511.06434, section 5.1 (there an L2-SVM); leaving one out in closed form: Allen 1974, "The relationship between
        variable selection and data augmentation and a method for prediction".
    """
    if not (features.ndim == labels.ndim == 2 and len(features) == len(labels)):
        raise ValueError(f"features {features.shape}, labels {labels.shape}")
    features = features.astype(np.float64)
    mean, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 1e-6 * max(spread.max(), 1e-30), spread, np.inf)  # what never varies tells nothing
    x = (features - mean) / spread
    signs = 2.0 * labels - 1
    middle = signs.mean(0)
    y = signs - middle
    kernel = x @ x.T
    values, vectors = np.linalg.eigh(kernel)
    turned, squares, best = vectors.T @ y, np.square(vectors), None
    for strength in STRENGTHS * max(np.trace(kernel) / len(x), 1e-30):
        shrunk = values.clip(0) / (values.clip(0) + strength)
        near, leverage = vectors @ (shrunk[:, None] * turned), squares @ shrunk + 1 / len(x)
        left_out = signs - (y - near) / np.maximum(1 - leverage, 1e-9)[:, None]
        right = np.mean((left_out > 0) == (labels > 0))
        if best is None or right > best[0]:
            best = right, strength
    weights = x.T @ (vectors @ (turned / (values.clip(0) + best[1])[:, None]))  # (D, A)

    def margins(features):
        if features.shape[1:] != mean.shape:
            raise ValueError(f"features {features.shape}, fitted to {mean.shape}")
        return (features.astype(np.float64) - mean) / spread @ weights + middle

    return margins


def score_probe(margins: np.ndarray, labels: np.ndarray, fitted_to: np.ndarray) -> Probe:
    """How much of labels (M, A) a probe's margins (M, A) tell; fitted_to (N, A): the labels it was fitted to."""
    if margins.shape != labels.shape:
        raise ValueError(f"margins {margins.shape}, labels {labels.shape}")
    said, has = margins > 0, labels > 0
    with np.errstate(invalid="ignore"):
        balanced = (np.sum(said & has, 0) / has.sum(0) + np.sum(~said & ~has, 0) / (~has).sum(0)) / 2
    return Probe(np.mean(said == has, 0), balanced, np.mean((fitted_to.mean(0) > 0.5) == has, 0))
