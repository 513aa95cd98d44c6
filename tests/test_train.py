import json
import re

import filelock
import numpy as np
import pytest
import toy_run
from PIL import Image
from toy_run import (
    DATA,
    STEPS,
    copy_run,
    get_reference_run,
    get_refusal,
    hash_tree,
    read_metric_lines,
    run_command,
    train,
    train_toy,
)

from dcgan_jax import sample
from dcgan_jax.cli import parse_config
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.run import backend, session
from dcgan_jax.run.checkpoints import Checkpoints, list_steps
from dcgan_jax.run.figures import GAP_PX, REALS_SHOWN
from dcgan_jax.run.logs import Logs
from dcgan_jax.run.online_score import OnlineScorer
from dcgan_jax.run.workdir import read_config

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("signal_handlers_stay")]


@pytest.fixture
def run(tmp_path):
    """A copy of a finished run, which the test may change."""
    return copy_run(get_reference_run().run, tmp_path)


# ---- A run from its start to its end ----


def test_run_folder_explains_the_run():
    found = {path.name for path in get_reference_run().run.iterdir()}
    events = {name for name in found if name.startswith("events.out.tfevents.")}
    assert found - events == {
        "config.json",
        "environment.json",
        "data.json",
        "reals.png",
        "samples",
        "losses.png",
        "report.html",
        "metrics.jsonl",
        "checkpoints",
        "lock",
    }
    assert len(events) == 1


def test_grids_are_at_step_0_and_every_save():
    assert sorted(path.name for path in (get_reference_run().run / "samples").iterdir()) == [
        f"{step:08d}.png" for step in (0, 4, 8, 12)
    ]
    for path in (get_reference_run().run / "samples").iterdir():
        with Image.open(path) as file:
            assert file.size == (6 * (2 * 16 + 3 * GAP_PX),) * 2  # --grid-images 4, enlarged sixfold


def test_newest_three_checkpoints_are_kept():
    assert list_steps(get_reference_run().run) == [4, 8, 12]


def test_config_file_is_the_requested_config():
    requested = parse_config(["--workdir", str(get_reference_run().run.parent), *toy_run.FLAGS, "--steps", str(STEPS)])
    assert read_config(get_reference_run().run) == requested
    assert requested.run.name == "article"


def test_reals_png_is_twenty_training_images():
    """They are cropped and scaled like the input of the networks."""
    packed = pack_images(open_source(DATA), size=16, channels=3, crop="centre").images
    with Image.open(get_reference_run().run / "reals.png") as file:
        shown = np.asarray(file)[::6, ::6]
    side = 16 + GAP_PX
    assert shown.shape == (2 * side + GAP_PX, 10 * side + GAP_PX, 3)
    tiles = [shown[GAP_PX + i // 10 * side :, GAP_PX + i % 10 * side :][:16, :16] for i in range(REALS_SHOWN)]
    matches = [int(np.flatnonzero((packed == tile).all((1, 2, 3)))[0]) for tile in tiles if tile.min() < 255]
    assert len(set(matches)) == len(matches)
    assert len(matches) == REALS_SHOWN == 20  # more than one step's 2 x 8


def test_metrics_are_every_second_step_in_images():
    lines = read_metric_lines(get_reference_run().run)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(line["images"] == 16 * line["step"] for line in lines)
    for line in lines:
        assert {"d_loss", "g_loss", "d_real_hits", "d_fake_hits"} <= line.keys()
        assert all(np.isfinite(value) for value in line.values())


def test_data_facts_equal_the_packs():
    facts = json.loads((get_reference_run().run / "data.json").read_text())
    assert (facts["count"], facts["size"], facts["source"]["kind"]) == (85, 16, "drawn")


def test_training_output_matches_the_files():
    lines = get_reference_run().done.out.splitlines()
    assert (
        f"{get_reference_run().run}: article, 16 px, G 26,048 and D 449 parameters, 81 images, batch 8, 12 steps, 2 x cpu"
        in lines[0]
    )
    assert [line for line in lines if line.startswith("saved")] == [
        f"saved step {step}: {get_reference_run().run}/samples/{step:08d}.png" for step in (4, 8, 12)
    ]
    run = get_reference_run().run
    assert lines[-1] == f"done: 12 steps. Samples: {run}/samples/00000012.png; report: {run}/report.html"
    assert not get_reference_run().done.faults


# ---- The same command again ----


def test_finished_run_is_left_as_it_is(run, tmp_path):
    before = hash_tree(run)
    for steps in (STEPS, STEPS - 5):
        done = train_toy(tmp_path, steps=steps)
        assert (done.code, done.faults) == (0, [])
        assert done.out == f"{run} is complete: step 12 of {steps}. More: give a larger --steps, --epochs or --kimg\n"
    assert hash_tree(run) == before


# ---- Two at once ----


def test_second_process_on_a_run_is_refused(run, tmp_path):
    lock = filelock.FileLock(run / "lock")
    with lock:
        before = hash_tree(run)
        line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", STEPS + 4)
        assert re.search(rf"{run} is being trained by another process \(process \d+ on .*\): wait for it", line)
        assert hash_tree(run) == before
    assert train_toy(tmp_path, steps=STEPS + 1).code == 0


def test_run_taken_over_is_not_saved_again(run, tmp_path, monkeypatch):
    """Another process can take over a run on a filesystem that ignores locks."""
    real = Logs.write

    def write(self, steps, values):
        if steps.stop == STEPS + 2:
            environment = json.loads((run / "environment.json").read_text())
            (run / "environment.json").write_text(json.dumps(environment | {"process": "process 1 on elsewhere"}))
        real(self, steps, values)

    monkeypatch.setattr(Logs, "write", write)
    line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", STEPS + 4)
    assert "another process (process 1 on elsewhere) now trains this run; this process stops without saving" in line
    assert list_steps(run) == [4, 8, 12]


# ---- Memory ----


def test_freed_memory_is_released_around_saves(run, tmp_path, monkeypatch):
    """Before a checkpoint, and after the first step of the process or after a save. Else the peak grows over the first saves."""
    events = []

    def record(owner, name, event):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *arguments: (real(*arguments), events.append(event))[0])

    record(session, "_compile_steps", "compiled")
    record(backend, "release_memory", "release")
    record(Checkpoints, "save", "save")
    record(Logs, "write", "step")
    assert train_toy(tmp_path, "--save-every-steps", 3, steps=STEPS + 6).code == 0
    segment = ["release", "step", "step", "step", "release", "save"]
    assert events[events.index("compiled") + 1 :] == segment * 2


# ---- A damaged checkpoint ----


def test_broken_newest_checkpoint_changes_no_result(tmp_path):
    """A run with a broken newest checkpoint ends with the same state as an undamaged run."""
    run = copy_run(get_reference_run().run, tmp_path)
    file = max((run / "checkpoints" / "12").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    done = train_toy(tmp_path)
    assert done.code == 0
    assert "warning: the checkpoint of step 12 is broken (" in done.out
    assert "resumes from step 8" in done.out
    ours, theirs = (toy_run.read_state(each, STEPS) for each in (run, get_reference_run().run))
    for path in ours:
        assert np.array_equal(ours[path], theirs[path]), path
    assert read_metric_lines(run) == read_metric_lines(get_reference_run().run)
    assert (run / "broken-checkpoints" / "12").is_dir()


# ---- Scores while training ----


def test_scoring_changes_nothing_else_keeps_the_best(tmp_path, monkeypatch):
    """The checkpoint with the best score is kept."""
    # The first score compiles, so that the second would exceed its share of a run as short as this one.
    monkeypatch.setattr(OnlineScorer, "has_time", lambda self: True)
    flags = ["--score-every-kimg", 0.032, "--score-count", 60, "--keep-checkpoints", 1]
    done = train_toy(tmp_path, *flags)
    assert (done.code, done.faults) == (0, []), done
    run = tmp_path / "article"
    assert read_metric_lines(run) == read_metric_lines(get_reference_run().run)
    lines = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]  # steps of 2 x 8 images
    assert all(line["by"] == "sliced-wasserstein" and line["count"] == 60 for line in lines)
    best = min(lines, key=lambda line: line["value"])["step"]
    assert list_steps(run) == sorted({best, 12})
    assert f"score of step 4: {lines[1]['value']:.2f} by sliced-wasserstein, N 60" in done.out
    sentence = f"Best score in training, smaller is better: {lines[best // 2 - 1]['value']:.2f} at step {best}"
    assert sentence in (run / "report.html").read_text()
    assert (run / "scores.png").exists()
    done = run_command(sample, "--run", run, "--step", "best", "--count", 4, "--out", tmp_path / "faces.npy")
    assert f"of step {best}" in done.out
    again = train_toy(tmp_path, *flags, steps=STEPS + 2)  # resumes, and keeps the best checkpoint
    assert again.code == 0
    last = json.loads((run / "scores.jsonl").read_text().splitlines()[-1])
    assert list_steps(run) == sorted({last["step"], best if last["value"] >= lines[best // 2 - 1]["value"] else last["step"]})
