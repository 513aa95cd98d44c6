"""Kills a run with SIGKILL at random moments until it is done, and compares it with an undisturbed run.

    python experiments/kill_test.py --kills 100 --steps 4000
    python experiments/kill_test.py --kills 20 --run progressive      # or: progressive-twice, from-weights

Each start of the run is the same command in its own process group. It is killed after a random time: at most twice as long as a
start needs for its first saves here, which is measured first. A run that completes before all kills are spent is compared and
followed by another, which begins without packs and without compiled programs. So with fewer --steps more first starts are hit.
Every third kill is aimed: it comes as soon as a file appears that exists only in a dangerous moment, or after twice that time.
The first kill of a run with initial weights comes at its save of step 0, before another save: it must not lose these weights.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from dcgan_jax.gan.state import describe_state
from dcgan_jax.run import checkpoints, workdir

FLAGS = (
    "--data",
    "drawn:3000",
    "--size",
    "16",
    "--width",
    "8",
    "--batch-size",
    "16",
    "--save-every-steps",
    "25",
    "--log-every-steps",
    "5",
    "--grid-images",
    "16",
    "--steps",
    "300",
)
FIRST_SAVE = "runs/*/checkpoints/0"
# In the run's or the cache's folder: a partial pack, checkpoint or file, a program just written.
DANGEROUS = (
    "cache/packs/.packing@*",
    "runs/*/checkpoints/*.orbax-checkpoint-tmp*",
    "runs/*/*.partial",
    "runs/*/samples/*.partial",
    "cache/programs/*/*-cache",
    "runs/*/checkpoints/*/generator",
    FIRST_SAVE,
    "runs/*/half/checkpoints/*",
    "runs/*/half/*.partial",
    "runs/*/half/half/checkpoints/*",
    "runs/*/half/half/*.partial",
)
# Runs with random initial weights, with those of progressive growing, and with those of another run (made first).
RUNS = {
    "plain": (),
    "progressive": ("--size", "32", "--base-px", "8", "--grow-kimg", "0.8"),
    "progressive-twice": ("--size", "64", "--base-px", "8", "--grow-kimg", "0.8", "0.4"),
    "from-weights": ("--start", "START"),
}


def life(place: Path, *more: str, after_s: float | None = None, at: str | None = None, nth: int = 1) -> int:
    """Starts the command. Kills its group after `after_s`, or when the nth file matching `at` appears. Returns the exit code."""
    command = [sys.executable, "-m", "dcgan_jax.train", "--workdir", str(place / "runs"), "--name", "r", *FLAGS, *more]
    with (place / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            command,
            start_new_session=True,
            stdout=output,
            stderr=output,
            env=os.environ | {"DCGAN_JAX_CACHE": str(place / "cache")},
        )
    end, there, appeared = time.monotonic() + (after_s or 3600), set(place.glob(at)) if at else set(), 0
    while process.poll() is None and time.monotonic() < end:
        if at:
            before, there = there, set(place.glob(at))
            appeared += len(there - before)
            if appeared >= nth:
                break
        time.sleep(0.001 if at else min(0.01, max(0, end - time.monotonic())))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def outcome(run: Path) -> dict[str, bytes]:
    """Collects what must be equal: the last state, metrics without speeds, images, and the list of partial files (none)."""
    step = checkpoints.list_steps(run)[-1]
    like = checkpoints.add_sharding(describe_state(workdir.read_config(run)), jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    state = checkpoints.restore(checkpoints.get_checkpoint_path(run, step), like)
    state = state.replace(key=jax.random.key_data(state.key))
    found = {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in jax.tree.leaves_with_path(state)}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    numbers = [{name: value for name, value in row.items() if name != "images_per_s"} for row in rows]
    found["metrics.jsonl"] = repr(numbers).encode()
    found |= {str(file.relative_to(run)): file.read_bytes() for file in sorted(run.rglob("*.png"))}
    halves = [str(path) for path in run.rglob("*") if ".partial" in path.name or "orbax-checkpoint-tmp" in path.name]
    return found | {"steps": repr(checkpoints.list_steps(run)).encode(), "halves": repr(halves).encode()}


def survive(place: Path, kills, *more: str) -> int:
    """Restarts the run until it is done. kills: an iterator of arguments of `life`. Returns how many kills were spent."""
    spent = 0
    while True:
        how = next(kills, None)
        code = life(place, *more, **(how or {}))
        if code == 0:
            return spent
        if code != -signal.SIGKILL or how is None:
            raise SystemExit(f"the run ended with {code}: {(place / 'output.txt').read_text()[-2000:]}")
        spent += 1
        steps = checkpoints.list_steps(place / "runs" / "r")
        print(f"kill {spent}: {how}; step {steps[-1] if steps else None} is saved", flush=True)


def make_options(place: Path, kind: str) -> list[str]:
    """Returns the options of this kind of run. Makes the run that --start names."""
    options = list(RUNS[kind])
    if kind == "from-weights":
        (place / "start").mkdir()
        assert life(place / "start", "--steps", "50", "--seed", "1") == 0
        options[1] = str(place / "start" / "runs" / "r")
    return options


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", default="300")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", choices=RUNS, default="plain", help="where the run's initial weights come from")
    asked = parser.parse_args()
    chance, place, start = random.Random(asked.seed), Path(tempfile.mkdtemp(prefix="kill_test-")), time.monotonic()
    options = make_options(place, asked.run)
    more = ("--steps", asked.steps, *options)
    (place / "whole").mkdir()
    assert life(place / "whole", *more) == 0
    (place / "short").mkdir()
    for _ in range(2):  # the second start finds pack and programs
        shutil.rmtree(place / "short" / "runs", ignore_errors=True)
        start_s = time.monotonic()
        assert life(place / "short", "--steps", "100", *options) == 0
    most_s = 2 * (time.monotonic() - start_s)
    print(f"kills come within {most_s:.1f} s", flush=True)
    began = time.monotonic()
    expected = outcome(place / "whole" / "runs" / "r")
    runs, total, different = 0, 0, 0

    def draw():
        for number in itertools.count():
            # A moment may never come, such as packing when the pack exists: the time limit stays.
            aimed = {"at": chance.choice(DANGEROUS), "nth": chance.randint(1, 3)} if number % 3 == 0 else {}
            yield {"after_s": chance.uniform(0, 2 * most_s if aimed else most_s)} | aimed

    kills = draw()
    while total < asked.kills:
        runs += 1
        here = place / f"run{runs}"
        here.mkdir()
        first = [{"at": FIRST_SAVE}] if options else []
        total += survive(here, itertools.islice(itertools.chain(first, kills), asked.kills - total), *more)
        found = outcome(here / "runs" / "r")
        wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
        different += bool(wrong)
        print(f"run {runs}: {total} kills so far; {len(expected)} values compared; different: {wrong or 'none'}", flush=True)
        if not wrong:
            shutil.rmtree(here)
    print(
        f"{total} kills over {runs} runs in {time.monotonic() - began:.0f} s (and {began - start:.0f} s for the undisturbed "
        f"one): {different} runs differ"
    )
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
