"""Differentiable augmentation: what each function may change and what it must keep, for each image."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dcgan_jax.gan.augment import AUGMENTATIONS, adapt_probability, augment

BATCH, SIDE = 64, 16
KEY = 5


def make_images(seed=0, channels=3):
    return np.random.Generator(np.random.Philox(seed)).uniform(-1, 1, (BATCH, SIDE, SIDE, channels)).astype(np.float32)


@pytest.fixture(scope="module", params=AUGMENTATIONS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def apply(name):
    function = jax.jit(AUGMENTATIONS[name])
    return lambda images, key=KEY: np.asarray(function(jax.random.key(key), images))


def test_shape_and_dtype_stay(name, apply):
    for channels in (1, 3):
        images = make_images(channels=channels)
        out = apply(images)
        assert (out.shape, out.dtype) == (images.shape, images.dtype)
        assert (out != images).any()


def test_a_key_decides_the_draws(apply):
    assert_array_equal(apply(make_images()), apply(make_images()))
    assert (apply(make_images(), key=6) != apply(make_images())).any()


def test_image_augmentation_ignores_its_neighbours(apply):
    """Each image has its own random values, and the result does not depend on its neighbours."""
    images = make_images()
    others = make_images(seed=1)
    others[7] = images[7]
    assert_array_equal(apply(others)[7], apply(images)[7])
    same = np.broadcast_to(images[:1], images.shape)
    assert len(np.unique(apply(same).reshape(BATCH, -1), axis=0)) > BATCH // 4  # random values differ between images


def test_gradients_are_finite_and_linear(name):
    # All three are affine in the image, so their pullback does not depend on the image.
    def pull(images, upstream):
        return jax.vjp(partial(AUGMENTATIONS[name], jax.random.key(KEY)), images)[1](upstream)[0]

    pull = jax.jit(pull)
    upstream = make_images(seed=2)
    gradient = pull(make_images(), upstream)
    assert np.isfinite(gradient).all()
    assert_allclose(gradient, pull(make_images(seed=1), upstream), atol=1e-5)
    if name != "color":  # the gradient is 1 for pixels that remain and 0 for others
        assert set(np.unique(pull(make_images(), np.ones_like(upstream)))) == {0.0, 1.0}


def test_translation_shifts_an_eighth_fills_grey():
    """The shift is at most an eighth of the side."""
    images = make_images()
    out = np.asarray(AUGMENTATIONS["translation"](jax.random.key(KEY), images))
    reach = SIDE // 8
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    shifts_used = set()
    for image, moved in zip(padded, out, strict=True):
        shifts = [
            (row, column)
            for row in range(2 * reach + 1)
            for column in range(2 * reach + 1)
            if np.array_equal(moved, image[row : row + SIDE, column : column + SIDE])
        ]
        assert len(shifts) == 1
        shifts_used.add(shifts[0])
    rows, columns = zip(*shifts_used, strict=True)
    assert set(rows) == set(columns) == set(range(2 * reach + 1))  # every shift occurs along both axes, independently
    assert len(shifts_used) > 2 * (2 * reach + 1)


def test_cutout_blanks_one_square_of_half_the_side():
    images = make_images()
    out = np.asarray(AUGMENTATIONS["cutout"](jax.random.key(KEY), images))
    whole = 0
    for image, cut in zip(images, out, strict=True):
        blank = (cut == 0).all(2)
        rows, columns = np.flatnonzero(blank.any(1)), np.flatnonzero(blank.any(0))
        for span in (rows, columns):  # contiguous, and shorter at the edges only
            assert len(span) == np.ptp(span) + 1
            assert len(span) == SIDE // 2 or (len(span) >= SIDE // 4 and (span[0] == 0 or span[-1] == SIDE - 1))
        assert blank.sum() == len(rows) * len(columns)
        assert_array_equal(cut[~blank], image[~blank])
        whole += blank.sum() == (SIDE // 2) ** 2
    # Along one axis, 9 of 17 centres keep the whole square inside. So in about 0.28 of the images a quarter of the pixels is cut.
    assert 0.1 < whole / BATCH < 0.5


def test_color_on_grey_changes_brightness_only():
    """The brightness changes by at most 0.5."""
    grey = np.full((BATCH, SIDE, SIDE, 3), 0.25, np.float32)
    out = np.asarray(AUGMENTATIONS["color"](jax.random.key(KEY), grey))
    assert_allclose(out, np.broadcast_to(out[:, :1, :1, :1], out.shape), atol=1e-6)
    shifts = out[:, 0, 0, 0] - 0.25
    assert -0.5 <= shifts.min() < -0.35
    assert 0.5 >= shifts.max() > 0.35


def test_color_scales_around_the_means_within_bounds():
    """Saturation and contrast scale around the means, within the published bounds."""
    images = make_images()
    out = np.asarray(AUGMENTATIONS["color"](jax.random.key(KEY), images))

    def parts(images):
        grey = images.mean(3, keepdims=True)
        return images - grey, grey - images.mean((1, 2, 3), keepdims=True)

    factors = []
    for after, before in zip(parts(out), parts(images), strict=True):  # each part is multiplied by one number per image
        factor = (after * before).sum((1, 2, 3)) / (before**2).sum((1, 2, 3))
        assert_allclose(after, factor.reshape(-1, 1, 1, 1) * before, atol=1e-5)
        factors.append(factor)
    contrast, saturation = factors[1], factors[0] / factors[1]
    assert 0.5 <= contrast.min() < 0.65
    assert 1.5 >= contrast.max() > 1.35
    assert 0 <= saturation.min() < 0.25
    assert 2 >= saturation.max() > 1.75


def test_none_is_identity_several_keep_their_order():
    """Several augmentations are applied in the given order, each with its own key."""
    images, key = jnp.asarray(make_images()), jax.random.key(KEY)
    assert augment(key, images, ()) is images
    keys = jax.random.split(jax.random.clone(key), 2)
    by_hand = AUGMENTATIONS["cutout"](keys[1], AUGMENTATIONS["translation"](keys[0], images))
    assert_array_equal(augment(key, images, ("translation", "cutout")), by_hand)


# ---- With a probability ----


@pytest.mark.parametrize("probability, low, high", [(0.0, 0, 0), (0.3, 0.2, 0.4), (1.0, 0.9, 1)])
def test_probability_is_the_share_of_changed_images(probability, low, high):
    images = np.tile(make_images(), (8, 1, 1, 1))
    out = jax.jit(augment, static_argnums=2)(jax.random.key(KEY), images, ("color",), jnp.float32(probability))
    assert low <= (out != images).any((1, 2, 3)).mean() <= high


def test_augmentations_are_skipped_independently():
    images = np.tile(make_images(), (8, 1, 1, 1))
    half = jax.jit(augment, static_argnums=2)(jax.random.key(KEY), images, ("color", "cutout"), jnp.float32(0.5))
    cut = (np.asarray(half) == 0).any((1, 2, 3))
    unchanged = (half == images).all((1, 2, 3))
    assert 0.15 < unchanged.mean() < 0.35 and 0.4 < cut.mean() < 0.6


@pytest.mark.parametrize(
    "before, hits, after", [(0.5, 0.9, 0.51), (0.5, 0.7, 0.49), (0.5, 0.8, 0.5), (0.995, 1.0, 1.0), (0.0, 0.2, 0.0)]
)
def test_probability_moves_towards_its_target(before, hits, after):
    """The target 0.6 is met if D classifies four of five real images correctly."""
    assert_allclose(adapt_probability(jnp.float32(before), jnp.float32(hits), 0.6, 0.01), after, atol=1e-6)
