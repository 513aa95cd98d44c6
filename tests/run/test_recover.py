import re

import jax
import numpy as np
import pytest
import tiny
import toy_run
from toy_run import STEPS, copy_run, get_reference_run, get_refusal, hash_tree, read_metric_lines, run_command, train, train_toy

from dcgan_jax.run import session, setup
from dcgan_jax.run.checkpoints import list_steps
from dcgan_jax.run.logs import Logs, read_warnings

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("at", [14, 16])  # between two saves; at a save, which checks its own metrics first
def test_nan_metric_stops_and_is_never_saved(run, tmp_path, monkeypatch, at):
    real = Logs.write

    def poisoned(self, steps, values):
        real(self, steps, values | {"d_loss": np.where(np.arange(steps.start, steps.stop) + 1 == at, np.nan, values["d_loss"])})

    monkeypatch.setattr(Logs, "write", poisoned)
    before = hash_tree(run / "checkpoints")
    line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20)
    assert (
        f"{run}: step {at}: d_loss is nan (first affected leaf: none yet); the checkpoint of step 12 is kept. Try --on-nan"
        in line
    )
    assert hash_tree(run / "checkpoints") == before
    assert not (run / "samples" / "00000016.png").exists()
    assert [numbers["step"] for numbers in read_metric_lines(run)] == list(range(2, at, 2))


def test_nan_state_without_nan_loss_is_never_saved(run, tmp_path, monkeypatch):
    real = session.make_train_steps

    def poisoned(*args):
        def steps(state, batches, schedule_steps):
            state, numbers = real(*args)(state, batches, schedule_steps)
            nan = jax.numpy.where(state.step == 16, jax.numpy.nan, 0.0)
            return state.replace(d_params=jax.tree.map(lambda leaf: leaf + nan, state.d_params)), numbers

        return steps

    monkeypatch.setattr(session, "make_train_steps", poisoned)
    before = hash_tree(run / "checkpoints")
    line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20)
    assert "step 16: d_params/down1/kernel contains a NaN or an infinity; the checkpoint of step 12 is kept" in line
    assert hash_tree(run / "checkpoints") == before
    assert not (run / "samples" / "00000016.png").exists()
    monkeypatch.undo()
    assert train_toy(tmp_path, steps=14).code == 0  # a run without the NaN resumes from there
    assert [numbers["step"] for numbers in read_metric_lines(run)] == list(range(2, 15, 2))


TOO_HIGH = ("--base-px", 4, "--init", "normal", "--lr", 1000, "--loss", "wasserstein", "--gp-weight", 1000)


def test_far_too_high_learning_rate_is_one_line(tmp_path):
    line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20, *TOO_HIGH)
    assert re.search(
        r"step [1-4]: .* (is (nan|inf|-inf)|contains a NaN or an infinity).*; the checkpoint of step 0 is kept", line
    )
    assert list_steps(tmp_path / "article") == [0]


def test_rollbacks_are_bounded_and_recorded(tmp_path):
    arguments = (*toy_run.FLAGS, "--steps", 20, *TOO_HIGH, "--on-nan", "rollback", "--max-rollbacks", 2)
    done = run_command(train, "--workdir", tmp_path, *arguments)
    assert done.code == 2
    assert done.out.count("went back to step 0, continued with other random numbers") == 2
    assert "after 2 rollbacks; the checkpoint of step 0 is kept. Try a lower --lr" in done.err
    assert "more --max-rollbacks" in done.err and "--on-nan" not in done.err  # it is in use already
    assert [kind for _, kind, _ in read_warnings(tmp_path / "article")] == ["rolled-back"] * 2


def test_rollback_without_a_checkpoint_is_one_line(tmp_path, monkeypatch):
    real = setup.make_state

    def poisoned(plan):
        state = real(plan)
        return state.replace(d_params=jax.tree.map(lambda leaf: leaf + np.nan, state.d_params))

    monkeypatch.setattr(setup, "make_state", poisoned)
    line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20, "--on-nan", "rollback")
    assert "step 0: d_params/down1/kernel contains a NaN or an infinity; there is no checkpoint to return to" in line


def poisoned_once(monkeypatch, at):
    """Makes the metrics of a step NaN the first time that the run reaches it."""
    real, times = Logs.write, []

    def write(self, steps, values):
        if steps.stop == at and not times:
            times.append(at)
            values = values | {"g_loss": np.full(len(steps), np.nan)}
        real(self, steps, values)

    monkeypatch.setattr(Logs, "write", write)


def test_rollback_resumes_the_last_save_with_a_new_key(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poisoned_once(patch, STEPS + 3)
        done = train_toy(tmp_path, "--on-nan", "rollback", steps=STEPS + 4)
    assert done.code == 0, done
    ((step, kind, words),) = read_warnings(run)
    assert (step, kind) == (STEPS, "rolled-back")
    assert "step 15: g_loss is nan (first affected leaf: none yet): went back to step 12" in words
    straight = copy_run(get_reference_run().run, tmp_path / "straight")
    assert train_toy(tmp_path / "straight", steps=STEPS + 4).code == 0
    ours, theirs = (toy_run.read_state(each, STEPS + 4) for each in (run, straight))
    assert any((ours[path] != theirs[path]).any() for path in ours if path.startswith("g_params"))
    assert (ours["key"] != theirs["key"]).any()


def test_run_killed_after_a_rollback_resumes_exactly(run, tmp_path, monkeypatch):
    killed = copy_run(run, tmp_path / "killed")
    with monkeypatch.context() as patch:
        poisoned_once(patch, STEPS + 3)
        assert train_toy(tmp_path, "--on-nan", "rollback", steps=STEPS + 4).code == 0
    # The state of a run that is killed after the rollback is recorded and before the next save.
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    end = next(at for at, line in enumerate(lines) if "rolled-back" in line) + 1
    (killed / "metrics.jsonl").write_text("".join(lines[:end]))
    assert train_toy(tmp_path / "killed", "--on-nan", "rollback", steps=STEPS + 4).code == 0
    ours, theirs = (toy_run.read_state(each, STEPS + 4) for each in (run, killed))
    for path in ours:
        assert np.array_equal(ours[path], theirs[path]), path
    assert read_metric_lines(run) == read_metric_lines(killed)


def test_rollback_past_a_broken_checkpoint_is_clean(run, tmp_path, monkeypatch):
    """No step is logged twice."""
    data = next(file for file in (run / "checkpoints" / str(STEPS) / "generator").rglob("*") if file.is_file())
    poisoned_once(monkeypatch, STEPS + 3)
    really = Logs.write

    def breaking(self, steps, values):
        if steps.stop == STEPS + 3 and data.exists():  # the first time
            data.write_bytes(b"")
        really(self, steps, values)

    monkeypatch.setattr(Logs, "write", breaking)
    done = train_toy(tmp_path, "--on-nan", "rollback", steps=STEPS + 4)
    assert done.code == 0 and "moved to" in done.out
    ((step, kind, words),) = read_warnings(run)
    assert (step, kind) == (8, "rolled-back") and "went back to step 8" in words
    assert [row["step"] for row in read_metric_lines(run) if "d_loss" in row] == [*range(2, STEPS + 5, 2)]


def test_debug_names_the_layer_of_the_nan(tmp_path, monkeypatch):
    real = setup.make_state

    def enlarged(plan):  # finite weights, whose products overflow
        state = real(plan)
        return state.replace(d_params=jax.tree.map(lambda leaf: leaf * np.float32(1e25), state.d_params))

    monkeypatch.setattr(setup, "make_state", enlarged)
    line = get_refusal(train, "--workdir", tmp_path, *toy_run.FLAGS, "--steps", 20, "--d-steps", 1, "--debug")
    assert "(first in D's head on reals, in D's update (dot_general))" in line


def test_debug_gives_the_same_run(tmp_path, monkeypatch):
    # A function of its own, because the shared one may have a program with other emitters already.
    monkeypatch.setattr(session, "make_train_steps", session.make_train_steps.__wrapped__)
    few = ("--d-steps", 1, "--no-flip", "--d-dropout", 0)  # the default emitters compile slowly
    with tiny.fused_loops():  # with --debug the program does not donate the state, so it is another program
        debug, plain = (
            train_toy(tmp_path / name, *few, *more, steps=2) for name, more in (("debug", ["--debug"]), ("plain", []))
        )
    assert plain.code == 0 and "debug: every step is checked" in debug.out
    ours, theirs = (toy_run.read_state(tmp_path / each / "article", 2) for each in ("debug", "plain"))
    for path in ours:
        assert np.array_equal(ours[path], theirs[path]), path
