"""Shared by all formats: the result of a writer, names of weights, and parts of the model card's code."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcgan_jax.api import TrainedGAN
from dcgan_jax.config import Nets
from dcgan_jax.gan.state import name_leaves


class Written(NamedTuple):
    """The file of an export, and how to use it."""

    file: Path
    generate: Callable[..., np.ndarray] | None  # from the file: (latents, labels or None) -> (N, S, S, C) from 0 to 1
    usage: str  # a part of the model card


def name_weights(net: tuple[dict, dict]) -> dict[str, np.ndarray]:
    """Parameters and statistics of a network by name, such as head/kernel and head_norm/mean."""
    return {name: np.asarray(leaf) for name, leaf in name_leaves(*net).items()}


def describe_kind(nets: Nets) -> str:
    """The kind of the networks as text."""
    return "GAN" if nets.architecture == "residual" else "DCGAN"


def describe_shape(gan: TrainedGAN) -> str:
    """The shape of an image as text: S, S, C."""
    nets = gan.config.nets
    return f"{nets.size}, {nets.size}, {nets.channels}"


def describe_latent(gan: TrainedGAN) -> str:
    """JAX code for the latent of `seed`."""
    nets = gan.config.nets
    how = "normal" if nets.latent_law == "normal" else "uniform"
    key = 'jax.random.key(seed, impl="threefry2x32")'  # as in gan/state.py, whatever the reader's default is
    return f"jax.random.{how}({key}, ({nets.latent_dim},)" + (")" if how == "normal" else ", minval=-1)")
