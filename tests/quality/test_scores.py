"""Laws of the scores, on drawn pictures; nothing here is read from disk."""

import functools
from itertools import pairwise
from math import gamma, pi, sqrt

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dcgan_jax.quality import scores
from dcgan_jax.quality.scores import (
    Moments,
    build_laplacian_pyramid,
    compute_moments,
    find_nearest,
    frechet,
    frechet_at_infinity,
    kid,
    measure_projected_distance,
    merge_moments,
    score_manifolds,
    sliced_wasserstein,
)


def draw(count, side=32, channels=3, seed=0):
    """(count, side, side, channels) uint8: coloured squares of 4 px under fine noise, in integers on every machine."""
    random = np.random.Generator(np.random.Philox(seed))
    squares = random.integers(40, 216, (count, side // 4, side // 4, channels)).repeat(4, axis=1).repeat(4, axis=2)
    return (squares + random.integers(-20, 21, squares.shape)).astype(np.uint8)


def unit_vectors(count, dimensions, seed=0):
    return scores._draw_unit_vectors(np.random.Generator(np.random.Philox(seed)), count, dimensions)


def mean_cosine(dimensions):
    """E |u . axis| for an axis uniform on the sphere and any unit u."""
    return gamma(dimensions / 2) / (sqrt(pi) * gamma((dimensions + 1) / 2))


def quick(real, fake, **options):
    """The score with few draws: the laws hold for any number, and the default 512 directions would take a minute here."""
    return sliced_wasserstein(real, fake, **{"patches_per_image": 16, "directions": 48} | options)


# ---- the whole score


@pytest.mark.parametrize("side, keys", [(16, "16 mean"), (32, "32 16 mean"), (64, "64 32 16 mean")])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_against_itself_is_exactly_zero_at_every_level(side, keys, channels):
    pictures = draw(20, side, channels)
    assert quick(pictures, pictures.copy()) == dict.fromkeys(keys.split(), 0.0)


def test_grey_levels_against_black_and_white_have_a_closed_form():
    # Flat pictures, so any patch is one number z 49 times: +-1 after normalising in one set, uniform on +-sqrt(3) in the
    # other. Their 1-D distance is the integral over w in (0, 1) of |1 - sqrt(3) w| = 5 / (2 sqrt(3)) - 1; projecting
    # multiplies it by |sum of axis| = 7 |u . axis|.
    flat = np.ones((256, 16, 16, 1), np.uint8)
    greys = flat * np.arange(256, dtype=np.uint8)[:, None, None, None]
    score = quick(greys, 255 * (greys // 128), patches_per_image=1, directions=8192)
    # rtol: 8192 random axes leave 0.8 % in the mean of |u . axis|; three times that.
    assert_allclose(score["16"], 1e3 * (5 / (2 * sqrt(3)) - 1) * 7 * mean_cosine(49), rtol=0.025)


def test_swapping_the_sets_changes_no_bit():
    assert quick(draw(30, seed=1), draw(30, seed=2)) == quick(draw(30, seed=2), draw(30, seed=1))


def test_the_seed_decides_the_draws_and_nothing_else_does():
    sets = draw(30, seed=1), draw(30, seed=2)
    first = quick(*sets, seed=3)
    before = np.random.get_state()[1].copy()
    assert quick(*sets, seed=3) == first
    assert_array_equal(np.random.get_state()[1], before)
    assert quick(*sets, seed=4)["mean"] != first["mean"]


def test_the_order_of_the_pictures_matters_only_through_where_they_are_cut():
    real, fake = draw(200, seed=1), draw(200, seed=2) // 8 * 8  # coarse grey levels: a distance well above the floor
    shuffled = np.random.Generator(np.random.Philox(5)).permutation(fake)
    # rtol: other cuts of the same 200 pictures move the score a little (measured over six orders: up to 5 %).
    assert_allclose(quick(real, shuffled)["mean"], quick(real, fake)["mean"], rtol=0.1)


def blurred(pictures, times):
    x = pictures.astype(np.float32)
    for axis in (1, 2) * times:
        x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return np.round(x).astype(np.uint8)


def noised(pictures, levels):
    noise = np.random.Generator(np.random.Philox(7)).standard_normal(pictures.shape)
    return np.clip(np.round(pictures + levels * noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("corrupt, strengths", [(blurred, (0, 1, 2, 4, 8)), (noised, (0, 5, 10, 20, 40))])
def test_the_score_grows_with_the_corruption(corrupt, strengths):
    pictures = draw(40, seed=1)  # against themselves, corrupted: the floor of two different sets would hide the small steps
    growing = [quick(pictures, corrupt(pictures, strength)) for strength in strengths]
    for level in ("32", "16", "mean"):
        values = [score[level] for score in growing]
        assert values[0] == 0
        assert all(later > 1.1 * earlier for earlier, later in pairwise(values)), values


def test_brightness_and_contrast_common_to_a_set_are_invisible():
    dark = draw(30) // 2
    # atol: float32 rounding of the pyramid and the moments, about 1e-6, in units of 1e-3.
    assert_allclose(quick(dark, 2 * dark + 1)["mean"], 0, atol=5e-3)


@pytest.mark.parametrize("row, column", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_every_corner_pixel_is_seen(row, column):
    real = draw(20, side=16)
    fake = real.copy()
    fake[:, row, column] ^= 255
    assert quick(real, fake, patches_per_image=200)["16"] > 1


def test_blank_pictures_give_numbers():
    blank = np.full((20, 32, 32, 3), 77, np.uint8)
    assert quick(blank, blank // 2) == {"32": 0.0, "16": 0.0, "mean": 0.0}
    assert 100 < quick(draw(20), blank)["mean"] < 1e4


def test_the_chunks_do_not_show(monkeypatch):
    sets = draw(30, seed=1), draw(30, seed=2)
    whole = quick(*sets)
    monkeypatch.setattr(scores, "_IMAGES_AT_ONCE", 7)
    assert quick(*sets) == whole


def test_golden():
    score = quick(draw(50, seed=1), noised(draw(50, seed=2), 10), seed=6)
    # rtol: another BLAS sums 147 products in another order, 1e-7 a projection. If the draws or the arithmetic were changed
    # on purpose, put the new values here and say in the change that scores before and after cannot be compared.
    assert_allclose([score["32"], score["16"], score["mean"]], [65.724254, 67.527346, 66.625800], rtol=1e-4)


good = np.zeros((4, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "real, fake, options, message",
    [
        (good, good[:3], {}, r"\(4, 32, 32, 3\), fake \(3, 32, 32, 3\)"),
        (good, good[..., :1], {}, "same"),
        (good, draw(4, side=16), {}, "same"),
        (good[:0], good[:0], {}, "N at least 1"),
        (good[0], good[0], {}, "N, S, S, C"),
        (good[:, :16], good[:, :16], {}, "N, S, S, C"),
        (good, good / 255, {}, "float64: both must be uint8"),
        (good[:, :24, :24], good[:, :24, :24], {}, "24 px: the side must be a power of two"),
        (good[:, :8, :8], good[:, :8, :8], {}, "8 px: .* at least 16"),
        (good, good, {"seed": -1}, "seed -1"),
        (good, good, {"patches_per_image": 0}, "patches_per_image 0"),
        (good, good, {"directions": 0}, "directions 0"),
    ],
)
def test_wrong_arguments_are_named(real, fake, options, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(real, fake, **options)


# ---- its parts


def test_a_shift_costs_its_length_along_each_axis():
    vectors = np.random.Generator(np.random.Philox(1)).standard_normal((5000, 10)).astype(np.float32)
    shift = 0.7 * unit_vectors(1, 10, seed=2)  # (1, 10)
    axes = unit_vectors(40, 10)  # more than one chunk of axes, and a short last one
    # rtol: projections near 3 are rounded to 2e-7, the shift of 0.7 is seen through the difference of two.
    assert_allclose(measure_projected_distance(vectors, vectors + shift, axes), np.abs(axes @ shift.T).mean(), rtol=1e-5)


@pytest.mark.parametrize("shift, scale", [(1.0, 1.0), (0.0, 1.5)])
def test_independent_gaussians_are_as_far_apart_as_theory_says(shift, scale):
    random = np.random.Generator(np.random.Philox(3))
    real, fake = random.standard_normal((2, 50_000, 4)).astype(np.float32)
    axes = unit_vectors(64, 4)
    direction = np.array([0.5, -0.5, 0.5, 0.5], np.float32)
    expected = shift * np.abs(axes @ direction).mean() + abs(scale - 1) * sqrt(2 / pi)  # one of the two is 0
    # rtol: 50,000 draws leave 0.6 % in a mean, 1 % in a spread's difference of 0.5
    assert_allclose(measure_projected_distance(real, scale * fake + shift * direction, axes), expected, rtol=0.03)


def test_the_order_of_the_vectors_does_not_matter():
    random = np.random.Generator(np.random.Philox(4))
    real, fake = random.standard_normal((2, 1000, 6)).astype(np.float32)
    axes = unit_vectors(16, 6)
    assert_allclose(
        measure_projected_distance(real, random.permutation(fake), axes), measure_projected_distance(real, fake, axes), rtol=1e-5
    )


def test_axes_are_unit_vectors_without_a_preferred_direction():
    axes = unit_vectors(20_000, 147)
    assert_allclose(np.linalg.norm(axes, axis=1), 1, rtol=1e-6)
    # Tolerances are five standard errors of a mean of 20,000, since the worst of 147 is tested; |cosine| varies by 76 %.
    assert_allclose(np.abs(axes).mean(axis=0), mean_cosine(147), rtol=5 * 0.76 / sqrt(20_000))
    assert_allclose(axes.mean(axis=0), 0, atol=5 / sqrt(147 * 20_000))


def kernel_matrix(side):
    """(side, side): [1 4 6 4 1]/16 with borders mirrored about the edge pixel, row by row from the definition."""
    matrix = np.zeros((side, side))
    for row in range(side):
        for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
            column = abs(row + offset)
            matrix[row, min(column, 2 * (side - 1) - column)] += weight / 16
    return matrix


def down(x):
    matrix = kernel_matrix(x.shape[1])[::2]
    return np.einsum("yh,xw,nhwc->nyxc", matrix, matrix, x, optimize=True)


def up(x):
    matrix = 2 * kernel_matrix(2 * x.shape[1])[:, ::2]  # the columns of the zeros are left out; half the samples, so twice
    return np.einsum("yh,xw,nhwc->nyxc", matrix, matrix, x, optimize=True)


@pytest.mark.parametrize("side, smallest, channels", [(64, 16, 3), (32, 4, 1), (24, 3, 2), (16, 16, 3)])
def test_the_pyramid_adds_up_to_the_pictures(side, smallest, channels):
    pictures = draw(3, side, channels)
    *bands, total = build_laplacian_pyramid(pictures, smallest)
    assert total.shape == (3, smallest, smallest, channels)
    for band in reversed(bands):
        assert band.dtype == np.float32
        total = up(total) + band
    assert_allclose(total, pictures, atol=2e-4)  # a few float32 roundings of values up to 255, 1.5e-5 each


def test_the_last_level_is_the_picture_blurred_and_halved():
    pictures = draw(3, 64)
    assert_allclose(build_laplacian_pyramid(pictures)[-1], down(down(pictures)), atol=2e-4)


def test_a_flat_picture_has_empty_bands():
    *bands, rest = build_laplacian_pyramid(np.full((2, 64, 64, 3), 201, np.uint8))
    assert all((band == 0).all() for band in bands)  # exactly: a blank set is told by a spread of 0
    assert (rest == 201).all()


@pytest.mark.parametrize("side, smallest", [(24, 16), (8, 16), (32, 2)])
def test_a_side_that_does_not_halve_to_the_smallest_is_named(side, smallest):
    with pytest.raises(ValueError, match=f"{side} .* {smallest}"):
        build_laplacian_pyramid(np.zeros((1, side, side, 3)), smallest)


# ---- of features


def normal(count, dimensions=8, seed=0, mean=0.0, sd=1.0):
    return mean + sd * np.random.default_rng(seed).standard_normal((count, dimensions))


def frechet_of(one, other):
    return frechet(compute_moments(one), compute_moments(other))


def test_the_frechet_distance_of_normal_distributions_in_closed_form():
    # Diagonal: sum of (m1 - m2)^2 + (s1 - s2)^2. With a common rotation the same.
    m1, m2 = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 1.0])
    s1, s2 = np.array([1.0, 2.0, 0.5]), np.array([1.5, 0.5, 0.5])
    expected = np.square(m1 - m2).sum() + np.square(s1 - s2).sum()
    turn = np.linalg.qr(normal(3, 3))[0]
    for r in (np.eye(3), turn):
        one, other = (Moments(9, r @ m, r @ np.diag(s**2) @ r.T) for m, s in ((m1, s1), (m2, s2)))
        assert_allclose(frechet(one, other), expected, rtol=1e-9)
        assert_allclose(frechet(other, one), expected, rtol=1e-9)


def test_the_frechet_distance_in_another_way():
    # The trace of the root is the nuclear norm of the product of the centred features.
    a, b = normal(300, 6) @ normal(6, 6, seed=1), normal(200, 6, seed=2, mean=1)
    xa, xb = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    cross = np.linalg.svd(xa @ xb.T, compute_uv=False).sum()
    assert_allclose(frechet_of(a, b), np.square(a.mean(0) - b.mean(0)).sum() + (xa**2).sum() + (xb**2).sum() - 2 * cross)


def test_moments_are_numpys_and_parts_make_the_whole():
    features = normal(100, 5, mean=1e3)
    whole = compute_moments(features)
    assert_allclose(whole.covariance, np.cov(features, rowvar=False), rtol=1e-9)
    parts = functools.reduce(merge_moments, map(compute_moments, np.split(features, [2, 40, 41 + 2, 90])))
    assert parts.count == whole.count
    assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    assert_allclose(parts.covariance, whole.covariance, rtol=1e-9)


SCORES = {"frechet": frechet_of, "kid": lambda a, b: kid(a, b, subsets=10)["kid"]}


@pytest.mark.parametrize("score", SCORES)
def test_a_distance_grows_with_what_is_wrong(score):
    real = normal(600)
    shifted = [SCORES[score](real, normal(600, seed=1, mean=mean)) for mean in (0, 0.3, 0.6, 1.2)]
    shrunk = [SCORES[score](real, normal(600, seed=1, sd=sd)) for sd in (1, 0.8, 0.5, 0.1)]  # samples that vary too little
    assert shifted == sorted(shifted) and shrunk == sorted(shrunk)
    assert shifted[1] > 2 * shifted[0] and shrunk[1] > 2 * abs(shrunk[0])


def test_of_equal_sets_the_frechet_distance_is_0_and_kid_around_0():
    a = normal(500)
    assert abs(frechet_of(a, a)) < 1e-9
    found = kid(a, normal(500, seed=1), subset_size=100)
    assert abs(found["kid"]) < 3 * found["kid_sd"] / np.sqrt(10)  # subsets of 500 overlap: as of some ten, not a hundred


def test_kid_by_its_definition_on_two_small_sets():
    x, y = normal(4, 3), normal(4, 3, seed=1)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(4) for j in range(4)]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / 12 - 2 * sum(k(x[i], y[j]) for i, j in pairs) / 16
    found = kid(x, y, subsets=20_000)  # of halves, over which what is unbiased is as over the whole
    assert found["kid_sd"] > 0 and abs(found["kid"] - expected) < 4 * found["kid_sd"] / 20_000**0.5


def test_more_fakes_lower_the_frechet_distance_and_its_extrapolation_is_near_the_truth():
    real = compute_moments(normal(20_000))
    fakes = normal(2000, seed=1)
    small, large = frechet(real, compute_moments(fakes[:200])), frechet(real, compute_moments(fakes))
    assert small > 4 * large > 0  # all of it bias, but for the count of reals
    assert abs(frechet_at_infinity(real, fakes)) < large / 2


def test_too_few_fakes_for_a_full_rank_are_not_extrapolated():
    real = compute_moments(normal(200, 30))
    assert frechet_at_infinity(real, normal(62, 30, seed=1)) < frechet(real, compute_moments(normal(62, 30, seed=1)))
    with pytest.raises(ValueError, match="62"):
        frechet_at_infinity(real, normal(61, 30, seed=1))


def test_manifolds_of_equal_sets_and_of_sets_apart():
    a = normal(400)
    same = score_manifolds(a, a)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert 1 <= same["density"] < 1.5  # each is in its own ball as well
    apart = score_manifolds(a, normal(400, seed=1, mean=100))
    assert set(apart.values()) == {0.0}


def test_precision_falls_with_bad_fakes_and_recall_with_missing_ones():
    real = np.concatenate([normal(300), normal(300, seed=1, mean=20)])
    half_missing = score_manifolds(real, normal(600, seed=2))
    half_bad = score_manifolds(
        real, np.concatenate([normal(200, seed=2), normal(200, seed=3, mean=20), normal(400, seed=4, mean=-50)])
    )
    assert half_missing["precision"] > 0.9 and half_missing["coverage"] < 0.55 and half_missing["recall"] < 0.55
    assert 0.4 < half_bad["precision"] < 0.55 and half_bad["recall"] > 0.8


def test_manifolds_by_counting():
    real, fake = np.array([[0.0], [1.0], [3.0], [10.0]]), np.array([[0.5], [4.5], [30.0]])
    # Radii to the first neighbour: 1, 1, 2, 7 of reals; 4, 4, 25.5 of fakes.
    found = score_manifolds(real, fake, neighbours=1)
    assert found == {"precision": 2 / 3, "density": (2 + 2) / 3, "coverage": 1.0, "recall": 1.0}


def test_the_nearest_rows():
    others = normal(700, 3, seed=1)
    positions, distances = find_nearest(others[[5, 600, 7]] + 1e-3, others)
    assert list(positions) == [5, 600, 7]
    assert_allclose(distances, np.sqrt(3) * 1e-3, rtol=1e-6)


@pytest.mark.parametrize("features", [np.zeros((1, 4)), np.zeros(4), np.zeros((4, 0)), np.full((4, 4), np.nan)])
def test_features_that_cannot_be_compared_are_refused(features):
    with pytest.raises(ValueError, match="features"):
        compute_moments(features)
    with pytest.raises(ValueError, match="features"):
        kid(features, np.zeros((4, 4)))


# ---- Memory and intervals ----


@pytest.mark.parametrize("copied, low, high", [(0.0, 0.9, 1.1), (0.5, 0.35, 0.65), (1.0, 0.0, 0.01)])
def test_copies_of_training_pictures_are_told(copied, low, high):
    random = np.random.default_rng(0)
    training, held_out, new = (random.normal(size=(count, 8)) for count in (600, 200, 100))
    chosen = random.permutation(600)[:100]
    samples = np.where(np.arange(100)[:, None] < copied * 100, training[chosen], new)
    found = scores.measure_memorisation(samples, held_out, np.split(training, 3), seed=1)
    assert low <= found.to_training <= high
    assert (found.nearest[: int(copied * 100)] == chosen[: int(copied * 100)]).all()
    whole = scores.measure_memorisation(samples, held_out, [training], seed=1)
    assert_allclose(found.to_training, whole.to_training)  # however it is parted
    assert_array_equal(found.nearest, whole.nearest)


def test_of_as_many_training_pictures_as_are_held_out_copies_are_nearer():
    random = np.random.default_rng(0)
    training, held_out = random.normal(size=(2, 200, 8))
    assert scores.measure_memorisation(training, held_out, [training]).ratio < 0.01
    assert 0.95 < scores.measure_memorisation(random.normal(size=(200, 8)), held_out, [training]).ratio < 1.05
    with pytest.raises(ValueError, match="as many as are held out, 200"):
        scores.measure_memorisation(training, held_out, [training[:199]])


def test_an_interval_holds_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = [abs(mean - 3) <= half for mean, half in (scores.compute_interval(random.normal(3, 2, 4)) for _ in range(2000))]
    assert 0.93 < np.mean(held) < 0.97
    gaps = [scores.compute_interval_of_difference(random.normal(3, 2, 4), random.normal(1, 1, 3)) for _ in range(2000)]
    assert 0.92 < np.mean([abs(gap - 2) <= half for gap, half in gaps]) < 0.98
    assert scores.compute_interval_of_difference([1.0, 1.0], [3.0, 3.0]) == (-2, 0)
