"""Batch normalisation over all axes but the last, with gradients that are fast on CPUs.

Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3 and algorithm 1. Parameters and statistics have the names and the
meaning of Flax's `nn.BatchNorm`, whose sums take half of a training step on some CPUs (docs/speed.md).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dcgan_jax.gan.sums import sum_rows


class BatchNorm(nn.Module):
    """Normalises each channel by the batch's mean and variance, or by the running ones, then scales and shifts it.

    train: whether to use the batch's statistics and update the running ones ("batch_stats"). momentum: the share of the running
    statistics that an update keeps. epsilon: added to the variance. scale_init: initialiser of the gains.
    """

    train: bool
    momentum: float
    epsilon: float
    scale_init: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x (..., C). Computes and returns float32, or float64 for x in float64."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        channels = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", self.scale_init, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        if not self.train:
            return apply_statistics(x, mean.value, var.value, scale, bias, self.epsilon)
        y, batch_mean, batch_var = normalize(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        return y


def apply_statistics(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """Normalises x (..., C) by a mean and a variance, then scales and shifts it, each (C,)."""
    mean, gain, bias = (_align(vector, x) for vector in (mean, lax.rsqrt(var + epsilon) * scale, bias))
    return (x - mean) * gain + bias


def _align(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Reshapes a vector of channels for arithmetic with x: (C,) -> (1, ..., 1, C)."""
    return jnp.expand_dims(vector, range(x.ndim - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises x (..., C) by its own statistics. Returns (y (..., C), mean (C,), variance (C,)); the variance divides by N."""
    rows = x.reshape(-1, x.shape[-1])
    mean = sum_rows(lambda x: x, rows) / len(rows)
    mean_square = sum_rows(lambda x: x * x, rows) / len(rows)
    var = jnp.maximum(mean_square - mean * mean, 0)
    return apply_statistics(x, mean, var, scale, bias, epsilon), mean, var


def _save_statistics(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple:
    y, mean, var = normalize(x, scale, bias, epsilon)
    return (y, mean, var), (x, mean, var, scale)


def _differentiate(epsilon: float, saved: tuple, upstream: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, var, scale = saved
    dy, d_mean, d_var = upstream
    inverse = lax.rsqrt(var + epsilon)
    rows = x.reshape(-1, x.shape[-1])
    d_bias = sum_rows(lambda dy: dy, dy.reshape(rows.shape))
    centred = sum_rows(lambda dy, x: dy * (x - mean[None]), dy.reshape(rows.shape), rows)
    # One number per channel each, so that the last line reads dy and x once.
    by_centred = (scale * inverse**3 * centred - 2 * d_var) / len(rows)
    constant = (scale * inverse * d_bias - d_mean) / len(rows)
    gain, mean, by_centred, constant = (_align(vector, x) for vector in (scale * inverse, mean, by_centred, constant))
    dx = dy * gain - (x - mean) * by_centred - constant
    return dx, inverse * centred, d_bias


normalize.defvjp(_save_statistics, _differentiate)
