"""Doubles a trained GAN's resolution: adds one layer to each network, initialised so that outputs hardly change.

After progressive growing (Karras et al. 2018, arXiv:1710.10196, section 2), which fades new layers in. Here the colours pass
through the new layer as pairs of channels of opposite sign. Its activation splits them and the next layer adds them up again, so
neither the step nor sampling needs to know (Chen et al. 2016, arXiv:1511.05641, section 2).
"""

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import Config, Nets, replace
from dcgan_jax.gan import conv
from dcgan_jax.gan.models import LEAKY_SLOPE, Generator, list_g_widths
from dcgan_jax.gan.sampling import sample_latents
from dcgan_jax.gan.state import GanState

NORM_SAMPLES = 512  # generated images from which the new layers' BN is set
# Kernels along one axis: doubling the side by linear interpolation, and halving it by the same weights.
UPSAMPLE, DOWNSAMPLE = np.array([1, 3, 3, 1], np.float32) / 4, np.array([1, 3, 3, 1], np.float32) / 8
UPSAMPLE_BEFORE_BLUR = np.array([0, 1, 1, 0], np.float32)  # `g_smooth` blurs this to UPSAMPLE


def make_low_resolution_config(config: Config) -> Config:
    """The settings of the low-resolution stage of `grow_kimg`: half the image side, the same layers inside.

    Settings of the outermost layers are off: refining blocks and blur; with blocks in D also R1 and R2, which are there for the
    steep gradients of these blocks.
    """
    if config.nets.d_refine:
        config = replace(config, r1_gamma=0.0, r2_gamma=0.0, penalty_noise=0.0)
    if not config.loss.has_penalty:
        config = replace(config, penalty_every_steps=1)  # of no penalty it would be refused
    return replace(
        config,
        size=config.nets.size // 2,
        width=config.nets.width * 2,
        g_smooth=False,
        g_refine=0,
        d_refine=0,
        steps=None,
        epochs=None,
        kimg=config.run.grow_kimg,
        grow_kimg=0.0,
        lr_warmup_kimg=0.0,
        lr_decay="none",
        lr_decay_share=1.0,
    )


def grow_state(config: Config, state: GanState, small: GanState) -> GanState:
    """The state before step 0 of the full resolution, with the low-resolution networks inside.

    Args: config, of the full resolution; state, its fresh one; small, the last state of `make_low_resolution_config(config)`.
    """
    nets, small_nets = config.nets, make_low_resolution_config(config).nets
    key = jax.random.fold_in(small.key, 2**32 - 2)  # no step has this number, nor does a save use it
    latents = sample_latents(key, NORM_SAMPLES, small_nets)
    labels = None if small.labels is None else small.labels[:NORM_SAMPLES]
    images = _generate_in_training(small_nets, small.g_params, small.g_stats, latents, labels)
    ema_images = _generate_in_training(small_nets, small.ema_params, small.ema_stats, latents, labels)
    d_params, d_stats = _grow_discriminator(nets, state, small, images)
    return state.replace(
        g_params=_grow_generator(nets, state.g_params, small.g_params, images),
        ema_params=_grow_generator(nets, state.ema_params, small.ema_params, ema_images),
        d_params=d_params,
        d_stats=d_stats,
        augment_p=small.augment_p,
    )


def _generate_in_training(nets: Nets, params: dict, stats: dict, latents: jax.Array, labels: jax.Array | None) -> jax.Array:
    """(N, S, S, C) in G's output range, by the batch's own BN statistics."""
    return Generator(nets).apply({"params": params, "batch_stats": stats}, latents, True, labels, mutable="batch_stats")[0]


def _grow_generator(nets: Nets, fresh: dict, small: dict, images: jax.Array) -> dict:
    """G's parameters: the layer that made small's images becomes the last but one, and the new last layer upsamples.

    Args: fresh, new parameters of the full resolution; small, those of the low resolution; images, what small generates.
    """
    up = f"up{len(list_g_widths(nets)) - 1}"  # the first of the widths is the head's
    c = nets.channels
    last = small["image"]["kernel"]  # (4, 4, C, 2 width)
    # The layer's BN must undo itself: gains and biases are what it divides by and subtracts, the moments before the activation.
    mean, sd = _measure_before_output(nets, images)
    # Of a pair (x, -x) the activation leaves x behind: relu(x) - relu(-x) = x, and leaky ones (1 + slope) x.
    gain = 1.0 if nets.g_activation == "relu" else 1 + LEAKY_SLOPE
    upsampling = _make_color_kernel(c, UPSAMPLE_BEFORE_BLUR if nets.g_smooth else UPSAMPLE) / gain
    norm = fresh[f"{up}_norm"]
    grown = {
        up: {"kernel": fresh[up]["kernel"].at[:, :, :c].set(last).at[:, :, c : 2 * c].set(-last)},
        f"{up}_norm": {
            "scale": norm["scale"].at[: 2 * c].set(jnp.tile(sd, 2)),
            "bias": norm["bias"].at[: 2 * c].set(jnp.concatenate([mean, -mean])),
        },
        # The new layer's other channels do not count yet.
        "image": {"kernel": jnp.zeros_like(fresh["image"]["kernel"]).at[:, :, :, : 2 * c].set(_pair_with_negative(upsampling))},
    }
    return fresh | {name: layer for name, layer in small.items() if name != "image"} | grown


def _measure_before_output(nets: Nets, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation (C,) of what G's output activation made the images from."""
    # Clipped: where the activation is saturated its inverse would be infinite.
    if nets.g_output == "tanh":
        before = jnp.arctanh(jnp.clip(images, -1 + 1e-6, 1 - 1e-6))
    else:
        before = jax.scipy.special.logit(jnp.clip(images, 1e-6, 1 - 1e-6))
    return before.mean((0, 1, 2)), jnp.sqrt(before.var((0, 1, 2)) + nets.bn_epsilon)


def _grow_discriminator(nets: Nets, fresh: GanState, small: GanState, images: jax.Array) -> tuple[dict, dict]:
    """D's parameters and statistics: a new first layer downsamples, and small's layers follow it.

    Args: fresh, new state of the full resolution; small, that of the low resolution; images, what small's G generates.
    """
    c = nets.channels
    first = small.d_params["down1"]["kernel"]  # (4, 4, C, 2 width)
    # Small's first layer had no BN. It has one now, which must undo itself.
    outputs = conv.conv(images, first)
    mean, var = outputs.mean((0, 1, 2)), outputs.var((0, 1, 2))
    again = first / (1 + LEAKY_SLOPE)  # undoes what the activation makes of a pair
    down1, down2 = (fresh.d_params[name]["kernel"] for name in ("down1", "down2"))
    params = {
        "down1": {"kernel": down1.at[:, :, :, : 2 * c].set(_pair_with_negative(_make_color_kernel(c, DOWNSAMPLE)))},
        # The new layer's other channels count at once: they tell sharp images from upsampled ones.
        "down2": {"kernel": down2.at[:, :, :c].set(again).at[:, :, c : 2 * c].set(-again)},
        "down2_norm": {"scale": jnp.sqrt(var + nets.bn_epsilon), "bias": mean},
    }
    stats = {"down2_norm": {"mean": mean, "var": var}}
    return fresh.d_params | _shift_layers(small.d_params) | params, fresh.d_stats | _shift_layers(small.d_stats) | stats


def _make_color_kernel(channels: int, taps: np.ndarray) -> np.ndarray:
    """(4,) -> (4, 4, C, C): each colour is resampled by the taps, each way, and stays that colour."""
    return np.outer(taps, taps)[:, :, None, None] * np.eye(channels, dtype=np.float32)


def _pair_with_negative(kernel: np.ndarray) -> jax.Array:
    """(4, 4, C, C) -> (4, 4, C, 2C): a kernel and its negative side by side."""
    return jnp.concatenate([kernel, -kernel], 3)


def _shift_layers(tree: dict) -> dict:
    """The same layers one further in: down2 -> down3, down2_norm -> down3_norm; others keep their names."""
    return {_shift_name(name): layer for name, layer in tree.items()}


def _shift_name(name: str) -> str:
    if not name.startswith("down"):
        return name
    number, _, rest = name.removeprefix("down").partition("_")
    return f"down{int(number) + 1}" + (f"_{rest}" if rest else "")
