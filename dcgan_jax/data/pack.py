"""Packs the images of a source: decoded, cropped and resized, as one uint8 (N, S, S, C) memory map in the cache.

A pack is written under a temporary name and then renamed, so an existing pack is complete. Its name is a fingerprint of the
source, split, size, channels and crop. Later runs find it by this name.
"""

import collections
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from dcgan_jax import files, terminal
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.attributes import match_name, suggest_nearest
from dcgan_jax.data.cache import create_folder_atomically, get_cache_dir
from dcgan_jax.data.checks import count_grey, find_data_warnings, hash_images, measure_spread
from dcgan_jax.data.decode import CROPS_FOR_ANY_IMAGE, Decoded, decode_images
from dcgan_jax.data.file_kinds import count_photos, fill_remedy, hide_pillow_messages, suggest_remedy
from dcgan_jax.data.pack_index import check_attributes, describe_attributes, describe_source, is_index
from dcgan_jax.data.sources import Source, hash_facts, map_npy
from dcgan_jax.machine import count_cores

PIXELS_VERSION = 1  # increase it when the same source packs to other pixels: older runs then refuse to resume on them
INDEX_VERSION = 4  # increase it when the entries of index.json change: packs are then made again, and runs still resume
MAX_BAD_SHARE = 0.05
CHUNK_BYTES = 4 * 2**20  # packed pixels per task of a thread


@dataclasses.dataclass(frozen=True)
class Pack:
    """An open pack."""

    images: np.memmap  # (N, S, S, C) uint8, read-only
    index: dict  # index.json: counts, skipped images with reasons, crop, fingerprint
    path: Path  # its folder


def pack_images(
    source: Source, *, size: int, channels: int, crop: str, strict: bool = False, progress: bool = True, check: bool = True
) -> Pack:
    """Returns the source's images as one memory map. Decodes them if they are not in the cache yet.

    Args:
        size, channels: S and C of the result; C is 1 or 3.
        crop: a key of CROPS. The published crops are for aligned CelebA; other images get the centre square, with a warning.
        strict: stop at the first bad image. Otherwise bad images are skipped, up to MAX_BAD_SHARE.
        progress: show a bar on a terminal, or else print two lines. Warnings are always printed.
        check: also warn of problems with the images as training images.
    Raises: UserError for too many bad images, or if the cache cannot be written.
    """
    used_crop = "drawn" if source.draw else crop if source.is_celeba or crop in CROPS_FOR_ANY_IMAGE else "centre"
    if used_crop == "centre" != crop:
        _warn(f"{source.name} is not aligned CelebA: the centre square of each image is used instead of the crop {crop}")
    if source.celeba_table and used_crop not in CROPS_FOR_ANY_IMAGE:
        _warn(f"{source.name} counts as aligned CelebA because of {source.celeba_table}: give `crop` centre unless it is")
    fingerprint = hash_facts(PIXELS_VERSION, source.fingerprint, size, channels, used_crop)
    path = get_cache_dir() / "packs" / fingerprint[:16]
    try:
        pack = _open_pack(path, fingerprint)
        if pack is None:
            with create_folder_atomically(path) as temp:
                facts = {
                    "format": INDEX_VERSION,
                    "fingerprint": fingerprint,
                    "size": size,
                    "channels": channels,
                    "crop": used_crop,
                }
                _write_pack(temp, source, facts, strict, progress)
            pack = _open_pack(path, fingerprint)
            if pack is None:
                raise OSError(f"another process changes {path.name}")
    except OSError as error:  # errors of single images do not get here: decode_images catches them
        needed_mb = source.count * size * size * channels / 1e6
        raise UserError(
            f"cannot write a pack of {needed_mb:.0f} MB to {path.parent}: {error.strerror or error};"
            " free some space or set DCGAN_JAX_CACHE to another folder"
        ) from error
    if strict:
        _raise_at_first(pack.index["skipped_first"])  # the pack may be from an earlier run without strict
    pack = dataclasses.replace(pack, index=pack.index | describe_source(source))
    _print_warnings(source, pack.index, check)
    return pack


def read_labels(pack: Pack, condition: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Reads the labels of the attributes in `condition`: names separated by commas, or "all".

    Returns: names, and labels (N, A) uint8 of 0 and 1. Raises: UserError if the images do not have these attributes.
    """
    index = pack.index
    available, source_name, refused = index["attributes"], index["source"]["name"], dict(index["refused_attributes"])
    known = [*available, *refused]
    names = tuple(available) if condition == "all" else tuple(match_name(name, known) for name in condition.split(","))
    for name in refused if condition == "all" else names:
        if name in refused:
            raise UserError(
                f"`condition` {make_printable(condition, 100)}: {refused[name]}; correct it, or give other attributes"
            )
    if not available:
        reasons = [*index["source_warnings"], *index["label_warnings"], *index["label_notes"]]
        raise UserError(
            f"`condition` {condition}: {source_name} has no attributes"
            + (f": {'; '.join(reasons)}" if reasons else "")
            + "; give `data` with attributes: CelebA with list_attr_celeba.txt, drawn faces, or a folder for each class"
        )
    for name in names:
        if name not in available:
            shown, nearest = make_printable(name, 100), suggest_nearest(name, available)
            raise UserError(f"`condition` {shown}: not an attribute of {source_name}; {nearest}")
    values = np.array(map_npy(pack.path / "attributes.npy"))
    return names, values[:, [available.index(name) for name in names]]


def read_all_labels(pack: Pack) -> tuple[tuple[str, ...], np.ndarray]:
    """Reads the labels of all attributes, as `read_labels`. Leaves out columns that were not understood, which "all" refuses."""
    return read_labels(pack, ",".join(pack.index["attributes"]))


# ---- Messages ----


def _print_warnings(source: Source, index: dict, check: bool) -> None:
    for count, type_, kind in count_photos(index["ignored_types"]):
        _warn(f"{source.name}: {count:,} {type_} files are left out (each is {kind.name}): {fill_remedy(kind, f'*{type_}')}")
    for line in (*index["source_warnings"], *index["label_warnings"]):
        _warn(line)
    if index["skipped"]:
        share = f"{index['skipped']} of {index['found']} images of {source.name}"
        _warn(f"skipped {share}: {_list_bad(index['skipped_first'])}")
    if index["upscaled"]:
        _warn(f"{index['upscaled']} of {index['count']} images of {source.name} are smaller than {index['size']} px: enlarged")
    for line in find_data_warnings(index) if check else ():
        _warn(f"{source.name}: {line}")


def _warn(line: str) -> None:
    terminal.say(f"warning: {line}", "stderr")


def _list_bad(bad: list[tuple[str, str]]) -> str:
    return make_printable(", ".join(f"{name} ({why})" for name, why in bad[:10]))


def _raise_at_first(bad: list[tuple[str, str]]) -> None:
    if bad:
        raise UserError(f"{bad[0][0]}: {bad[0][1]}; remove the image, or drop `strict` to skip it")


# ---- Writing a pack ----


class _Chunk(NamedTuple):
    """A part of a pack, made by one task of a thread."""

    decoded: Decoded
    digests: list[bytes]  # one of each image's pixels
    grey: int  # number of images with R = G = B in every pixel


@dataclasses.dataclass
class _Totals:
    """Totals over the chunks written so far."""

    kept: list[int]  # positions of packed images in the source
    bad: list[tuple[str, str]]  # (name, reason), including files that the source refused
    upscaled: int = 0
    digests: list[bytes] = dataclasses.field(default_factory=list)
    grey: int = 0

    def add(self, chunk: _Chunk) -> None:
        self.kept += chunk.decoded.kept
        self.bad += chunk.decoded.bad
        self.upscaled += chunk.decoded.upscaled
        self.digests += chunk.digests
        self.grey += chunk.grey


def _write_pack(temp: Path, source: Source, facts: dict, strict: bool, progress: bool) -> None:
    """Writes images.npy, index.json and, if the source has attributes, attributes.npy into temp. Raises: like pack_images."""
    start, is_terminal = time.monotonic(), terminal.is_terminal()
    if shutil.disk_usage(temp).free < source.count * facts["size"] ** 2 * facts["channels"]:
        raise OSError("the disk is too full")
    if progress and not is_terminal:
        terminal.say(f"packing {source.count} images of {source.name} at {facts['size']} px into {temp.parent}", "stderr")
    bar = tqdm(
        total=source.count,
        desc=f"packing at {facts['size']} px",
        unit=" img",
        file=terminal.get_stream("stderr"),
        disable=not (progress and is_terminal),
    )
    # Not through a memory map, where a full disk would be a bus error. Here it is an OSError.
    with open(temp / "images.npy", "wb") as file, bar, hide_pillow_messages():
        totals = _write_images(file, source, facts, strict, bar)
    attributes = source.attributes()
    if attributes.values is not None:
        np.save(temp / "attributes.npy", attributes.values[totals.kept])
    spread = measure_spread(np.lib.format.open_memmap(temp / "images.npy", mode="r"))
    index = facts | _make_index(source, totals, spread) | describe_attributes(attributes, totals.kept)
    (temp / "index.json").write_text(json.dumps(index | describe_source(source), indent=1), encoding="utf-8")
    if progress and not is_terminal:
        terminal.say(f"packed {len(totals.kept)} images in {time.monotonic() - start:.1f} s", "stderr")


def _write_images(file: BinaryIO, source: Source, facts: dict, strict: bool, bar: tqdm) -> _Totals:
    """Writes images.npy. Raises: UserError for too many bad images, or with strict for the first one."""
    size, channels = facts["size"], facts["channels"]
    totals, listed = _Totals([], list(source.refused)), source.count + len(source.refused)
    header_bytes = _write_header(file, (source.count, size, size, channels))
    for chunk in _make_chunks(source, size, channels, facts["crop"]):
        file.write(np.ascontiguousarray(chunk.decoded.pixels).data)
        totals.add(chunk)
        if strict:
            _raise_at_first(totals.bad)
        if len(totals.bad) > MAX_BAD_SHARE * listed:
            raise UserError(
                f"{source.name}: already {len(totals.bad)} of {listed} images cannot be used, more than"
                f" {MAX_BAD_SHARE:.0%}: {_list_bad(totals.bad)}; {suggest_remedy(why for _, why in totals.bad)}"
            )
        bar.update(len(chunk.decoded.kept) + len(chunk.decoded.bad))
    file.seek(0)
    final_bytes = _write_header(file, (len(totals.kept), size, size, channels))
    if final_bytes != header_bytes:  # NumPy pads the header for a growing first axis
        raise RuntimeError(f"the header of images.npy needs {final_bytes} bytes, but {header_bytes} are free")
    return totals


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _make_index(source: Source, totals: _Totals, spread: float) -> dict:
    return {
        "count": len(totals.kept),
        "found": source.count + len(source.refused),
        "skipped": len(totals.bad),
        "skipped_first": totals.bad[:10],
        "upscaled": totals.upscaled,
        "pixels": hashlib.sha256(b"".join(totals.digests)).hexdigest(),  # independent of where the images are stored
        "duplicates": len(totals.digests) - len(set(totals.digests)),
        "grey": totals.grey / max(len(totals.kept), 1),
        "spread": spread,
    }


def _make_chunks(source: Source, size: int, channels: int, crop: str) -> Iterator[_Chunk]:
    """Yields all chunks in order, a few of them computed in advance. By threads: JAX's own threads would not survive a fork."""
    step = min(256, max(1, CHUNK_BYTES // (size * size * channels)))
    workers, waiting = count_cores(), collections.deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for start in range(0, source.count, step):
            positions = range(start, min(start + step, source.count))
            waiting.append(pool.submit(_make_chunk, source, positions, size, channels, crop))
            if len(waiting) > workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _make_chunk(source: Source, positions: range, size: int, channels: int, crop: str) -> _Chunk:
    """Makes one chunk. Thread-safe."""
    decoded = decode_images(source, positions, size, channels, crop)
    return _Chunk(decoded, hash_images(decoded.pixels), count_grey(decoded.pixels))


# ---- Opening a pack ----


def _open_pack(path: Path, fingerprint: str) -> Pack | None:
    """Opens the pack at path. Returns None if there is none. Removes a broken or outdated pack and returns None."""
    if not path.exists():
        return None
    try:
        index = files.load_json(path / "index.json")
        images = map_npy(path / "images.npy")  # raises if the file is too short
        shape = (index["count"], index["size"], index["size"], index["channels"])
        if index["fingerprint"] != fingerprint or images.shape != shape or images.dtype != np.uint8:
            raise ValueError("its index describes another pack")
        if index["format"] != INDEX_VERSION:  # written by another version: the index has other entries
            shutil.rmtree(path, ignore_errors=True)
            return None
        if not is_index(index):
            raise ValueError("its index was changed")
        check_attributes(path, index)
        return Pack(images, index, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _warn(f"the pack {path} is broken ({error}): making it again")
        shutil.rmtree(path, ignore_errors=True)
        return None
