"""Penalties on the gradient of D's logits by the images: R1, R2, their finite-difference estimates, and the gradient penalty."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from dcgan_jax.config import Loss

Critic = Callable[[jax.Array], jax.Array]  # images (B, S, S, C) float32 -> logits (B,) float32


def compute_penalty(
    loss: Loss,
    critics: Mapping[str, Critic],
    images: Mapping[str, jax.Array],
    logits: Mapping[str, jax.Array],
    keys: Mapping[str, jax.Array],
    shard: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Computes the weighted sum of all penalties in the config, () float32.

    Args: critics, images, logits: for the keys "real" and "fake"; logits are critic(images). keys: noise_real, noise_fake, mix.
        shard: splits an array made here over the devices.
    """
    terms = []
    for kind, gamma in (("real", loss.r1_gamma), ("fake", loss.r2_gamma)):  # R1 and R2
        if gamma > 0 and loss.penalty_noise == 0:
            terms.append(gamma / 2 * squared_gradient_norm(critics[kind], images[kind]).mean())
        elif gamma > 0:
            noise = shard(loss.penalty_noise * jax.random.normal(keys[f"noise_{kind}"], images[kind].shape))
            noisy_logits = critics[kind](images[kind] + noise)
            # Uses the logits of the pass before. With a second pass of the same images XLA would also differentiate that one.
            terms.append(gamma / 2 * squared_finite_difference(logits[kind], noisy_logits, loss.penalty_noise).mean())
    if loss.gp_weight > 0:
        mix = shard(jax.random.uniform(keys["mix"], (images["real"].shape[0], 1, 1, 1)))
        terms.append(loss.gp_weight * gradient_penalty(critics["real"], images["real"], images["fake"], mix).mean())
    return loss.penalty_every_steps * sum(terms, start=jnp.zeros(()))


def squared_gradient_norm(critic: Critic, images: jax.Array) -> jax.Array:
    """Computes |d critic / d image|^2 of each image: (B, S, S, C) float32 -> (B,) float32.

    Times gamma / 2 it is R1 on real images and R2 on fake ones.
    Source: Mescheder et al. 2018, arXiv:1801.04406, section 4.1.
    """
    gradient = jax.grad(lambda x: critic(x).sum())(images)  # logit i depends on image i only, apart from batch statistics
    return jnp.square(gradient).sum((1, 2, 3))


def squared_finite_difference(logits: jax.Array, noisy_logits: jax.Array, sd: float) -> jax.Array:
    """Estimates `squared_gradient_norm` by a finite difference along Gaussian noise.

    Its mean over the noise is exact if the critic is linear within sd and each logit depends on its own image alone. With batch
    statistics, image j also changes logit i. Then the mean is the sum over j of |d logit i / d image j|^2. The exact value
    differs: it sums the gradients of all logits before it squares them.

    Args: logits (B,) of images, noisy_logits (B,) of the same images plus noise N(0, sd^2). Returns: (B,) float32.
    Source: Lin et al. 2025, arXiv:2501.08316, section 3.2 (approximated R1; there not divided by the variance).
    """
    return jnp.square((noisy_logits - logits) / sd)


def gradient_penalty(critic: Critic, real: jax.Array, fake: jax.Array, mix: jax.Array) -> jax.Array:
    """Computes (|d critic / d image| - 1)^2 at random points between real and fake images.

    Args: critic; real, fake (B, S, S, C) float32; mix (B, 1, 1, 1) in [0, 1]. Returns: (B,) float32.
    Source: Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1.
    """
    norm_squared = squared_gradient_norm(critic, mix * real + (1 - mix) * fake)
    # 1e-12: the root has an infinite derivative at 0, and a freshly initialised ReLU critic can have a zero gradient.
    return jnp.square(jnp.sqrt(norm_squared + 1e-12) - 1)
