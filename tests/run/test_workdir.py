import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from claimed_runs import FACTS, OTHERS, get_refusal, make_config, open_run, read_contents

from dcgan_jax.config import UserError, replace
from dcgan_jax.files import write_json
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import workdir
from dcgan_jax.run.workdir import read_config

# ---- What a run says of itself ----


@pytest.mark.parametrize("preset", PRESETS)
def test_config_of_every_preset_round_trips(tmp_path, preset):
    # keras64's sigmoid takes no augmentations.
    flags = ("--g-output", "tanh", "--augment", "color", "cutout", "--d-lr", "1e-3", "--compute-dtype", "bfloat16")
    wanted = make_config(tmp_path, "--preset", preset, *flags)
    assert read_config(open_run(wanted, FACTS)) == wanted


def test_run_records_config_environment_and_data(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "--workdir", "x"])
    run = open_run(make_config(tmp_path, "--lr", "0.5"), FACTS)
    assert run == tmp_path / "a"
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "data.json", "environment.json", "lock", "samples"]
    assert json.loads((run / "data.json").read_text()) == FACTS
    assert json.loads((run / "config.json").read_text())["lr"] == 0.5
    environment = json.loads((run / "environment.json").read_text())
    assert environment["command"] == ["train", "--workdir", "x"]
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["devices"] == "2 x cpu"
    assert {"python", "platform", "commit"} <= set(environment)


@pytest.mark.parametrize("git", ["absent", "hangs"])
def test_missing_git_only_lacks_the_commit(tmp_path, monkeypatch, git):
    def run(command, **options):
        raise FileNotFoundError("git") if git == "absent" else workdir.subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(workdir.subprocess, "run", run)
    run = open_run(make_config(tmp_path), FACTS)
    assert json.loads((run / "environment.json").read_text())["commit"] is None


# ---- The same command again ----


def test_same_run_is_found_again(tmp_path):
    first = open_run(make_config(tmp_path), FACTS)
    before = {path: data for path, data in read_contents(first).items() if path.name != "environment.json"}
    assert open_run(make_config(tmp_path), FACTS) == first
    assert before.items() <= read_contents(first).items()


@pytest.mark.parametrize("name, used", [("residual", True), ("bn_momentum", 0.99), ("augment_most", 0.3)])
def test_removed_option_in_use_is_refused(tmp_path, name, used):
    """The files of the run stay unchanged."""
    run = open_run(make_config(tmp_path), FACTS)
    write_json(run / "config.json", json.loads((run / "config.json").read_text()) | {name: used})
    before = read_contents(run)
    line = get_refusal(make_config(tmp_path))
    assert line.startswith(f"{run / 'config.json'}: {name} is {used}, ") and "\n" not in line
    assert read_contents(run) == before


# ---- Folders that are not runs ----


def test_folder_with_foreign_files_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    assert "is not a run" in get_refusal(make_config(tmp_path))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thesis.txt"]


def test_empty_folder_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    assert (open_run(make_config(tmp_path), FACTS) / "config.json").exists()


def test_start_killed_half_way_does_not_block_the_next(tmp_path, monkeypatch):
    """config.json is written last. A second start may have other images; then data.json must describe these."""
    real = workdir.write_json

    def dies(file, value):
        if file.name == "config.json":
            file.with_name("config.json.partial").write_text("{")
            raise KeyboardInterrupt
        real(file, value)

    monkeypatch.setattr(workdir, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        open_run(make_config(tmp_path), FACTS)
    monkeypatch.undo()
    run = open_run(make_config(tmp_path), OTHERS)
    assert json.loads((run / "data.json").read_text()) == OTHERS
    assert read_config(run) == make_config(tmp_path)


@pytest.mark.parametrize("where", ["workdir", "above", "name"])
def test_file_in_place_of_a_folder_is_one_line(tmp_path, where):
    file = tmp_path / {"workdir": "w", "above": "w", "name": "a"}[where]
    file.write_text("mine")
    parent = {"workdir": file, "above": file / "deep", "name": tmp_path}[where]
    line = get_refusal(make_config(parent))
    assert str(parent / "a") in line
    assert "--workdir" in line or "--name" in line
    assert read_contents(tmp_path) == {file: b"mine"}


def test_name_that_no_disk_takes_is_one_line(tmp_path):
    assert "x" * 300 in get_refusal(replace(make_config(tmp_path), name="x" * 300))
    assert not list(tmp_path.iterdir())


def test_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(file, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workdir, "write_json", full)
    assert "No space left" in get_refusal(make_config(tmp_path))
    monkeypatch.undo()
    assert open_run(make_config(tmp_path), FACTS)  # the files that it left do not prevent a new start


# ---- Reading ----


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "cannot be read"),
        ("not json", "cannot be read"),
        ("[1, 2]", "no fields"),
        ('{"size": 16', "cannot be read"),
        ('{"sise": 16}', "unknown field 'sise'"),
        ('{"size": "big"}', "size cannot be 'big'"),
        ('{"size": 16.5}', "size cannot be 16.5"),
        ('{"flip": 1}', "flip cannot be 1"),
        ('{"lr": NaN}', "lr cannot be nan"),
        ('{"loss": "hing"}', "loss cannot be 'hing'"),
        ('{"augment": ["colour"]}', "augment cannot be"),
        ('{"steps": 1, "size": 33}', "`size` 33"),
        ('{"steps": 1, "width": -4}', "`width` -4"),
    ],
)
def test_config_edited_to_nonsense_names_the_file(tmp_path, text, says):
    run = open_run(make_config(tmp_path), FACTS)
    (run / "config.json").write_text(text)
    for read in (lambda: read_config(run), lambda: open_run(make_config(tmp_path), FACTS)):
        with pytest.raises(UserError) as mistake:
            read()
        assert str(run / "config.json") in str(mistake.value)
        assert says in str(mistake.value)
    assert (run / "config.json").read_text() == text


def test_fields_of_older_configs_have_their_defaults(tmp_path):
    run = open_run(make_config(tmp_path), FACTS)
    values = json.loads((run / "config.json").read_text())
    del values["ema_ramp"]
    write_json(run / "config.json", values)
    assert read_config(run) == make_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fingerprint": "f1"', "null"])
def test_data_file_edited_to_nonsense_is_one_line(tmp_path, text):
    run = open_run(make_config(tmp_path), FACTS)
    (run / "data.json").write_text(text)
    assert str(run / "data.json") in get_refusal(make_config(tmp_path))


@pytest.mark.parametrize("path", ["nowhere", "x" * 300, "file"])
def test_missing_run_is_one_line(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no run is there"):
        read_config(tmp_path / path)


def test_places_near_a_run_name_it(tmp_path):
    open_run(make_config(tmp_path), FACTS)
    for place in (tmp_path, tmp_path / "a" / "checkpoints" / "12", tmp_path / "a" / "config.json"):
        with pytest.raises(UserError, match=f"did you mean {tmp_path / 'a'}\\?$"):
            read_config(place)


def test_name_without_its_folder_names_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_run(make_config("runs"), FACTS)
    with pytest.raises(UserError, match=r"a: no run is there .* did you mean runs/a\?$"):
        read_config(Path("a"))


# ---- What is left, what is no file, what strangers wrote ----


def test_remains_of_a_kill_are_removed_on_resume(tmp_path):
    run = open_run(make_config(tmp_path), FACTS)
    halves = [
        run / name
        for name in (
            "checkpoints/5003.orbax-checkpoint-tmp",
            "samples/00005003.png.partial",
            "losses.png.partial",
            "checkpoints/5000/files.json.partial",
        )
    ]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.touch() if half.suffix == ".partial" else half.mkdir()
    for mine in ("samples/00005000.png", "notes.partial", "samples/mine.png.partial"):
        (run / mine).touch()
    (run / "data.json.partial").mkdir()
    open_run(make_config(tmp_path), FACTS)
    assert not any(half.exists() for half in halves) and (run / "samples" / "00005000.png").exists()
    assert (run / "notes.partial").exists() and (run / "samples" / "mine.png.partial").exists()


def test_nothing_is_removed_while_another_trains(tmp_path):
    run, lock = workdir.claim_folder(make_config(tmp_path), FACTS)
    (run / "losses.png.partial").touch()
    with lock, pytest.raises(UserError, match="is being trained by another process"):
        workdir.claim_folder(make_config(tmp_path), FACTS)
    assert (run / "losses.png.partial").exists()


OWNER = """import os, signal, sys, filelock
os.mkdir(sys.argv[1])
lock = filelock.SoftFileLock(sys.argv[1] + "/lock.owner")
lock.acquire()
os.kill(os.getpid(), signal.SIGKILL)"""


def without_flock(monkeypatch, code):
    def none(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", none)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_filesystem_without_locks_uses_a_marker(tmp_path, monkeypatch, code):
    without_flock(monkeypatch, code)
    run, lock = workdir.claim_folder(make_config(tmp_path), FACTS)
    with pytest.raises(UserError, match="is being trained by another process"):
        workdir.claim_folder(make_config(tmp_path), FACTS)
    lock.release()
    open_run(make_config(tmp_path), FACTS)  # the lock is free again


def test_marker_of_a_dead_owner_is_ignored(tmp_path, monkeypatch):
    child = subprocess.run([sys.executable, "-c", OWNER, tmp_path / "r"], check=False)
    assert child.returncode == -signal.SIGKILL and (tmp_path / "r" / "lock.owner").exists()
    without_flock(monkeypatch, errno.ENOLCK)
    open_run(make_config(tmp_path, "--name", "r"), FACTS)


def test_pipe_in_a_run_is_not_opened(tmp_path):
    run = open_run(make_config(tmp_path), FACTS)
    os.mkfifo(run / "metrics.jsonl")
    for read in (lambda: read_config(run), lambda: open_run(make_config(tmp_path), FACTS)):
        with pytest.raises(UserError, match="metrics.jsonl: is neither a file nor a folder"):
            read()


def test_link_out_of_a_new_run_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="samples: is a link out of the run"):
        open_run(make_config(tmp_path, "--name", "r"), FACTS)


def test_foreign_environment_is_printable_and_short(tmp_path):
    run = open_run(make_config(tmp_path), FACTS)
    write_json(run / "environment.json", {"packages": {"jax": "\x1b[2J\nerror: " + "x" * 10_000}})
    message = workdir.compare_environment(run)
    assert message.startswith("jax ") and message.isprintable() and len(message) < 300


def test_config_that_decays_over_epochs_is_refused(tmp_path):
    run = open_run(make_config(tmp_path, "--steps", "100", "--lr-decay", "linear"), FACTS)
    write_json(run / "config.json", json.loads((run / "config.json").read_text()) | {"steps": None, "epochs": 2.0})
    with pytest.raises(UserError, match="config.json: with a learning-rate decay, the length must be `steps`"):
        workdir.read_config(run)


def test_config_with_an_automatic_dtype_is_refused(tmp_path):
    """A run stores what was chosen, so such a file was edited. Networks of no dtype would end in a traceback."""
    run = open_run(make_config(tmp_path, "--steps", "100"), FACTS)
    write_json(run / "config.json", json.loads((run / "config.json").read_text()) | {"compute_dtype": "auto"})
    with pytest.raises(UserError, match="config.json: `compute_dtype` must be float32 or bfloat16, not auto"):
        workdir.read_config(run)
