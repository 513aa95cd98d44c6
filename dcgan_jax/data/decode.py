"""Decodes, crops and resizes images: files and arrays of any kind become uint8 (N, S, S, C). No side effects."""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.listing import read_image_file
from dcgan_jax.data.sources import MAX_IMAGE_PIXELS, Source

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")  # not EPS and its like: they run programs
MAX_IMAGE_SIDE = 2**18  # PIL's filter takes 16 bytes for each pixel of a side, at any height
# An image above either limit is decoded while no other such image is: it takes up to 1.5 GB, which not every thread may have.
LARGE_PIXELS, LARGE_BYTES = 8_000_000, 16 * 2**20
MAX_SCANNED_PIXELS = 4_000_000_000  # pixels times scans of a progressive JPEG, which has ten; thousands would take hours
_LARGE_IMAGE_LOCK = threading.RLock()

# ---- Crops ----

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the image


def _find_centre_box(width: int, height: int, size: int) -> Box:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2  # whole pixels: half of one blurs an image of the right size
    return left, top, left + side, top + side


def _make_published_box(left: int, top: int, right: int, bottom: int) -> Callable[[int, int, int], Box]:
    """A box in pixels of CelebA's 178 x 218, for an image of any scale."""
    return lambda wide, high, size: (left * wide / 178, top * high / 218, right * wide / 178, bottom * high / 218)


def _find_torch_box(width: int, height: int, size: int) -> Box:
    """torchvision's Resize(size) then CenterCrop(size) as one box, with their rounding to whole rows."""
    scaled = [int(size * side / min(width, height)) for side in (width, height)]
    left, top = (round((side - size) / 2) for side in scaled)
    across, down = width / scaled[0], height / scaled[1]
    return left * across, top * down, (left + size) * across, (top + size) * down


CROPS: dict[str, Callable[[int, int, int], Box]] = {  # (width, height, size) -> box
    "centre": _find_centre_box,
    "squash": lambda width, height, size: (0, 0, width, height),
    "carpedm20": _make_published_box(35, 55, 143, 163),
    "soumith": _make_published_box(30, 40, 168, 178),  # 10 px right of the centre, as published
    "torch": _find_torch_box,
}
CROPS_FOR_ANY_IMAGE = ("centre", "squash")  # the others are boxes around the faces of aligned CelebA

# ---- Many images ----


class Decoded(NamedTuple):
    """The images at some positions of a source."""

    pixels: np.ndarray  # (n, S, S, C) uint8, the readable ones
    kept: list[int]  # their positions in the source
    bad: list[tuple[str, str]]  # names and reasons of the others
    upscaled: int  # how many were smaller than S


def decode_images(source: Source, positions: range, size: int, channels: int, crop: str) -> Decoded:
    """Decodes, crops and resizes the source's images at these positions; size, channels: S and C, 1 or 3; crop: a key of CROPS.

    Thread-safe; PIL and NumPy release the GIL where the time goes.
    """
    if source.draw:
        pixels = source.draw(np.array(positions), size)
        if channels == 1:
            pixels = np.asarray(Image.fromarray(pixels.reshape(-1, size, 3)).convert("L")).reshape(-1, size, size, 1)
        return Decoded(pixels, list(positions), [], 0)
    read = source.read
    assert read, "a source has `read` or `draw`"
    pixels, kept, bad, upscaled = np.empty((len(positions), size, size, channels), np.uint8), [], [], 0
    for position in positions:
        with contextlib.ExitStack() as stack:
            lock_large = functools.partial(stack.enter_context, _LARGE_IMAGE_LOCK)
            try:
                if source.size_bytes(position) > LARGE_BYTES:
                    lock_large()
                image = decode_image(read(position), channels, size, lock_large)
            except Exception as error:  # noqa: BLE001 - a broken file makes zipfile and PIL raise nearly anything
                why = "not an image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
                bad.append((source.label(position), make_printable(why, 200)))
                continue
            box = CROPS[crop](*image.size, size)
            upscaled += min(box[2] - box[0], box[3] - box[1]) < size
            # PIL's bilinear filter widens with the reduction: it does not alias.
            small = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        del image  # before the next is read
        pixels[len(kept)] = np.asarray(small).reshape(size, size, channels)
        kept.append(position)
    return Decoded(pixels[: len(kept)], kept, bad, upscaled)


def measure_square_side(source: Source) -> int:
    """The side in pixels of the source's images, which are squares of one size; reads only their headers.

    Raises: UserError naming the first image that is not.
    """
    if source.draw:
        raise UserError(f"{source.name}: have no size of their own")
    read = source.read
    assert read, "a source has `read` or `draw`"
    side = 0
    for position in range(source.count):
        try:
            image = read(position)
            if isinstance(image, np.ndarray):
                width, height = image.shape[1::-1]
            else:
                width, height = Image.open(io.BytesIO(image), formats=FORMATS).size
        except Exception as fault:  # noqa: BLE001 - as in decode_images
            raise UserError(f"{source.label(position)}: is no image ({make_printable(str(fault), 200)}); remove it") from None
        side = side or width
        if not width == height == side:
            raise UserError(
                f"{source.label(position)}: is {width} x {height}, not {side} x {side}: images that are scored must "
                "be squares, all of one size"
            )
    return side


# ---- One image ----


def decode_image_file(photo: str, size: int, channels: int, crop: str) -> np.ndarray:
    """Decodes one file in the same way as a pack's images: (S, S, C) uint8. Raises: UserError."""
    path = Path(photo).expanduser()
    if not photo or not os.path.isfile(path):
        raise UserError(f"`photo` {photo or repr('')}: is no file; give an image")
    source = Source(
        kind="file",
        name=path.name,
        split="all",
        count=1,
        fingerprint="",
        read=lambda position: read_image_file(path),
        names=(photo,),
        size_bytes=lambda position: path.stat().st_size,
    )
    decoded = decode_images(source, range(1), size, channels, crop)
    if decoded.bad:
        raise UserError(f"`photo` {photo}: {decoded.bad[0][1]}; give an image")
    return decoded.pixels[0]


def decode_image(
    payload: bytes | np.ndarray, channels: int, size: int, lock_large: Callable[[], object] = lambda: None
) -> Image.Image:
    """A file's bytes, or uint8 (H, W) or (H, W, 3 or 4), as an upright RGB or L image. Raises: anything.

    Args: size: the side that the image will be resized to; lock_large: called before more than LARGE_PIXELS are decoded.
    """
    if isinstance(payload, np.ndarray):
        image = Image.fromarray(payload)
    elif not payload:
        raise ValueError("empty")
    else:
        image = _open_image(payload, size, lock_large)
    if image.mode.startswith("I"):  # 16 bits in any of PIL's spellings, which convert() would clip at 255
        wide = np.array(image, np.int32)
        np.clip(wide, 0, 65535, out=wide)
        wide += 128  # then // rounds: 257 is odd
        wide //= 257
        image = Image.fromarray(wide.astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _open_image(payload: bytes, size: int, lock_large: Callable[[], object]) -> Image.Image:
    """An image file, upright and within our limits, in its own mode."""
    image = Image.open(io.BytesIO(payload), formats=FORMATS)  # reads the header alone
    pixels = image.width * image.height
    if pixels > MAX_IMAGE_PIXELS or max(image.size) > MAX_IMAGE_SIDE:
        raise ValueError(f"{image.width} x {image.height} pixels: too large")
    is_jpeg = isinstance(image, JpegImageFile)
    if is_jpeg and pixels * payload.count(b"\xff\xda") > MAX_SCANNED_PIXELS:  # the marker before each scan
        raise ValueError(f"{image.width} x {image.height} pixels in too many scans")
    image.draft(None, (4 * size, 4 * size))  # a JPEG photo is decoded at 1/2 to 1/8, still 4 times the size we want
    # A progressive one is kept whole as coefficients at any scale.
    if max(image.width * image.height, pixels if image.info.get("progressive") else 0) > LARGE_PIXELS:
        lock_large()
    ImageOps.exif_transpose(image, in_place=True)
    return image
