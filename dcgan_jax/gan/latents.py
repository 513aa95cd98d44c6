"""Ways through latent space: truncated, between two, in a loop, along directions. Every point obeys the recipe's law.

Distances and angles are taken where latents are normal, as spherical interpolation supposes (White 2016, arXiv:1609.04468);
uniform ones go there and back through their quantiles.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from dcgan_jax.config import Nets

EDGE = 1e-6  # of a uniform law, whose outermost values would be infinite as normal ones


def to_normal(latents: jax.Array, nets: Nets) -> jax.Array:
    """(..., L) latents of the recipe's law -> as many that are N(0, 1), in the same order."""
    return latents if nets.latent_law == "normal" else ndtri(jnp.clip((latents + 1) / 2, EDGE, 1 - EDGE))


def from_normal(points: jax.Array, nets: Nets) -> jax.Array:
    """The inverse of to_normal."""
    return points if nets.latent_law == "normal" else 2 * ndtr(points) - 1


def truncate(latents: jax.Array, truncation: float, nets: Nets) -> jax.Array:
    """(..., L) latents of the recipe's law -> of the law cut to magnitudes up to `truncation`, each its own again.

    Fewer kinds of faces, fewer failures. Where others draw again (Brock et al. 2019, arXiv:1809.11096, section 3.1) quantiles
    are kept, so that a seed's face changes little by little. truncation: in standard deviations of a normal law, or a share
    of the uniform one's reach, 1 and more of which changes nothing.
    """
    if nets.latent_law == "uniform":
        return latents * min(truncation, 1.0)
    outside = ndtr(-truncation)
    return ndtri(outside + ndtr(latents) * (1 - 2 * outside))


def interpolate(start: jax.Array, end: jax.Array, shares: jax.Array, nets: Nets) -> jax.Array:
    """(L,), (L,) latents and (F,) shares of the way, 0 the start, 1 the end -> (F, L): the directions turn evenly, and
    the lengths go straight, from one to the other."""
    a, b = to_normal(start, nets)[None], to_normal(end, nets)[None]  # (1, L)
    a_length, b_length = jnp.linalg.norm(a), jnp.linalg.norm(b)
    angle = jnp.arccos(jnp.clip(jnp.vdot(a, b) / jnp.maximum(a_length * b_length, 1e-12), -1, 1))
    shares = shares[:, None]
    # Nearly parallel ones have no plane to turn in, and no need of one.
    is_flat = jnp.sin(angle) < 1e-4
    sine = jnp.where(is_flat, 1.0, jnp.sin(angle))
    of_a = jnp.where(is_flat, 1 - shares, jnp.sin((1 - shares) * angle) / sine)
    of_b = jnp.where(is_flat, shares, jnp.sin(shares * angle) / sine)
    turned = of_a * a / jnp.maximum(a_length, 1e-12) + of_b * b / jnp.maximum(b_length, 1e-12)
    return from_normal(turned * ((1 - shares) * a_length + shares * b_length), nets)


def interpolate_loop(anchors: jax.Array, frames_each: int, nets: Nets) -> jax.Array:
    """(K, L) latents -> (K * frames_each, L): from each to the next and from the last to the first, which comes once."""
    shares = jnp.arange(frames_each) / frames_each
    legs = jax.vmap(lambda a, b: interpolate(a, b, shares, nets))(anchors, jnp.roll(anchors, -1, 0))
    return legs.reshape(-1, anchors.shape[1])


def move_along(latents: jax.Array, direction: jax.Array, steps: jax.Array, nets: Nets) -> jax.Array:
    """(N, L) latents, a (L,) direction and (F,) steps -> (N, F, L): each latent moved so many standard deviations along it."""
    way = steps[:, None] * (direction / jnp.linalg.norm(direction))[None]  # (F, L)
    return from_normal(to_normal(latents, nets)[:, None] + way[None], nets)
