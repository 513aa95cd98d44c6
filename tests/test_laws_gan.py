"""Invariants of the training step: k steps per call, several devices, donation, one program."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal
from tiny import CompiledStep, fused_loops, get_compiled_step, get_leaves, make_images, make_tiny_config, make_toy_state

from dcgan_jax.batch import Batch
from dcgan_jax.config import FIELDS, replace
from dcgan_jax.gan.sampling import make_recalibrate
from dcgan_jax.gan.state import describe_state, drop_unread_settings
from dcgan_jax.gan.step import make_train_step, make_train_steps

CONFIG = make_tiny_config("torch64", flip=True)


# Settings that no program of a run reads, and other values for them. A new field of these groups must be in one of the two lists.
UNREAD = {"workdir": "x", "name": "y", "preset": "best32", "seed": 3, "steps": 9, "coordinator": "auto", "processes": 2}
UNREAD |= {"process_id": 1, "data": "drawn:40", "split": "train", "crop": "carpedm20", "feed": "stream", "strict": True}
UNREAD |= {"save_every_steps": 3, "log_every_steps": 7, "grid_images": 4, "keep_checkpoints": 9, "tensorboard": False}
UNREAD |= {"wandb": "project", "score_every_kimg": 1.0, "score_count": 99, "score_by": "a.py:f", "score_share": 0.3}
UNREAD |= {"held_out": 7, "on_nan": "rollback", "max_rollbacks": 9, "debug": True}
READ = {"batch_size", "flip", "start", "grow_kimg"}  # the last two by recalibration
LENGTHS = {"epochs", "kimg", "minutes"}  # instead of steps


def trace(function, *arguments):
    """Returns the program as text, without addresses of functions."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(function)(*arguments)))


def test_every_setting_is_known_as_read_or_unread():
    groups = {name for name, field in FIELDS.items() if field.group in ("run", "data", "output", "guard")}
    assert groups == UNREAD.keys() | READ | LENGTHS


def test_programs_read_no_setting_that_is_dropped():
    """Runs that differ only in dropped settings share a kept program (run/program_cache.py)."""
    decaying = replace(CONFIG, lr_decay="linear")
    one, other = (replace(decaying, **some) for some in ({}, UNREAD))
    assert drop_unread_settings(one) == drop_unread_settings(other)
    state, batch, total_steps = describe_state(one), Batch(make_images(one)), jnp.ones(())
    steps = [trace(make_train_step(config), state, batch, total_steps) for config in (one, other)]
    assert steps[0] == steps[1]
    recalibrations = [trace(make_recalibrate(config), state) for config in (one, other)]
    assert recalibrations[0] == recalibrations[1]


def test_recalibration_at_step_0_depends_on_the_start():
    """Random weights get fewer latents, so the two need different programs."""
    state, started = describe_state(CONFIG), replace(CONFIG, start="drawn32")
    assert trace(make_recalibrate(CONFIG), state) != trace(make_recalibrate(started), state)
    assert trace(make_recalibrate(drop_unread_settings(started)), state) == trace(make_recalibrate(started), state)


@pytest.fixture(scope="module")
def one_by_one():
    """Calls the step twice. Returns (batches (2, 4, S, S, C), the final state, stacked metrics)."""
    batches = np.stack([make_images(CONFIG, seed) for seed in (0, 1)])
    state, metrics, step = make_toy_state(CONFIG), [], CompiledStep(CONFIG)
    with fused_loops():
        for batch in batches:
            state, now = step(state, batch)
            metrics.append(now)
    return batches, state, jax.tree.map(lambda *values: np.stack(values), *metrics)


@pytest.mark.integration
def test_two_steps_in_a_call_equal_two_calls(one_by_one):
    batches, expected, expected_metrics = one_by_one
    start = jax.tree.map(jnp.copy, make_toy_state(CONFIG))
    kernel = start.g_params["head"]["kernel"]
    with fused_loops():
        state, metrics = jax.jit(make_train_steps(CONFIG), donate_argnames="state")(start, Batch(batches))
    assert kernel.is_deleted()  # the state was donated
    for path, leaf in get_leaves(state).items():
        assert_array_equal(leaf, get_leaves(expected)[path], err_msg=path)
    for name in expected_metrics.keys() - {"g_grad_norm"}:
        assert_array_equal(metrics[name], expected_metrics[name], err_msg=name)
    # This sum over all of G's gradient may have another order in another program. Nothing else depends on it.
    assert_allclose(metrics["g_grad_norm"], expected_metrics["g_grad_norm"], rtol=1e-6)


def test_accelerator_scan_equals_two_steps(one_by_one, monkeypatch):
    batches, expected, expected_metrics = one_by_one
    with monkeypatch.context() as patch:  # only for the choice between loop and scan; convolutions are traced later, for CPU
        patch.setattr(jax, "default_backend", lambda: "gpu")
        scan = make_train_steps(CONFIG)
    state, metrics = jax.jit(scan)(make_toy_state(CONFIG), Batch(batches))
    assert metrics["d_loss"].shape == (2,)
    assert_allclose(metrics["d_loss"], expected_metrics["d_loss"], rtol=1e-5)
    assert_same_run(state, expected)


def assert_same_run(state, expected):
    """Compares two states. Tolerances allow for sums in another order and for Adam's first steps, whose size is fixed."""
    expected = get_leaves(expected)
    # BN removes the bias before it, so that bias has a gradient of 0 apart from rounding. Adam turns this into a full step.
    means = [path for path in expected if path.endswith("_norm/mean")]
    idle = [path.replace("_stats/", "_params/").replace("_norm/mean", "/bias") for path in means]
    for path, leaf in get_leaves(state).items():
        if path.startswith(("g_params", "d_params", "ema_params")):
            # If a gradient is near 0, rounding may change the direction of a step: 2 steps of 2e-4 either way, for a few weights.
            gap = np.abs(leaf - expected[path])
            assert gap.max() <= 9e-4, path
            assert path in idle or np.mean(gap > 1e-5) < 0.02, path
        else:
            assert_allclose(leaf, expected[path], rtol=1e-3, atol=1e-5 * max(1, np.abs(expected[path]).max()), err_msg=path)


PENALISED = make_tiny_config(
    "article", loss="relativistic-paired", r1_gamma=1.0, gp_weight=1.0, augment=("translation",), d_norm="none"
)


OWN = make_tiny_config(
    "article",
    loss="hinge",
    d_norm="spectral",
    conv_bias=True,
    minibatch_std=True,
    augment=("color",),
    augment_target=0.6,
    augment_adapt_kimg=0.1,
)


NOISE = make_tiny_config("article", r1_gamma=1.0, r2_gamma=1.0, penalty_noise=0.01, g_refine=1, d_refine=1, d_dropout=0.2)


FROZEN = make_tiny_config("article", freeze_d=1)


RESIDUAL = make_tiny_config("residual64")


@pytest.mark.integration
@pytest.mark.parametrize(
    "config",
    [CONFIG, PENALISED, OWN, pytest.param(NOISE, marks=pytest.mark.slow), FROZEN, pytest.param(RESIDUAL, marks=pytest.mark.slow)],
    ids=["torch64", "penalised", "own", "noise", "frozen", "residual"],
)
def test_two_devices_train_as_one(config):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    step = jax.jit(make_train_step(config, split), in_shardings=(whole, split), out_shardings=(whole, whole))
    expected, expected_metrics = get_compiled_step(config)(make_toy_state(config), make_images(config))
    state, metrics = step(jax.device_put(make_toy_state(config), whole), jax.device_put(Batch(make_images(config)), split))
    assert len(state.g_params["head"]["kernel"].sharding.device_set) == 2
    for name in metrics:
        assert_allclose(metrics[name], expected_metrics[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert_same_run(state, expected)


EIGHT = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import tiny
from jax.sharding import NamedSharding, PartitionSpec
from dcgan_jax.batch import Batch
from dcgan_jax.gan.step import make_train_step
config = tiny.make_tiny_config("article", batch_size=8)
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
step = jax.jit(make_train_step(config, split), in_shardings=(whole, split), out_shardings=(whole, whole))
batch = jax.device_put(Batch(tiny.make_images(config)), split)
state, metrics = step(jax.device_put(tiny.make_toy_state(config), whole), batch)
expected, expected_metrics = tiny.get_compiled_step(config)(tiny.make_toy_state(config), tiny.make_images(config))
print(max(abs(float(metrics[name]) - float(expected_metrics[name])) for name in metrics))
statistics = zip(jax.tree.leaves(state.d_stats), jax.tree.leaves(expected.d_stats), strict=True)
print(max(float(abs(jax.device_get(a) - jax.device_get(b)).max()) for a, b in statistics))
"""


@pytest.mark.slow
@pytest.mark.integration
def test_eight_devices_train_as_one():
    """Runs in a separate process, because the number of devices is fixed when JAX starts."""
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", EIGHT],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"},
    )
    assert done.returncode == 0, done.stderr
    losses, statistics = map(float, done.stdout.split())
    assert losses < 1e-5
    assert statistics < 1e-5


def test_step_keeps_every_type_and_shape():
    """So one compiled program is enough for the whole run."""
    state = describe_state(CONFIG)
    after, metrics = jax.eval_shape(make_train_step(CONFIG), state, Batch(jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8)))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), state
    )
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())
