"""Adversarial losses, a few lines each with their paper. All take logits and return one float32 per image, (B,)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from dcgan_jax.config import Loss


class AdversarialLoss(NamedTuple):
    """The losses of D and G: each takes real_logits and fake_logits, (B,) float32, and returns (B,) float32."""

    d: Callable[[jax.Array, jax.Array], jax.Array]
    g: Callable[[jax.Array, jax.Array], jax.Array]
    g_needs_real: bool = False  # G's loss also depends on D's logits of real images
    # The logit between "fake" and "real". None: only differences of logits count; use the middle of the batch's two means.
    boundary: float | None = 0.0


def nonsaturating_d(real_logits: jax.Array, fake_logits: jax.Array, real_label: float = 1.0) -> jax.Array:
    """Cross-entropy of real against real_label plus fake against 0: 2 log 2 where D cannot tell and real_label is 1.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1, rewritten for logits; real_label below 1 is the one-sided
    smoothing of Salimans et al. 2016, arXiv:1606.03498, section 3.4.
    """
    # softplus(-x) is -log sigmoid(x); a float32 probability is exactly 1 from about x = 17, where its log has no gradient.
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
    """Distance from the margins +1 and -1, 0 beyond them. Source: Lim and Ye 2017, arXiv:1705.02894, section 3."""
    return jax.nn.relu(1 - real_logits) + jax.nn.relu(1 + fake_logits)


def hinge_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """D's negated logit. Source: arXiv:1705.02894, section 3."""
    return -fake_logits


def wasserstein_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """The difference of the critic's outputs, which only a gradient penalty bounds.

    Source: Arjovsky et al. 2017, arXiv:1701.07875, equation 2.
    """
    return fake_logits - real_logits


wasserstein_g = hinge_g


def relativistic_average_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compares each real image with the average fake, and each fake with the average real image. The sum of both is not halved,
    as in the paper's equation. Source: Jolicoeur-Martineau 2018, arXiv:1807.00734, section 3.4 (RaSGAN).
    """
    return jax.nn.softplus(fake_logits.mean() - real_logits) + jax.nn.softplus(fake_logits - real_logits.mean())


def relativistic_average_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """D's loss with the roles exchanged. Source: arXiv:1807.00734, section 3.4."""
    return relativistic_average_d(fake_logits, real_logits)


def relativistic_paired_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compares each real image with the fake at the same position of the batch.

    Source: arXiv:1807.00734, section 3.3 (RSGAN); R3GAN's loss (Huang et al. 2024, arXiv:2501.05441, equation 2) when
    R1 and R2 are added.
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


def make_loss(loss: Loss) -> AdversarialLoss:
    """The adversarial loss that the config names, with its smoothed label, which only bce has (config_rules.py)."""
    chosen = LOSSES[loss.loss]
    return chosen if loss.real_label == 1 else chosen._replace(d=functools.partial(chosen.d, real_label=loss.real_label))
