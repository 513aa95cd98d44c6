"""Facts about this computer: its kind of CPU, and the cores that this process may use."""

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
