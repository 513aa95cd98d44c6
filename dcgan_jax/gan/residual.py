"""Networks of residual blocks without normalisation (`--architecture residual`), after R3GAN.

Source: Huang et al. 2024, arXiv:2501.05441, config E, and its code: brownvc/R3GAN 19a7ddf, R3GAN/Networks.py and Resamplers.py.
As there: the blocks with grouped 3x3 convolutions of 16 channels a group, two at each resolution, their Fixup initialisation,
where biases are, resampling by [1 3 3 1] with zeros outside the image, G's learned first map, D's depthwise last convolution.
What differs:

- G's output activation is that of `g_output`. There it is none.
- Dense layers draw truncated normal numbers of the same standard deviation, and may have a bias (`g_head_bias`, `d_head_bias`).
- Labels join the latent without an embedding of their own. D's logit of labels is added to that of the image (projection).
- Widths default to one doubling at each resolution. There most have the same width (`g_multipliers`, `d_multipliers`).

`Generator` and `Discriminator` in models.py call these functions; the layers belong to those networks.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcgan_jax.config import Nets
from dcgan_jax.gan import conv as convolutions
from dcgan_jax.gan.sums import add_bias

BLOCKS = 2  # at each resolution
EXPANSION = 2  # of the channels inside a block
GROUP_CHANNELS = 16  # in a group of the 3x3 convolution
LINEAR_LAYERS = 3  # in a block
LEAKY_SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2 / (1 + LEAKY_SLOPE**2))  # keeps the mean square through a layer and its leaky ReLU


def generate_map(nets: Nets, widths: Sequence[int], latents: jax.Array, implementation: convolutions.Implementation) -> jax.Array:
    """Applies G up to its output activation: latents (B, L) float32 -> (B, S, S, channels) float32.

    widths: channels at each resolution, from the head to the image. implementation: see `gan/conv/`.
    """
    blocks = BLOCKS * len(widths)
    scales = nn.Dense(widths[0], nets.g_head_bias, dtype=jnp.float32, kernel_init=nn.initializers.lecun_normal(), name="head")
    x = ModulatedMap(nets.base_px, name="basis")(scales(latents))  # (B, base_px, base_px, C), below with 4 px
    x = x.astype(convolutions.choose_activation_dtype(nets.compute_dtype, implementation))
    x = Resolution(widths[0], nets, blocks, "none", implementation, name="first")(x)
    for i, features in enumerate(widths[1:]):  # (B, 8, 8, C/2), (B, 16, 16, C/4) ...
        x = Resolution(features, nets, blocks, "up", implementation, name=f"up{i + 1}")(x)
    return Pointwise(nets.channels, name="image")(x).astype(jnp.float32)


def extract_map(net: nn.Module, nets: Nets, widths: Sequence[int], x: jax.Array) -> jax.Array:
    """Applies D up to its last feature map: images (B, S, S, channels) -> (B, base_px, base_px, C), in x's dtype.

    net: the discriminator, which also stores the map after each down-sampling, and the last one. widths: from image to head.
    """
    blocks = BLOCKS * len(widths)
    x = Pointwise(widths[0], name="image")(x)  # (B, S, S, C)
    for i, features in enumerate(widths[1:]):  # (B, S/2, S/2, 2C), (B, S/4, S/4, 4C) ...
        x = Resolution(features, nets, blocks, "down", name=f"down{i + 1}")(x)
        net.sow("intermediates", "features", x)  # read by logits.make_extract_features; without effect otherwise
    x = Resolution(widths[-1], nets, blocks, "none", name="last")(x)
    net.sow("intermediates", "features", x)
    return x


# ---- Layers ----


class ModulatedMap(nn.Module):
    """A learned feature map whose channels are multiplied by given numbers: (B, C) float32 -> (B, px, px, C) float32."""

    px: int

    @nn.compact
    def __call__(self, scales: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (self.px, self.px, scales.shape[1]))
        return scales[:, None, None] * kernel[None]


class WeightedSum(nn.Module):
    """A depthwise convolution whose kernel is as large as the map: (B, px, px, C) -> (B, C) float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        px, channels = x.shape[1], x.shape[3]
        kernel = self.param("kernel", nn.initializers.normal(1 / px), (px, px, channels))  # 1 / sqrt(px * px inputs)
        return (x.astype(jnp.float32) * kernel[None]).sum((1, 2))


class Resolution(nn.Module):
    """The blocks of one resolution, after doubling the side (G) or before halving it (D).

    features: channels of the output. network_blocks: number of blocks in the whole network, for their initial values.
    resample: "up", "down" or "none". implementation: see `gan/conv/`.
    """

    features: int
    nets: Nets
    network_blocks: int
    resample: str
    implementation: convolutions.Implementation = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The 1x1 convolution is where there are fewer pixels. It commutes with resampling.
        changes = x.shape[3] != self.features
        if self.resample == "up":
            x = Pointwise(self.features, name="transition")(x) if changes else x
            x = upsample(x)
        for i in range(BLOCKS):
            x = ResidualBlock(self.nets, self.network_blocks, self.implementation, name=f"block{i + 1}")(x)
        if self.resample == "down":
            x = downsample(x)
            x = Pointwise(self.features, name="transition")(x) if changes else x
        return x


class ResidualBlock(nn.Module):
    """Adds an inverted bottleneck to its input: 1x1 to twice the channels, grouped 3x3, 1x1 back. It keeps the shape.

    The last convolution is initialised to zero, so a new block returns its input. The kernels of the others are smaller, the more
    blocks the network has. So the first updates change its output by an amount that does not depend on its depth.
    Grouped, as in the paper: the 3x3 convolution then has fewer weights than the 1x1 ones, although the bottleneck is wide.
    Source: as the module; initial values: Fixup, Zhang et al. 2019, arXiv:1901.09321, section 3.
    """

    nets: Nets
    network_blocks: int
    implementation: convolutions.Implementation = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[3]
        init = _make_init(ACTIVATION_GAIN * self.network_blocks ** (-1 / (2 * LINEAR_LAYERS - 2)))
        y = Pointwise(EXPANSION * channels, init, use_bias=True, name="expand")(x)
        y = GroupedConv(self.nets, init, self.implementation, name="grouped")(nn.leaky_relu(y, LEAKY_SLOPE))
        return x + Pointwise(channels, nn.initializers.zeros, name="reduce")(nn.leaky_relu(y, LEAKY_SLOPE))


def _make_init(gain: float) -> nn.initializers.Initializer:
    """Returns the initialiser N(0, gain^2 / inputs of an output)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


class Pointwise(nn.Module):
    """A 1x1 convolution: (B, h, w, C) -> (B, h, w, features). Its parameters are those of Flax's nn.Conv."""

    features: int
    kernel_init: nn.initializers.Initializer = _make_init(1.0)
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (1, 1, x.shape[3], self.features))
        x = x @ kernel[0, 0].astype(x.dtype)
        return add_bias(x, self.param("bias", nn.initializers.zeros, (self.features,))) if self.use_bias else x


class GroupedConv(nn.Module):
    """A 3x3 convolution with a bias, of groups of channels that do not see each other. It keeps the shape.

    A group has 16 channels, or the largest divisor of 16 that divides the number of channels.
    """

    nets: Nets
    kernel_init: nn.initializers.Initializer
    implementation: convolutions.Implementation = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[3]
        kernel = self.param("kernel", self.kernel_init, (3, 3, math.gcd(channels, GROUP_CHANNELS), channels))
        x = convolutions.conv_grouped(x, kernel.astype(x.dtype), self.implementation, self.nets.compute_dtype)
        return add_bias(x, self.param("bias", nn.initializers.zeros, (channels,)))


# ---- Resampling. Both are weighted sums of neighbours, so that all derivatives are as fast as the functions ----


def upsample(x: jax.Array) -> jax.Array:
    """Doubles the side by linear interpolation, with zeros outside: (B, h, w, C) -> (B, 2h, 2w, C). Weights [1 3 3 1] / 4."""
    return functools.reduce(_upsample_axis, (1, 2), x)


def downsample(x: jax.Array) -> jax.Array:
    """Halves the side, with zeros outside: (B, 2h, 2w, C) -> (B, h, w, C). Weights [1 3 3 1] / 8.

    It is the transpose of `upsample`, divided by 4.
    """
    return functools.reduce(_downsample_axis, (1, 2), x)


def _upsample_axis(x: jax.Array, axis: int) -> jax.Array:
    even, odd = (3 * x + _shift(x, axis, 1)) / 4, (3 * x + _shift(x, axis, -1)) / 4
    shape = [2 * side if i == axis else side for i, side in enumerate(x.shape)]
    return jnp.stack([even, odd], axis + 1).reshape(shape)


def _downsample_axis(x: jax.Array, axis: int) -> jax.Array:
    shape = [side for i, size in enumerate(x.shape) for side in ([size // 2, 2] if i == axis else [size])]
    even, odd = jnp.split(x.reshape(shape), 2, axis + 1)
    even, odd = even.squeeze(axis + 1), odd.squeeze(axis + 1)
    return (3 * (even + odd) + _shift(odd, axis, 1) + _shift(even, axis, -1)) / 8


def _shift(x: jax.Array, axis: int, by: int) -> jax.Array:
    """Moves x by one place along an axis, towards its end (1) or its beginning (-1), and fills with zeros."""
    padding = [((1, -1, 0) if by == 1 else (-1, 1, 0)) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)
