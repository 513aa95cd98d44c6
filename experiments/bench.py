"""Measures speed and memory on CPU beside PyTorch, and how both scale.

    python experiments/bench.py step   --torch-python PYTHON     # the loop and the bare step in two formats; PyTorch in three
    python experiments/bench.py step   --before CHECKOUT         # against another checkout of this project instead
    python experiments/bench.py cli    --torch-python PYTHON     # two lengths through the command line, difference of wall times
    python experiments/bench.py start                            # first and later starts, to the end of the first step
    python experiments/bench.py growth --plot docs/images/growth.png

PYTHON is an interpreter with PyTorch and NumPy. Contestants run one at a time, in turns, each in its own process, and medians
are compared. So changes in the machine's speed affect all of them. Run nothing else beside it.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
CASES = {"article": (128, 12), "torch64": (64, 3)}  # preset: (batch, steps per round)
PEERS = ("channels_last", "bfloat16", "shipped")
FORMATS = ("float32", "bfloat16")  # ours


def flags(preset: str, batch: int, **more) -> list[str]:
    more = {"preset": preset, "batch-size": batch, "data": "drawn:2048"} | more
    return [part for name, value in more.items() for part in (f"--{name}", str(value))]


# ---- Workers: they set up, then answer lines of stdin; see `serve` ----


def bare(arguments: list[str]) -> None:
    """Serves the jitted step alone on one batch, compiled like train.py's."""
    import jax
    import numpy as np

    from dcgan_jax import cli
    from dcgan_jax.batch import Batch
    from dcgan_jax.data.cache import get_cache_dir
    from dcgan_jax.gan.state import init_state
    from dcgan_jax.gan.step import make_train_steps
    from dcgan_jax.run import backend, checkpoints, distributed

    backend.start_backend(get_cache_dir())
    config = cli.parse_config(arguments)
    sharding = distributed.make_shardings(config)
    shape = (1, config.images_per_step, config.nets.size, config.nets.size, config.nets.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batch = jax.device_put(Batch(images), sharding.batches)
    state = jax.jit(lambda: init_state(config), out_shardings=sharding.state)()
    program = backend.compile_program(
        make_train_steps(config, sharding.images),
        checkpoints.add_sharding(state, sharding.state),
        batch,
        donate_argnames="state",
        in_shardings=(sharding.state, sharding.batches),
        out_shardings=sharding.state,
    )

    def step():
        nonlocal state
        state, metrics = program(state, batch)
        jax.block_until_ready(metrics)

    for _ in range(2):
        step()
    serve(step)


def loop(arguments: list[str]) -> None:
    """Serves the whole of dcgan_jax.train: its feed waits between rounds."""
    from dcgan_jax import cli
    from dcgan_jax.data import batches
    from dcgan_jax.data.cache import get_cache_dir
    from dcgan_jax.run import backend
    from dcgan_jax.train import train

    real_feed = batches.gather_batches
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the trainer's output is not an answer

    def held(*given):
        left, since = 2, None
        for batch in real_feed(*given):
            if left == 0:
                print(time.perf_counter() - since if since else "ready", file=answers, flush=True)
                for line in sys.stdin:
                    if line.strip() != "memory":
                        left = int(line)
                        break
                    print(peak_bytes(), file=answers, flush=True)
                else:
                    os._exit(0)
                since = time.perf_counter()
            left -= 1
            yield batch

    batches.gather_batches = held
    backend.start_backend(get_cache_dir())
    train(cli.parse_config(arguments))


def peak_bytes() -> int:
    line = next(row for row in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def serve(step) -> None:
    """Answers each line of stdin: a number of steps with the seconds they took, `memory` with the peak memory in bytes."""
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(peak_bytes(), flush=True)
            continue
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, flush=True)


class Worker:
    """A contestant in its own process."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | (environment or {}),
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"did not start: {' '.join(map(str, command))}")

    def ask(self, line) -> float:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def in_turns(workers: dict[str, Worker], steps: int, rounds: int) -> dict[str, list[float]]:
    """Returns seconds per step for each worker, one number per round. A worker's turn begins with a step that is not timed."""
    for worker in workers.values():
        worker.ask(steps)
    taken = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.ask(1)  # the caches have the data of the contestant before, whose threads may still wait actively
            taken[name].append(worker.ask(steps) / steps)
    return taken


# ---- Benchmarks ----


def bench_step(ask) -> None:
    """Times steps of all contestants in turns. Ratios are medians over the rounds, with the lowest and the highest one."""
    first = "before, loop" if ask.before else "torch channels_last"
    print(f"| | images/s (range) | relative to {first} (range) | peak memory |\n|---|---:|---:|---:|")
    for preset, (batch, steps) in ask.cases.items():
        with tempfile.TemporaryDirectory() as folder:
            given = flags(preset, batch, steps=10**7) + ["--save-every-steps", str(10**7)]
            workers = start_peers(ask, preset, given, Path(folder))
            for dtype in FORMATS:
                more = ["--compute-dtype", dtype]
                workers |= start_ours(sys.executable, Path(__file__), f"ours, {dtype}", given + more, Path(folder))
            taken = in_turns(workers, steps, ask.rounds)
            for name, worker in workers.items():
                peak = worker.ask("memory")
                worker.close()
                rates = [batch / s for s in taken[name]]
                ratio = summarize(compare(taken[first], taken[name]), ".2f")
                print(f"| {preset}: {name} | {summarize(rates, '.0f')} | {ratio} | {peak / 1e6:,.0f} MB |", flush=True)
            print_comparison(preset, taken)


def print_comparison(preset: str, taken: dict[str, list[float]]) -> None:
    """Prints the loop's overhead, and our best against PyTorch's best."""
    overhead = [a / b - 1 for a, b in zip(taken["ours, float32, loop"], taken["ours, float32, bare"], strict=True)]
    print(f"| {preset}: overhead of the loop over the bare step | {statistics.median(overhead):+.1%} | | |", flush=True)
    whole = [name for name in taken if not name.endswith("bare")]
    theirs, ours = (
        min((name for name in whole if name.startswith("ours") == is_ours), key=lambda name: statistics.median(taken[name]))
        for is_ours in (False, True)
    )
    ratio = summarize(compare(taken[theirs], taken[ours]), ".2f")
    print(f"| {preset}: our best ({ours}) against {theirs} | | {ratio} | |", flush=True)


def compare(reference: list[float], seconds: list[float]) -> list[float]:
    """Returns the speed of each round relative to the reference in the same round."""
    return [a / b for a, b in zip(reference, seconds, strict=True)]


def summarize(values: list[float], digits: str) -> str:
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def start_peers(ask, preset: str, given: list[str], folder: Path) -> dict[str, Worker]:
    """Starts what ours is compared with: another checkout of this project, or PyTorch in three ways."""
    if ask.before:
        checkout = Path(ask.before)
        return start_ours(ask.before_python, checkout / "experiments" / "bench.py", "before", given, folder, str(checkout))
    command = [ask.torch_python, HERE / "torch_peer.py", preset]
    return {f"torch {variant}": Worker([*command, variant, "--serve"]) for variant in PEERS}


def start_ours(python: str, bench: Path, name: str, given: list[str], folder: Path, package: str = "") -> dict[str, Worker]:
    """Starts the loop and the bare step of the checkout that contains `bench`. package: the checkout, if it is another one."""
    environment = {"PYTHONPATH": package} if package else None
    where = ["--workdir", str(folder / name)]
    return {
        f"{name}, {kind}": Worker([python, bench, f"--{kind}-worker", *given, *where], environment) for kind in ("loop", "bare")
    }


def wall_s(command, environment=None) -> float:
    start = time.perf_counter()
    subprocess.run(
        [str(part) for part in command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | (environment or {}),
    )
    return time.perf_counter() - start


def bench_cli(ask) -> None:
    """Times whole commands of two lengths. Each round takes all contestants in turns; the difference is the steps' time."""
    print("| | images/s (range) | relative to torch channels_last (range) |\n|---|---:|---:|")
    for preset, (batch, steps) in ask.cases.items():
        peer = [ask.torch_python, HERE / "torch_peer.py", preset]
        train = [sys.executable, "-m", "dcgan_jax.train", *flags(preset, batch)]
        contestants = {f"torch {variant}": [*peer, variant] for variant in PEERS[:2]}
        contestants |= {f"ours, {dtype}": [*train, "--compute-dtype", dtype] for dtype in FORMATS}
        taken = {name: [] for name in contestants}
        for _ in range(ask.rounds):
            for name, command in contestants.items():
                taken[name].append(time_steps_s(command, 2 * steps, 14 * steps, is_run=name.startswith("ours")))
        for name, seconds in taken.items():
            ratio = summarize(compare(taken["torch channels_last"], seconds), ".2f")
            print(f"| {preset}: {name} | {summarize([batch / s for s in seconds], '.0f')} | {ratio} |", flush=True)


def time_steps_s(command: list, short: int, long: int, is_run: bool) -> float:
    """Returns the seconds per step: the difference of the wall times of a long and a short run. is_run: writes a run's folder."""
    seconds = []
    for count in (short, long):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(wall_s([*command, "--steps", count, *(["--workdir", folder] if is_run else [])]))
    return (seconds[1] - seconds[0]) / (long - short)


def bench_start(ask) -> None:
    """Times starts with an empty and a filled program cache: to the end of the first step, and of a run of one step."""
    print("| to the end of the first step (of a run of one step) | empty cache | filled cache |\n|---|---:|---:|")
    for preset, (batch, _) in ask.cases.items():
        with tempfile.TemporaryDirectory() as folder:
            cache = {"DCGAN_JAX_CACHE": f"{folder}/cache"}
            size = {"article": 32, "torch64": 64}[preset]
            wall_s(
                [
                    sys.executable,
                    "-m",
                    "dcgan_jax.prepare",
                    "--data",
                    "drawn:2048",
                    "--size",
                    size,
                    "--crop",
                    {"article": "centre", "torch64": "torch"}[preset],
                ],
                cache,
            )
            command = [sys.executable, "-m", "dcgan_jax.train", *flags(preset, batch, workdir=folder, steps=1), "--name"]
            seconds = [first_step_s([*command, str(turn)], cache) for turn in range(1 + ask.rounds)]
            step, whole = (statistics.median(turn[i] for turn in seconds[1:]) for i in range(2))
            print(f"| {preset} | {seconds[0][0]:.1f} s ({seconds[0][1]:.1f} s) | {step:.1f} s ({whole:.1f} s) |", flush=True)


def first_step_s(command, environment) -> tuple[float, float]:
    """Returns the seconds until a run of one step prints the step, and until it ends."""
    start, step = time.perf_counter(), math.nan
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | environment
    ) as run:
        for line in run.stdout:
            if line.startswith("step 1/1 "):
                step = time.perf_counter() - start
    return step, time.perf_counter() - start


# Each series changes one thing of: 32 px, width 32, batch 64, one device.
SERIES = {
    "batch": {"batch-size": (16, 32, 64, 128, 256, 512, 1024)},
    "size": {"size": (16, 32, 64, 128, 256)},
    "width": {"width": (16, 32, 64, 128)},
    "devices": {"JAX_NUM_CPU_DEVICES": (1, 2, 4)},
    "processes": {"processes": (1, 2)},
}


def bench_growth(ask) -> None:
    print("| series | value | ms a step | images/s | peak memory |\n|---|---:|---:|---:|---:|")
    found = {}
    for series, [(name, values)] in ((series, changes.items()) for series, changes in SERIES.items()):
        for value in values:
            batch = value if series == "batch" else 16 if series == "size" else 64
            given = {"steps": 10**7} | ({} if series in ("devices", "processes") else {name: value})
            given = flags("article", batch, **{key: part for key, part in given.items() if key != "batch-size"})
            if series == "processes":
                seconds, peak = one_run_s(given, value, batch), math.nan
            else:
                worker = Worker(
                    [sys.executable, __file__, "--bare-worker", *given], {name: str(value)} if series == "devices" else None
                )
                steps = max(1, round(1.0 / worker.ask(1)))  # rounds of about a second
                seconds = statistics.median(worker.ask(steps) / steps for _ in range(ask.rounds))
                peak = worker.ask("memory")
                worker.close()
            found.setdefault(series, []).append((value, seconds, peak))
            memory = "" if math.isnan(peak) else f"{peak / 1e6:,.0f} MB"
            print(f"| {series} | {value} | {seconds * 1e3:,.1f} | {batch / seconds:,.1f} | {memory} |", flush=True)
    print("\n| series | exponent of the step time | exponent over the upper half |\n|---|---:|---:|")
    for series, points in found.items():
        upper = points[(len(points) - 1) // 2 :]
        print(f"| {series} | {exponent(points):.2f} | {exponent(upper):.2f} |")
    if ask.plot:
        plot(found, ask.plot)


def exponent(points) -> float:
    """Fits the slope of log time over log value by least squares."""
    return statistics.linear_regression([math.log(value) for value, *_ in points], [math.log(s) for _, s, _ in points]).slope


def one_run_s(given: list[str], processes: int, batch: int) -> float:
    """Returns the seconds per step of a short run with several processes of one device each, from its log."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
        free.close()
        command = [sys.executable, "-m", "dcgan_jax.train", *given, "--workdir", folder, "--steps", "60"]
        many = ["--coordinator", address, "--processes", str(processes), "--process-id"]
        started = [
            subprocess.Popen(
                command + (many + [str(i)] if processes > 1 else []), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for i in range(processes)
        ]
        for process in started:
            process.wait()
        last = Path(folder, "article", "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        return batch / json.loads(last)["images_per_s"]


def plot(found, path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3 * len(found), 3), layout="constrained")
    for axis, (series, points) in zip(axes, found.items(), strict=True):
        axis.loglog([value for value, *_ in points], [seconds * 1e3 for _, seconds, _ in points], "o-")
        axis.set(xlabel=series, ylabel="ms a step", title=f"exponent {exponent(points):.2f}")
        axis.set_xticks([value for value, *_ in points], [str(value) for value, *_ in points])
        axis.minorticks_off()
    figure.savefig(path, dpi=100)


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ("--bare-worker", "--loop-worker"):
        return {"--bare-worker": bare, "--loop-worker": loop}[sys.argv[1]](sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmarks = {"step": bench_step, "cli": bench_cli, "start": bench_start, "growth": bench_growth}
    parser.add_argument("what", choices=benchmarks)
    parser.add_argument("--torch-python", help="for step and cli")
    parser.add_argument("--before", help="for step: another checkout to compare with, instead of PyTorch")
    parser.add_argument("--before-python", default=sys.executable, help="its interpreter; default: this one")
    parser.add_argument("--presets", nargs="+", choices=CASES, default=list(CASES), help="for step, cli and start")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--plot", help="for growth: a .png")
    ask = parser.parse_args()
    if ask.what in ("step", "cli") and not (ask.torch_python or (ask.what == "step" and ask.before)):
        parser.error(f"{ask.what} needs --torch-python")
    ask.cases = {preset: CASES[preset] for preset in ask.presets}
    benchmarks[ask.what](ask)


if __name__ == "__main__":
    main()
