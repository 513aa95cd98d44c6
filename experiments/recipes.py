"""Trains one recipe through the command line and scores it at several lengths. Prints a table row for each.

    python experiments/recipes.py article --data CELEBA --face-score face_score.py --epochs 20 40 60

For each number of epochs it samples --count images of the seeds 0, 1, 2 ... from that checkpoint. It scores them against the
first --count images of the pack: by --face-score (Frechet distance and KID on MobileNetV2 features; not FID) and by sliced
Wasserstein. Flags for the trainer follow `--`. If the learning rate decays, shorter lengths are checkpoints of the longest run,
taken before the decay. Run the same command again to resume.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from dcgan_jax.cli import parse_config
from dcgan_jax.data.batches import count_training_images
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source


def run(*command) -> str:
    print("+", *command, flush=True)
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def main():
    behind = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, extra = sys.argv[1:behind], sys.argv[behind + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--data", required=True)
    parser.add_argument("--face-score", required=True)
    parser.add_argument("--epochs", type=int, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=5000, help="samples per score; compare scores only at equal counts")
    parser.add_argument("--workdir", default="runs/recipes")
    parser.add_argument("--name", default="")
    ask = parser.parse_args(own)

    flags = ["--workdir", ask.workdir, "--name", ask.name or ask.preset, "--preset", ask.preset, "--data", ask.data, *extra]
    config = parse_config([*flags, "--epochs", "1"])
    packed = pack_images(open_source(ask.data), size=config.nets.size, channels=config.nets.channels, crop=config.data.crop)
    steps_an_epoch = count_training_images(len(packed.images), config.guard.held_out) // config.images_per_step
    every = int(np.gcd.reduce(ask.epochs)) * steps_an_epoch
    subprocess.run(
        [
            sys.executable,
            "-m",
            "dcgan_jax.train",
            *flags,
            "--epochs",
            str(max(ask.epochs)),
            "--save-every-steps",
            str(every),
            "--keep-checkpoints",
            "1000",
        ],
        check=True,
    )

    folder = Path(ask.workdir) / (ask.name or ask.preset)
    for epochs in sorted(ask.epochs):
        step = epochs * steps_an_epoch
        faces = folder / f"faces-{step}.npy"
        run(sys.executable, "-m", "dcgan_jax.sample", "--run", folder, "--count", ask.count, "--step", step, "--out", faces)
        score = run(sys.executable, ask.face_score, faces, packed.path / "images.npy", "--n", ask.count)
        frechet, kid = re.search(r"frechet_mobilenet ([\d.]+)\s+kid_mobilenet_x1e3 ([\d.-]+)", score).groups()
        run(sys.executable, "-m", "dcgan_jax.evaluate", "--run", folder, "--count", ask.count, "--step", step)
        own_score = json.loads((folder / "scores.jsonl").read_text().splitlines()[-1])
        images = step * config.images_per_step
        print(
            f"| `{ask.preset}` | {config.nets.size} px | {epochs} | {images:,} | {float(frechet):.1f} | {float(kid):.1f} | "
            f"{own_score['values']['mean']:.1f} (floor {own_score['floor']:.1f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
