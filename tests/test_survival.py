"""A run survives kills, signals, full disks and moves, and resumes. experiments/kill_test.py is the long version of the kills."""

import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import toy_run
from toy_run import FLAGS, STEPS, copy_run, get_reference_run, get_refusal, read_metric_lines, run_command, start_toy, train_toy

from dcgan_jax import evaluate, sample, train
from dcgan_jax.run import checkpoints
from dcgan_jax.run.checkpoints import list_steps
from experiments import kill_test

pytestmark = pytest.mark.integration
HALF_A_SAVE = "runs/*/checkpoints/*.orbax-checkpoint-tmp*"
KILLS = [{"at": "cache/packs/.packing@*"}, {"at": "runs/*/*.partial", "nth": 2}, {"at": HALF_A_SAVE}]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(kill_test, "FLAGS", (*FLAGS, "--save-every-steps", "10", "--steps", "40"))


@pytest.mark.slow
def test_run_killed_in_critical_moments_resumes_exactly(tmp_path, small):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert kill_test.life(tmp_path / "whole") == 0
    assert kill_test.survive(tmp_path / "killed", iter(KILLS)) >= 2  # a moment may be too short to be caught
    ours, theirs = (kill_test.outcome(tmp_path / name / "runs" / "r") for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def until(process, condition, longest_s=120):
    """Waits until condition() is true. Fails if the process ends before."""
    end = time.monotonic() + longest_s
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.001)


def start_and_signal(tmp_path, condition, *numbers):
    """Starts a very long run and sends it these signals once condition(run) is true.

    Returns: (run, exit code, stdout, lines of stderr).
    """
    process, run = start_toy(tmp_path, "--steps", 1_000_000), tmp_path / "article"
    until(process, lambda: condition(run))
    for number in numbers:
        process.send_signal(number)
    return run, *wait_for_end(process)


@functools.cache
def straight() -> Path:
    """Extends the reference run by 8 steps without interruption, once per session. Tests only read it."""

    def make(folder):
        copy_run(get_reference_run().run, folder)
        assert train_toy(folder, steps=STEPS + 8).code == 0

    return toy_run.make_once("straight", make)[0] / "article"


def eight_are_saved(run):
    return (run / "checkpoints" / "8").exists()


def wait_for_end(process):
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out, [line for line in err.splitlines() if not line.startswith(("packing ", "packed "))]


def test_full_disk_is_one_line_then_resumes(tmp_path):
    """A limit on the size of files, below that of a checkpoint's metadata, acts like a full disk. It needs no root rights."""
    run = copy_run(get_reference_run().run, tmp_path)
    # The files of arrays cannot serve as the limit: TensorStore distributes the arrays differently at each save.
    needed = (run / "checkpoints" / "12" / "training" / "_METADATA").stat().st_size
    before = toy_run.hash_tree(run / "checkpoints")
    full = start_toy(tmp_path, "--steps", STEPS + 8, "--no-tensorboard")
    resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (needed - 1, needed - 1))
    code, _, err = wait_for_end(full)
    assert (code, len(err)) == (2, 1), err
    assert err[0].startswith(f"error: {run}: ")
    assert "the checkpoint of step 12 is kept. Raise the limit of file sizes" in err[0]
    assert toy_run.hash_tree(run / "checkpoints") == before
    assert train_toy(tmp_path, steps=STEPS + 8).code == 0
    assert read_metric_lines(run) == read_metric_lines(straight())


def test_vanished_workdir_is_one_line(tmp_path):
    process = start_toy(tmp_path / "drive", "--steps", 1_000_000, "--save-every-steps", 20)
    until(process, lambda: (tmp_path / "drive" / "article" / "checkpoints" / "20").exists())
    (tmp_path / "drive").rename(tmp_path / "unmounted")
    code, _, err = wait_for_end(process)
    assert (code, len(err)) == (2, 1), err
    assert err[0].startswith("error: ")
    assert str(tmp_path / "drive" / "article") in err[0]
    assert list_steps(tmp_path / "unmounted" / "article")  # the moved run is still complete


def test_closed_terminal_ends_with_a_save(tmp_path):
    process = start_toy(tmp_path, "--steps", 1_000_000)
    until(process, lambda: (tmp_path / "article" / "checkpoints" / "4").exists())
    process.stdout.close()  # as with a closed terminal, nobody reads the output
    process.send_signal(signal.SIGHUP)
    try:
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
    process.stderr.close()
    last = read_metric_lines(tmp_path / "article")[-1]["step"]
    assert 0 <= list_steps(tmp_path / "article")[-1] - last < 2


def test_sigterm_before_the_first_step_is_one_line(tmp_path):
    process = start_toy(tmp_path, "--steps", 12, "--data", "drawn:200000")  # packing takes a while
    until(process, lambda: list((toy_run.CACHE / "packs").glob(".packing@*/images.npy")))  # packing has started
    process.send_signal(signal.SIGTERM)
    code, _, err = wait_for_end(process)
    assert (code, err) == (143, ["interrupted: what was saved before is kept"])
    assert not list((toy_run.CACHE / "packs").glob(".packing@*"))


# ---- Signals ----


@pytest.mark.slow
def test_ctrl_c_during_compilation_saves_one_step(tmp_path):
    def compiles(run):  # or will do so next
        return (run / "reals.png").exists()

    run, code, out, err = start_and_signal(tmp_path, compiles, signal.SIGINT)
    assert (code, err) == (130, [])
    assert list_steps(run) == [0, 1] and "stopped at step 1 of 1,000,000 and saved" in out


@pytest.mark.slow
def test_sigterm_during_a_save_completes_it(tmp_path):
    """Two signals make no difference."""

    def saves(run):
        return list((run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))

    run, code, out, err = start_and_signal(tmp_path, saves, signal.SIGTERM, signal.SIGTERM)
    assert (code, err) == (0, [])
    last = list_steps(run)[-1]
    assert f"stopped at step {last} of" in out
    assert not list(run.rglob("*.orbax-checkpoint-tmp*")) and (run / "checkpoints" / str(last) / "files.json").exists()


def test_ctrl_c_twice_ends_at_once_and_resumes(tmp_path):
    """The next command resumes from the last save."""
    run, code, _, err = start_and_signal(tmp_path, eight_are_saved, signal.SIGINT, signal.SIGINT)
    assert code == 130 and len(err) <= 1, err
    last = list_steps(run)[-1]
    assert f"resumes from step {last}" in train_toy(tmp_path, steps=last + 4).out


# ---- Read-only disk, another folder, another time, another version ----


@pytest.fixture
def mount(tmp_path):
    """Returns mount(size_bytes), which mounts a tmpfs at a new folder. Skips the test if that is not allowed."""
    mounted = []

    def mount(size_bytes):
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_read_only_disk_is_one_line_and_can_be_sampled(mount, tmp_path):
    place = mount(50_000_000)
    run = copy_run(get_reference_run().run, place)
    before = toy_run.hash_tree(run)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    line = get_refusal(train, "--workdir", place, *FLAGS, "--steps", STEPS + 8)
    assert "Read-only" in line and str(place) in line
    assert run_command(sample, "--run", run, "--count", 4, "--out", tmp_path / "out.png").code == 0
    assert run_command(evaluate, "--run", run, "--count", 16, "--out", tmp_path / "scores.jsonl").code == 0
    assert "Read-only" in get_refusal(train, "--workdir", place / "new", *FLAGS, "--steps", STEPS)
    assert toy_run.hash_tree(run) == before
    subprocess.run(["mount", "-o", "remount,rw", place], check=True)
    assert train_toy(place, steps=STEPS + 8).code == 0


def test_full_disk_while_training_then_room(mount, tmp_path):
    """The disk is a small tmpfs, too small for the checkpoints to keep."""
    place = mount(1_500_000)
    process = start_toy(place, "--steps", 400, "--keep-checkpoints", 50, "--no-tensorboard")
    code, _, err = wait_for_end(process)
    assert (code, len(err)) == (2, 1), err
    run = place / "article"
    assert str(run) in err[0] and "No space left on device" in err[0]
    last = list_steps(run)[-1]
    subprocess.run(["mount", "-o", "remount,size=50000000", place], check=True)
    again = train_toy(place, steps=last + 4)
    assert again.code == 0 and f"resumes from step {last}" in again.out
    straight = tmp_path / "straight"
    assert train_toy(straight, steps=last + 4).code == 0
    assert read_metric_lines(run) == read_metric_lines(straight / "article")


def test_moved_run_resumes_exactly(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.move(copy_run(get_reference_run().run, tmp_path), tmp_path / "elsewhere" / "renamed")
    moved = train_toy(tmp_path / "elsewhere", "--name", "renamed", steps=STEPS + 8)
    assert (moved.code, moved.faults) == (0, [])
    assert read_metric_lines(tmp_path / "elsewhere" / "renamed") == read_metric_lines(straight())


@pytest.mark.parametrize("jump_s", [-10 * 365 * 86400, 10 * 365 * 86400])
def test_clock_jump_changes_nothing(tmp_path, monkeypatch, jump_s):
    run, expected = copy_run(get_reference_run().run, tmp_path), straight()  # made before the clock is patched
    now, offsets, settle = time.time, [0], checkpoints.Checkpoints.settle

    def then_jumps(saved):  # forward and back again, while no save is running
        settle(saved)
        offsets.append(jump_s - offsets[-1])

    monkeypatch.setattr(time, "time", lambda: now() + offsets[-1])
    monkeypatch.setattr(checkpoints.Checkpoints, "settle", then_jumps)
    for file in run.rglob("*"):
        os.utime(file, (now() + jump_s, now() + jump_s))
    done = train_toy(tmp_path, steps=STEPS + 8)
    assert (done.code, done.faults) == (0, []) and len(offsets) > 2
    assert read_metric_lines(run) == read_metric_lines(expected)
    assert list_steps(run) == list_steps(expected)


def test_other_jax_version_warns_and_resumes(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    environment = json.loads((run / "environment.json").read_text())
    now = environment["packages"]["jax"]
    environment["packages"]["jax"] = "0.4.1"
    (run / "environment.json").write_text(json.dumps(environment))
    done = train_toy(tmp_path, steps=STEPS + 2)
    assert done.code == 0 and f"jax 0.4.1 -> {now}" in done.out + done.err
    assert json.loads((run / "environment.json").read_text())["packages"]["jax"] == now


@pytest.mark.slow
def test_other_device_count_warns_and_resumes(tmp_path):
    run = copy_run(get_reference_run().run, tmp_path)
    code, out, err = wait_for_end(start_toy(tmp_path, "--steps", STEPS + 2, device_count=1))
    assert (code, err) == (0, []) and "devices: 2 x cpu -> 1 x cpu" in out
    assert list_steps(run)[-1] == STEPS + 2
