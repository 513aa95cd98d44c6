import errno
import io
import os
import sys

import pytest
from tqdm import tqdm

from dcgan_jax import cli, terminal
from dcgan_jax.config import UserError


class Failing(io.StringIO):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def write(self, text=""):
        raise self.fault

    flush = write


FAULTS = [BrokenPipeError(), OSError(errno.ENOSPC, "full"), ValueError("I/O operation on closed file")]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_printing_ends_no_command(monkeypatch, fault):
    monkeypatch.setattr(sys, "stdout", Failing(fault))
    monkeypatch.setattr(sys, "stderr", Failing(fault))

    def main():
        print("faces")
        sys.stdout.flush()
        tqdm.write("more")
        raise UserError("wrong")

    with pytest.raises(SystemExit) as end:
        cli.run_command(main)
    assert end.value.code == 2


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_missing_stream_is_no_terminal_and_takes_lines(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    assert not terminal.is_terminal(name)
    terminal.say("nobody hears", name)
    with tqdm(total=1, file=terminal.get_stream(name)) as bar:
        bar.update()


def test_closed_stream_is_no_terminal(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert not terminal.is_terminal()
    terminal.say("nobody hears", "stderr")


def test_missing_characters_become_escapes(monkeypatch):
    """In Python too, where the stream keeps its own error handler."""
    raw = io.BytesIO()
    ascii_stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_stream)
    terminal.say("Jürgen \udcfc")
    with terminal.steady_streams():
        print("Köln")
    assert raw.getvalue().decode() == "J\\xfcrgen \\udcfc\nK\\xf6ln\n"
    assert sys.stdout is ascii_stream


def test_dropped_text_does_not_fail_at_exit(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as opened:
        steady = terminal._Steady(opened)
        steady.write("faces")
        steady.flush()  # the pipe is broken; from here on its descriptor is the null device
        opened.write("more")


def test_very_narrow_terminal_is_widened(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    with terminal.widen_terminal():
        assert os.environ["COLUMNS"] == "40"
    assert os.environ["COLUMNS"] == "1"
    monkeypatch.delenv("COLUMNS")
    with terminal.widen_terminal():
        assert int(os.environ["COLUMNS"]) >= 40
    assert "COLUMNS" not in os.environ
