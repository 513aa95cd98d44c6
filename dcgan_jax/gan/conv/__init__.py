"""The stride-2 convolution and its transpose: one function each, with gradients that are fast on every backend.

Both halve or double an even image side. A kernel is (k, k, C_large, C_small): C_large channels on the large image, C_small
on the small one, for the convolution and for its transpose alike, so that the transpose is exactly the convolution's
input gradient and three kernels (forward, input gradient, weight gradient) serve both functions and all their gradients.

The implementation is chosen when a program is traced. "auto": GPU and TPU get `lax`, CPU `winograd` or, where channels are few,
`im2col`; `lax` on CPU is slower in each role, up to five times (docs/speed.md). "lax": `lax` on every backend, for a program that
is traced on one and lowered for others.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dcgan_jax.gan.conv import im2col, winograd

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# On CPU: with fewer channels on the large image, one GEMM over patches beats Winograd's many small ones.
FEW_CHANNELS = 16

Implementation = Literal["auto", "lax"]


def compute_padding(kernel_size: int, padding: str) -> tuple[int, int]:
    """Pixels added before and after each image side so that it is exactly halved.

    padding: "symmetric" (PyTorch p1 for k4, p2 for k5; Theano) or "same" (TensorFlow, which for k5 pads 1 before, 2 after).
    docs/published-dcgans.md, traps T1 and T2. The transpose of each is the one its framework calls the transposed convolution.
    """
    before = (kernel_size - 1) // 2 if padding == "symmetric" else (kernel_size - 2) // 2
    return before, kernel_size - 2 - before


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, padding: str = "symmetric", implementation: Implementation = "auto") -> jax.Array:
    """Strided convolution (cross-correlation, stride 2).

    Args: x (B, 2h, 2w, C_large); kernel (k, k, C_large, C_small), k 4 or 5; padding, see `compute_padding`; implementation, see
        above.
    Returns: (B, h, w, C_small), in x's dtype.
    """
    return _compute_forward(x, kernel, padding, implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(
    y: jax.Array, kernel: jax.Array, padding: str = "symmetric", implementation: Implementation = "auto"
) -> jax.Array:
    """The transpose of `conv`: its Jacobian with respect to x, transposed.

    Args: y (B, h, w, C_small); kernel (k, k, C_large, C_small), padding and implementation, as for `conv`.
    Returns: (B, 2h, 2w, C_large), in y's dtype. Torch's ConvTranspose2d weight is (C_small, C_large, k, k), without a flip.
    """
    return _compute_input_gradient(y, kernel, padding, implementation)


# The gradients call the public pair where they can, so that gradients of gradients (R1, R2, WGAN-GP) are fast as well.
def _save_inputs_of_conv(x, kernel, padding, implementation):
    return conv(x, kernel, padding, implementation), (x, kernel)


def _differentiate_conv(padding, implementation, saved, dy):
    x, kernel = saved
    dx = conv_transpose(dy, kernel, padding, implementation)
    return dx, _compute_weight_gradient(x, dy, kernel.shape[0], padding, implementation)


def _save_inputs_of_conv_transpose(y, kernel, padding, implementation):
    return conv_transpose(y, kernel, padding, implementation), (y, kernel)


def _differentiate_conv_transpose(padding, implementation, saved, dx):
    y, kernel = saved
    dy = conv(dx, kernel, padding, implementation)
    return dy, _compute_weight_gradient(dx, y, kernel.shape[0], padding, implementation)


conv.defvjp(_save_inputs_of_conv, _differentiate_conv)
conv_transpose.defvjp(_save_inputs_of_conv_transpose, _differentiate_conv_transpose)


def _compute_forward(x, kernel, padding, implementation):
    if _is_for_cpu(implementation):
        module = _select_cpu_module(x.shape[3])
        return _call_in_float32(module.forward, x, kernel, compute_padding(kernel.shape[0], padding)[0])
    return _lax_forward(x, kernel, padding)


def _compute_input_gradient(y, kernel, padding, implementation):
    if _is_for_cpu(implementation):
        module = _select_cpu_module(kernel.shape[2])
        return _call_in_float32(module.input_gradient, y, kernel, compute_padding(kernel.shape[0], padding)[0])
    batch, h, w, _ = y.shape
    like = jax.ShapeDtypeStruct((batch, 2 * h, 2 * w, kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _lax_forward(x, kernel, padding), like)(y)[0]


def _compute_weight_gradient(x, dy, k, padding, implementation):
    if _is_for_cpu(implementation):
        module = _select_cpu_module(x.shape[3])
        return _call_in_float32(module.weight_gradient, x, dy, k, compute_padding(k, padding)[0])
    like = jax.ShapeDtypeStruct((k, k, x.shape[3], dy.shape[3]), x.dtype)
    return jax.linear_transpose(lambda kernel: _lax_forward(x, kernel, padding), like)(dy)[0]


def _is_for_cpu(implementation):
    return implementation == "auto" and jax.default_backend() == "cpu"


def _select_cpu_module(channels_large):
    return winograd if channels_large >= FEW_CHANNELS else im2col


def _call_in_float32(kernel, a, b, *rest):
    """kernel(a, b, *rest) in float32 or wider, in a's dtype."""
    # bfloat16 saves a CPU nothing, and Winograd's sums of it would be rounded more than once.
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return kernel(a.astype(wide), b.astype(wide), *rest).astype(a.dtype)


def _lax_forward(x, kernel, padding):
    return lax.conv_general_dilated(
        x, kernel, (2, 2), [compute_padding(kernel.shape[0], padding)] * 2, dimension_numbers=DIMENSIONS
    )
