"""Plain arguments are held to the types of the flags that they are on the command line."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from dcgan_jax.arguments import fill_flags
from dcgan_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Flags:
    run: str
    count: int = 3
    share: float = 0.5
    is_on: bool = False
    step: int | Literal["best"] | None = None
    names: tuple[str, ...] = ()
    places: Annotated[tuple[str, ...], "a marker"] = ()


DEFAULTS = dataclasses.asdict(Flags(run="a"))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"run": Path("a")},
        {"run": np.str_("a")},
        {"share": 1},
        {"is_on": True},
        {"step": 7},
        {"step": "best"},
        {"names": ("a", "b")},
        {"places": ("a",)},
    ],
    ids=str,
)
def test_arguments_of_the_flags_types_are_taken(change):
    filled = fill_flags(Flags, DEFAULTS | change)
    assert dataclasses.asdict(filled) == DEFAULTS | change | ({"run": "a"} if "run" in change else {})
    assert type(filled.run) is str


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"run": 3}, "`run` 3: give text"),
        ({"count": "3"}, "`count` '3': give a whole number"),
        ({"count": 3.0}, "`count` 3.0: give a whole number"),
        ({"count": True}, "`count` True: give a whole number"),
        ({"share": "x"}, "`share` 'x': give a number"),
        ({"share": False}, "`share` False: give a number"),
        ({"is_on": 1}, "`is_on` 1: give True or False"),
        ({"step": "worst"}, "`step` 'worst': give a whole number or 'best' or None"),
        ({"names": ["a"]}, "`names` ['a']: give a tuple, each item text"),
        ({"names": (1,)}, "`names` (1,): give a tuple, each item text"),
        ({"places": "a"}, "`places` 'a': give a tuple, each item text"),
    ],
    ids=str,
)
def test_other_arguments_are_one_line_that_names_them(change, says):
    with pytest.raises(UserError) as fault:
        fill_flags(Flags, DEFAULTS | change)
    assert str(fault.value) == says
