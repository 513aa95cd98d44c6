"""Values are checked against type hints without conversion, and messages describe the hints in words."""

import math
from typing import Annotated, Literal

import numpy as np
import pytest

from dcgan_jax.field_types import describe_flag_values, describe_type, has_type

STEP = int | Literal["best"] | None


@pytest.mark.parametrize(
    ("hint", "taken", "refused"),
    [
        (int, (0, -3), (True, 1.0, "1", None)),
        (float, (0, 0.5, -1e300), (True, "0.5", None, math.nan, math.inf, 10**400, np.float64(1))),
        (bool, (True, False), (1, 0, "True", None)),
        (str, ("", "a"), (1, b"a", None)),
        (STEP, (7, "best", None), ("worst", 7.0, True)),
        (Literal[1, 3], (1, 3), (2, 1.0, True)),  # True == 1, but it is no choice
        (tuple[int, ...], ((), (1, 2)), ([1, 2], (1.0,), 1)),
        (Annotated[float | None, "a marker"], (1, None), ("1", False)),
    ],
    ids=str,
)
def test_value_has_the_type_or_not(hint, taken, refused):
    assert all(has_type(value, hint) for value in taken)
    assert not any(has_type(value, hint) for value in refused)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (float | None, "a number or None"),
        (STEP, "a whole number or 'best' or None"),
        (tuple[Annotated[bool, "a marker"], ...], "a tuple, each item True or False"),
        (Literal["color", "cutout"], "one of color, cutout"),
        (Literal["", "celeba"], "one of '', celeba"),
    ],
    ids=str,
)
def test_type_is_described_in_words(hint, words):
    assert describe_type(hint) == words


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (float | None, "a number"),
        (STEP, "a whole number or 'best'"),
        (str, "a value"),
        (tuple[float, ...], "one or more numbers"),
        (tuple[str, ...], "one or more values"),
        (tuple[Literal["color", "cutout"], ...], "one or more of color, cutout"),
        (Literal["", "celeba"], "one of '', celeba"),
    ],
    ids=str,
)
def test_what_follows_a_flag_is_described_in_words(hint, words):
    assert describe_flag_values(hint) == words
