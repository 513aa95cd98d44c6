import json
import re
import signal

import filelock
import jax
import numpy as np
import pytest
import tiny
import toy_run
from PIL import Image
from toy_run import DATA, STEPS, call, copied, files, metrics, refusal, train, train_toy, whole

from dcgan_jax import sample
from dcgan_jax.cli import parse_config
from dcgan_jax.config import UserError
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.run import setup
from dcgan_jax.run.checkpoints import list_steps
from dcgan_jax.run.figures import GAP_PX, REALS_SHOWN
from dcgan_jax.run.logs import Logs, read_warnings
from dcgan_jax.run.workdir import read_config

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path):
    """A finished run of one's own."""
    return copied(whole().run, tmp_path)


@pytest.fixture(autouse=True)
def handlers_are_given_back():
    """Whoever calls train() from a notebook keeps their Ctrl-C, however the run ends."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# ---- A run from its start to its end ----


def test_a_run_leaves_all_that_explains_it():
    found = {path.name for path in whole().run.iterdir()}
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


def test_a_grid_is_drawn_before_the_first_step_and_at_every_save():
    assert sorted(path.name for path in (whole().run / "samples").iterdir()) == [f"{step:08d}.png" for step in (0, 4, 8, 12)]
    for path in (whole().run / "samples").iterdir():
        with Image.open(path) as file:
            assert file.size == (6 * (2 * 16 + 3 * GAP_PX),) * 2  # --grid-images 4, enlarged sixfold


def test_the_newest_three_checkpoints_are_kept():
    assert list_steps(whole().run) == [4, 8, 12]


def test_the_config_that_is_written_is_the_one_that_was_asked():
    asked = parse_config(["--workdir", str(whole().run.parent), *toy_run.FLAGS, "--steps", str(STEPS)])
    assert read_config(whole().run) == asked
    assert asked.run.name == "article"


def test_reals_are_twenty_training_pictures_as_the_networks_see_them():
    packed = pack_images(open_source(DATA), size=16, channels=3, crop="centre").images
    with Image.open(whole().run / "reals.png") as file:
        shown = np.asarray(file)[::6, ::6]
    side = 16 + GAP_PX
    assert shown.shape == (2 * side + GAP_PX, 10 * side + GAP_PX, 3)
    tiles = [shown[GAP_PX + i // 10 * side :, GAP_PX + i % 10 * side :][:16, :16] for i in range(REALS_SHOWN)]
    matches = [int(np.flatnonzero((packed == tile).all((1, 2, 3)))[0]) for tile in tiles if tile.min() < 255]
    assert len(set(matches)) == len(matches)
    assert len(matches) == REALS_SHOWN == 20  # though a step of 2 x 8 has fewer


def test_metrics_are_of_every_second_step_and_count_images():
    lines = metrics(whole().run)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(line["images"] == 16 * line["step"] for line in lines)
    for line in lines:
        assert {"d_loss", "g_loss", "d_real_hits", "d_fake_hits"} <= line.keys()
        assert all(np.isfinite(value) for value in line.values())


def test_data_facts_are_those_of_the_pack():
    facts = json.loads((whole().run / "data.json").read_text())
    assert (facts["count"], facts["size"], facts["source"]["kind"]) == (85, 16, "drawn")


def test_what_is_said_is_what_there_is():
    lines = whole().done.out.splitlines()
    assert f"{whole().run}: article, 16 px, G 13,640 and D 849 parameters, 81 pictures, batch 8, 12 steps, 2 x cpu" in lines[0]
    assert [line for line in lines if line.startswith("saved")] == [
        f"saved step {step}: {whole().run}/samples/{step:08d}.png" for step in (4, 8, 12)
    ]
    assert lines[-1] == f"done: 12 steps. Faces: {whole().run}/samples/00000012.png; all of it: {whole().run}/report.html"
    assert not whole().done.faults


def test_the_default_data_are_said_with_the_way_to_celeba(tmp_path, monkeypatch):
    """The 20,000 faces need not be drawn for it: what comes after the line is stopped."""

    def stops(*args):
        raise UserError("enough")

    monkeypatch.setattr(setup, "open_source", stops)
    done = toy_run.call(train, "--workdir", tmp_path)
    assert done.code == 2
    assert re.match(r"data: 20,000 drawn faces, the default\. For CelebA: --data ", done.out)


# ---- The same command again ----


def test_a_finished_run_says_so_and_is_left_as_it_is(run, tmp_path):
    before = files(run)
    for steps in (STEPS, STEPS - 5):
        done = train_toy(tmp_path, steps=steps)
        assert (done.code, done.faults) == (0, [])
        assert done.out == f"{run} is complete: step 12 of {steps}. More: give a larger --steps, --epochs or --kimg\n"
    assert files(run) == before


# ---- Signals ----


def test_a_length_in_epochs_is_steps_to_a_step_size_that_falls_with_it(tmp_path):
    asked = (train, "--workdir", tmp_path, *toy_run.FLAGS, "--lr-decay", "linear", "--lr-decay-share", 0.5)
    assert call(*asked, "--epochs", 0.8).code == 0  # of five steps
    by_steps = call(*asked, "--steps", 4, "--name", "other")
    assert by_steps.code == 0
    run = tmp_path / "article"
    ours, theirs = toy_run.state_at(run, 4), toy_run.state_at(tmp_path / "other", 4)
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))
    assert f"{run} is complete: step 4 of 4" in call(*asked, "--epochs", 0.8).out
    assert "steps 4 there, 8 asked. Continue it with --steps 4" in refusal(*asked, "--epochs", 1.6)


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_last_save(run, tmp_path, monkeypatch):
    real = Logs.write

    def twice(self, steps, values):
        if steps.stop == STEPS + 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        real(self, steps, values)

    monkeypatch.setattr(Logs, "write", twice)
    done = train_toy(tmp_path, steps=STEPS + 4)
    assert done.code == 130
    assert "Traceback" not in done.err
    assert list_steps(run) == [4, 8, 12]


# ---- Numbers that are none ----


@pytest.mark.parametrize("at", [14, 16])  # inside an interval; at a save, which reads its own numbers first
def test_a_nan_in_the_numbers_stops_and_is_never_saved(run, tmp_path, monkeypatch, at):
    real = Logs.write

    def poisoned(self, steps, values):
        real(self, steps, values | {"d_loss": np.where(np.arange(steps.start, steps.stop) + 1 == at, np.nan, values["d_loss"])})

    monkeypatch.setattr(Logs, "write", poisoned)
    before = files(run / "checkpoints")
    line = refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20)
    assert f"{run}: step {at}: d_loss is nan (first leaf: none yet); the checkpoint of step 12 is kept. Try a lower --lr" in line
    assert files(run / "checkpoints") == before
    assert not (run / "samples" / "00000016.png").exists()
    assert [numbers["step"] for numbers in metrics(run)] == list(range(2, at, 2))


def test_a_nan_in_the_state_that_no_loss_shows_is_never_saved(run, tmp_path, monkeypatch):
    real = setup.make_train_steps

    def poisoned(*args):
        def steps(state, batches):
            state, numbers = real(*args)(state, batches)
            nan = jax.numpy.where(state.step == 16, jax.numpy.nan, 0.0)
            return state.replace(d_params=jax.tree.map(lambda leaf: leaf + nan, state.d_params)), numbers

        return steps

    monkeypatch.setattr(setup, "make_train_steps", poisoned)
    before = files(run / "checkpoints")
    line = refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20)
    assert "step 16: d_params/down1/kernel holds a NaN or an infinity; the checkpoint of step 12 is kept" in line
    assert files(run / "checkpoints") == before
    assert not (run / "samples" / "00000016.png").exists()
    monkeypatch.undo()
    assert train_toy(tmp_path, steps=14).code == 0  # and it goes on from there
    assert [numbers["step"] for numbers in metrics(run)] == list(range(2, 15, 2))


TOO_HIGH = ("--lr", 1000, "--loss", "wasserstein", "--gp-weight", 1000)


def test_a_learning_rate_far_too_high_is_one_line(tmp_path):
    line = refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20, *TOO_HIGH)
    assert re.search(r"step [1-4]: .* (is (nan|inf|-inf)|holds a NaN or an infinity).*; the checkpoint of step 0 is kept", line)
    assert list_steps(tmp_path / "article") == [0]


def test_rolling_back_is_bounded_and_recorded(tmp_path):
    arguments = (*toy_run.FLAGS, "--steps", 20, *TOO_HIGH, "--on-nan", "rollback", "--max-rollbacks", 2)
    done = call(train, "--workdir", tmp_path, *arguments)
    assert done.code == 2
    assert done.out.count("went back to step 0 and on with other random numbers") == 2
    assert "after 2 rollbacks; the checkpoint of step 0 is kept" in done.err
    assert [kind for _, kind, _ in read_warnings(tmp_path / "article")] == ["rolled-back"] * 2


def poisoned_once(monkeypatch, at):
    """The numbers of a step are a NaN the first time it is reached."""
    real, times = Logs.write, []

    def write(self, steps, values):
        if steps.stop == at and not times:
            times.append(at)
            values = values | {"g_loss": np.full(len(steps), np.nan)}
        real(self, steps, values)

    monkeypatch.setattr(Logs, "write", write)


def test_a_rollback_goes_on_from_the_last_save_with_other_numbers(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poisoned_once(patch, STEPS + 3)
        done = train_toy(tmp_path, "--on-nan", "rollback", steps=STEPS + 4)
    assert done.code == 0, done
    ((step, kind, words),) = read_warnings(run)
    assert (step, kind) == (STEPS, "rolled-back")
    assert "step 15: g_loss is nan (first leaf: none yet): went back to step 12" in words
    straight = copied(whole().run, tmp_path / "straight")
    assert train_toy(tmp_path / "straight", steps=STEPS + 4).code == 0
    ours, theirs = (toy_run.state_at(each, STEPS + 4) for each in (run, straight))
    assert any((ours[path] != theirs[path]).any() for path in ours if path.startswith("g_params"))
    assert (ours["key"] != theirs["key"]).any()


def test_a_run_killed_after_its_rollback_goes_on_as_if_it_had_not_been(run, tmp_path, monkeypatch):
    killed = copied(run, tmp_path / "killed")
    with monkeypatch.context() as patch:
        poisoned_once(patch, STEPS + 3)
        assert train_toy(tmp_path, "--on-nan", "rollback", steps=STEPS + 4).code == 0
    # What a kill after the record and before the next save leaves.
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    end = next(at for at, line in enumerate(lines) if "rolled-back" in line) + 1
    (killed / "metrics.jsonl").write_text("".join(lines[:end]))
    assert train_toy(tmp_path / "killed", "--on-nan", "rollback", steps=STEPS + 4).code == 0
    ours, theirs = (toy_run.state_at(each, STEPS + 4) for each in (run, killed))
    for path in ours:
        assert np.array_equal(ours[path], theirs[path]), path
    assert metrics(run) == metrics(killed)


def test_a_rollback_past_a_broken_checkpoint_leaves_no_line_twice(run, tmp_path, monkeypatch):
    data = next(file for file in (run / "checkpoints" / str(STEPS) / "generator").rglob("*") if file.is_file())
    poisoned_once(monkeypatch, STEPS + 3)
    really = Logs.write

    def breaking(self, steps, values):
        if steps.stop == STEPS + 3 and data.exists():  # the first time
            data.write_bytes(b"")
        really(self, steps, values)

    monkeypatch.setattr(Logs, "write", breaking)
    done = train_toy(tmp_path, "--on-nan", "rollback", steps=STEPS + 4)
    assert done.code == 0 and "set aside" in done.out
    ((step, kind, words),) = read_warnings(run)
    assert (step, kind) == (8, "rolled-back") and "went back to step 8" in words
    assert [row["step"] for row in metrics(run) if "d_loss" in row] == [*range(2, STEPS + 5, 2)]


# ---- Trouble ----


def test_trouble_is_judged_by_the_runs_own_pictures_and_told_everywhere(tmp_path, monkeypatch):
    asked, words = [], "G has collapsed: two samples differ by 1.0 grey levels"

    def found(metrics, samples, reals, on_reals, on_held_out, on_samples, loss):
        asked.append((metrics.get("step", [0])[-1], samples, reals, on_reals, on_held_out, on_samples, loss))
        return {"g-collapsed": words} if asked[-1][0] >= 8 else {}

    monkeypatch.setattr("dcgan_jax.run.observe.diagnose", found)
    done = train_toy(tmp_path)
    run = tmp_path / "article"
    assert done.out.count(f"warning: step 8: {words}\n") == 1 and done.out.count("warning: ") == 1  # once, when it is new
    assert "[g-collapsed]" in done.out.splitlines()[-3]  # where the bar is
    assert read_warnings(run) == [(8, "g-collapsed", words), (12, "g-collapsed", words)]
    assert words in (run / "report.html").read_text()
    assert [step for step, *_ in asked] == [0, 4, 8, 12]
    _, samples, reals, on_reals, on_held_out, on_samples, loss = asked[-1]
    facts = json.loads((run / "data.json").read_text())
    assert samples.shape == (4, 16, 16, 3) and samples.dtype == reals.dtype == np.uint8 and loss == "bce"
    assert (len(on_reals), len(on_held_out), len(on_samples)) == (len(reals), facts["count"] // 20, 4)
    assert np.isfinite(np.concatenate([on_reals, on_held_out, on_samples])).all()


# ---- Debug ----


def test_debug_names_the_layer_where_the_nan_comes_from(tmp_path):
    line = refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20, *TOO_HIGH, "--d-steps", 1, "--debug")
    assert re.search(r"\(first in .*[DG]'s \w+( on (reals|fakes))?( in the penalty)?, in [DG]'s update \(\w+\)\)", line), line


def test_debug_gives_the_same_run(tmp_path):
    with tiny.fused_loops():  # its program keeps the state before the step, which the other one's takes for the new one
        done, plain = train_toy(tmp_path / "debug", "--debug", steps=4), train_toy(tmp_path / "plain", steps=4)
    assert plain.code == 0 and "debug: every step is looked at" in done.out
    ours, theirs = (toy_run.state_at(tmp_path / each / "article", 4) for each in ("debug", "plain"))
    for path in ours:
        assert np.array_equal(ours[path], theirs[path]), path


# ---- Two at once ----


def test_a_second_process_on_a_run_is_refused_and_changes_nothing(run, tmp_path):
    lock = filelock.FileLock(run / "lock")
    with lock:
        before = files(run)
        line = refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", STEPS + 4)
        assert re.search(rf"{run} is being trained by another process \(process \d+ on .*\): wait for it", line)
        assert files(run) == before
    assert train_toy(tmp_path, steps=STEPS + 1).code == 0


def test_a_run_that_another_process_took_over_is_not_saved_again(run, tmp_path, monkeypatch):
    """As it can be on a filesystem that ignores locks."""
    real = Logs.write

    def write(self, steps, values):
        if steps.stop == STEPS + 2:
            environment = json.loads((run / "environment.json").read_text())
            (run / "environment.json").write_text(json.dumps(environment | {"process": "process 1 on elsewhere"}))
        real(self, steps, values)

    monkeypatch.setattr(Logs, "write", write)
    line = refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", STEPS + 4)
    assert "another process (process 1 on elsewhere) has taken this run over; this one stops without saving" in line
    assert list_steps(run) == [4, 8, 12]


# ---- A damaged checkpoint ----


def test_a_run_whose_newest_checkpoint_is_broken_ends_as_if_it_were_not(tmp_path):
    run = copied(whole().run, tmp_path)
    file = max((run / "checkpoints" / "12").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    done = train_toy(tmp_path)
    assert done.code == 0
    assert "warning: the checkpoint of step 12 is broken (" in done.out
    assert "goes on from step 8" in done.out
    ours, theirs = (toy_run.state_at(each, STEPS) for each in (run, whole().run))
    for path in ours:
        assert np.array_equal(ours[path], theirs[path]), path
    assert metrics(run) == metrics(whole().run)
    assert (run / "broken-checkpoints" / "12").is_dir()


# ---- Scores while training ----


def test_scores_change_nothing_else_and_the_best_checkpoint_is_kept(tmp_path):
    flags = ["--score-every-kimg", 0.032, "--score-count", 60, "--score-share", 1, "--keep-checkpoints", 1]
    done = train_toy(tmp_path, *flags)
    assert (done.code, done.faults) == (0, []), done
    run = tmp_path / "article"
    assert metrics(run) == metrics(whole().run)
    lines = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]  # of 2 x 8 pictures each
    assert all(line["by"] == "sliced-wasserstein" and line["count"] == 60 for line in lines)
    best = min(lines, key=lambda line: line["value"])["step"]
    assert list_steps(run) == sorted({best, 12})
    assert f"score of step 4: {lines[1]['value']:.2f} by sliced-wasserstein, N 60" in done.out
    said = f"Best score in training, smaller is better: {lines[best // 2 - 1]['value']:.2f} at step {best}"
    assert said in (run / "report.html").read_text()
    assert (run / "scores.png").exists()
    done = call(sample, "--run", run, "--step", "best", "--count", 4, "--out", tmp_path / "faces.npy")
    assert f"of step {best}" in done.out
    again = train_toy(tmp_path, *flags, steps=STEPS + 2)  # goes on, and keeps what was best
    assert again.code == 0
    last = json.loads((run / "scores.jsonl").read_text().splitlines()[-1])
    assert list_steps(run) == sorted({last["step"], best if last["value"] >= lines[best // 2 - 1]["value"] else last["step"]})


def test_a_score_that_cannot_be_is_said_before_the_first_step(tmp_path):
    asked = ["--workdir", tmp_path, *toy_run.FLAGS, "--steps", 4, "--score-every-kimg", 1]
    assert "--score-count 2000" in refusal(train, *asked)
    assert "--score-by none.py:f: none.py: No such file" in refusal(train, *asked, "--score-count", 60, "--score-by", "none.py:f")
    assert "there is no score" in refusal(sample, "--run", whole().run, "--step", "best")
