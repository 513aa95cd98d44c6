import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

import dcgan_jax
from dcgan_jax.config import Config, replace
from dcgan_jax.machine import count_cores
from dcgan_jax.run import backend


def config(**changes):
    return replace(Config(), **changes)


def test_debug_detects_reused_keys_and_leaked_tracers(tmp_path):
    def reuse(key):
        return jax.random.normal(key) + jax.random.uniform(key)

    kept, before = [], {name: getattr(jax.config, name) for name in ("jax_debug_key_reuse", "jax_check_tracer_leaks")}
    try:
        for name in before:
            jax.config.update(name, False)
        jax.jit(lambda x: kept.append(x) or x)(1.0)
        jax.jit(reuse)(jax.random.key(0))
        with backend.configure_backend(tmp_path, debug=True):
            jax.clear_caches()
            with pytest.raises(jax.errors.KeyReuseError):
                jax.jit(reuse)(jax.random.key(0))
            with pytest.raises(Exception, match="Leaked trace"):
                jax.jit(lambda x: kept.append(x) or x)(1.0)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


SETTINGS = (
    "jax_cpu_enable_async_dispatch",
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_debug_key_reuse",
    "jax_check_tracer_leaks",
)


@pytest.mark.parametrize("debug", [False, True])
def test_configure_backend_restores_settings_and_warnings(tmp_path, debug):
    """It restores them also if the `with` block raises."""
    own, filters = jax.config.jax_compilation_cache_dir, list(warnings.filters)
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        before = {name: jax.config.values[name] for name in SETTINGS}
        with pytest.raises(RuntimeError, match="inside"), backend.configure_backend(tmp_path, debug=debug):
            assert jax.config.jax_compilation_cache_dir.startswith(str(tmp_path))
            assert jax.config.jax_check_tracer_leaks == debug
            raise RuntimeError("inside")
        assert {name: jax.config.values[name] for name in SETTINGS} == before
        assert warnings.filters == filters
    finally:
        jax.config.update("jax_compilation_cache_dir", own)


# ---- Before JAX starts ----


def fresh(code, **environment):
    """Runs the code in a new process, where JAX has not started. Returns: the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"from dcgan_jax.run import backend\nfrom pathlib import Path\n{code}"],
        cwd=Path(dcgan_jax.__file__).parents[1],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other rules")
@pytest.mark.integration
def test_step_memory_is_kept_for_the_next_start():
    (faults,) = fresh("""
import resource, numpy as np
backend._keep_memory()
np.ones(2**27, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**27, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
""")
    assert int(faults) < 100  # of 32,768 pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other rules")
@pytest.mark.integration
def test_release_memory_returns_freed_blocks_to_the_kernel():
    """It returns those below a live block too, which the kernel cannot take back otherwise."""
    kept, released = fresh("""
import os, numpy as np
backend._keep_memory()
def count_resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = count_resident()
step, live = np.ones(2**27, np.uint8), np.ones(2**22, np.uint8)
del step
print(count_resident() - before)
backend.release_memory()
print(count_resident() - before)
""")
    assert int(kept) > 2**26
    assert int(released) < 2**24


@pytest.mark.integration
def test_compiled_programs_are_kept_for_the_next_start(tmp_path):
    compiles = """
backend.start_backend(Path("CACHE"))
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))
""".replace("CACHE", str(tmp_path))
    unset = {"JAX_COMPILATION_CACHE_DIR": ""}
    fresh(compiles, **unset)
    kept = sorted((tmp_path / "programs").glob("*/*-cache"))
    assert kept
    fresh(compiles, **unset)
    assert sorted((tmp_path / "programs").glob("*/*-cache")) == kept  # reused, not compiled again under another name


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a limit on the cores of a process")
@pytest.mark.skipif(count_cores() < 2, reason="needs two cores")
def test_program_compiled_on_one_core_is_not_used_on_more(tmp_path):
    """XLA divides loops among the cores of the process that compiles, and JAX's cache does not know their number."""
    compiles = """
import os
if ONE:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
backend.start_backend(Path("CACHE"))
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
program = jax.jit(lambda x: jnp.sin(x) * 2).lower(jnp.ones((512, 1024))).compile()
print('outer_dimension_partitions":["' in program.as_text())
""".replace("CACHE", str(tmp_path))
    unset = {"JAX_COMPILATION_CACHE_DIR": "", "PJRT_NPROC": "", "NPROC": ""}  # XLA reads the last two before the limit
    assert fresh(compiles.replace("ONE", "True"), **unset) == ["False"]
    assert fresh(compiles.replace("ONE", "False"), **unset) == ["True"]
    assert len({file.parent for file in (tmp_path / "programs").glob("*/*-cache")}) == 2  # each kept its program


@pytest.mark.integration
def test_unwritable_cache_is_skipped_users_own_is_kept(tmp_path):
    """If the cache folder cannot be created, there is no cache. A cache that the user has set stays."""
    (tmp_path / "programs").touch()
    unset = {"JAX_COMPILATION_CACHE_DIR": ""}
    says = f"backend.start_backend(Path({str(tmp_path)!r}))\nimport jax\nprint(jax.config.jax_compilation_cache_dir)"
    assert fresh(says, **unset) in (["None"], [""])
    assert fresh(says, JAX_COMPILATION_CACHE_DIR="/own") == ["/own"]


def test_cache_whose_name_has_no_utf8_is_skipped(tmp_path):
    """Such a name has characters that the locale lacks. XLA cannot take it."""
    assert "jax_compilation_cache_dir" not in backend._choose_settings(tmp_path / "m\udcfcller")


@pytest.mark.parametrize(
    "platform_name, saves, k",
    [("cpu", 500, 1), ("gpu", 500, 10), ("tpu", 200, 10), ("gpu", 96, 8), ("gpu", 7, 7), ("gpu", 11, 1)],
)
def test_dispatches_end_at_every_save(monkeypatch, platform_name, saves, k):
    monkeypatch.setattr(backend.jax, "default_backend", lambda: platform_name)
    assert backend.choose_steps_per_dispatch(config(save_every_steps=saves)) == k
    assert saves % k == 0


def test_debug_checks_every_step(monkeypatch):
    monkeypatch.setattr(backend.jax, "default_backend", lambda: "gpu")
    assert backend.choose_steps_per_dispatch(config(debug=True)) == 1
