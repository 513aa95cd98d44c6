"""Printing that never ends the work: streams may be missing, closed, full, or unable to show a character."""

import contextlib
import os
import shutil
import sys
from collections.abc import Generator
from typing import Any, Literal

MIN_COLUMNS = 40
StreamName = Literal["stdout", "stderr"]


def say(line: str, stream: StreamName = "stdout") -> None:
    """Prints a line. If the stream cannot take it, the line is lost, and so are later ones."""
    opened = get_stream(stream)
    opened.write(line + "\n")
    opened.flush()


def get_stream(stream: StreamName = "stderr") -> Any:
    """Returns the stream, for example for a progress bar, in a form whose methods `write` and `flush` never raise."""
    opened = getattr(sys, stream)
    return opened if isinstance(opened, _Steady) else _Steady(opened)


def is_terminal(stream: StreamName = "stderr") -> bool:
    """Whether the stream is an open terminal."""
    opened = getattr(sys, stream)
    try:
        return opened is not None and opened.isatty()
    except (OSError, ValueError):  # closed
        return False


def open_missing_streams() -> None:
    """Opens the null device in place of closed standard streams (`2>&-`, cron, pythonw).

    Call it first: the next file to be opened would get the free descriptor 2, and libraries would write their messages into it.
    """
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            continue
        os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends


@contextlib.contextmanager
def widen_terminal() -> Generator[None]:
    """Inside the with block, programs see a terminal of at least MIN_COLUMNS: tyro's help loops for ever in a very narrow one."""
    before, columns = os.environ.get("COLUMNS"), shutil.get_terminal_size().columns
    os.environ["COLUMNS"] = str(max(columns, MIN_COLUMNS))
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        os.environ |= {} if before is None else {"COLUMNS": before}


@contextlib.contextmanager
def steady_streams() -> Generator[None]:
    """Inside the with block, nothing that is printed raises an exception: a command must not fail after its work is done.

    A character that the stream's encoding lacks is written as an escape such as \\xfc. After a fault, such as a closed pipe or a
    full disk, the rest of the output is dropped.
    """
    before = sys.stdout, sys.stderr
    open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    ours = sys.stdout, sys.stderr = _Steady(sys.stdout), _Steady(sys.stderr)
    try:
        yield
    finally:
        for stream in ours:
            stream.flush()  # now, because Python's flush at exit would fail, and give another exit code
        sys.stdout, sys.stderr = (old or new.stream for old, new in zip(before, ours, strict=True))


class _Steady:
    """A text stream whose `write` and `flush` never raise. All other attributes are those of the stream itself."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            if self.stream is not None:
                self.stream.write(text)
        except UnicodeEncodeError:  # in Python the stream is the user's, so its error handler stays as it is
            self.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._drop()
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            if self.stream is not None:
                self.stream.flush()
        except (OSError, ValueError):
            self._drop()

    def _drop(self) -> None:
        # Text that is still in the stream's buffer must go somewhere, or every later flush fails again, also the one at exit.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __eq__(self, other: object) -> bool:  # tqdm asks whether two streams are the same
        return self.stream is getattr(other, "stream", other)

    def __hash__(self) -> int:
        return hash(self.stream)
