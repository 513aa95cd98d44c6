"""Decodes, crops and resizes images: files and arrays of all kinds become uint8 (N, S, S, C). It writes nothing."""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.file_kinds import HEAD_BYTES, find_kind_of_content, hide_pillow_messages, is_tga, list_formats
from dcgan_jax.data.listing import read_image_file
from dcgan_jax.data.sources import MAX_IMAGE_PIXELS, Source
from dcgan_jax.places import expand_home

MAX_IMAGE_SIDE = 2**18  # PIL's resizing filter needs 16 bytes per pixel of a side, whatever the other side
# Images above either limit are decoded one at a time, because each needs up to 1.5 GB.
LARGE_PIXELS, LARGE_BYTES = 8_000_000, 16 * 2**20
MAX_SCANNED_PIXELS = 4_000_000_000  # pixels times scans of a progressive JPEG: usual are ten scans, thousands would take hours
_LARGE_IMAGE_LOCK = threading.RLock()

# ---- Crops ----

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the image


def _find_centre_box(width: int, height: int, size: int) -> Box:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2  # whole pixels: half a pixel would blur the image
    return left, top, left + side, top + side


def _make_published_box(left: int, top: int, right: int, bottom: int) -> Callable[[int, int, int], Box]:
    """Makes a crop from a box in pixels of aligned CelebA (178 x 218); the crop scales with the image."""
    return lambda wide, high, size: (left * wide / 178, top * high / 218, right * wide / 178, bottom * high / 218)


def _find_torch_box(width: int, height: int, size: int) -> Box:
    """Returns the box of torchvision's Resize(size) and CenterCrop(size), with their rounding to whole pixels."""
    scaled = [int(size * side / min(width, height)) for side in (width, height)]
    left, top = (round((side - size) / 2) for side in scaled)
    across, down = width / scaled[0], height / scaled[1]
    return left * across, top * down, (left + size) * across, (top + size) * down


CROPS: dict[str, Callable[[int, int, int], Box]] = {  # (width, height, size) -> box
    "centre": _find_centre_box,
    "squash": lambda width, height, size: (0, 0, width, height),
    "carpedm20": _make_published_box(35, 55, 143, 163),
    "soumith": _make_published_box(30, 40, 168, 178),  # as published, 10 px right of the centre
    "torch": _find_torch_box,
}
CROPS_FOR_ANY_IMAGE = ("centre", "squash")  # the others are boxes around the faces of aligned CelebA

# ---- Many images ----


class Decoded(NamedTuple):
    """Decoded images at some positions of a source."""

    pixels: np.ndarray  # (n, S, S, C) uint8, of the readable images
    kept: list[int]  # positions of the readable images in the source
    bad: list[tuple[str, str]]  # (name, reason) of the other images
    upscaled: int  # number of images that were smaller than S


def decode_images(source: Source, positions: range, size: int, channels: int, crop: str, keep_squares: bool = False) -> Decoded:
    """Decodes, crops and resizes the images at some positions of a source.

    Args: size: S; channels: C, 1 or 3; crop: a key of CROPS; keep_squares: do not crop square images.
    Thread-safe. PIL and NumPy release the GIL during the slow operations.
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
            except Exception as error:  # noqa: BLE001 - for a broken file zipfile and PIL raise many types
                bad.append((source.label(position), make_printable(str(error) or type(error).__name__, 200)))
                continue
            is_kept = keep_squares and image.width == image.height
            box = CROPS["squash" if is_kept else crop](*image.size, size)
            upscaled += min(box[2] - box[0], box[3] - box[1]) < size
            # PIL's bilinear filter gets wider when it reduces an image, so it does not alias.
            small = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        del image  # frees its memory before the next image is read
        pixels[len(kept)] = np.asarray(small).reshape(size, size, channels)
        kept.append(position)
    return Decoded(pixels[: len(kept)], kept, bad, upscaled)


def measure_square_side(source: Source) -> int:
    """Returns the side in pixels of the source's images, which must be squares of one size. Reads only their headers.

    Raises: UserError with the name of the first image of another shape.
    """
    if source.draw:
        raise UserError(f"{source.name}: have no fixed size; give image files")
    read = source.read
    assert read, "a source has `read` or `draw`"
    side = 0
    for position in range(source.count):
        try:
            image = read(position)
            with hide_pillow_messages():
                width, height = image.shape[1::-1] if isinstance(image, np.ndarray) else _identify(image).size
        except Exception as fault:  # noqa: BLE001 - as in decode_images
            raise UserError(f"{source.label(position)}: {make_printable(str(fault), 200)}; remove it") from None
        side = side or width
        if not width == height == side:
            raise UserError(
                f"{source.label(position)}: is {width} x {height}, not {side} x {side}: images to score must be squares "
                "of one size; resize or remove it"
            )
    return side


# ---- One image ----


def decode_image_file(photo: str, size: int, channels: int, crop: str) -> np.ndarray:
    """Decodes one file like the images of a pack, but does not crop a square: (S, S, C) uint8. Raises: UserError."""
    path = Path(expand_home(photo))
    if not photo or not os.path.isfile(path):
        raise UserError(f"`photo` {photo or repr('')}: not a file; give the path of an image")
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
    with hide_pillow_messages():
        decoded = decode_images(source, range(1), size, channels, crop, keep_squares=True)
    if decoded.bad:
        raise UserError(f"`photo` {photo}: {decoded.bad[0][1]}; give an image")
    return decoded.pixels[0]


def decode_image(
    payload: bytes | np.ndarray, channels: int, size: int, lock_large: Callable[[], object] = lambda: None
) -> Image.Image:
    """Decodes one image to RGB or L (grey), upright. May raise any exception.

    Args: payload: a file's bytes, or uint8 (H, W) or (H, W, 3 or 4); size: the side to which the image will be resized;
        lock_large: called before an image of more than LARGE_PIXELS is decoded.
    """
    if isinstance(payload, np.ndarray):
        image = Image.fromarray(payload)
    elif not payload:
        raise ValueError("empty")
    else:
        image = _open_image(payload, size, lock_large)
    if image.mode.startswith("I"):  # PIL's modes for 16 bits, which convert() would clip at 255
        wide = np.array(image, np.int32)
        np.clip(wide, 0, 65535, out=wide)
        wide += 128  # so that // 257 rounds to the nearest number
        wide //= 257
        image = Image.fromarray(wide.astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _open_image(payload: bytes, size: int, lock_large: Callable[[], object]) -> Image.Image:
    """Opens an image file, upright, in its own mode. Raises: ValueError for an image above the limits, and PIL's exceptions."""
    image = _identify(payload)
    pixels = image.width * image.height
    if pixels > MAX_IMAGE_PIXELS or max(image.size) > MAX_IMAGE_SIDE:
        raise ValueError(f"{image.width} x {image.height} pixels: too large")
    is_jpeg = isinstance(image, JpegImageFile)
    if is_jpeg and pixels * payload.count(b"\xff\xda") > MAX_SCANNED_PIXELS:  # the marker before each scan
        raise ValueError(f"{image.width} x {image.height} pixels in too many scans")
    image.draft(None, (4 * size, 4 * size))  # decodes a JPEG at 1/2 to 1/8 of its size, but at least at 4 times `size`
    # For a progressive JPEG all coefficients are in memory at any scale.
    if max(image.width * image.height, pixels if image.info.get("progressive") else 0) > LARGE_PIXELS:
        lock_large()
    image.load()  # first, because TIFF images are turned here
    turn = TURNS.get(_read_orientation(image))
    return image.transpose(turn) if turn is not None else image


def _identify(payload: bytes) -> Image.Image:
    """Reads the header of an image file. Raises: ValueError with what the file is, if it is no image; PIL's exceptions."""
    try:
        return Image.open(io.BytesIO(payload), formats=("TGA",) if is_tga(payload) else list_formats())
    except UnidentifiedImageError:
        kind = find_kind_of_content(payload[:HEAD_BYTES])
        what = f" but {kind.name}" if kind else " but zeros" if not any(payload[:HEAD_BYTES]) else ""
        raise ValueError(f"not an image{what}") from None


TURNS = {  # EXIF orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _read_orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 if there is none that can be read.

    ImageOps.exif_transpose also writes the metadata again, which fails for odd metadata of good images.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow raises many types for damaged metadata; the pixels do not depend on it
        return 1
    value = value[0] if isinstance(value, tuple) and value else value
    return value if value in TURNS else 1
