"""The command `explore`: errors are one line. The results of each exploration are tested in explorations/."""

import os

import pytest
from exploring import get_explore_refusal, run_explore
from toy_run import copy_run, get_reference_run, hash_tree

from dcgan_jax import api, explore

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mroph"], ["mroph", "did you mean morph"]),
        (["zzz"], ["there are truncate"]),
        (["--tyro-print-completion", "bash"], ["--tyro-print-completion: give a command first: truncate"]),
        (["morph", "--seeds", "3"], ["--seeds 3", "at least two"]),
        (["morph", "--seeds", "x,2"], ["--seeds", "'x'"]),
        (["morph", "--seeds", "0-5000"], ["at most 1,000"]),
        (["morph", "--columns", "1"], ["--columns 1"]),
        (["morph", "--out", "a.jpg"], ["--out a.jpg", ".png"]),
        (["walk", "--out", "a.png"], [".webp or .gif or .mp4"]),
        (["walk", "--frames-each", "0"], ["--frames-each 0"]),
        (["walk", "--frames-a-second", "0"], ["--frames-a-second 0"]),
        (["walk", "--out", "a.gif", "--frames-a-second", "0.001"], ["--frames-a-second 0.001", "0.01 to 100"]),
        (["truncate", "--truncations", "0"], ["--truncations 0"]),
        (["truncate", "--truncations", "nan"], ["--truncations nan"]),
        (["arithmetic", "--equation", "1 -- 2"], ["--equation"]),
        (["arithmetic", "--equation", ""], ["--equation"]),
        (["arithmetic", "--noise-seed", "-1"], ["--noise-seed -1", "0 or more"]),
        (["directions", "--count", "101"], ["--count 101", "100"]),
        (["attributes", "--attributes", "Smile"], ["--attributes Smile", "Smiling"]),
        (["attributes", "--data", "drawn:19"], ["--data: 19 drawn faces: too few", "at least 20"]),
        (["invert"], ["--photo ''", "not a file"]),
        (["invert", "--photo", "nowhere.png"], ["nowhere.png"]),
        (["invert", "--photo", __file__], ["test_explore.py", "not an image"]),
        (["invert", "--photo", __file__, "--starts", "0"], ["--starts 0"]),
        (["morph", "--condition", "Smiling=1"], ["--condition Smiling", "trained without --condition"]),
        (["morph", "--condition", "Smiling"], ["--condition Smiling"]),
        (["morph", "--step", "5"], ["--step 5"]),
        (["morph", "--sedes", "3"], ["--sedes", "--seeds"]),
    ],
)
def test_bad_flags_are_one_line(tmp_path, arguments, says):
    command, *flags = arguments
    line = get_explore_refusal(command, "--run", copy_run(get_reference_run().run, tmp_path), *flags)
    for word in says:
        assert word in line, line


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("folder.png", "folder.png is a folder"),
        ("other.png", "other.json is a folder"),
        ("file/a.png", "--out"),
        (f"{'a' * 251}.png", "File name too long"),
    ],
    ids=["folder", "numbers", "in a file", "long"],
)
def test_unwritable_out_is_refused_before_the_work(tmp_path, monkeypatch, out, says):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "other.json").mkdir()
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(api.TrainedGAN, "morph", pytest.fail)
    before = hash_tree(tmp_path)
    line = get_explore_refusal("morph", "--run", get_reference_run().run, "--out", tmp_path / out)
    assert f"--out {tmp_path / out}: " in line and says in line
    assert hash_tree(tmp_path) == before


def test_pipe_is_refused_before_the_work(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.json")
    monkeypatch.setattr(api.TrainedGAN, "morph", pytest.fail)
    line = get_explore_refusal("morph", "--run", get_reference_run().run, "--out", tmp_path / "pipe.png")
    assert "Is not a regular file; give a place that can be written" in line


def test_help_names_each_command():
    for arguments in ((), ("--help",)):
        done = run_explore(*arguments)
        assert done.code in (0, None)
        for name in explore.COMMANDS:
            assert name in done.out
