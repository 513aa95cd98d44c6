"""Adam, with the options of the published DCGANs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcgan_jax.config import Optimizer


def make_adam(
    optimizer: Optimizer, lr: float, updates: ArrayLike = 0, images_per_update: float = 1.0
) -> optax.GradientTransformation:
    """Makes Adam with learning rate lr, either placement of epsilon, and coupled L2. Source: Kingma and Ba 2015, arXiv:1412.6980.

    updates: the net's updates in the whole run, for lr_decay. images_per_update: real images per update, for lr_warmup_kimg.
    L2 is added to the gradient before the moments, for every parameter, also those of BN (T11). AdamW is different: its decay
    does not pass through the moments.
    """
    moments = scale_by_adam_hat if optimizer.adam_eps_hat else optax.scale_by_adam
    scale = optax.scale(-lr)
    if optimizer.lr_warmup_kimg > 0 or optimizer.lr_decay != "none":
        scale = optax.scale_by_schedule(lambda count: -lr * compute_lr_share(optimizer, count, updates, images_per_update))
    parts = [moments(optimizer.beta1, optimizer.beta2, optimizer.adam_eps), scale]
    if optimizer.l2 > 0:
        parts.insert(0, optax.add_decayed_weights(optimizer.l2))
    return optax.chain(*parts)


def compute_lr_share(optimizer: Optimizer, count: ArrayLike, updates: ArrayLike, images_per_update: float) -> jax.Array:
    """Computes the share of the full learning rate that update number `count` (from 0) uses: () float32 in [0, 1]."""
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
    """Makes Adam that adds epsilon before the bias correction of the second moment, as torch7, TF1 and Keras do.

    It equals optax.scale_by_adam with an epsilon that is 1 / sqrt(1 - beta2^t) times larger: 31.6 times at t = 1 (T10).
    Source: arXiv:1412.6980, end of section 2 ("epsilon hat").
    """

    def init(params: optax.Params) -> AdamHatState:
        return AdamHatState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    # No type for state, an AdamHatState: optax declares it as any tree, whose fields a type checker cannot read.
    def update(updates: optax.Updates, state, params: optax.Params | None = None) -> tuple[optax.Updates, AdamHatState]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        correction = jnp.sqrt(1 - beta2 ** count.astype(jnp.float32)) / (1 - beta1 ** count.astype(jnp.float32))
        return jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu), AdamHatState(count, mu, nu)

    return optax.GradientTransformation(init, update)
