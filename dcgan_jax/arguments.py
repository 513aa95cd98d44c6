"""Checks the arguments of a command's Python function against the dataclass of its flags, which has the same fields."""

import os
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.field_types import describe_type, has_type
from dcgan_jax.places import expand_places

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

Flags = typing.TypeVar("Flags", bound="DataclassInstance")


def fill_flags(flags: type[Flags], arguments: Mapping[str, Any]) -> Flags:
    """Fills the dataclass of a command's flags with the arguments of its function. Paths become text, and ~ the home folder.

    Raises: UserError with the name of an argument whose type is not the flag's.
    """
    hints = typing.get_type_hints(flags)
    values = {field.name: _to_text(arguments[field.name]) for field in fields(flags)}
    for name, value in values.items():
        if not has_type(value, hints[name]):
            raise UserError(f"`{name}` {make_printable(repr(value), 100)}: give {describe_type(hints[name])}")
    return expand_places(flags(**values))


def _to_text(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # pyrefly: ignore[unnecessary-type-conversion] - it may be of a subclass, such as NumPy's
    return str(value) if isinstance(value, str) else value
