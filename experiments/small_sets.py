"""Measures what augmentation is worth when images are few.

    python experiments/small_sets.py --data CELEBA --face-score face_score.py --kimg 400

Trains --preset on the last --images of the set three times: without augmentation, with augmentation that is always active, and
with adaptive augmentation, as in the preset if it has one. Scores --count samples of each against the first --count images of
the set, which were not trained on. Also measures whether samples are nearer to training images than to others
(dcgan_jax.quality.memorisation, in pixels).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ablations import ALL, Score, Training, recipe

from dcgan_jax.config import replace
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.presets import PRESETS
from dcgan_jax.quality.memorisation import measure_memorisation

ADAPTIVE = {"augment": ALL, "augment_target": 0.8, "augment_adapt_kimg": 100.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--face-score", required=True)
    parser.add_argument("--preset", choices=PRESETS, default="best32")
    parser.add_argument("--width", type=int, help="default: the preset's")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kimg", type=float, default=400.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--ways", nargs="+", choices=("none", "always", "adaptive"), default=["none", "always", "adaptive"])
    parser.add_argument("--out", type=Path, default=Path("runs/small_sets.jsonl"))
    ask = parser.parse_args()
    base = replace(PRESETS[ask.preset], kimg=ask.kimg, epochs=None, seed=ask.seed)
    base = replace(base, width=ask.width) if ask.width else base
    if base.run.grow_kimg:
        parser.error(f"--preset {ask.preset} grows, and this experiment trains at one size: give another preset")
    ways = {
        "none": {"augment": (), "augment_target": 0.0},
        "always": {"augment": ALL, "augment_target": 0.0},
        "adaptive": {} if base.loss.augment_target else ADAPTIVE,
    }
    images = pack_images(open_source(ask.data), size=base.nets.size, channels=3, crop=base.data.crop).images
    if len(images) < ask.count + ask.images:
        parser.error(f"{len(images)} images are fewer than --count and --images together")
    few, others = images[-ask.images :], images[: ask.count]
    score = Score(ask.face_score, others)
    ask.out.parent.mkdir(parents=True, exist_ok=True)
    for way in ask.ways:
        config = replace(base, **ways[way])
        training = Training(config, few, 1).compile()
        faces, seconds = training.run(ask.count)
        some, unseen = (np.float32(of[:1000]).reshape(1000, -1) / 255 for of in (faces, others))
        near = measure_memorisation(some, unseen, [np.float32(few).reshape(len(few), -1) / 255], seed=0)
        row = {
            "way": way,
            "recipe": recipe(config),
            "preset": ask.preset,
            "width": base.nets.width,
            "images": ask.images,
            "kimg": ask.kimg,
            "seed": ask.seed,
            "count": ask.count,
            **score(faces),
            "to_training_over_to_held_out": near.ratio,
            "images_per_s": ask.kimg * 1e3 / seconds,
        }
        with ask.out.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(f"| {way} | {ask.seed} | {row['frechet']:.1f} | {row['kid_x1e3']:.1f} | {near.ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
