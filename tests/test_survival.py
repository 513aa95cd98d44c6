"""What ends a process or a disk must not end a run. The long version of the kills: experiments/kill_test.py."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_run
from toy_run import FLAGS, STEPS, copied, metrics, train_toy, whole

import dcgan_jax
from dcgan_jax.run.checkpoints import list_steps
from experiments import kill_test

REPOSITORY = Path(dcgan_jax.__file__).parents[1]
HALF_A_SAVE = "runs/*/checkpoints/*.orbax-checkpoint-tmp*"
KILLS = [{"at": "cache/packs/.packing@*"}, {"at": "runs/*/*.partial", "nth": 2}, {"at": HALF_A_SAVE},
         {"at": HALF_A_SAVE, "nth": 3}, {"at": "runs/*/samples/*.partial", "nth": 2}]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(kill_test, "FLAGS", (*FLAGS, "--steps", "200"))


def test_a_run_killed_in_its_dangerous_moments_equals_one_that_was_not(tmp_path, small):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert kill_test.life(tmp_path / "whole") == 0
    assert kill_test.survive(tmp_path / "killed", iter(KILLS)) >= 3  # a moment may pass unseen
    ours, theirs = (kill_test.outcome(tmp_path / name / "runs" / "r") for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def started(parent, *arguments):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "DCGAN_JAX_CACHE": str(toy_run.CACHE)}
    command = [sys.executable, "-m", "dcgan_jax.train", "--workdir", parent, *FLAGS, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, [line for line in err.splitlines() if not line.startswith(("packing ", "packed "))]


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_when_there_is_room(tmp_path):
    """No file may grow beyond what half a checkpoint needs: as a full disk, for whoever runs the tests."""
    run = copied(whole().run, tmp_path)
    largest = max(file.stat().st_size for file in (run / "checkpoints").rglob("*") if file.is_file())
    before = toy_run.files(run / "checkpoints")
    full = started(tmp_path, "--steps", STEPS + 8, "--no-tensorboard")
    resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (largest // 2, largest // 2))
    code, _, err = ended(full)
    assert (code, len(err)) == (2, 1), err
    assert err[0].startswith(f"error: {run}: ")
    assert "the checkpoint of step 12 is kept. Make room" in err[0]
    assert toy_run.files(run / "checkpoints") == before
    assert train_toy(tmp_path, steps=STEPS + 8).code == 0
    straight = copied(whole().run, tmp_path / "straight")
    assert train_toy(tmp_path / "straight", steps=STEPS + 8).code == 0
    assert metrics(run) == metrics(straight)


def test_a_workdir_that_vanishes_is_one_line(tmp_path):
    process = started(tmp_path / "drive", "--steps", 1_000_000, "--save-every-steps", 200)
    while not (tmp_path / "drive" / "article" / "checkpoints" / "200").exists():
        assert process.poll() is None
        time.sleep(0.05)
    (tmp_path / "drive").rename(tmp_path / "unmounted")
    code, _, err = ended(process)
    assert (code, len(err)) == (2, 1), err
    assert err[0].startswith("error: ")
    assert str(tmp_path / "drive" / "article") in err[0]
    assert list_steps(tmp_path / "unmounted" / "article")  # a run that is only somewhere else


def test_a_terminal_that_is_closed_ends_with_a_save(tmp_path):
    process = started(tmp_path, "--steps", 1_000_000)
    while not (tmp_path / "article" / "checkpoints" / "4").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.stdout.close()  # nobody reads any more
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 0
    process.stderr.close()
    last = metrics(tmp_path / "article")[-1]["step"]
    assert 0 <= list_steps(tmp_path / "article")[-1] - last < 2


def test_sigterm_before_the_first_step_ends_with_one_line(tmp_path):
    process = started(tmp_path, "--steps", 12, "--data", "drawn:200000")  # packs for a while
    while not list((toy_run.CACHE / "packs").glob(".packing@*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert (code, err) == (143, ["interrupted: what was saved before is kept"])
    assert not list((toy_run.CACHE / "packs").glob(".packing@*"))
