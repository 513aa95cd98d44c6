"""Sums over the rows of a matrix, for the statistics and gradients of channels."""

import functools
from collections.abc import Callable

import jax
from jax import lax

from dcgan_jax.gan.conv.no_fusion import call_unfused

# At most so many rows are summed by XLA's own reduction, which is slow but short then.
FEW_ROWS = 64
SLICES = 16  # 8 and 32 are as fast


def sum_rows(term: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Returns the sum over all rows of term(*arrays): arrays (N, C) -> (C,). term: elementwise.

    On a CPU it adds slices of rows to each other until few rows remain. These additions run at the speed of memory, and their
    rounding errors grow with the logarithm of N. XLA's own reduction is up to twelve times slower, and the fast one that it
    borrows from YNNPACK is wrong in some versions (run/xla_flags.py).
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:  # with several devices, slices would be on some of them only
        return term(*arrays).sum(0)
    rows = call_unfused(functools.partial(_add_slices, term), *arrays)
    while len(rows) > FEW_ROWS:
        rows = call_unfused(functools.partial(_add_slices, lambda rows: rows), rows)
    return rows.sum(0)


def _add_slices(term: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Adds SLICES equal slices of the rows of term(*arrays): (N, C) -> (N // SLICES + the rest, C)."""
    count = len(arrays[0]) // SLICES

    def cut(start: int, stop: int) -> jax.Array:
        return term(*(lax.slice_in_dim(array, start, stop) for array in arrays))

    total = functools.reduce(lax.add, (cut(i * count, (i + 1) * count) for i in range(SLICES)))
    rest = cut(SLICES * count, len(arrays[0]))  # fewer than SLICES rows
    return lax.concatenate([total, rest], 0) if len(rest) else total


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias to each channel: x (B, h, w, C), bias (C,) -> (B, h, w, C), in x's dtype."""
    return x + bias.astype(x.dtype).reshape(1, 1, 1, -1)


def _save_bias(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return add_bias(x, bias), bias


def _differentiate_add_bias(bias: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, sum_rows(lambda dy: dy.astype(bias.dtype), dy.reshape(-1, dy.shape[-1]))


add_bias.defvjp(_save_bias, _differentiate_add_bias)
