"""Makes an animated GIF in which one generated face changes into the next.

    python examples/morph_to_gif.py --run runs/mine --seeds 0-5 --out morph.gif

Writes morph.gif, which repeats: it goes through the faces of all seeds and back to the first.
"""

from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import dcgan_jax
from dcgan_jax import cli


def main(run: str, seeds: str = "0-5", frames_each: int = 24, side: int = 256, out: Path = Path("morph.gif")) -> None:
    """Makes an animated GIF in which one generated face changes into the next.

    Args:
        run: folder of the run, such as runs/mine.
        seeds: seeds and ranges, such as 7,12,40-47; at least two.
        frames_each: frames from one seed to the next.
        side: width and height of the GIF in pixels.
        out: the file, which ends in .gif.
    """
    walk = dcgan_jax.load(run).walk(seeds, frames_each)  # interpolates between the seeds' latents
    [(_, images)] = walk.rows  # (frames, size, size, channels) uint8
    frames = [Image.fromarray(image.squeeze()).resize((side, side), Image.Resampling.NEAREST) for image in np.asarray(images)]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=40, loop=0)  # 40 ms a frame
    print(f"{walk.frames} frames: {out}")


if __name__ == "__main__":
    cli.run_command(lambda: tyro.cli(main))
