"""Finds the latent of a photo: gradient descent on the difference between sample and photo, from several starts at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dcgan_jax.config import Nets
from dcgan_jax.gan.latents import from_normal
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.pixels import scale_pixels

LR = 0.05  # Adam's learning rate, in standard deviations of a latent's coordinate
PRIOR = 1e-3  # weight of a latent's mean square: coordinates that the photo does not determine stay near 0
COARSEST_PX = 8  # side of the smallest images that are compared

InversionState = tuple[jax.Array, optax.OptState]  # points (R, L), Adam's moments


def make_inversion(nets: Nets) -> tuple[Callable, Callable]:
    """Makes the two pure functions of the descent, (start, step). Jit them.

    start(points (R, L) normal latents) -> state.
    step(params, stats, target (S, S, C) uint8, state, labels (R, A) or None) -> (state, losses (R,)).
    state[0] holds the latents. The losses are those of `compare_at_all_scales`, before the step. The R starts are independent.
    Source: Zhu et al. 2016, arXiv:1609.03552, section 3.2, which also compares features.
    """
    generator, adam = Generator(nets), optax.adam(LR)

    def compute_objective(
        points: jax.Array, params: dict, stats: dict, target: jax.Array, labels: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        images = generator.apply({"params": params, "batch_stats": stats}, from_normal(points, nets), False, labels)
        photo = scale_pixels(target, nets)[None]
        # pyrefly: ignore[bad-argument-type] - `apply` gives a pair only with `mutable`
        losses = compare_at_all_scales(images, photo)
        return (losses + PRIOR * jnp.square(points).mean(1)).sum(), losses  # a sum, so that each start has its own gradient

    def start(points: jax.Array) -> InversionState:
        return points, adam.init(points)

    def step(
        params: dict, stats: dict, target: jax.Array, state: InversionState, labels: jax.Array | None = None
    ) -> tuple[InversionState, jax.Array]:
        points, moments = state
        gradients, losses = jax.grad(compute_objective, has_aux=True)(points, params, stats, target, labels)
        updates, moments = adam.update(gradients, moments)
        # pyrefly: ignore[unsupported-operation] - optax's updates may be any tree; here they are an array, as the gradients are
        return (points + updates, moments), losses

    return start, step


def compare_at_all_scales(images: jax.Array, target: jax.Array) -> jax.Array:
    """Computes the mean squared difference of pixels, averaged over the sides S, S/2 ... 8: (B, S, S, C), (1, S, S, C) -> (B,).

    The small sides give a useful gradient even if the start is far from the target.
    """
    total, scales = jnp.square(images - target).mean((1, 2, 3)), 1
    while images.shape[1] > COARSEST_PX:
        images, target = average_pool(images), average_pool(target)
        total, scales = total + jnp.square(images - target).mean((1, 2, 3)), scales + 1
    return total / scales


def average_pool(x: jax.Array) -> jax.Array:
    """Averages each 2x2 pixels: (B, 2h, 2w, C) -> (B, h, w, C)."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
