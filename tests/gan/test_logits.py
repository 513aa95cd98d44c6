"""D's logits and features of images without augmentation."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny import compile_apply, get_compiled_step, make_images, make_tiny_config, make_toy_state

from dcgan_jax.gan.logits import make_compute_logits, make_extract_features
from dcgan_jax.gan.models import Discriminator


@pytest.fixture(scope="module")
def compute_logits():
    """The D has dropout and all augmentations in training. After one step its statistics are not the initial ones."""
    config = make_tiny_config("torch64", d_dropout=0.5, augment=("color", "translation", "cutout"))
    state, _ = get_compiled_step(config)(make_toy_state(config), make_images(config))
    program = jax.jit(make_compute_logits(config))
    return lambda images: np.asarray(program(state.d_params, state.d_stats, images))


IMAGES = make_images(make_tiny_config("torch64"), seed=1, steps=2)  # 8 images


def test_logits_are_one_float32_per_image(compute_logits):
    logits = compute_logits(IMAGES)
    assert (logits.shape, logits.dtype) == ((8,), np.float32)
    assert len(np.unique(logits)) == 8


def test_logit_does_not_depend_on_the_batch(compute_logits):
    assert_array_equal(compute_logits(IMAGES), compute_logits(IMAGES))
    assert_allclose(compute_logits(IMAGES[::-1]), compute_logits(IMAGES)[::-1], rtol=1e-5)
    assert_allclose(compute_logits(np.repeat(IMAGES[:1], 8, 0)), np.repeat(compute_logits(IMAGES)[:1], 8), rtol=1e-5)


def test_logits_use_running_statistics():
    # In a fresh D all biases are 0, so a variance four times larger halves the logit.
    config = make_tiny_config("torch64")
    once, four = ({"down2_norm": {"mean": np.zeros(8, np.float32), "var": np.full(8, var, np.float32)}} for var in (1, 4))
    compute_logits = jax.jit(make_compute_logits(config))
    small, large = (compute_logits(make_toy_state(config).d_params, stats, IMAGES) for stats in (four, once))
    assert_allclose(small, large / 2, rtol=1e-4)


@pytest.mark.parametrize("name", ["torch64", "keras64"])
def test_pixels_are_scaled_to_g_range(name):
    config = make_tiny_config(name)
    state, images = make_toy_state(config), make_images(config)
    logits = jax.jit(make_compute_logits(config))(state.d_params, state.d_stats, images)
    low = -1 if config.nets.g_output == "tanh" else 0
    scaled = low + images.astype(np.float32) / 255 * (1 - low)

    expected = compile_apply(Discriminator(config.nets), False)(state.d_params, state.d_stats, scaled)
    assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)


def test_features_are_the_maximum_of_each_cell():
    """A change in one corner of the image changes only that cell of the first layer's features."""
    config = make_tiny_config("article")
    state = make_toy_state(config)
    extract = jax.jit(make_extract_features(config))
    features = np.asarray(extract(state.d_params, state.d_stats, IMAGES))
    assert features.shape == (8, 4 * 4 * (4 + 8)) and features.dtype == np.float32
    changed = IMAGES.copy()
    changed[:, :2, :2] = 255 - changed[:, :2, :2]
    differs = (np.asarray(extract(state.d_params, state.d_stats, changed)) != features).reshape(8, -1)
    first = differs[:, : 4 * 4 * 4].reshape(8, 4, 4, 4)
    assert first[:, 0, 0].any() and not first[:, 1:].any() and not first[:, :, 1:].any()
