"""Inversion: the samples that are nearest to a photo."""

import json

import numpy as np
import pytest
from exploring import assert_near, explore_run, get_cells, run_explore
from PIL import Image
from toy_run import copy_run, get_reference_run

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


@pytest.mark.parametrize(
    "used, box", [("soumith", (30, 40, 168, 178)), ("centre", (0, 20, 178, 198)), ("drawn", (0, 20, 178, 198))]
)
def test_photo_is_cropped_as_the_images_were(tmp_path, used, box):
    """data.json says how, not the run's crop, which other images than CelebA do not get. A square is not cropped."""
    run = copy_run(get_reference_run().run, tmp_path)
    for file, change in (("config.json", {"crop": "carpedm20"}), ("data.json", {"crop": used})):
        (run / file).write_text(json.dumps(json.loads((run / file).read_text()) | change))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8))
    gan = dcgan_jax.load(run)
    for image, cut in ((photo, box), (photo.resize((16, 16)), None), (photo.resize((40, 40)), None)):
        image.save(tmp_path / "photo.png")
        seen = gan.invert(tmp_path / "photo.png", starts=1, iterations=1).rows[0][1][0]
        assert_near(seen, np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR, box=cut)))


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
