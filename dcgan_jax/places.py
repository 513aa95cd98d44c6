"""Paths as users write them: a leading ~ becomes the home folder, also where no shell has replaced it."""

import dataclasses
import os
import sys
from typing import Any, TypeVar

from dcgan_jax.config import UserError, make_printable

Value = TypeVar("Value")


def expand_places(value: Value) -> Value:
    """Replaces a leading ~ in every text of a flag's value: a text, a list of texts, or a dataclass of flags.

    A shell replaces ~ only at the beginning of a word, so not in `--workdir=~/runs`. Raises: UserError.
    """
    found: Any = value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        expanded = {name: expand_places(old) for name, old in fields.items()}
        changed = {name: new for name, new in expanded.items() if new is not fields[name]}
        found = dataclasses.replace(value, **changed) if changed else value
    elif isinstance(value, tuple) and any(isinstance(one, str) and "~" in one for one in value):
        found = tuple(map(expand_places, value))
    elif isinstance(value, str) and "~" in value:
        found = ",".join(map(expand_home, value.split(",")))  # --start takes two files with a comma between them
    return found


def expand_home(place: str) -> str:
    """Replaces a leading ~ or ~user of a path by the home folder. Raises: UserError if there is none."""
    home = place.replace(os.sep, "/").partition("/")[0]
    if not home.startswith("~") or (home != "~" and os.path.lexists(place)):  # a file whose own name begins with ~
        return place
    expanded = os.path.expanduser(place)
    if expanded.startswith("~"):
        why = "HOME is not set and this user has no home folder" if home == "~" else f"there is no user {home[1:]}"
        raise UserError(f"{make_printable(place, 200)}: {make_printable(why)}; write the path without ~")
    return expanded


def get_home() -> str | None:
    """Returns the user's home folder; None if HOME is not set and the user is not in the list of users, as in containers."""
    home = os.path.expanduser("~")
    return None if home.startswith("~") else home


def is_encodable(place: str | os.PathLike[str]) -> bool:
    """Whether libraries in C++ can open the path: they take text as UTF-8 only."""
    try:
        os.fspath(place).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_encodable(place: str | os.PathLike[str]) -> None:
    """Raises UserError if libraries in C++ cannot open the path."""
    if not is_encodable(place):
        shown = make_printable(os.fsencode(place).decode("utf-8", "backslashreplace"), 300)
        if sys.getfilesystemencoding().lower() != "utf-8":
            remedy = "the locale has no such characters: set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        else:
            remedy = "its name is not UTF-8: rename it"
        raise UserError(f"{shown}: {remedy}")
