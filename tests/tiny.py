"""Toy versions of all presets and their compiled steps. Tests share them, because compilation takes most of the time."""

import contextlib
import dataclasses
import functools
import os
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
from jax._src import compiler

from dcgan_jax.batch import Batch
from dcgan_jax.config import Config, Output, Run, replace
from dcgan_jax.gan.state import GanState, describe_state, init_state
from dcgan_jax.gan.step import make_train_step
from dcgan_jax.presets import PRESETS

BATCH = 4
# Turns on again what conftest.py turned off.
NEW_EMITTERS = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters=false" in os.environ["XLA_FLAGS"] else {}


def make_tiny_config(preset: str, **changes) -> Config:
    """Makes the preset with its own layers, losses and updates, but at 16 px, width 4 and batch size 4 (keras64: 32 px)."""
    config = replace(PRESETS[preset], size=16, width=4, batch_size=BATCH)
    if preset == "keras64":  # it starts at 8 px, and its channels increase towards the image
        config = replace(config, size=32, g_multipliers=(2, 4, 8), d_multipliers=(1, 2))
    # Settings that the step does not read are made equal. So presets that differ only in data or length share one program.
    config = replace(config, crop="centre", **changes)
    return dataclasses.replace(config, run=Run(steps=5), output=Output())  # as many steps as the tests run


@functools.cache
def make_fresh_state(config: Config) -> GanState:
    """Returns the initial state. Cached: no test may donate it."""
    return jax.jit(lambda: init_state(config))()


@functools.cache
def make_toy_state(config: Config) -> GanState:
    """Makes a random state like the initial one, with NumPy. Compiling init_state takes half as long as compiling a step."""
    rng = np.random.Generator(np.random.Philox(config.run.seed))

    def fill(path, leaf):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        field, name = names[0], names[-1]
        if field == "key":
            return jax.random.key(config.run.seed)
        if field.endswith("_params") and name == "kernel":
            return np.float32(0.02) * rng.standard_normal(leaf.shape, np.float32)
        if field.endswith("_stats") and name == "u":  # the spectral norm's vector
            return rng.standard_normal(leaf.shape, np.float32)
        is_one = name in ("scale", "var", "sigma") and field.endswith(("_params", "_stats"))
        return np.full(leaf.shape, is_one, leaf.dtype)

    state = jax.tree.map_with_path(fill, describe_state(config))
    return jax.device_put(state.replace(ema_params=state.g_params))


class CompiledStep:
    """The jitted training step, which counts its traces."""

    def __init__(self, config: Config):
        self.traces = 0
        step = make_train_step(config)

        def counted(state, batch):
            self.traces += 1
            return step(state, batch)

        self._call = jax.jit(counted)

    def __call__(self, state, batch):
        """Runs one step. batch: a Batch, or images only."""
        return self._call(state, batch if isinstance(batch, Batch) else Batch(batch))


get_compiled_step = functools.cache(CompiledStep)


@functools.cache
def compile_apply(network: nn.Module, train: bool, mutable: bool | str = False):
    """Makes f(params, stats, inputs, labels=None), the network as one program. Without jit it would compile dozens."""

    def apply(params, stats, inputs, labels=None):
        return network.apply({"params": params, "batch_stats": stats}, inputs, train, labels, mutable=mutable)

    return jax.jit(apply)


def make_images(config: Config, seed: int = 0, steps: int = 1) -> np.ndarray:
    """Makes random images for this many steps, (steps * images_per_step, S, S, C) uint8."""
    shape = (steps * config.images_per_step, config.nets.size, config.nets.size, config.nets.channels)
    return np.random.Generator(np.random.Philox(seed)).integers(0, 256, shape, np.uint8)


@contextlib.contextmanager
def fused_loops():
    """Turns XLA's default loop emitters on (conftest.py turns them off). Programs that must agree bit for bit need them.

    Jit a function of your own inside: one that was compiled before keeps its program.
    """
    real = compiler.get_compile_options

    def fused(*args, env_options_overrides=None, **kwargs):
        overrides = {**(env_options_overrides or {}), **NEW_EMITTERS}
        return real(*args, env_options_overrides=overrides, **kwargs)

    with mock.patch.object(compiler, "get_compile_options", fused):
        yield


def get_leaves(tree) -> dict[str, np.ndarray]:
    """Maps the path of each leaf to its array on the host; PRNG keys become their raw data."""

    def plain(leaf):
        return np.asarray(jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return {jax.tree_util.keystr(path, simple=True, separator="/"): plain(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
