"""Image sets for scores: samples of a run, a file or a folder, and the real images to compare with."""

import json
import shutil

import numpy as np
import pytest
from evaluations import evaluate_run
from PIL import Image
from toy_run import DATA, get_refusal, run_command

from dcgan_jax import evaluate, sample

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


def test_runs_of_other_crops_do_not_compare(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"crop": "torch"}))
    assert "do not compare" in get_refusal(evaluate, "--run", run, "--against", other, "--count", 20)


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
