"""Generator and discriminator: one configurable pair for every published DCGAN (Radford et al. 2016, arXiv:1511.06434)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcgan_jax.config import Nets
from dcgan_jax.gan import conv as convolutions

NORMAL = nn.initializers.normal(0.02)
HE = nn.initializers.he_normal()  # He et al. 2015, arXiv:1502.01852
LECUN = nn.initializers.lecun_normal()
# Cut at 2 sd and not rescaled, like TensorFlow's: the sd that results is 0.0176 (T13).
TRUNCATED = nn.initializers.truncated_normal(0.02)
LEAKY_SLOPE = 0.2


def list_g_widths(nets: Nets) -> tuple[int, ...]:
    """G's channels, from its head towards the image; the image's own are not among them."""
    levels = int(math.log2(nets.size // nets.base_px))
    return tuple(nets.width * m for m in nets.g_multipliers or [2 ** (levels - 1 - i) for i in range(levels)])


def list_d_widths(nets: Nets) -> tuple[int, ...]:
    """D's channels, from the image inwards."""
    levels = int(math.log2(nets.size // nets.base_px))
    return tuple(nets.width * m for m in nets.d_multipliers or [2**i for i in range(levels)])


class Conv(nn.Module):
    """Halves the image side."""

    features: int
    nets: Nets

    @nn.compact
    def __call__(self, x):
        init = {"normal": NORMAL, "truncated": TRUNCATED, "glorot": nn.initializers.glorot_uniform(), "he": HE}[self.nets.init]
        side = 3 if self.nets.box_kernels else self.nets.kernel
        kernel = self.param("kernel", init, (side, side, x.shape[3], self.features))
        kernel = _boxed(kernel) / 2 if self.nets.box_kernels else kernel  # / 2: the outputs vary as those of the 3x3 kernel
        x = convolutions.conv(x, kernel.astype(x.dtype), self.nets.padding)
        return _add_bias(self, x) if self.nets.conv_bias else x


class ConvTranspose(nn.Module):
    """Doubles the image side; its kernel is laid out like that of the convolution it transposes. smooth: blurs what it draws."""

    features: int
    nets: Nets
    smooth: bool = False

    @nn.compact
    def __call__(self, x):
        side = 3 if self.nets.box_kernels else self.nets.kernel
        # Of a strided kernel's taps an output pixel takes one in four; of the boxed 3x3 all nine.
        he = nn.initializers.variance_scaling(2.0 if self.nets.box_kernels else 8.0, "fan_in", "normal", in_axis=3, out_axis=2)
        init = {"glorot": nn.initializers.glorot_uniform(), "he": he}.get(self.nets.init, NORMAL)
        # A blur takes 6 / 16 from what kernels draw that were just drawn themselves; larger ones make up for it.
        init = _scale_init(16 / 6, init) if self.smooth else init
        kernel = self.param("kernel", init, (side, side, self.features, x.shape[3]))
        kernel = _boxed(kernel) if self.nets.box_kernels else kernel
        kernel = _blur_kernel(kernel) if self.smooth else kernel
        x = convolutions.conv_transpose(x, kernel.astype(x.dtype), self.nets.padding)
        return _add_bias(self, x) if self.nets.conv_bias else x


def _boxed(kernel):
    """(3, 3, ...) -> (4, 4, ...), the sum of its four shifts: a 3x3 convolution before a 2x2 sum, or after nearest-neighbour
    enlarging, in one. Source: Karras et al. 2018, arXiv:1710.10196, its published code's fused layers.
    """
    return sum(jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in range(2) for j in range(2))


def _blur_kernel(kernel):
    """(k, k, ...) -> (k + 2, k + 2, ...): the same transposed convolution with a blur by 1 2 1 each way behind it.

    Source: Zhang 2019, arXiv:1904.11486, section 3 (Tri-3), put into the kernel, where it costs little.
    """
    return sum(
        jnp.pad(kernel, ((i, 2 - i), (j, 2 - j), (0, 0), (0, 0))) * (weight / 16)
        for i, row in enumerate(((1, 2, 1), (2, 4, 2), (1, 2, 1)))
        for j, weight in enumerate(row)
    )


def _scale_init(gain, init):
    return lambda *how: gain * init(*how)


def _add_bias(module, x):
    # A spectral norm takes whatever has two axes for weights, and divides by their largest singular value.
    shape = x.shape[3:] if module.nets.d_norm == "spectral" else (1, 1, 1, x.shape[3])
    return x + module.param("bias", nn.initializers.zeros, shape).reshape(1, 1, 1, -1).astype(x.dtype)


class Generator(nn.Module):
    """Latents to images: a dense head, then up-samplings that double the side."""

    nets: Nets

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool, labels: jax.Array | None = None) -> jax.Array:
        """latents (B, latent_dim) float32 -> images (B, S, S, C) float32 in G's output range.

        labels: (B, A) of 0 and 1, the attributes asked for, where the recipe is conditional.
        train: normalise by the batch's statistics and update the running ones ("batch_stats"), else use the running ones.
        """
        nets = self.nets
        dtype = jnp.dtype(nets.compute_dtype)
        init = {"glorot": nn.initializers.glorot_uniform(), "he": LECUN}.get(nets.init, NORMAL)
        activate = nn.relu if nets.g_activation == "relu" else leaky_relu
        head, *hidden = list_g_widths(nets)
        if nets.condition:
            latents = jnp.concatenate([latents, _to_signs(labels)], 1)  # (B, latent_dim + A)

        def norm(x, name):
            if not nets.g_modulation:
                return _norm(nets, train, name)(x)
            # Source: Chen et al. 2019, arXiv:1810.01365, section 2, with affine functions of the latent.
            gains = nn.Dense(2 * x.shape[-1], dtype=jnp.float32, kernel_init=NORMAL, name=f"{name}_gain")(latents)
            gain, bias = jnp.split(gains.reshape(len(x), *[1] * (x.ndim - 2), -1), 2, axis=-1)
            return (1 + gain) * _norm(nets, train, name, affine=False)(x) + bias

        def drawn(x, name):
            return nn.Dense(nets.channels, False, dtype=jnp.float32, kernel_init=LECUN, name=name)(x)

        # torch's k4 s1 convolution of a 1x1 image is this dense layer under another name.
        # Dense layers stay float32 whatever the compute dtype: bfloat16 is safe for convolutions only.
        x = nn.Dense(head * nets.base_px**2, nets.g_head_bias, dtype=jnp.float32, kernel_init=init, name="head")(latents)
        if nets.head_norm == "unit":
            x = activate(norm(x, "head_norm"))
        x = x.reshape(-1, nets.base_px, nets.base_px, head)  # (B, 4, 4, C)
        if nets.head_norm == "channel":
            x = activate(norm(x, "head_norm"))
        x = x.astype(dtype)
        image = drawn(x, "head_image") if nets.image_skips else None
        for i, features in enumerate(hidden):  # side and channels: (B, 8, 8, C/2), (B, 16, 16, C/4) ...
            before = x
            x = ConvTranspose(features, nets, name=f"up{i + 1}")(x)
            if nets.g_norm == "batch":
                x = norm(x, f"up{i + 1}_norm").astype(dtype)
            if nets.residual:
                x += upsample_nearest(nn.Dense(features, False, dtype=dtype, kernel_init=LECUN, name=f"up{i + 1}_skip")(before))
            x = activate(x)
            if nets.image_skips:
                image = upsample_nearest(image) + drawn(x, f"up{i + 1}_image")
        x = _refine(nets.g_refine, nets, x, init, norm if nets.g_norm == "batch" else None, activate)  # (B, S/2, S/2, C)
        if nets.g_last_kernel == 0:
            x = ConvTranspose(nets.channels, nets, nets.g_smooth, name="image")(x)  # (B, S, S, channels)
        else:
            x = nn.Conv(
                nets.channels,
                (nets.g_last_kernel,) * 2,
                padding="SAME",
                use_bias=nets.conv_bias,
                dtype=dtype,
                kernel_init=init,
                name="image",
            )(x)
        x = x.astype(jnp.float32)
        if nets.image_skips:  # Source: Karras et al. 2020, arXiv:1912.04958, section 4.1; there bilinear, and without tanh
            x += image if nets.g_last_kernel else upsample_nearest(image)
        return nn.tanh(x) if nets.g_output == "tanh" else nn.sigmoid(x)


class Discriminator(nn.Module):
    """Images to logits: convolutions that halve the side, then a dense head."""

    nets: Nets

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, labels: jax.Array | None = None) -> jax.Array:
        """images (B, S, S, C) float32 in G's output range -> logits (B,) float32, before any sigmoid.

        train: as for Generator; with d_dropout above 0 it also takes a "dropout" key.
        labels: (B, A) of 0 and 1, the attributes that the images are to have, where the recipe is conditional.
        """
        nets = self.nets
        dtype = jnp.dtype(nets.compute_dtype)
        if images.shape[1:] != (nets.size, nets.size, nets.channels):  # a wrong side would pass through silently (T17)
            raise ValueError(f"D takes {(nets.size, nets.size, nets.channels)} images, not {images.shape[1:]}")
        init = {"glorot": nn.initializers.glorot_uniform(), "he": LECUN}.get(nets.init, NORMAL)

        def norm(x, name):
            return _norm(nets, train, name)(x)

        x = images.astype(dtype)
        for i, features in enumerate(list_d_widths(nets)):  # (B, S/2, S/2, C), (B, S/4, S/4, 2C) ...
            before = x
            x = self._normed(Conv(features, nets, name=f"down{i + 1}"), x, train)
            if nets.d_norm == "batch" and i > 0:
                x = norm(x, f"down{i + 1}_norm").astype(dtype)
            if nets.residual:
                skip = nn.Dense(features, False, dtype=dtype, kernel_init=LECUN, name=f"down{i + 1}_skip")
                x = (x + self._normed(skip, average_pool(before), train)) / 2**0.5
            x = leaky_relu(x)
            if i == 0:
                x = _refine(nets.d_refine, nets, x, init, norm if nets.d_norm == "batch" else None, leaky_relu)
            self.sow("intermediates", "features", x)  # nothing, but for logits.py's d_features
        if nets.minibatch_std:
            x = jnp.concatenate([x, self._minibatch_std(x, train)], 3)
        x = x.reshape(x.shape[0], -1)  # (B, base_px * base_px * C)
        if nets.d_dropout > 0:
            x = nn.Dropout(nets.d_dropout, deterministic=not train)(x)
        head = nn.Dense(1, nets.d_head_bias, dtype=jnp.float32, kernel_init=init, name="head")
        logits = self._normed(head, x, train).squeeze(1)
        if nets.condition:
            # Source: Miyato and Koyama 2018, arXiv:1802.05637, equation 3, with a row of V an attribute. The root, which is not
            # there, keeps a step of Adam's from moving the logits the more, the more attributes there are.
            shown = nn.Dense(len(nets.conditions), False, dtype=jnp.float32, kernel_init=init, name="condition")
            logits += (self._normed(shown, x, train) * _to_signs(labels)).sum(1) / len(nets.conditions) ** 0.5
        return logits

    @nn.nowrap  # else the place of a NaN would be told with this name
    def _normed(self, layer, x, train):
        """layer(x), with its weights divided by their spectral norm where the recipe says so; its sign is the layer's own.

        Source: Miyato et al. 2018, arXiv:1802.05957, algorithm 1.
        """
        if self.nets.d_norm != "spectral":
            return layer(x)
        return nn.SpectralNorm(layer, name=f"{layer.name}_norm")(x, update_stats=train)

    @nn.nowrap
    def _minibatch_std(self, x, train):
        """(B, h, w, C) -> (B, h, w, 1): how much the features vary over the batch, on average; its running mean if not train.

        Source: Karras et al. 2018, arXiv:1710.10196, section 3, where convolutions follow: here the head does, so it moves all
        logits of a batch alike. The running mean keeps a picture's logit its own.
        """
        running = self.variable("batch_stats", "minibatch_std", jnp.zeros, ())
        if train:
            # The root's slope is infinite at 0, where a leaky unit's features may all be alike.
            std = jnp.sqrt(x.astype(jnp.float32).var(0) + 1e-8).mean()
            running.value = self.nets.bn_momentum * running.value + (1 - self.nets.bn_momentum) * std
        else:
            std = running.value
        return jnp.broadcast_to(std.astype(x.dtype), (*x.shape[:3], 1))


def _refine(count, nets, x, init, norm, activate):
    """(B, h, w, C) -> the same shape: count blocks that each add what two 3x3 convolutions make of x, at first nothing.

    So whatever is around them, a grown network above all, begins as it would without them. Source: He et al. 2016,
    arXiv:1512.03385, section 3.1; the zeros: Zhang et al. 2019, arXiv:1901.09321, section 3.
    """

    def conv(x, init, name):
        return nn.Conv(x.shape[3], (3, 3), use_bias=nets.conv_bias, dtype=nets.compute_dtype, kernel_init=init, name=name)(x)

    for i in range(count):
        y = conv(x, init, f"refine{i + 1}_in")
        y = activate(y if norm is None else norm(y, f"refine{i + 1}_norm"))
        x += conv(y, nn.initializers.zeros, f"refine{i + 1}_out")
    return x


def _to_signs(labels):
    return 2 * labels.astype(jnp.float32) - 1


def upsample_nearest(x: jax.Array) -> jax.Array:
    """(B, h, w, C) -> (B, 2h, 2w, C): each pixel four times."""
    batch, h, w, channels = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (batch, h, 2, w, 2, channels)).reshape(batch, 2 * h, 2 * w, channels)


def average_pool(x: jax.Array) -> jax.Array:
    """(B, 2h, 2w, C) -> (B, h, w, C): the mean of four pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.2 below zero, in every DCGAN; the libraries' defaults differ (T16)."""
    return nn.leaky_relu(x, LEAKY_SLOPE)


def _norm(nets, train, name, affine=True):
    # float32 statistics whatever the compute dtype. Gains N(1, sd): flax's initialisers are all around 0 (T6).
    def gain_init(key, shape, dtype):
        return 1 + nets.gamma_init_std * jax.random.normal(key, shape, dtype)

    return nn.BatchNorm(
        use_running_average=not train,
        momentum=nets.bn_momentum,
        epsilon=nets.bn_epsilon,
        dtype=jnp.float32,
        scale_init=gain_init,
        use_scale=affine,
        use_bias=affine,
        name=name,
    )
