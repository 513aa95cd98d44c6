"""Operations on latents: truncation, interpolation, loops, steps along directions. Results keep the preset's distribution.

Spherical interpolation assumes normal latents (White 2016, arXiv:1609.04468). So uniform latents are first converted to normal
ones with the same quantiles, and the results are converted back.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from dcgan_jax.config import Nets

Latents = jax.Array | np.ndarray
# Jitted, so that a call is one program. Without jit, a first morph would compile a hundred operations one by one.
_compiled = functools.partial(jax.jit, static_argnames="nets")
EDGE = 1e-6  # quantiles are clipped to [EDGE, 1 - EDGE]: those of 0 and 1 are infinite in a normal distribution


@_compiled
def to_normal(latents: Latents, nets: Nets) -> Latents:
    """Converts (..., L) latents of the preset's distribution to normal latents, N(0, 1), element by element."""
    return latents if nets.latent_law == "normal" else ndtri(jnp.clip((latents + 1) / 2, EDGE, 1 - EDGE))


@_compiled
def from_normal(points: Latents, nets: Nets) -> Latents:
    """Converts (..., L) normal latents to the preset's distribution: the inverse of `to_normal`."""
    return points if nets.latent_law == "normal" else 2 * ndtr(points) - 1


@_compiled
def truncate(latents: Latents, truncation: float, nets: Nets) -> Latents:
    """Truncates (..., L) latents: limits the magnitude of each element to `truncation`. Samples vary less and fail less often.

    The truncation trick resamples large values (Brock et al. 2019, arXiv:1809.11096, section 3.1). Here each value keeps its
    quantile in the truncated distribution instead, so that a seed's image changes gradually with `truncation`.
    truncation: in standard deviations for normal latents; for uniform ones a share of their range, where 1 changes nothing.
    """
    if nets.latent_law == "uniform":
        return latents * jnp.minimum(truncation, 1.0)
    outside = ndtr(-truncation)
    return ndtri(outside + ndtr(latents) * (1 - 2 * outside))


@_compiled
def interpolate(start: Latents, end: Latents, shares: Latents, nets: Nets) -> Latents:
    """Interpolates between two latents: (L,), (L,) and (F,) shares of the way -> (F, L). Share 0 is the start, share 1 the end.

    The interpolation is spherical: the angle changes linearly, and so does the length.
    """
    a, b = to_normal(start, nets)[None], to_normal(end, nets)[None]  # (1, L)
    a_length, b_length = jnp.linalg.norm(a), jnp.linalg.norm(b)
    angle = jnp.arccos(jnp.clip(jnp.vdot(a, b) / jnp.maximum(a_length * b_length, 1e-12), -1, 1))
    shares = shares[:, None]
    # Nearly parallel latents span no plane to rotate in; linear interpolation is then as good.
    is_flat = jnp.sin(angle) < 1e-4
    sine = jnp.where(is_flat, 1.0, jnp.sin(angle))
    of_a = jnp.where(is_flat, 1 - shares, jnp.sin((1 - shares) * angle) / sine)
    of_b = jnp.where(is_flat, shares, jnp.sin(shares * angle) / sine)
    turned = of_a * a / jnp.maximum(a_length, 1e-12) + of_b * b / jnp.maximum(b_length, 1e-12)
    return from_normal(turned * ((1 - shares) * a_length + shares * b_length), nets)


@functools.partial(jax.jit, static_argnames=("frames_each", "nets"))
def interpolate_loop(anchors: Latents, frames_each: int, nets: Nets) -> Latents:
    """Interpolates a closed loop: (K, L) latents -> (K * frames_each, L). The last latent leads back to the first."""
    shares = jnp.arange(frames_each) / frames_each
    legs = jax.vmap(lambda a, b: interpolate(a, b, shares, nets))(anchors, jnp.roll(anchors, -1, 0))
    return legs.reshape(-1, anchors.shape[1])


@_compiled
def move_along(latents: Latents, direction: Latents, steps: Latents, nets: Nets) -> Latents:
    """Moves latents along a direction: (N, L), (L,) and (F,) steps in standard deviations -> (N, F, L)."""
    way = steps[:, None] * (direction / jnp.linalg.norm(direction))[None]  # (F, L)
    return from_normal(to_normal(latents, nets)[:, None] + way[None], nets)
