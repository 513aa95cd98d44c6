"""Matrix products with operands in float32, bfloat16 and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_roles import operations
from numpy.testing import assert_allclose

from dcgan_jax.gan.conv.products import multiply, transpose


def normal(seed, *shape):
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape, np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("contract", [(1, 0), (1, 1), (0, 0)])
def test_product_equals_numpys(contract, dtype):
    a, b = (jnp.asarray(normal(axis, *((5, 7) if axis else (7, 5))), dtype) for axis in contract)
    exact = np.tensordot(np.asarray(a, np.float64), np.asarray(b, np.float64), (contract[0:1], contract[1:2]))
    got = jax.jit(lambda a, b: multiply(a, b, contract))(a, b)
    assert got.dtype == np.float32, "sums are in float32"
    assert_allclose(got, exact, atol=2e-6, rtol=0)


def test_transpose_is_made_in_memory():
    """XLA would move a plain transpose into the product, which is slow then."""
    a = normal(0, 5, 7)
    np.testing.assert_array_equal(jax.jit(transpose)(a), a.T)
    assert "layout_constraint" in {operation.primitive.name for operation in operations(transpose, a)}


def test_several_devices_do_not_gather_a_transposed_matrix(monkeypatch):
    a, b = (jnp.asarray(normal(seed, 7, 5), jnp.bfloat16) for seed in range(2))

    def count_copies():
        traced = operations(lambda a, b: multiply(a, b, (0, 0)), a, b)
        return sum(operation.primitive.name == "layout_constraint" for operation in traced)

    for devices, copies in ((1, 1), (2, 0)):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        assert count_copies() == copies
