"""The im2col convolution equals lax, and each of its routines is one GEMM."""

import functools

import jax
import numpy as np
import pytest
from conv_roles import equal_to_the_largest, gemms, lax_roles, multiplications, normal_arrays, results, roles
from jax import lax
from numpy.testing import assert_allclose

from dcgan_jax.gan.conv import im2col


@pytest.mark.parametrize(
    "k, padding, batch, h, w, large, small",
    [
        (4, "symmetric", 1, 1, 1, 1, 1),
        (4, "same", 2, 3, 5, 3, 17),
        (4, "symmetric", 2, 8, 8, 4, 64),
        (5, "symmetric", 1, 5, 2, 3, 1),
        (5, "same", 2, 1, 4, 1, 16),
        (5, "symmetric", 2, 8, 8, 4, 64),
        (5, "same", 1, 7, 3, 3, 32),
    ],
)
def test_forward_and_gradients_equal_lax(k, padding, batch, h, w, large, small):
    arrays = normal_arrays(k, batch, h, w, large, small)
    ours, theirs = results(arrays, roles(im2col, padding), lax_roles(padding))
    equal_to_the_largest(ours, theirs, 1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 7, 16, 24), (1, 1, 1, 3, 1), (3, 2, 1, 1, 5)], ids=str)
def test_stride_one_equals_lax_and_is_gemms_of_its_taps(shape):
    batch, h, w, channels, out = shape
    rng = np.random.default_rng(0)
    shapes = (batch, h, w, channels), (3, 3, channels, out), (batch, h, w, out)
    x, kernel, dy = (rng.standard_normal(shape, np.float32) for shape in shapes)

    def convolve(kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    expected, pullback = jax.vjp(convolve, kernel)
    for function, arrays, theirs, count in (
        (im2col.forward_same, (x, kernel), expected, 3),
        (im2col.weight_gradient_same, (x, dy), pullback(dy)[0], 1),
    ):
        compute = functools.partial(function, dtype=np.float32)
        assert_allclose(compute(*arrays), theirs, atol=1e-5 * np.abs(theirs).max(), rtol=0)
        found = gemms(compute, *arrays)
        assert len(found) == count
        assert multiplications(found) == batch * h * w * 9 * channels * out


@pytest.mark.parametrize("role", list(roles(im2col)))
@pytest.mark.parametrize("k, taps", [(4, 16), (5, 36)])  # taps of k rounded up to even
def test_each_convolution_is_one_gemm_of_its_taps(k, taps, role):
    [gemm] = gemms(roles(im2col)[role], *normal_arrays(k, 2, 3, 5, 3, 7))
    assert multiplications([gemm]) == (2 * 3 * 5) * taps * 3 * 7
