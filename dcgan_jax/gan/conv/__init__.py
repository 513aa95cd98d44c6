"""The convolutions with stride 2 and 1 and the transpose of the first, with gradients that are fast on every backend.

`conv` halves an even image side, `conv_transpose` doubles it. Both take a kernel (k, k, C_large, C_small), where the larger image
has C_large channels and the smaller one C_small. So the transpose is exactly the input gradient of the convolution. Three
routines (forward, input gradient, weight gradient) are enough for both functions and all their gradients. `conv_same` keeps the
side. `conv_grouped` does so for groups of channels.

The implementation is chosen when a program is traced. "auto": `lax` on GPU and TPU; on CPU `winograd`, or `im2col` for few
channels. There `lax` is up to five times slower (docs/speed.md). "lax": `lax` on every backend, for a program that is traced on
one backend and lowered for others.

product_dtype: to what the implementations for CPUs round the operands of matrix products: "float32" (not at all) or "bfloat16".
"auto" counts as float32 here: run/setup.py replaces it by what is faster. `lax` computes in the dtype of its arrays.
"""

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dcgan_jax.gan.conv import im2col, winograd

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# On CPU, if the larger image has fewer channels than this, one GEMM over patches is faster than Winograd's many small ones, and
# with stride 1 `lax` is used.
FEW_CHANNELS = 16
# On CPU, with stride 1 and fewer channels than this, GEMMs over shifted images are the fastest, but in float32 `lax` is as fast
# forward.
MANY_CHANNELS = 64

Implementation = Literal["auto", "lax"]
ProductDtype = Literal["float32", "bfloat16", "auto"]


def compute_padding(kernel_size: int, padding: str) -> tuple[int, int]:
    """Returns the pixels to add before and after each image side, so that the convolution halves it exactly.

    padding: "symmetric" (PyTorch with padding 1 for k 4 or 2 for k 5; Theano) or "same" (TensorFlow: for k 5, 1 before and 2
    after). Each one's transpose is the transposed convolution of its framework (docs/published-dcgans.md, T1 and T2).
    """
    before = (kernel_size - 1) // 2 if padding == "symmetric" else (kernel_size - 2) // 2
    return before, kernel_size - 2 - before


# Which arguments of `conv` and `conv_transpose` are not arrays: padding, implementation, product_dtype.
_SETTINGS = (2, 3, 4)


@functools.partial(jax.custom_vjp, nondiff_argnums=_SETTINGS)
def conv(
    x: jax.Array,
    kernel: jax.Array,
    padding: str = "symmetric",
    implementation: Implementation = "auto",
    product_dtype: ProductDtype = "float32",
) -> jax.Array:
    """Convolves with stride 2 (cross-correlation) and halves the side.

    Args: x (B, 2h, 2w, C_large); kernel (k, k, C_large, C_small), k 4 or 5; padding, see `compute_padding`; implementation,
        product_dtype, see the module's docstring.
    Returns: (B, h, w, C_small), in x's dtype.
    """
    return _compute_forward(x, kernel, padding, implementation, product_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=_SETTINGS)
def conv_transpose(
    y: jax.Array,
    kernel: jax.Array,
    padding: str = "symmetric",
    implementation: Implementation = "auto",
    product_dtype: ProductDtype = "float32",
) -> jax.Array:
    """Applies the transpose of `conv` (its transposed Jacobian with respect to x) and doubles the side.

    Args: y (B, h, w, C_small); kernel (k, k, C_large, C_small); padding, implementation, product_dtype, as for `conv`.
    Returns: (B, 2h, 2w, C_large), in y's dtype. PyTorch's ConvTranspose2d weight is (C_small, C_large, k, k), without a flip.
    """
    return _compute_input_gradient(y, kernel, padding, implementation, product_dtype)


# The gradients call `conv` and `conv_transpose` if possible, so that second derivatives (R1, R2, WGAN-GP) are fast as well.
# settings: padding, implementation, product_dtype.
def _save_inputs_of_conv(x: jax.Array, kernel: jax.Array, *settings: str) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, *settings), (x, kernel)


def _differentiate_conv(
    padding: str, implementation: Implementation, product_dtype: ProductDtype, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    settings = (padding, implementation, product_dtype)
    return conv_transpose(dy, kernel, *settings), _compute_weight_gradient(x, dy, kernel.shape[0], *settings)


def _save_inputs_of_conv_transpose(
    y: jax.Array, kernel: jax.Array, *settings: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_transpose(y, kernel, *settings), (y, kernel)


def _differentiate_conv_transpose(
    padding: str, implementation: Implementation, product_dtype: ProductDtype, saved: tuple[jax.Array, jax.Array], dx: jax.Array
) -> tuple[jax.Array, jax.Array]:
    y, kernel = saved
    settings = (padding, implementation, product_dtype)
    return conv(dx, kernel, *settings), _compute_weight_gradient(dx, y, kernel.shape[0], *settings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_same(
    x: jax.Array, kernel: jax.Array, implementation: Implementation = "auto", product_dtype: ProductDtype = "float32"
) -> jax.Array:
    """Convolves with stride 1 (cross-correlation) and keeps the side.

    Args: x (B, h, w, C); kernel (3, 3, C, O); implementation, product_dtype, see the module's docstring.
    Returns: (B, h, w, O), in x's dtype.
    """
    if _is_for_cpu(implementation) and min(kernel.shape[2:]) >= MANY_CHANNELS:
        forward = functools.partial(winograd.forward, stride=1)
        return _call_wide(forward, x, kernel, 1, dtype=product_dtype)
    if _is_for_cpu(implementation) and min(kernel.shape[2:]) >= FEW_CHANNELS and product_dtype == "bfloat16":
        return _call_wide(im2col.forward_same, x, kernel, dtype=product_dtype)
    return _lax_forward_same(x, kernel)


def _save_inputs_of_conv_same(x: jax.Array, kernel: jax.Array, *settings: str) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_same(x, kernel, *settings), (x, kernel)


def _differentiate_conv_same(
    implementation: Implementation, product_dtype: ProductDtype, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # The transpose is the same convolution with a rotated kernel.
    dx = conv_same(dy, kernel[::-1, ::-1].swapaxes(2, 3), implementation, product_dtype)
    if _is_for_cpu(implementation) and min(kernel.shape[2:]) >= MANY_CHANNELS:
        weight_gradient = functools.partial(winograd.weight_gradient, stride=1)
        return dx, _call_wide(weight_gradient, x, dy, 3, 1, dtype=product_dtype)
    if _is_for_cpu(implementation) and min(kernel.shape[2:]) >= FEW_CHANNELS:
        return dx, _call_wide(im2col.weight_gradient_same, x, dy, dtype=product_dtype)
    like = jax.ShapeDtypeStruct(kernel.shape, x.dtype)
    return dx, jax.linear_transpose(lambda kernel: _lax_forward_same(x, kernel), like)(dy)[0]


conv.defvjp(_save_inputs_of_conv, _differentiate_conv)
conv_same.defvjp(_save_inputs_of_conv_same, _differentiate_conv_same)
conv_transpose.defvjp(_save_inputs_of_conv_transpose, _differentiate_conv_transpose)


def conv_grouped(
    x: jax.Array, kernel: jax.Array, implementation: Implementation = "auto", product_dtype: ProductDtype = "float32"
) -> jax.Array:
    """Convolves each group of channels alone, with stride 1, and keeps the side.

    On a CPU, groups are merged into convolutions of up to 64 channels, with zeros between groups. XLA's own gradient of a grouped
    convolution is more than ten times slower there (timed once).

    Args: x (B, h, w, C); kernel (3, 3, C / groups, O); implementation, product_dtype, see the module's docstring.
    Returns: (B, h, w, O), in x's dtype. Output channel o is in group o * groups // O.
    """
    groups = x.shape[3] // kernel.shape[2]
    if not _is_for_cpu(implementation):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS, feature_group_count=groups)
    merged = math.gcd(groups, max(1, MANY_CHANNELS // kernel.shape[2]))  # groups in each convolution

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv_same(x, expand_groups(kernel, merged), implementation, product_dtype)

    if merged == groups:
        return convolve(x, kernel)
    split = (array.reshape(*array.shape[:3], groups // merged, -1) for array in (x, kernel))
    return jax.vmap(convolve, (3, 3), 3)(*split).reshape(*x.shape[:3], -1)


def expand_groups(kernel: jax.Array, groups: int) -> jax.Array:
    """Makes the ungrouped kernel of the same convolution: (k, k, C / groups, O) -> (k, k, C, O), zero between groups."""
    _, _, inputs, outputs = kernel.shape
    group_of_input, group_of_output = jnp.arange(groups * inputs) // inputs, jnp.arange(outputs) // (outputs // groups)
    is_inside = group_of_input[:, None] == group_of_output[None]
    return jnp.where(is_inside[None, None], jnp.tile(kernel, (1, 1, groups, 1)), 0)


def _compute_forward(
    x: jax.Array, kernel: jax.Array, padding: str, implementation: Implementation, product_dtype: ProductDtype
) -> jax.Array:
    if _is_for_cpu(implementation):
        module = _select_cpu_module(x.shape[3])
        return _call_wide(module.forward, x, kernel, compute_padding(kernel.shape[0], padding)[0], dtype=product_dtype)
    return _lax_forward(x, kernel, padding)


def _compute_input_gradient(
    y: jax.Array, kernel: jax.Array, padding: str, implementation: Implementation, product_dtype: ProductDtype
) -> jax.Array:
    if _is_for_cpu(implementation):
        module = _select_cpu_module(kernel.shape[2])
        return _call_wide(module.input_gradient, y, kernel, compute_padding(kernel.shape[0], padding)[0], dtype=product_dtype)
    batch, h, w, _ = y.shape
    like = jax.ShapeDtypeStruct((batch, 2 * h, 2 * w, kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _lax_forward(x, kernel, padding), like)(y)[0]


def _compute_weight_gradient(
    x: jax.Array, dy: jax.Array, k: int, padding: str, implementation: Implementation, product_dtype: ProductDtype
) -> jax.Array:
    if _is_for_cpu(implementation):
        module = _select_cpu_module(x.shape[3])
        return _call_wide(module.weight_gradient, x, dy, k, compute_padding(k, padding)[0], dtype=product_dtype)
    like = jax.ShapeDtypeStruct((k, k, x.shape[3], dy.shape[3]), x.dtype)
    return jax.linear_transpose(lambda kernel: _lax_forward(x, kernel, padding), like)(dy)[0]


def _is_for_cpu(implementation: Implementation) -> bool:
    return implementation == "auto" and jax.default_backend() == "cpu"


def choose_activation_dtype(compute_dtype: str, implementation: Implementation = "auto") -> str:
    """Chooses the dtype of the arrays between layers. On a CPU bfloat16 is for the operands of products only."""
    is_float32 = compute_dtype == "auto" or (compute_dtype == "bfloat16" and _is_for_cpu(implementation))
    return "float32" if is_float32 else compute_dtype


def _select_cpu_module(channels_large: int) -> ModuleType:
    return winograd if channels_large >= FEW_CHANNELS else im2col


def _call_wide(role: Callable[..., jax.Array], a: jax.Array, b: jax.Array, *rest: int, dtype: str) -> jax.Array:
    """Returns role(a, b, *rest, dtype) in a's dtype. Everything but the products is computed in float32 or wider."""
    wide = jnp.promote_types(a.dtype, jnp.float32)  # Winograd's sums would round several times
    product_dtype = jnp.bfloat16 if dtype == "bfloat16" else wide
    return role(a.astype(wide), b.astype(wide), *rest, product_dtype).astype(a.dtype)


def _lax_forward(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (2, 2), [compute_padding(kernel.shape[0], padding)] * 2, dimension_numbers=DIMENSIONS
    )


def _lax_forward_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)
