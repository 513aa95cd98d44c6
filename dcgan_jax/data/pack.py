"""Pictures decoded, cropped and resized once: a `Source` becomes one uint8 (N, S, S, C) memory map in a cache.

A pack is written beside its place and renamed into it, so what stands there is whole. It is found again by a
fingerprint of all that made it: source, split, size, channels, crop.
"""

import collections
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from tqdm import tqdm

from dcgan_jax import files
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.listing import read_image_file
from dcgan_jax.data.sources import MAX_IMAGE_PIXELS, Source, hash_facts, map_npy

PIXELS = 1  # raise it whenever the same source would pack to other pixels: runs on the old ones then ask for them
FORMAT = 3  # raise it whenever index.json says other things: packs are made again, and runs go on
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")  # not EPS and its like: they run programs
MAX_PICTURE_SIDE = 2**18  # PIL's filter takes 16 bytes for each pixel of a side, at any height
# A picture above either is decoded while no other such is: it takes up to 1.5 GB, which not every thread may have.
LARGE_PIXELS, LARGE_BYTES = 8_000_000, 16 * 2**20
MAX_SCANNED_PIXELS = 4_000_000_000  # pixels times scans of a progressive JPEG, which has ten; thousands would take hours
MAX_BAD_SHARE = 0.05
CHUNK_BYTES = 4 * 2**20  # of packed pixels: what a thread does at a time
TEMP = ".packing@"  # then pid@host@random
STALE_AFTER_S = 24 * 3600
SPREAD_OF = 2000  # pictures: enough for a mean over thousands of pixels, and a second's work at most
# Measured at 16 to 128 px: drawn faces 43 to 49, CelebA 50 to 70 with its crop; one photograph saved at qualities 30 to 95: 4.
ALIKE_BELOW = 8  # grey levels
FEW = 50  # pictures: so few can be looked at, and may be grey or alike by chance


@dataclasses.dataclass(frozen=True)
class Packed:
    """A pack, open."""

    images: np.memmap  # (N, S, S, C) uint8, read-only
    index: dict  # index.json: what was found, skipped and why, how it was cut, fingerprint
    path: Path  # its folder


# ---- One picture, without side effects ----

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the picture


def _box_centre(width: int, height: int, size: int) -> Box:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2  # whole pixels: half of one blurs a picture of the right size
    return left, top, left + side, top + side


def _box_published(left: int, top: int, right: int, bottom: int) -> Callable[[int, int, int], Box]:
    """A box in pixels of CelebA's 178 x 218, for a picture of any scale."""
    return lambda wide, high, size: (left * wide / 178, top * high / 218, right * wide / 178, bottom * high / 218)


def _box_torch(width: int, height: int, size: int) -> Box:
    """torchvision's Resize(size) then CenterCrop(size) as one box, with their rounding to whole rows."""
    scaled = [int(size * side / min(width, height)) for side in (width, height)]
    left, top = (round((side - size) / 2) for side in scaled)
    across, down = width / scaled[0], height / scaled[1]
    return left * across, top * down, (left + size) * across, (top + size) * down


CROPS: dict[str, Callable[[int, int, int], Box]] = {  # (width, height, size) -> box
    "centre": _box_centre,
    "squash": lambda width, height, size: (0, 0, width, height),
    "carpedm20": _box_published(35, 55, 143, 163),
    "soumith": _box_published(30, 40, 168, 178),  # 10 px right of the centre, as published
    "torch": _box_torch,
}
FOR_ANY_PICTURE = ("centre", "squash")  # the others are boxes around the faces of aligned CelebA


def _decode(payload: bytes | np.ndarray, channels: int, size: int, alone: Callable[[], None] = lambda: None) -> Image.Image:
    """A file's bytes, or uint8 (H, W) or (H, W, 3 or 4), as an upright RGB or L image. Raises: anything.

    alone: called before more than LARGE_PIXELS are decoded.
    """
    if isinstance(payload, np.ndarray):
        image = Image.fromarray(payload)
    elif not payload:
        raise ValueError("empty")
    else:
        image = Image.open(io.BytesIO(payload), formats=FORMATS)  # reads the header alone
        pixels = image.width * image.height
        if pixels > MAX_IMAGE_PIXELS or max(image.size) > MAX_PICTURE_SIDE:
            raise ValueError(f"{image.width} x {image.height} pixels: too large")
        is_jpeg = isinstance(image, JpegImageFile)
        if is_jpeg and pixels * payload.count(b"\xff\xda") > MAX_SCANNED_PIXELS:  # the marker before each scan
            raise ValueError(f"{image.width} x {image.height} pixels in too many scans")
        image.draft(None, (4 * size, 4 * size))  # a JPEG photo is decoded at 1/2 to 1/8, still 4 times the size we want
        # A progressive one is kept whole as coefficients at any scale.
        if max(image.width * image.height, pixels if image.info.get("progressive") else 0) > LARGE_PIXELS:
            alone()
        ImageOps.exif_transpose(image, in_place=True)
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


def measure_square_side(source: Source) -> int:
    """The side in pixels of the source's pictures, which are squares of one size; only their headers are read.

    Raises: UserError naming the first that is not.
    """
    if source.draw:
        raise UserError(f"{source.name}: have no size of their own")
    side = 0
    for position in range(source.count):
        try:
            picture = source.read(position)
            width, height = (
                picture.shape[1::-1] if isinstance(picture, np.ndarray) else Image.open(io.BytesIO(picture), formats=FORMATS).size
            )
        except Exception as fault:  # noqa: BLE001 - as in _pack_chunk
            raise UserError(f"{source.label(position)}: is no picture ({make_printable(str(fault), 200)}); remove it") from None
        side = side or width
        if not width == height == side:
            raise UserError(
                f"{source.label(position)}: is {width} x {height}, not {side} x {side}: pictures that are scored must "
                "be squares, all of one size"
            )
    return side


class _Chunk(NamedTuple):
    pixels: np.ndarray  # (n, S, S, C) uint8, the good ones
    kept: list[int]  # their positions in the source
    bad: list[tuple[str, str]]  # names and reasons of the others
    upscaled: int
    digests: list[bytes]  # of each good one's pixels
    grey: int  # how many have R = G = B throughout; 0 where there is one channel


_LARGE = threading.RLock()


def _pack_chunk(source: Source, positions: range, size: int, channels: int, crop: str) -> _Chunk:
    """Runs in a thread; PIL and NumPy release the GIL where the time goes."""
    if source.draw:
        pixels = source.draw(np.array(positions), size)
        if channels == 1:
            pixels = np.asarray(Image.fromarray(pixels.reshape(-1, size, 3)).convert("L")).reshape(-1, size, size, 1)
        return _Chunk(pixels, list(positions), [], 0, *_measure_looks(pixels))
    pixels, kept, bad, upscaled = np.empty((len(positions), size, size, channels), np.uint8), [], [], 0
    for position in positions:
        with contextlib.ExitStack() as held:
            alone = functools.partial(held.enter_context, _LARGE)
            try:
                if source.size_bytes(position) > LARGE_BYTES:
                    alone()
                image = _decode(source.read(position), channels, size, alone)
            except Exception as error:  # noqa: BLE001 - a broken file makes zipfile and PIL raise nearly anything
                why = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
                bad.append((source.label(position), make_printable(why, 200)))
                continue
            box = CROPS[crop](*image.size, size)
            upscaled += min(box[2] - box[0], box[3] - box[1]) < size
            # PIL's bilinear filter widens with the reduction: it does not alias.
            small = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        del image  # before the next is read
        pixels[len(kept)] = np.asarray(small).reshape(size, size, channels)
        kept.append(position)
    pixels = pixels[: len(kept)]
    return _Chunk(pixels, kept, bad, upscaled, *_measure_looks(pixels))


def decode_image_file(photo: str, size: int, channels: int, crop: str) -> np.ndarray:
    """The picture of that file as one of a pack would be, (S, S, C) uint8. Raises: UserError."""
    path = Path(photo).expanduser()
    if not photo or not os.path.isfile(path):
        raise UserError(f"`photo` {photo or repr('')}: is no file; give a picture")
    one = Source(
        "file",
        path.name,
        "all",
        1,
        "",
        read=lambda position: read_image_file(path),
        names=(photo,),
        size_bytes=lambda position: path.stat().st_size,
    )
    chunk = _pack_chunk(one, range(1), size, channels, crop)
    if chunk.bad:
        raise UserError(f"`photo` {photo}: {chunk.bad[0][1]}; give a picture")
    return chunk.pixels[0]


def _measure_looks(pixels: np.ndarray) -> tuple[list[bytes], int]:
    """Digests of (n, S, S, C) pictures, and how many of them are grey in three channels."""
    digests = [hashlib.blake2b(np.ascontiguousarray(picture), digest_size=16).digest() for picture in pixels]
    if pixels.shape[-1] == 1:
        return digests, 0
    # Every eighth pixel clears nearly all of them for an eighth of an eighth of the time.
    maybe = [picture for picture in pixels if _is_grey(picture[::8, ::8])]
    return digests, sum(map(_is_grey, maybe))


def _is_grey(picture: np.ndarray) -> bool:
    return bool((picture == picture[..., :1]).all())


# ---- All pictures, into the cache ----


def get_cache_dir() -> Path:
    """$DCGAN_JAX_CACHE, else dcgan_jax in $XDG_CACHE_HOME, else in ~/.cache. Need not exist."""
    own, shared = os.environ.get("DCGAN_JAX_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own).expanduser() if own else Path(shared or Path.home() / ".cache") / "dcgan_jax"


def pack_images(
    source: Source, *, size: int, channels: int, crop: str, strict: bool = False, progress: bool = True, doubt: bool = True
) -> Packed:
    """The source's pictures as one memory map: from the cache if they are there, else decoded now.

    Args:
        size, channels: S and C of the result; C is 1 or 3.
        crop: a key of CROPS. Published ones are for aligned CelebA; others get the centre square, with a warning.
        strict: stop at the first bad picture. Otherwise they are skipped, up to MAX_BAD_SHARE.
        progress: a bar on a terminal, two lines elsewhere. Warnings are printed in any case.
        doubt: also say what is suspicious about them as training pictures.
    Raises: UserError for too many bad pictures, and where the cache cannot be written.
    """
    used = "drawn" if source.draw else crop if source.is_celeba or crop in FOR_ANY_PICTURE else "centre"
    if used == "centre" != crop:
        _warn(f"{source.name} is not aligned CelebA: its centre squares are used, not the crop {crop}")
    fingerprint = hash_facts(PIXELS, source.fingerprint, size, channels, used)
    path = get_cache_dir() / "packs" / fingerprint[:16]
    try:
        packed = _open_pack(path, fingerprint)
        if packed is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            temp = path.parent / f"{TEMP}{os.getpid()}@{socket.gethostname()}@{secrets.token_hex(4)}"
            try:
                temp.mkdir()  # in here: a signal may come right behind it
                facts = {"format": FORMAT, "fingerprint": fingerprint, "size": size, "channels": channels, "crop": used}
                _write(temp, source, facts, strict, progress)
                try:
                    os.rename(temp, path)
                except OSError:
                    if not path.exists():  # if it does, another process packed the same and was first
                        raise
                packed = _open_pack(path, fingerprint)
                if packed is None:
                    raise OSError(f"{path.name} is being changed by others")
            finally:
                shutil.rmtree(temp, ignore_errors=True)  # nothing is left there after a success
    except OSError as error:  # a source's own errors are its pictures', and do not come here
        needed_mb = source.count * size * size * channels / 1e6
        raise UserError(
            f"{path.parent} cannot take a pack of {needed_mb:.0f} MB: {error.strerror or error};"
            " free some space or set DCGAN_JAX_CACHE to another folder"
        ) from error
    index = packed.index
    if strict:
        _stop_if_strict(index["skipped_first"])  # the pack may be an older one, made without strict
    if index["skipped"]:
        some = f"{index['skipped']} of {index['found']} pictures of {source.name}"
        _warn(f"skipped {some}: {_list_bad(index['skipped_first'])}")
    if index["upscaled"]:
        _warn(f"{index['upscaled']} of {index['count']} pictures of {source.name} are smaller than {size} px: enlarged")
    for line in find_data_warnings(index) if doubt else ():
        _warn(f"{source.name}: {line}")
    return packed


def read_labels(packed: Packed, condition: str) -> tuple[tuple[str, ...], np.ndarray]:
    """(names, (N, A) uint8 of 0 and 1) of the attributes in `condition`, names with commas between, or all.

    Raises: UserError where the pictures do not have them.
    """
    there, name = packed.index["attributes"], packed.index["source"]["name"]
    if not there:
        raise UserError(
            f"`condition` {condition}: {name} come without attributes; give `data` that has some: CelebA with "
            "list_attr_celeba.txt, drawn faces, or a folder for each class"
        )
    names = tuple(there) if condition == "all" else tuple(condition.split(","))
    for asked in names:
        if asked not in there:
            raise UserError(
                f"`condition` {make_printable(asked, 100)}: {name} have no such attribute; {suggest_nearest(asked, there)}"
            )
    values = np.load(packed.path / "attributes.npy", allow_pickle=False)
    return names, values[:, [there.index(asked) for asked in names]]


def suggest_nearest(asked: str, there: Sequence[str]) -> str:
    """What to say of a name that is none of those there."""
    lower = {name.lower(): name for name in there}
    near = [lower[name] for name in difflib.get_close_matches(asked.lower(), lower, n=3, cutoff=0.4)]
    return make_printable(f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(there)}", 500)


def find_data_warnings(index: dict) -> list[str]:
    """What looks wrong with the pictures of an index.json, one line each with its number and what to try; [] where nothing."""
    count, lines = index["count"], []
    if count < FEW:
        return lines
    if index["spread"] < ALIKE_BELOW:
        lines.append(
            f"the {count:,} pictures are nearly alike (they differ by {index['spread']:.1f} grey levels; photographs of"
            " faces by 50 to 70): G can only learn this one; look at preview.png, and try another --data or --crop"
        )
    if index["channels"] == 3 and index["grey"] >= 0.99:
        lines.append(f"{index['grey']:.1%} of the {count:,} pictures are grey: try --channels 1, which spends nothing on colours")
    if index["duplicates"] >= 1000 or index["duplicates"] > 0.1 * count:
        lines.append(
            f"{index['duplicates']:,} of {count:,} pictures are the same as an earlier one, pixel for pixel: D learns"
            " them by heart sooner; remove the copies"
        )
    return lines


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _list_bad(bad: list[tuple[str, str]]) -> str:
    return make_printable(", ".join(f"{name} ({why})" for name, why in bad[:10]))


def _stop_if_strict(bad: list[tuple[str, str]]) -> None:
    if bad:
        raise UserError(f"{bad[0][0]}: {bad[0][1]}; remove the picture, or drop `strict` to skip it")


def _write(temp: Path, source: Source, facts: dict, strict: bool, progress: bool) -> None:
    """Fills temp with images.npy, index.json and, where the source has attributes, attributes.npy. Raises: as pack."""
    size, channels, start = facts["size"], facts["channels"], time.monotonic()
    kept, bad, upscaled, found = [], list(source.refused), 0, source.count + len(source.refused)
    digests, grey = [], 0
    if shutil.disk_usage(temp).free < source.count * size * size * channels:
        raise OSError("the disk is too full")
    is_terminal = sys.stderr.isatty()
    if progress and not is_terminal:
        print(f"packing {source.count} pictures of {source.name} at {size} px into {temp.parent}", file=sys.stderr)
    bar = tqdm(total=source.count, desc=f"packing at {size} px", unit=" img", disable=not (progress and is_terminal))
    # Plain writes, in order: a full disk is an OSError here, and would be a bus error in a memory map.
    with open(temp / "images.npy", "wb") as file, bar:
        header_bytes = _write_header(file, (source.count, size, size, channels))
        for chunk in _chunks(source, size, channels, facts["crop"]):
            file.write(np.ascontiguousarray(chunk.pixels))
            kept += chunk.kept
            bad += chunk.bad
            upscaled += chunk.upscaled
            digests += chunk.digests
            grey += chunk.grey
            if strict:
                _stop_if_strict(bad)
            if len(bad) > MAX_BAD_SHARE * found:
                raise UserError(
                    f"{source.name}: already {len(bad)} of {found} pictures cannot be used, more than"
                    f" {MAX_BAD_SHARE:.0%}: {_list_bad(bad)}; remove or replace them"
                )
            bar.update(len(chunk.kept) + len(chunk.bad))
        file.seek(0)
        assert _write_header(file, (len(kept), size, size, channels)) == header_bytes  # NumPy leaves room for the count
        file.flush()
        os.fsync(file.fileno())  # else a power cut could leave a whole-looking pack of zeros
    names, values = source.attributes() or ((), None)
    if values is not None:
        np.save(temp / "attributes.npy", values[kept])
    index = facts | {
        "count": len(kept),
        "found": found,
        "ignored": source.ignored,
        "skipped": len(bad),
        "skipped_first": bad[:10],
        "upscaled": upscaled,
        "pixels": hashlib.sha256(b"".join(digests)).hexdigest(),  # of what the networks see, wherever it lay
        "duplicates": len(digests) - len(set(digests)),
        "grey": grey / max(len(kept), 1),
        "spread": _spread(np.lib.format.open_memmap(temp / "images.npy", mode="r")),
        "attributes": names,
        "source": {name: getattr(source, name) for name in ("kind", "name", "split", "is_celeba", "fingerprint")},
    }
    (temp / "index.json").write_text(json.dumps(index, indent=1))
    if progress and not is_terminal:
        print(f"packed {len(kept)} pictures in {time.monotonic() - start:.1f} s", file=sys.stderr)


def _spread(images: np.ndarray) -> float:
    """The mean over pixels of the standard deviation over pictures, in grey levels, of SPREAD_OF of them or all."""
    shown = np.linspace(0, len(images) - 1, min(SPREAD_OF, len(images))).astype(int)
    mean, square = np.zeros((2, *images.shape[1:]))
    for at in shown:  # one at a time: all of them would be gigabytes at 256 px
        picture = images[at].astype(float)
        mean += picture / len(shown)
        square += picture**2 / len(shown)
    return float(np.sqrt(np.maximum(square - mean**2, 0)).mean())  # rounding may leave -1e-12


def _write_header(file, shape: tuple[int, ...]) -> int:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _chunks(source: Source, size: int, channels: int, crop: str) -> Iterator[_Chunk]:
    """All chunks in order, a few in flight. Threads, not processes: JAX's own threads would not survive a fork."""
    step = min(256, max(1, CHUNK_BYTES // (size * size * channels)))
    workers, waiting = os.cpu_count() or 1, collections.deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for start in range(0, source.count, step):
            positions = range(start, min(start + step, source.count))
            waiting.append(pool.submit(_pack_chunk, source, positions, size, channels, crop))
            if len(waiting) > workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


INDEX = {
    "format": int,
    "fingerprint": str,
    "size": int,
    "channels": int,
    "crop": str,
    "count": int,
    "found": int,
    "ignored": int,
    "skipped": int,
    "skipped_first": list,
    "upscaled": int,
    "pixels": str,
    "duplicates": int,
    "grey": float,
    "spread": float,
    "attributes": list,
    "source": dict,
}
SOURCE = {"kind": str, "name": str, "split": str, "is_celeba": bool, "fingerprint": str}


def _is_index(index: dict) -> bool:
    """Whether an index.json holds all that _write puts there, so that none of its readers stumbles later."""

    def holds(values, kinds):
        return all(type(values.get(name)) is kind for name, kind in kinds.items())

    return (
        holds(index, INDEX)
        and holds(index["source"], SOURCE)
        and all(type(name) is str for name in index["attributes"])
        and all(type(pair) is list and list(map(type, pair)) == [str, str] for pair in index["skipped_first"])
    )


def _open_pack(path: Path, fingerprint: str) -> Packed | None:
    """The pack at path, or None where there is none; a broken one is removed."""
    if not path.exists():
        return None
    try:
        index = files.load_json(path / "index.json")
        images = map_npy(path / "images.npy")  # raises if the file is too short
        shape = (index["count"], index["size"], index["size"], index["channels"])
        if index["fingerprint"] != fingerprint or images.shape != shape or images.dtype != np.uint8:
            raise ValueError("its index tells of another pack")
        if index["format"] != FORMAT:  # an older program's: its pixels are good, its index says less
            shutil.rmtree(path, ignore_errors=True)
            return None
        if not _is_index(index):
            raise ValueError("its index is not as it was written")
        return Packed(images, index, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _warn(f"the pack {path} is broken ({error}): making it again")
        shutil.rmtree(path, ignore_errors=True)
        return None


def _sweep(packs: Path) -> None:
    """Removes what killed packers left: at once if the owner was on this machine and is dead, else after a day."""
    for temp in packs.glob(f"{TEMP}*"):
        try:
            if time.time() - temp.stat().st_mtime < STALE_AFTER_S:
                pid, host = temp.name.split("@")[1:3]
                if host == socket.gethostname() and os.name == "posix":  # elsewhere kill(pid, 0) is no question
                    os.kill(int(pid), 0)
                continue
        except ProcessLookupError:
            pass
        except (OSError, ValueError):  # gone meanwhile, or another user's
            continue
        shutil.rmtree(temp, ignore_errors=True)
