"""Inversion: the samples that are nearest to a photo."""

import numpy as np
import pytest
from exploring import assert_near, explore_run, get_cells, run_explore
from PIL import Image
from toy_run import get_reference_run

import dcgan_jax

pytestmark = pytest.mark.integration


def test_generated_photo_is_inverted(tmp_path, gan):
    face = gan.sample(77)[0]
    Image.fromarray(face).save(tmp_path / "face.png")
    sheet, numbers, output = explore_run(tmp_path, "invert", "--photo", tmp_path / "face.png", "--starts", 9, "--iterations", 60)
    assert_near(get_cells(sheet, 0, 10, 1)[:1], face[None])
    assert len(numbers["losses"]) == 9 and numbers["losses"] == sorted(numbers["losses"])
    assert sorted(numbers["start_of"]) == list(range(9))
    assert numbers["losses"][0] < numbers["loss_of_untouched_seeds"] / 3
    assert np.median(numbers["losses_before"]) == pytest.approx(numbers["loss_of_untouched_seeds"])
    assert (np.array(numbers["losses"]) < numbers["losses_before"]).all()
    assert_near(get_cells(sheet, 0, 10, 1)[1:2], gan.images(np.float32(numbers["latents"][:1])))
    assert "nearest face" in output


def test_conditional_run_inverts_with_its_condition(tmp_path, conditional):
    gan = dcgan_jax.load(conditional)
    Image.fromarray(gan.sample(77, {"Male": 1, "Smiling": 0})[0]).save(tmp_path / "face.png")
    sheet, numbers, _ = explore_run(
        tmp_path,
        "invert",
        "--photo",
        tmp_path / "face.png",
        "--starts",
        9,
        "--iterations",
        40,
        "--condition",
        "Male=1,Smiling=0",
        run=conditional,
    )
    assert numbers["losses"][0] < numbers["loss_of_untouched_seeds"]
    labels = gan.labels([0], {"Male": 1, "Smiling": 0})
    assert_near(get_cells(sheet, 0, 10, 1)[1:2], gan.images(np.float32(numbers["latents"][:1]), labels))


def test_unlike_photo_gives_a_warning(tmp_path):
    checks = np.indices((16, 16)).sum(0) % 2 * 255
    Image.fromarray(checks.astype(np.uint8)).save(tmp_path / "checks.png")
    done = run_explore(
        "invert",
        "--run",
        get_reference_run().run,
        "--photo",
        tmp_path / "checks.png",
        "--iterations",
        5,
        "--out",
        tmp_path / "a.png",
    )
    assert done.code == 0 and len(done.faults) == 1
    assert "checks.png: the generator has no image close to it" in done.faults[0]
