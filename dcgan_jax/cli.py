"""The command line: makes flags from dataclass fields (tyro), and ends with one line and exit code 2 after a user's mistake."""

import contextlib
import dataclasses
import difflib
import errno
import functools
import inspect
import io
import itertools
import re
import shlex
import shutil
import signal
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import tyro

from dcgan_jax import config as configuration
from dcgan_jax import terminal
from dcgan_jax.command_lines import UNUSED_WITHOUT_SCORES
from dcgan_jax.config import LENGTHS, Config, UserError, make_printable
from dcgan_jax.config_rules import check_config
from dcgan_jax.field_types import describe_flag_values
from dcgan_jax.machine import is_out_of_memory
from dcgan_jax.places import expand_places
from dcgan_jax.presets import PRESETS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Flags = TypeVar("Flags", bound="DataclassInstance")
INTERRUPTED = 130  # exit code of a program that Ctrl-C stopped
# Faults of the disk, not of the program: it is full, over quota, read-only, unmounted or belongs to another user.
DISK_FAULTS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.ENODEV,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its return value, or 0. Nothing that it prints can end it.

    Exits with 2 and one line for a mistake in the input or a fault of the disk, with 130 after Ctrl-C, with 143 after SIGTERM.
    """
    with terminal.steady_streams():
        _run_to_exit(main)


def _run_to_exit(main: Callable[[], int | None]) -> NoReturn:
    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt(128 + number)  # an exception, so that half-written files are removed

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(main())
    except UserError as mistake:
        print(f"error: {show_as_flags(str(mistake))}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as fault:
        if not is_out_of_memory(fault):
            raise
        print(
            f"error: out of memory ({make_printable(str(fault), 200) or 'no memory left'}): use less at a time, "
            "for example a smaller --count or --batch-size",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print("interrupted: what was saved before is kept", file=sys.stderr)
        sys.exit(stop.args[0] if stop.args else INTERRUPTED)
    except OSError as fault:
        if fault.errno not in DISK_FAULTS:
            raise
        print(f"error: {fault.filename or 'the disk'}: {fault.strerror}; what was written before is kept", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, before)


def show_as_flags(message: str) -> str:
    """Replaces arguments in a message by flags: `batch_size` becomes --batch-size, and `flip` False becomes --no-flip."""
    message = re.sub(r"`([a-z][a-z0-9_]*)` (True|False)\b", lambda m: f"`{'' if m[2] == 'True' else 'no_'}{m[1]}`", message)
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda m: "--" + m[1].replace("_", "-"), message)


def parse_flags(cls: type[Flags], arguments: Sequence[str], default: Flags | None = None, prog: str | None = None) -> Flags:
    """Parses flags into the dataclass cls. A field that is a dataclass itself becomes a heading and adds no prefix.

    Raises: UserError with the flag's name, and with similar names if it is unknown. `--help` prints and exits with 0.
    """
    hints, known, positional = _list_hints(cls), list_flags(cls), _list_positionals(cls)
    for flag in list_given_flags(arguments):
        # tyro's own completion flags are unknown too: for `python -m ...` they would complete every call of Python.
        if flag not in known and difflib.get_close_matches(flag, positional, cutoff=0.5):
            words = [word for word in (re.sub(f"^--{flag}(=|$)", "", argument) for argument in arguments) if word]
            raise UserError(f"unknown flag --{flag}: leave it out and give only its value: {prog} {shlex.join(words)}")
        if flag not in known and flag != "help":
            near = [f"--{name}" for name in difflib.get_close_matches(flag, known, n=3, cutoff=0.5)]
            raise UserError(f"unknown flag --{flag}: " + (f"did you mean {' or '.join(near)}?" if near else "see --help"))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), terminal.widen_terminal():
            flags = tyro.cli(
                cls,
                args=list(arguments),
                default=default,
                prog=prog,
                description=_wrap_description(cls.__doc__ or ""),
                config=(tyro.conf.OmitArgPrefixes,),
            )
            return expand_places(flags)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_explain_fault(_extract_fault(printed.getvalue()), hints, arguments)) from None


def _wrap_description(docstring: str) -> str:
    """Wraps a docstring to the terminal's width. tyro does not wrap it, and joins lines that are not indented."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    width = shutil.get_terminal_size().columns
    return "\n\n".join(textwrap.fill(" ".join(text.split()), width, subsequent_indent="  ") for text in paragraphs)


def parse_config(arguments: Sequence[str]) -> Config:
    """Parses the flags of `train` into a Config: the preset's values, replaced by those given.

    --steps, --epochs, --kimg or --minutes replaces the preset's length, whichever of them the preset uses.
    Raises: UserError for an unknown flag or preset, or an impossible value.
    """
    name = (_get_flag_values(arguments, "preset") or ["article"])[0]
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4)
        raise UserError(
            f"--preset {name}: no such preset; "
            + (f"did you mean {' or '.join(near)}?" if near else "there are ")
            + ("" if near else ", ".join(PRESETS))
        )
    preset = PRESETS[name]
    if set(LENGTHS) & set(list_given_flags(arguments)):
        preset = configuration.replace(preset, **dict.fromkeys(LENGTHS))
    config = parse_flags(Config, arguments, default=preset, prog="python -m dcgan_jax.train")
    if not config.run.name:
        config = configuration.replace(config, name=config.run.preset)
    check_config(config)
    for flag in list_given_flags(arguments):
        if flag.replace("-", "_") in UNUSED_WITHOUT_SCORES and not config.output.score_every_kimg:
            raise UserError(f"--{flag}: needs `score_every_kimg`, such as `score_every_kimg` 20: without it there are no scores")
    return config


def parse_condition(text: str) -> dict[str, int]:
    """Parses Smiling=1,Male=0 into attribute -> 0 or 1. Raises: UserError."""
    values = {}
    for part in text.split(",") if text else ():
        name, _, value = part.rpartition("=")
        if not name or value not in ("0", "1"):
            raise UserError(f"`condition` {make_printable(part, 100)}: write attributes with 1 or 0, such as Smiling=1")
        values[name] = int(value)
    return values


def list_flags(cls: "type[DataclassInstance]") -> list[str]:
    """Lists the names of all flags, sorted: flip and no-flip for a field that is True or False."""
    hints = _list_hints(cls)
    return sorted([*hints, *(f"no-{flag}" for flag, hint in hints.items() if hint is bool)])


@functools.cache
def _list_hints(cls: "type[DataclassInstance]") -> dict[str, Any]:
    """Lists the flags, each with the type hint of its field."""
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= _list_hints(field.type)
        elif field.name not in _list_positionals(cls):
            found[field.name.replace("_", "-")] = hints[field.name]
    return found


@functools.cache
def _list_positionals(cls: "type[DataclassInstance]") -> list[str]:
    """Lists the fields that are given without a flag."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [name for name, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())]


def list_given_flags(arguments: Sequence[str]) -> list[str]:
    """Lists the names of the flags among the arguments: kimg for --kimg 10 and for --kimg=10."""
    return [argument[2:].split("=")[0].replace("_", "-") for argument in arguments if re.match(r"--[A-Za-z]", argument)]


def _get_flag_values(arguments: Sequence[str], flag: str) -> list[str]:
    """Returns the words from a flag to the next one. The last one counts if a flag is given twice."""
    found: list[str] = []
    for at, argument in enumerate(arguments):
        if list_given_flags([argument]) == [flag]:
            after = itertools.takewhile(lambda word: not list_given_flags([word]), arguments[at + 1 :])
            found = [*argument.split("=", 1)[1:], *after]
    return found


def _extract_fault(box: str) -> str:
    # tyro (1.0) has no public error type. It prints a box with a title, the fault and help; this extracts the fault.
    lines = [line.strip(" │╭╮╰╯─") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    text = " ".join(line for line in lines if line)
    text = re.split(r" Got errors:| Argument helptext:| For full helptext", text)[0]
    titles = "Value error|Invalid choice|Unrecognized options|Missing argument|Parsing error|Required options"
    return re.sub(r"^Missing from .*?: ", "missing: ", re.sub(rf"^({titles}) ", "", text))


def _explain_fault(fault: str, hints: dict[str, Any], arguments: Sequence[str]) -> str:
    """Replaces tyro's text about one flag's value, or about a value without a flag, by one that says what to give."""
    if value := re.search(r"(?:argument '|Error parsing )--([\w-]+)", fault):
        flag = value[1]
        given = make_printable(" ".join([f"--{flag}", *_get_flag_values(arguments, flag)]), 200)
        return f"{given}: give {describe_flag_values(hints[flag])}" if flag in hints else fault
    listed = fault.removeprefix("Unrecognized options: ")
    word = max((given for given in arguments if given and listed.startswith(given)), key=len, default="")
    if listed == fault or not word:
        return fault
    if re.match("-[A-Za-z]", word):
        return f"unknown flag {word}: flags begin with two hyphens; see --help"
    for flag in list_given_flags(arguments):
        name, values = flag.removeprefix("no-"), _get_flag_values(arguments, flag)
        if hints[name] is bool and word in values:
            return f"--{flag} {word}: takes no value; give --{name} or --no-{name}"
        if word in values[1:]:
            return f"{word}: --{name} takes one value; quote a value that has spaces, and see --help for other flags"
    return f"{word}: this value has no flag before it; see --help"
