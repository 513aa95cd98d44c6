"""The stride-2 convolution and its transpose: one function each, with gradients that are fast on every backend.

Both halve or double an even image side. A kernel is (k, k, C_large, C_small): C_large channels on the large image, C_small
on the small one, for the convolution and for its transpose alike, so that the transpose is exactly the convolution's
input gradient and three kernels (forward, input gradient, weight gradient) serve both functions and all their gradients.

GPU and TPU get `lax` everywhere. XLA's CPU backend is slow in the input gradient, and in the weight gradient of layers
with few channels (docs/how-it-works.md): there the image is folded, 2x2 pixels into channels, which makes a k4 s2
convolution a 2x2 one of stride 1, that is, one GEMM a tap.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Below this many channels on the large image lax's CPU weight gradient is slower than GEMMs (15 against 43 GFLOP/s at 3).
FEW_CHANNELS = 16


def pads(kernel_size: int, padding: str) -> tuple[int, int]:
    """Pixels added before and after each image side so that it is exactly halved.

    padding: "symmetric" (PyTorch p1 for k4, p2 for k5; Theano) or "same" (TensorFlow, which for k5 pads 1 before, 2 after).
    docs/published-dcgans.md, traps T1 and T2. The transpose of each is the one its framework calls the transposed convolution.
    """
    before = (kernel_size - 1) // 2 if padding == "symmetric" else (kernel_size - 2) // 2
    return before, kernel_size - 2 - before


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, padding: str = "symmetric") -> jax.Array:
    """Strided convolution (cross-correlation, stride 2).

    Args: x (B, 2h, 2w, C_large); kernel (k, k, C_large, C_small), k 4 or 5; padding, see `pads`.
    Returns: (B, h, w, C_small), in x's dtype.
    """
    return _forward(x, kernel, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose(y: jax.Array, kernel: jax.Array, padding: str = "symmetric") -> jax.Array:
    """The transpose of `conv`: its Jacobian with respect to x, transposed.

    Args: y (B, h, w, C_small); kernel (k, k, C_large, C_small), as for `conv`; padding, see `pads`.
    Returns: (B, 2h, 2w, C_large), in y's dtype. Torch's ConvTranspose2d weight is (C_small, C_large, k, k), without a flip.
    """
    return _input_gradient(y, kernel, padding)


# The gradients call the public pair where they can, so that gradients of gradients (R1, R2, WGAN-GP) are fast as well.
conv.defvjp(
    lambda x, kernel, padding: (conv(x, kernel, padding), (x, kernel)),
    lambda padding, saved, dy: (conv_transpose(dy, saved[1], padding),
                                _weight_gradient(saved[0], dy, saved[1].shape[0], padding)))
conv_transpose.defvjp(
    lambda y, kernel, padding: (conv_transpose(y, kernel, padding), (y, kernel)),
    lambda padding, saved, dx: (conv(dx, saved[1], padding), _weight_gradient(dx, saved[0], saved[1].shape[0], padding)))


def _forward(x, kernel, padding):
    return lax.conv_general_dilated(x, kernel, (2, 2), [pads(kernel.shape[0], padding)] * 2, dimension_numbers=DIMENSIONS)


def _input_gradient(y, kernel, padding):
    batch, h, w, _ = y.shape
    k, _, channels, _ = kernel.shape
    if jax.default_backend() != "cpu":
        like = jax.ShapeDtypeStruct((batch, 2 * h, 2 * w, channels), y.dtype)
        return jax.linear_transpose(lambda x: _forward(x, kernel, padding), like)(y)[0]
    folded = _fold_kernel(kernel)  # (T, T, 4 C_large, C_small)
    taps = folded.shape[0]
    products = y.reshape(-1, y.shape[3]) @ folded.transpose(3, 0, 1, 2).reshape(y.shape[3], -1)
    products = products.reshape(batch, h, w, taps, taps, 4 * channels)
    # Tap (i, j) of pixel (r, c) lands on folded pixel (r + i, c + j).
    image = sum(jnp.pad(products[:, :, :, i, j], ((0, 0), (i, taps - 1 - i), (j, taps - 1 - j), (0, 0)))
                for i in range(taps) for j in range(taps))  # (B, h + T - 1, w + T - 1, 4 C_large)
    before = pads(k, padding)[0]
    return _unfold(image)[:, before:before + 2 * h, before:before + 2 * w]


def _weight_gradient(x, dy, k, padding):
    channels_large, channels_small = x.shape[3], dy.shape[3]
    if jax.default_backend() != "cpu" or channels_large >= FEW_CHANNELS:
        like = jax.ShapeDtypeStruct((k, k, channels_large, channels_small), x.dtype)
        return jax.linear_transpose(lambda kernel: _forward(x, kernel, padding), like)(dy)[0]
    h, w = dy.shape[1:3]
    taps = (k + 1) // 2
    before = pads(k, padding)[0]
    after = 2 * (taps - 1) - before
    image = _fold(jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0))))
    rows = dy.reshape(-1, channels_small)
    folded = jnp.stack([jnp.stack([image[:, i:i + h, j:j + w].reshape(-1, 4 * channels_large).T @ rows for j in range(taps)])
                        for i in range(taps)])  # (T, T, 4 C_large, C_small)
    kernel = folded.reshape(taps, taps, 2, 2, channels_large, channels_small).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(2 * taps, 2 * taps, channels_large, channels_small)[:k, :k]


def _fold(x):
    """(B, 2h, 2w, C) -> (B, h, w, 4C): each 2x2 block of pixels becomes one pixel's channels, row first."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def _unfold(x):
    """The inverse of `_fold`."""
    batch, h, w, channels = x.shape
    x = x.reshape(batch, h, w, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * h, 2 * w, channels // 4)


def _fold_kernel(kernel):
    """(k, k, C, O) -> (T, T, 4C, O), T = ceil(k / 2): the kernel that does on the folded image what `kernel` does."""
    k, _, channels, out = kernel.shape
    taps = (k + 1) // 2
    kernel = jnp.pad(kernel, ((0, 2 * taps - k), (0, 2 * taps - k), (0, 0), (0, 0)))
    return kernel.reshape(taps, 2, taps, 2, channels, out).transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, 4 * channels, out)
