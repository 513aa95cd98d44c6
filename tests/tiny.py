"""Toy versions of every preset and their compiled steps, shared by the tests: compiling is what costs."""

import contextlib
import dataclasses
import functools
import os
from unittest import mock

import jax
import numpy as np
from jax._src import compiler

from dcgan_jax.batch import Batch
from dcgan_jax.config import Config, Output, Run, replace
from dcgan_jax.gan.state import GanState, init_state
from dcgan_jax.gan.step import make_train_step
from dcgan_jax.presets import PRESETS

BATCH = 4
# What conftest.py turned off, to have it on again.
NEW_EMITTERS = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters=false" in os.environ["XLA_FLAGS"] else {}


def make_tiny_config(preset: str, **changes) -> Config:
    """The preset with its own kinds of layers, losses and updates at 16 px, width 4, batch 4 (keras64: 32 px)."""
    config = replace(PRESETS[preset], size=16, width=4, batch_size=BATCH)
    if preset == "keras64":  # from 8 px, with channels that grow towards the image
        config = replace(config, size=32, g_multipliers=(2, 4, 8), d_multipliers=(1, 2))
    # What the step does not read is made equal, so that presets that differ in data or length only share one program.
    config = replace(config, crop="centre", **changes)
    return dataclasses.replace(config, run=Run(steps=5), output=Output())  # as many as tests make


@functools.cache
def make_fresh_state(config: Config) -> GanState:
    """init_state, compiled. Nothing here donates, so that it can be shared."""
    return jax.jit(lambda: init_state(config))()


class CompiledStep:
    """train_step under jit, counting its traces."""

    def __init__(self, config: Config):
        self.traces = 0
        step = make_train_step(config)

        def counted(state, batch):
            self.traces += 1
            return step(state, batch)

        self._call = jax.jit(counted)

    def __call__(self, state, batch):
        """batch: a Batch, or images alone."""
        return self._call(state, batch if isinstance(batch, Batch) else Batch(batch))


get_compiled_step = functools.cache(CompiledStep)


def make_images(config: Config, seed: int = 0, steps: int = 1) -> np.ndarray:
    """Random batches for that many steps, (steps * images_per_step, S, S, C) uint8."""
    shape = (steps * config.images_per_step, config.nets.size, config.nets.size, config.nets.channels)
    return np.random.Generator(np.random.Philox(seed)).integers(0, 256, shape, np.uint8)


@contextlib.contextmanager
def fused_loops():
    """XLA's present emitters of loops, which conftest.py turns off: for bits that two different programs have to share."""
    real = compiler.get_compile_options

    def fused(*args, env_options_overrides=None, **kwargs):
        overrides = {**(env_options_overrides or {}), **NEW_EMITTERS}
        return real(*args, env_options_overrides=overrides, **kwargs)

    with mock.patch.object(compiler, "get_compile_options", fused):
        yield


def get_leaves(tree) -> dict[str, np.ndarray]:
    """Path -> array on the host, keys as their words."""

    def plain(leaf):
        return np.asarray(jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return {jax.tree_util.keystr(path, simple=True, separator="/"): plain(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
