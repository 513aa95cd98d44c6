"""Strict JAX for all tests: two CPU devices, no silent broadcasting, no reused PRNG key. For warnings see pyproject.toml."""

import atexit
import contextlib
import functools
import gc
import os
import shutil
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from dcgan_jax.machine import hash_machine

CACHED = type(functools.cache(lambda: None))
ROOT = Path(__file__).parents[1]
# Compiled programs, which later sessions on this kind of CPU read as well.
PROGRAMS = ROOT / "build" / "test-programs" / hash_machine()
MAX_PROGRAMS_BYTES = 500_000_000  # more than a session needs; the rest are programs of older sources
OURS = (str(ROOT / "dcgan_jax") + os.sep, str(ROOT / "tests") + os.sep)  # not all of ROOT, which may contain .venv/

# Tests started in the background of a shell ignore Ctrl-C, and so would their child processes.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The session's folder. The first process makes it for all pytest-xdist workers and for the child processes of tests.
if "DCGAN_JAX_TESTS" not in os.environ:
    os.environ["DCGAN_JAX_TESTS"] = tempfile.mkdtemp(prefix="dcgan_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["DCGAN_JAX_TESTS"], ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):  # another session may rename or delete files meanwhile
        if sum(file.stat().st_size for file in PROGRAMS.glob("*")) > MAX_PROGRAMS_BYTES:
            shutil.rmtree(PROGRAMS, ignore_errors=True)

# Set before jax starts. Most of the tests' time goes into compiling programs that run once on toy networks. Without LLVM's
# optimiser and with XLA's older loop emitters, compilation takes a fifth of the time and an eighth of the memory. Invariants hold
# under any compiler. The tolerances of golden values and of parity cover all of them.
# Tests that need the default emitters use tiny.fused_loops.
# One LLVM module per program, because each core has its own worker.
CHEAP = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):  # jaxlib 0.12 has only the new emitters, and aborts if it does not know a flag
    CHEAP += " --xla_cpu_use_fusion_emitters=false"
    # Fewer passes over the program, which now take most of the compiler's time (measured: a sixth less).
    CHEAP += " --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE --xla_cpu_copy_insertion_use_region_analysis=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {CHEAP}"
os.environ["JAX_PLATFORMS"] = "cpu"
# All processes read this cache of compiled programs. Only the workers write to it (see below), because a process that a test
# kills might leave an incomplete file. Tracing, which tests count, is not cached. The next session on this kind of CPU uses the
# programs again and takes half as much processor time. JAX's key contains the program, the flags and the version of jaxlib.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(PROGRAMS)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"

from dcgan_jax.run.xla_flags import disable_wrong_reductions  # noqa: E402

disable_wrong_reductions()  # as every command does; all processes must have the same flags to share compiled programs

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src import lru_cache  # noqa: E402

from dcgan_jax.gan import sampling  # noqa: E402
from dcgan_jax.run import backend  # noqa: E402

sampling.RECALIBRATION_BATCH //= 4  # with all its latents a save at 64 px takes 15 s without LLVM's optimiser
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")  # else (B,) and (B, 1) logits would silently broadcast to (B, B)
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def put_whole(cache, key, program):
    """Writes a program to another file and renames it. JAX writes in place, so another worker could read an incomplete file."""
    path = Path(cache.path) / f"{key}-cache"
    partial = path.with_suffix(f".{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)  # another session may have deleted it
    partial.write_bytes(program)
    partial.rename(path)


lru_cache.LRUCache.put = put_whole


# Tracing makes many objects and few cycles. The default of 700 collects them so often that it takes 3 % of the tests' time.
gc.set_threshold(50_000, 50, 100)

# A worker stays under 2 GB. Released programs are traced again when needed, so they are released only above these limits.
MAX_RSS_BYTES = 1_450_000_000  # after a test; most programs take 300 MB more while they are compiled
MAX_RSS_BYTES_BETWEEN_FILES = 900_000_000  # the next file has other programs
STATM = Path("/proc/self/statm")


def release_memory_above(limit_bytes):
    is_linux = STATM.exists()
    rss_bytes = int(STATM.read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") if is_linux else MAX_RSS_BYTES
    if rss_bytes > limit_bytes:
        release_memory()


def release_memory():
    """Releases compiled programs, and all entries of this project's caches."""
    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None)).startswith(OURS):
            for value in list(vars(module).values()):
                if isinstance(value, CACHED):
                    value.cache_clear()
    jax.clear_caches()
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    backend.release_memory()


@pytest.fixture(autouse=True, scope="module")
def files_share_little_memory():
    gc.collect()
    gc.freeze()  # exempts imported objects from collection, which would take a tenth of the tests' time
    yield
    release_memory_above(MAX_RSS_BYTES_BETWEEN_FILES)


@pytest.fixture
def signal_handlers_stay():
    """Checks that train() restores the signal handlers, so that Ctrl-C still works in a notebook."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture(autouse=True)
def memory_stays_bounded(request):
    had_tensorflow = "tensorflow" in sys.modules
    yield
    release_memory_above(MAX_RSS_BYTES)
    if "tensorflow" in sys.modules and not had_tensorflow and not request.node.get_closest_marker("tensorflow"):
        pytest.fail("imported TensorFlow: mark the test with @pytest.mark.tensorflow, so that it runs last")


def pytest_collection_modifyitems(items):
    """Runs tests that import TensorFlow last: it takes 540 MB, which cannot be released."""
    items.sort(key=lambda item: item.get_closest_marker("tensorflow") is not None)
