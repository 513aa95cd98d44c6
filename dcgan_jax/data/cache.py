"""The cache folder, and the atomic creation of folders in it."""

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from dcgan_jax.places import expand_home, get_home

TEMP = ".packing@"  # followed by pid@host@random
STALE_AFTER_S = 24 * 3600


def get_cache_dir() -> Path:
    """Returns $DCGAN_JAX_CACHE, else the folder dcgan_jax in $XDG_CACHE_HOME or in ~/.cache. It may not exist yet."""
    own = os.environ.get("DCGAN_JAX_CACHE")
    return Path(expand_home(own)) if own else get_user_cache_dir() / "dcgan_jax"


def get_user_cache_dir() -> Path:
    """Returns $XDG_CACHE_HOME, else ~/.cache. A user without a home folder gets a folder of their own among temporary files."""
    shared, home = expand_home(os.environ.get("XDG_CACHE_HOME") or ""), get_home()
    if os.path.isabs(shared):  # the XDG specification ignores relative paths
        return Path(shared)
    if home is not None:
        return Path(home, ".cache")
    return Path(tempfile.gettempdir(), f"cache-of-user-{os.getuid() if hasattr(os, 'getuid') else 0}")


@contextlib.contextmanager
def create_folder_atomically(path: Path) -> Generator[Path]:
    """Yields a new temporary folder beside path. At the end it is renamed to path; after an exception it is removed.

    Its files are flushed to the disk first: else a power failure could leave files of the right size with zeros.
    If another process has created path in the meantime, that folder stays. Raises: OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    temp = path.parent / f"{TEMP}{os.getpid()}@{_identify_host()}@{secrets.token_hex(4)}"
    try:
        temp.mkdir()  # inside the try, because a signal may arrive right after it
        yield temp
        _flush_files(temp)
        try:
            os.rename(temp, path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)  # after the renaming it does nothing


def _flush_files(folder: Path) -> None:
    for file in folder.iterdir():
        with open(file, "r+b") as opened:  # Windows flushes only files that are open for writing
            os.fsync(opened.fileno())
    if os.name == "posix":  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _identify_host() -> str:
    # Two containers may have the same host name, but cannot see each other's processes.
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # pid:[4026531836]
    except OSError:  # not Linux
        namespace = ""
    return socket.gethostname() + namespace.removeprefix("pid:")


def _remove_stale(parent: Path) -> None:
    """Removes temporary folders of killed processes: at once if the process was on this machine, else after a day."""
    for temp in parent.glob(f"{TEMP}*"):
        try:
            if time.time() - temp.stat().st_mtime < STALE_AFTER_S:
                pid, host = temp.name.split("@")[1:3]
                if host == _identify_host() and os.name == "posix":  # on Windows kill(pid, 0) is not a query
                    os.kill(int(pid), 0)
                continue
        except ProcessLookupError:
            pass
        except (OSError, ValueError):  # removed in the meantime, or owned by another user
            continue
        shutil.rmtree(temp, ignore_errors=True)
