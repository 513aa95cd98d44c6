"""Differentiable augmentation of real and fake images before D, so that D cannot memorise few training images.

Source: Zhao et al. 2020, arXiv:2006.10738, section 4, with the published strengths: brightness +-0.5, saturation 0..2, contrast
0.5..1.5, translation up to 1/8 of the side, cutout of half the side. Images are in [-1, 1]. Random values differ between images.
"""

import jax
import jax.numpy as jnp


def change_color(key: jax.Array, images: jax.Array) -> jax.Array:
    """Changes brightness, saturation and contrast of (B, S, S, C) images. Shape kept; values may leave [-1, 1]."""
    brightness, saturation, contrast = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1))
    images = images + (brightness - 0.5)
    grey = images.mean(3, keepdims=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean((1, 2, 3), keepdims=True)
    return (images - mean) * (contrast + 0.5) + mean


def translate(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shifts (B, S, S, C) images by whole pixels, up to an eighth of the side each way. New pixels are 0 (grey). Shape kept."""
    batch, side = images.shape[:2]
    reach = max(1, round(side / 8))
    row, column = jax.random.randint(key, (2, batch), -reach, reach + 1)

    def shift(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:  # (S, S, C)
        padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)))
        return jax.lax.dynamic_slice(padded, (reach - row, reach - column, jnp.zeros_like(row)), image.shape)

    return jax.vmap(shift)(images, row, column)


def cut_out(key: jax.Array, images: jax.Array) -> jax.Array:
    """Sets a square of half the side to 0 (grey), at a random position in each of the (B, S, S, C) images. Shape kept."""
    batch, side = images.shape[:2]
    hole = side // 2
    # As in the published code: a hole of even size may have its centre on the bottom or right edge.
    centre = jax.random.randint(key, (2, batch, 1), 0, side + (1 - hole % 2))
    pixels = jnp.arange(side).reshape(1, 1, side)
    covered = jnp.abs(pixels - centre + 0.5 * (1 - hole % 2)) < hole / 2  # (2, B, S): rows, columns
    inside = covered[0][:, :, None] & covered[1][:, None, :]  # (B, S, S)
    return jnp.where(inside[..., None], 0, images)


AUGMENTATIONS = {"color": change_color, "translation": translate, "cutout": cut_out}


def augment(key: jax.Array, images: jax.Array, names: tuple[str, ...], probability: jax.Array | None = None) -> jax.Array:
    """Applies the named augmentations one after the other, each with its own key. images (B, S, S, C) float32, shape kept.

    probability: (), of applying each augmentation to each image; None: 1.
    """
    if not names:
        return images
    for name, name_key in zip(names, jax.random.split(key, len(names)), strict=True):
        if probability is None:
            images = AUGMENTATIONS[name](name_key, images)
        else:
            apply_key, name_key = jax.random.split(name_key)
            is_applied = jax.random.bernoulli(apply_key, probability, (images.shape[0], 1, 1, 1))
            images = jnp.where(is_applied, AUGMENTATIONS[name](name_key, images), images)
    return images


def adapt_probability(probability: jax.Array, real_hits: jax.Array, target: float, share: float) -> jax.Array:
    """Adapts the augmentation probability after a batch: adds `share` if r_t is above target, else subtracts it. Clips to 0..1.

    real_hits: (), the share of real images that D classified as real. r_t = 2 real_hits - 1, the mean sign of their logits.
    Source: Karras et al. 2020, arXiv:2006.06676, section 3.1 (r_t; there every 4 batches).
    """
    return jnp.clip(probability + share * jnp.sign(2 * real_hits - 1 - target), 0, 1)
