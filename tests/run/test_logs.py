import io
import json
import sys

import numpy as np
import pytest

from dcgan_jax.config import UserError
from dcgan_jax.run import logs
from dcgan_jax.run.logs import Logs, NonFiniteError, read_metrics, read_warnings

NAMES = ("d_loss", "g_loss", "d_real_hits", "d_fake_hits")


def open_logs(run, **changes):
    usual = {"start": 0, "total": 100, "images_per_step": 8, "image_count": 40, "every_steps": 2, "tensorboard": False}
    return Logs(run, **usual | changes)


def numbers(steps, **changes):
    """Makes metrics, name -> (k,), for the steps after steps.start. At step 5, d_loss is 0.5, g_loss 1.5, and so on."""
    of_step = np.arange(steps.start + 1, steps.stop + 1, dtype=np.float32)
    return {name: (of_step / 10 + at).astype(np.float32) for at, name in enumerate(NAMES)} | changes


def read_lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("k", [1, 3, 7, 20])
def test_line_has_its_own_steps_numbers(tmp_path, k):
    """This holds for any number of steps per dispatch."""
    logs = open_logs(tmp_path, total=20)
    for start in range(0, 20, k):
        steps = range(start, min(20, start + k))
        logs.write(steps, numbers(steps))
    logs.close()
    assert [line["step"] for line in read_lines(tmp_path)] == list(range(2, 21, 2))
    for line in read_lines(tmp_path):
        assert line["images"] == 8 * line["step"]
        assert ("images_per_s" in line) == (line["step"] > k)  # the first dispatch mostly compiles, so it has no speed
        assert [line[name] for name in NAMES] == pytest.approx([line["step"] / 10 + at for at in range(4)])


def test_file_of_endless_names_stays_out_of_memory(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "name{i}": 1.0}}\n' for i in range(1, 1000)))
    with pytest.raises(UserError, match="more than 256 metrics"):
        read_metrics(tmp_path)


def test_last_step_has_a_line_at_any_interval(tmp_path):
    logs = open_logs(tmp_path, total=5)
    logs.write(range(0, 5), numbers(range(0, 5)))
    logs.close()
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4, 5]


# ---- Resuming ----

HELD = "".join(json.dumps({"step": step, "d_loss": step / 10}) + "\n" for step in (2, 4, 6))


@pytest.mark.parametrize(
    "start, tail, kept",
    [
        (6, "", [2, 4, 6]),
        (5, "", [2, 4]),  # a killed process wrote lines after its last save
        (4, "", [2, 4]),
        (0, "", []),
        (8, '{"step": 8, "d_lo', [2, 4, 6]),  # cut by a crash
        (8, '\0\0\0\0\n{"step": 9}\n', [2, 4, 6]),  # a power cut leaves blocks of zeros; later steps were not saved
        (8, "[8]\n", [2, 4, 6]),
        (8, "8\n", [2, 4, 6]),
        (8, '{"step": 8, "warning": 1}\n', [2, 4, 6]),
        (8, '{"step": 8, "warning": "nan"}\n', [2, 4, 6]),
        (8, '{"step": 8, "trouble": 1, "words": "old"}\n', [2, 4, 6]),
        (8, '{"d_loss": 1}\n', [2, 4, 6]),
        (8, '{"step": "8"}\n', [2, 4, 6]),
        (8, b"\xff\xfe", [2, 4, 6]),
    ],
)
def test_resume_drops_later_and_broken_lines(tmp_path, start, tail, kept):
    (tmp_path / "metrics.jsonl").write_bytes(HELD.encode() + (tail if isinstance(tail, bytes) else tail.encode()))
    open_logs(tmp_path, start=start).close()
    assert [line["step"] for line in read_lines(tmp_path)] == kept
    assert HELD.startswith((tmp_path / "metrics.jsonl").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_log_state_equals_its_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(HELD)
    for start in (6, 10):  # resumed, then opened again
        logs = open_logs(tmp_path, start=start)
        logs.write(range(start, start + 4), {name: np.linspace(0, 1, 4) / 3 for name in (*NAMES, "g_grad_norm")})
        logs.warn(start + 4, {"g-collapsed": "words"})
        logs.flush()
        np.testing.assert_equal(logs.metrics, read_metrics(tmp_path))
        assert logs.warnings == read_warnings(tmp_path) and len(logs.warnings) >= 1
        logs.close()


def test_warnings_of_old_runs_are_read_and_kept(tmp_path):
    old = '{"step": 6, "trouble": "g-collapsed", "words": "all alike"}\n'
    (tmp_path / "metrics.jsonl").write_text(HELD + old)
    logs = open_logs(tmp_path, start=6)
    logs.warn(8, {"d-has-won": "always right"})
    logs.close()
    assert read_warnings(tmp_path) == [(6, "g-collapsed", "all alike"), (8, "d-has-won", "always right")]
    assert (tmp_path / "metrics.jsonl").read_text().startswith(HELD + old)


def test_line_without_an_end_is_read_in_pieces(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(HELD + '{"step": 8, "x": ' + "1" * 300_000)
    with (tmp_path / "metrics.jsonl").open() as lines:
        assert max(map(len, logs._iterate_lines(lines))) == logs.MAX_LINE
    open_logs(tmp_path, start=8).close()
    assert (tmp_path / "metrics.jsonl").read_text() == HELD


def test_closed_stdout_ends_no_run(tmp_path, monkeypatch, capsys):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    logs = open_logs(tmp_path)
    monkeypatch.setattr(sys, "stdout", Gone())
    logs.say("nobody hears")
    print("error: heard", file=sys.stderr)
    logs.close()
    assert capsys.readouterr().err == "error: heard\n"


def test_broken_line_before_saved_ones_is_refused(tmp_path):
    """No line is dropped."""
    text = HELD.replace("\n", "\ngarbage\n", 1)
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match="metrics.jsonl: line 2 is not a record of a step; remove it"):
        open_logs(tmp_path, start=8)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_resumed_lines_follow_the_kept_ones(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(HELD)
    logs = open_logs(tmp_path, start=4)
    logs.write(range(4, 8), numbers(range(4, 8)))
    logs.flush()
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4, 6, 8]
    assert read_lines(tmp_path)[2]["g_loss"] == pytest.approx(1.6)
    logs.close()


def test_flushed_lines_are_in_the_file(tmp_path):
    logs = open_logs(tmp_path)
    logs.write(range(0, 4), numbers(range(0, 4)))
    logs.flush()
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4]
    logs.close()


# ---- NaNs and infinities ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_nan_metric_stops_and_names_its_step(tmp_path, name, bad):
    logs = open_logs(tmp_path)
    logs.write(range(0, 4), numbers(range(0, 4)))
    values = numbers(range(4, 9))
    values[name][2:] = bad
    with pytest.raises(NonFiniteError, match=f"step 7: {name} is {bad}"):
        logs.write(range(4, 9), values)
    logs.close()
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4]  # nothing of the bad dispatch


# ---- What people see ----


def test_last_step_is_a_line_without_a_terminal(tmp_path, capsys):
    logs = open_logs(tmp_path, total=10)
    for start in (0, 5):
        logs.write(range(start, start + 5), numbers(range(start, start + 5)))
    logs.close()
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1  # no other line, because ten seconds have not passed
    assert "step 10/10  epoch 2.00" in out
    assert "D 1.000  G 2.000  D right on real 300% fake 400%" in out


def test_slow_run_reports_without_a_terminal(tmp_path, capsys, monkeypatch):
    now = iter(range(0, 100, 6))
    monkeypatch.setattr("dcgan_jax.run.logs.time.monotonic", lambda: next(now))
    logs = open_logs(tmp_path, total=100)
    for step in range(6):
        logs.write(range(step, step + 1), numbers(range(step, step + 1)))
    logs.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["2/100", "4/100", "6/100"]  # every 12 s
    assert "1 img/s" in lines[1]  # 8 images in 6 s
    assert lines[1].endswith("576 s left")  # 96 steps, 6 s each


def test_terminal_shows_one_progress_bar(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    logs = open_logs(tmp_path, total=10, start=4)
    logs.write(range(4, 8), numbers(range(4, 8)))
    logs.bar.refresh()
    logs.close()
    shown = terminal.getvalue()
    assert "8/10" in shown
    assert "epoch 1.60" in shown
    assert "D 0.800  G 1.800" in shown
    assert "step/s" in shown


# ---- For tools ----


def test_tensorboard_events_hold_every_number(tmp_path):
    logs = open_logs(tmp_path, tensorboard=True)
    logs.write(range(0, 10), numbers(range(0, 10)))
    logs.flush()
    logs.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    data = events.read_bytes()
    assert {name: data.count(name.encode()) for name in NAMES} == dict.fromkeys(NAMES, 5)  # of steps 2, 4, 6, 8, 10


def test_tensorboard_off_writes_no_events(tmp_path):
    open_logs(tmp_path).close()
    assert not list(tmp_path.glob("events*"))


def test_metrics_are_read_as_columns(tmp_path):
    assert read_metrics(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "d_loss": 0.5}\n{"step": 2, "d_loss": 0.25, "d_penalty": 3}\n')
    columns = read_metrics(tmp_path)
    assert (columns["step"], columns["d_loss"]) == ([1, 2], [0.5, 0.25])
    assert np.isnan(columns["d_penalty"][0])
    assert columns["d_penalty"][1] == 3


# ---- Weights & Biases ----


class Wandb:
    """Replaces the package wandb and records its arguments."""

    def __init__(self, fault=None):
        self.started, self.lines, self.finished, self.fault = [], [], 0, fault

    def init(self, **how):
        if self.fault:
            raise self.fault
        self.started.append(how)
        return self

    def define_metric(self, *args, **how):
        self.metric = args, how

    def log(self, line):
        self.lines.append(line)

    def finish(self):
        self.finished += 1


def test_wandb_gets_the_same_lines_and_resumes(tmp_path, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for start in (0, 4):
        logs = open_logs(tmp_path, start=start, wandb="faces", settings={"lr": 0.1})
        logs.write(range(start, start + 4), numbers(range(start, start + 4)))
        logs.close()
    assert wandb.lines == read_lines(tmp_path) and [line["step"] for line in wandb.lines] == [2, 4, 6, 8]
    first, second = wandb.started
    assert first == second and first["resume"] == "allow"  # the same run at Weights & Biases
    assert (first["project"], first["name"], first["config"]) == ("faces", tmp_path.name, {"lr": 0.1})
    assert first["dir"] == tmp_path.parent  # its links must not be inside the run
    assert wandb.finished == 2 and wandb.metric == (("*",), {"step_metric": "step"})


def test_missing_wandb_or_account_stops_the_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(UserError, match="`wandb` faces: the package is not installed: pip install wandb"):
        open_logs(tmp_path, wandb="faces")
    monkeypatch.setitem(sys.modules, "wandb", Wandb(fault=RuntimeError("no account")))
    with pytest.raises(UserError, match="`wandb` faces: no account; set WANDB_MODE=offline"):
        open_logs(tmp_path, wandb="faces")
    (tmp_path / "wandb.json").write_text("[]")
    with pytest.raises(UserError, match="wandb.json: contains no run id"):
        open_logs(tmp_path, wandb="faces")


def test_wandb_failure_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    def fail(*args):
        raise ConnectionResetError("no network")

    for fault in ("log", "finish"):
        with monkeypatch.context() as patched:
            patched.setattr(wandb, fault, fail)
            logs = open_logs(tmp_path, wandb="faces")
            logs.write(range(0, 4), numbers(range(0, 4)))
            logs.close()
        assert [line["step"] for line in read_lines(tmp_path)] == [2, 4]
        assert capsys.readouterr().out.count("gets no more metrics (no network)") == 1


def test_wandb_is_not_used_by_other_processes(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    open_logs(tmp_path, wandb="faces", silent=True).close()
