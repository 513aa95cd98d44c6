"""Generator and discriminator: one configurable pair for every published DCGAN (Radford et al. 2016, arXiv:1511.06434)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcgan_jax.config import Nets
from dcgan_jax.gan import conv as convolutions

NORMAL = nn.initializers.normal(0.02)
# Cut at 2 sd and not rescaled, like TensorFlow's: the sd that results is 0.0176 (T13).
TRUNCATED = nn.initializers.truncated_normal(0.02)
LEAKY_SLOPE = 0.2


def g_widths(nets: Nets) -> tuple[int, ...]:
    """G's channels, from its head towards the image; the image's own are not among them."""
    levels = int(math.log2(nets.size // nets.base_px))
    return tuple(nets.width * m for m in nets.g_multipliers or [2 ** (levels - 1 - i) for i in range(levels)])


def d_widths(nets: Nets) -> tuple[int, ...]:
    """D's channels, from the image inwards."""
    levels = int(math.log2(nets.size // nets.base_px))
    return tuple(nets.width * m for m in nets.d_multipliers or [2**i for i in range(levels)])


class Conv(nn.Module):
    """Halves the image side."""

    features: int
    nets: Nets

    @nn.compact
    def __call__(self, x):
        init = {"normal": NORMAL, "truncated": TRUNCATED, "glorot": nn.initializers.glorot_uniform()}[self.nets.init]
        kernel = self.param("kernel", init, (self.nets.kernel, self.nets.kernel, x.shape[3], self.features))
        x = convolutions.conv(x, kernel.astype(x.dtype), self.nets.padding)
        return _biased(self, x) if self.nets.conv_bias else x


class ConvTranspose(nn.Module):
    """Doubles the image side; its kernel is laid out like that of the convolution it transposes."""

    features: int
    nets: Nets

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.glorot_uniform() if self.nets.init == "glorot" else NORMAL
        kernel = self.param("kernel", init, (self.nets.kernel, self.nets.kernel, self.features, x.shape[3]))
        x = convolutions.conv_transpose(x, kernel.astype(x.dtype), self.nets.padding)
        return _biased(self, x) if self.nets.conv_bias else x


def _biased(module, x):
    return x + module.param("bias", nn.initializers.zeros, (1, 1, 1, x.shape[3])).astype(x.dtype)


class Generator(nn.Module):
    """Latents to images: a dense head, then up-samplings that double the side."""

    nets: Nets

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool) -> jax.Array:
        """latents (B, latent_dim) float32 -> images (B, S, S, C) float32 in G's output range.

        train: normalise by the batch's statistics and update the running ones ("batch_stats"), else use the running ones.
        """
        nets = self.nets
        dtype = jnp.dtype(nets.compute_dtype)
        init = nn.initializers.glorot_uniform() if nets.init == "glorot" else NORMAL
        activate = nn.relu if nets.g_activation == "relu" else leaky_relu
        head, *hidden = g_widths(nets)

        # torch's k4 s1 convolution of a 1x1 image is this dense layer under another name.
        # Dense layers stay float32 whatever the compute dtype: bfloat16 is safe for convolutions only.
        x = nn.Dense(head * nets.base_px**2, nets.g_head_bias, dtype=jnp.float32, kernel_init=init, name="head")(latents)
        if nets.head_norm == "unit":
            x = activate(_norm(nets, train, "head_norm")(x))
        x = x.reshape(-1, nets.base_px, nets.base_px, head)  # (B, 4, 4, C)
        if nets.head_norm == "channel":
            x = activate(_norm(nets, train, "head_norm")(x))
        x = x.astype(dtype)
        for i, features in enumerate(hidden):  # side and channels: (B, 8, 8, C/2), (B, 16, 16, C/4) ...
            x = ConvTranspose(features, nets, name=f"up{i + 1}")(x)
            if nets.g_norm == "batch":
                x = _norm(nets, train, f"up{i + 1}_norm")(x).astype(dtype)
            x = activate(x)
        if nets.g_last_kernel == 0:
            x = ConvTranspose(nets.channels, nets, name="image")(x)  # (B, S, S, channels)
        else:
            x = nn.Conv(nets.channels, (nets.g_last_kernel,) * 2, padding="SAME", use_bias=nets.conv_bias, dtype=dtype,
                        kernel_init=init, name="image")(x)
        x = x.astype(jnp.float32)
        return nn.tanh(x) if nets.g_output == "tanh" else nn.sigmoid(x)


class Discriminator(nn.Module):
    """Images to logits: convolutions that halve the side, then a dense head."""

    nets: Nets

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """images (B, S, S, C) float32 in G's output range -> logits (B,) float32, before any sigmoid.

        train: as for Generator; with d_dropout above 0 it also takes a "dropout" key.
        """
        nets = self.nets
        dtype = jnp.dtype(nets.compute_dtype)
        if images.shape[1:] != (nets.size, nets.size, nets.channels):  # a wrong side would pass through silently (T17)
            raise ValueError(f"D takes {(nets.size, nets.size, nets.channels)} images, not {images.shape[1:]}")
        x = images.astype(dtype)
        for i, features in enumerate(d_widths(nets)):  # (B, S/2, S/2, C), (B, S/4, S/4, 2C) ...
            x = Conv(features, nets, name=f"down{i + 1}")(x)
            if nets.d_norm == "batch" and i > 0:
                x = _norm(nets, train, f"down{i + 1}_norm")(x).astype(dtype)
            x = leaky_relu(x)
        x = x.reshape(x.shape[0], -1)  # (B, base_px * base_px * C)
        if nets.d_dropout > 0:
            x = nn.Dropout(nets.d_dropout, deterministic=not train)(x)
        init = nn.initializers.glorot_uniform() if nets.init == "glorot" else NORMAL
        logits = nn.Dense(1, nets.d_head_bias, dtype=jnp.float32, kernel_init=init, name="head")(x)
        return logits.squeeze(1)


def leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.2 below zero, in every DCGAN; the libraries' defaults differ (T16)."""
    return nn.leaky_relu(x, LEAKY_SLOPE)


def _norm(nets, train, name):
    # float32 statistics whatever the compute dtype. Gains N(1, sd): flax's initialisers are all around 0 (T6).
    def gain_init(key, shape, dtype):
        return 1 + nets.gamma_init_std * jax.random.normal(key, shape, dtype)

    return nn.BatchNorm(use_running_average=not train, momentum=nets.bn_momentum, epsilon=nets.bn_epsilon,
                        dtype=jnp.float32, scale_init=gain_init, name=name)
