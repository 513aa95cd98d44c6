"""Properties of the scores: closed forms, independent computations, and what each score must detect."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dcgan_jax.quality.scores import (
    Moments,
    compute_moments,
    find_nearest,
    frechet,
    frechet_at_infinity,
    kid,
    merge_moments,
    score_manifolds,
)


def normal(count, dimensions=8, seed=0, mean=0.0, sd=1.0):
    return mean + sd * np.random.default_rng(seed).standard_normal((count, dimensions))


def frechet_of(one, other):
    return frechet(compute_moments(one), compute_moments(other))


def test_frechet_of_normals_has_its_closed_form():
    # For diagonal covariances it is the sum of (m1 - m2)^2 + (s1 - s2)^2. A common rotation does not change it.
    m1, m2 = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 1.0])
    s1, s2 = np.array([1.0, 2.0, 0.5]), np.array([1.5, 0.5, 0.5])
    expected = np.square(m1 - m2).sum() + np.square(s1 - s2).sum()
    turn = np.linalg.qr(normal(3, 3))[0]
    for r in (np.eye(3), turn):
        one, other = (Moments(9, r @ m, r @ np.diag(s**2) @ r.T) for m, s in ((m1, s1), (m2, s2)))
        assert_allclose(frechet(one, other), expected, rtol=1e-9)
        assert_allclose(frechet(other, one), expected, rtol=1e-9)


def test_frechet_equals_another_computation():
    # The trace of the matrix root is the nuclear norm of the product of the centred features.
    a, b = normal(300, 6) @ normal(6, 6, seed=1), normal(200, 6, seed=2, mean=1)
    xa, xb = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    cross = np.linalg.svd(xa @ xb.T, compute_uv=False).sum()
    assert_allclose(frechet_of(a, b), np.square(a.mean(0) - b.mean(0)).sum() + (xa**2).sum() + (xb**2).sum() - 2 * cross)


def test_moments_equal_numpy_and_merge():
    features = normal(100, 5, mean=1e3)
    whole = compute_moments(features)
    assert_allclose(whole.covariance, np.cov(features, rowvar=False), rtol=1e-9)
    parts = functools.reduce(merge_moments, map(compute_moments, np.split(features, [2, 40, 41 + 2, 90])))
    assert parts.count == whole.count
    assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    assert_allclose(parts.covariance, whole.covariance, rtol=1e-9)


SCORES = {"frechet": frechet_of, "kid": lambda a, b: kid(a, b, subsets=10)["kid"]}


@pytest.mark.parametrize("score", SCORES)
def test_frechet_grows_with_the_difference(score):
    real = normal(600)
    shifted = [SCORES[score](real, normal(600, seed=1, mean=mean)) for mean in (0, 0.3, 0.6, 1.2)]
    shrunk = [SCORES[score](real, normal(600, seed=1, sd=sd)) for sd in (1, 0.8, 0.5, 0.1)]  # samples that vary too little
    assert shifted == sorted(shifted) and shrunk == sorted(shrunk)
    assert shifted[1] > 2 * shifted[0] and shrunk[1] > 2 * abs(shrunk[0])


def test_equal_sets_have_frechet_0_and_kid_around_0():
    a = normal(500)
    assert abs(frechet_of(a, a)) < 1e-9
    found = kid(a, normal(500, seed=1), subset_size=100)
    assert abs(found["kid"]) < 3 * found["kid_sd"] / np.sqrt(10)  # the 100 subsets overlap, so about ten are independent


def test_kid_equals_its_definition():
    x, y = normal(4, 3), normal(4, 3, seed=1)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(4) for j in range(4)]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / 12 - 2 * sum(k(x[i], y[j]) for i, j in pairs) / 16
    found = kid(x, y, subsets=20_000)  # subsets are halves of the sets; an unbiased estimate has the same mean on them
    assert found["kid_sd"] > 0 and abs(found["kid"] - expected) < 4 * found["kid_sd"] / 20_000**0.5


def test_more_fakes_lower_frechet_towards_infinity():
    """The extrapolation to infinitely many fakes is near the true value, 0."""
    real = compute_moments(normal(20_000))
    fakes = normal(2000, seed=1)
    small, large = frechet(real, compute_moments(fakes[:200])), frechet(real, compute_moments(fakes))
    assert small > 4 * large > 0  # the true value is 0, so nearly all of it is the bias from the number of fakes
    assert abs(frechet_at_infinity(real, fakes)) < large / 2


def test_too_few_fakes_are_not_extrapolated():
    """The covariance of the smallest set needs full rank: 62 fakes for 30 features."""
    real = compute_moments(normal(200, 30))
    assert frechet_at_infinity(real, normal(62, 30, seed=1)) < frechet(real, compute_moments(normal(62, 30, seed=1)))
    with pytest.raises(ValueError, match="62"):
        frechet_at_infinity(real, normal(61, 30, seed=1))


def test_precision_recall_of_equal_and_separate_sets():
    a = normal(400)
    same = score_manifolds(a, a)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert 1 <= same["density"] < 1.5  # more than 1, because each is also in its own ball
    apart = score_manifolds(a, normal(400, seed=1, mean=100))
    assert set(apart.values()) == {0.0}


def test_precision_and_recall_fall_with_their_faults():
    """Bad fakes reduce precision. Missing modes reduce recall and coverage."""
    real = np.concatenate([normal(300), normal(300, seed=1, mean=20)])
    half_missing = score_manifolds(real, normal(600, seed=2))
    half_bad = score_manifolds(
        real, np.concatenate([normal(200, seed=2), normal(200, seed=3, mean=20), normal(400, seed=4, mean=-50)])
    )
    assert half_missing["precision"] > 0.9 and half_missing["coverage"] < 0.55 and half_missing["recall"] < 0.55
    assert 0.4 < half_bad["precision"] < 0.55 and half_bad["recall"] > 0.8


def test_precision_and_recall_equal_counting():
    real, fake = np.array([[0.0], [1.0], [3.0], [10.0]]), np.array([[0.5], [4.5], [30.0]])
    # Distances to the nearest neighbour: 1, 1, 2, 7 for reals; 4, 4, 25.5 for fakes.
    found = score_manifolds(real, fake, neighbours=1)
    assert found == {"precision": 2 / 3, "density": (2 + 2) / 3, "coverage": 1.0, "recall": 1.0}


def test_nearest_rows_are_found():
    others = normal(700, 3, seed=1)
    positions, distances = find_nearest(others[[5, 600, 7]] + 1e-3, others)
    assert list(positions) == [5, 600, 7]
    assert_allclose(distances, np.sqrt(3) * 1e-3, rtol=1e-6)


@pytest.mark.parametrize("features", [np.zeros((1, 4)), np.zeros(4), np.zeros((4, 0)), np.full((4, 4), np.nan)])
def test_mismatched_features_are_refused(features):
    with pytest.raises(ValueError, match="features"):
        compute_moments(features)
    with pytest.raises(ValueError, match="features"):
        kid(features, np.zeros((4, 4)))
