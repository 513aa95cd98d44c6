"""Compares each export of a run with its checkpoint: size, difference, speed. Prints a markdown table.

    python experiments/exports.py --run runs/faces

onnx runs in onnxruntime, stablehlo in jax.export, safetensors (and torch's state dict, read back) in NumPy, the checkpoint in
this project's own program. Faces a second are for batches of 64: medians of rounds in which all take turns.
"""

import argparse
import importlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import dcgan_jax
from dcgan_jax.config import UserError
from dcgan_jax.export import STORES, Export
from dcgan_jax.export.comparison import compare_with_checkpoint

AT_ONCE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    ask = parser.parse_args()
    gan = dcgan_jax.load(ask.run)
    latents, labels = gan.latents(range(AT_ONCE)), gan.labels(range(AT_ONCE))
    of = None if labels is None else labels.astype(np.float32)
    rows, draws = {}, {"checkpoint": lambda: np.asarray(gan.images(latents, labels))}
    with tempfile.TemporaryDirectory() as folder:
        for kind, stores in STORES.items():
            for weights in stores if kind != "web" else ():
                name = f"{kind} {weights}"
                place = Path(folder) / name
                place.mkdir()
                wanted = Export(run=ask.run, format=kind, out=str(place), weights=weights)
                try:
                    file, draw, _ = importlib.import_module(f"dcgan_jax.export.{kind}").write(gan, place, wanted)
                except UserError as fault:
                    print(f"{name}: {fault}")
                    continue
                rows[name] = compare_with_checkpoint(gan, draw)._asdict() | {"bytes": file.stat().st_size}
                draws[name] = lambda draw=draw: draw(latents, of)
        spent_s = {name: [] for name in draws}
        for _ in range(ask.rounds + 1):  # the first compiles
            for name, draw in draws.items():
                began = time.perf_counter()
                draw()
                spent_s[name].append(time.perf_counter() - began)
    speed = {name: AT_ONCE / statistics.median(times[1:]) for name, times in spent_s.items()}
    print(f"{gan!r}: {speed['checkpoint']:,.0f} faces/s by its own program\n")
    print("| export | MB | largest difference, images in 0 to 1 | largest, grey levels | mean, grey levels | faces/s |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        print(
            f"| {name} | {row['bytes'] / 1e6:.2f} | {row['largest']:.1e} | {row['largest_grey_levels']} | "
            f"{row['mean_grey_levels']:.4f} | {speed[name]:,.0f} |"
        )


if __name__ == "__main__":
    main()
