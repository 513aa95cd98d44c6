"""The settings: round trips, the bounds and marks of each field, and config files of older versions."""

import dataclasses
import json
import typing
from typing import Literal

import pytest

from dcgan_jax.config import (
    FIELDS,
    GROUPS,
    LENGTHS,
    MAX_STEPS,
    REMOVED,
    Config,
    Mark,
    UserError,
    count_total_steps,
    flatten,
    has_length,
    list_fields,
    list_resumable_fields,
    replace,
    unflatten,
)

VALID = replace(Config(), steps=10)


def test_replace_changes_one_field_in_its_group():
    changed = replace(VALID, width=8, lr=1e-3, seed=5)
    assert (changed.nets.width, changed.optimizer.lr, changed.run.seed) == (8, 1e-3, 5)
    assert replace(changed, width=64, lr=2e-4, seed=0) == VALID
    assert VALID.nets.width == 64


def test_replace_refuses_an_unknown_name():
    with pytest.raises(KeyError, match="widht"):
        replace(VALID, widht=8)


def test_groups_share_no_field_name():
    assert len(FIELDS) == sum(len(dataclasses.fields(cls)) for cls in GROUPS.values())


@pytest.mark.parametrize(
    "config",
    [
        VALID,
        replace(VALID, augment=("color", "cutout"), g_multipliers=(8, 4, 2, 1), d_lr=4e-4, epochs=1.5, steps=None, flip=True),
        replace(VALID, grow_kimg=(600.0,)),
        replace(VALID, size=128, grow_kimg=(600.0, 160.0)),
    ],
)
def test_config_round_trips_through_json(config):
    assert unflatten(json.loads(json.dumps(flatten(config))), "config.json") == config


def test_missing_fields_keep_their_defaults():
    assert unflatten({"width": 8}, "config.json") == replace(Config(), width=8)


@pytest.mark.parametrize(
    "values, named",
    [
        ({"widht": 8}, "widht"),
        ({"width": "8"}, "width"),
        ({"width": 8.0}, "width"),
        ({"width": True}, "width"),
        ({"width": None}, "width"),
        ({"flip": 1}, "flip"),
        ({"lr": "fast"}, "lr"),
        ({"lr": True}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": [1e-3]}, "lr"),
        ({"name": 3}, "name"),
        ({"grow_kimg": "600"}, "grow_kimg"),
        ({"grow_kimg": None}, "grow_kimg"),
        ({"grow_kimg": True}, "grow_kimg"),
        ({"grow_kimg": False}, "grow_kimg"),
        ({"grow_kimg": float("nan")}, "grow_kimg"),
        ({"grow_kimg": [600.0, "160"]}, "grow_kimg"),
        ({"grow_kimg": [[600.0]]}, "grow_kimg"),
        ({"steps": 3.5}, "steps"),
        ({"channels": 2}, "channels"),
        ({"channels": 3.0}, "channels"),
        ({"loss": "mse"}, "loss"),
        ({"augment": "color"}, "augment"),
        ({"augment": ["colour"]}, "augment"),
        ({"g_multipliers": [1, "2"]}, "g_multipliers"),
        ({"data": {}}, "data"),
        ([], "fields"),
        (None, "fields"),
    ],
)
def test_unknown_field_or_wrong_type_is_one_line(values, named):
    with pytest.raises(UserError) as error:
        unflatten(values, "runs/a/config.json")
    assert "runs/a/config.json" in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_whole_number_is_accepted_for_a_float():
    assert unflatten({"lr": 1, "epochs": 3}, "config.json").optimizer.lr == 1


# ---- Bounds, units and marks ----


def is_numeric(hint):
    """Whether the type is an int, a float or a tuple of them, and not a choice."""
    if typing.get_origin(hint) is Literal:
        return False
    return hint in (int, float) or any(is_numeric(part) for part in typing.get_args(hint))


NUMERIC = [name for name, field in FIELDS.items() if is_numeric(field.type)]


@pytest.mark.parametrize("name", NUMERIC)
def test_number_has_a_lower_and_an_upper_bound(name):
    bounds = FIELDS[name].bounds
    assert bounds is not None
    assert (bounds.ge is None) != (bounds.gt is None)
    assert (bounds.le is None) != (bounds.lt is None)


def test_only_numbers_have_bounds_and_units():
    assert len(NUMERIC) > 40
    assert {name for name, field in FIELDS.items() if field.bounds or field.unit} <= set(NUMERIC)


def test_resumed_run_may_change_its_length():
    """It may not change the length if the learning rate decays over that length."""
    lengths = {"steps", "epochs", "kimg"}
    assert list_resumable_fields(VALID) >= lengths
    assert list_resumable_fields(replace(VALID, lr_decay="linear")) == list_resumable_fields(VALID) - lengths


def test_resumed_run_may_not_change_its_minutes():
    """Without minutes, the run has the length of another field, and those of its config.json are a record."""
    timed = replace(VALID, **dict.fromkeys(LENGTHS) | {"minutes": 3.0})
    assert list_resumable_fields(VALID) - list_resumable_fields(timed) == {"minutes"}


def test_length_in_minutes_is_known_with_its_kimg():
    timed = replace(VALID, **dict.fromkeys(LENGTHS) | {"minutes": 3.0})
    assert not has_length(timed) and count_total_steps(timed, 1000) == MAX_STEPS
    decided = replace(timed, kimg=1.0)
    assert has_length(decided) and count_total_steps(decided, 1000) == count_total_steps(replace(decided, minutes=None), 1000)


def test_resumed_run_may_not_change_what_it_computes():
    assert {FIELDS[name].group for name in list_fields(Mark.RESUMABLE)} == {"run", "data", "output", "guard"}
    assert not list_fields(Mark.RESUMABLE) & {
        "seed",
        "preset",
        "start",
        "grow_kimg",
        "split",
        "crop",
        "batch_size",
        "flip",
        "held_out",
    }


def test_marks_of_networks_are_on_network_fields():
    for mark in (Mark.TRAINING_ONLY, Mark.ANY_IN_TORCH, Mark.DEFAULT_TO_GROW):
        assert {FIELDS[name].group for name in list_fields(mark)} == {"nets"}


# ---- Files of older versions ----


@pytest.mark.parametrize("number, stages", [(600.0, (600.0,)), (600, (600,)), (0.0, ()), (0, ())])
def test_number_is_one_low_resolution_stage(number, stages):
    """In older files, in Python and, as a list of one number, on the command line."""
    assert unflatten({"grow_kimg": number}, "config.json").run.grow_kimg == stages
    assert replace(VALID, grow_kimg=number) == replace(VALID, grow_kimg=(number,)) == replace(VALID, grow_kimg=stages)


@pytest.mark.parametrize("name, neutral", REMOVED.items())
def test_removed_option_without_effect_is_accepted(name, neutral):
    values = json.loads(json.dumps(flatten(VALID) | {name: neutral}))
    assert unflatten(values, "config.json") == VALID


@pytest.mark.parametrize("name, neutral", REMOVED.items())
def test_removed_option_in_use_is_one_line(name, neutral):
    used = True if neutral is False else neutral + 0.5
    with pytest.raises(UserError) as error:
        unflatten({name: used}, "runs/a/config.json")
    line = str(error.value)
    assert line.startswith(f"runs/a/config.json: {name} is {used}")
    assert "train a new run" in line and "\n" not in line


def test_removed_option_is_no_field():
    assert not REMOVED.keys() & FIELDS.keys()


# ---- Length ----


@pytest.mark.parametrize(
    "length, expected",
    [
        ({"steps": 7}, 7),
        ({"epochs": 1.0}, 31),  # 1000 images are 31 whole batches of 32: the last 8 images are dropped
        ({"epochs": 2.0}, 62),
        ({"epochs": 0.5}, 16),
        ({"epochs": 0.001}, 1),
        ({"kimg": 1.0}, 31),
        ({"kimg": 0.001}, 1),
    ],
)
def test_length_in_steps(length, expected):
    config = replace(Config(), batch_size=32, **length)
    assert count_total_steps(config, 1000) == expected


def test_all_d_batches_count_as_images():
    config = replace(Config(), batch_size=32, d_steps=5, epochs=1.0)
    assert config.images_per_step == 160
    assert count_total_steps(config, 1000) == 6
    assert count_total_steps(replace(config, epochs=None, kimg=1.0), 1000) == 6
