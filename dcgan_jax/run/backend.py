"""JAX's backend on this machine: memory kept between steps, compiled programs kept between runs, compilation."""

import contextlib
import ctypes
import hashlib
import platform
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from dcgan_jax.config import Config
from dcgan_jax.run.checkpoints import silence_orbax

# glibc's mallopt numbers, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
PROGRAM_CACHE_BYTES = 2**30
MAX_STEPS_PER_DISPATCH = 10
_UNTIL_EXIT = contextlib.ExitStack()  # never left: what a command wants until its process ends


def start_backend(cache: Path) -> None:
    """Sets up this process for a command, before JAX starts: memory kept between steps, compiled programs between runs.

    For commands alone, whose process this is; functions that others call use `configure_backend`.
    cache: the folder for programs; one that cannot be made is done without.
    """
    _keep_memory()
    # For good: Orbax's threads may still complain when a fault has been reported and the command is about to end.
    _UNTIL_EXIT.enter_context(silence_orbax())
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)  # a save's that failed
    warnings.filterwarnings("ignore", message=CACHE_WARNING)
    for name, value in _choose_settings(cache).items():
        jax.config.update(name, value)


# What JAX cannot keep or read it compiles again: a full disk is not worth a word here.
CACHE_WARNING = "Error (writing|reading) persistent compilation cache"


@contextlib.contextmanager
def configure_backend(cache: Path, debug: bool = False) -> Generator[None]:
    """JAX's settings for training inside, and as they were before outside.

    cache: the folder for programs; debug: JAX's own checks, which raise its errors, with a traceback, where a program is at
    fault.
    """
    settings = _choose_settings(cache)
    if debug:
        settings |= {"jax_debug_key_reuse": True, "jax_check_tracer_leaks": True}
    before = {name: jax.config.values[name] for name in settings}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=CACHE_WARNING)
        try:
            for name, value in settings.items():
                jax.config.update(name, value)
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            if "jax_compilation_cache_dir" in before:
                compilation_cache.reset_cache()  # JAX would go on writing to the folder that it opened


def _choose_settings(cache: Path) -> dict[str, bool | int | float | str]:
    """Name -> value of JAX's settings."""
    # Steps that run in this thread take their memory from malloc's main arena, which keeps it; others' arenas are too small
    # for a step's and map it anew each time. With the CPU as the device there is nothing to overlap.
    settings: dict[str, bool | int | float | str] = {"jax_cpu_enable_async_dispatch": False}
    if jax.config.values["jax_compilation_cache_dir"]:  # the user's own
        return settings
    programs = cache / "programs" / _hash_machine()
    try:
        programs.mkdir(parents=True, exist_ok=True)
    except OSError:
        return settings
    _remove_unfinished(programs)
    return settings | {
        "jax_compilation_cache_dir": str(programs),
        "jax_compilation_cache_max_size": PROGRAM_CACHE_BYTES,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }


def _remove_unfinished(programs: Path) -> None:
    # JAX writes a program and then its date, in place: one without a date was cut by a kill, and would never be written again.
    try:
        with filelock.FileLock(programs / ".lockfile", timeout=10):  # JAX's own, so that nobody is writing one now
            for program in programs.glob("*-cache"):
                if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                    program.unlink(missing_ok=True)
    except OSError:  # filelock.Timeout is one
        return  # what cannot be swept is compiled again each time


def _keep_memory() -> None:
    # glibc hands large blocks back to the kernel when they are freed, that is, after every step, and the kernel clears them
    # again page by page: a quarter of the time of a small step (docs/speed.md).
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        # An older glibc refuses more than 32 MiB; to set the others alone would fix the threshold at its lowest.
        if libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(M_TOP_PAD, 2**30)  # TensorFlow lowers the trim threshold later; the pad it leaves


def _hash_machine() -> str:
    # Programs for one CPU can crash on another, and a home folder may be shared by both.
    try:
        facts = Path("/proc/cpuinfo").read_text()
        facts = "".join(sorted({line for line in facts.splitlines() if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        facts = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {facts}".encode()).hexdigest()[:16]


def compile_program(function: Callable, *shapes: Any, checked: bool = False, **how: Any) -> Callable:
    """jax.jit(function, **how), compiled now for these shapes; checked: at its first call, where JAX looks for keys used twice.

    What the compiler freed goes back to the kernel here, before the program takes memory of its own: the peak is that much lower.
    """
    if checked:
        return jax.jit(function, **how)
    program = jax.jit(function, **how).lower(*shapes).compile()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return program


def choose_steps_per_dispatch(config: Config) -> int:
    """Steps in one call of the compiled program: more than one hides the host's overhead from an accelerator."""
    if config.guard.debug or jax.default_backend() == "cpu":  # with debug each step's numbers are checked before the next
        return 1
    return next(k for k in range(MAX_STEPS_PER_DISPATCH, 0, -1) if config.output.save_every_steps % k == 0)
