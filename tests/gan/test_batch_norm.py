"""Batch normalisation equals Flax's, with the same names, initial values, statistics, and first and second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose

from dcgan_jax.gan import batch_norm, sums

MOMENTUM, EPSILON = 0.9, 1e-3


def normal(seed, *shape):
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape, np.float32)


def make_ours(train):
    return batch_norm.BatchNorm(train, MOMENTUM, EPSILON, nn.initializers.normal(0.5))


def make_flax(train):
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        dtype=jnp.float32,
        scale_init=nn.initializers.normal(0.5),
    )


def draw_variables(channels):
    return {
        "params": {"scale": 1 + 0.3 * normal(1, channels), "bias": normal(2, channels)},
        "batch_stats": {"mean": normal(3, channels), "var": 1 + normal(4, channels) ** 2},
    }


def assert_trees_close(ours, theirs, tolerance):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for got, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert got.dtype == expected.dtype
        assert_allclose(got, expected, atol=tolerance * max(1, np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize("train", [True, False])
def test_initial_variables_are_flaxs(train):
    x, key = normal(0, 4, 4, 4, 3), jax.random.key(7)
    assert_trees_close(make_ours(train).init(key, x), make_flax(train).init(key, x), 0)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("shape", [(6, 100), (8, 5, 3, 7), (32, 8, 8, 4)])
@pytest.mark.parametrize("train", [True, False])
def test_values_statistics_and_derivatives_equal_flaxs(train, shape, devices, monkeypatch):
    monkeypatch.setattr(sums.jax, "device_count", lambda: devices)
    x, upstream, variables = normal(5, *shape) + 0.7, normal(6, *shape), draw_variables(shape[-1])

    def run(module):
        def apply(params, x):
            y, new = module.apply(variables | {"params": params}, x, mutable="batch_stats")
            return (jnp.tanh(y) * upstream).sum(), (y, new)

        def penalise(params, x):  # as R1: the squared gradient by the images
            return jnp.square(jax.grad(lambda x: apply(params, x)[0])(x)).sum()

        return jax.value_and_grad(apply, (0, 1), has_aux=True)(variables["params"], x), jax.grad(penalise, (0, 1))(
            variables["params"], x
        )

    # Second derivatives are sums of sums, divided by standard deviations.
    (ours, ours_second), (theirs, theirs_second) = (
        jax.jit(run, static_argnums=0)(make(train)) for make in (make_ours, make_flax)
    )
    assert_trees_close(ours, theirs, 1e-5)
    assert_trees_close(ours_second, theirs_second, 1e-4)


def test_gradients_of_the_statistics_equal_flaxs():
    """No loss of this project uses them, but the function returns them."""
    x = normal(0, 64, 3)
    weights = normal(1, 2, 3)

    def ours(x):
        _, mean, var = batch_norm.normalize(x, jnp.ones(3), jnp.zeros(3), EPSILON)
        return (weights[0] * mean + weights[1] * var).sum()

    def plain(x):
        return (weights[0] * x.mean(0) + weights[1] * x.var(0)).sum()

    assert_allclose(jax.grad(ours)(x), jax.grad(plain)(x), atol=1e-6)


def test_half_precision_is_computed_in_float32():
    x = jnp.asarray(normal(0, 64, 3), jnp.bfloat16)
    ours, theirs = (make(True).apply(draw_variables(3), x, mutable="batch_stats")[0] for make in (make_ours, make_flax))
    assert ours.dtype == np.float32
    assert_allclose(ours, theirs, atol=1e-5)


def test_constant_channel_has_no_infinite_gradient():
    x = jnp.full((32, 2), 3.0)
    gradient = jax.grad(lambda x: batch_norm.normalize(x, jnp.ones(2), jnp.zeros(2), EPSILON)[0].sum())(x)
    assert_allclose(gradient, 0, atol=1e-4)
