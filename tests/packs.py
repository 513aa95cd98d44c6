"""Makes packs of small images for the tests of dcgan_jax.data."""

import io
import os

import numpy as np
from PIL import Image

from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import Source, open_source

# A folder with img_align_celeba.zip and list_eval_partition.txt. It is not part of the repository: tests skip without it.
BESIDE_THE_CHECKOUT = os.path.join(os.path.dirname(__file__), "..", "..", "shared", "data", "celeba")
REAL_FACES = os.environ.get("DCGAN_JAX_TEST_CELEBA") or BESIDE_THE_CHECKOUT
NO_REAL_FACES = "no CelebA here: DCGAN_JAX_TEST_CELEBA may name a folder with img_align_celeba.zip"


def folder(tmp_path, count=40, name="in"):
    """Makes a folder of different valid images: PNGs of noise, 20 x 24."""
    rng = np.random.default_rng(0)
    for at in range(count):
        path = tmp_path / name / f"{at:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)
    return tmp_path / name


def pack(path, **changes):
    return pack_images(open_source(str(path)), **({"size": 16, "channels": 3, "crop": "centre"} | changes))


def packs(cache):
    return sorted(os.listdir(cache / "packs")) if (cache / "packs").exists() else []


def one(payload, size, channels=3, crop="squash", is_celeba=False):
    """Packs a source of one image. Returns: the image, (S, S, C) uint8."""
    name = str(hash(payload if isinstance(payload, bytes) else payload.tobytes()))
    source = Source("folder", "test", "all", 1, name, read=lambda _: payload, is_celeba=is_celeba)
    return pack_images(source, size=size, channels=channels, crop=crop).images[0]


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
