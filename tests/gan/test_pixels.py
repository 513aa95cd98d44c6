"""Pixels are converted between uint8 and G's output range without loss."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dcgan_jax.gan import pixels
from dcgan_jax.gan.pixels import to_uint8
from dcgan_jax.presets import PRESETS


@pytest.mark.parametrize("name, low, high", [("torch64", -1, 1), ("keras64", 0, 1)])
def test_scale_pixels_and_back_is_identity(name, low, high):
    """All 256 levels are restored, for tanh and for sigmoid outputs."""
    nets, levels = PRESETS[name].nets, np.arange(256, dtype=np.uint8)
    scaled = pixels.scale_pixels(jnp.asarray(levels), nets)
    assert scaled.dtype == jnp.float32
    assert_allclose(scaled[jnp.array([0, 255])], [low, high], atol=1e-6)
    assert_array_equal(to_uint8(scaled, nets), levels)


def test_to_uint8_rounds_and_clips():
    nets = PRESETS["torch64"].nets
    assert_array_equal(to_uint8(jnp.array([-9.0, 9.0, 2 * 100.4 / 255 - 1, 2 * 100.6 / 255 - 1]), nets), [0, 255, 100, 101])
