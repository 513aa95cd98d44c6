"""Results of explorations: a sheet of images, and numbers for JSON."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.explorations.results import AttributeDirections, Exploration, Inversion, Morph, Truncation, Walk

ROWS = [("0 to 1", np.zeros((2, 16, 16, 3), np.uint8))]


def test_numbers_are_json_without_the_images():
    morph = Morph("a", ROWS, ["", ""], np.array([0, 1], np.uint32), np.array([0.0, 1.0]))
    assert json.loads(json.dumps(morph.numbers)) == {"seeds": [0, 1], "shares": [0.0, 1.0]}


def test_numpy_numbers_are_json():
    walk = Walk("a", ROWS, [], np.array([0, 1]), 4, np.int64(2))
    assert json.loads(json.dumps(walk.numbers)) == {"seeds": [0, 1], "frames": 4, "frames_each": 2}
    truncation = Truncation("a", ROWS, [], np.array([3]), (np.float32(0.5),), [45.25], 256)
    assert json.loads(json.dumps(truncation.numbers))["truncations"] == [0.5]


def test_attribute_numbers_have_null_for_nan():
    own = dict.fromkeys(field.name for field in dataclasses.fields(AttributeDirections)[3:])
    arrays = {"changes_sd": np.eye(2), "directions": np.eye(2), "probe_balanced_accuracy": np.array([0.98765, np.nan])}
    result = AttributeDirections("a", ROWS, [], **own | arrays | {"counts": (13, 7), "attributes": ["Male", "Young"]}).numbers
    assert result["probe_balanced_accuracy"] == [0.9877, None]
    assert "counts" not in result
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("loss, is_close", [(0.99, True), (1.01, False)])
def test_inversion_is_close_below_a_third_of_the_seeds_loss(loss, is_close):
    own = dict.fromkeys(field.name for field in dataclasses.fields(Inversion)[3:])
    result = Inversion("a", ROWS, [], **own | {"losses": np.array([loss, 9.0]), "loss_of_untouched_seeds": 3.0})
    assert result.is_close == is_close


def test_sheet_is_shown_by_notebooks_except_of_a_walk():
    exploration = Exploration("a", ROWS, [])
    with Image.open(io.BytesIO(exploration._repr_png_())) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), exploration.make_sheet())
    assert Walk._repr_png_ is None
