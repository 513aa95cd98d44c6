"""Generator and discriminator: one configurable pair for every published DCGAN (Radford et al. 2016, arXiv:1511.06434).

Each network is a loop over the blocks in the middle of this file: `upsample` or `downsample`, and `refine`. What only some
published networks have is in one function each. These functions make Flax layers that belong to the network which calls them
(`nn.compact`). T1 to T17 in comments are the traps of docs/published-dcgans.md, section 5. A layer's name is that of its
parameters and, in Flax, part of its random key: a renamed layer cannot read old checkpoints and starts from other values.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcgan_jax.config import Nets
from dcgan_jax.gan import conv as convolutions

LEAKY_SLOPE = 0.2
# The share of running statistics that a step keeps. PyTorch's default, which it writes as the other share, 0.1; Flax's own is
# 0.99, ten times slower (T3).
BN_MOMENTUM = 0.9


def list_g_widths(nets: Nets) -> tuple[int, ...]:
    """G's channels, from its head towards the image; the image's own are not among them."""
    levels = int(math.log2(nets.size // nets.base_px))
    return tuple(nets.width * m for m in nets.g_multipliers or [2 ** (levels - 1 - i) for i in range(levels)])


def list_d_widths(nets: Nets) -> tuple[int, ...]:
    """D's channels, from the image inwards."""
    levels = int(math.log2(nets.size // nets.base_px))
    return tuple(nets.width * m for m in nets.d_multipliers or [2**i for i in range(levels)])


class Generator(nn.Module):
    """Latents to images: a dense head, then up-samplings that double the side.

    bn_momentum: the share of running statistics kept by a pass; 0 leaves the batch's own.
    conv_implementation: of the strided convolutions, see `gan/conv/`.
    """

    nets: Nets
    bn_momentum: float = BN_MOMENTUM
    conv_implementation: convolutions.Implementation = "auto"

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool, labels: jax.Array | None = None) -> jax.Array:
        """latents (B, latent_dim) float32 -> images (B, S, S, C) float32 in G's output range.

        labels: (B, A) of 0 and 1, the requested attributes, where the recipe is conditional.
        train: normalise by the batch's statistics and update the running ones ("batch_stats"), else use the running ones.
        """
        nets = self.nets
        batch_norm = functools.partial(normalize_batch, nets, train, self.bn_momentum)
        norm = batch_norm if nets.g_norm == "batch" else skip_norm
        activate = nn.relu if nets.g_activation == "relu" else leaky_relu
        if nets.condition:
            assert labels is not None, "a conditional recipe: labels needed"
            latents = jnp.concatenate([latents, to_signs(labels)], 1)  # (B, latent_dim + A)
        x = generate_first_map(nets, latents, batch_norm, activate)  # (B, base_px, base_px, C), here 4 px
        # Dense layers stay float32 whatever the compute dtype: bfloat16 is safe for convolutions only.
        x = x.astype(nets.compute_dtype)
        for i, features in enumerate(list_g_widths(nets)[1:]):  # side and channels: (B, 8, 8, C/2), (B, 16, 16, C/4) ...
            layer = ConvTranspose(features, nets, implementation=self.conv_implementation, name=f"up{i + 1}")
            x = upsample(layer, x, norm, activate)
        for i in range(nets.g_refine):
            x = refine(nets, x, f"refine{i + 1}", norm, activate)
        return generate_image(nets, x, self.conv_implementation)  # (B, S, S, channels)


class Discriminator(nn.Module):
    """Images to logits: convolutions that halve the side, then a dense head."""

    nets: Nets

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, labels: jax.Array | None = None) -> jax.Array:
        """images (B, S, S, C) float32 in G's output range -> logits (B,) float32, before any sigmoid.

        train: as for Generator; with d_dropout above 0 it also takes a "dropout" key.
        labels: (B, A) of 0 and 1, the attributes that the images should have, where the recipe is conditional.
        """
        nets = self.nets
        if images.shape[1:] != (nets.size, nets.size, nets.channels):  # a wrong side would pass through silently (T17)
            raise ValueError(f"D takes {(nets.size, nets.size, nets.channels)} images, not {images.shape[1:]}")
        norm = functools.partial(normalize_batch, nets, train, BN_MOMENTUM) if nets.d_norm == "batch" else skip_norm
        # BN acts on what a layer gives, a spectral norm on its weights: it is applied with the layer.
        apply_layer = functools.partial(apply_spectral, train) if nets.d_norm == "spectral" else apply_plain
        first, *deeper = list_d_widths(nets)
        x = images.astype(nets.compute_dtype)
        x = downsample(Conv(first, nets, name="down1"), x, apply_layer, skip_norm)  # (B, S/2, S/2, C), never with BN
        for i in range(nets.d_refine):
            x = refine(nets, x, f"refine{i + 1}", norm, leaky_relu)
        self.sow("intermediates", "features", x)  # for logits.py's make_extract_features; elsewhere it does nothing
        for i, features in enumerate(deeper):  # (B, S/4, S/4, 2C), (B, S/8, S/8, 4C) ...
            x = downsample(Conv(features, nets, name=f"down{i + 2}"), x, apply_layer, norm)
            self.sow("intermediates", "features", x)
        if nets.minibatch_std:
            x = append_minibatch_std(self, x, train)
        x = x.reshape(x.shape[0], -1)  # (B, base_px * base_px * C)
        if nets.d_dropout > 0:
            x = nn.Dropout(nets.d_dropout, deterministic=not train)(x)
        head = nn.Dense(1, nets.d_head_bias, dtype=jnp.float32, kernel_init=make_dense_init(nets), name="head")
        logits = apply_layer(head, x).squeeze(1)
        if nets.condition:
            assert labels is not None, "a conditional recipe: labels needed"
            logits += project_labels(nets, x, labels, apply_layer)
        return logits


# ---- Blocks. Layers that they make belong to the network that calls them ----


def generate_first_map(nets: Nets, latents: jax.Array, batch_norm: Callable, activate: Callable) -> jax.Array:
    """latents (B, L) float32 -> (B, base_px, base_px, C) float32: G's dense head, with what `head_norm` puts behind it.

    torch's k4 s1 transposed convolution of a 1x1 image is this layer under another name.
    """
    px, channels = nets.base_px, list_g_widths(nets)[0]
    layer = nn.Dense(channels * px**2, nets.g_head_bias, dtype=jnp.float32, kernel_init=make_dense_init(nets), name="head")
    if nets.head_norm == "unit":  # Radford's own code: a gain for each number, before the reshape
        return activate(batch_norm(layer(latents), "head_norm")).reshape(-1, px, px, channels)
    x = layer(latents).reshape(-1, px, px, channels)
    # Without a norm there is no activation either, as in Udacity's course.
    return activate(batch_norm(x, "head_norm")) if nets.head_norm == "channel" else x


def upsample(layer: "ConvTranspose", x: jax.Array, norm: Callable, activate: Callable) -> jax.Array:
    """(B, h, w, C) -> (B, 2h, 2w, features): transposed convolution, normalisation, activation."""
    x = layer(x)
    return activate(norm(x, f"{layer.name}_norm").astype(x.dtype))


def downsample(layer: "Conv", x: jax.Array, apply_layer: Callable, norm: Callable) -> jax.Array:
    """(B, 2h, 2w, C) -> (B, h, w, features): convolution, normalisation, activation."""
    x = apply_layer(layer, x)
    return leaky_relu(norm(x, f"{layer.name}_norm").astype(x.dtype))


def refine(nets: Nets, x: jax.Array, name: str, norm: Callable, activate: Callable) -> jax.Array:
    """(B, h, w, C) -> the same shape: a residual block, which adds what two 3x3 convolutions make of x.

    The second one is initialised to zero. So the block changes nothing at first, and a network that was grown starts as good as
    the one inside it. Source: He et al. 2016, arXiv:1512.03385, section 3.1; the zeros: Zhang et al. 2019, arXiv:1901.09321,
    section 3.
    """
    conv = functools.partial(nn.Conv, x.shape[3], (3, 3), use_bias=nets.conv_bias, dtype=nets.compute_dtype)
    y = conv(kernel_init=make_dense_init(nets), name=f"{name}_in")(x)
    y = activate(norm(y, f"{name}_norm"))
    return x + conv(kernel_init=nn.initializers.zeros, name=f"{name}_out")(y)


def generate_image(nets: Nets, x: jax.Array, implementation: convolutions.Implementation) -> jax.Array:
    """(B, h, w, C) -> (B, S, S, channels) float32 in G's output range: the last up-sampling, or keras64's last convolution."""
    if nets.g_last_kernel:  # h is S already
        layer = nn.Conv(
            nets.channels,
            (nets.g_last_kernel,) * 2,
            padding="SAME",
            use_bias=nets.conv_bias,
            dtype=nets.compute_dtype,
            kernel_init=make_dense_init(nets),
            name="image",
        )
    else:  # h is S / 2
        layer = ConvTranspose(nets.channels, nets, nets.g_smooth, implementation, name="image")
    x = layer(x).astype(jnp.float32)
    return nn.tanh(x) if nets.g_output == "tanh" else nn.sigmoid(x)


def append_minibatch_std(net: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    """(B, h, w, C) -> (B, h, w, C + 1): how much the features vary over the batch, on average; its running mean if not train.

    net: the discriminator, whose statistic "minibatch_std" the running mean is.
    Source: Karras et al. 2018, arXiv:1710.10196, section 3, where convolutions follow: here the head does, so it moves all
    logits of a batch alike. The running mean makes an image's logit independent of the others in its batch.
    """
    running = net.variable("batch_stats", "minibatch_std", jnp.zeros, ())
    if train:
        # The root's slope is infinite at 0, where a leaky unit's features may all be alike.
        std = jnp.sqrt(x.astype(jnp.float32).var(0) + 1e-8).mean()
        running.value = BN_MOMENTUM * running.value + (1 - BN_MOMENTUM) * std
    else:
        std = running.value
    return jnp.concatenate([x, jnp.broadcast_to(std.astype(x.dtype), (*x.shape[:3], 1))], 3)


def project_labels(nets: Nets, x: jax.Array, labels: jax.Array, apply_layer: Callable) -> jax.Array:
    """features (B, F), labels (B, A) of 0 and 1 -> (B,) float32, what the labels add to D's logits.

    Source: the projection discriminator, Miyato and Koyama 2018, arXiv:1802.05637, equation 3, with one row of V for each
    attribute. It does not divide by the root of their count. Here one step of Adam would else move the logits more, the more
    attributes there are.
    """
    count = len(nets.conditions)
    layer = nn.Dense(count, False, dtype=jnp.float32, kernel_init=make_dense_init(nets), name="condition")
    return (apply_layer(layer, x) * to_signs(labels)).sum(1) / count**0.5


# ---- Layers ----


class Conv(nn.Module):
    """Halves the image side."""

    features: int
    nets: Nets

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side = self.nets.kernel
        kernel = self.param("kernel", make_conv_init(self.nets), (side, side, x.shape[3], self.features))
        x = convolutions.conv(x, kernel.astype(x.dtype), self.nets.padding)
        return _add_bias(self, x) if self.nets.conv_bias else x


class ConvTranspose(nn.Module):
    """Doubles the image side; its kernel is laid out like that of the convolution it transposes.

    smooth: blurs its output. implementation: see `gan/conv/`.
    """

    features: int
    nets: Nets
    smooth: bool = False
    implementation: convolutions.Implementation = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side, init = self.nets.kernel, make_conv_transpose_init(self.nets, self.smooth)
        kernel = self.param("kernel", init, (side, side, self.features, x.shape[3]))
        kernel = blur_kernel(kernel) if self.smooth else kernel
        x = convolutions.conv_transpose(x, kernel.astype(x.dtype), self.nets.padding, self.implementation)
        return _add_bias(self, x) if self.nets.conv_bias else x


def _add_bias(module: Conv | ConvTranspose, x: jax.Array) -> jax.Array:
    # A spectral norm takes whatever has two axes for weights, and divides by their largest singular value.
    shape = x.shape[3:] if module.nets.d_norm == "spectral" else (1, 1, 1, x.shape[3])
    return x + module.param("bias", nn.initializers.zeros, shape).reshape(1, 1, 1, -1).astype(x.dtype)


def blur_kernel(kernel: jax.Array) -> jax.Array:
    """(k, k, ...) -> (k + 2, k + 2, ...): the same transposed convolution with a blur by 1 2 1 each way behind it.

    Source: Zhang 2019, arXiv:1904.11486, section 3 (Tri-3), put into the kernel, where it costs little.
    """
    shifted = (
        jnp.pad(kernel, ((i, 2 - i), (j, 2 - j), (0, 0), (0, 0))) * (weight / 16)
        for i, row in enumerate(((1, 2, 1), (2, 4, 2), (1, 2, 1)))
        for j, weight in enumerate(row)
    )
    return functools.reduce(operator.add, shifted)


def normalize_batch(nets: Nets, train: bool, momentum: float, x: jax.Array, name: str) -> jax.Array:
    """BN over all axes but the last, float32 whatever x is."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        epsilon=nets.bn_epsilon,
        dtype=jnp.float32,
        scale_init=make_gain_init(nets),
        name=name,
    )(x)


def skip_norm(x: jax.Array, name: str) -> jax.Array:
    """Stands for `normalize_batch` where there is no BN."""
    return x


def apply_spectral(train: bool, layer: nn.Module, x: jax.Array) -> jax.Array:
    """layer(x), with its weights divided by their spectral norm, whose estimate one more power iteration improves if train.

    Source: Miyato et al. 2018, arXiv:1802.05957, algorithm 1.
    """
    return nn.SpectralNorm(layer, name=f"{layer.name}_norm")(x, update_stats=train)


def apply_plain(layer: nn.Module, x: jax.Array) -> jax.Array:
    """Stands for `apply_spectral` where there is no spectral norm."""
    return layer(x)


def leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.2 below zero, in every DCGAN; the libraries' defaults differ (T16)."""
    return nn.leaky_relu(x, LEAKY_SLOPE)


def to_signs(labels: jax.Array) -> jax.Array:
    """0 and 1 of any dtype -> -1 and 1, float32."""
    return 2 * labels.astype(jnp.float32) - 1


# ---- Initial values ----

NORMAL = nn.initializers.normal(0.02)
GLOROT = nn.initializers.glorot_uniform()
# Cut at 2 sd and not rescaled, like TensorFlow's: the sd that results is 0.0176 (T13).
TRUNCATED = nn.initializers.truncated_normal(0.02)
HE = nn.initializers.he_normal()  # He et al. 2015, arXiv:1502.01852
# Of a strided kernel's taps an output pixel takes one in four.
HE_TRANSPOSED = nn.initializers.variance_scaling(8.0, "fan_in", "normal", in_axis=3, out_axis=2)
LECUN = nn.initializers.lecun_normal()


def make_conv_init(nets: Nets) -> nn.initializers.Initializer:
    """Of D's strided kernels."""
    return {"normal": NORMAL, "truncated": TRUNCATED, "glorot": GLOROT, "he": HE}[nets.init]


def make_conv_transpose_init(nets: Nets, smooth: bool) -> nn.initializers.Initializer:
    """Of G's strided kernels. smooth: of one that is blurred."""
    init = {"normal": NORMAL, "truncated": NORMAL, "glorot": GLOROT, "he": HE_TRANSPOSED}[nets.init]
    # The outputs of random kernels lose all but 6 / 16 of their scale to the blur: larger kernels make up for it.
    return functools.partial(_scale_init, 16 / 6, init) if smooth else init


def make_dense_init(nets: Nets) -> nn.initializers.Initializer:
    """Of all other weights: dense layers, and convolutions that keep the side."""
    return {"normal": NORMAL, "truncated": NORMAL, "glorot": GLOROT, "he": LECUN}[nets.init]


def make_gain_init(nets: Nets) -> nn.initializers.Initializer:
    """Of BN's gains: N(1, gamma_init_std). Flax's initialisers are all around 0 (T6)."""
    return functools.partial(_draw_gains, nets.gamma_init_std)


def _scale_init(gain: float, init: nn.initializers.Initializer, *args: Any) -> jax.Array:
    return gain * init(*args)


def _draw_gains(sd: float, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return 1 + sd * jax.random.normal(key, shape, dtype)
