"""The generator and the discriminator. One configurable pair covers all published DCGANs (Radford et al. 2016, arXiv:1511.06434).

Each network is a loop over blocks: `upsample` or `downsample`, and `refine`. With `--architecture residual`, the networks between
input and output are those of residual.py. A feature that only some published networks have is
a function of its own. These functions create Flax layers, which belong to the network that calls the function (`nn.compact`).
"T1" to "T17" in comments refer to the list in docs/published-dcgans.md, section 5. Do not rename layers: parameters have the
layer's name, and Flax derives random keys from it. A renamed layer cannot load old checkpoints and gets other initial values.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcgan_jax.config import Nets
from dcgan_jax.gan import conv as convolutions
from dcgan_jax.gan import residual
from dcgan_jax.gan.batch_norm import BatchNorm
from dcgan_jax.gan.sums import add_bias

LEAKY_SLOPE = 0.2
# The share of the running statistics that each pass keeps. It equals PyTorch's default momentum of 0.1, which is the share of the
# new value. Flax's default of 0.99 is ten times slower (T3).
BN_MOMENTUM = 0.9


def list_g_widths(nets: Nets) -> tuple[int, ...]:
    """Lists the channels of G's feature maps, from the head towards the image. The image is not in the list."""
    count = count_widths(nets)
    return tuple(nets.width * m for m in nets.g_multipliers or [2 ** (count - 1 - i) for i in range(count)])


def list_d_widths(nets: Nets) -> tuple[int, ...]:
    """Lists the channels of D's feature maps, from the image towards the head."""
    return tuple(nets.width * m for m in nets.d_multipliers or [2**i for i in range(count_widths(nets))])


def count_widths(nets: Nets) -> int:
    """Counts the resolutions of feature maps. Strided convolutions have none at the image's side, residual blocks have."""
    return nets.levels + (nets.architecture == "residual")


class Generator(nn.Module):
    """Maps latents to images: a dense head, then transposed convolutions that double the side.

    bn_momentum: the share of the running statistics that a pass keeps; with 0 they become those of the batch.
    conv_implementation: the implementation of the strided convolutions, see `gan/conv/`.
    """

    nets: Nets
    bn_momentum: float = BN_MOMENTUM
    conv_implementation: convolutions.Implementation = "auto"

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool, labels: jax.Array | None = None) -> jax.Array:
        """Generates images: latents (B, latent_dim) float32 -> (B, S, S, C) float32 in G's output range.

        train: whether BN uses the batch's statistics and updates the running ones ("batch_stats"); else it uses the running ones.
        labels: (B, A) of 0 and 1, the requested attributes. A conditional recipe needs them.
        """
        nets = self.nets
        batch_norm = functools.partial(normalize_batch, nets, train, self.bn_momentum)
        norm = batch_norm if nets.g_norm == "batch" else skip_norm
        activate = nn.relu if nets.g_activation == "relu" else leaky_relu
        if nets.condition:
            assert labels is not None, "a conditional recipe: labels needed"
            latents = jnp.concatenate([latents, to_signs(labels)], 1)  # (B, latent_dim + A)
        if nets.architecture == "residual":
            return activate_output(nets, residual.generate_map(nets, list_g_widths(nets), latents, self.conv_implementation))
        x = generate_first_map(nets, latents, batch_norm, activate)  # (B, base_px, base_px, C), below with 4 px
        # Dense layers stay float32 whatever the compute dtype: bfloat16 is safe for convolutions only.
        x = x.astype(convolutions.choose_activation_dtype(nets.compute_dtype, self.conv_implementation))
        hidden = list_g_widths(nets)[1:]
        for i, features in enumerate(hidden):  # side and channels: (B, 8, 8, C/2), (B, 16, 16, C/4) ...
            is_smooth = i >= len(hidden) - nets.g_smooth_inner
            layer = ConvTranspose(features, nets, is_smooth, self.conv_implementation, name=f"up{i + 1}")
            x = upsample(layer, x, norm, activate)
        for i in range(nets.g_refine):
            x = refine(nets, x, f"refine{i + 1}", norm, activate, self.conv_implementation)
        return generate_image(nets, x, self.conv_implementation)  # (B, S, S, channels)


class Discriminator(nn.Module):
    """Maps images to logits: convolutions that halve the side, then a dense head.

    frozen: the number of layers, counted from the image, that are not trained (gan/freezing.py). Their spectral norms stay fixed.
    """

    nets: Nets
    frozen: int = 0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, labels: jax.Array | None = None) -> jax.Array:
        """Computes logits: images (B, S, S, C) float32 in G's output range -> (B,) float32, before any sigmoid.

        train: as for `Generator`; it also enables dropout, which needs a "dropout" key.
        labels: (B, A) of 0 and 1, the attributes of the images or those requested. A conditional recipe needs them.
        Raises: ValueError for images of another side or number of channels.
        """
        nets = self.nets
        if images.shape[1:] != (nets.size, nets.size, nets.channels):  # some wrong sides would cause no error (T17)
            raise ValueError(f"D needs {(nets.size, nets.size, nets.channels)} images, not {images.shape[1:]}; resize them")
        norm = functools.partial(normalize_batch, nets, train, BN_MOMENTUM) if nets.d_norm == "batch" else skip_norm
        # BN normalises a layer's output. Spectral normalisation changes a layer's weights, so it wraps the layer.
        apply_layer = functools.partial(apply_spectral, train) if nets.d_norm == "spectral" else apply_plain
        x = images.astype(convolutions.choose_activation_dtype(nets.compute_dtype))
        if nets.architecture == "residual":
            x = residual.extract_map(self, nets, list_d_widths(nets), x)
        else:
            x = extract_map(self, nets, self.frozen, x, train, norm)
        if nets.minibatch_std:
            x = append_minibatch_std(self, x, train)
        # (B, C), or (B, base_px * base_px * C)
        x = residual.WeightedSum(name="basis")(x) if nets.architecture == "residual" else x.reshape(x.shape[0], -1)
        if nets.d_dropout > 0:
            x = nn.Dropout(nets.d_dropout, deterministic=not train)(x)
        head = nn.Dense(1, nets.d_head_bias, dtype=jnp.float32, kernel_init=make_dense_init(nets), name="head")
        logits = apply_layer(head, x).squeeze(1)
        if nets.condition:
            assert labels is not None, "a conditional recipe: labels needed"
            logits += project_labels(nets, x, labels, apply_layer)
        return logits


# ---- Blocks. Their layers belong to the network that calls the function ----


def generate_first_map(nets: Nets, latents: jax.Array, batch_norm: Callable, activate: Callable) -> jax.Array:
    """Applies G's dense head and, with `head_norm`, BN and activation: (B, L) float32 -> (B, base_px, base_px, C) float32.

    It equals PyTorch's transposed convolution (kernel 4, stride 1) of a 1x1 image.
    """
    px, channels = nets.base_px, list_g_widths(nets)[0]
    layer = nn.Dense(channels * px**2, nets.g_head_bias, dtype=jnp.float32, kernel_init=make_dense_init(nets), name="head")
    if nets.head_norm == "unit":  # as in Radford's code: one gain per unit, before the reshape
        return activate(batch_norm(layer(latents), "head_norm")).reshape(-1, px, px, channels)
    x = layer(latents).reshape(-1, px, px, channels)
    # "none" also omits the activation, as in Udacity's course.
    return activate(batch_norm(x, "head_norm")) if nets.head_norm == "channel" else x


def extract_map(net: nn.Module, nets: Nets, frozen: int, x: jax.Array, train: bool, norm: Callable) -> jax.Array:
    """Applies D's convolutions: images (B, S, S, channels) -> (B, base_px, base_px, C), in x's dtype.

    net: the discriminator, which also stores the features of each layer. frozen, train: as for `Discriminator`.
    """
    first, *deeper = list_d_widths(nets)
    # One for each convolution. The weights of a frozen layer are fixed, so its norm is no longer estimated.
    is_spectral = nets.d_norm == "spectral"
    apply_conv = [
        functools.partial(apply_spectral, train and i >= frozen) if is_spectral else apply_plain for i in range(1 + len(deeper))
    ]
    x = downsample(Conv(first, nets, name="down1"), x, apply_conv[0], skip_norm)  # (B, S/2, S/2, C), never with BN
    for i in range(nets.d_refine):
        x = refine(nets, x, f"refine{i + 1}", norm, leaky_relu)
    net.sow("intermediates", "features", x)  # read by logits.make_extract_features; without effect otherwise
    for i, features in enumerate(deeper):  # (B, S/4, S/4, 2C), (B, S/8, S/8, 4C) ...
        x = downsample(Conv(features, nets, name=f"down{i + 2}"), x, apply_conv[i + 1], norm)
        net.sow("intermediates", "features", x)
    return x


def upsample(layer: "ConvTranspose", x: jax.Array, norm: Callable, activate: Callable) -> jax.Array:
    """Applies transposed convolution, normalisation and activation: (B, h, w, C) -> (B, 2h, 2w, features)."""
    x = layer(x)
    return activate(norm(x, f"{layer.name}_norm").astype(x.dtype))


def downsample(layer: "Conv", x: jax.Array, apply_layer: Callable, norm: Callable) -> jax.Array:
    """Applies convolution, normalisation and activation: (B, 2h, 2w, C) -> (B, h, w, features)."""
    x = apply_layer(layer, x)
    return leaky_relu(norm(x, f"{layer.name}_norm").astype(x.dtype))


def refine(
    nets: Nets, x: jax.Array, name: str, norm: Callable, activate: Callable, implementation: convolutions.Implementation = "auto"
) -> jax.Array:
    """Applies a residual block of two 3x3 convolutions: (B, h, w, C) -> the same shape.

    The second convolution is initialised to zero, so that the block changes nothing at first. After progressive growing, the
    larger network thus starts with the outputs of the smaller one.
    Source: He et al. 2016, arXiv:1512.03385, section 3.1; zero initialisation: Zhang et al. 2019, arXiv:1901.09321, section 3.
    """
    y = ConvSame(nets, make_dense_init(nets), implementation, name=f"{name}_in")(x)
    y = activate(norm(y, f"{name}_norm").astype(x.dtype))
    return x + ConvSame(nets, nn.initializers.zeros, implementation, name=f"{name}_out")(y)


def generate_image(nets: Nets, x: jax.Array, implementation: convolutions.Implementation) -> jax.Array:
    """Applies G's last layer: (B, h, w, C) -> images (B, S, S, channels) float32 in G's output range.

    It is a transposed convolution or, with `g_last_kernel` (preset keras64), a convolution that keeps the side.
    """
    if nets.g_last_kernel:  # h is S already
        layer = nn.Conv(
            nets.channels,
            (nets.g_last_kernel,) * 2,
            padding="SAME",
            use_bias=nets.conv_bias,
            dtype=x.dtype,
            kernel_init=make_dense_init(nets),
            name="image",
        )
    else:  # h is S / 2
        layer = ConvTranspose(nets.channels, nets, nets.g_smooth, implementation, name="image")
    return activate_output(nets, layer(x).astype(jnp.float32))


def activate_output(nets: Nets, x: jax.Array) -> jax.Array:
    """Applies G's output activation."""
    return nn.tanh(x) if nets.g_output == "tanh" else nn.sigmoid(x)


def append_minibatch_std(net: nn.Module, x: jax.Array, train: bool) -> jax.Array:
    """Appends the minibatch standard deviation as one channel: (B, h, w, C) -> (B, h, w, C + 1).

    The value is the standard deviation of the features over the batch, averaged over all features. Outside training it is a
    running mean, so that an image's logit does not depend on the other images of its batch.
    net: the discriminator; its statistic "minibatch_std" is the running mean.
    Source: Karras et al. 2018, arXiv:1710.10196, section 3. There convolutions follow. Here the head follows, so the value shifts
    all logits of a batch by the same amount.
    """
    running = net.variable("batch_stats", "minibatch_std", jnp.zeros, ())
    if train:
        # 1e-8: the root has an infinite derivative at 0, which occurs if a feature is equal in the whole batch.
        std = jnp.sqrt(x.astype(jnp.float32).var(0) + 1e-8).mean()
        running.value = BN_MOMENTUM * running.value + (1 - BN_MOMENTUM) * std
    else:
        std = running.value
    return jnp.concatenate([x, jnp.broadcast_to(std.astype(x.dtype), (*x.shape[:3], 1))], 3)


def project_labels(nets: Nets, x: jax.Array, labels: jax.Array, apply_layer: Callable) -> jax.Array:
    """Computes the label-dependent part of D's logits: features (B, F), labels (B, A) of 0 and 1 -> (B,) float32.

    Source: the projection discriminator, Miyato and Koyama 2018, arXiv:1802.05637, equation 3, with one row of V per attribute.
    Unlike there, the sum is divided by the square root of A. Otherwise one Adam step would change the logits more, the more
    attributes there are.
    """
    count = len(nets.conditions)
    layer = nn.Dense(count, False, dtype=jnp.float32, kernel_init=make_dense_init(nets), name="condition")
    return (apply_layer(layer, x) * to_signs(labels)).sum(1) / count**0.5


# ---- Layers ----


class Conv(nn.Module):
    """A convolution with stride 2, which halves the side."""

    features: int
    nets: Nets

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side = self.nets.kernel
        kernel = self.param("kernel", make_conv_init(self.nets), (side, side, x.shape[3], self.features))
        x = convolutions.conv(x, kernel.astype(x.dtype), self.nets.padding, product_dtype=self.nets.compute_dtype)
        return _add_bias(self, x) if self.nets.conv_bias else x


class ConvTranspose(nn.Module):
    """A transposed convolution with stride 2, which doubles the side. Its kernel has the layout of the convolution it transposes.

    smooth: whether to blur the output. implementation: see `gan/conv/`.
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
        settings = (self.nets.padding, self.implementation, self.nets.compute_dtype)
        x = convolutions.conv_transpose(x, kernel.astype(x.dtype), *settings)
        return _add_bias(self, x) if self.nets.conv_bias else x


class ConvSame(nn.Module):
    """A 3x3 convolution that keeps the side and the number of channels. Its parameters are those of Flax's nn.Conv.

    kernel_init: initialiser of the kernel. implementation: see `gan/conv/`.
    """

    nets: Nets
    kernel_init: Callable
    implementation: convolutions.Implementation = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[3]
        kernel = self.param("kernel", self.kernel_init, (3, 3, channels, channels))
        x = convolutions.conv_same(x, kernel.astype(x.dtype), self.implementation, self.nets.compute_dtype)
        return _add_bias(self, x) if self.nets.conv_bias else x


def _add_bias(module: Conv | ConvTranspose | ConvSame, x: jax.Array) -> jax.Array:
    # nn.SpectralNorm normalises every parameter with two axes or more, so a bias must have one.
    has_one_axis = module.nets.d_norm == "spectral" or isinstance(module, ConvSame)
    shape = x.shape[3:] if has_one_axis else (1, 1, 1, x.shape[3])
    return add_bias(x, module.param("bias", nn.initializers.zeros, shape).reshape(-1))


def blur_kernel(kernel: jax.Array) -> jax.Array:
    """Adds a blur to a transposed convolution's kernel: (k, k, ...) -> (k + 2, k + 2, ...).

    The blur is [1 2 1] / 4 along each axis. Blurring the kernel costs less than blurring the output.
    Source: Zhang 2019, arXiv:1904.11486, section 3 (Tri-3).
    """
    shifted = (
        jnp.pad(kernel, ((i, 2 - i), (j, 2 - j), (0, 0), (0, 0))) * (weight / 16)
        for i, row in enumerate(((1, 2, 1), (2, 4, 2), (1, 2, 1)))
        for j, weight in enumerate(row)
    )
    return functools.reduce(operator.add, shifted)


def normalize_batch(nets: Nets, train: bool, momentum: float, x: jax.Array, name: str) -> jax.Array:
    """Applies batch normalisation over all axes but the last. It computes and returns float32 for every dtype of x."""
    return BatchNorm(train, momentum, nets.bn_epsilon, make_gain_init(nets), name=name)(x)


def skip_norm(x: jax.Array, name: str) -> jax.Array:
    """Returns x. Replaces `normalize_batch` in networks without BN."""
    return x


def apply_spectral(train: bool, layer: nn.Module, x: jax.Array) -> jax.Array:
    """Returns layer(x), with the weights divided by their spectral norm (largest singular value).

    train: whether to improve the stored estimate of the norm by one power iteration.
    Source: Miyato et al. 2018, arXiv:1802.05957, algorithm 1.
    """
    return nn.SpectralNorm(layer, name=f"{layer.name}_norm")(x, update_stats=train)


def apply_plain(layer: nn.Module, x: jax.Array) -> jax.Array:
    """Returns layer(x). Replaces `apply_spectral` in networks without spectral normalisation."""
    return layer(x)


def leaky_relu(x: jax.Array) -> jax.Array:
    """Leaky ReLU with slope 0.2, as in every published DCGAN. The defaults of libraries differ (T16)."""
    return nn.leaky_relu(x, LEAKY_SLOPE)


def to_signs(labels: jax.Array) -> jax.Array:
    """Converts labels 0 and 1 of any dtype to -1 and 1, float32."""
    return 2 * labels.astype(jnp.float32) - 1


# ---- Initial values ----

NORMAL = nn.initializers.normal(0.02)
GLOROT = nn.initializers.glorot_uniform()
# Truncated at 2 sd without rescaling, as in TensorFlow: the resulting sd is 0.0176 (T13).
TRUNCATED = nn.initializers.truncated_normal(0.02)
HE = nn.initializers.he_normal()  # He et al. 2015, arXiv:1502.01852
# 8 instead of He's 2: each output pixel of a transposed convolution with stride 2 uses a quarter of the kernel.
HE_TRANSPOSED = nn.initializers.variance_scaling(8.0, "fan_in", "normal", in_axis=3, out_axis=2)
LECUN = nn.initializers.lecun_normal()


def make_conv_init(nets: Nets) -> nn.initializers.Initializer:
    """Returns the initialiser of D's strided convolutions."""
    return {"normal": NORMAL, "truncated": TRUNCATED, "glorot": GLOROT, "he": HE}[nets.init]


def make_conv_transpose_init(nets: Nets, smooth: bool) -> nn.initializers.Initializer:
    """Returns the initialiser of G's transposed convolutions. smooth: whether the kernel gets blurred."""
    init = {"normal": NORMAL, "truncated": NORMAL, "glorot": GLOROT, "he": HE_TRANSPOSED}[nets.init]
    # The blur reduces the scale of a random kernel's outputs to 6 / 16; the larger initial kernel restores it.
    return functools.partial(_scale_init, 16 / 6, init) if smooth else init


def make_dense_init(nets: Nets) -> nn.initializers.Initializer:
    """Returns the initialiser of all other weights: dense layers, and convolutions that keep the side."""
    return {"normal": NORMAL, "truncated": NORMAL, "glorot": GLOROT, "he": LECUN}[nets.init]


def make_gain_init(nets: Nets) -> nn.initializers.Initializer:
    """Returns the initialiser of BN's gains, N(1, gamma_init_std). Flax's own initialisers have mean 0 (T6)."""
    return functools.partial(_draw_gains, nets.gamma_init_std)


def _scale_init(gain: float, init: nn.initializers.Initializer, *args: Any) -> jax.Array:
    return gain * init(*args)


def _draw_gains(sd: float, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return 1 + sd * jax.random.normal(key, shape, dtype)
