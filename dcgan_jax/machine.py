"""Facts about this computer: its kind of CPU, the cores that this process may use, and whether its memory was exhausted."""

import hashlib
import os
import platform
from pathlib import Path


def hash_machine() -> str:
    """Returns a short name of this kind of CPU, from its model and its instructions."""
    # A program compiled for one CPU can crash on another, and several machines may share a home folder.
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        facts = "".join(sorted({line for line in facts.splitlines() if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        facts = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {facts}".encode()).hexdigest()[:16]


def count_cores() -> int:
    """Counts the cores that this process may use, which the command taskset and some containers limit."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def is_out_of_memory(fault: BaseException) -> bool:
    """Whether the fault is Python's MemoryError or JAX's error for exhausted memory, of the host or of a device."""
    # By the name of its class: a command such as --help does not import JAX.
    return isinstance(fault, MemoryError) or (type(fault).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(fault))
