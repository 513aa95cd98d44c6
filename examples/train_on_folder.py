"""Trains a GAN on a folder of images.

    python examples/train_on_folder.py --data my-images/ --name mine --kimg 100

Writes the run runs/mine: checkpoints/, samples/ and report.html, which opens in a browser. The same command resumes the run.
"""

import tyro

import dcgan_jax
from dcgan_jax import cli
from dcgan_jax.config import UserError, replace
from dcgan_jax.presets import PRESETS


def main(data: str, name: str = "mine", preset: str = "best32", kimg: float = 100.0, workdir: str = "runs") -> None:
    """Trains a GAN on a folder of images.

    Args:
        data: folder or .zip of images.
        name: name of the run, which is a folder in workdir.
        preset: recipe: best32 for 32 px, best64 for 64 px.
        kimg: length of training, in thousands of real images.
        workdir: folder of all runs.
    """
    if preset not in PRESETS:
        raise UserError(f"`preset` {preset}: give one of {', '.join(PRESETS)}")
    config = replace(PRESETS[preset], data=data, name=name, workdir=workdir, kimg=kimg, steps=None, epochs=None)
    result = dcgan_jax.train(config)
    print(f"step {result.step:,} of {result.total_steps:,}: {result.path / 'report.html'}")


if __name__ == "__main__":
    cli.run_command(lambda: tyro.cli(main))
