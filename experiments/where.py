"""Measures which kinds of work take the time of a training step on CPU.

    python experiments/where.py article torch64
    PYTHONPATH=OTHER_CHECKOUT python experiments/where.py article torch64      # another commit's step, for before and after

Traces some steps with jax.profiler and sums the times of the executed thunks by the kind of work that the compiled program
names. Thunks that run in parallel count in full. So shares are of the sum, not of the wall time.
"""

import argparse
import collections
import glob
import gzip
import json
import re
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from dcgan_jax import config as configuration
from dcgan_jax.batch import Batch
from dcgan_jax.gan.state import init_state
from dcgan_jax.gan.step import make_train_steps
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import backend


def kind(instruction: str, source: str) -> str:
    """Classifies an HLO instruction (its line) by kind of work. source: JAX's op_name."""
    if " convolution(" in instruction or re.search(r"conv_general_dilated", source) and "kCustom" in instruction:
        return "XLA's convolutions"
    if " dot(" in instruction or "kCustom" in instruction:
        return "GEMMs"
    if "_norm" in source or re.search(r"relu|tanh", source):
        return "BN and activations"
    if re.search(r"(down|up)\d|/image/", source):
        return "around the convolutions: pads, folds, transforms, joins"
    return "Adam, averages, losses, random numbers"


def shares(preset: str, steps: int = 8) -> tuple[float, dict[str, float]]:
    """Returns images/s, and for each kind of work its share of the time of all thunks."""
    config = configuration.replace(PRESETS[preset], batch_size={"torch64": 64}.get(preset, 128), compute_dtype="float32")
    shape = (1, config.images_per_step, config.nets.size, config.nets.size, config.nets.channels)
    batch = jax.device_put(Batch(np.random.default_rng(0).integers(0, 256, shape, np.uint8)))
    state = jax.jit(lambda: init_state(config))()
    program = jax.jit(make_train_steps(config), donate_argnums=0).lower(state, batch).compile()
    kinds = {}
    for line in program.as_text().splitlines():
        if name := re.match(r"\s*(?:ROOT )?%([\w.\-]+) = ", line):
            source = re.search(r'op_name="([^"]*)"', line)
            kinds[name[1]] = None if " call(" in line else kind(line, source[1] if source else "")  # its parts count
    with tempfile.TemporaryDirectory() as folder:
        for traced in (False, True):
            if traced:
                jax.profiler.start_trace(folder)
            start = time.perf_counter()
            for _ in range(steps):
                state, metrics = program(state, batch)
                jax.block_until_ready(metrics)
            if not traced:
                images_per_s = steps * shape[1] / (time.perf_counter() - start)
        jax.profiler.stop_trace()
        with gzip.open(glob.glob(f"{folder}/plugins/profile/*/*.trace.json.gz")[0]) as file:
            events = json.load(file)["traceEvents"]
    took = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and kinds.get(event["name"]):
            took[kinds[event["name"]]] += event["dur"]
    return images_per_s, {name: us / took.total() for name, us in took.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+", choices=PRESETS, metavar="PRESET")
    ask = parser.parse_args()
    print("| preset | img/s | of the thunks' time |\n|---|---:|---|")
    for preset in ask.presets:
        images_per_s, found = shares(preset)
        print(f"| {preset} | {images_per_s:,.0f} | " + "; ".join(f"{name} {share:.0%}" for name, share in found.items()) + " |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        if hasattr(backend, "start_backend"):  # older commits do not have it
            backend.start_backend(Path(cache))
        main()
