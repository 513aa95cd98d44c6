"""Scores of two sets of features, (N, D) float, one row per image, from any network: Frechet distance, KID, precision, recall.

Pure functions of NumPy arrays. Randomness comes from a seed alone.
"""

from typing import NamedTuple

import numpy as np

_ROWS_AT_ONCE = 512  # bounds the memory of distances: 512 x 50,000 float64 is 0.2 GB


class Moments(NamedTuple):
    """Mean and covariance of a set of features. The Frechet distance needs nothing else."""

    count: int
    mean: np.ndarray  # (D,) float64
    covariance: np.ndarray  # (D, D) float64, unbiased: divided by count - 1


def compute_moments(features: np.ndarray) -> Moments:
    """Computes the moments of (N, D) features, N at least 2. Raises: ValueError for fewer rows, a NaN or an infinity."""
    features = check_features(features, least=2)
    mean = features.mean(0)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred / (len(features) - 1))


def merge_moments(one: Moments, other: Moments) -> Moments:
    """Computes the moments of both sets together, so that a set can be processed in parts of any size.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
    """
    count, apart = one.count + other.count, other.mean - one.mean
    scatter = (one.count - 1) * one.covariance + (other.count - 1) * other.covariance
    scatter += np.outer(apart, apart) * (one.count * other.count / count)
    return Moments(count, one.mean + apart * (other.count / count), scatter / (count - 1))


def frechet(one: Moments, other: Moments) -> float:
    """Computes the squared Frechet distance of two normal distributions: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2).

    With features of the FID Inception it is FID. Its upward bias is about proportional to 1 / N: compare at equal N only, or
    use `frechet_at_infinity`. Source: Heusel et al. 2017, arXiv:1706.08500, equation 6.
    """
    # tr (C1 C2)^1/2 is the sum of the square roots of the eigenvalues of the symmetric R C2 R, where R is the root of C1.
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    common = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other.covariance @ root), 0)).sum()
    return float(np.square(one.mean - other.mean).sum() + np.trace(one.covariance) + np.trace(other.covariance) - 2 * common)


def count_least_at_infinity(dimensions: int) -> int:
    """Returns the smallest N for `frechet_at_infinity`, at which the covariance of half of the samples has full rank."""
    return max(20, 2 * (dimensions + 1))


def frechet_at_infinity(real: Moments, fake: np.ndarray, *, seed: int = 0, points: int = 15) -> float:
    """Extrapolates the Frechet distance to infinitely many samples, by a line over 1 / N through `points` smaller sets.

    Args: fake, (N, D) features. The sets are random rows, N / 10 to N of them and at least D + 1: with fewer, the covariance is
        singular and the bias is not linear in 1 / N. The bias from the number of real images remains.
    Raises: ValueError for N below `count_least_at_infinity`.
    Source: Chong and Forsyth 2020, arXiv:1911.07023, section 4, with ordinary sampling.
    """
    fake = np.asarray(fake)
    fake = check_features(fake, least=count_least_at_infinity(fake.shape[-1]))
    random = np.random.Generator(np.random.Philox(seed))
    counts = np.linspace(max(len(fake) / 10, fake.shape[1] + 1), len(fake), points).astype(int)
    distances = [frechet(real, compute_moments(fake[random.permutation(len(fake))[:count]])) for count in counts]
    slope, at_infinity = np.polyfit(1 / counts, distances, 1)
    return float(at_infinity)


def kid(real: np.ndarray, fake: np.ndarray, *, seed: int = 0, subsets: int = 100, subset_size: int = 1000) -> dict[str, float]:
    """Computes the kernel distance, the unbiased squared MMD with kernel (x.y / D + 1)^3. About 0 for equal distributions.

    Args: real, fake, (N, D) and (M, D) features. The mean is over `subsets` pairs of random subsets of subset_size rows, or of
        half a set if a set is no larger. Unlike that of the Frechet distance, its expectation does not depend on N.
    Returns: {"kid": mean, "kid_sd": standard deviation over subsets}. Source: Binkowski et al. 2018, arXiv:1801.01401, section 4.
    """
    real, fake = check_features(real, least=2), check_features(fake, least=2)
    fewest, random = min(len(real), len(fake)), np.random.Generator(np.random.Philox(seed))
    size = subset_size if fewest > subset_size else max(2, fewest // 2)
    estimates = []
    for _ in range(subsets):
        x, y = (features[random.permutation(len(features))[:size]] for features in (real, fake))
        xx, yy, xy = (_cubic_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        estimates.append(within - 2 * xy.mean())
    return {"kid": float(np.mean(estimates)), "kid_sd": float(np.std(estimates))}


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def score_manifolds(real: np.ndarray, fake: np.ndarray, *, neighbours: int = 5) -> dict[str, float]:
    """Measures precision, recall, density and coverage: whether samples look real, and whether they cover all real images.

    Args: real, fake, (N, D) and (M, D) features, more than `neighbours` each. Compare at equal N and M only.
    Returns: precision, the share of fakes inside the ball of some real, whose radius is the distance to its nth nearest real;
        recall, the same with the roles exchanged; density, the mean number of such balls around a fake, divided by
        `neighbours` (may exceed 1); coverage, the share of reals with a fake in their ball.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, section 3; Naeem et al. 2020, arXiv:2002.09797, section 3.
    """
    real, fake = (check_features(features, least=neighbours + 1) for features in (real, fake))
    real_radii, fake_radii = (_measure_radii(features, neighbours) for features in (real, fake))
    inside_some, balls, recalled, covered = 0, 0, np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start in range(0, len(fake), _ROWS_AT_ONCE):
        distances = _measure_distances(fake[start : start + _ROWS_AT_ONCE], real)  # (m, N)
        in_ball = distances <= real_radii
        inside_some += in_ball.any(1).sum()
        balls += in_ball.sum()
        covered |= in_ball.any(0)
        recalled |= (distances <= fake_radii[start : start + _ROWS_AT_ONCE, None]).any(0)
    return {
        "precision": float(inside_some / len(fake)),
        "recall": float(recalled.mean()),
        "density": float(balls / (neighbours * len(fake))),
        "coverage": float(covered.mean()),
    }


def find_nearest(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds for each row of (N, D) the nearest row of (M, D): (positions in others, distances), (N,) each."""
    features, others = check_features(features, least=1), check_features(others, least=1)
    positions, distances = [], []
    for start in range(0, len(features), _ROWS_AT_ONCE):
        to_others = _measure_distances(features[start : start + _ROWS_AT_ONCE], others)
        positions.append(to_others.argmin(1))
        distances.append(to_others.min(1))
    return np.concatenate(positions), np.concatenate(distances)


def _measure_radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Measures each row's distance to its nth nearest other row, (N,)."""
    parts = (
        _measure_distances(features[start : start + _ROWS_AT_ONCE], features) for start in range(0, len(features), _ROWS_AT_ONCE)
    )
    return np.concatenate([np.partition(part, neighbours, axis=1)[:, neighbours] for part in parts])  # the nearest is itself


def _measure_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0))


def check_features(features: np.ndarray, least: int) -> np.ndarray:
    """Returns the features in float64. Raises: ValueError if they are not (N, D) with N at least `least`, or not finite."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < least or not features.shape[1]:
        raise ValueError(f"features are {features.shape}; expected (N, D) with N at least {least}")
    if not np.isfinite(features).all():
        raise ValueError(f"the features of image {int(np.argmin(np.isfinite(features).all(1)))} contain a NaN or an infinity")
    return features
