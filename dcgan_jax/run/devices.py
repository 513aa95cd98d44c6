"""Where arrays live: a `data` mesh axis over the devices of all processes; one device is a mesh of one."""

import ctypes
import hashlib
import platform
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import filelock
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from dcgan_jax.config import BadInput, Config, Run

# glibc's mallopt numbers, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
PROGRAM_CACHE_BYTES = 2**30


def start(cache: Path) -> None:
    """Settings that must stand before JAX starts: memory kept between steps, compiled programs kept between runs.

    cache: the folder for programs; one that cannot be made is done without.
    """
    _keep_memory()
    # Steps that run in this thread take their memory from malloc's main arena, which keeps it; others' arenas are too small
    # for a step's and map it anew each time. With the CPU as the device there is nothing to overlap.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # What it cannot keep or read it compiles again: a full disk is not worth a word here.
    warnings.filterwarnings("ignore", message="Error (writing|reading) persistent compilation cache")
    if not jax.config.jax_compilation_cache_dir:  # else the user's own
        programs = cache / "programs" / _machine()
        try:
            programs.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        _sweep(programs)
        jax.config.update("jax_compilation_cache_dir", str(programs))
        jax.config.update("jax_compilation_cache_max_size", PROGRAM_CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _sweep(programs):
    # JAX writes a program and then its date, in place: one without a date was cut by a kill, and would never be written again.
    try:
        with filelock.FileLock(programs / ".lockfile", timeout=10):  # JAX's own, so that nobody is writing one now
            for program in programs.glob("*-cache"):
                if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                    program.unlink(missing_ok=True)
    except (OSError, filelock.Timeout):
        return  # what cannot be swept is compiled again each time


def check_strictly() -> None:
    """JAX's own checks, for --debug: they raise its errors, with a traceback, where the program is at fault."""
    jax.config.update("jax_debug_key_reuse", True)
    jax.config.update("jax_check_tracer_leaks", True)


def _keep_memory():
    # glibc hands large blocks back to the kernel when they are freed, that is, after every step, and the kernel clears them
    # again page by page: a quarter of the time of a small step (docs/speed.md).
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        # An older glibc refuses more than 32 MiB; to set the others alone would fix the threshold at its lowest.
        if libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(M_TOP_PAD, 2**30)  # TensorFlow lowers the trim threshold later; the pad it leaves


def compiled(function: Callable, *shapes, checked: bool = False, **how) -> Callable:
    """jax.jit(function, **how), compiled now for these shapes; checked: at its first call, where JAX looks for keys used twice.

    What the compiler freed goes back to the kernel here, before the program takes memory of its own: the peak is that much lower.
    """
    if checked:
        return jax.jit(function, **how)
    program = jax.jit(function, **how).lower(*shapes).compile()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return program


def _machine():
    # Programs for one CPU can crash on another, and a home folder may be shared by both.
    try:
        facts = Path("/proc/cpuinfo").read_text()
        facts = "".join(sorted({line for line in facts.splitlines() if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        facts = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {facts}".encode()).hexdigest()[:16]


def join(run: Run) -> None:
    """Joins the other processes of the run, before anything touches a device. Raises BadInput."""
    if not run.coordinator:
        return
    try:
        if run.coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(run.coordinator, run.processes, run.process_id)
    except (RuntimeError, ValueError) as fault:
        remedy = ("give --coordinator address:port" if run.coordinator == "auto" else
                  "check that all processes were started, with the same --coordinator and a --process-id each")
        raise BadInput(f"--coordinator {run.coordinator}: {' '.join(str(fault).split())[:300]}; {remedy}") from None
    any_process(False)  # connects the processes now: later they would not wait minutes for one that packs


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def first_then_others(function: Callable):
    """function() in the first process, and when it is done there in the others: files are made by one, found by all.

    Raises: BadInput in all processes where it, the disk or the memory fails one, so that none waits for ever.
    """
    firsts, others = _turn(function, is_first()), _turn(function, not is_first())
    return firsts if is_first() else others


def in_first(function: Callable):
    """function() in the first process alone; its result there, None elsewhere. Raises: as first_then_others."""
    return _turn(function, is_first())


def in_all(function: Callable):
    """function() in every process, each its own result. Raises: as first_then_others."""
    return _turn(function, is_ours=True)


def _turn(function, is_ours):
    result, fault = None, None
    if is_ours:
        try:
            result = function()
        except (BadInput, OSError, MemoryError) as found:
            fault = found
    if any_process(fault is not None):
        raise fault or BadInput("another process of this run could not start or go on: see what it says")
    return result


def must_agree(*facts) -> None:
    """Raises BadInput where the facts, which decide what programs run when, are not the same in all processes."""
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(np.array(zlib.crc32(repr(facts).encode()), np.uint32))
        if (sums != sums[0]).any():
            raise BadInput("the processes of this run differ in flags, in pictures or in what they see in --workdir; "
                           "start all with the same, on a folder that all share")


def any_process(here: bool) -> bool:
    """Whether it is true in any process: all get the same answer and can act on it together."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())


class Shardings(NamedTuple):
    """How the run's arrays are split over the devices."""

    state: NamedSharding  # a copy on each
    batches: NamedSharding  # (k, images, S, S, C): images split
    images: NamedSharding  # (images, ...): images split


def shardings(config: Config) -> Shardings:
    """For all devices of all processes. Raises BadInput where they cannot share a batch evenly."""
    count = len(jax.devices())
    batch_size = config.data.batch_size
    if batch_size % count:
        lower, upper = batch_size // count * count, -(-batch_size // count) * count
        near = " or ".join(str(size) for size in (lower, upper) if size)
        raise BadInput(f"--batch-size {batch_size}: cannot be divided by {count} devices; nearest: {near}")
    # In the order of processes, not of a TPU's ring: a process feeds neighbouring rows.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = jax.sharding.Mesh(np.array(ordered), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return Shardings(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, "data")),
                     NamedSharding(mesh, PartitionSpec("data")))


def steps_per_dispatch(config: Config) -> int:
    """Steps in one call of the compiled program: more than one hides the host's overhead from an accelerator."""
    asked, between_saves = config.output.steps_per_dispatch, config.output.save_every_steps
    if config.guard.debug:
        return 1  # each step's numbers are looked at before the next
    if asked and between_saves % asked:
        raise BadInput(f"--steps-per-dispatch {asked}: must divide --save-every-steps {between_saves}")
    if asked:
        return asked
    return 1 if jax.default_backend() == "cpu" else next(k for k in range(10, 0, -1) if between_saves % k == 0)


def describe() -> str:
    """'2 x cpu', '1 x NVIDIA H100', '8 x TPU v4 in 2 processes' ..."""
    devices = jax.devices()
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {devices[0].device_kind}{processes}"
