"""Measures whether this machine multiplies bfloat16 matrices faster than float32 ones, for --compute-dtype auto."""

import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from dcgan_jax import files
from dcgan_jax.gan.conv.products import multiply
from dcgan_jax.machine import hash_machine

FILE = "product_speed.json"
# Below this the conversions cost more than the products gain. With AMX the ratio is 2 to 5, with AVX512-BF16 2, with neither
# below 1.
WORTHWHILE = 1.3
SHAPES = ((4096, 256, 128), (1024, 1024, 256))  # rows, columns and results of a row, as in the convolutions of torch64
ROUNDS = 7


def choose_compute_dtype(cache: Path) -> str:
    """Chooses "bfloat16" if this machine's CPU multiplies it at least WORTHWHILE times as fast, else "float32".

    Accelerators get "float32": the effect of bfloat16 on the images was measured on CPUs only.
    cache: folder that remembers the measurement, which takes about a second.
    """
    if jax.default_backend() != "cpu":
        return "float32"
    speedup = read_speedup(cache)
    if speedup is None:
        speedup = measure_speedup()
        _write_speedup(cache, speedup)
    return "bfloat16" if speedup >= WORTHWHILE else "float32"


def read_speedup(cache: Path) -> float | None:
    """Returns the remembered speed of bfloat16 products relative to float32; None if it was not measured on this machine."""
    value = _read_all(cache).get(_describe_machine())
    return float(value) if isinstance(value, int | float) else None


def _read_all(cache: Path) -> dict:
    """Reads what was measured, on this machine and on others that share the cache."""
    try:
        found = files.load_json(cache / FILE)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def measure_speedup() -> float:
    """Times the products of SHAPES in both formats, in turns. Returns bfloat16's speed relative to float32."""
    seconds = [0.0, 0.0]
    for rows, columns, results in SHAPES:
        operands = np.ones((rows, columns), np.float32), np.ones((columns, results), np.float32)
        calls = [_compile(dtype, *operands) for dtype in ("float32", "bfloat16")]
        turns = [[_time(call) for call in calls] for _ in range(ROUNDS)]
        for i in range(2):
            seconds[i] += min(turn[i] for turn in turns)
    return seconds[0] / seconds[1]


def _compile(dtype: str, a: np.ndarray, b: np.ndarray) -> Callable[[], jax.Array]:
    arrays = jax.device_put((a.astype(dtype), b.astype(dtype)), jax.local_devices()[0])
    program = jax.jit(multiply).lower(*arrays).compile()
    return lambda: program(*arrays)


def _time(call: Callable[[], jax.Array]) -> float:
    start = time.perf_counter()
    call().block_until_ready()
    return time.perf_counter() - start


def _write_speedup(cache: Path, speedup: float) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        files.write_json(cache / FILE, _read_all(cache) | {_describe_machine(): round(speedup, 2)})
    except OSError:
        return  # it is measured again at the next start


def _describe_machine() -> str:
    return f"{hash_machine()} jaxlib {importlib.metadata.version('jaxlib')}"
