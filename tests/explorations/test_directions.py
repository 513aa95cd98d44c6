"""Latent directions of largest variation, and of attributes."""

import re

import numpy as np
import pytest
import toy_run
from exploring import SIDE, assert_near, explore_run, get_cells, get_explore_refusal
from toy_run import get_reference_run, refuse_column

import dcgan_jax
from dcgan_jax import api
from dcgan_jax.explorations import directions
from dcgan_jax.gan import latents

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("method", ["principal", "factorised"])
def test_strips_move_the_sample_both_ways(tmp_path, gan, method):
    sheet, numbers, _ = explore_run(tmp_path, "directions", "--method", method, "--count", 3, "--seeds", "2,4")
    faces = [get_cells(sheet, row, 7, 6) for row in range(6)]
    assert_near(faces[0][3:4], gan.sample(2))
    assert_near(faces[5][3:4], gan.sample(4))
    found = np.array(numbers["directions"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
    assert numbers["shares_of_variance"] == sorted(numbers["shares_of_variance"], reverse=True)
    points, nets = gan.latents([4]), gan.config.nets
    assert_near(faces[5][:1], gan.images(latents.move_along(points, found[2].astype(np.float32), np.float32([-3]), nets)[0]))


def test_each_attribute_has_a_direction_and_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(directions, "FIT_SAMPLES", 200)
    monkeypatch.setattr(directions, "EFFECT_SAMPLES", 20)
    sheet, numbers, output = explore_run(tmp_path, "attributes", "--attributes", "Smiling", "Male")
    names, changes = numbers["attributes"], np.array(numbers["changes_sd"])
    assert np.array(numbers["directions"]).shape == (len(names), 100) and changes.shape == (len(names),) * 2
    assert len(numbers["probe_balanced_accuracy"]) == len(names)
    assert np.diag(changes).mean() > 0.5  # each attribute increases along its direction
    assert re.search(r"^Smiling +\d\.\d{3} +-?\d+\.\d\d  \w+ -?\d+\.\d\d$", output, re.M)
    assert sheet.height > 2 * SIDE


@pytest.fixture
def few(monkeypatch):
    """Fits directions to few faces, because their quality does not matter here."""
    monkeypatch.setattr(directions, "FIT_SAMPLES", 60)
    monkeypatch.setattr(directions, "EFFECT_SAMPLES", 4)


def test_run_of_one_level_has_directions(tmp_path, few):
    assert toy_run.train_toy(tmp_path, "--base-px", "8", "--no-tensorboard", steps=4).code == 0
    for command in ("attributes", "directions"):
        explore_run(tmp_path, command, run=tmp_path / "article")


def test_constant_attributes_are_left_out(tmp_path, few):
    arguments = ("--data", "drawn:20")  # 13 of them are used for the fit
    _, numbers, output = explore_run(tmp_path, "attributes", *arguments)
    left = numbers["left_out"]
    assert left and not {*left} & {*numbers["attributes"]}
    assert f"left out: {', '.join(left)}: all or none of the 13 images" in output
    line = get_explore_refusal(
        "attributes", "--run", get_reference_run().run, "--out", tmp_path / "a.png", *arguments, "--attributes", left[0]
    )
    assert f"--attributes {left[0]}: all or none of the 13 images that the probe is fitted to have it" in line


def test_column_that_is_not_understood_stops_nothing(tmp_path, few, monkeypatch):
    monkeypatch.setattr(directions, "open_training_images", refuse_column(directions.open_training_images))
    _, numbers, _ = explore_run(tmp_path, "attributes", "--attributes", "Smiling")
    assert "Smiling" in numbers["attributes"]


def test_equal_samples_have_no_directions(tmp_path, few, monkeypatch):
    monkeypatch.setattr(api.TrainedGAN, "images", lambda run, points, labels=None: np.zeros((len(points), 16, 16, 3), np.uint8))
    assert "D sees no difference between the samples of step 12" in get_explore_refusal(
        "attributes", "--run", get_reference_run().run, "--out", tmp_path / "a.png"
    )


def test_conditional_run_has_attribute_directions(tmp_path, few, conditional):
    """It has directions of the attributes that are not in its condition."""
    flags = ("--seeds", "3,5", "--attributes", "Young", "--condition", "Male=1")
    sheet, numbers, _ = explore_run(tmp_path, "attributes", *flags, run=conditional)
    assert_near(get_cells(sheet, 1, 7, 2)[3:4], dcgan_jax.load(conditional).sample(5, {"Male": 1}))
    assert numbers["condition"] == "Male=1"
