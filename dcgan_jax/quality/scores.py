"""Distances between two sets of pictures. Pure functions on NumPy arrays: no files, no clocks, no global randomness."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import stats

PATCH = 7  # pixels a side, arXiv:1710.10196 section 5
_IMAGES_AT_ONCE = 64  # keeps a chunk's pyramid (3 MB at 64 px) in cache; the result does not depend on it
_DIRECTIONS_AT_ONCE = 32  # bounds the projections held: 2 sets x 32 x 320,000 float32 is 82 MB at N = 5000


def sliced_wasserstein(
    real: np.ndarray, fake: np.ndarray, *, seed: int = 0, patches_per_image: int = 64, directions: int = 512
) -> dict[str, float]:
    """How far the 7x7 patches of two sets of pictures are apart, at each scale: 0 for equal sets, lower is better.

    Each set becomes a Laplacian pyramid; patches are drawn from each level, normalised per colour channel by their own
    set's mean and standard deviation, and compared along random directions. Compare values at equal N, S and arguments
    only: two honest halves of one data set do not score 0 but a floor that shrinks with N.

    What it cannot see: where in the picture a patch lies (a scrambled face is a face) and, because each set is normalised
    by itself, any change of brightness or contrast that is the same in all pictures. Read it beside a feature distance.

    Args:
      real, fake: (N, S, S, C) uint8, same shape, C usually 1 or 3; S a power of two, at least 16.
      seed: 0 or more; the only source of patch positions and directions. Image i of `real` and image i of `fake` are cut
        at the same places, so that a set against itself gives exactly 0 and swapping the arguments changes no bit.
      patches_per_image: the paper takes 128; 64 is the default because two sets of 5000 at 64 px then cost 59 CPU-seconds
        and 0.9 GB where 128 cost 106 and 1.7 (2 cores). The floor is higher: two halves of real faces 4.4 instead of 3.6.
        Time and memory are proportional to N times this.
      directions: the published 4 repeats of 128 are averaged with equal weight, so they are 512 directions.
    Returns: {"64": .., "32": .., "16": .., "mean": ..} for S = 64: 1e3 times the distance per level, and their mean.
    Raises: ValueError for other shapes, dtypes or arguments.
    Source: Karras et al. 2018, arXiv:1710.10196, section 5 (16,384 images there), and the metric published with it.
    """
    _check_images(real, fake, seed, patches_per_image, directions)
    count, side, _, channels = real.shape
    distances = {}
    for level, size in enumerate(_list_sizes(side, smallest=16)):
        random = np.random.Generator(np.random.Philox(key=(seed, size)))  # a level's draws do not depend on S
        axes = _draw_unit_vectors(random, directions, PATCH * PATCH * channels)  # before the corners: no dependence on N
        corners = random.integers(0, size - PATCH + 1, size=(count, patches_per_image, 2))
        # One level of one set is 0.19 GB at N = 5000: making the pyramid again per level keeps memory at one level of two.
        patches = [_extract_patches(images, level, corners) for images in (real, fake)]
        distances[str(size)] = 1e3 * measure_projected_distance(*patches, axes)
    return distances | {"mean": float(np.mean(list(distances.values())))}


def measure_projected_distance(real: np.ndarray, fake: np.ndarray, axes: np.ndarray) -> float:
    """Mean over axes of the 1-D Wasserstein-1 distance between two equally large sets of vectors projected on them.

    Args: real, fake: (M, D) float32; axes: (K, D) float32 unit vectors.
    Returns: the mean over axes of the mean |difference| of sorted projections, the 1-D optimal transport plan's cost.
    Source: Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing".
    """
    total = 0.0
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(axes), _DIRECTIONS_AT_ONCE):
            ours, theirs = (axes[start : start + _DIRECTIONS_AT_ONCE] @ vectors.T for vectors in (real, fake))  # (k, M)
            # Rows, in place, on all cores (NumPy frees the GIL): sorting is most of the whole score's time.
            list(pool.map(np.ndarray.sort, [*ours, *theirs]))
            ours -= theirs
            total += np.abs(ours, out=ours).mean(axis=1, dtype=np.float64).sum()
    return float(total / len(axes))


def build_laplacian_pyramid(images: np.ndarray, smallest: int = 16) -> list[np.ndarray]:
    """Pictures split into bands, finest first; the last is what is left, a small blurred copy, not a difference.

    Args: images: (N, S, S, C), any real dtype; smallest: side of the last level, S halved some number of times (or S).
    Returns: float32 (N, S, S, C), (N, S/2, S/2, C) .. (N, smallest, smallest, C). Enlarging the last and adding the one
      before, again and again, gives the pictures back.
    Source: Burt and Adelson 1983, "The Laplacian pyramid as a compact image code", with [1 4 6 4 1]/16 and mirrored
      borders, the values of OpenCV's pyrDown and pyrUp with BORDER_REFLECT_101 that the published metric matches.
    """
    bands, rest = [], images.astype(np.float32)
    for _ in _list_sizes(images.shape[1], smallest)[1:]:
        smaller = _pyramid_down(_pyramid_down(rest, axis=1), axis=2)
        bands.append(rest - _pyramid_up(_pyramid_up(smaller, axis=1), axis=2))
        rest = smaller
    return [*bands, rest]


def _pyramid_down(x: np.ndarray, axis: int) -> np.ndarray:
    """Blurred by [1 4 6 4 1]/16 along `axis`, every second sample kept. The edge pixel itself is not repeated."""
    x = x.swapaxes(0, axis)
    x = np.concatenate([x[2:0:-1], x, x[-2:-3:-1]])  # sample 2i is now at 2i + 2
    y = (x[:-4:2] + x[4::2] + 4 * (x[1:-3:2] + x[3::2]) + 6 * x[2:-2:2]) / 16
    return y.swapaxes(0, axis)


def _pyramid_up(x: np.ndarray, axis: int) -> np.ndarray:
    """Zeros put between the samples along `axis`, then blurred by [1 4 6 4 1]/8, without computing the zeros."""
    x = x.swapaxes(0, axis)
    # Mirroring the zero-filled line about its ends (a sample on the left, a zero on the right) brings these neighbours.
    x = np.concatenate([x[1:2], x, x[-1:]])
    y = np.empty((2 * (len(x) - 2), *x.shape[1:]), x.dtype)
    y[::2] = (x[:-2] + 6 * x[1:-1] + x[2:]) / 8
    y[1::2] = (x[1:-1] + x[2:]) / 2
    return y.swapaxes(0, axis)


def _extract_patches(images: np.ndarray, level: int, corners: np.ndarray) -> np.ndarray:
    """(N, S, S, C) uint8 pictures cut at (N, P, 2) corners of one pyramid level -> (N * P, C * 49) float32."""
    count, per_image, _ = corners.shape
    patches = np.empty((count, per_image, images.shape[3], PATCH, PATCH), np.float32)
    for start in range(0, count, _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        band = build_laplacian_pyramid(images[part])[level]
        windows = np.lib.stride_tricks.sliding_window_view(band, (PATCH, PATCH), axis=(1, 2))  # (n, y, x, C, 7, 7)
        patches[part] = windows[np.arange(len(band))[:, None], corners[part, :, 0], corners[part, :, 1]]
    # Moments in float64: a float32 sum over 3e7 pixels loses the digits that tell two good sets apart.
    for channel in range(images.shape[3]):
        values = patches[:, :, channel]  # a view, (N, P, 7, 7)
        values -= values.mean(dtype=np.float64).astype(np.float32)
        spread = np.sqrt(np.mean([np.square(part, dtype=np.float64).mean() for part in values]))
        values /= np.float32(spread or 1)  # a blank set stays at 0 instead of turning into NaN
    return patches.reshape(count * per_image, -1)


def _draw_unit_vectors(random: np.random.Generator, count: int, dimensions: int) -> np.ndarray:
    """(count, dimensions) float32, uniform on the sphere: a normal vector has no preferred direction."""
    vectors = random.standard_normal((count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _list_sizes(side: int, smallest: int) -> list[int]:
    """side, side / 2 .. smallest."""
    sizes = [side]
    while sizes[-1] > smallest and sizes[-1] % 2 == 0:
        sizes.append(sizes[-1] // 2)
    if sizes[-1] != smallest or smallest < 3:  # mirroring two pixels needs three
        raise ValueError(f"a side of {side} halved again and again does not reach {smallest} (3 or more)")
    return sizes


def _check_images(real, fake, seed, patches_per_image, directions) -> None:
    if real.shape != fake.shape or real.ndim != 4 or real.shape[1] != real.shape[2] or 0 in real.shape:
        raise ValueError(f"real is {real.shape}, fake {fake.shape}: both must be the same (N, S, S, C), N at least 1")
    if real.dtype != np.uint8 or fake.dtype != np.uint8:
        raise ValueError(f"real is {real.dtype}, fake {fake.dtype}: both must be uint8; scale to 0..255 and round first")
    if real.shape[1] < 16 or real.shape[1] & (real.shape[1] - 1):
        raise ValueError(f"pictures are {real.shape[1]} px: the side must be a power of two, at least 16")
    if seed < 0 or patches_per_image < 1 or directions < 1:
        raise ValueError(
            f"seed {seed} must be at least 0; patches_per_image {patches_per_image}, directions {directions} at least 1"
        )


# ---- Of features: (N, D) float, one row a picture, from any network ----


class Moments(NamedTuple):
    """What a set's features are like: enough for the Frechet distance, and small whatever the set."""

    count: int
    mean: np.ndarray  # (D,) float64
    covariance: np.ndarray  # (D, D) float64, unbiased: over count - 1


def compute_moments(features: np.ndarray) -> Moments:
    """Of (N, D) features, N at least 2. Raises ValueError for fewer, and for a NaN or an infinity."""
    features = _check_features(features, least=2)
    mean = features.mean(0)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred / (len(features) - 1))


def merge_moments(one: Moments, other: Moments) -> Moments:
    """The moments of both sets together, so that a set can be taken in parts of any size.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
    """
    count, apart = one.count + other.count, other.mean - one.mean
    scatter = (one.count - 1) * one.covariance + (other.count - 1) * other.covariance
    scatter += np.outer(apart, apart) * (one.count * other.count / count)
    return Moments(count, one.mean + apart * (other.count / count), scatter / (count - 1))


def frechet(one: Moments, other: Moments) -> float:
    """Frechet distance of the two normal distributions, squared as usual: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2).

    FID where the features are Inception's. Biased upwards by some constant over N: compare at equal N only, or
    see `frechet_at_infinity`. Source: Heusel et al. 2017, arXiv:1706.08500, equation 6.
    """
    # tr (C1 C2)^1/2 is the sum of the roots of the eigenvalues of the symmetric R C2 R, R the root of C1: no complex rest.
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    common = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other.covariance @ root), 0)).sum()
    return float(np.square(one.mean - other.mean).sum() + np.trace(one.covariance) + np.trace(other.covariance) - 2 * common)


def count_least_at_infinity(dimensions: int) -> int:
    """The fakes that `frechet_at_infinity` takes at least: the covariance of half of them has full rank."""
    return max(20, 2 * (dimensions + 1))


def frechet_at_infinity(real: Moments, fake: np.ndarray, *, seed: int = 0, points: int = 15) -> float:
    """The Frechet distance that infinitely many fakes would have, by a line over 1 / N through `points` smaller sets.

    Args: fake, (N, D) features, of which sets of N / 10 to N are drawn with `seed`, of D + 1 at least: of fewer the covariance
        has no full rank, and the bias is no line. The bias by the count of reals stays.
    Raises: ValueError for N below `fewest_at_infinity`.
    Source: Chong and Forsyth 2020, arXiv:1911.07023, section 4, with ordinary sampling.
    """
    fake = np.asarray(fake)
    fake = _check_features(fake, least=count_least_at_infinity(fake.shape[-1]))
    random = np.random.Generator(np.random.Philox(seed))
    counts = np.linspace(max(len(fake) / 10, fake.shape[1] + 1), len(fake), points).astype(int)
    found = [frechet(real, compute_moments(fake[random.permutation(len(fake))[:count]])) for count in counts]
    slope, at_infinity = np.polyfit(1 / counts, found, 1)
    return float(at_infinity)


def kid(real: np.ndarray, fake: np.ndarray, *, seed: int = 0, subsets: int = 100, subset_size: int = 1000) -> dict[str, float]:
    """Kernel distance: the unbiased squared MMD with the kernel (x.y / D + 1)^3. Around 0, also below, for equal distributions.

    Args: real, fake, (N, D) and (M, D) features. The mean over `subsets` pairs of random subsets of subset_size, or, where a set
        is no larger, of half of it, as the whole has no spread. Unlike the Frechet distance its expectation does not depend on N.
    Returns: {"kid": mean, "kid_sd": standard deviation over subsets}. Source: Binkowski et al. 2018, arXiv:1801.01401, section 4.
    """
    real, fake = _check_features(real, least=2), _check_features(fake, least=2)
    fewest, random = min(len(real), len(fake)), np.random.Generator(np.random.Philox(seed))
    size = subset_size if fewest > subset_size else max(2, fewest // 2)
    found = []
    for _ in range(subsets):
        x, y = (features[random.permutation(len(features))[:size]] for features in (real, fake))
        xx, yy, xy = (_cubic_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        found.append(within - 2 * xy.mean())
    return {"kid": float(np.mean(found)), "kid_sd": float(np.std(found))}


def _cubic_kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def score_manifolds(real: np.ndarray, fake: np.ndarray, *, neighbours: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage: do fakes lie where reals are, and do they reach all of it.

    Args: real, fake, (N, D) and (M, D) features, more than `neighbours` each. Compare at equal N and M only.
    Returns: precision, the share of fakes inside some real's ball (its radius reaches its own nth neighbour); recall, the
        same with the roles exchanged; density, how many such balls a fake lies in, in `neighbours` (may pass 1); coverage, the
        share of reals with a fake in their ball.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, section 3; Naeem et al. 2020, arXiv:2002.09797, section 3.
    """
    real, fake = (_check_features(features, least=neighbours + 1) for features in (real, fake))
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
    """(positions in others, distances), (N,) each: of each row of (N, D) the nearest row of (M, D)."""
    features, others = _check_features(features, least=1), _check_features(others, least=1)
    positions, distances = [], []
    for start in range(0, len(features), _ROWS_AT_ONCE):
        found = _measure_distances(features[start : start + _ROWS_AT_ONCE], others)
        positions.append(found.argmin(1))
        distances.append(found.min(1))
    return np.concatenate(positions), np.concatenate(distances)


class Memorisation(NamedTuple):
    """Whether samples are nearer to training pictures than they would be to others."""

    ratio: float  # mean distance to the nearest training picture over that to the nearest held-out one, of as many of each
    to_training: float  # mean distance of samples to the nearest of all training pictures over that of held-out pictures
    nearest: np.ndarray  # (M,) position of each sample's nearest training picture
    distances: np.ndarray  # (M,) to it


def measure_memorisation(
    samples: np.ndarray, held_out: np.ndarray, training: Iterable[np.ndarray], *, seed: int = 0
) -> Memorisation:
    """Both ratios are about 1 for samples that are as new as held-out pictures, smaller for copies.

    Args: samples (M, D), held_out (H, D), training: parts of (n, D) each, in order, pixels or features. The nearest of many
        is nearer than the nearest of few, so `ratio` is with H training pictures, drawn anew with `seed` for each of the
        parts that hold as many; of a copy it sees little where H is a small share. `to_training` is with all of them.
    Raises: ValueError where no part holds H pictures. Source: the question of Meehan et al. 2020, arXiv:2004.05675.
    """
    samples, held_out = _check_features(samples, least=1), _check_features(held_out, least=1)
    random = np.random.Generator(np.random.Philox(seed))
    best, distances, from_held_out, few, start = None, None, None, [], 0
    for part in training:
        part = _check_features(part, least=1)
        positions, found = find_nearest(samples, part)
        if best is None:
            best, distances, from_held_out = positions, found, find_nearest(held_out, part)[1]
        else:
            best = np.where(found < distances, positions + start, best)
            distances = np.minimum(distances, found)
            from_held_out = np.minimum(from_held_out, find_nearest(held_out, part)[1])
        if len(part) >= len(held_out):
            few.append(find_nearest(samples, part[random.permutation(len(part))[: len(held_out)]])[1].mean())
        start += len(part)
    if not few:
        raise ValueError(f"no part of the training pictures holds as many as are held out, {len(held_out)}")
    return Memorisation(
        float(np.mean(few) / find_nearest(samples, held_out)[1].mean()),
        float(distances.mean() / from_held_out.mean()),
        best,
        distances,
    )


def compute_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """(mean, half the width of Student's interval of it), of two independent values or more."""
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def compute_interval_of_difference(
    some: Sequence[float], others: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
    """(mean of some - mean of others, half the width of Welch's interval of it), two independent values or more of each.

    Source: Welch 1947, "The generalization of Student's problem when several different population variances are involved".
    """
    errors = [np.var(values, ddof=1) / len(values) for values in (some, others)]
    variance = sum(errors)
    gap = float(np.mean(some) - np.mean(others))
    if not variance:
        return gap, 0.0
    freedom = variance**2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, (some, others), strict=True))
    return gap, float(stats.t.ppf((1 + confidence) / 2, freedom) * variance**0.5)


_ROWS_AT_ONCE = 512  # bounds the distances held: 512 x 50,000 float64 is 0.2 GB


def _measure_radii(features, neighbours):
    """(N,): each row's distance to its nth nearest other row."""
    parts = (
        _measure_distances(features[start : start + _ROWS_AT_ONCE], features) for start in range(0, len(features), _ROWS_AT_ONCE)
    )
    return np.concatenate([np.partition(part, neighbours, axis=1)[:, neighbours] for part in parts])  # the nearest is itself


def _measure_distances(x, y):
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0))


def _check_features(features, least):
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < least or not features.shape[1]:
        raise ValueError(f"features are {features.shape}: (N, D) with N at least {least} is needed")
    if not np.isfinite(features).all():
        raise ValueError(f"the features of picture {int(np.argmin(np.isfinite(features).all(1)))} hold a NaN or an infinity")
    return features
