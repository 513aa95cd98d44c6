"""Strict JAX for all tests: two CPU devices, no silent broadcasting, no PRNG key spent twice. Warnings: pyproject.toml."""

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
OURS = (str(ROOT / "dcgan_jax") + os.sep, str(ROOT / "tests") + os.sep)  # not .venv/, which lies there as well

# A suite that was started in a shell's background would inherit that Ctrl-C is ignored, and hand it on.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The session's folder, which whichever process starts first makes for pytest-xdist's workers and the processes of tests as well.
if "DCGAN_JAX_TESTS" not in os.environ:
    os.environ["DCGAN_JAX_TESTS"] = tempfile.mkdtemp(prefix="dcgan_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["DCGAN_JAX_TESTS"], ignore_errors=True)

# Before jax starts. Most of the tests' time is XLA compiling programs that run once on toy nets. Without LLVM's optimiser and
# with XLA's older emitters of loops that takes a fifth of the time and an eighth of the memory. Invariants hold under any
# compiler; goldens and parity are compared with tolerances that cover all of them.
# Tests that need the users' emitters take tiny.fused_loops.
# One LLVM module a program: the other core has a worker of its own.
CHEAP = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):  # jaxlib 0.12 has the new emitters only, and aborts at a flag that it does not know
    CHEAP += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {CHEAP}"
os.environ["JAX_PLATFORMS"] = "cpu"
# What one process has compiled all others read. Only the workers write, see below: a process that a test kills might leave half
# a program. Tracing, which tests count, is done in any case.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(os.environ["DCGAN_JAX_TESTS"]) / "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src import lru_cache  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")  # (B,) against (B, 1) logits would silently make (B, B)
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def put_whole(cache, key, program):
    """JAX writes a program in place, where the other worker would read the half of it."""
    path = Path(cache.path) / f"{key}-cache"
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(program)
    partial.rename(path)


lru_cache.LRUCache.put = put_whole


# A worker stays under 2 GB. What is dropped is traced again when it is needed, so it is dropped as seldom as that allows.
MAX_RSS_BYTES = 1_300_000_000  # after a test: the largest programs take 800 MB more while they are compiled
MAX_RSS_BYTES_BETWEEN_FILES = 900_000_000  # the next file has programs of its own
STATM = Path("/proc/self/statm")


def release_memory_above(limit_bytes):
    if STATM.exists() and int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > limit_bytes:
        release_memory()


def release_memory():
    """Drops compiled programs, and what our own caches hold of them."""
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
    gc.freeze()  # what the file's imports made stays: to look through it at each collection takes a tenth of the tests' time
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
    """TensorFlow takes 540 MB, which no test after it gets back: tests that import it come last."""
    items.sort(key=lambda item: item.get_closest_marker("tensorflow") is not None)
