"""Several processes train one run. It equals the run of one process with as many devices, and any number can resume it."""

import json
import os
import re
import signal
import socket
import time

import numpy as np
import pytest
import toy_run
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from toy_run import read_metric_lines, read_state, start_toy

from dcgan_jax.data.drawn_faces import draw_faces
from dcgan_jax.run.checkpoints import list_steps

pytestmark = pytest.mark.integration


def finish(*processes):
    try:
        ended = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), ended
    return [out for out, _ in ended]


def start_two(parent, *arguments, second=()):
    """Starts two processes with two devices each. second: flags for the second process only."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = (*arguments, "--coordinator", address, "--processes", 2)
    return [start_toy(parent, *common, "--process-id", 0), start_toy(parent, *common, "--process-id", 1, *second)]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Trains with two processes of two devices each and --feed stream, until the second gets SIGTERM.

    Returns: (run, the step it stopped at, the outputs).
    """
    parent = tmp_path_factory.mktemp("two")
    first, second = start_two(parent, "--steps", 100_000, "--feed", "stream")
    while first.poll() is None and not (parent / "article" / "checkpoints" / "4").exists():
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    outputs = finish(first, second)
    return parent / "article", list_steps(parent / "article")[-1], outputs


@pytest.fixture(scope="module")
def one_process(two_processes, tmp_path_factory):
    """Trains the same number of steps with one process and four devices."""
    parent = tmp_path_factory.mktemp("one")
    finish(start_toy(parent, "--steps", two_processes[1], device_count=4))
    return parent / "article"


def equal(ours, theirs, **tolerance):
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        if np.issubdtype(leaf.dtype, np.floating):
            assert_allclose(leaf, theirs[path], err_msg=path, **tolerance)
        else:
            assert_array_equal(leaf, theirs[path], err_msg=path)


def test_two_processes_equal_one_of_as_many_devices(two_processes, one_process):
    # Processes may sum over devices in another order, and Adam enlarges the difference.
    run, stopped, _ = two_processes
    equal(read_state(run, stopped), read_state(one_process, stopped), atol=1e-4, rtol=1e-3)
    ours, theirs = ([line for line in read_metric_lines(each) if line["step"] <= 4] for each in (run, one_process))
    assert len(ours) == 2
    for a, b in zip(ours, theirs, strict=True):
        assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)


def test_signal_to_one_process_stops_all_at_one_step(two_processes):
    _, stopped, (first, _) = two_processes
    assert stopped >= 4
    assert f"stopped at step {stopped:,} of 100,000 and saved" in first


def test_only_the_first_process_prints_and_writes(two_processes):
    run, stopped, (first, second) = two_processes
    assert "4 x cpu in 2 processes" in first
    # Gloo, which JAX uses between CPU processes, prints these messages from C++, from two threads at once.
    greeting = r"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d+|\s+"
    assert re.sub(greeting, "", second) == ""
    assert (run / "samples" / f"{stopped:08d}.png").exists()
    steps = [line["step"] for line in read_metric_lines(run)]
    assert steps == sorted(set(steps))  # two writers would have written each line twice


def test_any_number_of_processes_resumes(two_processes, tmp_path):
    run, stopped, _ = two_processes
    alone, together = (toy_run.copy_run(run, tmp_path / name) for name in ("alone", "together"))
    outputs = [
        finish(start_toy(alone.parent, "--steps", stopped + 2, device_count=1))[0],
        finish(*start_two(together.parent, "--steps", stopped + 2, "--feed", "resident"))[0],
    ]
    assert all(f"resumes from step {stopped:,}" in out for out in outputs)
    equal(read_state(alone, stopped + 2), read_state(together, stopped + 2), atol=1e-4, rtol=1e-3)


def test_processes_with_other_flags_all_refuse(tmp_path):
    processes = start_two(tmp_path, "--steps", 4, second=("--save-every-steps", 2))
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 2
        assert "error: the processes of this run differ in flags" in errors


def test_processes_take_the_length_of_the_first(tmp_path):
    """Each has a clock, a speed and a copy of the images of its own."""
    for number in (1, 2):  # copies have other times, and so another fingerprint
        (tmp_path / f"images{number}").mkdir()
        for i, face in enumerate(draw_faces(0, np.arange(40), 16)):
            Image.fromarray(face).save(tmp_path / f"images{number}" / f"{i:02}.png")
            os.utime(tmp_path / f"images{number}" / f"{i:02}.png", (number, number))
    lengths = ("--minutes", 0.02, "--lr-decay", "linear", "--data", tmp_path / "images1")
    first, second = finish(*start_two(tmp_path, *lengths, second=("--data", tmp_path / "images2")))
    assert "0.02 minutes: " in first and "minutes" not in second
    assert json.loads((tmp_path / "article" / "config.json").read_text())["kimg"] > 0


def test_error_in_the_first_process_ends_the_second(tmp_path):
    (tmp_path / "article").mkdir()
    (tmp_path / "article" / "other.txt").touch()  # a folder that is no run, which the first process refuses
    first, second = start_two(tmp_path, "--steps", 4)
    errors = [process.communicate(timeout=240)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [2, 2]
    assert "exists but is not a run" in errors[0]
    assert "another process of this run failed" in errors[1]
