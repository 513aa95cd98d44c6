"""Packs pictures for training and shows what it found: python -m dcgan_jax.prepare --data PATH --size 64"""

import dataclasses
import sys
from typing import Literal

import numpy as np

from dcgan_jax import cli
from dcgan_jax import config as configuration
from dcgan_jax.config import BadInput, Config, Crop, Split
from dcgan_jax.data.pack import pack
from dcgan_jax.data.sources import open_source
from dcgan_jax.run import pictures

SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Decodes, crops and resizes pictures once, into the cache that training reads."""

    data: str
    """folder, .zip, .npy (uint8 N,H,W,C), CelebA in any usual form, tfds:NAME, drawn or drawn:COUNT"""
    size: int = 64
    """image side in pixels, a power of two from 16 to 256"""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour"""
    split: Split = "all"
    """part of a partitioned set"""
    crop: Crop = "centre"
    """square taken from each picture; published boxes apply to CelebA, other pictures get the centre"""
    strict: bool = False
    """stop at the first picture that cannot be read"""


def main() -> int:
    ask = cli.parse(Prepare, sys.argv[1:], prog="python -m dcgan_jax.prepare")
    configuration.check(configuration.replace(Config(), size=ask.size, steps=1))
    source = open_source(ask.data, ask.split)
    packed = pack(source, size=ask.size, channels=ask.channels, crop=ask.crop, strict=ask.strict)
    index = packed.index
    preview = packed.path / "preview.png"
    # Spread over the whole set: its beginning may be one person, or one class.
    shown = packed.images[np.linspace(0, index["count"] - 1, min(SHOWN, index["count"])).astype(int)]
    try:
        pictures.save_grid(preview, shown)
    except OSError as fault:
        raise BadInput(f"{preview}: {fault.strerror}; the pack is good, or set DCGAN_JAX_CACHE to another folder") from None
    print(f"{source.kind}: {source.name}, split {source.split}")
    print(f"  {index['count']:,} pictures packed at {ask.size} px, {ask.channels} channels, crop {index['crop']}, "
          f"{packed.images.nbytes / 1e6:,.1f} MB")
    print(f"  {index['skipped']:,} skipped, {index['upscaled']:,} enlarged, {index['ignored']:,} other files ignored")
    if index["attributes"]:
        print(f"  {len(index['attributes'])} attributes: {', '.join(index['attributes'][:8])} ...")
    print(f"  pack {packed.path}\n  look at {preview}")
    return 0


def entry() -> None:
    """The console script."""
    cli.run_verb(main)


if __name__ == "__main__":
    entry()
