"""Prevents XLA from fusing operations, for the CPU convolutions."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

Result = TypeVar("Result")


def call_unfused(function: Callable[..., Result], *arrays: object) -> Result:
    """Returns function(*arrays). On CPU it is compiled separately, so that XLA does not fuse it with the operations around it.

    arrays: arrays, or lists of arrays.

    XLA's CPU backend fuses chains of pads, slices and transposes into one loop. It computes each index separately, without vector
    instructions: up to five times slower than separate operations. XLA drops `lax.optimization_barrier` before it fuses, but not
    a call with this attribute. `function` should use `lax`: a jitted jnp function would become a separate program too.
    """
    if jax.default_backend() != "cpu":
        return function(*arrays)
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*arrays)
