"""The two networks: published sizes, shapes, ranges, first values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny import fresh_state, leaves, tiny

from dcgan_jax.config import Config, Nets, check, replace
from dcgan_jax.gan.models import Discriminator, Generator
from dcgan_jax.gan.state import init_state, parameter_count
from dcgan_jax.presets import PRESETS


@functools.cache
def shapes(config):
    return jax.eval_shape(lambda: init_state(config))


@pytest.mark.parametrize("name, g, d, g_norms, d_norms", [  # docs/published-dcgans.md, section 1; norms: gains and biases of BN
    ("newmu", 18_885_760, 17_232_768, 34_560, 3_584),
    ("soumith", 3_576_704, 2_765_568, 1_920, 1_792),
    ("torch64", 3_576_704, 2_765_568, 1_920, 1_792),
    ("torch-tutorial", 3_576_704, 2_765_568, 1_920, 1_792),
    ("torch32", 1_068_928, 663_296, 896, 768),
    ("torch128", 12_786_560, 11_164_416, 3_968, 3_840),
    ("carpedm20", 5_135_363, 4_316_545, 1_920, 1_792),
    ("article", 372_416, 167_809, 192, 384),
    ("udacity-wide", 1_072_512, 663_297, 384, 768),
    ("keras64", 3_979_651, 404_801, 0, 0),
    ("modern32", 372_416, 167_809, 192, 384),  # the article's networks
])
def test_published_parameter_counts(name, g, d, g_norms, d_norms):
    state = shapes(PRESETS[name])
    assert (parameter_count(state.g_params), parameter_count(state.d_params)) == (g, d)
    for params, expected in ((state.g_params, g_norms), (state.d_params, d_norms)):
        assert parameter_count({layer: leaf for layer, leaf in params.items() if layer.endswith("_norm")}) == expected


@pytest.mark.parametrize("preset, changes, g, d", [  # docs/published-dcgans.md, section 1: more nets that were counted in PyTorch
    ("torch64", {"channels": 1}, 3_574_656, 2_763_520),
    ("article", {"base_px": 2}, 793_536, 691_585),  # students' four levels
    ("article", {"base_px": 2, "width": 64}, 2_963_328, 2_759_425),
])
def test_counted_variants(preset, changes, g, d):
    state = shapes(replace(PRESETS[preset], **changes))
    assert (parameter_count(state.g_params), parameter_count(state.d_params)) == (g, d)


def test_newmus_first_bn_is_per_unit_and_the_others_per_channel():
    assert shapes(PRESETS["newmu"]).g_params["head_norm"]["scale"].shape == (16384,)
    assert shapes(PRESETS["newmu"]).g_stats["head_norm"]["mean"].shape == (16384,)
    assert shapes(PRESETS["torch64"]).g_params["head_norm"]["scale"].shape == (512,)


def outputs(config, batch=2):
    """Shapes of images and logits, without computing any."""
    nets, state = config.nets, shapes(config)
    images = jax.eval_shape(lambda p, s, z: Generator(nets).apply({"params": p, "batch_stats": s}, z, train=False),
                            state.g_params, state.g_stats, jax.ShapeDtypeStruct((batch, nets.latent_dim), jnp.float32))
    logits = jax.eval_shape(lambda p, s, x: Discriminator(nets).apply({"params": p, "batch_stats": s}, x, train=False),
                            state.d_params, state.d_stats, images)
    return images, logits


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_images_fit_its_discriminator(name):
    size = PRESETS[name].nets.size
    images, logits = outputs(PRESETS[name])
    assert (images.shape, images.dtype) == ((2, size, size, 3), jnp.float32)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)


@pytest.mark.parametrize("size, options", [
    (16, {"channels": 1}), (16, {"base_px": 8, "kernel": 5}), (32, {"compute_dtype": "bfloat16", "head_norm": "unit"}),
    (64, {"kernel": 5, "padding": "same", "channels": 1}), (128, {"g_norm": "none", "d_norm": "none", "head_norm": "none"}),
    (256, {"base_px": 2}), (256, {"base_px": 8, "conv_bias": True}),
], ids=str)
def test_every_size_and_kind_of_layer(size, options):
    config = replace(Config(), steps=1, size=size, width=4, **options)
    check(config)
    images, logits = outputs(config, batch=3)
    assert images.shape == (3, size, size, config.nets.channels)
    assert (images.dtype, logits.dtype, logits.shape) == (jnp.float32, jnp.float32, (3,))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((shapes(config).g_params, shapes(config).d_stats)))


def test_nets_without_bn_have_no_statistics():
    state = shapes(PRESETS["keras64"])
    assert state.g_stats == state.d_stats == state.ema_stats == {}
    assert "down1_norm" not in shapes(PRESETS["torch64"]).d_params  # never in D's first layer
    assert "image_norm" not in shapes(PRESETS["torch64"]).g_params


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 64, 32, 3), (2, 64, 64, 1), (64, 64, 3)])
def test_d_refuses_images_of_another_shape(shape):
    state = shapes(PRESETS["torch64"])
    with pytest.raises(ValueError, match="D takes"):
        jax.eval_shape(lambda p, x: Discriminator(Nets()).apply({"params": p}, x, train=True, mutable="batch_stats"),
                       state.d_params, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize("name, low, high", [("torch64", -1, 1), ("keras64", 0, 1)])
def test_images_fill_their_range_and_do_not_leave_it(name, low, high):
    config = tiny(name, width=16)
    state = fresh_state(config)
    latents = 1e3 * jax.random.normal(jax.random.key(0), (64, config.nets.latent_dim))  # drives the output unit to its ends
    params = jax.tree.map(lambda leaf: 10 * leaf, state.g_params)
    images = jax.jit(lambda p, s, z: Generator(config.nets).apply({"params": p, "batch_stats": s}, z, train=False))(
        params, state.g_stats, latents)
    assert low <= images.min() < low + 0.01
    assert high >= images.max() > high - 0.01


def test_bfloat16_computes_nearly_the_same_and_returns_float32():
    config = tiny("torch64", width=16)
    state = fresh_state(config)
    latents = jax.random.normal(jax.random.key(0), (8, 100))

    def images(nets):
        return Generator(nets).apply({"params": state.g_params, "batch_stats": state.g_stats}, latents, train=True,
                                     mutable="batch_stats")

    half, full = jax.jit(lambda: (images(replace(config, compute_dtype="bfloat16").nets), images(config.nets)))()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half))
    # 2^-8 a rounding through three layers; an entirely float32 path would agree to 1e-6.
    assert 1e-5 < np.abs(half[0] - full[0]).max() < 0.05


# ---- first values. At width 16 a kernel has thousands of numbers: its sd is known to 3 standard errors, sd / sqrt(2 n).


@functools.cache
def first_values(name):
    return leaves(fresh_state(tiny(name, width=16)))


def assert_sd(values, sd):
    assert_allclose(values.std(), sd, rtol=4 / np.sqrt(2 * values.size))
    assert abs(values.mean()) < 4 * sd / np.sqrt(values.size)


@pytest.mark.parametrize("name", ["torch64", "carpedm20"])
def test_weights_start_normal_gains_around_one_and_all_else_at_zero(name):
    gamma_sd = PRESETS[name].nets.gamma_init_std
    for path, values in first_values(name).items():
        if not path.startswith(("g_params", "d_params")):
            continue
        leaf = path.split("/")[-1]
        if leaf == "kernel":
            truncated = name == "carpedm20" and path.startswith("d_params/down")  # T13
            assert_sd(values, 0.0176 if truncated else 0.02)
            assert (np.abs(values).max() <= 0.04) == truncated
        elif leaf == "scale" and gamma_sd:
            assert 1e-3 < np.abs(values - 1).mean() < 0.04
        else:
            assert_array_equal(values, 1 if leaf == "scale" else 0)


def test_gains_of_all_layers_together_have_the_recipes_sd():
    gains = [values - 1 for path, values in first_values("torch64").items()
             if path.startswith(("g_params", "d_params")) and path.endswith("scale")]
    assert_sd(np.concatenate(gains), 0.02)


def test_glorot_is_uniform_within_its_bound():
    kernel = first_values("keras64")["d_params/down2/kernel"]  # (4, 4, 16, 32)
    bound = np.sqrt(6 / (16 * (16 + 32)))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert_sd(kernel, bound / np.sqrt(3))
