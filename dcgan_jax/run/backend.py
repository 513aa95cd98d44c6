"""Configures JAX on this machine: reuses memory between steps, caches compiled programs between runs, compiles functions."""

import contextlib
import ctypes
import logging
import os
import platform
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from dcgan_jax.config import Config
from dcgan_jax.machine import count_cores, hash_machine
from dcgan_jax.places import check_encodable, expand_home, get_home, is_encodable
from dcgan_jax.run.numerics import pin_numerics
from dcgan_jax.run.orbax_messages import silence_orbax
from dcgan_jax.run.program_cache import ProgramCache

# glibc's mallopt numbers, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
PROGRAM_CACHE_BYTES = 2**30
MAX_STEPS_PER_DISPATCH = 10
# JAX compiles again what it cannot write or read, so a full disk needs no warning here.
CACHE_WARNING = "Error (writing|reading) persistent compilation cache"
_UNTIL_EXIT = contextlib.ExitStack()  # never closed: settings that a command keeps until its process ends


def start_backend(cache: Path) -> Path | None:
    """Configures this process for a command, before JAX starts: reuses memory and caches compiled programs.

    Only for commands, which own their process. Functions of the Python API use `configure_backend`.
    cache: folder for compiled programs. If it cannot be created, programs are not cached.
    Returns: the folder in it for this machine, if programs are cached there and not in a folder that the user chose.
    """
    _keep_memory()
    # Until exit, because Orbax's threads may still print warnings after a fault was reported.
    _UNTIL_EXIT.enter_context(silence_orbax())
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)  # from a failed save
    warnings.filterwarnings("ignore", message=CACHE_WARNING)
    _give_matplotlib_a_folder(cache)
    _UNTIL_EXIT.enter_context(pin_numerics())
    chosen_by_user = jax.config.values["jax_compilation_cache_dir"]
    for name, value in _choose_settings(cache).items():
        jax.config.update(name, value)
    folder = jax.config.values["jax_compilation_cache_dir"]
    return Path(folder) if folder and not chosen_by_user else None


@contextlib.contextmanager
def configure_backend(cache: Path, debug: bool = False) -> Generator[None]:
    """Applies JAX's settings for training inside the with block and restores the previous ones at its end.

    cache: folder for compiled programs. debug: enable JAX's checks for reused keys and leaked tracers, which raise JAX's errors.
    """
    settings = _choose_settings(cache)
    if debug:
        settings |= {"jax_debug_key_reuse": True, "jax_check_tracer_leaks": True}
    before = {name: jax.config.values[name] for name in settings}
    with pin_numerics(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=CACHE_WARNING)
        try:
            for name, value in settings.items():
                jax.config.update(name, value)
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            if "jax_compilation_cache_dir" in before:
                compilation_cache.reset_cache()  # else JAX continues to write to the folder that it opened


def _choose_settings(cache: Path) -> dict[str, bool | int | float | str]:
    """Returns JAX's settings: name -> value."""
    # Without async dispatch, steps run in this thread and use malloc's main arena, which keeps its memory. Arenas of other
    # threads are too small for a step and map new memory each time. On a CPU, async dispatch has nothing to overlap with.
    settings: dict[str, bool | int | float | str] = {"jax_cpu_enable_async_dispatch": False}
    own = jax.config.values["jax_compilation_cache_dir"]  # set by the user, or before by start_backend
    if own:
        check_encodable(own)
        return settings | ({"jax_compilation_cache_dir": expand_home(own)} if own.startswith("~") else {})
    # XLA divides a program's loops among as many threads as there are cores, but their number is not part of JAX's cache key.
    # A program compiled under `taskset -c 0` would use one core in many operations (docs/design.md). PJRT_NPROC and NPROC, which
    # XLA reads first, are not counted.
    programs = cache / "programs" / f"{hash_machine()}-{count_cores()}"
    if not is_encodable(str(programs)):  # the folder of the cache is no choice of the user's
        return settings
    try:
        programs.mkdir(mode=0o700, parents=True, exist_ok=True)  # run/program_cache.py uses only a private folder
    except OSError:
        return settings
    _remove_unfinished(programs)
    return settings | {
        "jax_compilation_cache_dir": str(programs),
        "jax_compilation_cache_max_size": PROGRAM_CACHE_BYTES,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }


def _remove_unfinished(programs: Path) -> None:
    # JAX writes a program, then its access time. Without the second file, the program is incomplete and JAX never replaces it.
    try:
        with filelock.FileLock(programs / ".lockfile", timeout=10):  # JAX's lock: no process writes a program now
            for program in programs.glob("*-cache"):
                if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                    program.unlink(missing_ok=True)
    except OSError:  # filelock.Timeout is one
        return  # such a program is compiled again in each process


def _give_matplotlib_a_folder(cache: Path) -> None:
    # It keeps a list of fonts in the home folder, and prints two warnings where it cannot.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    home = get_home()
    if home is None or not os.access(home, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))


def _keep_memory() -> None:
    # By default glibc returns large blocks to the kernel when they are freed, which is after every step. The kernel then clears
    # each page again. This takes a quarter of the time of a small step (docs/speed.md).
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        # Older glibc versions refuse more than 32 MiB. If this call fails, the other two would fix the threshold at its minimum.
        if libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(M_TOP_PAD, 2**30)  # TensorFlow lowers the trim threshold later, but not the pad


def compile_program(
    function: Callable,
    *shapes: Any,
    debug: bool = False,
    program_cache: ProgramCache | None = None,
    key_parts: tuple = (),
    **how: Any,
) -> Callable:
    """Compiles function for these shapes. how: arguments of jax.jit.

    debug: compile at the first call instead, because only then JAX checks for reused keys.
    program_cache: keeps the program for the next start, if this process has all devices and they are a CPU's. key_parts: all
    that the program depends on, besides shapes and how.
    """
    if debug:
        return jax.jit(function, **how)

    def lower() -> jax.stages.Lowered:
        return jax.jit(function, **how).lower(*shapes)

    if program_cache and jax.default_backend() == "cpu" and jax.process_count() == 1:
        program = program_cache.load_or_compile((key_parts, shapes, how), lower)
    else:
        program = lower().compile()
    release_memory()  # what the compiler has freed
    return program


def release_memory() -> None:
    """Returns malloc's free pages to the kernel (glibc only), which `_keep_memory` prevents otherwise. Takes some 50 ms.

    Smaller arrays later take a part of the large block that a step has freed. Then the next step needs another block while the
    rest of the first stays in memory. So call this around work that makes many arrays, such as a compilation or a save.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def choose_steps_per_dispatch(config: Config) -> int:
    """Chooses how many steps one call of the compiled program runs. On an accelerator, several hide the host's overhead."""
    if config.guard.debug or jax.default_backend() == "cpu":  # --debug checks each step before the next one
        return 1
    return next(k for k in range(MAX_STEPS_PER_DISPATCH, 0, -1) if config.output.save_every_steps % k == 0)
