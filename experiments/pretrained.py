"""Trains the generators inside the package, drawn32 and drawn64, and writes them to dcgan_jax/pretrained.

    python experiments/pretrained.py --only drawn32 --kimg 200 --compute-dtype bfloat16
    python experiments/pretrained.py --only drawn64 --grow-kimg 240 --kimg 50 --compute-dtype bfloat16

These commands made the files in the package, in 9 and 30 minutes of two busy CPU cores. Without these flags the presets decide.
They are best32 and best64 on drawn faces. Each is trained in --workdir, or resumed there, and then stored as a compact run
(dcgan_jax/run/compact.py) with kernels in float16. Prints how much this changes the samples.
"""

import argparse
from pathlib import Path

import numpy as np

import dcgan_jax
from dcgan_jax.config import Config, replace
from dcgan_jax.export.comparison import Deviation, compare_with_checkpoint
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.state import describe_state
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import checkpoints, compact, pretrained

RECIPES = {"drawn32": "best32", "drawn64": "best64"}


def make_pretrained(config: Config, out: Path) -> tuple[Path, Deviation]:
    """Trains the run to its end and writes it to out/NAME. Returns this folder, and by how much its samples differ."""
    done = dcgan_jax.train(config)
    if not done.is_complete:
        raise SystemExit(f"{done.path}: stopped at step {done.step}; the same command resumes it")
    trained = dcgan_jax.load(done.path)
    like = checkpoints.add_sharding(describe_state(trained.config))
    folder = out / config.run.name
    # bfloat16 is for the speed of training. Samples should not need it.
    config = replace(trained.config, compute_dtype="float32")
    compact.write(done.path, trained.step, checkpoints.restore_step(done.path, like, trained.step), config, folder)
    stored = dcgan_jax.load(folder)
    params, stats = stored.generator
    nets = stored.config.nets

    def generate(latents: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        images = np.asarray(Generator(nets).apply({"params": params, "batch_stats": stats}, latents, False, labels))
        return (images + 1) / 2 if nets.g_output == "tanh" else images

    return folder, compare_with_checkpoint(trained, generate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RECIPES, help="default: both")
    parser.add_argument("--kimg", type=float, help="default: the preset's length")
    parser.add_argument("--grow-kimg", type=float, help="drawn64: length of the low-resolution stage; default: the preset's")
    parser.add_argument("--compute-dtype", default="float32", help="in training only, as in train")
    parser.add_argument("--data", default="drawn", help="drawn or drawn:COUNT")
    parser.add_argument("--workdir", default="runs")
    parser.add_argument("--out", type=Path, default=pretrained.FOLDER)
    ask = parser.parse_args()
    for name, preset in RECIPES.items():
        if ask.only not in (None, name):
            continue
        config = replace(PRESETS[preset], name=name, workdir=ask.workdir, data=ask.data, compute_dtype=ask.compute_dtype)
        config = replace(config, kimg=ask.kimg) if ask.kimg else config
        config = replace(config, grow_kimg=ask.grow_kimg) if ask.grow_kimg and config.run.grow_kimg else config
        folder, gap = make_pretrained(config, ask.out)
        for file in sorted(folder.glob("*.safetensors")):
            print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
        print(f"{name}: float16 kernels change pixels by at most {255 * gap.largest:.2f} of 255 grey levels")


if __name__ == "__main__":
    main()
