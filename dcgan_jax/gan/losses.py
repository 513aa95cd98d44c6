"""Adversarial losses and regularisers, a few lines each with their paper. All are per image, (B,) float32, of logits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class AdversarialLoss(NamedTuple):
    """What D and G pay: each takes real_logits and fake_logits, (B,) float32, and returns (B,) float32."""

    d: Callable[[jax.Array, jax.Array], jax.Array]
    g: Callable[[jax.Array, jax.Array], jax.Array]
    g_needs_real: bool = False  # G's loss compares with D's logits of real images
    # The logit between "fake" and "real". None: only differences of logits count, and the middle of the batch's means serves.
    boundary: float | None = 0.0


def nonsaturating_d(real_logits: jax.Array, fake_logits: jax.Array, real_label: float = 1.0) -> jax.Array:
    """Cross-entropy of real against real_label plus fake against 0: 2 log 2 where D cannot tell and real_label is 1.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1, rewritten for logits; real_label below 1 is the one-sided
    smoothing of Salimans et al. 2016, arXiv:1606.03498, section 3.4.
    """
    # softplus(-x) is -log sigmoid(x); a float32 probability is exactly 1 from about x = 17, where its log stops teaching D.
    return jax.nn.softplus(-real_logits) + (1 - real_label) * real_logits + jax.nn.softplus(fake_logits)


def nonsaturating_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Cross-entropy of fake against 1, log 2 where D cannot tell. Source: arXiv:1406.2661, section 3, last paragraph."""
    return jax.nn.softplus(-fake_logits)


def least_squares_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Squared distance of real from 1 and fake from 0, halved. Source: Mao et al. 2017, arXiv:1611.04076, equation 9."""
    return 0.5 * (real_logits - 1) ** 2 + 0.5 * fake_logits**2


def least_squares_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Squared distance of fake from 1, halved. Source: arXiv:1611.04076, equation 9."""
    return 0.5 * (fake_logits - 1) ** 2


def hinge_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Nothing beyond the margins +1 and -1. Source: Lim and Ye 2017, arXiv:1705.02894, section 3."""
    return jax.nn.relu(1 - real_logits) + jax.nn.relu(1 + fake_logits)


def hinge_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """D's negated logit. Source: arXiv:1705.02894, section 3."""
    return -fake_logits


def wasserstein_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """The critic's gap; bounded by a gradient penalty only. Source: Arjovsky et al. 2017, arXiv:1701.07875, equation 2."""
    return fake_logits - real_logits


wasserstein_g = hinge_g


def relativistic_average_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Is a real image more real than the average fake, and the reverse. Their sum halved would be the paper's Ra mean; the sum
    is kept, as in its equation. Source: Jolicoeur-Martineau 2018, arXiv:1807.00734, section 3.4 (RaSGAN).
    """
    return jax.nn.softplus(fake_logits.mean() - real_logits) + jax.nn.softplus(fake_logits - real_logits.mean())


def relativistic_average_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """D's loss with the roles exchanged. Source: arXiv:1807.00734, section 3.4."""
    return relativistic_average_d(fake_logits, real_logits)


def relativistic_paired_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Is each real image more real than the fake beside it. Source: arXiv:1807.00734, section 3.3 (RSGAN); R3GAN's loss
    (Huang et al. 2024, arXiv:2501.05441, equation 2) when R1 and R2 are added.
    """
    return jax.nn.softplus(fake_logits - real_logits)


def relativistic_paired_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """D's loss with the roles exchanged. Source: arXiv:1807.00734, section 3.3."""
    return relativistic_paired_d(fake_logits, real_logits)


LOSSES = {
    "bce": AdversarialLoss(nonsaturating_d, nonsaturating_g),
    "least-squares": AdversarialLoss(least_squares_d, least_squares_g, boundary=0.5),
    "hinge": AdversarialLoss(hinge_d, hinge_g),
    "wasserstein": AdversarialLoss(wasserstein_d, wasserstein_g, boundary=None),
    "relativistic-average": AdversarialLoss(relativistic_average_d, relativistic_average_g, g_needs_real=True, boundary=None),
    "relativistic-paired": AdversarialLoss(relativistic_paired_d, relativistic_paired_g, g_needs_real=True, boundary=None),
}


def squared_gradient_norm(critic: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """|d critic / d image|^2 of each image: half of it, times gamma, is R1 on real images and R2 on fake ones.

    Args: critic, images (B, S, S, C) -> logits (B,); images, float32. Returns: (B,) float32.
    Source: Mescheder et al. 2018, arXiv:1801.04406, section 4.1.
    """
    gradient = jax.grad(lambda x: critic(x).sum())(images)  # but for statistics of the batch logit i is of image i
    return jnp.square(gradient).sum((1, 2, 3))


def squared_slope(logits: jax.Array, noisy_logits: jax.Array, sd: float) -> jax.Array:
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
