"""Random choices of images for scores: they are random, reproducible, and do not overlap where they must not."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dcgan_jax.run import random_choices
from dcgan_jax.run.random_choices import choose_kept, choose_real, choose_scored, split_halves

CHOICES = {"real": lambda seed: choose_real(seed, 1000, 100), "scored": lambda seed: choose_scored(seed, 1000, 100)[:100]}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_choices_cover_a_sorted_set(choose):
    """A choice at the beginning of a set that is sorted by class would be of one class."""
    found = choose(0)
    assert len(set(found)) == 100 and (np.diff(found) > 0).all()
    assert 15 < np.sum(found < 250) < 35 and 15 < np.sum(found >= 750) < 35
    assert_array_equal(choose(0), found)
    assert len(set(choose(1)) - set(found)) > 50


def test_a_set_against_itself_is_not_the_same_choice():
    assert len(set(choose_real(0, 1000, 100)) & set(choose_scored(0, 1000, 100)[:100])) < 50


def test_repeated_sets_do_not_overlap():
    found = choose_scored(3, 10, 4)
    assert len(set(found)) == len(found) == 8
    assert_array_equal(choose_scored(3, 10, 10), np.arange(10))


def test_kept_images_are_random_only_if_too_many(monkeypatch):
    assert_array_equal(choose_kept(0, 60), np.arange(60))
    monkeypatch.setattr(random_choices, "MAX_KEPT", 50)
    kept = choose_kept(0, 1000)
    assert len(set(kept)) == 50 and (np.diff(kept) > 0).all() and kept[25] > 200


def test_halves_are_random_and_disjoint():
    one, other = split_halves(0, 101)
    assert len(one) == len(other) == 50 and not set(one) & set(other)
    pairs = sum(i + 1 in set(other) for i in one if i % 2 == 0)  # neighbours in different halves: all, if they alternated
    assert 5 < pairs < 20
