"""Checks the programs for GPU and TPU without such a device: they are lowered as in experiments/accelerators.py.

The networks are toys, so that each lowering takes only a second. The structure of a program does not depend on their size.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from tiny import make_tiny_config

from dcgan_jax.config import Config, replace
from experiments.accelerators import compiled, convolutions, donated, exported, operations, strided_in_hlo, to_host

STEPS = 3
lowered = functools.cache(exported)

on_each = pytest.mark.parametrize("platform", ["cuda", "tpu"])
in_each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


@on_each
@in_each_dtype
def test_steps_are_one_loop_without_the_host(platform, dtype):
    module = lowered(make_tiny_config("torch64", compute_dtype=dtype), platform, STEPS).mlir_module()
    assert operations(module)["while"] == 1
    assert to_host(module) == []


@on_each
@in_each_dtype
def test_every_leaf_of_the_state_is_donated(platform, dtype):
    program = lowered(make_tiny_config("torch64", compute_dtype=dtype), platform, STEPS)
    assert donated(program.mlir_module()) == len(program.in_avals) - 1  # all inputs except the batches


@on_each
@in_each_dtype
@pytest.mark.parametrize("blocks", [0, 1])
def test_convolutions_use_the_compute_dtype(platform, dtype, blocks):
    config = make_tiny_config("torch64", compute_dtype=dtype, g_refine=blocks, d_refine=blocks)
    module = lowered(config, platform, STEPS).mlir_module()
    assert {operands for _, operands in convolutions(module)} == {{"float32": "f32", "bfloat16": "bf16"}[dtype]}


@on_each
def test_bfloat16_nets_return_float32(platform):
    program = lowered(make_tiny_config("torch64", compute_dtype="bfloat16"), platform, STEPS)
    state, metrics = jax.tree.unflatten(program.out_tree, program.out_avals)
    assert all(value.dtype == jnp.float32 and value.shape == (STEPS,) for value in metrics.values())
    assert jnp.bfloat16 not in {leaf.dtype for leaf in jax.tree.leaves(state)}


def count_needed_convolutions(config: Config) -> dict[str, int]:
    """Counts the strided convolutions that a step needs, by role. It assumes a loss without gradient penalties.

    D halves the side ("down") and its input gradients double it ("up"). In G it is the reverse.
    """
    nets, optimizer = config.nets, config.optimizer
    levels = (nets.size // nets.base_px).bit_length() - 1
    d_updates, g_updates, trained = optimizer.d_steps, optimizer.g_steps, levels - optimizer.freeze_d
    # G runs for each update of D and of G. The first update of G may reuse the fakes of D's last one.
    g_passes = d_updates + g_updates - (optimizer.g_latents == "same" or optimizer.updates == "alternating")
    # D runs on reals and fakes in its own updates, and on fakes in G's. Relativistic losses need reals there too.
    d_passes = 2 * d_updates + (2 if config.loss.loss.startswith("relativistic") else 1) * g_updates
    return {
        "down": d_passes * levels
        + g_updates * levels,  # D's forward passes; G's input gradients of all layers, since its head comes before them
        # G's forward passes; D's input gradients. In D's updates the first trained layer needs none. In G's updates all layers
        # do, but only for fakes, because reals do not depend on G.
        "up": g_passes * levels + 2 * d_updates * max(trained - 1, 0) + g_updates * levels,
        # D's weight gradients for reals and fakes in D's updates; G's in G's updates, where D's weights are constant.
        "weights": 2 * d_updates * trained + g_updates * levels,
    }


CONFIGS = {
    "new latents": make_tiny_config("article"),
    "same latents": make_tiny_config("torch64"),
    "one level more": replace(make_tiny_config("article"), size=32),
    "loss of real and fake": make_tiny_config("modern32"),
    "two updates of G, 5x5": make_tiny_config("carpedm20"),
    "two updates of D": make_tiny_config("torch64", d_steps=2),
    "alternating": make_tiny_config("newmu"),
    "one frozen layer of three": replace(make_tiny_config("article"), size=32, freeze_d=1),
    "all layers of D frozen": make_tiny_config("torch64", freeze_d=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_convolutions_are_no_more_than_needed(config):
    counts = {role: 0 for role in ("down", "up", "weights")}
    for (role, _), count in convolutions(lowered(config, "cuda", STEPS).mlir_module()).items():
        counts[role] += count
    assert counts == count_needed_convolutions(config)


@pytest.mark.parametrize("name", ["new latents", "same latents"])
def test_xla_keeps_every_convolution_once(name):
    """So the test above counts the convolutions that really run. XLA's CPU compiler compiles the accelerators' program."""
    assert strided_in_hlo(compiled(CONFIGS[name], "cuda", STEPS).as_text()) == sum(
        count_needed_convolutions(CONFIGS[name]).values()
    )
