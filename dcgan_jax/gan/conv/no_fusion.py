"""A border that XLA does not fuse across, for the CPU kernels."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

Result = TypeVar("Result")


def call_unfused(function: Callable[..., Result], *arrays: object) -> Result:
    """function(*arrays), on CPU compiled as a program of its own: what goes in and what comes out exists in memory.

    arrays may be lists of them.

    XLA's CPU backend fuses whole chains of pads, slices and transposes into one loop, in which each term computes its input's
    indices anew, unvectorised: up to five times slower than the steps one by one. It drops `lax.optimization_barrier` before
    it fuses; a call marked so stays. `function` should use `lax`: jnp functions that are jitted would become programs as well.
    """
    if jax.default_backend() != "cpu":
        return function(*arrays)
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*arrays)
