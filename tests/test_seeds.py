"""Seeds in every form in which people give them."""

import numpy as np
import pytest

from dcgan_jax.config import SEEDS, UserError
from dcgan_jax.seeds import describe_seeds, to_seed_array


@pytest.mark.parametrize("seeds", ["3,5-7", [3, 5, 6, 7], (3, 5, 6, 7), iter([3, 5, 6, 7]), np.array([3, 5, 6, 7], np.uint32)])
def test_seeds_of_all_forms_are_the_same_array(seeds):
    found = to_seed_array(seeds)
    assert found.dtype == np.uint32 and found.tolist() == [3, 5, 6, 7]


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        (-1, "whole numbers from 0 to"),
        (SEEDS, "whole numbers from 0 to"),
        ([], "whole numbers from 0 to"),
        (0.5, "`seeds` 0.5: give whole numbers"),
        ("x", "'x' is neither a seed nor a range"),
        ("9-3", "a range must rise"),
        (range(11), "11 seeds are more than 10"),
        ("0-10", "at most 10"),
        ("0-5,0-5", "more than 10 seeds"),
    ],
)
def test_invalid_seeds_are_one_line(seeds, says):
    with pytest.raises(UserError) as fault:
        to_seed_array(seeds, most=10)
    assert says in str(fault.value) and "`seeds`" in str(fault.value)


def test_describe_seeds_gives_them_as_written():
    assert describe_seeds("0-7") == "0-7" and describe_seeds([2, 4]) == "2,4" and describe_seeds(7) == "7"
