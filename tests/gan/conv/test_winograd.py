"""Winograd convolution: its identity, equality with lax, bfloat16, batches in parts, and the number of products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_roles import equal_to_the_largest, gemms, lax_roles, multiplications, normal_arrays, results, roles
from jax import lax
from numpy.testing import assert_allclose

from dcgan_jax.gan.conv import DIMENSIONS, im2col, winograd

PRODUCTS = {4: 9, 5: 16}  # kernel size -> GEMMs per part
ROLES = list(roles(winograd))


@pytest.mark.parametrize("taps", [2, 3])
def test_matrices_filter_as_a_plain_filter_does(taps):
    data, kernel, output = winograd.MATRICES[taps]
    normal = np.random.Generator(np.random.Philox(taps)).standard_normal
    for _ in range(20):
        d, g = normal(taps + 1), normal(taps)  # float64
        plain = [sum(d[i + t] * g[t] for t in range(taps)) for i in range(2)]
        assert_allclose(output.T @ ((kernel @ g) * (data @ d)), plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "k, padding, batch, h, w, large, small",
    [
        # A tile is two outputs wide, so odd sides leave half a tile. In the largest cases, sums have 1024 to 1600 terms.
        (4, "symmetric", 1, 1, 1, 16, 17),
        (4, "same", 1, 3, 4, 17, 16),
        (4, "symmetric", 3, 4, 1, 16, 1),
        (4, "symmetric", 2, 8, 8, 64, 64),
        (5, "symmetric", 1, 1, 5, 17, 64),
        (5, "same", 1, 1, 1, 16, 3),
        (5, "same", 2, 5, 2, 64, 16),
        (5, "symmetric", 2, 8, 8, 64, 64),
        (5, "same", 2, 7, 8, 64, 64),
    ],
)
def test_forward_and_gradients_equal_lax(k, padding, batch, h, w, large, small):
    arrays = normal_arrays(k, batch, h, w, large, small)
    ours, theirs = results(arrays, roles(winograd, padding), lax_roles(padding))
    # Additions before the multiplications lose some precision: up to 1.2e-6 was measured, including lax's own rounding.
    equal_to_the_largest(ours, theirs, 1e-5)


@pytest.mark.parametrize("batch, h, w, channels, out", [(1, 1, 1, 1, 1), (2, 5, 4, 3, 7), (2, 8, 8, 32, 16)])
def test_stride_1_equals_lax(batch, h, w, channels, out):
    normal = np.random.Generator(np.random.Philox(channels)).standard_normal
    x, y, kernel = (normal(shape, np.float32) for shape in ((batch, h, w, channels), (batch, h, w, out), (3, 3, channels, out)))

    def lax_conv(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)

    ours = {
        "forward": lambda x, kernel, y: winograd.forward(x, kernel, 1, "float32", stride=1),
        "input gradient": lambda x, kernel, y: winograd.input_gradient(y, kernel, 1, "float32", stride=1),
        "weight gradient": lambda x, kernel, y: winograd.weight_gradient(x, y, 3, 1, "float32", stride=1),
    }
    theirs = {
        "forward": lambda x, kernel, y: lax_conv(x, kernel),
        "input gradient": lambda x, kernel, y: jax.linear_transpose(lambda x: lax_conv(x, kernel), x)(y)[0],
        "weight gradient": lambda x, kernel, y: jax.linear_transpose(lambda kernel: lax_conv(x, kernel), kernel)(y)[0],
    }
    equal_to_the_largest(*results((x, kernel, y), ours, theirs), 1e-5)


@pytest.mark.parametrize("module, large", [(winograd, 64), (im2col, 4)])
@pytest.mark.parametrize("k", [4, 5])
def test_bfloat16_rounds_the_operands_of_products_alone(k, module, large, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    arrays = normal_arrays(k, 2, 8, 8, large, 64)
    rounded, exact = results(arrays, roles(module, dtype="bfloat16"), roles(module))
    # Each operand is rounded by up to 2^-9. The errors of a sum's terms cancel in part: 3e-3 to 5e-3 of the largest was measured.
    equal_to_the_largest(rounded, exact, 1e-2)
    for role, function in roles(module, dtype="bfloat16").items():
        assert np.abs(rounded[role] - exact[role]).max() > 1e-4 * np.abs(exact[role]).max()
        for gemm in gemms(function, *arrays):
            assert {operand.aval.dtype for operand in gemm.invars} == {jnp.dtype("bfloat16")}
            assert gemm.outvars[0].aval.dtype == np.float32
            (contracted, _), _ = gemm.params["dimension_numbers"]
            assert contracted == (1,), "XLA's fast products contract the columns of the first matrix"


def test_bfloat16_with_stride_1_is_close_to_float32():
    normal = np.random.Generator(np.random.Philox(0)).standard_normal
    x, kernel, y = (normal(shape, np.float32) for shape in ((2, 8, 8, 64), (3, 3, 64, 32), (2, 8, 8, 32)))

    def run(dtype):
        return {
            "forward": lambda x, kernel, y: winograd.forward(x, kernel, 1, dtype, stride=1),
            "input gradient": lambda x, kernel, y: winograd.input_gradient(y, kernel, 1, dtype, stride=1),
            "weight gradient": lambda x, kernel, y: winograd.weight_gradient(x, y, 3, 1, dtype, stride=1),
        }

    rounded, exact = results((x, kernel, y), run("bfloat16"), run("float32"))
    equal_to_the_largest(rounded, exact, 1e-2)
    assert all(np.abs(rounded[role] - exact[role]).max() > 1e-4 * np.abs(exact[role]).max() for role in exact)


# ---- Parts of the batch ----


def parts(role, k, batch):
    """Returns the number of images in each part, from the rows of its first GEMM. An image has 2 x 1 tiles."""
    found = gemms(roles(winograd)[role], *normal_arrays(k, batch, 3, 2, 16, 5))
    return [gemm.invars[0].aval.shape[0] / 2 for gemm in found[:: PRODUCTS[k]]]


@pytest.mark.parametrize("k", [4, 5])
def test_uneven_parts_of_the_batch_change_nothing(k, monkeypatch):
    arrays = normal_arrays(k, 7, 3, 2, 16, 5)
    [whole] = results(arrays, roles(winograd))
    image_bytes = 4 * PRODUCTS[k] * 2 * (4 * 16 + 5)  # operands of 2 tiles: 4C numbers of data and O of outputs per product
    monkeypatch.setattr(winograd, "PART_BYTES", 3 * image_bytes)
    monkeypatch.setattr(winograd.jax, "device_count", lambda: 1)
    for role in ROLES:
        assert parts(role, k, batch=7) == [2, 2, 3]
    [in_parts] = results(arrays, roles(winograd))
    equal_to_the_largest(in_parts, whole, 1e-6)


@pytest.mark.parametrize("role", ROLES)
def test_batch_parts_are_even_and_few(role, monkeypatch):
    """There are at most as many parts as images, and at most MOST_PARTS."""
    batch = 2 * winograd.MOST_PARTS + 3
    assert parts(role, 4, batch) == [batch]
    monkeypatch.setattr(winograd, "PART_BYTES", 1)
    assert parts(role, 4, batch) == [batch]  # the tests have two devices, which share the batch: no parts
    monkeypatch.setattr(winograd.jax, "device_count", lambda: 1)
    assert parts(role, 4, batch=3) == [1, 1, 1]
    sizes = parts(role, 4, batch)
    assert len(sizes) == winograd.MOST_PARTS
    assert sum(sizes) == batch
    assert max(sizes) - min(sizes) == 1


# ---- Number of products ----


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("k, products, plain", [(4, 9, 16), (5, 16, 36)])
def test_tile_products_are_9_of_16_and_16_of_36(k, products, plain, role):
    """A tile needs 9 of 16 products with two taps, and 16 of 36 with three."""
    arrays = normal_arrays(k, 2, 4, 4, 16, 8)  # whole tiles
    found = gemms(roles(winograd)[role], *arrays)
    assert len(found) == products
    assert plain * multiplications(found) == products * multiplications(gemms(roles(im2col)[role], *arrays))
