"""call_unfused prevents fusion in the compiled program and changes no number."""

import jax
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_array_equal
from tiny import fused_loops

from dcgan_jax.gan.conv.no_fusion import call_unfused

X = np.random.Generator(np.random.Philox(0)).standard_normal((8, 8), np.float32)


def pad(x):
    return lax.pad(x, np.zeros((), x.dtype), [(1, 1, 0), (1, 1, 0)])


def compile_padding(call):
    """Compiles x minus x shifted down by one row, where `call` calls the function that pads."""
    with fused_loops():  # the default emitters; those that conftest.py chooses fuse differently
        return jax.jit(lambda x: x - call(pad, x)[:-2, 1:-1]).lower(X).compile()


def test_call_unfused_stops_xla_fusion():
    program = compile_padding(call_unfused).as_text()
    assert "call(" in program
    assert program.count("fusion(") == 2  # one before the call and one after it


@pytest.mark.parametrize("call", [lambda pad, x: pad(x), lambda pad, x: jax.jit(pad)(x)], ids=["inline", "jit"])
def test_without_call_unfused_xla_fuses_into_one_loop(call):
    # If this fails, XLA fuses less than before. Then measure whether call_unfused is still needed.
    program = compile_padding(call).as_text()
    assert "call(" not in program
    assert program.count("fusion(") == 1


def test_call_unfused_changes_no_number():
    above = np.pad(X, ((1, 0), (0, 0)))[:-1]
    assert_array_equal(compile_padding(call_unfused)(X), X - above)
