"""D's logits and features of given images: without augmentation or dropout, with running statistics."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dcgan_jax.config import Config
from dcgan_jax.gan.models import Discriminator
from dcgan_jax.gan.pixels import scale_pixels


def make_compute_logits(config: Config) -> Callable[..., jax.Array]:
    """f(d_params, d_stats, images (N, S, S, C) uint8, labels (N, A) or None) -> (N,) float32 logits, each of its own image
    alone. Pure: jit it.

    With BN they are not the logits of training, where each kind of image is normalised by its own batch: compare logits
    of several kinds with each other, not with the loss's boundary.
    """
    discriminator = Discriminator(config.nets)

    def compute_logits(params: dict, stats: dict, images: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        variables, pixels = {"params": params, "batch_stats": stats}, scale_pixels(images, config.nets)
        # pyrefly: ignore[bad-return] - `apply` gives a pair only with `mutable`
        return discriminator.apply(variables, pixels, False, labels)

    return compute_logits


def make_extract_features(config: Config) -> Callable[[dict, dict, jax.Array], jax.Array]:
    """f(d_params, d_stats, images (N, S, S, C) uint8) -> (N, P) float32: each layer's features, the largest in each cell of a
    grid as fine as D's last feature map, one layer after the other. Pure: jit it. Source: arXiv:1511.06434, section 5.1.
    """
    discriminator, cells = Discriminator(config.nets), config.nets.base_px

    def extract_features(params: dict, stats: dict, images: jax.Array) -> jax.Array:
        conditions = config.nets.conditions
        labels = jnp.zeros((len(images), len(conditions))) if conditions else None  # the features come before them
        _, found = discriminator.apply(
            {"params": params, "batch_stats": stats}, scale_pixels(images, config.nets), False, labels, mutable="intermediates"
        )
        pooled = []
        for x in found["intermediates"]["features"]:  # (N, S/2, S/2, C), (N, S/4, S/4, 2C) ...
            count, side, _, channels = x.shape
            cell = side // cells
            pooled.append(x.reshape(count, cells, cell, cells, cell, channels).max((2, 4)).reshape(count, -1))
        return jnp.concatenate(pooled, 1).astype(jnp.float32)

    return extract_features
