"""The methods recover known directions."""

import functools

import jax
import numpy as np
import pytest
from tiny import compile_apply, make_tiny_config, make_toy_state

from dcgan_jax.gan import directions
from dcgan_jax.gan.directions import (
    factorise_first_layer,
    find_principal_directions,
    fit_attribute_directions,
    make_extract_first_features,
)
from dcgan_jax.gan.latents import from_normal
from dcgan_jax.gan.models import Generator

RNG = np.random.default_rng(0)


def cosine(a, b):
    return abs(float(a @ b)) / np.linalg.norm(a) / np.linalg.norm(b)


def test_separable_attribute_moves_alone():
    points = RNG.normal(size=(4000, 20))
    slopes = np.zeros((3, 20))
    slopes[0, 0], slopes[1, :2], slopes[2, 5] = 1, (0.8, 0.6), 1  # the second correlates with the first
    scores = points @ slopes.T + 0.1 * RNG.normal(size=(4000, 3))
    found = fit_attribute_directions(points, scores)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    changes = found @ slopes.T
    assert (np.diag(changes) > 0.4).all()
    assert abs(changes - np.diag(np.diag(changes))).max() < 0.12
    alone = fit_attribute_directions(points, scores[:, :1]) @ slopes.T  # the slope alone also changes the second attribute
    assert alone[0, 1] > 0.75


def test_inseparable_attributes_share_a_direction():
    points = RNG.normal(size=(1000, 5))
    scores = np.repeat(points[:, :1], 2, 1) + 1e-9 * RNG.normal(size=(1000, 2))
    found = fit_attribute_directions(points, scores)
    assert (found[:, 0] > 0.99).all()


def test_constant_attribute_has_a_finite_direction():
    points = RNG.normal(size=(100, 5))
    scores = np.stack([points[:, 0], np.ones(100)], 1)
    assert np.isfinite(fit_attribute_directions(points, scores)).all()
    assert not fit_attribute_directions(points, scores[:, [1, 1]]).any()


def test_principal_directions_are_sorted():
    points = RNG.normal(size=(1500, 10))
    ways = np.linalg.qr(RNG.normal(size=(30, 30)))[0][:3]
    features = 5 * points[:, [2]] * ways[0] + 3 * points[:, [7]] * ways[1] + (points[:, [4]] + points[:, [5]]) * ways[2]
    found, shares = find_principal_directions(features, points, 3)
    both = np.eye(10)[4] + np.eye(10)[5]
    wanted = (np.eye(10)[2], np.eye(10)[7], both)
    assert [cosine(one, other) for one, other in zip(found, wanted, strict=True)] == pytest.approx([1, 1, 1], 0.02)
    np.testing.assert_allclose(shares, np.array([25, 9, 2]) / 36, atol=0.02)


@pytest.mark.parametrize("head_norm", ["none", "unit", "channel"])
def test_factorised_direction_is_the_largest_singular(head_norm):
    """The kernel has known singular vectors, and BN's gains are accounted for."""
    config = make_tiny_config("article", head_norm=head_norm)
    nets = config.nets
    state = make_toy_state(config)
    kernel = state.ema_params["head"]["kernel"]
    left, right = np.linalg.qr(RNG.normal(size=(nets.latent_dim, 2)))[0], np.linalg.qr(RNG.normal(size=(kernel.shape[1], 2)))[0]
    wanted = 3 * np.outer(left[:, 0], right[:, 0]) + np.outer(left[:, 1], right[:, 1])
    params, stats, gain = dict(state.ema_params), dict(state.ema_stats), 1.0
    if head_norm != "none":
        variance = RNG.uniform(0.5, 2, stats["head_norm"]["var"].shape)
        scale = RNG.uniform(0.5, 2, variance.shape)
        stats["head_norm"] = stats["head_norm"] | {"var": variance}
        params["head_norm"] = params["head_norm"] | {"scale": scale}
        gain = np.resize(scale / np.sqrt(variance + nets.bn_epsilon), kernel.shape[1])
    params["head"] = params["head"] | {"kernel": wanted / gain}
    found, shares = factorise_first_layer(params, stats, nets, 2)
    assert [cosine(found[i], left[:, i]) for i in (0, 1)] == pytest.approx([1, 1], 1e-5)
    np.testing.assert_allclose(shares, [0.9, 0.1], rtol=1e-5)


def test_factorised_direction_counts_the_learned_map():
    """One unit of a latent that moves a strong channel of the map changes the map more."""
    config = make_tiny_config("residual64")
    params = dict(make_toy_state(config).ema_params)
    latents, channels = params["head"]["kernel"].shape
    params["head"] = {"kernel": np.eye(latents, channels)}
    params["basis"] = {"kernel": np.ones((4, 4, channels)) * np.r_[1.0, 3.0, np.zeros(channels - 2)]}
    found, shares = factorise_first_layer(params, {}, config.nets, 2)
    np.testing.assert_allclose(found, np.eye(latents)[[1, 0]], atol=1e-6)
    np.testing.assert_allclose(shares, [0.9, 0.1], rtol=1e-6)


@pytest.mark.parametrize("preset", ["article", "keras64", "residual64"])
def test_first_features_are_on_the_way_to_the_image(preset):
    config = make_tiny_config(preset)
    nets, state = config.nets, make_toy_state(config)
    points = jax.random.normal(jax.random.key(0), (3, nets.latent_dim))
    found = jax.jit(make_extract_first_features(nets))(state.ema_params, state.ema_stats, points)
    variables = {"params": state.ema_params, "batch_stats": state.ema_stats}
    layer = "up1_norm" if nets.g_norm == "batch" else "up1"
    apply = functools.partial(Generator(nets).apply, train=False, capture_intermediates=True, mutable="intermediates")
    _, captured = jax.jit(apply)(variables, from_normal(points, nets))
    [x] = captured["intermediates"][layer]["__call__"]
    np.testing.assert_allclose(found, x.reshape(3, -1), rtol=1e-5, atol=1e-6)


def test_one_level_generator_first_features_are_known():
    """With one level, the first features are the image before tanh."""
    config = make_tiny_config("article", base_px=8)
    nets, state = config.nets, make_toy_state(config)
    points = jax.random.normal(jax.random.key(0), (3, nets.latent_dim))
    found = jax.jit(make_extract_first_features(nets))(state.ema_params, state.ema_stats, points)
    images = compile_apply(Generator(nets), False)(state.ema_params, state.ema_stats, from_normal(points, nets))
    np.testing.assert_allclose(np.tanh(found), images.reshape(3, -1), rtol=1e-5, atol=1e-6)


def test_direction_signs_are_deterministic():
    rows = np.array([[0.1, -0.9], [0.9, 0.1]])
    np.testing.assert_array_equal(directions._fix_signs(rows), [[-0.1, 0.9], [0.9, 0.1]])
