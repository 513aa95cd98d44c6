"""The three roles of a stride-2 convolution, by our modules and by lax, and the operations of a traced function."""

import math
from functools import partial

import jax
import numpy as np
from jax import lax
from numpy.testing import assert_allclose

from dcgan_jax.gan.conv import DIMENSIONS, compute_padding


def normal_arrays(k, batch, h, w, large, small):
    """Makes random x (B, 2h, 2w, large), kernel (k, k, large, small) and y (B, h, w, small), all float32."""
    draw = partial(np.random.Generator(np.random.Philox(k)).standard_normal, dtype=np.float32)
    return draw((batch, 2 * h, 2 * w, large)), draw((k, k, large, small)), draw((batch, h, w, small))


def roles(module, padding="symmetric", dtype="float32"):
    """Returns {role: function(x, kernel, y)} of the module winograd or im2col. y: the small image, or its gradient."""

    def before(kernel):
        return compute_padding(len(kernel), padding)[0]

    return {
        "forward": lambda x, kernel, y: module.forward(x, kernel, before(kernel), dtype),
        "input gradient": lambda x, kernel, y: module.input_gradient(y, kernel, before(kernel), dtype),
        "weight gradient": lambda x, kernel, y: module.weight_gradient(x, y, len(kernel), before(kernel), dtype),
    }


def lax_roles(padding):
    """Returns the same roles by lax's convolution and its linear transposes."""

    def conv(x, kernel):
        pads = "SAME" if padding == "same" else [((len(kernel) - 1) // 2,) * 2] * 2  # padding 1 or 2 in PyTorch
        return lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=DIMENSIONS)

    return {
        "forward": lambda x, kernel, y: conv(x, kernel),
        "input gradient": lambda x, kernel, y: jax.linear_transpose(lambda x: conv(x, kernel), x)(y)[0],
        "weight gradient": lambda x, kernel, y: jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(y)[0],
    }


def results(arrays, *functions):
    """Computes {role: result} for each {role: function} in one program. Each call compiles again, so patched constants apply."""

    def run(*arrays):
        return [{role: function(*arrays) for role, function in by_role.items()} for by_role in functions]

    return jax.jit(run)(*arrays)


def equal_to_the_largest(got, expected, tolerance):
    """Compares each role with a tolerance relative to its largest number, because rounding of a sum scales with it."""
    assert got.keys() == expected.keys()
    for role in expected:
        assert_allclose(got[role], expected[role], atol=tolerance * np.abs(expected[role]).max(), rtol=0, err_msg=role)


def operations(function, *arrays):
    """Traces function(*arrays) again at each call. Returns: all its equations, also those of nested programs."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)  # an open or a closed jaxpr
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return list(walk(jax.make_jaxpr(lambda *arrays: function(*arrays))(*arrays).jaxpr))


def gemms(function, *arrays):
    return [operation for operation in operations(function, *arrays) if operation.primitive.name == "dot_general"]


def multiplications(gemms):
    """Counts the scalar multiplications of all matrix products."""

    def of(gemm):
        (contracted, _), _ = gemm.params["dimension_numbers"]
        left, right = (operand.aval for operand in gemm.invars)
        return left.size * right.size // math.prod(left.shape[axis] for axis in contracted)

    return sum(map(of, gemms))
