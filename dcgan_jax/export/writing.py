"""What all formats share: what a writer returns, the names of weights, and pieces of the model card's code."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcgan_jax.api import TrainedGAN
from dcgan_jax.gan.state import name_leaves


class Written(NamedTuple):
    """An export's file, and how to use it."""

    file: Path
    generate: Callable[..., np.ndarray] | None  # (latents, labels or None) -> (N, S, S, C) float 0 to 1, read from the file
    usage: str  # a part of the model card


def name_weights(net: tuple[dict, dict]) -> dict[str, np.ndarray]:
    """Leaves of a net's parameters and statistics by name, as head/kernel and head_norm/mean."""
    return {name: np.asarray(leaf) for name, leaf in name_leaves(*net).items()}


def describe_shape(gan: TrainedGAN) -> str:
    """An image's, as S, S, C."""
    nets = gan.config.nets
    return f"{nets.size}, {nets.size}, {nets.channels}"


def describe_latent(gan: TrainedGAN) -> str:
    """The latent of `seed`, in JAX."""
    nets = gan.config.nets
    how = "normal" if nets.latent_law == "normal" else "uniform"
    return f"jax.random.{how}(jax.random.key(seed), ({nets.latent_dim},)" + (")" if how == "normal" else ", minval=-1)")
