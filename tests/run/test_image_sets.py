"""Image sets for scores: samples of a run, a file or a folder, and the real images to compare with."""

import json
import shutil

import numpy as np
import pytest
from evaluations import evaluate_run
from image_files import celeba
from PIL import Image
from toy_run import DATA, get_refusal, run_command

from dcgan_jax import evaluate, sample
from dcgan_jax.config import Config, UserError, replace
from dcgan_jax.run import image_sets
from dcgan_jax.run.image_sets import ImageSet
from dcgan_jax.run.training_images import find_used_crop

pytestmark = pytest.mark.integration


def test_other_real_images_can_be_named(run):
    _, (line,) = evaluate_run(run, "--count", 30, "--data", "drawn:50")
    assert line["real"] == "50 drawn faces"
    assert line["real_fingerprint"] != json.loads((run / "data.json").read_text())["fingerprint"]


def test_samples_score_the_same_from_file_and_folder(run, net, tmp_path):
    """A zip of the folder scores the same."""
    _, own = evaluate_run(run, "--count", 60, "--features", net)
    data = ["--data", DATA, "--count", 60, "--features", net]
    for out in ("faces.npy", "faces/"):
        assert run_command(sample, "--run", run, "--count", 60, "--out", tmp_path / out).code == 0
    shutil.make_archive(tmp_path / "faces", "zip", tmp_path / "faces")
    for out in ("faces.npy", "faces/", "faces.zip"):
        done = run_command(evaluate, "--run", tmp_path / out, *data, "--out", tmp_path / f"{out.strip('/')}.jsonl")
        assert (done.code, done.faults) == (0, []), done
        lines = [json.loads(line) for line in (tmp_path / f"{out.strip('/')}.jsonl").read_text().splitlines()]
        assert [line["values"] for line in lines] == [line["values"] for line in own]
        assert [line["positions"] for line in lines] == [[0, 59]] * 2


def change_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_crops_that_were_used_decide_if_runs_compare(run, tmp_path):
    """A published crop has no effect on images other than CelebA, so the requested crops may differ."""
    other = shutil.copytree(run, tmp_path / "other")
    change_json(other / "config.json", crop="torch")
    assert run_command(evaluate, "--run", run, "--against", other, "--count", 20).code == 0
    for path, crop in ((run, "centre"), (other, "torch")):
        change_json(path / "data.json", crop=crop)
    assert run_command(evaluate, "--run", run, "--against", other, "--count", 20).code == 0  # equal pixels
    change_json(other / "data.json", pixels="others")
    line = get_refusal(evaluate, "--run", run, "--against", other, "--count", 20)
    assert "crop torch" in line and "crop centre" in line and "do not compare" in line


# ---- Real images ----


def open_celeba(tmp_path, *sets, **changes):
    """Opens the real images of CelebA's layout for the sets. Returns: their crop and split."""
    place = str(tmp_path / "img_align_celeba")
    found = image_sets.open_real_images(list(sets), **({"data": place, "split": None, "crop": None} | changes))
    return found.index["crop"], found.index["source"]["split"]


def make_run(path, used, **changes):
    """Makes the set of a run whose data.json has the crop `used`."""
    path.mkdir()
    (path / "data.json").write_text(json.dumps({"fingerprint": "", "count": 1, "crop": used, "source": {"name": ""}}))
    config = replace(Config(), size=16, **changes)
    return make_set(path, config=config, crop=find_used_crop(path, config))


def make_set(path, **changes):
    return ImageSet(str(path), {}, (16, 3), lambda positions: np.zeros(0), 0, 9, **changes)


def test_any_run_decides_crop_and_split_of_real_images(tmp_path):
    place = str(celeba(tmp_path) / "img_align_celeba")
    images = make_set(tmp_path / "images")
    assert open_celeba(tmp_path, images) == ("centre", "all")
    assert open_celeba(tmp_path, images, crop="torch", split="valid") == ("torch", "valid")
    run = make_run(tmp_path / "run", "soumith", crop="soumith", data=place, split="train")
    assert open_celeba(tmp_path, images, run) == open_celeba(tmp_path, run, images) == ("soumith", "train")
    elsewhere = make_run(tmp_path / "elsewhere", "centre", crop="torch", split="train")  # trained on images other than CelebA
    assert open_celeba(tmp_path, elsewhere) == ("centre", "all")
    with pytest.raises(UserError, match="`crop` torch: .*elsewhere have the crop centre"):
        open_celeba(tmp_path, images, elsewhere, crop="torch")
    drawn = make_run(tmp_path / "drawn", "drawn", data="drawn:85")
    assert open_celeba(tmp_path, drawn, run) == ("soumith", "all")
    assert open_celeba(tmp_path, drawn, crop="squash") == ("squash", "all")


def test_images_against_a_run_use_its_training_images(run, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((20, 16, 16, 3), np.uint8))
    flags = ("--against", run, "--count", 20, "--out", tmp_path / "scores.jsonl")
    done = run_command(evaluate, "--run", tmp_path / "images.npy", *flags)
    assert (done.code, done.faults) == (0, []), done
    first, second = (json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines())
    assert first["real"] == second["real"] == "85 drawn faces" and second["step"] == 12


def test_sorted_folder_is_not_scored_by_its_beginning(tmp_path):
    """Two classes, one after the other: a random half of them is like another, the first half is not."""
    rng = np.random.default_rng(0)
    classes = [rng.integers(low, low + 60, (100, 16, 16, 3), dtype=np.uint8) for low in (0, 190)]
    np.save(tmp_path / "sorted.npy", np.concatenate(classes))
    (tmp_path / "net.py").write_text("def mean(images):\n    return images.mean((1, 2))\n")
    flags = {"data": tmp_path / "sorted.npy", "features": f"{tmp_path / 'net.py'}:mean", "count": 60, "repeats": 2}
    found = evaluate(tmp_path / "sorted.npy", **flags)
    values = [score.value for score in found.scores if score.network]
    assert 0 < max(values) < 2000 and values[0] != values[1]  # 9,000 or more if one of them were of one class


@pytest.mark.parametrize("side, near", [(200, 128), (20, 16), (8, 16), (300, 256)])
def test_images_of_another_size_are_accepted_once_resized(tmp_path, side, near):
    image = Image.new("RGB", (side, side))
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=rf"of {side} px; .* image.resize\(\({near}, {near}\)\)") as fault:
        image_sets.open_images(str(tmp_path), channels=3, count=1, seed=0)
    assert f"magick mogrify -resize {near}x{near} *.png" in str(fault.value)
    image.resize((near, near)).save(tmp_path / "a.png")
    assert image_sets.open_images(str(tmp_path), channels=3, count=1, seed=0).shape == (near, 3)


def test_images_must_be_square_equal_and_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.zeros((10, 16, 16, 3), np.uint8))
    assert "give --data" in get_refusal(evaluate, "--run", "few.npy", "--count", 10)
    assert "has 10 images" in get_refusal(evaluate, "--run", "few.npy", "--count", 20, "--data", DATA)
    assert "is no run" in get_refusal(evaluate, "--run", "few.npy", "--count", 10, "--data", DATA, "--neighbours")
    (tmp_path / "mixed").mkdir()
    for side, name in ((16, "a"), (20, "b")):
        Image.new("RGB", (side, side)).save(tmp_path / "mixed" / f"{name}.png")
    assert "b.png: is 20 x 20, not 16 x 16" in get_refusal(evaluate, "--run", "mixed", "--count", 2, "--data", DATA)
    (tmp_path / "mixed" / "b.png").write_bytes(b"no picture")
    assert "b.png: not an image" in get_refusal(evaluate, "--run", "mixed", "--count", 2, "--data", DATA)
