"""Checks values against the type hints of dataclass fields, and describes these hints in messages."""

import sys
import types
import typing
from typing import Annotated, Any, Literal

NAMES = {int: "a whole number", float: "a number", str: "text", bool: "True or False", types.NoneType: "None"}


def has_type(value: object, hint: Any) -> bool:
    """Whether the value has a field's type, without conversion. A whole number is also a float; True and False are not."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return has_type(value, parts[0])
    if origin in (typing.Union, types.UnionType):
        return any(has_type(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:  # of any length
        return isinstance(value, tuple) and all(has_type(item, parts[0]) for item in value)
    if hint is float:
        # The limit excludes infinities, and whole numbers that are too large for a float.
        return (type(value) is int or type(value) is float) and abs(value) <= sys.float_info.max
    return type(value) is hint


def describe_type(hint: Any) -> str:
    """Describes a field's type, such as "a whole number or None"."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return describe_type(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in parts)
    if origin is Literal:
        return repr(parts[0]) if len(parts) == 1 else f"one of {', '.join(str(part) or repr(part) for part in parts)}"
    if origin is tuple:
        return f"a tuple, each item {describe_type(parts[0])}"
    return NAMES[hint]


def describe_flag_values(hint: Any) -> str:
    """Describes what follows a flag of this type on the command line, such as "a whole number" or "one or more numbers"."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # leaving a flag out gives None
        return " or ".join(describe_flag_values(part) for part in parts if part is not types.NoneType)
    if origin is tuple:
        item = describe_flag_values(parts[0])
        return f"one or more {item.removeprefix('a ')}s" if item.startswith("a ") else item.replace("one of", "one or more of", 1)
    return "a value" if hint is str else describe_type(hint)
