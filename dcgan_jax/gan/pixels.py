"""Converts pixels between uint8 and the range of G's output."""

import jax
import jax.numpy as jnp

from dcgan_jax.config import Nets


def scale_pixels(images: jax.Array, nets: Nets) -> jax.Array:
    """Converts uint8 (..., S, S, C) to float32 in G's output range: [-1, 1] for tanh (preset article), [0, 1] for sigmoid."""
    images = images.astype(jnp.float32)
    return images / 127.5 - 1 if nets.g_output == "tanh" else images / 255


def to_uint8(images: jax.Array, nets: Nets) -> jax.Array:
    """Converts images in G's output range to uint8 and rounds. The inverse of `scale_pixels`."""
    images = (images + 1) / 2 if nets.g_output == "tanh" else images
    return jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.uint8)
