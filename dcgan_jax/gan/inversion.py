"""A photo's latent: gradient descent on how much the face that G draws differs from it, from several starts at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dcgan_jax.config import Nets
from dcgan_jax.gan.latents import from_normal
from dcgan_jax.gan.models import Generator, average_pool
from dcgan_jax.gan.pixels import scale_pixels

LR = 0.05  # Adam's, in standard deviations of a latent's coordinate
PRIOR = 1e-3  # weight of a point's mean square: what the picture leaves open stays where faces are
COARSEST_PX = 8


def make_inversion(nets: Nets) -> tuple[Callable, Callable]:
    """(start, step) of the descent, both pure.

    start(points (R, L) normal latents) -> state. step(params, stats, target (S, S, C) uint8, state, labels (R, A) or None) ->
    (state, losses (R,)): the mean squared difference of pixels of before the step, in G's output range, averaged over sides
    from S down to 8, to which far-off starts look as well. state[0] is the points. Starts do not see each other.
    Source: Zhu et al. 2016, arXiv:1609.03552, section 3.2, there with one more loss of features.
    """
    generator, adam = Generator(nets), optax.adam(LR)

    def difference(images, target):
        terms = []
        while True:
            terms.append(jnp.square(images - target).mean((1, 2, 3)))
            if images.shape[1] <= COARSEST_PX:
                return sum(terms) / len(terms)
            images, target = average_pool(images), average_pool(target)

    def objective(points, params, stats, target, labels):
        images = generator.apply({"params": params, "batch_stats": stats}, from_normal(points, nets), False, labels)
        losses = difference(images, scale_pixels(target, nets)[None])
        return (losses + PRIOR * jnp.square(points).mean(1)).sum(), losses  # a sum: each start's gradient is its own

    def start(points):
        return points, adam.init(points)

    def step(params, stats, target, state, labels=None):
        points, moments = state
        gradients, losses = jax.grad(objective, has_aux=True)(points, params, stats, target, labels)
        updates, moments = adam.update(gradients, moments)
        return (points + updates, moments), losses

    return start, step
