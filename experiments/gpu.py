"""Measures the training speed on one CUDA GPU beside PyTorch on the same GPU, in turns.

    python experiments/gpu.py --presets torch64 article --batch-sizes 64 128 512 1024

Ours is the program that train.py dispatches, ten steps at a time, with batches gathered on the device. PyTorch's
(torch_peer.py) is the published step on one fixed batch: as shipped, with channels_last, and with bfloat16 autocast as well.
PyTorch is taken from this interpreter or from --torch-python. Prints medians of --rounds. Run nothing else beside it.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the GPU

import jax
import numpy as np
from ablations import Training
from bench import Worker

from dcgan_jax.batch import Batch
from dcgan_jax.config import replace
from dcgan_jax.data import batches
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import distributed

STEPS = 10  # per dispatch
VARIANTS = ("shipped", "channels_last", "bfloat16")


class Ours:
    """Answers `ask` like a Worker: the seconds that a number of steps took."""

    def __init__(self, preset: str, batch: int, dtype: str, images: np.ndarray):
        config = replace(PRESETS[preset], batch_size=batch, compute_dtype=dtype, kimg=None, epochs=None, steps=10**6, held_out=0)
        training = Training(config, images, STEPS)
        training.total = STEPS * 10**5
        self.training = training.compile()
        self.state = self.training.init()
        self.fed = batches.gather_batches(
            images, training.order, batches.split_dispatches(0, training.total, STEPS), training.sharding.batches
        )

    def ask(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps // STEPS):
            self.state, metrics = self.training.programs[STEPS](self.state, Batch(next(self.fed)))
        jax.block_until_ready(metrics)
        return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["torch64", "article"], choices=["torch64", "article"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--steps", type=int, default=200, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch-python", default=sys.executable)
    ask = parser.parse_args()
    if ask.steps % STEPS:
        parser.error(f"--steps {ask.steps}: give a multiple of {STEPS}, the steps of a dispatch")
    print(
        f"{distributed.describe_devices()}, jax {jax.__version__}\n\n| | batch | images/s | ms a step "
        "| relative to PyTorch as shipped |\n|---|---:|---:|---:|---:|"
    )
    for preset in ask.presets:
        side = PRESETS[preset].nets.size
        images = np.random.default_rng(0).integers(0, 256, (8192, side, side, 3), np.uint8)
        for batch in ask.batch_sizes:
            peer = [ask.torch_python, Path(__file__).parent / "torch_peer.py", preset]
            more = ["--serve", "--device", "cuda", "--batch-size", batch]
            # Started one after the other: each chooses its kernels by timing them.
            workers = {f"torch, {variant}": Worker([*peer, variant, *more]) for variant in VARIANTS}
            workers |= {f"ours, {dtype}": Ours(preset, batch, dtype, images) for dtype in ("float32", "bfloat16")}
            taken = {name: [] for name in workers}
            for turn in range(ask.rounds + 1):
                for name, worker in workers.items():
                    seconds = worker.ask(ask.steps) / ask.steps
                    if turn:  # the first one warms up
                        taken[name].append(seconds)
            for name, seconds in taken.items():
                ratio = statistics.median(a / b for a, b in zip(taken["torch, shipped"], seconds, strict=True))
                median = statistics.median(seconds)
                print(f"| {preset}: {name} | {batch} | {batch / median:,.0f} | {1e3 * median:.2f} | {ratio:.1f} |", flush=True)
            for worker in workers.values():
                if isinstance(worker, Worker):
                    worker.close()


if __name__ == "__main__":
    main()
