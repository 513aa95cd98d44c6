"""Measures what augmentation, a trained GAN and frozen layers are worth when images are few.

    python experiments/small_sets.py --data CELEBA --face-score face_score.py --kimg 400
    python experiments/small_sets.py --data FOLDER --face-score face_score.py --kimg 100 --start drawn32 runs/faces --freeze-d 2

Trains --preset on the last --images of the set, once for each of --ways:

    none        without augmentation
    always      with augmentation that is always active
    adaptive    with adaptive augmentation, as in the preset if it has one
    scratch     as the preset is, from random weights
    start       from the networks of the run --start, once for each of them
    frozen      the same, once for each number of --freeze-d: so many layers of D are not trained

The default is the first three, or the last three with --start. Scores --count samples of each against the first --count images
of the set, which were not trained on; if the set has too few, against its own --images, which were. --features adds a second
network, as in `evaluate`. Also measures whether samples are nearer to training images than to images that were not trained on
(dcgan_jax.quality.memorisation, in pixels). With --start, a preset that grows is trained at its full size alone.
"""

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ablations import ALL, Score, Training, recipe

from dcgan_jax.cli import show_as_flags
from dcgan_jax.config import Config, UserError, replace
from dcgan_jax.config_rules import check_config
from dcgan_jax.data.batches import HELD_OUT_SHARE, select_held_out, select_training
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.presets import PRESETS
from dcgan_jax.quality.memorisation import measure_memorisation
from dcgan_jax.quality.scores import Moments, compute_moments, frechet
from dcgan_jax.run import backend, figures
from dcgan_jax.run.feature_nets import FeatureNetwork, open_feature_network
from dcgan_jax.run.initial_weights import load_initial_weights

AUGMENTED, STARTED = ("none", "always", "adaptive"), ("scratch", "start", "frozen")
SECOND_COUNT = 2000  # samples and real images that the second network sees
ADAPTIVE = {"augment": ALL, "augment_target": 0.8, "augment_adapt_kimg": 100.0}


class Scorer(NamedTuple):
    """Scores samples against real images, and compares their distances to training images with those to others."""

    face_score: Score
    network: FeatureNetwork | None  # a second one
    moments: Moments | None  # of its features of real images
    trained_on: np.ndarray  # (N, S, S, C) uint8
    unseen: np.ndarray  # (U, S, S, C) uint8, at most N
    facts: dict  # of the real images, for each row

    def __call__(self, samples: np.ndarray) -> dict[str, float]:
        scores = self.face_score(samples)
        if self.network and self.moments:
            moments = compute_moments(self.network.features(samples[:SECOND_COUNT]))
            scores |= {"second_frechet": frechet(self.moments, moments)}
        few, unseen, trained_on = (flatten_pixels(images) for images in (samples[:1000], self.unseen, self.trained_on))
        return scores | {"to_training_over_to_held_out": measure_memorisation(few, unseen, [trained_on], seed=0).ratio}


def flatten_pixels(images: np.ndarray) -> np.ndarray:
    return np.float32(images).reshape(len(images), -1) / 255


def make_scorer(ask: argparse.Namespace, images: np.ndarray, few: np.ndarray, held_out: int) -> Scorer:
    """few: (n, S, S, C) uint8, those that are given to training; it leaves out `held_out` of them at most."""
    network = open_feature_network(ask.features, "features") if ask.features else None
    trained_on = few[select_training(len(few), held_out)]
    are_unseen = len(images) >= ask.count + len(few)
    reals = images[: ask.count] if are_unseen else few
    unseen = reals if are_unseen else few[select_held_out(len(few), held_out)]
    print(f"scored against {len(reals)} images that were{' not' if are_unseen else ''} trained on", flush=True)
    moments = compute_moments(network.features(reals[:SECOND_COUNT])) if network else None
    facts = {"real_count": len(reals), "are_reals_unseen": are_unseen, "second": ask.features, "second_count": SECOND_COUNT}
    return Scorer(Score(ask.face_score, reals), network, moments, trained_on, unseen[: min(1000, len(trained_on))], facts)


def list_ways(ask: argparse.Namespace, base: Config) -> list[tuple[str, Config]]:
    """Lists (name, config) of all trainings."""
    changes = {
        "none": {"": {"augment": (), "augment_target": 0.0}},
        "always": {"": {"augment": ALL, "augment_target": 0.0}},
        "adaptive": {"": {} if base.loss.augment_target else ADAPTIVE},
        "scratch": {"": {}},
        "start": {f" {start}": {"start": start} for start in ask.start},
        "frozen": {f" {start} {n}": {"start": start, "freeze_d": n} for start in ask.start for n in ask.freeze_d},
    }
    names = ask.ways or (STARTED if ask.start else AUGMENTED)
    return [(name + details, replace(base, **change)) for name in names for details, change in changes[name].items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--face-score", required=True)
    parser.add_argument("--features", help="a second network, as in evaluate")
    parser.add_argument("--preset", choices=PRESETS, default="best32")
    parser.add_argument("--width", type=int, help="default: the preset's")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kimg", type=float, default=400.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--compute-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--start", nargs="+", default=[], metavar="RUN", help="`start` and `frozen` begin with its weights")
    parser.add_argument(
        "--freeze-d", type=int, nargs="+", default=[1, 2], metavar="N", help="layers of D that `frozen` keeps fixed"
    )
    parser.add_argument("--ways", nargs="+", choices=(*AUGMENTED, *STARTED), help="default: see above")
    parser.add_argument("--out", type=Path, default=Path("runs/small_sets.jsonl"))
    parser.add_argument("--samples", type=Path, help="folder for a grid of each way's samples")
    ask = parser.parse_args()
    settings = {"kimg": ask.kimg, "epochs": None, "seed": ask.seed, "compute_dtype": ask.compute_dtype}
    base = replace(PRESETS[ask.preset], **settings, **({"width": ask.width} if ask.width else {}))
    if {"start", "frozen"} & set(ask.ways or ()) and not ask.start:
        parser.error("the ways start and frozen need --start RUN")
    base = replace(base, grow_kimg=0.0) if ask.start else base
    if base.run.grow_kimg:
        parser.error(f"--preset {ask.preset} grows, and this experiment trains at one size: give another preset")
    backend.start_backend(get_cache_dir())
    ways = list_ways(ask, base)
    try:
        for _, config in ways:
            check_config(config)
            load_initial_weights(config)  # before hours of training, not after
    except UserError as fault:
        parser.error(show_as_flags(str(fault)))
    images = pack_images(open_source(ask.data), size=base.nets.size, channels=3, crop=base.data.crop).images
    if not HELD_OUT_SHARE <= ask.images <= len(images):
        parser.error(f"--images {ask.images}: give {HELD_OUT_SHARE} to {len(images)}, of which some are held out")
    few = images[-ask.images :]
    score = make_scorer(ask, images, few, base.guard.held_out)
    ask.out.parent.mkdir(parents=True, exist_ok=True)
    for way, config in ways:
        samples, seconds = Training(config, few, 1).compile().run(ask.count)
        row = {
            "way": way,
            "recipe": recipe(config),
            "preset": ask.preset,
            "width": base.nets.width,
            "data": ask.data,
            "images": ask.images,
            "kimg": ask.kimg,
            "seed": ask.seed,
            "count": ask.count,
            **score.facts,
            **score(samples),
            "images_per_s": ask.kimg * 1e3 / seconds,
        }
        with ask.out.open("a") as out:
            out.write(json.dumps(row) + "\n")
        cells = (way, ask.seed, *(f"{row.get(name, math.nan):.1f}" for name in ("frechet", "kid_x1e3", "second_frechet")))
        cells = (*cells, f"{row['to_training_over_to_held_out']:.3f}", f"{row['images_per_s']:.0f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        if ask.samples:
            name = f"{way}-{ask.kimg:.0f}-{ask.seed}.png".replace("/", "_").replace(" ", "-")
            ask.samples.mkdir(parents=True, exist_ok=True)
            figures.save_grid(ask.samples / name, samples[:64])


if __name__ == "__main__":
    main()
