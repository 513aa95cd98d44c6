"""A length in minutes. No test asserts a time: the number of steps is injected, or computed from given speeds."""

import importlib
import json
import re
import signal
import types

import pytest
import toy_run
from numpy.testing import assert_array_equal
from toy_run import (
    FLAGS,
    GROW_TWICE,
    STEPS,
    TraceCounter,
    get_reference_run,
    get_refusal,
    get_three_stage_run,
    read_metric_lines,
    read_state,
    run_command,
    train,
)

from dcgan_jax import api, report
from dcgan_jax.config import Config, replace
from dcgan_jax.run import run_length, session
from dcgan_jax.run.checkpoints import list_steps
from dcgan_jax.run.run_length import START_AND_END_S, Timing, count_steps, divide_time, list_shares

GROW = ("--size", 32, "--width", 8, "--base-px", 8)  # as in test_initial_weights.py
IMAGES = 16  # of a step of the toy run


# ---- How many steps fit ----


def predict_s(steps, timing, save_every_steps):
    """The time of a run, counted save by save."""
    saves = len({0, steps} | set(range(0, steps, save_every_steps)))
    return START_AND_END_S + steps * timing.step_s + saves * timing.save_s


@pytest.mark.parametrize("step_s", [0.0004, 0.03, 2.5])
@pytest.mark.parametrize("save_s", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("steps_per_dispatch", [1, 10])
def test_as_many_steps_as_fit(step_s, save_s, steps_per_dispatch):
    """At most one save and one dispatch more would not fit."""
    timing, left_s = Timing(step_s, save_s), 600.0
    steps = count_steps(replace(Config(), save_every_steps=500), timing, left_s, steps_per_dispatch)
    assert steps % steps_per_dispatch == 0
    assert predict_s(steps, timing, 500) <= left_s < predict_s(steps + steps_per_dispatch, timing, 500) + save_s + 1e-6


@pytest.mark.parametrize("left_s", [-5.0, 0.0, START_AND_END_S + 1.0])
def test_shortest_run_is_one_step(left_s):
    assert count_steps(Config(), Timing(1.0, 1.0), left_s, 10) == 1


def test_scores_leave_less_time_for_steps():
    timing, config = Timing(0.1, 0.0), replace(Config(), score_share=0.5)
    without, scored = (count_steps(replace(config, score_every_kimg=every), timing, 1000.0, 1) for every in (0.0, 1.0))
    assert scored < 0.51 * without


@pytest.mark.parametrize("count", range(1, 6))
def test_all_stages_fit_into_the_time(count):
    """If each starts as slowly as the first, and they train for as long as they may."""
    all_s, passed_s, prepare_s, trained_s = 600.0, 100.0, 20.0, []
    for stage in range(count):
        passed_s += prepare_s
        trained_s.append(divide_time(all_s, passed_s, prepare_s, list_shares(count)[stage:]))
        passed_s += trained_s[-1]
    assert passed_s == pytest.approx(all_s)
    assert [one_s / sum(trained_s) for one_s in trained_s] == pytest.approx(list_shares(count))


def test_low_resolution_stages_divide_their_share_in_the_same_way():
    assert list_shares(1) == (1,) and list_shares(2) == pytest.approx((0.4, 0.6))
    for count in range(2, 6):
        *before, last = list_shares(count)
        assert last == pytest.approx(0.6)
        assert before == pytest.approx([0.4 * share for share in list_shares(count - 1)])


def test_later_stage_in_a_new_process_has_its_share_only():
    assert divide_time(600.0, 5.0, 1.0, (0.6,)) == pytest.approx(0.6 * 600)
    assert divide_time(600.0, 5.0, 1.0, (0.24, 0.6)) == pytest.approx(0.24 * 600)
    assert divide_time(600.0, 5.0, 1.0, (0.16, 0.24, 0.6)) == pytest.approx(0.16 * (600 - 5 - 2))
    assert divide_time(600.0, 5.0, 1.0, (1.0,)) == pytest.approx(595)


# ---- Runs ----


def refuse_to_choose(*_):
    raise AssertionError("the length was chosen again")


@pytest.fixture
def give_steps(monkeypatch):
    """Sets the numbers of steps that the next runs choose, in order. Real steps are timed before."""

    def give(*steps):
        waiting = list(steps)
        monkeypatch.setattr(run_length, "count_steps", lambda *_: waiting.pop(0) if waiting else refuse_to_choose())

    return give


def train_minutes(parent, *arguments, minutes=0.01):
    return run_command(train, "--workdir", parent, *FLAGS, "--minutes", minutes, *arguments)


def read_settings(run):
    return json.loads((run / "config.json").read_text())


def assert_equal_runs(one, other, step):
    ours, theirs = read_state(one, step), read_state(other, step)
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        assert_array_equal(leaf, theirs[path], err_msg=path)
    assert read_metric_lines(one) == read_metric_lines(other)


@pytest.mark.integration
def test_timed_save_is_one_after_training(tmp_path, give_steps, monkeypatch):
    """A save before the first step is shorter, because it uses fewer latents."""
    give_steps(1)
    real, steps = session.make_programs, []

    def make_programs(plan):
        programs = real(plan)

        def renew_statistics(state):
            steps.append(int(state.step))
            return programs.renew_statistics(state)

        return programs._replace(renew_statistics=renew_statistics)

    monkeypatch.setattr(session, "make_programs", make_programs)
    assert train_minutes(tmp_path).code == 0
    assert steps[0] > 0 and steps[1:] == [0, 1]  # the timed one; those of the run


@pytest.mark.integration
def test_run_in_minutes_equals_one_of_its_length(tmp_path, give_steps):
    """Bit for bit: the timed steps leave no trace. Each program is compiled once. The same command then says that it is done."""
    give_steps(STEPS)
    with TraceCounter() as traces:
        done = train_minutes(tmp_path)
    assert done.code == 0, done
    assert traces.counts == {"make_train_steps": 1, "make_recalibrate": 1, "check_finite": 1}
    run = tmp_path / "article"
    assert_equal_runs(run, get_reference_run().run, STEPS)
    assert f"0.01 minutes: {STEPS * IMAGES} images of 16 px at " in done.out
    assert read_settings(run) | {"minutes": 0.01, "kimg": STEPS * IMAGES / 1000, "steps": None} == read_settings(run)
    assert f"{run} is complete: step {STEPS} of {STEPS}" in train_minutes(tmp_path).out
    assert f"--kimg {STEPS * IMAGES / 1000}" in (run / "report.html").read_text()
    assert "--minutes" not in (run / "report.html").read_text()


@pytest.mark.integration
@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_learning_rate_decays_over_the_chosen_length(tmp_path, give_steps, decay):
    """Over the whole run, so that every step depends on the length."""
    give_steps(6)
    flags = ("--lr-decay", decay, "--no-tensorboard")
    assert train_minutes(tmp_path / "minutes", *flags).code == 0
    assert run_command(train, "--workdir", tmp_path / "kimg", *FLAGS, "--kimg", 6 * IMAGES / 1000, *flags).code == 0
    assert_equal_runs(tmp_path / "minutes" / "article", tmp_path / "kimg" / "article", 6)
    assert run_command(train, "--workdir", tmp_path / "minutes", *FLAGS, "--kimg", 6 * IMAGES / 1000, *flags).code == 0


@pytest.mark.integration
def test_stopped_run_keeps_its_length(tmp_path, give_steps):
    give_steps(STEPS)
    with toy_run.send_signals_after(5, signal.SIGTERM):
        stopped = train_minutes(tmp_path)
    assert re.search("run the same command again to resume: python -m dcgan_jax.train .*--minutes 0.01 ", stopped.out)
    assert list_steps(tmp_path / "article")[-1] < STEPS
    resumed = train_minutes(tmp_path)  # chooses no length: give_steps has none left
    assert resumed.code == 0 and "resumes from step" in resumed.out
    assert_equal_runs(tmp_path / "article", get_reference_run().run, STEPS)


@pytest.mark.integration
def test_run_killed_while_it_times_chooses_again(tmp_path, give_steps, monkeypatch):
    """Until then, a report shows the minutes, and another length may be given."""
    with monkeypatch.context() as patch:
        patch.setattr(run_length, "time_steps", lambda *_: signal.raise_signal(signal.SIGINT))
        assert train_minutes(tmp_path, minutes=3).code == 130
    run = tmp_path / "article"
    assert read_settings(run)["kimg"] is None and not list_steps(run)
    page = tmp_path / "page.html"
    assert run_command(report, run, "--out", page).code == 0
    assert "step 0, of 3 minutes" in page.read_text()
    give_steps(STEPS)
    assert train_minutes(tmp_path).code == 0
    assert_equal_runs(run, get_reference_run().run, STEPS)


@pytest.mark.integration
def test_kimg_extends_a_run_in_minutes(tmp_path, give_steps):
    give_steps(4)
    assert train_minutes(tmp_path).code == 0
    assert api.load(tmp_path / "article").step == 4
    assert toy_run.train_toy(tmp_path).code == 0
    assert_equal_runs(tmp_path / "article", get_reference_run().run, STEPS)
    refusal = get_refusal(train, "--workdir", tmp_path, *FLAGS, "--minutes", 3)
    assert f"steps was {STEPS}, is now minutes 3.0. Resume it with --steps {STEPS}," in refusal


@pytest.mark.integration
def test_other_minutes_are_refused(tmp_path, give_steps):
    give_steps(4)
    assert train_minutes(tmp_path).code == 0
    refusal = get_refusal(train, "--workdir", tmp_path, *FLAGS, "--minutes", 3)
    assert "minutes was 0.01, is now 3.0. Resume it with --minutes 0.01," in refusal


# ---- Progressive growing ----


@pytest.mark.slow
@pytest.mark.integration
def test_each_of_three_stages_times_its_own_steps(tmp_path, give_steps, monkeypatch):
    """It equals a run with all lengths, also if it is stopped before the second stage and before the third."""
    choose = run_length.choose_length
    for waiting, steps in ((1, 3), (0, 2)):  # stages after the one that is not reached; steps of the one before it

        def stop(plan, later_count, began_s, waiting=waiting):
            if later_count == waiting:
                signal.raise_signal(signal.SIGINT)
            return choose(plan, later_count, began_s)

        give_steps(steps)
        with monkeypatch.context() as patch:
            patch.setattr(run_length, "choose_length", stop)
            assert train_minutes(tmp_path, *GROW_TWICE).code == 130
    give_steps(4)
    done = train_minutes(tmp_path, *GROW_TWICE)
    assert done.code == 0, done
    assert f"0.01 minutes, the rest of the time: {4 * IMAGES} images of 64 px at " in done.out
    run, kimg = tmp_path / "article", IMAGES / 1000
    assert read_settings(run) | {"minutes": 0.01, "kimg": 4 * kimg, "grow_kimg": [3 * kimg, 2 * kimg]} == read_settings(run)
    assert read_settings(run / "half") | {"kimg": 2 * kimg, "grow_kimg": [3 * kimg]} == read_settings(run / "half")
    assert read_settings(run / "half" / "half")["kimg"] == 3 * kimg
    for stage, step in (("half/half", 3), ("half", 2), (".", 4)):
        assert_equal_runs(run / stage, get_three_stage_run() / stage, step)
    assert "is complete: step 4 of 4" in train_minutes(tmp_path, *GROW_TWICE).out
    lengths = ("--kimg", 4 * kimg, "--grow-kimg", 3 * kimg, 2 * kimg)
    assert "is complete: step 4 of 4" in run_command(train, "--workdir", tmp_path, *FLAGS, *GROW_TWICE, *lengths).out


@pytest.mark.integration
def test_stages_share_the_minutes(tmp_path, monkeypatch):
    """The first stage has chosen its length after 10 s, 3 of them for its programs, the second after 30 s."""
    left = []

    def count(config, timing, left_s, steps_per_dispatch):
        left.append(left_s)
        return 2

    module = importlib.import_module("dcgan_jax.train")
    monkeypatch.setattr(module, "BEGAN_S", 1000.0)
    monkeypatch.setattr(run_length, "count_steps", count)
    monkeypatch.setattr(run_length, "time_steps", lambda *_: Timing(1.0, 1.0))
    times = iter([1007.0, 1010.0, 1027.0, 1030.0])
    monkeypatch.setattr(run_length, "time", types.SimpleNamespace(monotonic=lambda: next(times)))
    assert train_minutes(tmp_path, *GROW, "--grow-kimg", 7, minutes=1).code == 0
    assert left == pytest.approx([0.4 * (60 - 10 - 3), 60 - 30])
