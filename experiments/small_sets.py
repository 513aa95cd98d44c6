"""Measures what augmentation, a trained GAN and frozen layers are worth when images are few.

    python experiments/small_sets.py --data CELEBA --face-score face_score.py --kimg 400
    python experiments/small_sets.py --data FOLDER --face-score face_score.py --kimg 100 --start runs/faces --freeze-d 1 2

Trains --preset on the last --images of the set, once for each of --ways:

    none        without augmentation
    always      with augmentation that is always active
    adaptive    with adaptive augmentation, as in the preset if it has one
    scratch     as the preset is, from random weights
    start       from the networks of the run --start
    frozen      the same, once for each number of --freeze-d: so many layers of D are not trained

The default is the first three, or the last three with --start. Scores --count samples of each against the first --count images
of the set, which were not trained on. Also measures whether samples are nearer to training images than to others
(dcgan_jax.quality.memorisation, in pixels). With --start, a preset that grows is trained at its full size alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ablations import ALL, Score, Training, recipe

from dcgan_jax.cli import show_as_flags
from dcgan_jax.config import UserError, replace
from dcgan_jax.config_rules import check_config
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.presets import PRESETS
from dcgan_jax.quality.memorisation import measure_memorisation
from dcgan_jax.run.initial_weights import load_initial_weights

AUGMENTED, STARTED = ("none", "always", "adaptive"), ("scratch", "start", "frozen")
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
    parser.add_argument("--start", help="run with the same networks, whose weights `start` and `frozen` begin with")
    parser.add_argument(
        "--freeze-d", type=int, nargs="+", default=[1, 2], metavar="N", help="layers of D that `frozen` keeps fixed"
    )
    parser.add_argument("--ways", nargs="+", choices=(*AUGMENTED, *STARTED), help="default: see above")
    parser.add_argument("--out", type=Path, default=Path("runs/small_sets.jsonl"))
    ask = parser.parse_args()
    base = replace(PRESETS[ask.preset], kimg=ask.kimg, epochs=None, seed=ask.seed, compute_dtype="float32")
    base = replace(base, width=ask.width) if ask.width else base
    names = ask.ways or (STARTED if ask.start else AUGMENTED)
    if {"start", "frozen"} & set(names) and not ask.start:
        parser.error("the ways start and frozen need --start RUN")
    base = replace(base, grow_kimg=0.0) if ask.start else base
    if base.run.grow_kimg:
        parser.error(f"--preset {ask.preset} grows, and this experiment trains at one size: give another preset")
    changes = {
        "none": [{"augment": (), "augment_target": 0.0}],
        "always": [{"augment": ALL, "augment_target": 0.0}],
        "adaptive": [{} if base.loss.augment_target else ADAPTIVE],
        "scratch": [{}],
        "start": [{"start": ask.start}],
        "frozen": [{"start": ask.start, "freeze_d": count} for count in ask.freeze_d],
    }
    ways = [(name, replace(base, **change)) for name in names for change in changes[name]]
    try:
        for _, config in ways:
            check_config(config)
            load_initial_weights(config)  # before hours of training, not after
    except UserError as fault:
        parser.error(show_as_flags(str(fault)))
    images = pack_images(open_source(ask.data), size=base.nets.size, channels=3, crop=base.data.crop).images
    if len(images) < ask.count + ask.images:
        parser.error(f"{len(images)} images are fewer than --count and --images together")
    few, others = images[-ask.images :], images[: ask.count]
    score = Score(ask.face_score, others)
    ask.out.parent.mkdir(parents=True, exist_ok=True)
    for name, config in ways:
        way = f"{name} {config.optimizer.freeze_d}" if name == "frozen" else name
        training = Training(config, few, 1).compile()
        faces, seconds = training.run(ask.count)
        some, unseen = (np.float32(of[:1000]).reshape(len(of[:1000]), -1) / 255 for of in (faces, others))
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
