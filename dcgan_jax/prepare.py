"""Packs images for training and reports on them: python -m dcgan_jax.prepare --data PATH --size 64

With --download in place of --data it downloads them first.
"""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dcgan_jax import cli
from dcgan_jax import config as configuration
from dcgan_jax.arguments import fill_flags
from dcgan_jax.command_lines import quote_word
from dcgan_jax.config import Config, Crop, Split, UserError, make_printable
from dcgan_jax.config_rules import check_config
from dcgan_jax.data import download as downloads
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.pack_index import describe_left_out
from dcgan_jax.data.sources import open_source
from dcgan_jax.run import figures

PREVIEW_IMAGES = 60


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Decodes, crops and resizes images once, into the cache that training reads."""

    data: str = ""
    """folder, .zip, .npy (uint8 N,H,W,C), CelebA in any usual form, tfds:NAME, drawn or drawn:COUNT"""
    download: Literal["", "article", "celeba"] = ""
    """data set to download, in place of --data.
    article: the article's zip, 89,931 faces of 64 px; celeba: all 202,599 images, through TFDS or from --url"""
    url: str = ""
    """another http(s) address of that zip"""
    sha256: str = ""
    """expected SHA-256 of the zip, 64 hexadecimal digits; none: not checked; empty: the published one, if any"""
    to: str = ""
    """folder for the download; empty: downloads/ in the cache"""
    size: int = 64
    """image side in pixels, a power of two from 16 to 256"""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour"""
    split: Split = "all"
    """part of a data set that is partitioned, as CelebA is"""
    crop: Crop = "centre"
    """square to crop from each image; published boxes apply to CelebA, other images are cropped at the centre"""
    strict: bool = False
    """stop at the first unreadable image instead of skipping it"""


class Prepared(NamedTuple):
    """A pack of images, and what was found in the source."""

    data: str  # value of `data` for training
    kind: str  # of the source
    name: str
    split: str
    images: np.ndarray  # (N, S, S, C) uint8, a memory map
    index: dict  # of the pack: counts, crop, attributes
    path: Path
    preview: Path  # a sheet with some of the images


def main() -> int:
    ask = cli.parse_flags(Prepare, sys.argv[1:], prog="python -m dcgan_jax.prepare")
    print("\n".join(describe(prepare(**vars(ask)), is_download=bool(ask.download))))
    return 0


def prepare(
    data: str | Path = "",
    download: Literal["", "article", "celeba"] = "",
    url: str = "",
    sha256: str = "",
    to: str | Path = "",
    size: int = 64,
    channels: Literal[1, 3] = 3,
    split: Split = "all",
    crop: Crop = "centre",
    strict: bool = False,
) -> Prepared:
    """Packs images for training, and downloads them first on request.

    The arguments are the command's flags: see `Prepare`. Raises: UserError.
    """
    ask = fill_flags(Prepare, locals())
    _check_flags(ask)
    check_config(configuration.replace(Config(), size=ask.size, steps=1))
    place = _download(ask) if ask.download else ask.data
    source = open_source(place, ask.split)
    packed = pack_images(source, size=ask.size, channels=ask.channels, crop=ask.crop, strict=ask.strict)
    preview = packed.path / "preview.png"
    # Spread over the whole set, since the first images may show one person or one class.
    count = packed.index["count"]
    shown = packed.images[np.linspace(0, count - 1, min(PREVIEW_IMAGES, count)).astype(int)]
    try:
        figures.save_grid(preview, shown)
    except OSError as fault:
        raise UserError(
            f"{preview}: {fault.strerror}; only the preview is missing. To write it, set DCGAN_JAX_CACHE to another folder"
        ) from None
    return Prepared(place, source.kind, source.name, source.split, packed.images, packed.index, packed.path, preview)


def describe(found: Prepared, is_download: bool) -> list[str]:
    """Describes a pack in lines to print. is_download: also how to train on it."""
    index, images = found.index, found.images
    lines = [
        f"{found.kind}: {found.name}, split {found.split}",
        f"  {index['count']:,} images packed at {images.shape[1]} px, {images.shape[3]} channels, crop {index['crop']}, "
        f"{images.nbytes / 1e6:,.1f} MB",
        f"  {index['skipped']:,} skipped, {index['upscaled']:,} enlarged, {index['ignored']:,} other files ignored"
        + (f" ({describe_left_out(index)})" if index["ignored"] else ""),
    ]
    if index["attributes"]:
        names = make_printable(", ".join(index["attributes"][:8]), 200)
        lines.append(f"  {len(index['attributes'])} attributes: {names}" + (" ..." if len(index["attributes"]) > 8 else ""))
    lines += [f"  note: {line}" for line in (*index["source_notes"], *index["label_notes"])]
    lines += [f"  pack {found.path}", f"  look at {found.preview}"]
    return lines + ([f"  train on it with --data {quote_word(found.data)}"] if is_download else [])


def _check_flags(ask: Prepare) -> None:
    """Raises UserError for flags that are missing or do not fit together."""
    if bool(ask.data) == bool(ask.download):
        raise UserError("give either `data` PATH or `download` article|celeba" + (", not both" if ask.data else ""))
    if ask.data and (ask.url or ask.sha256 or ask.to):
        raise UserError("`url`, `sha256` and `to` belong to `download`: leave them out, or leave out `data`")
    if not re.fullmatch("|none|[0-9a-f]{64}", ask.sha256.lower()):
        raise UserError(f"`sha256` {make_printable(ask.sha256)}: must be 64 hexadecimal digits, or none")
    if ask.download == "celeba" and not ask.url and (ask.sha256 or ask.to):
        raise UserError(
            "`download` celeba without `url` uses TFDS, which checks the files itself and has its own folder "
            "(TFDS_DATA_DIR): leave out `sha256` and `to`, or give `url`"
        )


def _download(ask: Prepare) -> str:
    """Downloads the requested data set. Returns its value of --data. Raises: UserError."""
    if ask.download == "celeba" and not ask.url:
        return downloads.prepare_with_tfds()
    file = downloads.PUBLISHED[ask.download]
    if ask.url:
        file = file._replace(url=ask.url)
    if ask.sha256:  # the user may name another file than the published one
        file = file._replace(sha256=ask.sha256.lower().replace("none", ""), size_bytes=0)
    return str(downloads.download_file(file, Path(ask.to) if ask.to else get_cache_dir() / "downloads"))


def entry() -> None:
    """Runs the command as the console script dcgan-prepare."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
