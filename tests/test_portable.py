"""NumPy alone draws what the checkpoint draws, from the same seeds."""

import dataclasses

import jax
import numpy as np
import pytest
from generators import WAYS, drawn

from dcgan_jax.config import Nets
from dcgan_jax.gan.sampling import seed_latents
from dcgan_jax.portable import NumPy, images_of, latents_of

SEEDS = [0, 1, 2, 12345, 2**31, 2**32 - 1]


@pytest.mark.parametrize("way", WAYS)
def test_the_images_are_the_networks(way):
    it = drawn(way)
    ours = images_of(NumPy, it.flat, it.weights, it.latents, it.labels)
    assert ours.dtype == np.float32 and it.images.std() > 0.05  # no constant picture
    np.testing.assert_allclose(ours, it.images, atol=2e-5)


@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_latents_are_jaxs(law):
    nets = dataclasses.replace(Nets(), latent_law=law, latent_dim=101)
    seeds = np.array(SEEDS + list(range(1000, 1200)), np.uint32)
    theirs = np.asarray(jax.jit(seed_latents(nets))(seeds))
    ours = latents_of(seeds, 101, law)
    assert ours.dtype == np.float32
    if law == "uniform":
        np.testing.assert_array_equal(ours, theirs)
    else:  # a logarithm and a root may round another way
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-7)
