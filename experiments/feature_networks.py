"""Checks that a feature network is fit to compare faces, and scores the samples of models with it.

    python experiments/feature_networks.py --data CELEBA --size 64 --features efficientnet-lite0 experiments/mobilenet.py:features
        [--samples FACES.npy ...]

Frechet distances of N real images, damaged in several ways and strengths, to N other real images of the same set. The undamaged
images give the floor. It is fit if the distance grows with every strength. FACES.npy: the samples of a model
(python -m dcgan_jax.sample --count N --out FACES.npy).
"""

import argparse

import numpy as np
from scipy.ndimage import gaussian_filter

from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.quality import scores
from dcgan_jax.run import backend
from dcgan_jax.run.feature_nets import open_feature_network

BLURS = (0.5, 1.0, 1.5)  # standard deviation in pixels
NOISES = (2.0, 5.0, 10.0)  # standard deviation in grey levels
MODES = (500, 50, 1)  # different images that are left


def damage(images: np.ndarray) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Damages (N, S, S, 3) uint8 images: kind -> [(strength, images)], weakest first."""
    noise = np.random.default_rng(0).standard_normal(images.shape, np.float32)

    def to_uint8(pixels: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

    return {
        "blur": [(f"{sd} px", to_uint8(gaussian_filter(images.astype(np.float32), (0, sd, sd, 0)))) for sd in BLURS],
        "noise": [(f"{sd:.0f} levels", to_uint8(images + sd * noise)) for sd in NOISES],
        "modes": [(f"{count} images", images[np.arange(len(images)) % count]) for count in MODES],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--crop", default="centre")
    parser.add_argument("--count", type=int, default=2500, help="N")
    parser.add_argument("--features", nargs="+", required=True, help="as in evaluate")
    parser.add_argument("--samples", nargs="*", default=[], help=".npy of uint8 images of this size")
    ask = parser.parse_args()
    backend.start_backend(get_cache_dir())
    images = pack_images(open_source(ask.data, "all"), size=ask.size, channels=3, crop=ask.crop).images
    shuffled = np.random.default_rng(0).permutation(len(images))[: 2 * ask.count]
    reference, undamaged = (np.asarray(images[np.sort(half)]) for half in np.split(shuffled, 2))
    models = {"samples": [(file, np.load(file, allow_pickle=False)[: ask.count]) for file in ask.samples]}
    print(
        f"| Frechet distance, N {ask.count} | strength | "
        + " | ".join(ask.features)
        + " |\n|---|---|"
        + "---:|" * len(ask.features)
    )
    networks = [open_feature_network(place, "features") for place in ask.features]
    real = [scores.compute_moments(network.features(reference)) for network in networks]
    for kind, variants in ({"none": [("floor", undamaged)]} | damage(undamaged) | models).items():
        for strength, some in variants:
            found = [
                scores.frechet(moments, scores.compute_moments(network.features(some)))
                for network, moments in zip(networks, real, strict=True)
            ]
            print(f"| {kind} | {strength} | " + " | ".join(f"{distance:.2f}" for distance in found) + " |", flush=True)


if __name__ == "__main__":
    main()
