"""Impossible settings: each raises one line that names the argument and valid values."""

import math
import re

import pytest

from dcgan_jax.config import FIELDS, LENGTHS, Config, UserError, replace
from dcgan_jax.config_rules import RESIDUAL_VALUES, check_config, check_stored_config

VALID = replace(Config(), steps=10)
RESIDUAL = {"architecture": "residual"} | RESIDUAL_VALUES


def test_valid_config_passes():
    check_config(VALID)


def test_only_a_stored_config_has_minutes_and_kimg():
    """The kimg are what the minutes became. Both are still checked."""
    given = replace(VALID, steps=None, minutes=3.0)
    found = replace(given, kimg=1.0)
    for stored in (VALID, given, found):
        check_stored_config(stored)
    for refused in (found, replace(given, epochs=1.0)):
        with pytest.raises(UserError, match="needs exactly one of"):
            check_config(refused)
    for broken, named in (({"minutes": -1.0}, "minutes"), ({"kimg": -1.0}, "kimg"), ({"steps": 4}, "exactly one of")):
        with pytest.raises(UserError, match=named):
            check_stored_config(replace(found, **broken))


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"size": 33}, "`size` 33"),
        ({"size": 8}, "`size` 8"),
        ({"size": 512}, "`size` 512"),
        ({"size": 0}, "`size` 0"),
        ({"batch_size": 0}, "`batch_size` 0"),
        ({"batch_size": -1}, "`batch_size` -1"),
        ({"width": 0}, "`width` 0"),
        ({"latent_dim": 0}, "`latent_dim` 0"),
        ({"lr": 0.0}, "`lr` 0.0"),
        ({"lr": float("nan")}, "`lr` nan"),
        ({"lr": float("inf")}, "`lr` inf"),
        ({"d_lr": -1e-4}, "`d_lr` -0.0001"),
        ({"d_steps": 0}, "`d_steps` 0"),
        ({"g_steps": 0}, "`g_steps` 0"),
        ({"log_every_steps": 0}, "`log_every_steps` 0"),
        ({"save_every_steps": 0}, "`save_every_steps` 0"),
        ({"keep_checkpoints": 0}, "`keep_checkpoints` 0"),
        ({"grid_images": 0}, "`grid_images` 0"),
        ({"steps": -5}, "`steps` -5"),
        ({"steps": 0}, "`steps` 0"),
        ({"steps": None, "epochs": 0.0}, "`epochs` 0.0"),
        ({"steps": None, "kimg": -1.0}, "`kimg` -1.0"),
        ({"steps": None}, "none given"),
        ({"epochs": 1.0}, "steps and epochs given"),
        ({"seed": -1}, "`seed` -1"),
        ({"seed": 2**32}, f"`seed` {2**32}"),
        ({"beta1": 1.0}, "`beta1` 1.0"),
        ({"beta2": -0.1}, "`beta2` -0.1"),
        ({"d_dropout": 1.0}, "`d_dropout` 1.0"),
        ({"real_label": 0.0}, "`real_label` 0.0"),
        ({"real_label": 1.5}, "`real_label` 1.5"),
        ({"gp_weight": -1.0}, "`gp_weight` -1.0"),
        ({"r1_gamma": -1.0}, "`r1_gamma` -1.0"),
        ({"r2_gamma": -1.0}, "`r2_gamma` -1.0"),
        ({"gamma_init_std": -0.1}, "`gamma_init_std` -0.1"),
        ({"bn_epsilon": -1e-5}, "`bn_epsilon` -1e-05"),
        ({"l2": -1.0}, "`l2` -1.0"),
        ({"adam_eps": -1.0}, "`adam_eps` -1.0"),
        ({"ema_half_life_kimg": -1.0}, "`ema_half_life_kimg` -1.0"),
        ({"ema_ramp": -1.0}, "`ema_ramp` -1.0"),
        ({"penalty_every_steps": 0, "r1_gamma": 1.0}, "`penalty_every_steps` 0"),
        ({"penalty_every_steps": 4}, "`penalty_every_steps` 4"),
        ({"penalty_noise": -0.1, "r1_gamma": 1.0}, "`penalty_noise` -0.1"),
        ({"penalty_noise": 1e-4, "r1_gamma": 1.0}, "`penalty_noise` 0.0001: must be 0 or at least 0.001"),
        ({"penalty_noise": 0.01, "gp_weight": 1.0}, "`penalty_noise` 0.01"),
        ({"augment": ("color",), "g_output": "sigmoid"}, "`augment` color"),
        ({"lr_warmup_kimg": -1.0}, "`lr_warmup_kimg` -1.0"),
        ({"lr_decay_share": 0.5}, "`lr_decay_share` 0.5"),
        ({"lr_decay": "linear", "lr_decay_share": 1.5}, "`lr_decay_share` 1.5"),
        ({"lr_decay": "linear", "lr_decay_share": 0.0}, "`lr_decay_share` 0.0"),
        ({"penalty_every_steps": 3, "r1_gamma": 1.0, "updates": "alternating"}, "`penalty_every_steps` 3"),
        ({"updates": "alternating", "g_steps": 2}, "`updates` alternating"),
        ({"updates": "alternating", "d_steps": 2}, "`updates` alternating"),
        ({"g_multipliers": (8, 4)}, "`g_multipliers` 8 4"),
        ({"d_multipliers": (1, 2, 4, 0)}, "`d_multipliers` 1 2 4 0"),
        ({"g_last_kernel": 5}, "`g_last_kernel` 5"),
        ({"g_refine": 9}, "`g_refine` 9: must be at least 0 and at most 8 blocks"),
        ({"d_refine": -1}, "`d_refine` -1: must be at least 0 and at most 8 blocks"),
        ({"d_refine": 1, "d_norm": "spectral"}, "`d_refine` 1"),
        ({"g_refine": 1, "g_last_kernel": 5, "g_multipliers": (8, 4, 2, 1, 1)}, "`g_refine` 1"),
        ({"g_last_kernel": 5, "g_multipliers": (8, 4, 2, 1)}, "`g_multipliers` 8 4 2 1"),
        (RESIDUAL | {"d_norm": "batch"}, "`architecture` residual: these networks have no normalisation"),
        (RESIDUAL | {"kernel": 5, "g_refine": 1}, "give `kernel` 4 `g_refine` 0, or `architecture` dcgan"),
        (RESIDUAL | {"grow_kimg": 1.0}, "`grow_kimg` 1.0: progressive growing needs architecture dcgan, not residual"),
        (RESIDUAL | {"freeze_d": 5, "start": "runs/a"}, "`freeze_d` 5: D halves the side 4 times"),
        (RESIDUAL | {"g_multipliers": (8, 4, 2, 1)}, "`g_multipliers` 8 4 2 1: must have 5 numbers"),
        (RESIDUAL | {"d_multipliers": (1, 2, 4, 8)}, "`d_multipliers` 1 2 4 8: must have 5 numbers"),
        (RESIDUAL | {"width": 1024}, "the widest layer has 16 times as many channels, more than 8,192; give at most `width` 512"),
        ({"freeze_d": -1, "start": "runs/a"}, "`freeze_d` -1: must be at least 0"),
        ({"freeze_d": 5, "start": "runs/a"}, "`freeze_d` 5: D halves the side 4 times"),
        ({"freeze_d": 5, "start": "runs/a"}, "give at most 4"),
        ({"freeze_d": 1}, "`freeze_d` 1: random layers must be trained; give `start` with a trained network, or `freeze_d` 0"),
        ({"freeze_d": 1, "grow_kimg": 1.0}, "give `start` with a trained network and `grow_kimg` 0, or `freeze_d` 0"),
        ({"freeze_d": 1, "grow_kimg": 1.0, "start": "runs/a"}, "`grow_kimg` 0"),
        ({"coordinator": "host"}, "`coordinator` host"),
        ({"coordinator": "host:1234"}, "`processes` 1"),
        ({"processes": 2}, "`processes` 2"),
        ({"coordinator": "auto", "processes": 2}, "`processes` 2"),
        ({"processes": 0}, "`processes` 0"),
        ({"coordinator": "host:1234", "processes": 2, "process_id": 2}, "`process_id` 2"),
        ({"name": "../up"}, "`name` ../up"),
        ({"name": ".."}, "`name` .."),
    ],
)
def test_impossible_value_names_its_argument(changes, named):
    with pytest.raises(UserError) as error:
        check_config(replace(VALID, **changes))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", range(5))
def test_every_number_of_frozen_layers_up_to_all_is_accepted(count):
    check_config(replace(VALID, freeze_d=count, start="runs/a"))


@pytest.mark.parametrize(
    "size, nearest", [(33, "16 or 32"), (50, "32 or 64"), (100, "64 or 128"), (1, "16 or 32"), (9999, "128 or 256")]
)
def test_wrong_size_names_the_nearest_right_ones(size, nearest):
    with pytest.raises(UserError, match=nearest):
        check_config(replace(VALID, size=size))


# ---- Every field alone ----


def list_values_outside(field):
    """Returns the nearest values below and above a number's bounds."""
    bounds, is_whole = field.bounds, "int" in str(field.type)
    below = bounds.gt if bounds.ge is None else bounds.ge - 1 if is_whole else math.nextafter(bounds.ge, -math.inf)
    above = bounds.lt if bounds.le is None else bounds.le + 1 if is_whole else math.nextafter(bounds.le, math.inf)
    return below, above


def list_values_inside(field):
    """Returns the smallest and the largest number within the bounds."""
    bounds = field.bounds
    least = math.nextafter(bounds.gt, math.inf) if bounds.ge is None else bounds.ge
    return least, math.nextafter(bounds.lt, -math.inf) if bounds.le is None else bounds.le


BOUNDED = [name for name, field in FIELDS.items() if field.bounds]


def change(name, value):
    """Returns VALID with another value of one field. If the field is a length, it replaces the other lengths."""
    value = (value,) if "tuple" in str(FIELDS[name].type) else value
    return replace(VALID, **dict.fromkeys(LENGTHS) | {name: value} if name in LENGTHS else {name: value})


@pytest.mark.parametrize("side", [0, 1], ids=["below", "above"])
@pytest.mark.parametrize("name", BOUNDED)
def test_number_out_of_bounds_is_one_line(name, side):
    value = list_values_outside(FIELDS[name])[side]
    with pytest.raises(UserError) as error:
        check_config(change(name, value))
    line = str(error.value)
    assert line.startswith(f"`{name}` {value}: ") and "\n" not in line
    assert "nearest" in line if name == "size" else re.search(r"must be (at least|above) .* and (at most|below) ", line)


@pytest.mark.parametrize("side", [0, 1], ids=["least", "largest"])
@pytest.mark.parametrize("name", BOUNDED)
def test_number_in_bounds_is_not_refused_for_them(name, side):
    """It may still be refused for another reason: a combination of fields, or a size that is not a power of two."""
    try:
        check_config(change(name, list_values_inside(FIELDS[name])[side]))
    except UserError as error:
        assert "must be at least" not in str(error) and "must be above" not in str(error)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name in BOUNDED if "float" in str(FIELDS[name].type)])
def test_number_that_is_not_finite_is_one_line(name, value):
    with pytest.raises(UserError, match=f"^`{name}` {value}: give a finite number$"):
        check_config(change(name, value))


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"width": "8"}, "`width` '8': must be a whole number"),
        ({"size": "64"}, "`size` '64': must be a whole number"),
        ({"lr": None}, "`lr` None: must be a number"),
        ({"d_lr": "1"}, "`d_lr` '1': must be a number or None"),
        ({"crop": "center"}, "`crop` 'center': must be one of centre, squash, "),
        ({"flip": 1}, "`flip` 1: must be True or False"),
        ({"augment": ["color"]}, "`augment` ['color']: must be a tuple, each item one of color, translation, cutout"),
        ({"g_multipliers": (2.0, 1)}, "`g_multipliers` (2.0, 1): must be a tuple, each item a whole number"),
        ({"channels": 2}, "`channels` 2: must be one of 1, 3"),
    ],
    ids=str,
)
def test_value_of_another_type_is_one_line(changes, says):
    with pytest.raises(UserError) as error:
        check_config(replace(VALID, **changes))
    assert str(error.value).startswith(says) and "\n" not in str(error.value)
