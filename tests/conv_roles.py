"""The stride-2 convolution's three kernels, a module's and lax's, and what a traced function consists of."""

import math
from functools import partial

import jax
import numpy as np
from jax import lax
from numpy.testing import assert_allclose

from dcgan_jax.gan.conv import DIMENSIONS, compute_padding


def normal_arrays(k, batch, h, w, large, small):
    """x (B, 2h, 2w, large), kernel (k, k, large, small), y (B, h, w, small), all float32."""
    draw = partial(np.random.Generator(np.random.Philox(k)).standard_normal, dtype=np.float32)
    return draw((batch, 2 * h, 2 * w, large)), draw((k, k, large, small)), draw((batch, h, w, small))


def roles(module, padding="symmetric"):
    """{role: function(x, kernel, y)} of winograd or patches. y is the small image, or the gradient with respect to it."""

    def before(kernel):
        return compute_padding(len(kernel), padding)[0]

    return {
        "forward": lambda x, kernel, y: module.forward(x, kernel, before(kernel)),
        "input gradient": lambda x, kernel, y: module.input_gradient(y, kernel, before(kernel)),
        "weight gradient": lambda x, kernel, y: module.weight_gradient(x, y, len(kernel), before(kernel)),
    }


def lax_roles(padding):
    """The same by lax's own convolution and its linear transposes."""

    def conv(x, kernel):
        pads = "SAME" if padding == "same" else [((len(kernel) - 1) // 2,) * 2] * 2  # torch's p1 and p2
        return lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=DIMENSIONS)

    return {
        "forward": lambda x, kernel, y: conv(x, kernel),
        "input gradient": lambda x, kernel, y: jax.linear_transpose(lambda x: conv(x, kernel), x)(y)[0],
        "weight gradient": lambda x, kernel, y: jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(y)[0],
    }


def results(arrays, *functions):
    """For each {role: function} a {role: result}, all from one program; compiled anew at each call: patched constants count."""

    def run(*arrays):
        return [{role: function(*arrays) for role, function in by_role.items()} for by_role in functions]

    return jax.jit(run)(*arrays)


def equal_to_the_largest(got, expected, tolerance):
    """Role by role, to a share of the role's largest number: what a sum's rounding is measured against."""
    assert got.keys() == expected.keys()
    for role in expected:
        assert_allclose(got[role], expected[role], atol=tolerance * np.abs(expected[role]).max(), rtol=0, err_msg=role)


def operations(function, *arrays):
    """All equations that function(*arrays) is traced to, those of the programs within it too; traced anew at each call."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)  # open or closed
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return list(walk(jax.make_jaxpr(lambda *arrays: function(*arrays))(*arrays).jaxpr))


def gemms(function, *arrays):
    return [operation for operation in operations(function, *arrays) if operation.primitive.name == "dot_general"]


def multiplications(gemms):
    """Of numbers, in all."""

    def of(gemm):
        (contracted, _), _ = gemm.params["dimension_numbers"]
        left, right = (operand.aval for operand in gemm.invars)
        return left.size * right.size // math.prod(left.shape[axis] for axis in contracted)

    return sum(map(of, gemms))
