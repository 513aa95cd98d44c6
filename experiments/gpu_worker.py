"""Prepares, times and traces our training program in one setting. experiments/gpu.py starts one process for each setting.

It reads questions from stdin, one JSON object per line, and answers each with one line of JSON:

    {"prepare": {"batch_size": 128, "compute_dtype": "bfloat16"}}   compiles and runs one dispatch: losses, counts from the HLO
    {"steps": 200}                                                  the seconds that these steps took
    {"trace": 1}                                                    kernels and graph launches per step, from a profile
"""

import argparse
import contextlib
import gc
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the GPU

import jax
import numpy as np
from accelerators import pretending, program
from conv_variants import VARIANTS, use_variant

from dcgan_jax.batch import Batch
from dcgan_jax.config import replace
from dcgan_jax.data import batches
from dcgan_jax.gan.state import init_state
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import distributed

NO_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "after-all"}
LOSSES = ("d_loss", "g_loss")


class Program:
    """The compiled program of one batch size and format, its state and its batches."""

    def __init__(self, ask: argparse.Namespace, batch_size: int, compute_dtype: str):
        toy, count = ({"size": 16, "width": 4}, 128) if ask.toy else ({}, 8192)
        changes = {"batch_size": batch_size, "compute_dtype": compute_dtype, "kimg": None, "epochs": None, "steps": 10**6}
        config = replace(PRESETS["torch64"], **changes, **toy, held_out=0)
        self.steps = ask.steps_per_dispatch
        # A CPU, too, compiles the program for a GPU here.
        with pretending("cuda"), use_variant(ask.convolution, ask.unrolled):
            jitted, shapes = program(config, self.steps)
            lowered = jitted.lower(*shapes)
        self.compiled = lowered.compile()
        sharding = distributed.make_shardings(config)
        self.state = jax.jit(lambda: init_state(config), out_shardings=sharding.state)()
        side = config.nets.size
        images = np.random.default_rng(0).integers(0, 256, (max(count, batch_size), side, side, 3), np.uint8)
        order = batches.Order(0, len(images), batch_size, 0)
        dispatches = batches.split_dispatches(0, self.steps * 10**5, self.steps)
        self.batches = batches.gather_batches(images, order, dispatches, sharding.batches)

    def dispatch(self) -> dict[str, jax.Array]:
        """Runs one dispatch. Returns its metrics, which may not be computed yet."""
        self.state, metrics = self.compiled(self.state, Batch(next(self.batches)))
        return metrics

    def time_steps_s(self, steps: int) -> float:
        """Returns the seconds that these steps took, in whole dispatches."""
        start = time.perf_counter()
        for _ in range(steps // self.steps):
            metrics = self.dispatch()
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    def trace(self, dispatches: int) -> dict[str, float]:
        """Counts kernels and launches per step in a profile. Empty if it shows no kernels, as on a CPU."""
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                self.time_steps_s(dispatches * self.steps)
            files = list(Path(folder).rglob("*.xplane.pb"))
            counts = count_events(jax.profiler.ProfileData.from_file(str(files[0]))) if files else Counter()
        steps = dispatches * self.steps
        return {name: count / steps for name, count in counts.items()} if counts["kernels"] else {}


def count_events(profile) -> Counter:
    """Counts kernels, graph launches and single launches in a profile of CUDA. Copies and fills of memory count as kernels."""
    counts = Counter(kernels=0, graph_launches=0, kernel_launches=0)
    for plane in profile.planes:
        for line in plane.lines:
            is_stream = plane.name.startswith("/device:GPU") and line.name.startswith("Stream")
            for event in line.events:
                counts["kernels"] += is_stream
                counts["graph_launches"] += not is_stream and "GraphLaunch" in event.name
                counts["kernel_launches"] += not is_stream and "LaunchKernel" in event.name
    return counts


def count_in_hlo(text: str, steps: int) -> dict[str, float]:
    """Counts operations per step in a compiled program: those of its loop's body, or of the whole program if it has no loop.

    An operation of a compiled GPU program is about one kernel. Returns: operations, convolutions, loops (of the whole program).
    """
    entry = text[text.index("\nENTRY") :]
    loop = re.search(r" while\(.*body=(%?[\w.\-]+)", entry)
    start, share = (text.index(f"\n{loop[1]} ("), 1) if loop else (text.index("\nENTRY"), steps)
    body = text[start : text.index("\n}", start)]
    found = re.findall(r"^ +(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(", body, re.MULTILINE)
    convolutions = re.findall(r" convolution\(|__cudnn\$(?:conv|fusion)", body)
    return {
        "operations": sum(name not in NO_KERNELS for name in found) / share,
        "convolutions": len(convolutions) / share,
        "loops": text.count(" while("),
    }


class Session:
    """Answers the questions of gpu.py."""

    def __init__(self, ask: argparse.Namespace):
        self.ask, self.program = ask, None

    def answer(self, question: dict):
        """Returns the answer to one question, see the module's docstring."""
        if "prepare" in question:
            return self.prepare(**question["prepare"])
        if "steps" in question:
            return self.program.time_steps_s(question["steps"])
        return self.program.trace(question["trace"])

    def prepare(self, batch_size: int, compute_dtype: str) -> dict:
        """Compiles a program and runs its first dispatch."""
        self.program = None
        gc.collect()  # frees the memory of the program before
        self.program = Program(self.ask, batch_size, compute_dtype)
        metrics = jax.device_get(self.program.dispatch())
        return {
            "losses": {name: [float(value) for value in metrics[name]] for name in LOSSES},
            "hlo": count_in_hlo(self.program.compiled.as_text(), self.program.steps),
            "device": f"{distributed.describe_devices()}, jax {jax.__version__}",
        }


def serve(session: Session) -> None:
    """Answers each line of stdin. An error is an answer as well, so that the next question finds the process alive."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    for line in sys.stdin:
        try:
            answer = session.answer(json.loads(line))
        except Exception as fault:  # noqa: BLE001 - XLA's errors have many types, and each becomes a row of the table
            answer = {"failed": f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--convolution", choices=VARIANTS, default="lax")
    parser.add_argument("--unrolled", action="store_true", help="repeat the step's code instead of a loop")
    parser.add_argument("--steps-per-dispatch", type=int, default=10)
    parser.add_argument("--toy", action="store_true", help="16 px, width 4")
    serve(Session(parser.parse_args()))


if __name__ == "__main__":
    main()
