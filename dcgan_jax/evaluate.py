"""Scores a run, with or without a pretrained network: python -m dcgan_jax.evaluate --run runs/article"""

import dataclasses
import hashlib
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
from dcgan_jax.quality import inception
from dcgan_jax.quality.scores import frechet, kid, manifolds, moments, sliced_wasserstein
from dcgan_jax.run import checkpoints, devices, weights, workdir

FEATURES_AT_ONCE = 50  # pictures in the Inception: 0.5 GB


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Sliced Wasserstein distance between a run's faces and real ones, per pyramid level; smaller is better.

    Compare only at equal count and size, and beside the floor that is printed: one half of the real pictures against the
    other, at half the count. It sees texture and shape, not brightness or contrast.

    With --inception also FID, KID, precision, recall, density and coverage on the original FID's features.
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
    inception: str = ""
    """the FID Inception's weights, pt_inception-2015-12-05-6726825d.pth or its arrays as .npz or .safetensors; empty: no FID"""
    out: str = ""
    """file that gets the numbers as one more line of JSON; empty: scores.jsonl in the run"""


def main() -> int:
    ask = cli.parse(Evaluate, sys.argv[1:], prog="python -m dcgan_jax.evaluate")
    run = Path(ask.run)
    config = workdir.read_config(run)
    devices.start(cache_dir())
    if ask.count < 2 or not 0 <= ask.seed <= 2**32 - ask.count:
        raise BadInput(f"--count {ask.count} --seed {ask.seed}: at least 2 images, from seeds of 0 to {2**32 - 1}")
    layers, weights_sha256 = _inception(Path(ask.inception)) if ask.inception else (None, None)
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
    of = {"step": step, "count": ask.count, "seeds": [ask.seed, ask.seed + ask.count - 1],
          "real": packed.index["source"]["name"], "real_fingerprint": packed.index["fingerprint"], "size": config.nets.size}
    found = [{"score": "sliced_wasserstein_x1e3"} | of | {"values": {name: round(value, 3) for name, value in scores.items()},
                                                          "floor": round(floor, 3), "floor_count": half}]
    if layers:
        on_real, on_fake = (_features(layers, images) for images in (real, fake))
        values = {"fid": frechet(moments(on_real), moments(on_fake)), **kid(on_real, on_fake, seed=ask.seed),
                  **manifolds(on_real, on_fake)}
        floor_fid = frechet(moments(on_real[0:2 * half:2]), moments(on_real[1:2 * half:2]))
        found.append({"score": "inception"} | of | {
            "values": values, "floor": floor_fid, "floor_count": half, "resize": "TensorFlow 1 bilinear to 299 px",
            "weights_sha256": weights_sha256})
    file = Path(ask.out) if ask.out else run / "scores.jsonl"
    try:
        if not ask.out and os.path.lexists(file) and (file.is_symlink() or not file.is_file()):  # in a stranger's run, perhaps
            raise BadInput(f"{file}: is a link, or no file; remove it, or give another --out")
        with file.open("a") as lines:
            lines.writelines(json.dumps(line) + "\n" for line in found)
    except OSError as fault:
        raise BadInput(f"{file}: {fault.strerror}; give an --out that can be written") from None
    levels = "  ".join(f"{name} px {value:.2f}" for name, value in scores.items() if name != "mean")
    print(f"sliced Wasserstein x1e3, step {step:,}, N {ask.count}, seeds {ask.seed}..{ask.seed + ask.count - 1}: "
          f"mean {scores['mean']:.2f}  ({levels}); floor {floor:.2f} at N {half}; {file}")
    if layers:
        print(f"FID {values['fid']:.2f} (floor {floor_fid:.2f} at N {half}), KID x1e3 {1e3 * values['kid']:.2f} +- "
              f"{1e3 * values['kid_sd']:.2f}, " + ", ".join(
                  f"{name} {values[name]:.3f}" for name in ("precision", "recall", "density", "coverage")))
    return 0


def _inception(file: Path) -> tuple[dict, str]:
    """The network's layers, and the file's SHA-256, of which the published one's begins with its name's last part."""
    try:
        layers = inception.folded(weights.read(file))
        with open(file, "rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except ValueError as fault:
        raise BadInput(f"--inception {file}: {fault}") from None
    promised = file.stem.rpartition("-")[2]
    if file.suffix == ".pth" and len(promised) == 8 and not sha256.startswith(promised):
        raise BadInput(f"--inception {file}: its SHA-256 begins with {sha256[:8]}, not {promised} as its name says: get it anew")
    return layers, sha256


def _features(layers, images: np.ndarray) -> np.ndarray:
    """(N, S, S, C) uint8 -> (N, 2048) float32."""
    network, parts = jax.jit(inception.features), []
    for start in range(0, len(images), FEATURES_AT_ONCE):
        some = images[start:start + FEATURES_AT_ONCE]
        padded = np.zeros((FEATURES_AT_ONCE, *images.shape[1:3], 3), np.uint8)  # one program, also for the last ones
        padded[:len(some)] = some  # grey pictures three times
        parts.append(np.asarray(network(layers, padded))[:len(some)])
    return np.concatenate(parts)


def entry() -> None:
    """The console script."""
    cli.run_verb(main)


if __name__ == "__main__":
    entry()
