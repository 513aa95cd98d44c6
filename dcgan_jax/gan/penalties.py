"""Penalties on the discriminator's slope: R1, R2, their finite-difference estimates, and the gradient penalty."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def squared_gradient_norm(critic: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """|d critic / d image|^2 of each image: half of it, times gamma, is R1 on real images and R2 on fake ones.

    Args: critic, images (B, S, S, C) -> logits (B,); images, float32. Returns: (B,) float32.
    Source: Mescheder et al. 2018, arXiv:1801.04406, section 4.1.
    """
    gradient = jax.grad(lambda x: critic(x).sum())(images)  # but for statistics of the batch logit i is of image i
    return jnp.square(gradient).sum((1, 2, 3))


def squared_finite_difference(logits: jax.Array, noisy_logits: jax.Array, sd: float) -> jax.Array:
    """What `squared_gradient_norm` is, by a difference: equal to it in the mean over noise where the critic is linear within sd
    and each logit is of its own image. Through statistics of the batch image j moves logit i too: here the mean over noise is
    the sum over j of |d logit i / d image j|^2, there gradients of all logits are summed before they are squared.

    Args: logits (B,) of images, noisy_logits (B,) of the same images plus noise N(0, sd^2). Returns: (B,) float32.
    Source: Lin et al. 2025, arXiv:2501.08316, section 3.2 (approximated R1; there not divided by the variance).
    """
    return jnp.square((noisy_logits - logits) / sd)


def gradient_penalty(critic: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array, mix: jax.Array) -> jax.Array:
    """(|d critic / d image| - 1)^2 at points between real and fake.

    Args: critic, images (B, S, S, C) -> logits (B,); real, fake (B, S, S, C) float32; mix (B, 1, 1, 1) in [0, 1].
    Returns: (B,) float32. Source: Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1.
    """
    norm_squared = squared_gradient_norm(critic, mix * real + (1 - mix) * fake)
    # The root's slope is infinite at 0, which a freshly initialised ReLU critic can reach.
    return jnp.square(jnp.sqrt(norm_squared + 1e-12) - 1)
