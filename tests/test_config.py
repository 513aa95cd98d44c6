"""The settings: round trips, and a line that names the flag for each impossible value."""

import dataclasses
import json

import pytest

from dcgan_jax.config import FREE_TO_CHANGE, GROUP_OF, Config, UserError, check, count_total_steps, flatten, replace, unflatten

VALID = replace(Config(), steps=10)


def test_replace_finds_the_group_and_leaves_the_rest():
    changed = replace(VALID, width=8, lr=1e-3, seed=5)
    assert (changed.nets.width, changed.optimizer.lr, changed.run.seed) == (8, 1e-3, 5)
    assert replace(changed, width=64, lr=2e-4, seed=0) == VALID
    assert VALID.nets.width == 64


def test_replace_refuses_a_name_that_is_no_field():
    with pytest.raises(KeyError, match="widht"):
        replace(VALID, widht=8)


def test_no_two_groups_share_a_field_name():
    assert len(GROUP_OF) == sum(len(dataclasses.fields(getattr(VALID, group))) for group in set(GROUP_OF.values()))
    assert set(GROUP_OF) >= FREE_TO_CHANGE


@pytest.mark.parametrize(
    "config",
    [
        VALID,
        replace(VALID, augment=("color", "cutout"), g_multipliers=(8, 4, 2, 1), d_lr=4e-4, epochs=1.5, steps=None, flip=True),
    ],
)
def test_a_config_survives_json(config):
    assert unflatten(json.loads(json.dumps(flatten(config))), "config.json") == config


def test_fields_that_a_file_lacks_keep_their_defaults():
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
def test_a_file_with_an_unknown_field_or_a_wrong_type_is_refused_in_one_line(values, named):
    with pytest.raises(UserError) as error:
        unflatten(values, "runs/a/config.json")
    assert "runs/a/config.json" in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_whole_numbers_are_accepted_where_a_float_is_meant():
    assert unflatten({"lr": 1, "epochs": 3}, "config.json").optimizer.lr == 1


def test_the_valid_config_passes():
    check(VALID)


@pytest.mark.parametrize(
    "changes, flag",
    [
        ({"size": 33}, "--size 33"),
        ({"size": 8}, "--size 8"),
        ({"size": 512}, "--size 512"),
        ({"size": 0}, "--size 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"width": 0}, "--width 0"),
        ({"latent_dim": 0}, "--latent-dim 0"),
        ({"lr": 0.0}, "--lr 0.0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"lr": float("inf")}, "--lr inf"),
        ({"d_lr": -1e-4}, "--d-lr -0.0001"),
        ({"d_steps": 0}, "--d-steps 0"),
        ({"g_steps": 0}, "--g-steps 0"),
        ({"log_every_steps": 0}, "--log-every-steps 0"),
        ({"save_every_steps": 0}, "--save-every-steps 0"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0"),
        ({"grid_images": 0}, "--grid-images 0"),
        ({"steps_per_dispatch": -1}, "--steps-per-dispatch -1"),
        ({"steps": -5}, "--steps -5"),
        ({"steps": 0}, "--steps 0"),
        ({"steps": None, "epochs": 0.0}, "--epochs 0.0"),
        ({"steps": None, "kimg": -1.0}, "--kimg -1.0"),
        ({"steps": None}, "none given"),
        ({"epochs": 1.0}, "steps and epochs given"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**32}, f"--seed {2**32}"),
        ({"beta1": 1.0}, "--beta1 1.0"),
        ({"beta2": -0.1}, "--beta2 -0.1"),
        ({"bn_momentum": 1.0}, "--bn-momentum 1.0"),
        ({"d_dropout": 1.0}, "--d-dropout 1.0"),
        ({"real_label": 0.0}, "--real-label 0.0"),
        ({"real_label": 1.5}, "--real-label 1.5"),
        ({"gp_weight": -1.0}, "--gp-weight -1.0"),
        ({"r1_gamma": -1.0}, "--r1-gamma -1.0"),
        ({"r2_gamma": -1.0}, "--r2-gamma -1.0"),
        ({"gamma_init_std": -0.1}, "--gamma-init-std -0.1"),
        ({"bn_epsilon": -1e-5}, "--bn-epsilon -1e-05"),
        ({"l2": -1.0}, "--l2 -1.0"),
        ({"adam_eps": -1.0}, "--adam-eps -1.0"),
        ({"ema_half_life_kimg": -1.0}, "--ema-half-life-kimg -1.0"),
        ({"ema_ramp": -1.0}, "--ema-ramp -1.0"),
        ({"penalty_every_steps": 0, "r1_gamma": 1.0}, "--penalty-every-steps 0"),
        ({"penalty_every_steps": 4}, "--penalty-every-steps 4"),
        ({"penalty_noise": -0.1, "r1_gamma": 1.0}, "--penalty-noise -0.1"),
        ({"penalty_noise": 1e-4, "r1_gamma": 1.0}, "--penalty-noise 0.0001: must be 0 or at least 0.001"),
        ({"penalty_noise": 0.01, "gp_weight": 1.0}, "--penalty-noise 0.01"),
        ({"augment": ("color",), "augment_target": 0.6, "augment_most": 0.0}, "--augment-most 0"),
        ({"augment": ("color",), "augment_target": 0.6, "augment_most": 1.1}, "--augment-most 1.1"),
        ({"augment": ("color",), "augment_most": 0.3}, "--augment-most 0.3"),
        ({"augment": ("color",), "g_output": "sigmoid"}, "--augment color"),
        ({"lr_warmup_kimg": -1.0}, "--lr-warmup-kimg -1.0"),
        ({"lr_decay_share": 0.5}, "--lr-decay-share 0.5"),
        ({"lr_decay": "linear", "lr_decay_share": 1.5}, "--lr-decay-share 1.5"),
        ({"lr_decay": "linear", "lr_decay_share": 0.0}, "--lr-decay-share 0.0"),
        ({"clip_norm": -1.0}, "--clip-norm -1.0"),
        ({"penalty_every_steps": 3, "r1_gamma": 1.0, "updates": "alternating"}, "--penalty-every-steps 3"),
        ({"g_modulation": True, "head_norm": "none", "size": 16, "base_px": 8}, "--g-modulation True"),
        ({"box_kernels": True, "kernel": 5}, "--box-kernels True"),
        ({"g_modulation": True, "g_norm": "none", "head_norm": "none"}, "--g-modulation True"),
        ({"updates": "alternating", "g_steps": 2}, "--updates alternating"),
        ({"updates": "alternating", "d_steps": 2}, "--updates alternating"),
        ({"g_multipliers": (8, 4)}, "--g-multipliers 8 4"),
        ({"d_multipliers": (1, 2, 4, 0)}, "--d-multipliers 1 2 4 0"),
        ({"g_last_kernel": 5}, "--g-last-kernel 5"),
        ({"g_refine": 9}, "--g-refine 9: must be at most 8"),
        ({"d_refine": -1}, "--d-refine -1: must not be negative"),
        ({"d_refine": 1, "d_norm": "spectral"}, "--d-refine 1"),
        ({"g_refine": 1, "g_last_kernel": 5, "g_multipliers": (8, 4, 2, 1, 1)}, "--g-refine 1"),
        ({"g_last_kernel": 5, "g_multipliers": (8, 4, 2, 1)}, "--g-multipliers 8 4 2 1"),
        ({"coordinator": "host"}, "--coordinator host"),
        ({"coordinator": "host:1234"}, "--processes 1"),
        ({"processes": 2}, "--processes 2"),
        ({"coordinator": "auto", "processes": 2}, "--processes 2"),
        ({"processes": 0}, "--processes 0"),
        ({"coordinator": "host:1234", "processes": 2, "process_id": 2}, "--process-id 2"),
        ({"name": "../up"}, "--name ../up"),
        ({"name": ".."}, "--name .."),
    ],
)
def test_an_impossible_value_is_refused_in_one_line_that_names_its_flag(changes, flag):
    with pytest.raises(UserError) as error:
        check(replace(VALID, **changes))
    assert flag in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "size, nearest", [(33, "16 or 32"), (50, "32 or 64"), (100, "64 or 128"), (1, "16 or 32"), (9999, "128 or 256")]
)
def test_a_wrong_size_is_answered_with_the_nearest_right_ones(size, nearest):
    with pytest.raises(UserError, match=nearest):
        check(replace(VALID, size=size))


@pytest.mark.parametrize(
    "length, expected",
    [
        ({"steps": 7}, 7),
        ({"epochs": 1.0}, 31),  # of 1000 pictures, 31 whole batches of 32: the last 8 are dropped
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


def test_ds_own_batches_count_as_images():
    config = replace(Config(), batch_size=32, d_steps=5, epochs=1.0)
    assert config.images_per_step == 160
    assert count_total_steps(config, 1000) == 6
    assert count_total_steps(replace(config, epochs=None, kimg=1.0), 1000) == 6
