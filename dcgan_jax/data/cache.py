"""The cache folder, and folders that appear in it whole or not at all."""

import contextlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

TEMP = ".packing@"  # then pid@host@random
STALE_AFTER_S = 24 * 3600


def get_cache_dir() -> Path:
    """$DCGAN_JAX_CACHE, else dcgan_jax in $XDG_CACHE_HOME, else in ~/.cache. Need not exist."""
    own, shared = os.environ.get("DCGAN_JAX_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own).expanduser() if own else Path(shared or Path.home() / ".cache") / "dcgan_jax"


@contextlib.contextmanager
def create_folder_atomically(path: Path) -> Iterator[Path]:
    """Yields a new folder beside path, to be filled; it becomes path at the end, and is removed where that is not reached.

    Where another process has made path meanwhile, that one stays. Raises: OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    temp = path.parent / f"{TEMP}{os.getpid()}@{socket.gethostname()}@{secrets.token_hex(4)}"
    try:
        temp.mkdir()  # inside the try: a signal may come right after it
        yield temp
        try:
            os.rename(temp, path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)  # after a success there is nothing left to remove


def _remove_stale(parent: Path) -> None:
    """Removes what killed processes left: at once if the owner was on this machine and is dead, else after a day."""
    for temp in parent.glob(f"{TEMP}*"):
        try:
            if time.time() - temp.stat().st_mtime < STALE_AFTER_S:
                pid, host = temp.name.split("@")[1:3]
                if host == socket.gethostname() and os.name == "posix":  # elsewhere kill(pid, 0) is no question
                    os.kill(int(pid), 0)
                continue
        except ProcessLookupError:
            pass
        except (OSError, ValueError):  # gone meanwhile, or another user's
            continue
        shutil.rmtree(temp, ignore_errors=True)
