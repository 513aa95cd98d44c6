"""NumPy alone draws what the checkpoint draws, from the same seeds."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import fresh_state, tiny

from dcgan_jax.config import Nets, conditions, flat
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.sampling import seed_latents
from dcgan_jax.portable import NumPy, images_of, latents_of
from dcgan_jax.presets import PRESETS

SEEDS = [0, 1, 2, 12345, 2**31, 2**32 - 1]
# Every way in which G can differ, alone and together.
WAYS = {preset: tiny(preset) for preset in PRESETS} | {
    f"{preset}, {name}": tiny(preset, **changes) for preset in ("article", "torch64") for name, changes in {
        "modulated": {"g_modulation": True}, "residual": {"residual": True}, "skips": {"image_skips": True},
        "boxed": {"box_kernels": True, "conv_bias": True}, "unit": {"head_norm": "unit", "g_head_bias": True},
        "unit modulated": {"head_norm": "unit", "g_modulation": True}, "leaky": {"g_activation": "leaky"},
        "from 2 px": {"base_px": 2}, "asked": {"condition": "Smiling,Male"},
        "last kernel, skips": {"g_last_kernel": 5, "image_skips": True}, "grey": {"channels": 1},
        "k5 same": {"kernel": 5, "padding": "same"}, "k5 symmetric": {"kernel": 5},
        "all": {"g_modulation": True, "residual": True, "image_skips": True, "conv_bias": True, "g_output": "sigmoid",
                "condition": "Smiling,Male"}}.items()}


def varied(tree, seed=0):
    """Leaves like those of training: statistics that matter, biases that are not 0."""
    rng = np.random.default_rng(seed)

    def vary(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        drawn = rng.normal(size=leaf.shape).astype(np.float32)
        if name.endswith("var"):
            return np.exp(0.5 * drawn)
        return drawn * (0.3 if "kernel" not in name else 0.15) + np.float32(name.endswith("scale"))

    return jax.tree_util.tree_map_with_path(vary, tree)


def weights_of(params, stats):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for tree in (params, stats) for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("way", WAYS)
def test_the_images_are_the_networks(way):
    config = WAYS[way]
    nets, state = config.nets, fresh_state(config)
    params, stats = varied(state.ema_params), varied(state.ema_stats, 1)
    latents = latents_of(range(5), nets.latent_dim, nets.latent_law)
    asked = conditions(nets)
    labels = np.arange(5 * len(asked)).reshape(5, -1) % 2 if asked else None
    theirs = Generator(nets).apply({"params": params, "batch_stats": stats}, latents, False, labels)
    theirs = (np.asarray(theirs) + 1) / 2 if nets.g_output == "tanh" else np.asarray(theirs)
    ours = images_of(NumPy, flat(config), weights_of(params, stats), latents, None if labels is None else np.float32(labels))
    assert ours.dtype == np.float32 and theirs.std() > 0.05  # no constant picture
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


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
