"""Checks the arguments of a command's Python function against the dataclass of its flags, which has the same fields."""

import os
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dcgan_jax.config import UserError, make_printable
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
        if not _is_of(value, hints[name]):
            raise UserError(f"`{name}` {make_printable(repr(value), 100)}: give {_describe(hints[name])}")
    return expand_places(flags(**values))


def _to_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _is_of(value: object, kind: Any) -> bool:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _is_of(value, parts[0])
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is typing.Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:  # of any length
        return isinstance(value, tuple) and all(_is_of(one, parts[0]) for one in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _describe(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _describe(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(part) for part in parts)
    if origin is typing.Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return f"a tuple, each {_describe(parts[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "True or False", types.NoneType: "None"}
    return names.get(kind, kind.__name__)
