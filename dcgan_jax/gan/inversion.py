"""Finds the latent of a photo: gradient descent on how much the generated image differs from it, from several starts at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dcgan_jax.config import Nets
from dcgan_jax.gan.latents import from_normal
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.pixels import scale_pixels

LR = 0.05  # Adam's, in standard deviations of a latent's coordinate
PRIOR = 1e-3  # weight of a point's mean square: it keeps what the photo does not determine where faces are
COARSEST_PX = 8


def make_inversion(nets: Nets) -> tuple[Callable, Callable]:
    """(start, step) of the descent, both pure.

    start(points (R, L) normal latents) -> state.
    step(params, stats, target (S, S, C) uint8, state, labels (R, A) or None) -> (state, losses (R,) of before the step).
    state[0] is the points. The losses are those of `compare_at_all_scales`. Starts do not influence each other.
    Source: Zhu et al. 2016, arXiv:1609.03552, section 3.2, which also compares features.
    """
    generator, adam = Generator(nets), optax.adam(LR)

    def compute_objective(points, params, stats, target, labels):
        images = generator.apply({"params": params, "batch_stats": stats}, from_normal(points, nets), False, labels)
        losses = compare_at_all_scales(images, scale_pixels(target, nets)[None])
        return (losses + PRIOR * jnp.square(points).mean(1)).sum(), losses  # a sum: each start's gradient is its own

    def start(points):
        return points, adam.init(points)

    def step(params, stats, target, state, labels=None):
        points, moments = state
        gradients, losses = jax.grad(compute_objective, has_aux=True)(points, params, stats, target, labels)
        updates, moments = adam.update(gradients, moments)
        return (points + updates, moments), losses

    return start, step


def compare_at_all_scales(images: jax.Array, target: jax.Array) -> jax.Array:
    """(B, S, S, C) against (1, S, S, C) -> (B,): the mean squared difference of pixels, averaged over the sides S, S/2 ... 8.

    The small sides also give a gradient to starts that are far from the target.
    """
    terms = [jnp.square(images - target).mean((1, 2, 3))]
    while images.shape[1] > COARSEST_PX:
        images, target = average_pool(images), average_pool(target)
        terms.append(jnp.square(images - target).mean((1, 2, 3)))
    return sum(terms) / len(terms)


def average_pool(x: jax.Array) -> jax.Array:
    """(B, 2h, 2w, C) -> (B, h, w, C): the mean of four pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
