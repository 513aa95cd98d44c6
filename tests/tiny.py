"""Toy versions of every preset and their compiled steps. Tests share them, because compilation takes most of the time."""

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
# Options that turn on again what conftest.py turns off.
NEW_EMITTERS = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters=false" in os.environ["XLA_FLAGS"] else {}


def make_tiny_config(preset: str, **changes) -> Config:
    """Makes a toy config with the layers, losses and updates of the preset: 16 px, width 4, batch 4 (keras64: 32 px)."""
    config = replace(PRESETS[preset], size=16, width=4, batch_size=BATCH)
    if preset == "keras64":  # starts at 8 px, and its channels increase towards the image
        config = replace(config, size=32, g_multipliers=(2, 4, 8), d_multipliers=(1, 2))
    # Sets fields that the step does not read to fixed values, so that presets that differ only in these share a program.
    config = replace(config, crop="centre", **changes)
    return dataclasses.replace(config, run=Run(steps=5), output=Output())  # the number of steps that tests run


@functools.cache
def make_fresh_state(config: Config) -> GanState:
    """Makes an initial state with a compiled init_state. No step here donates it, so tests can share it."""
    return jax.jit(lambda: init_state(config))()


@functools.cache
def make_toy_state(config: Config) -> GanState:
    """Makes a random state without compiling init_state, which takes half as long to compile as a step."""
    rng = np.random.Generator(np.random.Philox(config.run.seed))

    def fill(path, leaf):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        field, name = names[0], names[-1]
        if field == "key":
            return jax.random.key(config.run.seed)
        if field.endswith("_params") and name == "kernel":
            return np.float32(0.02) * rng.standard_normal(leaf.shape, np.float32)
        if field.endswith("_stats") and name == "u":  # the vector of spectral normalisation
            return rng.standard_normal(leaf.shape, np.float32)
        is_one = name in ("scale", "var", "sigma") and field.endswith(("_params", "_stats"))
        return np.full(leaf.shape, is_one, leaf.dtype)

    state = jax.tree.map_with_path(fill, describe_state(config))
    return jax.device_put(state.replace(ema_params=state.g_params))


class CompiledStep:
    """A jitted train_step that counts its traces."""

    def __init__(self, config: Config):
        self.traces = 0
        step = make_train_step(config)

        def counted(state, batch):
            self.traces += 1
            return step(state, batch)

        self._call = jax.jit(counted)

    def __call__(self, state, batch):
        """Runs the step. batch: a Batch, or only images."""
        return self._call(state, batch if isinstance(batch, Batch) else Batch(batch))


get_compiled_step = functools.cache(CompiledStep)


@functools.cache
def compile_apply(network: nn.Module, train: bool, mutable: bool | str = False):
    """Makes f(params, stats, inputs, labels=None): the network as one program. Without jit, dozens would be compiled."""

    def apply(params, stats, inputs, labels=None):
        return network.apply({"params": params, "batch_stats": stats}, inputs, train, labels, mutable=mutable)

    return jax.jit(apply)


def make_images(config: Config, seed: int = 0, steps: int = 1) -> np.ndarray:
    """Makes random images for `steps` steps, (steps * images_per_step, S, S, C) uint8."""
    shape = (steps * config.images_per_step, config.nets.size, config.nets.size, config.nets.channels)
    return np.random.Generator(np.random.Philox(seed)).integers(0, 256, shape, np.uint8)


@contextlib.contextmanager
def fused_loops():
    """Turns on XLA's default loop emitters, which conftest.py turns off, so that different programs give identical bits."""
    real = compiler.get_compile_options

    def fused(*args, env_options_overrides=None, **kwargs):
        overrides = {**(env_options_overrides or {}), **NEW_EMITTERS}
        return real(*args, env_options_overrides=overrides, **kwargs)

    jax.clear_caches()  # programs of one emitter must not be used with the other
    with mock.patch.object(compiler, "get_compile_options", fused):
        yield
    jax.clear_caches()


def get_leaves(tree) -> dict[str, np.ndarray]:
    """Returns path -> array on the host. Random keys become uint32 arrays."""

    def plain(leaf):
        return np.asarray(jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return {jax.tree_util.keystr(path, simple=True, separator="/"): plain(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
