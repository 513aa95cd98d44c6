"""Strict JAX for all tests: two CPU devices, no silent broadcasting, no reused random keys. For warnings see pyproject.toml."""

import atexit
import ctypes
import functools
import gc
import os
import platform
import shutil
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

CACHED = type(functools.cache(lambda: None))
ROOT = Path(__file__).parents[1]
OURS = (str(ROOT / "dcgan_jax") + os.sep, str(ROOT / "tests") + os.sep)  # without .venv/, which may be in the same folder

# If a shell started the tests in the background, Ctrl-C is ignored here, and child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A folder for the session. The first process creates it; pytest-xdist's workers and the tests' child processes share it.
if "DCGAN_JAX_TESTS" not in os.environ:
    os.environ["DCGAN_JAX_TESTS"] = tempfile.mkdtemp(prefix="dcgan_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["DCGAN_JAX_TESTS"], ignore_errors=True)

# Set before JAX starts. Most of the tests' time is XLA compiling programs that run once, on toy networks. Without LLVM's
# optimiser and with XLA's older loop emitters, compilation takes a fifth of the time and an eighth of the memory. Invariants
# hold with any compiler options; goldens and parity tests have tolerances that cover all of them. Tests that need the default
# emitters use tiny.fused_loops. One LLVM module per program is enough, because each core has its own worker.
CHEAP = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):  # jaxlib 0.12 has only the new emitters and aborts at an unknown flag
    CHEAP += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {CHEAP}"
os.environ["JAX_PLATFORMS"] = "cpu"
# All processes share one cache of compiled programs. Only the workers write to it (see below), because a process that a test
# kills could leave an incomplete program. Tracing, which tests count, happens in any case.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(os.environ["DCGAN_JAX_TESTS"]) / "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src import lru_cache  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")  # else logits (B,) and (B, 1) would silently broadcast to (B, B)
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def put_whole(cache, key, program):
    """Writes a program to the cache atomically. JAX writes in place, so another worker could read an incomplete program."""
    path = Path(cache.path) / f"{key}-cache"
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(program)
    partial.rename(path)


lru_cache.LRUCache.put = put_whole


# Keeps each worker under 2 GB. Dropped programs must be traced again, so they are dropped as rarely as possible.
MAX_RSS_BYTES = 1_300_000_000  # after a test: compiling the largest programs takes 800 MB more
MAX_RSS_BYTES_BETWEEN_FILES = 900_000_000  # the next file uses other programs
STATM = Path("/proc/self/statm")


def release_memory_above(limit_bytes):
    if STATM.exists() and int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > limit_bytes:
        release_memory()


def release_memory():
    """Drops compiled programs, also those in the caches of our own functions."""
    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None)).startswith(OURS):
            for value in list(vars(module).values()):
                if isinstance(value, CACHED):
                    value.cache_clear()
    jax.clear_caches()
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True, scope="module")
def files_share_little_memory():
    gc.collect()
    gc.freeze()  # objects of the imports stay anyway; scanning them at each collection takes a tenth of the tests' time
    yield
    release_memory_above(MAX_RSS_BYTES_BETWEEN_FILES)


@pytest.fixture(autouse=True)
def memory_stays_bounded(request):
    had_tensorflow = "tensorflow" in sys.modules
    yield
    release_memory_above(MAX_RSS_BYTES)
    if "tensorflow" in sys.modules and not had_tensorflow and not request.node.get_closest_marker("tensorflow"):
        pytest.fail("imported TensorFlow: mark the test with it, so that it runs among the last")


def pytest_collection_modifyitems(items):
    """Runs tests that import TensorFlow last, because it takes 540 MB that are never freed."""
    items.sort(key=lambda item: item.get_closest_marker("tensorflow") is not None)
