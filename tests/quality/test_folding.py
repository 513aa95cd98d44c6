"""BN folded into a convolution: the same outputs, and the names of wrong arrays."""

import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose

from dcgan_jax.quality.folding import check_shapes, fold_convolution


def test_folded_convolution_equals_convolution_and_norm():
    random = np.random.Generator(np.random.Philox(0))
    x, kernel = random.standard_normal((2, 3, 6, 6), np.float32), random.standard_normal((4, 3, 3, 3), np.float32)
    gain, bias, mean, variance = (random.uniform(0.5, 1.5, 4).astype(np.float32) for _ in range(4))
    columns = (array.reshape(1, 4, 1, 1) for array in (gain, bias, mean, variance))
    gain_c, bias_c, mean_c, variance_c = columns
    plain = (lax.conv(x, kernel, (1, 1), "VALID") - mean_c) * gain_c / np.sqrt(variance_c + 0.1) + bias_c
    norm = {"bn.weight": gain, "bn.bias": bias, "bn.running_mean": mean, "bn.running_var": variance}
    folded, shift = fold_convolution(norm | {"conv.weight": kernel}, "conv", "bn", 0.1)
    assert folded.shape == (3, 3, 3, 4) and folded.dtype == shift.dtype == np.float32
    ours = lax.conv(x, folded.transpose(3, 2, 0, 1), (1, 1), "VALID") + shift.reshape(1, 4, 1, 1)
    assert_allclose(ours, plain, atol=1e-5)


def test_wrong_arrays_are_named():
    shapes = {"a": (2,), "b": (3, 1)}
    check_shapes({"a": np.zeros(2), "b": np.zeros((3, 1)), "more": np.zeros(1)}, shapes, "the net's")
    with pytest.raises(ValueError, match=r"^a is missing: these are not the net's weights$"):
        check_shapes({"b": np.zeros((3, 1))}, shapes, "the net's")
    with pytest.raises(ValueError, match=r"^b is \(3,\), not \(3, 1\): these are not the net's weights$"):
        check_shapes({"a": np.zeros(2), "b": np.zeros(3)}, shapes, "the net's")
