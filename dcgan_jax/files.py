"""Reads and writes JSON files. Files may be untrusted: size and depth are limited, and pipes and devices are refused."""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 2**20  # this program's files have kilobytes; nested lists of this size take 0.4 GB in Python


def load_json(file: Path) -> Any:
    """Reads the value in a JSON file.

    Raises: OSError if there is no such regular file; ValueError if it is too large, nested too deeply or not JSON.
    """
    if not stat.S_ISREG(os.stat(file).st_mode):  # reading a pipe would block, and a device may have no end
        raise OSError(errno.EINVAL, "not a regular file")
    with open(file, "rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(file: Path, value: object) -> None:
    """Writes the value as JSON, atomically: a reader never sees a part of it."""
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def append_json_lines(file: Path, values: Iterable[object]) -> None:
    """Appends each value as a line of JSON. A last line that a full disk or a crash has cut is ended first. Raises: OSError."""
    start = "\n" if os.path.isfile(file) and _is_cut(file) else ""  # /dev/stdout has no last line
    with file.open("a", encoding="utf-8") as opened:
        opened.write(start + "".join(json.dumps(value) + "\n" for value in values))
        opened.flush()
        if os.path.isfile(file):
            os.fsync(opened.fileno())


def _is_cut(file: Path) -> bool:
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - 1))
        return opened.read() not in (b"", b"\n")


def check_replaceable(file: Path) -> None:
    """Raises: OSError for a folder, a device or a pipe. Root would replace /dev/null for all programs of the machine."""
    if os.path.isdir(file):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    is_special = os.path.exists(file) and not os.path.isfile(file)
    if is_special or (os.path.islink(file) and os.readlink(file).startswith("/proc/")):  # /dev/stdout may lead to a file
        raise OSError(errno.EINVAL, "Is not a regular file", str(file))


@contextlib.contextmanager
def atomic_write(file: Path, own: str = "") -> Generator[Path]:
    """Yields a temporary path beside the file. At the end it replaces the file; after an exception it is removed.

    own: part of the temporary name, different in processes that may write the same file at the same time.
    Raises: OSError for a folder, a device or a pipe.
    """
    check_replaceable(file)
    partial = file.with_name(f"{file.name}{own}.partial")
    try:
        yield partial
        with partial.open("rb+") as written:  # Windows flushes only files that may be written
            os.fsync(written.fileno())  # else a power failure could leave an empty file under the new name
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
