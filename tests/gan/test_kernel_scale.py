"""Fixed scales of kernels: BN makes them invisible to the networks, and only updates depend on them."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from tiny import get_compiled_step, get_leaves, make_fresh_state, make_images, make_tiny_config

from dcgan_jax.config import replace
from dcgan_jax.gan.kernel_scale import rescale_kernels
from dcgan_jax.gan.models import Discriminator, Generator
from dcgan_jax.gan.state import describe_state
from dcgan_jax.presets import PRESETS

RMS = 0.3
CONFIG = make_tiny_config("best64", conv_bias=True, g_refine=1, d_refine=1, kernel_rms=0.0)
# Of one layer each. G's head and D's first layer have no BN; the last convolution of a residual block has none either.
RESCALED = {"g_params/up1", "g_params/refine1_in", "d_params/down2", "d_params/refine1_in"}


def get_rms(leaves):
    return {path: np.sqrt(np.mean(np.square(leaf))) for path, leaf in leaves.items() if path.endswith("kernel")}


def get_paths(state):
    """Returns the paths of the layers of both networks."""
    return {f"{field}/{layer}" for field in ("g_params", "d_params") for layer in getattr(state, field)}


def test_rescaling_changes_no_output():
    state = make_fresh_state(CONFIG)
    latents = jax.random.normal(jax.random.key(0), (8, CONFIG.nets.latent_dim))
    images = np.float32(make_images(CONFIG)) / 127.5 - 1
    # A larger kernel makes BN's epsilon smaller relative to the variance, so none here.
    nets = replace(CONFIG, bn_epsilon=0.0).nets
    for network, params, stats, inputs in (
        (Generator(nets), state.g_params, state.g_stats, latents),
        (Discriminator(nets), state.d_params, state.d_stats, images),
    ):
        rescaled = rescale_kernels(params, RMS)
        assert not jax.tree.all(jax.tree.map(np.array_equal, params, rescaled))
        before, after = (
            network.apply({"params": given, "batch_stats": stats}, inputs, True, mutable="batch_stats")[0]
            for given in (params, rescaled)
        )
        assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_zero_and_a_kernel_of_zeros_change_nothing():
    params = {"up1": {"kernel": np.zeros((4, 4, 2, 2), np.float32)}, "up1_norm": {"scale": np.ones(2, np.float32)}}
    assert rescale_kernels(params, 0.0) is params
    assert not np.asarray(rescale_kernels(params, RMS)["up1"]["kernel"]).any()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_rescale_convolutions_before_bn_only(preset):
    """By the shapes of their states: where BN follows, every kernel gets the root mean square, and no other one changes."""
    shapes = describe_state(replace(PRESETS[preset], epochs=None, kimg=None, steps=10))
    for params in (shapes.g_params, shapes.d_params):
        ones = jax.tree.map(lambda leaf: np.ones(leaf.shape[-2:], np.float32), params)  # small, but with the same names
        changed = {
            name for name in ones if not jax.tree.all(jax.tree.map(np.array_equal, rescale_kernels(ones, RMS)[name], ones[name]))
        }
        norms = {name.removesuffix("_norm") for name in params if name.endswith("_norm") and name != "head_norm"}
        assert changed == {f"{name}_in" if name.startswith("refine") else name for name in norms}


@pytest.mark.integration
def test_a_step_rescales_after_the_update():
    """The first update is that of a run without rescaling; the kernels then have the requested root mean square."""
    images = make_images(CONFIG)
    start = make_fresh_state(CONFIG)
    plain, rescaled = (get_leaves(get_compiled_step(replace(CONFIG, kernel_rms=rms))(start, images)[0]) for rms in (0.0, RMS))
    found, grown = get_rms(rescaled), get_rms(plain)
    layers = get_paths(start)
    assert {layer for layer in layers if found.get(f"{layer}/kernel") == pytest.approx(RMS, rel=1e-5)} == RESCALED
    for path in (path for path in found if path.startswith("d_params")):  # G's update then meets a D with another epsilon in BN
        scale = RMS / grown[path] if path.removesuffix("/kernel") in RESCALED else 1
        assert_allclose(rescaled[path], plain[path] * scale, rtol=1e-4, atol=1e-7)
