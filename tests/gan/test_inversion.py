"""A face that G drew is found again; starts do not see each other."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import fresh_state, tiny

from dcgan_jax.gan.inversion import inversion_step
from dcgan_jax.gan.latents import from_normal
from dcgan_jax.gan.sampling import drawn_from

CONFIG = tiny("article")


def descended(points, target, steps):
    state = fresh_state(CONFIG)
    start, step = inversion_step(CONFIG.nets)
    step = jax.jit(step)
    at, curve = start(points), []
    for _ in range(steps):
        at, losses = step(state.ema_params, state.ema_stats, target, at)
        curve.append(np.asarray(losses))
    return at[0], np.stack(curve)


def drawn(points):
    state = fresh_state(CONFIG)
    return drawn_from(CONFIG.nets)(state.ema_params, state.ema_stats, from_normal(points, CONFIG.nets))


def test_a_drawn_face_is_found_from_any_start_each_alone():
    keys = jax.random.split(jax.random.key(0))
    target = drawn(jax.random.normal(keys[0], (1, CONFIG.nets.latent_dim)))[0]
    starts = jax.random.normal(keys[1], (3, CONFIG.nets.latent_dim))
    found, curve = descended(starts, target, 150)
    assert (curve[-1] < curve[0] / 5).all()
    before, after = (np.abs(drawn(points).astype(jnp.float32) - target[None].astype(jnp.float32)).mean((1, 2, 3))
                     for points in (starts, found))
    assert (after < before / 2).all()
    alone, its = descended(starts[1:2], target, 150)
    np.testing.assert_allclose(its[:20, 0], curve[:20, 1], rtol=1e-3)
    np.testing.assert_allclose(alone[0], found[1], atol=0.05)
