"""The im2col convolution equals lax, and each of its routines is one GEMM."""

import pytest
from conv_roles import equal_to_the_largest, gemms, lax_roles, multiplications, normal_arrays, results, roles

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


@pytest.mark.parametrize("role", list(roles(im2col)))
@pytest.mark.parametrize("k, taps", [(4, 16), (5, 36)])  # taps of k rounded up to even
def test_each_convolution_is_one_gemm_of_its_taps(k, taps, role):
    [gemm] = gemms(roles(im2col)[role], *normal_arrays(k, 2, 3, 5, 3, 7))
    assert multiplications([gemm]) == (2 * 3 * 5) * taps * 3 * 7
