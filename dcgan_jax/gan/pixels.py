"""Pixels between uint8 and the range of the generator's output, both ways."""

import jax
import jax.numpy as jnp

from dcgan_jax.config import Nets


def scale_pixels(images: jax.Array, nets: Nets) -> jax.Array:
    """uint8 (..., S, S, C) -> float32 in G's output range: [-1, 1] for tanh (the article's), [0, 1] for sigmoid."""
    images = images.astype(jnp.float32)
    return images / 127.5 - 1 if nets.g_output == "tanh" else images / 255


def to_uint8(images: jax.Array, nets: Nets) -> jax.Array:
    """The inverse of scale_pixels, rounded to uint8."""
    images = (images + 1) / 2 if nets.g_output == "tanh" else images
    return jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.uint8)
