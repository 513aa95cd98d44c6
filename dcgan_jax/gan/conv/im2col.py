"""Convolutions and their gradients on CPU for images with few channels: GEMMs over patches or over shifted images.

With stride 2 and three channels a patch holds 48 numbers (k 4). These are too few for Winograd's transforms, but enough for a
fast GEMM: 100 GFLOP/s against 20 of XLA's own convolution (docs/speed.md). Arguments and results are those of `winograd`. With
stride 1 and 16 to 63 channels, transforms cost more than they save, and three copies of an image are enough.
"""

import functools

import jax
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from dcgan_jax.gan.conv.no_fusion import call_unfused
from dcgan_jax.gan.conv.products import multiply


def forward(x: jax.Array, kernel: jax.Array, before: int, dtype: DTypeLike) -> jax.Array:
    """Convolves x (B, 2h, 2w, C) with kernel (k, k, C, O) -> (B, h, w, O).

    before: pixels of padding above and left. dtype: of the operands of the products, see `products`.
    """
    batch, height, width, _ = x.shape
    patches = _extract_patches(x, kernel.shape[0], before, dtype)
    return multiply(patches, _flatten_kernel(kernel).astype(dtype)).reshape(batch, height // 2, width // 2, -1)


def input_gradient(y: jax.Array, kernel: jax.Array, before: int, dtype: DTypeLike) -> jax.Array:
    """Applies the transpose of `forward` in x: y (B, h, w, O), kernel (k, k, C, O) -> (B, 2h, 2w, C)."""
    batch, h, w, out = y.shape
    k, _, channels, _ = kernel.shape
    taps = (k + 1) // 2
    kernel = _flatten_kernel(kernel).reshape(taps, 2, taps, 2 * channels, out)
    # Each pixel of y contributes to 2 taps x 2 taps pixels. 2x2 of them are folded into one position with 4C channels.
    kernel = kernel.transpose(0, 2, 1, 3, 4).reshape(-1, out)
    products = multiply(y.reshape(-1, out).astype(dtype), kernel.astype(dtype), contract=(1, 1))
    products = products.reshape(batch, h, w, taps, taps, 4 * channels)
    zero = np.zeros((), y.dtype)
    padded = (
        lax.pad(products[:, :, :, i, j], zero, [(0, 0, 0), (i, taps - 1 - i, 0), (j, taps - 1 - j, 0), (0, 0, 0)])
        for i in range(taps)
        for j in range(taps)
    )  # (B, h + T - 1, w + T - 1, 4C) each
    image = functools.reduce(lax.add, padded)
    image = image.reshape(batch, h + taps - 1, w + taps - 1, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(batch, 2 * (h + taps - 1), 2 * (w + taps - 1), channels)
    return image[:, before : before + 2 * h, before : before + 2 * w]


def weight_gradient(x: jax.Array, dy: jax.Array, k: int, before: int, dtype: DTypeLike) -> jax.Array:
    """Applies the transpose of `forward` in the kernel: x (B, 2h, 2w, C), dy (B, h, w, O) -> (k, k, C, O)."""
    out = dy.shape[3]
    rows = multiply(_extract_patches(x, k, before, dtype), dy.reshape(-1, out).astype(dtype), contract=(0, 0))
    even = k + k % 2
    return rows.reshape(even, even, -1, out)[:k, :k]


def forward_same(x: jax.Array, kernel: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Convolves x (B, h, w, C) with kernel (3, 3, C, O), stride 1 -> (B, h, w, O). One GEMM for each row of the kernel."""
    batch, h, w, channels = x.shape
    beside = _join_shifted(x, 2, dtype)
    rows = (multiply(beside, row.reshape(3 * channels, -1).astype(dtype)).reshape(batch, h, w, -1) for row in kernel)
    zero = np.zeros((), x.dtype)
    # The kernel's upper row belongs to the pixels above, so its products move down.
    moved = [lax.pad(row, zero, [(0, 0, 0), (1 - i, i - 1, 0), (0, 0, 0), (0, 0, 0)]) for i, row in enumerate(rows)]
    return functools.reduce(lax.add, moved)


def weight_gradient_same(x: jax.Array, dy: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Applies the transpose of `forward_same` in the kernel: x (B, h, w, C), dy (B, h, w, O) -> (3, 3, C, O).

    One GEMM of x, shifted to both sides, and dy, shifted up and down. That is three copies of each, where patches are nine of x.
    """
    products = multiply(_join_shifted(x, 2, dtype), _join_shifted(dy, 1, dtype), contract=(0, 0))
    products = products.reshape(3, x.shape[3], 3, dy.shape[3])  # column of the kernel, C, shift of dy, O
    return products.transpose(2, 0, 1, 3)[::-1]  # dy shifted down meets the pixels below


def _join_shifted(x: jax.Array, axis: int, dtype: DTypeLike) -> jax.Array:
    """Joins x shifted by 1, 0 and -1 along an axis, with zeros outside: (B, h, w, C) -> (B h w, 3C)."""
    zero = np.zeros((), dtype)

    def join(x: jax.Array) -> jax.Array:
        padded = lax.pad(x.astype(dtype), zero, [(int(i == axis), int(i == axis), 0) for i in range(4)])
        return lax.concatenate([lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(3)], 3)

    return call_unfused(join, x).reshape(-1, 3 * x.shape[3])


def _extract_patches(x: jax.Array, k: int, before: int, dtype: DTypeLike) -> jax.Array:
    """Extracts the patch of each output, row by row: (B, 2h, 2w, C) -> (B h w, k k C). An odd k is rounded up."""
    batch, height, width, channels = x.shape
    h, w, taps = height // 2, width // 2, (k + 1) // 2
    after = 2 * (taps - 1) - before
    zero = np.zeros((), dtype)
    x = call_unfused(lambda x: lax.pad(x, zero, [(0, 0, 0), (before, after, 0), (before, after, 0), (0, 0, 0)]), x.astype(dtype))
    x = x.reshape(batch, h + taps - 1, 2, w + taps - 1, 2 * channels)

    def gather(x: jax.Array) -> jax.Array:  # pairs of pixels that lie side by side in memory
        return lax.concatenate([x[:, i : i + h, row, j : j + w] for i in range(taps) for row in range(2) for j in range(taps)], 3)

    return call_unfused(gather, x).reshape(batch * h * w, 4 * taps**2 * channels)


def _flatten_kernel(kernel: jax.Array) -> jax.Array:
    """Flattens a kernel: (k, k, C, O) -> (k k C, O). Pads an odd k with a row and a column of zeros."""
    odd = kernel.shape[0] % 2
    kernel = lax.pad(kernel, np.zeros((), kernel.dtype), [(0, odd, 0), (0, odd, 0), (0, 0, 0), (0, 0, 0)])
    return kernel.reshape(-1, kernel.shape[3])
