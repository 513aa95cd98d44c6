"""Adversarial losses, each with its source. All take D's logits and return one value per image, (B,) float32."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from dcgan_jax.config import Loss


class AdversarialLoss(NamedTuple):
    """The losses of D and of G. Each takes real_logits and fake_logits, (B,) float32, and returns (B,) float32."""

    d: Callable[[jax.Array, jax.Array], jax.Array]
    g: Callable[..., jax.Array]  # gets None as real_logits if not g_needs_real
    g_needs_real: bool = False  # whether G's loss also depends on D's logits of real images
    # The logit above which an image counts as classified "real". None: the loss depends on differences of logits only; then the
    # boundary is the middle between the means of the real and of the fake logits of the batch.
    boundary: float | None = 0.0


def nonsaturating_d(real_logits: jax.Array, fake_logits: jax.Array, real_label: float = 1.0) -> jax.Array:
    """Cross-entropy of real images against real_label plus that of fakes against 0. At logits 0 it is 2 log 2 (real_label 1).

    Source: Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1, rewritten for logits; real_label below 1 is the one-sided
    smoothing of Salimans et al. 2016, arXiv:1606.03498, section 3.4.
    """
    # softplus(-x) is -log sigmoid(x); a float32 probability is exactly 1 from about x = 17, where its log has no gradient.
    return jax.nn.softplus(-real_logits) + (1 - real_label) * real_logits + jax.nn.softplus(fake_logits)


def nonsaturating_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Cross-entropy of fakes against 1, log 2 at logits 0. Source: arXiv:1406.2661, section 3, last paragraph."""
    return jax.nn.softplus(-fake_logits)


def least_squares_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Squared distance of real from 1 and fake from 0, halved. Source: Mao et al. 2017, arXiv:1611.04076, equation 9."""
    return 0.5 * (real_logits - 1) ** 2 + 0.5 * fake_logits**2


def least_squares_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Squared distance of fake from 1, halved. Source: arXiv:1611.04076, equation 9."""
    return 0.5 * (fake_logits - 1) ** 2


def hinge_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Hinge loss with margins +1 for real images and -1 for fakes. Source: Lim and Ye 2017, arXiv:1705.02894, section 3."""
    return jax.nn.relu(1 - real_logits) + jax.nn.relu(1 + fake_logits)


def hinge_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """The negative of D's logit. Source: arXiv:1705.02894, section 3."""
    return -fake_logits


def wasserstein_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """The difference of the critic's outputs. It has no lower bound without a gradient penalty.

    Source: Arjovsky et al. 2017, arXiv:1701.07875, equation 2.
    """
    return fake_logits - real_logits


wasserstein_g = hinge_g


def relativistic_average_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compares each real image with the average fake, and each fake with the average real image.

    The sum of both is not halved, as in the paper's equation.
    Source: Jolicoeur-Martineau 2018, arXiv:1807.00734, section 3.4 (RaSGAN).
    """
    return jax.nn.softplus(fake_logits.mean() - real_logits) + jax.nn.softplus(fake_logits - real_logits.mean())


def relativistic_average_g(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """D's loss with the roles exchanged. Source: arXiv:1807.00734, section 3.4."""
    return relativistic_average_d(fake_logits, real_logits)


def relativistic_paired_d(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compares each real image with the fake at the same position of the batch.

    With R1 and R2 it is R3GAN's loss (Huang et al. 2024, arXiv:2501.05441, equation 2).
    Source: arXiv:1807.00734, section 3.3 (RSGAN).
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
    """Returns the losses that the config names, with its real_label. config_rules.py allows label smoothing for bce only."""
    chosen = LOSSES[loss.loss]
    if loss.real_label == 1:
        return chosen
    assert chosen.d is nonsaturating_d
    return chosen._replace(d=functools.partial(nonsaturating_d, real_label=loss.real_label))
