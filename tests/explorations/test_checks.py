"""Checks of arguments that all explorations share."""

import types

import numpy as np
import pytest

from dcgan_jax.config import UserError
from dcgan_jax.explorations.checks import MOST_SEEDS, check_whole, make_title, read_seeds, read_two_or_more


def test_read_seeds_takes_at_most_1000():
    np.testing.assert_array_equal(read_seeds("3-5"), [3, 4, 5])
    assert len(read_seeds(range(MOST_SEEDS))) == MOST_SEEDS
    with pytest.raises(UserError, match="`from_seeds`: 1,001 seeds are more than 1,000"):
        read_seeds(range(MOST_SEEDS + 1), "from_seeds")


def test_read_two_or_more_one_seed_is_refused():
    np.testing.assert_array_equal(read_two_or_more([7, 2]), [7, 2])
    with pytest.raises(UserError, match="`seeds` 7: give at least two"):
        read_two_or_more([7])


@pytest.mark.parametrize("value", [1.0, True, "1", None])
def test_check_whole_other_type_is_named(value):
    check_whole(columns=3, count=np.int64(3))
    with pytest.raises(UserError, match=f"`count` {value!r}: give a whole number"):
        check_whole(columns=3, count=value)


def test_make_title_names_run_step_and_condition():
    gan = types.SimpleNamespace(name="article", step=12_000)
    assert make_title(gan, None) == "article, step 12,000"
    assert make_title(gan, {"Smiling": 1, "Male": 0}, "morph") == "article, step 12,000, Smiling=1,Male=0: morph"
