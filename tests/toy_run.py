"""Runs the commands on toy networks, in this process. A finished reference run is made once per session and only read."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import filelock
import jax
import numpy as np
import tiny

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.config import Config, replace
from dcgan_jax.files import atomic_write
from dcgan_jax.gan.metrics import LOSS_METRICS
from dcgan_jax.gan.state import describe_state, drop_unread_settings
from dcgan_jax.run import checkpoints, figures, session, setup, workdir
from dcgan_jax.run.logs import Logs

train = importlib.import_module("dcgan_jax.train")  # the attribute dcgan_jax.train is the function


def share_programs(make: Callable, reads_seed: bool = False) -> Callable:
    """Caches make(config) for runs that differ only in settings which the programs do not read, so that JAX traces once.

    This halves the time of a toy run. Runs in separate processes, as in test_survival.py, trace their own programs.
    """
    shared = functools.cache(make)

    @functools.wraps(make)
    def get_shared(config: Config, *others):
        kept = drop_unread_settings(config)
        return shared(replace(kept, seed=config.run.seed) if reads_seed else kept, *others)

    return get_shared


def share_plots(draw: Callable) -> Callable:
    """Draws a loss plot once for all runs with the same losses: it takes a quarter of the time of a toy run."""
    plots = {}

    @functools.wraps(draw)
    def save_shared(path: Path, metrics: dict[str, list[float]]) -> None:
        drawn = json.dumps([metrics.get(name) for name in ("step", *LOSS_METRICS)])
        if drawn not in plots:
            draw(path, metrics)
            plots[drawn] = path.read_bytes()
        else:
            with atomic_write(path) as partial:
                partial.write_bytes(plots[drawn])

    return save_shared


for name in ("make_train_steps", "make_recalibrate", "make_compute_logits"):
    setattr(session, name, share_programs(getattr(session, name)))
setup.make_init = share_programs(setup.make_init, reads_seed=True)
figures.save_losses = share_plots(figures.save_losses)

SESSION = Path(os.environ["DCGAN_JAX_TESTS"])  # conftest.py
# Each worker has its own packs, because some tests check the contents of the cache.
CACHE = SESSION / os.environ.get("PYTEST_XDIST_WORKER", "alone")
CACHE.mkdir(exist_ok=True)
os.environ["DCGAN_JAX_CACHE"] = str(CACHE)

# 85 images are five steps of 2 x 8 and a rest, so that steps 3, 7 and 12 are inside epochs. Flips and dropout need random keys.
DATA = "drawn:85"
FLAGS = (
    "--data",
    DATA,
    "--size",
    "16",
    "--base-px",
    "8",
    "--width",
    "4",
    "--init",
    "he",
    "--batch-size",
    "8",
    "--d-steps",
    "2",
    "--flip",
    "--d-dropout",
    "0.1",
    "--save-every-steps",
    "4",
    "--log-every-steps",
    "2",
    "--grid-images",
    "4",
)
STEPS = 12


class Result(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def faults(self) -> list[str]:
        """The lines on stderr without the progress of packing, which depends on the order of tests."""
        return [line for line in self.err.splitlines() if not line.startswith(("packing ", "packed "))]


def find_module(command):
    """Finds the module with a command's main(). command: the module, its package, or its function such as dcgan_jax.train."""
    name = command.__name__ if isinstance(command, types.ModuleType) else command.__module__
    module = importlib.import_module(name)
    return module if hasattr(module, "main") else importlib.import_module(f"{name}.__main__")


def run_command(command, *arguments) -> Result:
    """Runs `python -m dcgan_jax.<command> arguments` without a new process."""
    module, out, err = find_module(command), io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", [module.__name__, *map(str, arguments)])
    with argv, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run_command(module.main)
        except SystemExit as end:
            code = end.code
    return Result(code, out.getvalue(), err.getvalue())


def train_toy(parent: Path, *arguments, steps: int = STEPS) -> Result:
    """Trains the toy run parent/article up to step `steps`."""
    return run_command(train, "--workdir", parent, *FLAGS, "--steps", steps, *arguments)


# Tests started with nohup ignore SIGHUP, and so would their child processes. conftest.py does the same for SIGINT.
RESET_SIGHUP = """import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"""


def start_toy(parent: Path, *arguments, device_count: int = 2) -> subprocess.Popen:
    """Starts the toy run parent/article in a separate process. The arguments must give its length."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(device_count), "DCGAN_JAX_CACHE": str(CACHE)}
    command = [sys.executable, "-c", RESET_SIGHUP, "-m", "dcgan_jax.train", "--workdir", parent, *FLAGS, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=Path(dcgan_jax.__file__).parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def send_signals_after(step: int, *numbers: signal.Signals):
    """Sends these signals to this process when a run writes the metrics of its steps up to `step`."""
    real = Logs.write

    def write(self, steps, values):
        if steps.stop == step:
            for number in numbers:
                signal.raise_signal(number)
        real(self, steps, values)

    with mock.patch.object(Logs, "write", write):
        yield


def get_refusal(command, *arguments) -> str:
    """Returns the one-line message of a command that refuses its arguments with exit code 2."""
    done = run_command(command, *arguments)
    assert (done.code, len(done.faults)) == (2, 1), done
    assert done.faults[0].startswith("error: "), done
    return done.faults[0]


class TraceCounter:
    """Counts how often the programs of a run are traced inside the `with` block. More than once means a second compilation."""

    MAKERS = ("make_train_steps", "make_recalibrate")  # these return the function to jit; check_finite is itself that function

    def __init__(self):
        self.counts = dict.fromkeys((*self.MAKERS, "check_finite"), 0)

    def __enter__(self):
        self.patches = contextlib.ExitStack()
        for name in self.counts:
            real = getattr(session, name)
            patched = self._counted(name, real) if name == "check_finite" else self._maker(name, real)
            self.patches.enter_context(mock.patch.object(session, name, patched))
        return self

    def __exit__(self, *fault):
        self.patches.close()

    def _counted(self, name, function):
        @functools.wraps(function)
        def counted(*args, **kwargs):
            self.counts[name] += 1
            return function(*args, **kwargs)

        return counted

    def _maker(self, name, make):
        return lambda *args: self._counted(name, make(*args))


class ReferenceRun(NamedTuple):
    """The finished toy run, trained without interruption."""

    run: Path
    done: Result
    traces: dict[str, int]


def make_once(name: str, make: Callable[[Path], object]) -> tuple[Path, object]:
    """Returns (folder of that name, result of make(folder) from JSON). The first worker makes it; all others only read."""
    folder = SESSION / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    result = folder.with_name(f"{name}.json")
    with filelock.FileLock(folder.with_name(f"{name}.lock")):
        if not result.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
            result.write_text(json.dumps(make(folder)))
    return folder, json.loads(result.read_text())


@functools.cache
def get_reference_run() -> ReferenceRun:
    def make(folder):
        with TraceCounter() as traces:
            done = train_toy(folder)
        assert done.code == 0, done
        return done, traces.counts

    folder, (done, traces) = make_once("whole", make)
    return ReferenceRun(folder / "article", Result(*done), traces)


# Two low-resolution stages: 16, 32 and 64 px. tests/gan/test_progressive.py grows networks with everything that best128 has.
GROW_TWICE = (
    *("--size", 64, "--width", 6, "--base-px", 8, "--grow-kimg", 0.05, 0.035),
    *("--g-smooth", "--g-smooth-inner", 1, "--lr-warmup-kimg", 0.02),
)


def get_three_stage_run() -> Path:
    """Returns a finished run of three, two and four steps at 16, 32 and 64 px, with GROW_TWICE. Tests must not change it."""

    def make(folder):
        assert train_toy(folder, *GROW_TWICE, steps=4).code == 0

    return make_once("three stages", make)[0] / "article"


def copy_run(run: Path, parent: Path) -> Path:
    """Copies a run, so that a test may change it."""
    return Path(shutil.copytree(run, parent / run.name))


def read_state(run: Path, step: int) -> dict[str, np.ndarray]:
    """Reads all leaves of a checkpoint, by path."""
    config = workdir.read_config(run)
    shapes = describe_state(config)
    like = checkpoints.add_sharding(shapes, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    return tiny.get_leaves(checkpoints.restore(checkpoints.get_checkpoint_path(run, step), like))


def read_metric_lines(run: Path) -> list[dict]:
    """Reads metrics.jsonl without images_per_s, which differs between runs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines]


def hash_tree(folder: Path) -> dict[str, str]:
    """Returns path -> content hash for all files below folder. Equal results mean that no file was made, lost or changed."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def refuse_column(open_images: Callable) -> Callable:
    """Changes a function that opens a pack: the table of labels has one more column, which is not understood."""

    def open_with_refused_column(*arguments):
        pack = open_images(*arguments)
        refused = [["age", "row 3, column 'age': '31' is not a label"]]
        return dataclasses.replace(pack, index=pack.index | {"refused_attributes": refused})

    return open_with_refused_column
