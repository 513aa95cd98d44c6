"""Opening the images that a run was trained on, or other images."""

import json

import pytest
from evaluations import evaluate_run
from image_files import celeba
from toy_run import copy_run, get_reference_run, get_refusal

from dcgan_jax import evaluate
from dcgan_jax.config import Config, replace
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.run.training_images import find_used_crop, open_training_images

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path):
    return copy_run(get_reference_run().run, tmp_path)


def test_changed_training_images_are_refused(run):
    facts = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(facts | {"pixels": "another"}))
    line = get_refusal(evaluate, "--run", run, "--count", 20)
    assert "no longer contains the images" in line
    assert "--data" in line
    assert not (run / "scores.jsonl").exists()


def test_own_images_can_be_named_and_have_their_split(tmp_path):
    celeba(tmp_path)
    config = replace(Config(), size=16, data=str(tmp_path / "img_align_celeba"), split="train", crop="torch")
    pack = pack_images(open_source(config.data.data, "train"), size=16, channels=3, crop="torch")
    run = tmp_path / "run"
    run.mkdir()
    (run / "data.json").write_text(json.dumps(pack.index))
    found = [open_training_images(run, config, data) for data in ("", config.data.data, f"{tmp_path}/./img_align_celeba/")]
    assert {one.index["fingerprint"] for one in found} == {pack.index["fingerprint"]}


@pytest.mark.parametrize(
    "used, crop",
    [("soumith", "soumith"), ("centre", "centre"), ("drawn", None), ("nonsense", "torch"), (["a"], "torch"), (None, "torch")],
)
def test_used_crop_is_that_of_data_json(tmp_path, used, crop):
    config = replace(Config(), crop="torch")
    assert find_used_crop(tmp_path, config) == "torch"
    facts = {"fingerprint": "", "count": 1, "crop": used, "source": {"name": ""}}
    (tmp_path / "data.json").write_text(json.dumps(facts))
    assert find_used_crop(tmp_path, config) == crop


def test_other_images_are_all_used_unless_split(run):
    """The split of the run's own images does not apply to other images."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"split": "train"}))
    _, (line,) = evaluate_run(run, "--count", 30, "--data", "drawn:60")
    assert line["real"] == "60 drawn faces"
    assert "--split" in get_refusal(evaluate, "--run", run, "--count", 30, "--data", "drawn:60", "--split", "valid")
