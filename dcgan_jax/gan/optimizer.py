"""Adam as each of the published DCGANs has it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcgan_jax.config import Optimizer


def make_adam(optimizer: Optimizer, lr: float, updates: int = 0, images_per_update: float = 1.0) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) with step size lr, either placement of epsilon, and coupled L2.

    updates, images_per_update: the net's updates over the whole run, for lr_decay, and the real images shown for each, for
    lr_warmup_kimg.
    L2 goes into the gradient before the moments and reaches every parameter, BN's included (T11); adamw is another thing.
    """
    moments = scale_by_adam_hat if optimizer.adam_eps_hat else optax.scale_by_adam
    size = optax.scale(-lr)
    if optimizer.lr_warmup_kimg > 0 or optimizer.lr_decay != "none":
        size = optax.scale_by_schedule(lambda count: -lr * compute_lr_share(optimizer, count, updates, images_per_update))
    parts = [moments(optimizer.beta1, optimizer.beta2, optimizer.adam_eps), size]
    if optimizer.l2 > 0:
        parts.insert(0, optax.add_decayed_weights(optimizer.l2))
    return optax.chain(*parts)


def compute_lr_share(optimizer: Optimizer, count: ArrayLike, updates: int, images_per_update: float) -> jax.Array:
    """The share, () float32 in [0, 1], of the full step size that update number `count` (from 0) is made with."""
    count = jnp.asarray(count, jnp.float32)
    share = jnp.ones(())
    if optimizer.lr_warmup_kimg > 0:
        share = jnp.minimum(share, (count + 1) * images_per_update / (1000 * optimizer.lr_warmup_kimg))
    if optimizer.lr_decay != "none":
        left = jnp.clip((updates - count) / (optimizer.lr_decay_share * updates), 0, 1)
        share *= left if optimizer.lr_decay == "linear" else (1 - jnp.cos(jnp.pi * left)) / 2
    return share


class AdamHatState(NamedTuple):
    count: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adam_hat(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Adam with epsilon beside the uncorrected root, as torch7, TF1 and Keras have it.

    Source: arXiv:1412.6980, end of section 2 ("epsilon hat"). Against optax.scale_by_adam its epsilon is larger by
    1 / sqrt(1 - beta2^t): 31.6 times at t = 1 (T10).
    """

    def init(params: optax.Params) -> AdamHatState:
        return AdamHatState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    # state: an AdamHatState. optax's own type for it is any tree, of which no part can be read.
    def update(updates: optax.Updates, state, params: optax.Params | None = None) -> tuple[optax.Updates, AdamHatState]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        correction = jnp.sqrt(1 - beta2 ** count.astype(jnp.float32)) / (1 - beta1 ** count.astype(jnp.float32))
        return jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu), AdamHatState(count, mu, nu)

    return optax.GradientTransformation(init, update)
