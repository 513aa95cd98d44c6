"""Several processes are one run: the numbers of one process with as many devices, and checkpoints for any number of them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy_run
from numpy.testing import assert_allclose, assert_array_equal
from toy_run import FLAGS, metrics, state_at

import dcgan_jax
from dcgan_jax.run.checkpoints import list_steps

REPOSITORY = Path(dcgan_jax.__file__).parents[1]
STEPS = 8


def start(parent, device_count, *arguments):
    # XLA_FLAGS are conftest.py's; the compiled programs are those of no other test, and small.
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(device_count), "DCGAN_JAX_CACHE": str(toy_run.CACHE)}
    command = [sys.executable, "-m", "dcgan_jax.train", "--workdir", parent, *FLAGS, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    try:
        ended = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), ended
    return [out for out, _ in ended]


def start_two(parent, *arguments):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = (*arguments, "--coordinator", address, "--processes", 2)
    return [start(parent, 2, *common, "--process-id", i) for i in range(2)]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """(the folder, the outputs) of a run by two processes of two devices each, on streamed data."""
    parent = tmp_path_factory.mktemp("two")
    return parent, finish(*start_two(parent, "--steps", STEPS, "--feed", "stream"))


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    parent = tmp_path_factory.mktemp("one")
    finish(start(parent, 4, "--steps", STEPS))
    return parent


def test_two_processes_equal_one_with_as_many_devices(two_processes, one_process):
    ours, theirs = (state_at(parent / "article", STEPS) for parent in (two_processes[0], one_process))
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        if np.issubdtype(leaf.dtype, np.floating):
            # The sums over devices are the same; processes may add them in another order.
            assert_allclose(leaf, theirs[path], atol=1e-5, rtol=1e-4, err_msg=path)
        else:
            assert_array_equal(leaf, theirs[path], err_msg=path)
    for a, b in zip(metrics(two_processes[0] / "article"), metrics(one_process / "article"), strict=True):
        assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)


def test_only_the_first_process_speaks_and_writes(two_processes):
    parent, (first, second) = two_processes
    assert "4 x cpu in 2 processes" in first
    assert f"done: {STEPS} steps" in first
    # Gloo, which carries JAX's sums between CPU processes, greets from C++.
    assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []
    assert (parent / "article" / "samples" / f"{STEPS:08d}.png").exists()
    steps = [line["step"] for line in metrics(parent / "article")]
    assert steps == sorted(set(steps))  # a second writer would have doubled the lines


def test_a_run_goes_on_with_another_number_of_processes(two_processes, one_process, tmp_path):
    ours, theirs = (toy_run.copied(parent / "article", tmp_path / parent.name) for parent in (two_processes[0], one_process))
    out, = finish(start(ours.parent, 1, "--steps", STEPS + 2))
    assert f"goes on from step {STEPS}" in out
    out, _ = finish(*start_two(theirs.parent, "--steps", STEPS + 2, "--feed", "resident"))
    assert f"goes on from step {STEPS}" in out
    ours, theirs = state_at(ours, STEPS + 2), state_at(theirs, STEPS + 2)
    for path, leaf in ours.items():
        if np.issubdtype(leaf.dtype, np.floating):
            assert_allclose(leaf, theirs[path], atol=1e-4, rtol=1e-3, err_msg=path)


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    first, second = start_two(tmp_path, "--steps", 100_000)
    lines = tmp_path / "article" / "metrics.jsonl"
    while first.poll() is None and not (lines.exists() and (tmp_path / "article/checkpoints/4").exists()):
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    out, _ = finish(first, second)
    stopped = int(re.search(r"stopped at step ([\d,]+) of 100,000 and saved", out)[1].replace(",", ""))
    assert list_steps(tmp_path / "article")[-1] == stopped
