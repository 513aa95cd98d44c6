"""Keeps the compiled programs of a command for its next start, which then neither traces nor lowers them.

JAX's own cache saves only the compilation: it finds a program by the text that lowering makes. Here a program is found by what
this text depends on: the source code of this package, the versions of libraries, JAX's settings, the shapes and the recipe.
"""

import contextlib
import hashlib
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax
import jax
import numpy as np
import optax
from jax.experimental import serialize_executable

from dcgan_jax.files import atomic_write
from dcgan_jax.run.xla_flags import read_flags

PACKAGE = Path(__file__).parents[1]
MAX_PROGRAMS = 32  # in a folder; one has some megabytes
STALE_AFTER_S = 3600  # for what killed processes have left
FROM_JAXS_CACHE = "/jax/compilation_cache/cache_hits"  # an event of jax.monitoring


class ProgramCache(NamedTuple):
    """A folder of compiled programs. If it cannot be written, nothing is kept."""

    folder: Path
    sources: str  # checksum of this package's source code when the process began

    def load_or_compile(self, parts: tuple, lower: Callable[[], jax.stages.Lowered]) -> jax.stages.Compiled:
        """Returns the program of these parts from the folder. If it is not there, compiles and writes it.

        Args: parts: what the program depends on, besides code and settings, with the same texts in every process;
            lower: traces and lowers a program that uses all devices of this process.
        """
        file = self.folder / f"{self.compute_key(parts)}.program"
        program = _load(file)
        if program is None:
            program, is_new = _compile(lower())
            if is_new:
                _write(file, program)
        return program

    def compute_key(self, parts: tuple) -> str:
        """Computes the name of a program from its parts, the code, the versions of libraries, and JAX's settings and devices."""
        everything = (parts, self.sources, list_versions(), list_settings(), jax.devices())
        return hashlib.sha256(repr(everything).encode()).hexdigest()[:32]


def open_program_cache(folder: Path) -> ProgramCache | None:
    """Opens the cache in this folder. Call it when a process begins: it reads the source code that the process runs.

    Returns: None if programs must not be kept: the user has switched caches off, or this kind of CPU is not known.
    """
    is_wanted = jax.config.values["jax_enable_compilation_cache"]
    sources = hash_sources()
    # machine.hash_machine can tell kinds of CPUs apart only on Linux.
    return ProgramCache(folder, sources) if is_wanted and sources and sys.platform == "linux" else None


def hash_sources() -> str:
    """Computes a checksum of this package's Python files. "" if there are none, as in a package without source code."""
    files = sorted(file for file in PACKAGE.rglob("*.py") if file.is_file())
    found = hashlib.sha256()
    for file in files:
        found.update(repr((file.relative_to(PACKAGE).as_posix(), file.read_bytes())).encode())
    return found.hexdigest() if files else ""


def list_versions() -> list[str]:
    """Lists the versions of what makes programs, and of Python, which stores their trees."""
    versions = [library.__version__ for library in (jax, jax.lib, flax, optax, np)]
    return [*versions, sys.version, jax.devices()[0].client.platform_version]


def list_settings() -> list:
    """Lists all settings of JAX, those of XLA, and Flax's."""
    environment = {name: os.environ.get(name) for name in ("PJRT_NPROC", "NPROC")}  # XLA divides loops among so many cores
    return [sorted(jax.config.values.items()), read_flags(), environment, repr(flax.config)]


def _compile(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
    """Returns the program, and whether XLA has made it now. It cannot write the code of a program that it has loaded."""
    events = []

    def note(event: str, **_: object) -> None:
        events.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        program = lowered.compile()
    finally:
        jax.monitoring.unregister_event_listener(note)
    return program, FROM_JAXS_CACHE not in events


def _load(file: Path) -> jax.stages.Compiled | None:
    """Loads a program. Returns None if it is missing or damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    checksum, program = content[:32], content[32:]
    if hashlib.sha256(program).digest() != checksum:
        return None
    with contextlib.suppress(OSError):  # a cache that this user cannot change
        os.utime(file)  # it is no longer among those to be removed next
    try:
        return serialize_executable.deserialize_and_load(*pickle.loads(program))
    except Exception:  # noqa: BLE001 - like JAX's own cache: what it cannot load is compiled again
        return None


def _write(file: Path, program: jax.stages.Compiled) -> None:
    try:
        content = pickle.dumps(serialize_executable.serialize(program))
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, own=f".{os.getpid()}") as partial:
            partial.write_bytes(hashlib.sha256(content).digest() + content)
        _remove_old(file.parent)
    except Exception:  # noqa: BLE001 - likewise: the run has its program
        return


def _remove_old(folder: Path) -> None:
    kept = sorted(folder.glob("*.program"), key=lambda file: file.stat().st_mtime)
    partials = [file for file in folder.glob("*.partial") if file.stat().st_mtime < time.time() - STALE_AFTER_S]
    for file in kept[:-MAX_PROGRAMS] + partials:
        file.unlink(missing_ok=True)
