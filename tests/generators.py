"""Generators of all architectures, with weights like those of training. The tests of exports use them."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tiny import make_tiny_config
from toy_run import make_once, train_toy

from dcgan_jax.config import Config, flatten
from dcgan_jax.export.numpy_generator import draw_seed_latents
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.state import describe_state
from dcgan_jax.presets import PRESETS

# Each option alone, and several together.
VARIANTS = {preset: make_tiny_config(preset) for preset in PRESETS} | {
    f"{preset}, {name}": make_tiny_config(preset, **changes)
    for preset in ("article", "torch64")
    for name, changes in {
        "refined": {"g_refine": 2},
        "smooth": {"g_smooth": True},
        "k5 smooth": {"kernel": 5, "g_smooth": True},
        "unit": {"head_norm": "unit", "g_head_bias": True},
        "leaky": {"g_activation": "leaky"},
        "from 2 px": {"base_px": 2},
        "conditional": {"condition": "Smiling,Male"},
        "last kernel": {"g_last_kernel": 5, "g_multipliers": (4, 2, 1)},
        "grey": {"channels": 1},
        "k5 same": {"kernel": 5, "padding": "same"},
        "k5 symmetric": {"kernel": 5},
        "all": {"g_refine": 1, "conv_bias": True, "g_output": "sigmoid", "condition": "Smiling,Male"},
    }.items()
}
VARIANTS["residual64, all"] = make_tiny_config(
    "residual64", g_multipliers=(3, 3, 1), g_head_bias=True, g_output="sigmoid", condition="Smiling,Male", channels=1
)


def vary_leaves(tree, seed=0):
    """Makes random leaves that vary as in training: statistics and biases are not their initial values."""
    rng = np.random.default_rng(seed)

    def vary(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if name.endswith("var"):
            return np.exp(0.5 * noise)
        if name.startswith("basis"):  # the first map of residual networks, which is large, so that images are not grey
            return 10 * noise
        return noise * (0.3 if "kernel" not in name else 0.15) + np.float32(name.endswith("scale"))

    return jax.tree_util.tree_map_with_path(vary, tree)


def list_weights(params, stats):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for tree in (params, stats)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


class GeneratorCase(NamedTuple):
    """A generator, its inputs and the images it generates."""

    config: Config
    params: dict
    stats: dict
    latents: np.ndarray  # (5, L)
    labels: np.ndarray | None  # (5, A) float32
    images: np.ndarray  # (5, S, S, C) float32 from 0 to 1

    @property
    def flat(self) -> dict:
        return flatten(self.config)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """All weights and statistics by name, such as head/kernel."""
        return list_weights(self.params, self.stats)


@functools.cache
def get_generator_case(way: str) -> GeneratorCase:
    """Generates the images of a variant with the Flax network."""
    config = VARIANTS[way]
    nets, state = config.nets, describe_state(config)  # vary_leaves needs only the shapes
    params, stats = vary_leaves(state.ema_params), vary_leaves(state.ema_stats, 1)
    latents, conditions = draw_seed_latents(range(5), nets.latent_dim, nets.latent_law), nets.conditions
    labels = np.float32(np.arange(5 * len(conditions)).reshape(5, -1) % 2) if conditions else None
    apply = jax.jit(Generator(nets).apply, static_argnums=2)
    images = np.asarray(apply({"params": params, "batch_stats": stats}, latents, False, labels))
    return GeneratorCase(config, params, stats, latents, labels, (images + 1) / 2 if nets.g_output == "tanh" else images)


@functools.cache
def get_conditional_run() -> Path:
    """Trains a conditional run of four steps, once per session. Tests only read it."""

    def make(folder):
        done = train_toy(folder, "--condition", "Smiling,Eyeglasses", "--no-tensorboard", steps=4)
        assert done.code == 0, done

    return make_once("two-attributes", make)[0] / "article"
