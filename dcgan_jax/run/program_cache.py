"""Keeps the compiled programs of a command for its next start, which then neither traces nor lowers them.

JAX's own cache saves only the compilation: it finds a program by the text that lowering makes. Here a program is found by what
this text depends on: the source code of this package, the versions of libraries, JAX's settings, the run's settings and shapes.
"""

import contextlib
import hashlib
import importlib.metadata
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
MAX_PROGRAMS = 32  # per folder; a program has some megabytes
STALE_AFTER_S = 3600  # for what killed processes have left
MARGIN_S = 2  # between the start of a process and its own clock, and for file systems with coarse times
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")  # distributions whose code makes programs
FROM_JAXS_CACHE = "/jax/compilation_cache/cache_hits"  # an event of jax.monitoring


class ProgramCache(NamedTuple):
    """A folder of compiled programs. If it cannot be written, nothing is kept."""

    folder: Path
    sources: str  # checksum of the code of this package and of the libraries, when the process began

    def load_or_compile(self, parts: tuple, lower: Callable[[], jax.stages.Lowered]) -> jax.stages.Compiled:
        """Returns the program of these parts from the folder. If it is not there, compiles and writes it.

        Args: parts: what the program depends on, besides code and settings; their `repr` must be the same in every process;
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


def open_program_cache(folder: Path, began_s: float) -> ProgramCache | None:
    """Opens the cache in this folder, which must exist. began_s: when this process began, by time.monotonic.

    Returns: None if programs must not be kept: the user has switched caches off, this kind of CPU is not known, another user may
        write to the folder, or the files of this package or of a library may not be the code that this process runs.
    """
    # machine.hash_machine can tell kinds of CPUs apart only on Linux.
    if sys.platform != "linux" or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    sources = hash_sources(began_s)
    return ProgramCache(folder, sources) if sources and _is_private(folder) else None


def hash_sources(began_s: float) -> str:
    """Computes a checksum of this package's Python files and of the libraries' files.

    Returns: "" if it may not be that of the code that runs: there are no such files, one of this package was changed or removed
        after this process began, or those of a library are not known.
    """
    began = time.time() - (time.monotonic() - began_s) - MARGIN_S
    files = sorted(file for file in PACKAGE.rglob("*.py") if file.is_file())
    checksum = hashlib.sha256()
    try:
        for file in files:
            if file.stat().st_ctime > began:  # not the time of modification, which copies of files may keep
                return ""
            checksum.update(repr((file.relative_to(PACKAGE).as_posix(), file.read_bytes())).encode())
    except OSError:
        return ""
    # Two builds may have one version, for example two commits of a Git repository. Their files differ.
    records = [_read_record(library) for library in LIBRARIES]
    checksum.update(repr(records).encode())
    return checksum.hexdigest() if files and all(records) else ""


def list_versions() -> list[str]:
    """Lists the versions of the libraries that compile programs, and of Python, which pickles them."""
    versions = [library.__version__ for library in (jax, jax.lib, flax, optax, np)]
    return [*versions, sys.version, jax.devices()[0].client.platform_version]


def _read_record(library: str) -> str:
    """Returns a library's list of files with their checksums. "" if there is none, or if the library runs from a checkout."""
    try:
        installed = importlib.metadata.distribution(library)
    except importlib.metadata.PackageNotFoundError:
        return ""
    is_checkout = '"editable": true' in (installed.read_text("direct_url.json") or "")
    return "" if is_checkout else installed.read_text("RECORD") or ""


def _is_private(folder: Path) -> bool:
    """Whether only this user may write to the folder. Its files are unpickled."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def list_settings() -> list:
    """Lists all settings of JAX, those of XLA, and Flax's."""
    environment = {name: os.environ.get(name) for name in ("PJRT_NPROC", "NPROC")}  # XLA divides loops among so many cores
    return [sorted(jax.config.values.items()), read_flags(), environment, repr(flax.config)]


def _compile(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
    """Returns the program, and whether XLA compiled it now. XLA cannot serialise a program that came from JAX's cache."""
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
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_uid != os.getuid():  # another user has put it here since `_is_private`
                return None
            content = opened.read()
    except OSError:
        return None
    checksum, program = content[:32], content[32:]
    if hashlib.sha256(program).digest() != checksum:
        return None
    with contextlib.suppress(OSError):  # a cache that this user cannot change
        os.utime(file)  # marks it as used: _remove_old deletes the least recently used
    try:
        return serialize_executable.deserialize_and_load(*pickle.loads(program))
    except Exception:  # noqa: BLE001 - like JAX's own cache: what it cannot load is compiled again
        return None


def _write(file: Path, program: jax.stages.Compiled) -> None:
    try:
        content = pickle.dumps(serialize_executable.serialize(program))
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
