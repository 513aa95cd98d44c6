"""Other ways to compute the stride-2 convolution pair on an accelerator. None has been timed on one (experiments/gpu.py does).

The networks' pair is built from one function, `_lax_forward` of dcgan_jax.gan.conv. Its input and weight gradient are the linear
transposes of it. So a variant is one function with the same arguments, and `use_variant` puts it in that place:

    folded             2x2 pixels become channels (space to depth). All three roles then have stride 1 and no dilation.
    padded4, padded8   images with fewer channels, such as RGB, get zeros up to 4 or 8 channels, which tensor cores need.
"""

import contextlib
import functools
from collections.abc import Callable, Generator
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

from dcgan_jax.gan import conv as convolutions

lax_forward = convolutions._lax_forward  # what the variants replace; the same in a process that uses one


def fold_pixels(x: jax.Array) -> jax.Array:
    """Moves 2x2 pixels into channels: (N, 2h, 2w, C) -> (N, h, w, 4C), the row in the pair first."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, height // 2, width // 2, 4 * channels)


def folded_forward(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """Convolves with stride 2 as a stride-1 convolution over folded pixels. Args, returns: as `conv`."""
    k = kernel.shape[0]
    before, after = convolutions.compute_padding(k, padding)
    odd = k % 2  # a kernel of 5 becomes one of 6, whose last row and column are zero
    x = jnp.pad(x, ((0, 0), (before, after + odd), (before, after + odd), (0, 0)))
    kernel = jnp.pad(kernel, ((0, odd), (0, odd), (0, 0), (0, 0)))
    folded = fold_pixels(kernel.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0)  # (k / 2, k / 2, 4 C_large, C_small)
    return lax.conv_general_dilated(fold_pixels(x), folded, (1, 1), "VALID", dimension_numbers=convolutions.DIMENSIONS)


def padded_forward(x: jax.Array, kernel: jax.Array, padding: str, channels: int) -> jax.Array:
    """Convolves with stride 2 after filling the large image up to this many channels. Args, returns: as `conv`."""
    missing = max(channels - x.shape[3], 0)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
    return lax_forward(x, kernel, padding)


VARIANTS: dict[str, Callable[[jax.Array, jax.Array, str], jax.Array]] = {
    "lax": lax_forward,
    "folded": folded_forward,
    "padded4": functools.partial(padded_forward, channels=4),
    "padded8": functools.partial(padded_forward, channels=8),
}


@contextlib.contextmanager
def use_variant(name: str, is_unrolled: bool = False) -> Generator[None]:
    """Programs traced inside the with block use this variant. is_unrolled: they also repeat the step's code, without a loop."""
    scan = functools.partial(lax.scan, unroll=True) if is_unrolled else lax.scan
    with mock.patch.object(convolutions, "_lax_forward", VARIANTS[name]), mock.patch.object(lax, "scan", scan):
        yield
