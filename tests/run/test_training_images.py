"""Opening the images that a run was trained on, or other images."""

import json

import pytest
from evaluations import evaluate_run
from toy_run import copy_run, get_reference_run, get_refusal

from dcgan_jax import evaluate

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


def test_other_images_are_all_used_unless_split(run):
    """The split of the run's own images does not apply to other images."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"split": "train"}))
    _, (line,) = evaluate_run(run, "--count", 30, "--data", "drawn:60")
    assert line["real"] == "60 drawn faces"
    assert "--split" in get_refusal(evaluate, "--run", run, "--count", 30, "--data", "drawn:60", "--split", "valid")
