"""Scores a run without any pretrained network: python -m dcgan_jax.evaluate --run runs/article"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np

from dcgan_jax import cli
from dcgan_jax.config import BadInput, Split
from dcgan_jax.data.batches import order
from dcgan_jax.data.pack import cache_dir, pack
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.sampling import draw_images
from dcgan_jax.gan.state import init_state
from dcgan_jax.quality.scores import sliced_wasserstein
from dcgan_jax.run import checkpoints, devices, workdir


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Sliced Wasserstein distance between a run's faces and real ones, per pyramid level; smaller is better.

    Compare only at equal count and size, and beside the floor that is printed: one half of the real pictures against the
    other, at half the count. It sees texture and shape, not brightness or contrast.
    """

    run: str
    """the run's folder, as runs/article"""
    data: str = ""
    """real pictures; empty: those the run was trained on"""
    split: Split | None = None
    """part of a partitioned set; none: the run's own part of its own pictures, all of others"""
    count: int = 5000
    """images from each side; a score says nothing at another count"""
    seed: int = 0
    """first of the seeds that are drawn, and the seed of the score's own choices"""
    step: int | None = None
    """checkpoint to score; none: the newest"""
    out: str = ""
    """file that gets the numbers as one more line of JSON; empty: scores.jsonl in the run"""


def main() -> int:
    ask = cli.parse(Evaluate, sys.argv[1:], prog="python -m dcgan_jax.evaluate")
    run = Path(ask.run)
    config = workdir.read_config(run)
    devices.start(cache_dir())
    if ask.count < 2 or not 0 <= ask.seed <= 2**32 - ask.count:
        raise BadInput(f"--count {ask.count} --seed {ask.seed}: at least 2 images, from seeds of 0 to {2**32 - 1}")
    data = ask.data or config.data.data
    source = open_source(data, ask.split or ("all" if ask.data else config.data.split))
    trained_on = workdir.read_data_facts(run)
    is_own = not ask.data and not ask.split
    # A run may be a stranger's, and name any folder of this machine: that is listed, and decoded only if it can be the run's own.
    found = source.count + len(source.refused)
    is_other = is_own and trained_on.get("found", found) != found
    packed = None if is_other else pack(source, size=config.nets.size, channels=config.nets.channels, crop=config.data.crop)
    if is_other or (is_own and not workdir.same_pictures(trained_on, packed.index)):
        raise BadInput(f"{data}: no longer holds the pictures {run} was trained on; name others with --data")
    if len(packed.images) < ask.count:
        raise BadInput(f"--count {ask.count}: {data} has {len(packed.images)} pictures; a score of fewer images is another "
                       f"quantity, so ask for --count {len(packed.images)} yourself")
    step, params, stats = checkpoints.restore_generator(run, jax.eval_shape(lambda: init_state(config)), ask.step)

    # Any real pictures, but always the same for one count: their own order may be by person or class.
    chosen = order(ask.seed, ask.count, len(packed.images))[:ask.count]
    real = packed.images[np.sort(chosen)]
    fake = draw_images(config.nets, params, stats, np.arange(ask.seed, ask.seed + ask.count))
    half = ask.count // 2
    scores = sliced_wasserstein(real, fake, seed=ask.seed)
    floor = sliced_wasserstein(real[0:2 * half:2], real[1:2 * half:2], seed=ask.seed)["mean"]
    line = {"score": "sliced_wasserstein_x1e3", "step": step, "count": ask.count, "seeds": [ask.seed, ask.seed + ask.count - 1],
            "real": packed.index["source"]["name"], "real_fingerprint": packed.index["fingerprint"], "size": config.nets.size,
            "values": {name: round(value, 3) for name, value in scores.items()},
            "floor": round(floor, 3), "floor_count": half}
    file = Path(ask.out) if ask.out else run / "scores.jsonl"
    try:
        if not ask.out and os.path.lexists(file) and (file.is_symlink() or not file.is_file()):  # in a stranger's run, perhaps
            raise BadInput(f"{file}: is a link, or no file; remove it, or give another --out")
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
    except OSError as fault:
        raise BadInput(f"{file}: {fault.strerror}; give an --out that can be written") from None
    levels = "  ".join(f"{name} px {value:.2f}" for name, value in scores.items() if name != "mean")
    print(f"sliced Wasserstein x1e3, step {step:,}, N {ask.count}, seeds {ask.seed}..{ask.seed + ask.count - 1}: "
          f"mean {scores['mean']:.2f}  ({levels}); floor {floor:.2f} at N {half}; {file}")
    return 0


def entry() -> None:
    """The console script."""
    cli.run_verb(main)


if __name__ == "__main__":
    entry()
