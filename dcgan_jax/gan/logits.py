"""Computes D's logits and features of given images, without augmentation or dropout and with running statistics."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dcgan_jax.config import Config
from dcgan_jax.gan.models import Discriminator
from dcgan_jax.gan.pixels import scale_pixels


def make_compute_logits(config: Config) -> Callable[..., jax.Array]:
    """Makes a function that computes D's logits. Each logit depends on its own image alone. Pure: jit it.

    Returns: f(d_params, d_stats, images (N, S, S, C) uint8, labels (N, A) or None) -> (N,) float32.
    With BN these differ from the logits in training, where real and generated batches are normalised separately. Compare the
    logits of several sets of images with each other, not with the loss's boundary.
    """
    discriminator = Discriminator(config.nets)

    def compute_logits(params: dict, stats: dict, images: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        variables, pixels = {"params": params, "batch_stats": stats}, scale_pixels(images, config.nets)
        # pyrefly: ignore[bad-return] - `apply` gives a pair only with `mutable`
        return discriminator.apply(variables, pixels, False, labels)

    return compute_logits


def make_extract_features(config: Config) -> Callable[[dict, dict, jax.Array], jax.Array]:
    """Makes a function that extracts the features of D, max-pooled. Pure: jit it.

    They are the outputs of all its strided convolutions, or of each resolution in a residual D. Each is max-pooled to the side
    of D's last one, flattened, and joined with the others.
    Returns: f(d_params, d_stats, images (N, S, S, C) uint8) -> (N, P) float32.
    Source: Radford et al. 2016, arXiv:1511.06434, section 5.1.
    """
    discriminator, cells = Discriminator(config.nets), config.nets.base_px

    def extract_features(params: dict, stats: dict, images: jax.Array) -> jax.Array:
        conditions = config.nets.conditions
        labels = jnp.zeros((len(images), len(conditions))) if conditions else None  # features do not depend on labels
        _, captured = discriminator.apply(
            {"params": params, "batch_stats": stats}, scale_pixels(images, config.nets), False, labels, mutable="intermediates"
        )
        pooled = []
        for x in captured["intermediates"]["features"]:  # (N, S/2, S/2, C), (N, S/4, S/4, 2C) ...
            count, side, _, channels = x.shape
            cell = side // cells
            pooled.append(x.reshape(count, cells, cell, cells, cell, channels).max((2, 4)).reshape(count, -1))
        return jnp.concatenate(pooled, 1).astype(jnp.float32)

    return extract_features
