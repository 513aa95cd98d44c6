"""Properties of the sliced Wasserstein distance, on synthetic images."""

from itertools import pairwise
from math import gamma, pi, sqrt

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dcgan_jax.quality import sliced_wasserstein as sliced_wasserstein_module
from dcgan_jax.quality.sliced_wasserstein import build_laplacian_pyramid, measure_projected_distance, sliced_wasserstein


def draw(count, side=32, channels=3, seed=0):
    """Makes (count, side, side, channels) uint8: coloured squares of 4 px with fine noise, equal on every machine."""
    random = np.random.Generator(np.random.Philox(seed))
    squares = random.integers(40, 216, (count, side // 4, side // 4, channels)).repeat(4, axis=1).repeat(4, axis=2)
    return (squares + random.integers(-20, 21, squares.shape)).astype(np.uint8)


def unit_vectors(count, dimensions, seed=0):
    return sliced_wasserstein_module._draw_unit_vectors(np.random.Generator(np.random.Philox(seed)), count, dimensions)


def mean_cosine(dimensions):
    """Returns E |u . axis| for an axis uniform on the sphere and any unit vector u."""
    return gamma(dimensions / 2) / (sqrt(pi) * gamma((dimensions + 1) / 2))


def quick(real, fake, **options):
    """Computes the score with few patches and directions. The properties hold for any number; the default would take a minute."""
    return sliced_wasserstein(real, fake, **{"patches_per_image": 16, "directions": 48} | options)


# ---- The whole score


@pytest.mark.parametrize("side, keys", [(16, "16 mean"), (32, "32 16 mean"), (64, "64 32 16 mean")])
@pytest.mark.parametrize("channels", [1, 3])
def test_set_against_itself_is_exactly_zero(side, keys, channels):
    images = draw(20, side, channels)
    assert quick(images, images.copy()) == dict.fromkeys(keys.split(), 0.0)


def test_grey_against_black_and_white_closed_form():
    # Images are flat, so each patch is one number z, 49 times. After normalisation z is +-1 in one set and uniform on +-sqrt(3)
    # in the other. Their 1-D distance is the integral over w in (0, 1) of |1 - sqrt(3) w| = 5 / (2 sqrt(3)) - 1. The projection
    # multiplies it by |sum of axis| = 7 |u . axis|.
    flat = np.ones((256, 16, 16, 1), np.uint8)
    greys = flat * np.arange(256, dtype=np.uint8)[:, None, None, None]
    score = quick(greys, 255 * (greys // 128), patches_per_image=1, directions=8192)
    # rtol: three times the standard error of the mean of |u . axis| over 8192 random axes, 0.8 %.
    assert_allclose(score["16"], 1e3 * (5 / (2 * sqrt(3)) - 1) * 7 * mean_cosine(49), rtol=0.025)


def test_swapping_the_sets_changes_no_bit():
    assert quick(draw(30, seed=1), draw(30, seed=2)) == quick(draw(30, seed=2), draw(30, seed=1))


def test_seed_alone_decides_the_random_draws():
    sets = draw(30, seed=1), draw(30, seed=2)
    first = quick(*sets, seed=3)
    before = np.random.get_state()[1].copy()
    assert quick(*sets, seed=3) == first
    assert_array_equal(np.random.get_state()[1], before)
    assert quick(*sets, seed=4)["mean"] != first["mean"]


def test_image_order_matters_only_for_patches():
    """The order of the images decides only where patches are cut."""
    real, fake = draw(200, seed=1), draw(200, seed=2) // 8 * 8  # coarse grey levels give a distance well above the floor
    shuffled = np.random.Generator(np.random.Philox(5)).permutation(fake)
    # rtol: other patches of the same 200 images change the score by up to 5 % (measured over six orders).
    assert_allclose(quick(real, shuffled)["mean"], quick(real, fake)["mean"], rtol=0.1)


def blur(images, times):
    x = images.astype(np.float32)
    for axis in (1, 2) * times:
        x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return np.round(x).astype(np.uint8)


def add_noise(images, levels):
    noise = np.random.Generator(np.random.Philox(7)).standard_normal(images.shape)
    return np.clip(np.round(images + levels * noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("corrupt, strengths", [(blur, (0, 1, 2, 4, 8)), (add_noise, (0, 5, 10, 20, 40))])
def test_score_grows_with_the_corruption(corrupt, strengths):
    # Compares images with their own corrupted copies: the floor of two different sets would hide small corruption.
    images = draw(40, seed=1)
    growing = [quick(images, corrupt(images, strength)) for strength in strengths]
    for level in ("32", "16", "mean"):
        values = [score[level] for score in growing]
        assert values[0] == 0
        assert all(later > 1.1 * earlier for earlier, later in pairwise(values)), values


def test_common_brightness_and_contrast_are_invisible():
    dark = draw(30) // 2
    # atol: float32 rounding of the pyramid and the moments is about 1e-6; scores are times 1e3.
    assert_allclose(quick(dark, 2 * dark + 1)["mean"], 0, atol=5e-3)


@pytest.mark.parametrize("row, column", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_every_corner_pixel_counts(row, column):
    real = draw(20, side=16)
    fake = real.copy()
    fake[:, row, column] ^= 255
    assert quick(real, fake, patches_per_image=200)["16"] > 1


def test_blank_images_give_finite_numbers():
    blank = np.full((20, 32, 32, 3), 77, np.uint8)
    assert quick(blank, blank // 2) == {"32": 0.0, "16": 0.0, "mean": 0.0}
    assert 100 < quick(draw(20), blank)["mean"] < 1e4


def test_chunk_size_changes_nothing(monkeypatch):
    sets = draw(30, seed=1), draw(30, seed=2)
    whole = quick(*sets)
    monkeypatch.setattr(sliced_wasserstein_module, "_IMAGES_AT_ONCE", 7)
    assert quick(*sets) == whole


def test_golden():
    score = quick(draw(50, seed=1), add_noise(draw(50, seed=2), 10), seed=6)
    # rtol: another BLAS sums 147 products in another order, 1e-7 per projection. If you changed the random numbers or arithmetic
    # on purpose, put the new values here. Then say in the commit that scores before and after cannot be compared.
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


# ---- Its parts


def test_shift_costs_its_length_along_each_axis():
    vectors = np.random.Generator(np.random.Philox(1)).standard_normal((5000, 10)).astype(np.float32)
    shift = 0.7 * unit_vectors(1, 10, seed=2)  # (1, 10)
    axes = unit_vectors(40, 10)  # more than one chunk of axes, and the last one is shorter
    # rtol: the shift of 0.7 is the difference of two projections near 3, each rounded to 2e-7.
    assert_allclose(measure_projected_distance(vectors, vectors + shift, axes), np.abs(axes @ shift.T).mean(), rtol=1e-5)


@pytest.mark.parametrize("shift, scale", [(1.0, 1.0), (0.0, 1.5)])
def test_gaussians_are_as_far_apart_as_theory_says(shift, scale):
    random = np.random.Generator(np.random.Philox(3))
    real, fake = random.standard_normal((2, 50_000, 4)).astype(np.float32)
    axes = unit_vectors(64, 4)
    direction = np.array([0.5, -0.5, 0.5, 0.5], np.float32)
    expected = shift * np.abs(axes @ direction).mean() + abs(scale - 1) * sqrt(2 / pi)  # one of the two is 0
    # rtol: with 50,000 vectors the standard error is 0.6 % of a mean, and 1 % of a difference of 0.5 between two sd.
    assert_allclose(measure_projected_distance(real, scale * fake + shift * direction, axes), expected, rtol=0.03)


def test_order_of_the_vectors_does_not_matter():
    random = np.random.Generator(np.random.Philox(4))
    real, fake = random.standard_normal((2, 1000, 6)).astype(np.float32)
    axes = unit_vectors(16, 6)
    assert_allclose(
        measure_projected_distance(real, random.permutation(fake), axes), measure_projected_distance(real, fake, axes), rtol=1e-5
    )


def test_axes_are_unit_vectors_and_isotropic():
    axes = unit_vectors(20_000, 147)
    assert_allclose(np.linalg.norm(axes, axis=1), 1, rtol=1e-6)
    # Tolerances are five standard errors of a mean of 20,000, because the worst of 147 is tested. |cosine| has an sd of 76 %.
    assert_allclose(np.abs(axes).mean(axis=0), mean_cosine(147), rtol=5 * 0.76 / sqrt(20_000))
    assert_allclose(axes.mean(axis=0), 0, atol=5 / sqrt(147 * 20_000))


def kernel_matrix(side):
    """Makes the (side, side) matrix of a blur by [1 4 6 4 1]/16, mirrored at the edge pixel, row by row from the definition."""
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
    # Without the columns of the inserted zeros; times 2, because half the samples are zeros.
    matrix = 2 * kernel_matrix(2 * x.shape[1])[:, ::2]
    return np.einsum("yh,xw,nhwc->nyxc", matrix, matrix, x, optimize=True)


@pytest.mark.parametrize("side, smallest, channels", [(64, 16, 3), (32, 4, 1), (24, 3, 2), (16, 16, 3)])
def test_pyramid_sums_to_the_images(side, smallest, channels):
    images = draw(3, side, channels)
    *bands, total = build_laplacian_pyramid(images, smallest)
    assert total.shape == (3, smallest, smallest, channels)
    for band in reversed(bands):
        assert band.dtype == np.float32
        total = up(total) + band
    assert_allclose(total, images, atol=2e-4)  # a few float32 roundings of values up to 255, 1.5e-5 each


def test_last_level_is_the_image_blurred_and_halved():
    images = draw(3, 64)
    assert_allclose(build_laplacian_pyramid(images)[-1], down(down(images)), atol=2e-4)


def test_flat_image_has_empty_bands():
    *bands, rest = build_laplacian_pyramid(np.full((2, 64, 64, 3), 201, np.uint8))
    assert all((band == 0).all() for band in bands)  # exactly 0: a blank set is recognised by a spread of 0
    assert (rest == 201).all()


@pytest.mark.parametrize("side, smallest", [(24, 16), (8, 16), (32, 2)])
def test_side_that_is_no_power_of_two_is_named(side, smallest):
    with pytest.raises(ValueError, match=f"{side} .* {smallest}"):
        build_laplacian_pyramid(np.zeros((1, side, side, 3)), smallest)
