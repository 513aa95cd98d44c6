"""Inversion recovers a generated image. The starts are independent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from generators import VARIANTS, vary_leaves
from tiny import make_toy_state

from dcgan_jax.gan.inversion import average_pool, make_inversion
from dcgan_jax.gan.latents import from_normal
from dcgan_jax.gan.sampling import make_generate

CONFIG = VARIANTS["article"]


def generator():
    state = make_toy_state(CONFIG)
    return vary_leaves(state.ema_params), vary_leaves(state.ema_stats, 1)


def descend(points, target, steps):
    start, step = make_inversion(CONFIG.nets)
    step = jax.jit(functools.partial(step, *generator(), target))
    state, curve = start(points), []
    for _ in range(steps):
        state, losses = step(state)
        curve.append(np.asarray(losses))
    return state[0], np.stack(curve)


def generate(points):
    return make_generate(CONFIG.nets)(*generator(), from_normal(points, CONFIG.nets))


def test_generated_face_is_found_from_any_start():
    """The result of a start does not depend on the others."""
    keys = jax.random.split(jax.random.key(0))
    target = generate(jax.random.normal(keys[0], (1, CONFIG.nets.latent_dim)))[0]
    starts = jax.random.normal(keys[1], (3, CONFIG.nets.latent_dim))
    found, curve = descend(starts, target, 150)
    assert (curve[-1] < curve[0] / 5).all()
    before, after = (
        np.abs(generate(points).astype(jnp.float32) - target[None].astype(jnp.float32)).mean((1, 2, 3))
        for points in (starts, found)
    )
    assert (after < before / 2).all()
    alone, alone_curve = descend(starts[1:2], target, 150)
    np.testing.assert_allclose(alone_curve[:20, 0], curve[:20, 1], rtol=1e-3)
    np.testing.assert_allclose(alone[0], found[1], atol=0.05)


def test_average_pool_is_the_mean_of_four_pixels():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    expected = (x[:, ::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, ::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(average_pool(x), expected, rtol=1e-6)
