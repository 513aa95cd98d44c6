"""The convolution and its transpose equal PyTorch and lax, and each is the transpose of the other."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import parity_inputs as inputs
import pytest
from conv_roles import operations
from jax import lax
from numpy.testing import assert_allclose, assert_array_equal
from torch_weights import conv_kernel

from dcgan_jax.gan.conv import FEW_CHANNELS, MANY_CHANNELS, conv, conv_grouped, conv_same, conv_transpose, expand_groups

FIXTURE = np.load(Path(__file__).parents[2] / "fixtures" / "torch_parity.npz", allow_pickle=False)


def channels_last(maps):
    return np.asarray(maps).transpose(0, 2, 3, 1)


def normal(seed, shape, dtype=jnp.float32):
    return jnp.asarray(np.random.Generator(np.random.Philox(seed)).standard_normal(shape), dtype)


def with_gradients(function, x, kernel, dy):
    """Returns (y, dx, dw) of y = function(x, kernel) with the upstream gradient dy."""
    y, pullback = jax.vjp(function, x, kernel)
    return y, *pullback(dy)


# ---- PyTorch ----


@pytest.fixture(scope="module", params=[name for name, case in inputs.CONV_CASES.items() if case.stride == 2])
def torch_case(request):
    """Returns (PyTorch's (y, dx, dw) in our layouts, ours, our y with a flipped kernel), computed in one program to save time."""
    name = request.param
    case = inputs.CONV_CASES[name]
    x, weight, _ = inputs.conv_inputs(name)
    y, dx, dw = (FIXTURE[f"conv/{name}/{part}"] for part in ("y", "dx", "dw"))
    function = partial(conv_transpose if case.transposed else conv, padding="same" if case.same else "symmetric")

    @jax.jit
    def run(x, kernel, dy):
        return with_gradients(function, x, kernel, dy), function(x, kernel[::-1, ::-1])

    ours, flipped = run(channels_last(x), conv_kernel(weight), channels_last(inputs.conv_upstream(name, y.shape)))
    return (channels_last(y), channels_last(dx), conv_kernel(dw)), ours, flipped


def test_values_and_gradients_equal_pytorch(torch_case):
    for expected, got in zip(*torch_case[:2], strict=True):
        assert_allclose(got, expected, atol=1e-5, rtol=0)


def test_flipped_kernel_gives_other_numbers(torch_case):
    """A flipped kernel gives the right shape, so only the numbers can show the mistake."""
    (expected, _, _), _, flipped = torch_case
    assert flipped.shape == expected.shape
    assert np.abs(flipped - expected).max() > 0.1


def test_paddings_differ_for_kernel_5_only():
    """The two paddings are equal for kernel 4."""
    x = normal(0, (1, 8, 8, 3))
    for k, same in ((4, True), (5, False)):
        kernel = normal(1, (k, k, 3, 2))
        assert np.array_equal(conv(x, kernel, "same"), conv(x, kernel, "symmetric")) == same


# ---- lax, the reference with its own gradients, for other sizes and channels. FEW_CHANNELS separates two paths on CPU. ----


def lax_conv(x, kernel, padding):
    pads = "SAME" if padding == "same" else [((kernel.shape[0] - 1) // 2,) * 2] * 2  # PyTorch's padding 1 and 2
    return lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def lax_conv_transpose(y, kernel, padding):
    batch, h, w, _ = y.shape
    x = jnp.zeros((batch, 2 * h, 2 * w, kernel.shape[2]), y.dtype)
    return jax.vjp(lambda x: lax_conv(x, kernel, padding), x)[1](y)[0]


def penalty(function, x, kernel, dy):
    """Computes the squared gradient of a critic by its images. Without tanh its gradient by x would be 0."""
    return jnp.sum(jax.grad(lambda x: jnp.sum(dy * jnp.tanh(function(x, kernel))))(x) ** 2)


CASES = [  # k, padding, batch, h, w of the small map, channels of the large and of the small one
    (4, "symmetric", 1, 1, 1, 1, 1),
    (4, "symmetric", 2, 4, 4, 3, 5),
    (4, "same", 2, 3, 5, FEW_CHANNELS, 2),
    (5, "symmetric", 2, 4, 4, 3, 1),
    (5, "symmetric", 1, 1, 2, FEW_CHANNELS + 1, 3),
    (5, "same", 3, 4, 2, 1, 7),
    (5, "same", 1, 3, 1, FEW_CHANNELS, 4),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def lax_case(request):
    """Returns {property: pairs of (our result, lax's)}, from one compiled program per case."""
    k, padding, batch, h, w, large, small = request.param

    @jax.jit
    def run(x, kernel, y):
        results = {"values and gradients": [], "gradients of gradients": []}
        for ours, theirs, image, upstream in ((conv, lax_conv, x, y), (conv_transpose, lax_conv_transpose, y, x)):
            got, expected = (
                (
                    with_gradients(partial(function, padding=padding), image, kernel, upstream),
                    jax.grad(partial(penalty, partial(function, padding=padding)), (0, 1))(image, kernel, upstream),
                )
                for function in (ours, theirs)
            )
            for name, a, b in zip(results, got, expected, strict=True):
                results[name] += zip(a, b, strict=True)
        image, transposed = conv(x, kernel, padding), conv_transpose(y, kernel, padding)
        largest = jnp.linalg.norm(image) * jnp.linalg.norm(y)  # rounding of both inner products is relative to this
        results["transposed Jacobian"] = [(jnp.vdot(image, y) / largest, jnp.vdot(x, transposed) / largest)]
        return results

    return run(normal(1, (batch, 2 * h, 2 * w, large)), normal(2, (k, k, large, small)), normal(3, (batch, h, w, small)))


@pytest.mark.parametrize("property_name", ["values and gradients", "gradients of gradients", "transposed Jacobian"])
def test_implementations_equal_lax_and_each_other(lax_case, property_name):
    # The last property compares our two functions: the Jacobian of the transpose is the transposed Jacobian of the convolution.
    # Tolerance: float32 sums of up to 400 products in another order. In gradients of gradients, sums of such sums: 2.1e-5 of the
    # largest value was measured on a CPU without AVX-512.
    tolerance = 6e-5 if property_name == "gradients of gradients" else 2e-5
    for ours, theirs in lax_case[property_name]:
        assert ours.shape == theirs.shape
        assert_allclose(ours, theirs, atol=tolerance * max(1, np.abs(theirs).max()), rtol=0)


@pytest.mark.parametrize("channels", [MANY_CHANNELS, FEW_CHANNELS, 5])
def test_convolution_that_keeps_the_side_equals_lax(channels):
    x, kernel, dy = normal(1, (2, 5, 6, channels)), normal(2, (3, 3, channels, channels)), normal(3, (2, 5, 6, channels))

    def reference(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.jit
    def run(x, kernel, dy):
        return [
            (with_gradients(function, x, kernel, dy), jax.grad(partial(penalty, function), (0, 1))(x, kernel, dy))
            for function in (conv_same, reference)
        ]

    (ours, ours_second), (theirs, theirs_second) = run(x, kernel, dy)
    for got, expected in zip((*ours, *ours_second), (*theirs, *theirs_second), strict=True):
        assert_allclose(got, expected, atol=6e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("groups, each, out", [(8, 16, 128), (4, 16, 64), (3, 2, 12), (1, 4, 5)])
def test_grouped_convolution_equals_lax(groups, each, out):
    x, kernel, dy = normal(1, (2, 4, 5, groups * each)), normal(2, (3, 3, each, out)), normal(3, (2, 4, 5, out))

    @jax.jit
    def run(x, kernel, dy):
        functions = (conv_grouped, partial(conv_grouped, implementation="lax"))
        return [
            (*with_gradients(function, x, kernel, dy), *jax.grad(partial(penalty, function), (0, 1))(x, kernel, dy))
            for function in functions
        ]

    for got, expected in zip(*run(x, kernel, dy), strict=True):
        assert_allclose(got, expected, atol=6e-5 * np.abs(expected).max(), rtol=0)


def test_products_of_the_grouped_convolution_can_be_rounded():
    x, kernel, dy = normal(1, (2, 6, 6, 32)), normal(2, (3, 3, 16, 32)), normal(3, (2, 6, 6, 32))
    exact, rounded = (
        with_gradients(partial(conv_grouped, product_dtype=dtype), x, kernel, dy) for dtype in ("float32", "bfloat16")
    )
    errors = [np.abs(a - b).max() / np.abs(a).max() for a, b in zip(exact, rounded, strict=True)]
    assert 1e-4 < min(errors) < max(errors) < 1e-2


def test_groups_do_not_see_each_other():
    kernel = normal(0, (3, 3, 2, 9))  # three groups of two inputs and three outputs
    expanded = np.asarray(expand_groups(kernel, 3)).reshape(3, 3, 3, 2, 3, 3)
    for i in range(3):
        for j in range(3):
            assert_array_equal(expanded[:, :, i, :, j], kernel[:, :, :, 3 * j : 3 * j + 3] if i == j else 0)


@pytest.mark.parametrize("channels, out", [(MANY_CHANNELS, MANY_CHANNELS + 1), (FEW_CHANNELS, FEW_CHANNELS + 1)])
def test_products_of_the_convolution_that_keeps_the_side_can_be_rounded(channels, out):
    x, kernel, dy = normal(1, (2, 6, 6, channels)), normal(2, (3, 3, channels, out)), normal(3, (2, 6, 6, out))
    exact, rounded = (with_gradients(partial(conv_same, product_dtype=dtype), x, kernel, dy) for dtype in ("float32", "bfloat16"))
    errors = [np.abs(a - b).max() / np.abs(a).max() for a, b in zip(exact, rounded, strict=True)]
    assert 1e-4 < min(errors) < max(errors) < 1e-2


# ---- Backends ----


@pytest.mark.parametrize("large", [3, FEW_CHANNELS])
@pytest.mark.parametrize("function, reference", [(conv, lax_conv), (conv_transpose, lax_conv_transpose)])
def test_other_backends_use_lax_alone(function, reference, large, monkeypatch):
    """GPU and TPU use lax, and the numbers are the same."""
    x, kernel, y = normal(1, (2, 6, 8, large)), normal(2, (5, 5, large, 2)), normal(3, (2, 3, 4, 2))
    arrays = (x, kernel, y) if function is conv else (y, kernel, x)
    function, reference = (partial(function, padding="same") for function in (function, reference))

    def kinds():  # the primitives of products in values, gradients and gradients of gradients
        traced = operations(
            lambda *arrays: (with_gradients(function, *arrays), jax.grad(partial(penalty, function), (0, 1))(*arrays)), *arrays
        )
        return {operation.primitive.name for operation in traced} & {"dot_general", "conv_general_dilated"}

    assert kinds() == {"dot_general"}
    monkeypatch.setattr("dcgan_jax.gan.conv.jax.default_backend", lambda: "gpu")
    assert kinds() == {"conv_general_dilated"}
    ours, theirs = jax.jit(lambda *arrays: [with_gradients(each, *arrays) for each in (function, reference)])(*arrays)
    for got, expected in zip(ours, theirs, strict=True):
        assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("large", [3, FEW_CHANNELS])
@pytest.mark.parametrize("function", [conv, conv_transpose])
def test_implementation_lax_is_lax_alone(function, large):
    """This holds for values, gradients and gradients of gradients."""
    x, kernel, y = normal(1, (2, 6, 8, large)), normal(2, (5, 5, large, 2)), normal(3, (2, 3, 4, 2))
    arrays = (x, kernel, y) if function is conv else (y, kernel, x)
    plain = partial(function, padding="same", implementation="lax")
    traced = operations(
        lambda *arrays: (with_gradients(plain, *arrays), jax.grad(partial(penalty, plain), (0, 1))(*arrays)), *arrays
    )
    kinds = {operation.primitive.name for operation in traced} & {"dot_general", "conv_general_dilated"}
    assert kinds == {"conv_general_dilated"}


@pytest.mark.parametrize("k, large", [(5, 3), (4, FEW_CHANNELS), (5, FEW_CHANNELS)])
@pytest.mark.parametrize("function, reference", [(conv, lax_conv), (conv_transpose, lax_conv_transpose)])
def test_bfloat16_in_gives_bfloat16_out(function, reference, k, large):
    x, kernel, y = normal(1, (2, 8, 8, large)), normal(2, (k, k, large, 8)), normal(3, (2, 4, 4, 8))
    arrays = [array.astype(jnp.bfloat16) for array in ((x, kernel, y) if function is conv else (y, kernel, x))]

    @jax.jit
    def run(*arrays):
        exact = [array.astype(jnp.float32) for array in arrays]  # the same rounded inputs, computed in float32
        return (
            with_gradients(partial(function, padding="same"), *arrays),
            with_gradients(partial(reference, padding="same"), *exact),
        )

    for got, expected in zip(*run(*arrays), strict=True):
        assert got.dtype == jnp.bfloat16
        # bfloat16 has 8 bits of mantissa, so each rounding is 2^-8. On CPU the sums are in float32.
        assert_allclose(got.astype(jnp.float32), expected, atol=0.02 * np.abs(expected).max(), rtol=0)
