"""Matrix products on a CPU whose operands may be rounded to bfloat16, with sums in float32.

XLA gives a product of two bfloat16 matrices with a float32 result to its YNNPACK kernels, which use the CPU's bfloat16
instructions (AVX512-BF16 or AMX): 1.6 to five times the speed of float32 (docs/speed.md). It does not do so if the rows of both
matrices are contracted, so one of them is transposed first.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from dcgan_jax.gan.conv.no_fusion import call_unfused


def multiply(a: jax.Array, b: jax.Array, contract: tuple[int, int] = (1, 0)) -> jax.Array:
    """Multiplies two matrices and sums over one axis of each. Returns float32, or float64 for operands of float64.

    a, b: of the same dtype. contract: the axes that are summed over; (0, 0) is a' b.
    """
    # With several devices, the transposed matrix would be gathered on all of them.
    if a.dtype == jnp.bfloat16 and contract == (0, 0) and jax.device_count() == 1:
        a, contract = transpose(a), (1, 0)
    result = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=result)


def transpose(a: jax.Array) -> jax.Array:
    """Transposes a matrix in memory. XLA would move a plain transpose into the product."""
    return call_unfused(lambda a: with_layout_constraint(a.T, Layout((0, 1))), a)
