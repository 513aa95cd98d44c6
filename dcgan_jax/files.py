"""JSON that strangers may have written or edited: read within bounds of size and depth, and never from a pipe or a device."""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 2**20  # ours take kilobytes; as lists of lists these become 0.4 GB in Python


def load_json(file: Path) -> Any:
    """The value in file. Raises: OSError where no such plain file is, ValueError where it is too large, too deep or no JSON."""
    if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for, a device may have no end
        raise OSError(errno.EINVAL, "no plain file")
    with open(file, "rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(file: Path, value: object) -> None:
    """Whole or not at all: a reader never sees half of it."""
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def atomic_write(file: Path, own: str = "") -> Generator[Path]:
    """A path beside the file, to be written; it takes the file's place at the end, and goes where that is not reached.

    own: makes it another than that of a process which may write the same file meanwhile.
    """
    partial = file.with_name(f"{file.name}{own}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())  # else a power cut could leave the new name with nothing in it
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
