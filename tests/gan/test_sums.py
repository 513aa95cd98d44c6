import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_roles import operations
from numpy.testing import assert_allclose, assert_array_equal

from dcgan_jax.gan import sums


@pytest.fixture(params=["one device", "two devices"])
def devices(request, monkeypatch):
    """The tests have two devices, where sums are XLA's own."""
    if request.param == "one device":
        monkeypatch.setattr(sums.jax, "device_count", lambda: 1)
    return request.param


def normal(seed, *shape):
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape, np.float32)


@pytest.mark.parametrize("rows", [1, 15, 16, 63, 64, 65, 1023, 1024, 4099])
def test_sum_of_any_number_of_rows_equals_float64(rows, devices):
    x, y = normal(rows, rows, 3) + 0.5, normal(rows + 1, rows, 3)
    got = jax.jit(lambda x, y: sums.sum_rows(lambda x, y: x * y, x, y))(x, y)
    assert_allclose(got, (x.astype(np.float64) * y).sum(0), rtol=1e-5, atol=1e-4)


def test_large_sum_is_as_exact_as_pairwise_summation(monkeypatch):
    monkeypatch.setattr(sums.jax, "device_count", lambda: 1)
    x = np.full((2**18, 2), 0.1, np.float32)
    assert_allclose(jax.jit(lambda x: sums.sum_rows(lambda x: x, x))(x), x.astype(np.float64).sum(0), rtol=1e-6)


def test_xla_reduces_few_rows_only(monkeypatch):
    """XLA's own sum of many rows is slow on a CPU."""
    x = jnp.ones((4096, 3))

    def count_reduced():
        return max(
            operation.invars[0].aval.shape[0]
            for operation in operations(lambda x: sums.sum_rows(lambda x: x, x), x)
            if operation.primitive.name == "reduce_sum"
        )

    assert count_reduced() == 4096  # two devices: a slice would be on some of them only
    monkeypatch.setattr(sums.jax, "device_count", lambda: 1)
    assert count_reduced() <= sums.FEW_ROWS
    monkeypatch.setattr(sums.jax, "default_backend", lambda: "gpu")
    assert count_reduced() == 4096


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_and_its_gradients_equal_jaxs(dtype, devices):
    x, bias, dy = jnp.asarray(normal(0, 3, 8, 8, 5), dtype), normal(1, 5), jnp.asarray(normal(2, 3, 8, 8, 5), dtype)

    def run(add):
        y, pullback = jax.vjp(add, x, bias)
        return y, *pullback(dy)

    ours, theirs = run(sums.add_bias), run(lambda x, bias: x + bias.astype(x.dtype)[None, None, None])
    assert_array_equal(ours[0], theirs[0])
    assert_array_equal(ours[1], theirs[1])
    exact = np.asarray(dy, np.float64).sum((0, 1, 2))
    assert ours[2].dtype == np.float32
    assert_allclose(ours[2], exact, rtol=1e-5, atol=1e-4)
