import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import dcgan_jax
from dcgan_jax.config import Config, Run, UserError, replace
from dcgan_jax.run import backend, distributed


def config(**changes):
    return replace(Config(), **changes)


def test_batches_are_split_by_images_and_the_state_is_on_every_device():
    sharding = distributed.make_shardings(config(batch_size=8))
    batch = jax.device_put(np.zeros((3, 8, 2, 2, 1), np.uint8), sharding.batches)
    assert [shard.data.shape for shard in batch.addressable_shards] == [(3, 4, 2, 2, 1)] * 2
    images = jax.device_put(np.zeros((8, 5)), sharding.images)
    assert [shard.data.shape for shard in images.addressable_shards] == [(4, 5)] * 2
    state = jax.device_put(np.zeros((8, 5)), sharding.state)
    assert [shard.data.shape for shard in state.addressable_shards] == [(8, 5)] * 2


@pytest.mark.parametrize("batch_size, near", [(7, "6 or 8"), (129, "128 or 130"), (1, "nearest: 2")])
def test_a_batch_that_two_devices_cannot_share_names_the_nearest_that_they_can(batch_size, near):
    with pytest.raises(UserError, match=f"`batch_size` {batch_size}: .*2 devices.*{near}"):
        distributed.make_shardings(config(batch_size=batch_size))


def test_debugging_finds_keys_that_are_used_twice_and_leaked_tracers():
    def reuse(key):
        return jax.random.normal(key) + jax.random.uniform(key)

    kept, before = [], {name: getattr(jax.config, name) for name in ("jax_debug_key_reuse", "jax_check_tracer_leaks")}
    try:
        for name in before:
            jax.config.update(name, False)
        jax.jit(lambda x: kept.append(x) or x)(1.0)
        jax.jit(reuse)(jax.random.key(0))
        backend.enable_strict_checks()
        jax.clear_caches()
        with pytest.raises(jax.errors.KeyReuseError):
            jax.jit(reuse)(jax.random.key(0))
        with pytest.raises(Exception, match="Leaked trace"):
            jax.jit(lambda x: kept.append(x) or x)(1.0)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_one_device_is_a_mesh_of_one(monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr(distributed.jax, "devices", lambda: one)
    sharding = distributed.make_shardings(config(batch_size=7))
    assert all(set(place.device_set) == set(one) for place in sharding)
    assert distributed.describe_devices() == "1 x cpu"


def test_the_machine_in_words():
    assert distributed.describe_devices() == "2 x cpu"


@pytest.mark.parametrize(
    "platform, saves, debug, k",
    [
        ("cpu", 500, False, 1),
        ("gpu", 500, False, 10),
        ("tpu", 200, False, 10),
        ("gpu", 96, False, 8),
        ("gpu", 7, False, 7),
        ("gpu", 11, False, 1),
        ("gpu", 500, True, 1),
    ],
)
def test_dispatches_end_at_every_save(monkeypatch, platform, saves, debug, k):
    monkeypatch.setattr(distributed.jax, "default_backend", lambda: platform)
    assert backend.choose_steps_per_dispatch(config(save_every_steps=saves, debug=debug)) == k
    assert saves % k == 0


# ---- Before JAX starts ----


def fresh(code, **environment):
    """Lines that the code prints in a process of its own, where JAX has not started."""
    done = subprocess.run(
        [sys.executable, "-c", f"from dcgan_jax.run import devices\nfrom pathlib import Path\n{code}"],
        cwd=Path(dcgan_jax.__file__).parents[1],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep what they like")
def test_memory_of_a_step_is_kept_for_the_next():
    (faults,) = fresh("""
import resource, numpy as np
devices._keep_memory()
np.ones(2**27, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**27, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
""")
    assert int(faults) < 100  # of 32,768 pages


def test_compiled_programs_are_kept_for_the_next_start(tmp_path):
    compiles = """
devices.start(Path("CACHE"))
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))
""".replace("CACHE", str(tmp_path))
    unset = {"JAX_COMPILATION_CACHE_DIR": ""}
    fresh(compiles, **unset)
    kept = sorted((tmp_path / "programs").glob("*/*-cache"))
    assert kept
    fresh(compiles, **unset)
    assert sorted((tmp_path / "programs").glob("*/*-cache")) == kept  # found, not made again under another name


def test_a_cache_that_cannot_be_made_is_done_without_and_the_users_own_is_left_alone(tmp_path):
    (tmp_path / "programs").touch()
    unset = {"JAX_COMPILATION_CACHE_DIR": ""}
    says = f"devices.start(Path({str(tmp_path)!r}))\nimport jax\nprint(jax.config.jax_compilation_cache_dir)"
    assert fresh(says, **unset) in (["None"], [""])
    assert fresh(says, JAX_COMPILATION_CACHE_DIR="/own") == ["/own"]


# ---- Several processes ----


def test_one_process_alone_is_first_and_waits_for_nobody():
    distributed.join_processes(Run())
    assert distributed.is_first_process()
    assert [
        turn(lambda: 7) for turn in (distributed.run_first_then_others, distributed.run_in_first, distributed.run_in_all)
    ] == [7, 7, 7]
    distributed.check_agreement(1, "flag")
    assert [distributed.any_process(here) for here in (False, True)] == [False, True]


def test_a_cluster_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="`coordinator` auto: .*give `coordinator` address:port"):
        distributed.join_processes(Run(coordinator="auto"))
