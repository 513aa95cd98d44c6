"""The command line of every command: dataclass fields to flags (tyro), and a user's mistake to one line and exit code 2."""

import contextlib
import dataclasses
import difflib
import errno
import io
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Sequence

import tyro

from dcgan_jax import config as configuration
from dcgan_jax.config import LENGTHS, Config, UserError, make_printable
from dcgan_jax.config_rules import check_config
from dcgan_jax.presets import PRESETS

INTERRUPTED = 130  # what a shell reports for Ctrl-C
# The disk, not the program: full, over quota, read-only, gone, unmounted, another user's.
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
    """Runs a command and exits: 0, or what it returns; 2 with one line where the input or the disk is at fault; 130 after Ctrl-C,
    143 after SIGTERM."""

    def terminate(number, frame):
        raise KeyboardInterrupt(128 + number)  # files that are half made are removed on the way out

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(main())
    except UserError as mistake:
        print(f"error: {show_as_flags(str(mistake))}", file=sys.stderr)
        sys.exit(2)
    except MemoryError as fault:
        print(
            f"error: out of memory ({make_printable(str(fault), 200) or 'the machine has no more'}): ask for less at a time, "
            "such as a smaller --count or --batch-size",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print("interrupted: what was saved before is kept", file=sys.stderr)
        sys.exit(stop.args[0] if stop.args else INTERRUPTED)
    except BrokenPipeError:  # who read, such as head, has gone: Python's own flush at the end must not fail as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as fault:
        if fault.errno not in DISK_FAULTS:
            raise
        print(f"error: {fault.filename or 'the disk'}: {fault.strerror}; what was written before is kept", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, before)


def show_as_flags(message: str) -> str:
    """A library's message, in which `batch_size` is an argument, with --batch-size in its place; `flip` False is --no-flip."""
    message = re.sub(r"`([a-z][a-z0-9_]*)` (True|False)\b", lambda m: f"`{'' if m[2] == 'True' else 'no_'}{m[1]}`", message)
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda m: "--" + m[1].replace("_", "-"), message)


def parse_flags(cls: type, arguments: Sequence[str], default=None, prog: str | None = None):
    """The dataclass cls filled from flags. Groups (fields that are dataclasses) show as headings and add no prefix.

    Raises: UserError naming the flag, with the nearest names where it is unknown. `--help` prints and exits with 0.
    """
    known = sorted(_list_flags(cls))
    for flag in list_given_flags(arguments):
        # Not tyro's own for shells either: by the name `python -m ...` they would complete every call of python.
        if flag not in known and flag not in ("help", "h"):
            near = [f"--{name}" for name in difflib.get_close_matches(flag, known, n=3, cutoff=0.5)]
            raise UserError(f"unknown flag --{flag}: " + (f"did you mean {' or '.join(near)}?" if near else "see --help"))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                cls,
                args=list(arguments),
                default=default,
                prog=prog,
                description=cls.__doc__,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_extract_fault(printed.getvalue())) from None


def parse_config(arguments: Sequence[str]) -> Config:
    """The run that the flags describe: the preset's values, replaced by those given.

    One of --steps, --epochs and --kimg replaces the preset's own length, whichever it is in.
    Raises: UserError for an unknown flag or preset, or an impossible value.
    """
    name = _get_flag_value(arguments, "preset") or "article"
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
    return config


def parse_condition(text: str) -> dict[str, int]:
    """Attribute -> 0 or 1 of Smiling=1,Male=0. Raises: UserError."""
    values = {}
    for part in text.split(",") if text else ():
        name, _, value = part.rpartition("=")
        if not name or value not in ("0", "1"):
            raise UserError(f"`condition` {make_printable(part, 100)}: write attributes with 1 or 0, as Smiling=1")
        values[name] = int(value)
    return values


def _list_flags(cls) -> set[str]:
    flags = set()
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            flags |= _list_flags(field.type)
        else:
            flags.add(field.name.replace("_", "-"))
            if typing.get_type_hints(cls)[field.name] is bool:
                flags.add("no-" + field.name.replace("_", "-"))
    return flags


def list_given_flags(arguments: Sequence[str]) -> list[str]:
    """The flags among the arguments, as kimg of --kimg 10 and of --kimg=10."""
    return [argument[2:].split("=")[0].replace("_", "-") for argument in arguments if re.match(r"--[A-Za-z]", argument)]


def _get_flag_value(arguments, flag) -> str | None:
    found = None  # of a flag given twice the last counts, as everywhere
    for at, argument in enumerate(arguments):
        if argument == f"--{flag}":
            found = arguments[at + 1] if at + 1 < len(arguments) else None
        elif argument.startswith(f"--{flag}="):
            found = argument.split("=", 1)[1]
    return found


def _extract_fault(box: str) -> str:
    # tyro (1.0) has no public error type: it prints a box, of a title, the fault and help. The fault alone, without the frame.
    lines = [line.strip(" │╭╮╰╯─") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    text = " ".join(line for line in lines if line)
    text = re.split(r" Got errors:| Argument helptext:| For full helptext", text)[0]
    titles = "Value error|Invalid choice|Unrecognized options|Missing argument|Parsing error|Required options"
    return re.sub(r"^Missing from .*?: ", "missing: ", re.sub(rf"^({titles}) ", "", text))
