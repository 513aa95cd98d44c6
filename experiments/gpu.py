"""Measures `torch64` on one CUDA GPU in several settings of XLA beside PyTorch, in turns. Ends by itself within --budget-s.

    python experiments/gpu.py --torch-python PYTHON --out runs/gpu          # a GPU: at most eight minutes
    python experiments/gpu.py --dry-run --out runs/gpu-dry                  # no GPU: the same at toy size on a CPU, two minutes

Writes gpu.md (a table) and gpu.json into --out, after each batch size, and the processes' logs. Run nothing else beside it.

Ours is the program that train.py dispatches, ten steps at a time, with batches gathered on the device. PyTorch's (torch_peer.py)
is the published step on one fixed batch: as shipped, with channels_last, and with bfloat16 autocast as well. It needs an
interpreter with PyTorch for CUDA. Each setting runs in its own process, because XLA reads XLA_FLAGS once. All are prepared one
after another, since each chooses its kernels by timing them. Then all are timed in turns: --rounds times --steps steps each.
What fails becomes a row with its reason. What the budget does not allow becomes a row "not reached".

The losses of the first dispatch are compared with those of the default setting, from the same state and batches. The largest
difference, relative to the default's loss (but at least to 0.1), must be at most TOLERANCE. A setting above it is not used in the
best combination.
"""

import argparse
import itertools
import json
import math
import os
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL,+CONVOLUTION,+DYNAMIC_SLICE_FUSION"
UNROLLED_GRAPHS = "--xla_gpu_command_buffer_unroll_loops=true"
TOLERANCE = 0.05  # of bfloat16 programs after ten steps, in which Adam enlarges rounding errors
GAIN = 1.01  # a setting joins the best combination if it is faster than the default by this factor
SHIPPED = "PyTorch, as shipped"
TORCH = {SHIPPED: "shipped", "PyTorch, channels_last": "channels_last", "PyTorch, bfloat16": "bfloat16"}
DEFAULT, COMBINATION = "default", "best combination"
PROFILE_S = 2.0  # reserved for the profile of one program
MARGIN_S = 5.0  # of the budget, for writing and for ending processes


class Setting(NamedTuple):
    """One way to compile our program. kind: of settings of one kind, the best combination takes the fastest."""

    kind: str = ""
    flags: tuple[str, ...] = ()
    convolution: str = "lax"  # of conv_variants.py
    is_unrolled: bool = False
    compute_dtype: str = "bfloat16"


SETTINGS = {
    DEFAULT: Setting(),
    "CUDA graphs": Setting("graphs", (GRAPHS,)),
    "convolution fusion": Setting("fusion", ("--xla_gpu_experimental_enable_conv_fusion=true",)),
    "folded pixels": Setting("convolution", convolution="folded"),
    "4 channels": Setting("convolution", convolution="padded4"),
    "8 channels": Setting("convolution", convolution="padded8"),
    "CUDA graphs, loops unrolled": Setting("graphs", (GRAPHS, UNROLLED_GRAPHS)),
    "unrolled steps": Setting("steps", is_unrolled=True),
    "default, float32": Setting(compute_dtype="float32"),
}


class Failed(Exception):
    """A process gave no result. Its text is the reason, for the table."""


class Contestant:
    """A process that answers each line of its stdin with one line. Its errors go to a log."""

    def __init__(self, command: list, log: Path, environment: dict[str, str]):
        self.log = log
        with log.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={"CUDA_VISIBLE_DEVICES": "0"} | os.environ | environment,  # one GPU for all
                bufsize=0,  # so that select sees each line
            )

    def ask(self, question, timeout_s: float):
        """Returns the answer to a question, or to none if it is None. Raises: Failed."""
        try:
            if question is not None:
                self.process.stdin.write(f"{json.dumps(question)}\n".encode())
        except BrokenPipeError:
            raise Failed(find_reason(self.log)) from None
        ready, _, _ = select.select([self.process.stdout], [], [], max(timeout_s, 0))
        if not ready:
            raise Failed("not reached: no answer within the budget")
        line = self.process.stdout.readline().decode().strip()
        if not line:
            self.process.wait()
            raise Failed(find_reason(self.log))
        answer = line if line == "ready" else json.loads(line)
        if isinstance(answer, dict) and "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def find_reason(log: Path) -> str:
    """Finds the line of a log that tells why its process ended."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for mark in ("Unknown flag", "RESOURCE_EXHAUSTED", "out of memory", "Error"):
        found = [line for line in lines if mark in line]
        if found:
            return found[-1].rpartition("] ")[2][:200]
    return lines[-1][:200] if lines else "the process ended without a message"


class Group:
    """Everything at one batch size: the processes that run, and the row of each name."""

    def __init__(self, ask: argparse.Namespace, batch_size: int, deadline: float):
        self.ask, self.batch_size, self.deadline = ask, batch_size, deadline
        self.running: dict[str, Contestant] = {}
        self.rows: dict[str, dict] = {}
        self.prepare_s: list[float] = []  # of our settings
        self.step_s: dict[str, float] = {}  # from a warm-up

    def left_s(self) -> float:
        """Returns the seconds until this batch size's share of the budget is spent."""
        return self.deadline - time.monotonic()

    def estimate_s(self, names) -> float:
        """Returns about how long all rounds of these take, with a margin."""
        return 1.2 * self.ask.rounds * self.ask.steps * sum(self.step_s[name] for name in names)

    def reserve_s(self) -> float:
        """Returns what must be left for timing all, for preparing and timing the best combination, and for profiles."""
        timing = self.estimate_s(self.running) + self.estimate_s(self.compared())
        return timing + max(self.prepare_s, default=0) + PROFILE_S * len(self.running)

    def compared(self) -> list[str]:
        """Lists what the best combination is timed beside: PyTorch's three ways and the default."""
        return [name for name in (*TORCH, DEFAULT) if name in self.running]

    def start(self, name: str, command: list, environment: dict[str, str], question) -> None:
        """Starts a process, asks it to prepare, and times a few steps. A failure becomes the reason in its row."""
        row = self.rows[name] = {"batch_size": self.batch_size, "name": name}
        reserve_s = self.estimate_s(self.compared()) if name == COMBINATION else self.reserve_s()
        if self.left_s() < reserve_s + max(self.prepare_s, default=0):
            row["failed"] = "not reached: budget spent"
            return
        started = time.monotonic()
        log = self.ask.out / "logs" / f"{self.batch_size} {name}.txt".replace(" ", "_").replace(",", "")
        contestant = Contestant(command, log, environment)
        try:
            row["prepared"] = contestant.ask(question, self.left_s() - reserve_s)
            few = self.ask.steps_per_dispatch
            warm_up = few if name in TORCH else {"steps": few}
            contestant.ask(warm_up, self.left_s())  # PyTorch chooses kernels for each shape once
            self.step_s[name] = contestant.ask(warm_up, self.left_s()) / few
            self.running[name] = contestant
        except Failed as fault:
            row["failed"] = str(fault)
            contestant.close()
        row["prepare_s"] = time.monotonic() - started
        if name not in TORCH:
            self.prepare_s.append(row["prepare_s"])
        print(f"batch {self.batch_size}, {name}: {row.get('failed', 'ready')} ({row['prepare_s']:.0f} s)", flush=True)

    def start_torch(self) -> None:
        """Starts PyTorch's three ways."""
        device = "cpu" if self.ask.dry_run else "cuda"
        for name, variant in TORCH.items():
            peer = [self.ask.torch_python, HERE / "torch_peer.py", "torch64", variant, "--serve"]
            self.start(name, [*peer, "--device", device, "--batch-size", self.batch_size], {}, None)

    def start_ours(self, name: str, setting: Setting) -> None:
        """Starts our program in a setting, and compares its first losses with the default's."""
        command = [sys.executable, HERE / "gpu_worker.py", "--convolution", setting.convolution]
        command += ["--steps-per-dispatch", self.ask.steps_per_dispatch]
        command += ["--unrolled"] * setting.is_unrolled + ["--toy"] * self.ask.dry_run
        flags = " ".join([os.environ.get("XLA_FLAGS", ""), *setting.flags]).strip()
        environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu" if self.ask.dry_run else "cuda"}
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # then the processes share what autotuning has measured, too
            environment["JAX_COMPILATION_CACHE_DIR"] = str(self.ask.out / "programs")
        question = {"prepare": {"batch_size": self.batch_size, "compute_dtype": setting.compute_dtype}}
        self.start(name, command, environment, question)
        row = self.rows[name]
        row["setting"] = setting._asdict()
        if "prepared" in row and "prepared" in self.rows.get(DEFAULT, {}):
            row["difference"] = compare_losses(row["prepared"]["losses"], self.rows[DEFAULT]["prepared"]["losses"])

    def time_in_turns(self, names: list[str]) -> None:
        """Times these, --rounds times, fewer if the budget ends. Each row keeps its seconds per step under `timed`."""
        timed = {name: [] for name in names}
        for _ in range(self.ask.rounds):
            if self.left_s() < self.estimate_s(timed) / self.ask.rounds:
                break
            for name in list(timed):
                steps = self.ask.steps if name in TORCH else {"steps": self.ask.steps}
                try:
                    timed[name].append(self.running[name].ask(steps, self.left_s()) / self.ask.steps)
                except Failed as fault:
                    self.rows[name]["failed"] = str(fault)
                    self.running.pop(name).close()
                    del timed[name]
        for name, seconds in timed.items():
            references = {reference: timed[reference] for reference in TORCH if timed.get(reference)}
            self.rows[name] |= summarize(seconds, references) if seconds else {"failed": "not reached: budget spent"}

    def trace(self) -> None:
        """Counts kernels and launches of each of our programs in a profile."""
        ours = [name for name in self.running if name not in TORCH]
        for name in sorted(ours, key=lambda name: name not in (DEFAULT, COMBINATION)):
            try:
                self.rows[name]["profile"] = self.running[name].ask({"trace": 1}, self.left_s())
            except Failed as fault:
                self.rows[name]["profile_failed"] = str(fault)

    def run(self, settings: dict[str, Setting]) -> None:
        """Prepares and times all, then the best combination."""
        try:
            for i, (name, setting) in enumerate(settings.items()):
                self.start_ours(name, setting)
                if i == 0:  # after the default, which a short budget must not leave out
                    self.start_torch()
            self.time_in_turns(list(self.running))
            self.run_combination(settings)
            self.trace()
        finally:
            for contestant in self.running.values():
                contestant.close()

    def run_combination(self, settings: dict[str, Setting]) -> None:
        """Combines the fastest setting of each kind and times it. A combination of fewer than two is only named."""
        names = choose_settings(self.rows, settings)
        if len(names) < 2:
            text = f"the fastest setting alone: {names[0]}" if names else "no setting was faster than the default"
            self.rows[COMBINATION] = {"batch_size": self.batch_size, "name": COMBINATION, "failed": text}
            return
        self.start_ours(COMBINATION, combine([settings[name] for name in names]))
        self.rows[COMBINATION]["remark"] = " + ".join(names)
        if COMBINATION in self.running:
            kept = {name: dict(self.rows[name]) for name in self.compared()}
            self.time_in_turns([*self.compared(), COMBINATION])
            self.rows |= kept  # their rounds beside all settings stay in the table


def compare_losses(losses: dict[str, list[float]], expected: dict[str, list[float]]) -> float:
    """Returns the largest difference of a loss, relative to the expected one, or to 0.1 if that is smaller. 1e9: not finite."""
    pairs = itertools.chain.from_iterable(zip(losses[name], expected[name], strict=True) for name in expected)
    return max(abs(a - b) / max(abs(b), 0.1) if math.isfinite(a) else 1e9 for a, b in pairs)


def summarize(seconds: list[float], references: dict[str, list[float]]) -> dict:
    """Returns a row's times (seconds per step, one per round) and its median speed relative to PyTorch's three ways."""
    found = {"seconds": seconds, "median_s": statistics.median(seconds)}
    ratios = {
        name: statistics.median(a / b for a, b in zip(reference, seconds, strict=False)) for name, reference in references.items()
    }
    best = min(references, key=lambda name: statistics.median(references[name]), default=None)
    return found | {"relative": ratios, "relative_to_best": ratios.get(best), "best_of_torch": best}


def choose_settings(rows: dict[str, dict], settings: dict[str, Setting]) -> list[str]:
    """Chooses the fastest setting of each kind, of those that are faster than the default and agree with its losses."""
    fastest = {}
    for name, setting in settings.items():
        row = rows.get(name, {})
        is_right = setting.kind and "median_s" in row and row.get("difference", 1) <= TOLERANCE
        if is_right and row["median_s"] * GAIN < rows.get(DEFAULT, {}).get("median_s", 0):
            fastest.setdefault(setting.kind, []).append((row["median_s"], name))
    return [min(found)[1] for found in fastest.values()]


def combine(settings: list[Setting]) -> Setting:
    """Combines settings of different kinds."""
    return Setting(
        "combination",
        tuple(dict.fromkeys(flag for setting in settings for flag in setting.flags)),
        next((setting.convolution for setting in settings if setting.convolution != "lax"), "lax"),
        any(setting.is_unrolled for setting in settings),
    )


def order_settings(settings: dict[str, Setting], rows: dict[str, dict]) -> dict[str, Setting]:
    """Sorts settings: the default, then the fastest in these rows, so that a short budget leaves out the least promising."""
    names = sorted(settings, key=lambda name: (name != DEFAULT, rows.get(name, {}).get("median_s", math.inf)))
    return {name: settings[name] for name in names}


def format_table(rows: list[dict]) -> str:
    """Formats rows as a Markdown table."""
    lines = [
        "| batch | program | images/s (range) | ms a step | relative to PyTorch as shipped | relative to PyTorch's best "
        "| loss difference | kernels a step | graph launches a step | operations in the HLO, a step | remark |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        cells = [row["batch_size"], row["name"], *format_times(row), *format_counts(row), format_remark(row)]
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def format_times(row: dict) -> list[str]:
    """Formats the four cells with times."""
    if "median_s" not in row:
        return ["-"] * 4
    rates = [row["batch_size"] / seconds for seconds in row["seconds"]]
    ratios = [row["relative"].get(SHIPPED), row["relative_to_best"]]
    return [
        f"{row['batch_size'] / row['median_s']:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
        f"{1e3 * row['median_s']:.2f}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
    ]


def format_counts(row: dict) -> list[str]:
    """Formats the cells with the difference of the losses and the counts."""
    profile, hlo = row.get("profile") or {}, row.get("prepared", {})
    hlo = hlo["hlo"] if isinstance(hlo, dict) and "hlo" in hlo else {}
    counts = profile.get("kernels"), profile.get("graph_launches"), hlo.get("operations")
    difference = f"{row['difference']:.1e}" if "difference" in row else "-"
    return [difference, *("-" if count is None else f"{count:,.1f}" for count in counts)]


def format_remark(row: dict) -> str:
    """Formats why a row has no times, or what is wrong with them."""
    parts = [row.get("remark", ""), row.get("failed", "")]
    if row.get("difference", 0) > TOLERANCE:
        parts.append(f"losses differ by more than {TOLERANCE:.0%}")
    return "; ".join(part for part in parts if part)


def write_results(ask: argparse.Namespace, rows: list[dict], used_s: float) -> None:
    """Writes gpu.json and gpu.md. They are whole after each batch size, even if a later one fails."""
    device = next((row["prepared"]["device"] for row in rows if "device" in (row.get("prepared") or "")), "no device")
    facts = {"device": device, "tolerance": TOLERANCE, "used_s": round(used_s, 1), "dry_run": ask.dry_run}
    facts |= {name: getattr(ask, name) for name in ("budget_s", "steps", "rounds", "steps_per_dispatch")}
    (ask.out / "gpu.json").write_text(json.dumps(facts | {"rows": rows}, indent=1), encoding="utf-8")
    toy = "Toy networks on a CPU: a test of this script, no measurement. " if ask.dry_run else ""
    text = (
        f"{toy}`torch64` on {device}. {ask.rounds} rounds of {ask.steps} steps in turns, {ask.steps_per_dispatch} a dispatch; "
        f"medians. Loss differences may be up to {TOLERANCE:.0%}. Took {used_s:.0f} of {ask.budget_s:.0f} s."
        f"\n\n{format_table(rows)}\n"
    )
    (ask.out / "gpu.md").write_text(text, encoding="utf-8")
    print(f"\n{text}", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line. A dry run has fixed small numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for the table, the JSON file and the logs")
    parser.add_argument("--budget-s", type=float, default=480, help="seconds for everything")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--flags", help="one more setting: these XLA flags")
    parser.add_argument("--steps", type=int, default=200, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps-per-dispatch", type=int, default=10)
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter with PyTorch")
    parser.add_argument("--dry-run", action="store_true", help="toy size on a CPU, few steps")
    ask = parser.parse_args()
    if ask.dry_run:
        ask.batch_sizes, ask.steps, ask.rounds, ask.steps_per_dispatch = [4], 4, 2, 2
    if ask.steps % ask.steps_per_dispatch:
        parser.error(f"--steps {ask.steps}: give a multiple of --steps-per-dispatch {ask.steps_per_dispatch}")
    return ask


def main() -> None:
    began = time.monotonic()
    ask = parse_arguments()
    (ask.out / "logs").mkdir(parents=True, exist_ok=True)
    settings = {name: SETTINGS[name] for name in ask.settings}
    if ask.flags:
        settings[f"flags {ask.flags}"] = Setting("flags", tuple(ask.flags.split()))
    rows, last = [], {}
    for i, batch_size in enumerate(ask.batch_sizes):
        now = time.monotonic()
        share = (began + ask.budget_s - MARGIN_S - now) / (len(ask.batch_sizes) - i)
        group = Group(ask, batch_size, now + share)
        group.run(order_settings(settings, last))
        rows, last = rows + list(group.rows.values()), group.rows
        write_results(ask, rows, time.monotonic() - began)


if __name__ == "__main__":
    main()
