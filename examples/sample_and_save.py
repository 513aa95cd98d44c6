"""Generates samples of a trained run and saves each as a PNG.

    python examples/sample_and_save.py --run runs/mine --seeds 0-15 --out faces/

Writes faces/0.png to faces/15.png, and faces/latents.npy, the latents of these seeds as (16, 100) float32.
A seed gives the same image in every call.
"""

from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.seeds import to_seed_array


def main(run: str, seeds: str = "0-15", out: Path = Path("faces")) -> None:
    """Generates samples of a trained run and saves each as a PNG.

    Args:
        run: folder of the run, such as runs/mine.
        seeds: seeds and ranges, such as 7,12,40-47.
        out: folder for the images.
    """
    gan = dcgan_jax.load(run)
    images = gan.sample(seeds)  # (N, size, size, channels) uint8
    out.mkdir(parents=True, exist_ok=True)
    for seed, image in zip(to_seed_array(seeds), images, strict=True):
        Image.fromarray(np.asarray(image).squeeze()).save(out / f"{seed}.png")  # squeeze: a grey image has one channel
    np.save(out / "latents.npy", gan.latents(seeds))
    print(f"{len(images)} samples of step {gan.step:,}: {out}")


if __name__ == "__main__":
    cli.run_command(lambda: tyro.cli(main))
