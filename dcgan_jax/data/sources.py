"""Sources of training images: `open_source` makes a `Source` from the value of `data`. It lists and reads, but does not decode.

A source is a folder, a zip (read in place), CelebA in its usual layouts, a TFDS data set, a .npy, or drawn faces.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data import drawn_faces
from dcgan_jax.data.attributes import (
    LABELS_VERSION,
    TableFile,
    describe_unused,
    find_tables,
    read_celeba_attributes,
    read_partition,
)
from dcgan_jax.data.class_folders import Attributes, make_folder_attributes
from dcgan_jax.data.companions import describe_companions, find_companions
from dcgan_jax.data.listing import (
    ALIGNED,
    TABLE_STEMS,
    Entry,
    Listing,
    list_folder,
    list_zip,
    make_one_line,
    open_zip,
    read_image_file,
    refuse_file,
    sort_entries,
)
from dcgan_jax.data.tensorflow_import import import_tfds
from dcgan_jax.places import expand_home

SPLITS = ("train", "valid", "test", "all")  # the first three are codes 0, 1, 2 of CelebA's partition file
MAX_IMAGE_PIXELS = 80_000_000  # 240 MB as RGB
DRAWN_COUNT, DRAWN_SEED = 20_000, 0  # a fixed seed, so that the run's seed does not change its training images
MAX_DRAWN = 10_000_000


@dataclasses.dataclass(frozen=True)
class Source:
    """Images by position, not yet decoded. A source has either `read` or `draw`.

    read: position -> a file's bytes, or uint8 (H, W) or (H, W, 3 or 4). Thread-safe; may raise any exception.
    draw: (positions (N,), size) -> (N, size, size, 3) uint8, painted at that size.
    """

    kind: str  # folder, zip, celeba, tfds, npy or drawn
    name: str  # short, for messages
    split: str
    count: int  # listed images, some of which may be unreadable
    fingerprint: str  # hex; depends on all names, sizes, dates and checksums, on the split and on the labels
    read: Callable[[int], bytes | np.ndarray] | None = None
    draw: Callable[[np.ndarray, int], np.ndarray] | None = None
    is_celeba: bool = False  # aligned CelebA at any scale: the published crops apply
    celeba_table: str = ""  # the table for which alone the images count as aligned CelebA; "" if they are called so
    names: Sequence[str] = ()
    size_bytes: Callable[[int], int] = lambda position: 0  # memory that `read` needs; 0 if it is small
    refused: tuple[tuple[str, str], ...] = ()  # (name, reason) of refused files, which are not in `count`
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)  # type -> number of files that are not images
    attributes: Callable[[], Attributes] = Attributes
    warnings: tuple[str, ...] = ()  # problems of its tables, besides those that `attributes` finds
    notes: tuple[str, ...] = ()  # other facts, such as pictures that are left out

    def label(self, position: int) -> str:
        """Returns an image's name for messages, on one line."""
        return make_one_line(self.names[position]) if self.names else f"{self.name} #{position}"


def open_source(data: str, split: str = "all") -> Source:
    """Opens the source that `data` names and lists its images. Their order depends on their names alone.

    Args:
        data: drawn, drawn:COUNT, tfds:NAME, or the path of a folder, a .zip or a .npy (uint8 (N, H, W[, C])).
        split: train, valid, test or all; the first three need CelebA's list_eval_partition file or a TFDS split.
    Raises: UserError for data that is missing, damaged, empty or of an unknown kind.
    """
    if split not in SPLITS:
        raise UserError(f"`split` {split}: must be one of {', '.join(SPLITS)}")
    scheme, _, rest = data.partition(":")
    if scheme == "drawn":
        return _open_drawn(data, rest, split)
    if scheme == "tfds":
        return _open_tfds(data, rest, split)
    if rest.startswith("//"):
        raise UserError(f"`data` {data} is an address: download the file first, then give its path")
    path = Path(expand_home(data))
    if not data or not os.path.exists(path):  # os.path: False, not an error, for impossible names
        given = data or "''"
        raise UserError(f"`data` {given} does not exist: give a folder or .zip of images, a .npy, tfds:NAME or drawn")
    try:
        inside = [path / below / ALIGNED for below in ("", "celeba")]  # torchvision keeps CelebA in celeba/
        path = next((p for p in (*inside, *(p.with_suffix(".zip") for p in inside)) if p.exists()), path)
        if path.is_dir():
            return _open_files(path, None, list_folder(path), split)
        if not path.is_file():  # reading a pipe would block, and a device may have no end
            raise UserError(f"`data` {path} is a pipe or a device: give a folder or .zip of images, or a .npy")
        if path.suffix.lower() == ".npy":
            return _open_npy(path, split)
        if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            archive = open_zip(path)
            return _open_files(path, archive, list_zip(archive), split)
        refuse_file(path)
    except OSError as error:
        raise UserError(f"`data` {path} cannot be read: {error.strerror or error}") from error


def hash_facts(*facts: object) -> str:
    """Returns the SHA-256, in hex, of values that JSON can represent."""
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def _refuse_split(data: str | Path, split: str) -> None:
    if split != "all":
        raise UserError(f"`split` {split}: {data} has no splits; give `split` all")


# ---- Folders and zips ----


def _open_files(path: Path, archive: zipfile.ZipFile | None, entries: Iterable[Entry], split: str) -> Source:
    """Makes the source of a folder (archive None) or a zip. CelebA's tables may be inside it, beside it or one folder above."""
    listing = sort_entries(path, entries, archive)
    left_out = _leave_out_companions(listing)
    attributes, partitions = (find_tables(stem, path, listing.tables, archive) for stem in TABLE_STEMS)
    is_named = ALIGNED in path.name or any(ALIGNED in entry.name for entry in listing.images)
    inside = [table.name for table in (*attributes, *partitions) if table.is_inside]
    is_celeba = is_named or bool(inside)
    images, warnings = listing.images, describe_unused(attributes) if is_celeba else ()
    table = next((table for table in attributes if is_celeba and not table.problem), None)
    if split != "all":
        images, more = _select_split(path, images, partitions if is_celeba else [], split)
        warnings += more
    if table is None:
        warnings += _describe_others_labels(listing.others_labels)
    names, sizes = [entry.name for entry in images], [entry.size_bytes for entry in images]
    facts = [(*entry[:1], *entry[2:4]) for entry in images]
    return Source(
        kind="celeba" if is_celeba else "folder" if archive is None else "zip",
        name=make_one_line(path.resolve().name),
        split=split,
        count=len(images),
        fingerprint=hash_facts(split, is_celeba, facts, listing.refused, LABELS_VERSION, table and table.hash()),
        read=_make_read([entry.place for entry in images], archive),
        is_celeba=is_celeba,
        celeba_table="" if is_named else make_one_line(next(iter(inside), "")),
        names=names,
        size_bytes=sizes.__getitem__,
        refused=tuple(listing.refused),
        ignored=listing.ignored,
        attributes=lambda: read_celeba_attributes(table, path, names) if table else make_folder_attributes(names),
        warnings=warnings,
        notes=(*describe_companions(left_out), *(() if is_celeba else _describe_tables_beside(attributes))),
    )


def _leave_out_companions(listing: Listing) -> dict[str, int]:
    """Removes masks and similar pictures from the images of a listing, and counts them as ignored. Returns: these counts."""
    found = find_companions([entry.name for entry in listing.images])
    removed = {position for positions in found.values() for position in positions}
    counts = {what: len(positions) for what, positions in found.items()}
    listing.images[:] = [entry for position, entry in enumerate(listing.images) if position not in removed]
    listing.ignored.update(counts)
    return counts


def _describe_tables_beside(tables: Sequence[TableFile]) -> tuple[str, ...]:
    why = "is beside the images and not used, because they are not aligned CelebA; put it into their folder if it describes them"
    return tuple(f"{make_one_line(table.name)} {why}" for table in tables[:1])


def _describe_others_labels(files: Sequence[str]) -> tuple[str, ...]:
    if not files:
        return ()
    why = "may contain labels and is not read; write them into a list_attr_celeba.csv beside it (docs/own-images.md)"
    return (f"{min(files, key=len)} {why}",)


def _select_split(
    path: Path, images: list[Entry], partitions: Sequence[TableFile], split: str
) -> tuple[list[Entry], tuple[str, ...]]:
    """Returns the images of one split by CelebA's partition file, and warnings. Raises: UserError without file or images."""
    table = next((table for table in partitions if not table.problem), None)
    if table is None:
        problem = f"{path} has no list_eval_partition.txt in it or beside it"
        unused = "".join(f" ({line})" for line in describe_unused(partitions)[:1])
        raise UserError(f"`split` {split}: {problem}{unused}; put it there, or give `split` all")
    codes = read_partition(table, path, [entry.name for entry in images])
    chosen = [entry for entry, code in zip(images, codes, strict=True) if code == SPLITS.index(split)]
    if not chosen:
        raise UserError(f"`split` {split}: {table.name} puts no image of {path} into it; give another `split`")
    missing = codes.count(None)
    lost = f"{make_one_line(table.name)} has no row for {missing:,} of {len(images):,} images: they are in no split"
    return chosen, (*describe_unused(partitions), *((lost,) if missing else ()))


def _make_read(places: list, archive: zipfile.ZipFile | None) -> Callable[[int], bytes]:
    """Makes a thread-safe function from a position to the file's bytes."""
    if archive is None:
        return lambda position: read_image_file(places[position])
    lock = threading.Lock()

    def read(position: int) -> bytes:
        # zipfile is not fully thread-safe before Python 3.13. Decompressing is fast compared to decoding.
        with lock, archive.open(places[position]) as file:
            # With a size: read() alone would decompress more than the size that the zip claims. It also checks the CRC.
            return file.read(places[position].file_size)

    return read


# ---- Sources without files of their own ----


def map_npy(path: Path) -> np.memmap:
    """Maps the array of a .npy read-only, and never unpickles. Raises: OSError; ValueError (one line) for a damaged file."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block
        raise ValueError("not a regular file")
    try:
        with np.errstate(over="raise"):
            return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - NumPy parses the header as Python literals, which fail in many ways
        raise ValueError(" ".join((str(error) or type(error).__name__).split())[:200]) from error


def _open_npy(path: Path, split: str) -> Source:
    _refuse_split(path, split)
    try:
        images = map_npy(path)
    except ValueError as error:
        why = str(error)
        if zipfile.is_zipfile(path):
            raise UserError(f"`data` {path} is a .npz or another zip, not a .npy: rename it to {path.stem}.npz") from error
        if "Python objects" in why:  # such as images of several sizes
            remedy = "save np.stack(images), with uint8 images of one size, or write them to files"
            raise UserError(f"`data` {path} contains Python objects, not one array of numbers: {remedy}") from error
        raise UserError(f"`data` {path} is not a complete .npy of numbers ({why}): save it again with np.save") from error
    if images.dtype != np.uint8:
        raise UserError(f"`data` {path} contains {str(images.dtype)[:100]}, not uint8: {_suggest_conversion(images.dtype)}")
    axes = images.shape
    if len(axes) == 4 and axes[1] in (1, 3, 4) and axes[3] > 4:
        raise UserError(
            f"`data` {path} has shape {axes}, with channels first: save x.transpose(0, 2, 3, 1), which is (N, H, W, C)"
        )
    # (H, W, 3) is one image without its first axis, not H images three pixels wide.
    if 0 in axes or not (len(axes) == 4 and axes[3] in (1, 3, 4) or len(axes) == 3 and axes[2] > 4):
        raise UserError(f"`data` {path} has shape {axes}: give (N, H, W), or (N, H, W, C) with C of 1, 3 or 4")
    if axes[1] * axes[2] > MAX_IMAGE_PIXELS:
        raise UserError(f"`data` {path} has images of {axes[2]} x {axes[1]} pixels: too large; reduce them")
    images = images[..., 0] if axes[3:] == (1,) else images
    status = path.stat()
    return Source(
        kind="npy",
        name=make_one_line(path.name),
        split=split,
        count=axes[0],
        fingerprint=hash_facts(path.name, axes, status.st_size, status.st_mtime_ns),
        read=lambda position: np.ascontiguousarray(images[position]),
        size_bytes=lambda position: images[position].nbytes,
    )


def _suggest_conversion(dtype: np.dtype) -> str:
    """Returns the remedy for an array x that is not uint8."""
    if np.issubdtype(dtype, np.bool_):
        return "save x.astype(np.uint8) * 255"
    if np.issubdtype(dtype, np.integer):
        return "save x.astype(np.uint8) if x is in 0..255, or (x // 256).astype(np.uint8) if it has 16 bits"
    return "save (x * 255).round().astype(np.uint8) where x is in 0..1"


def _open_drawn(data: str, count: str, split: str) -> Source:
    _refuse_split(data, split)
    if data != "drawn" and not (re.fullmatch("[0-9]{1,9}", count) and 0 < int(count) <= MAX_DRAWN):
        raise UserError(
            f"`data` {data}: drawn:COUNT takes a whole number of faces from 1 to {MAX_DRAWN}, such as drawn:{DRAWN_COUNT}"
        )
    number = int(count or DRAWN_COUNT)
    # The fingerprint includes the pixels and labels of some faces, so it changes if the code that makes them changes.
    sample = drawn_faces.draw_faces(DRAWN_SEED, np.arange(16), 16).tobytes()
    labels = drawn_faces.compute_face_attributes(DRAWN_SEED, np.arange(16)).tobytes()
    return Source(
        kind="drawn",
        name=f"{number} drawn faces",
        split=split,
        count=number,
        fingerprint=hash_facts("drawn", DRAWN_SEED, number, hashlib.sha256(sample + labels).hexdigest(), drawn_faces.ATTRIBUTES),
        draw=lambda positions, size: drawn_faces.draw_faces(DRAWN_SEED, positions, size),
        attributes=lambda: Attributes(drawn_faces.ATTRIBUTES, drawn_faces.compute_face_attributes(DRAWN_SEED, np.arange(number))),
    )


class _ForwardReader:
    """Reads by position from a sequential stream, for threads that ask almost in its order. It buffers the images they skip."""

    def __init__(self, start: Callable[[], Iterator[bytes]]):
        self.start, self.lock = start, threading.Lock()
        self.stream, self.next, self.early = start(), 0, {}

    def __call__(self, position: int) -> bytes:
        with self.lock:
            if position < self.next and position not in self.early:  # already passed: restart the stream
                self.stream, self.next, self.early = self.start(), 0, {}
            while position not in self.early:
                self.early[self.next] = next(self.stream, b"")  # a stream that ends early gives empty images, which count as bad
                self.next += 1
            return self.early.pop(position)


def _open_tfds(data: str, name: str, split: str) -> Source:
    """Makes the source of a TFDS data set that is prepared on this machine. Never downloads: TFDS's errors would not help."""
    if not re.fullmatch(r"\w+(/[\w.+-]+)?(:[\d.]+)?", name):  # no namespaces: TFDS would look them up on the network
        raise UserError(f"`data` {data}: write tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION, such as tfds:celeb_a")
    tfds = _import_tfds(data)
    builder = _open_builder(tfds, data, name)
    key = _choose_image_feature(tfds, data, builder.info.features)
    splits = builder.info.splits
    wanted = {"all": tuple(splits), "valid": ("validation", "valid")}.get(split, (split,))
    sizes = {name: splits[name].num_examples for name in wanted if name in splits and splits[name].num_examples}
    if not sizes:
        raise UserError(f"`split` {split}: {data} has only the splits {', '.join(splits)}; give one of them, or all")

    def stream() -> Iterator[bytes]:
        encoded = tfds.decode.PartialDecoding({key: True}, decoders={key: tfds.decode.SkipDecoding()})
        dataset = builder.as_dataset(split="+".join(sizes), shuffle_files=False, decoders=encoded)
        return (example[key] for example in dataset.as_numpy_iterator())

    return Source(
        kind="tfds",
        name=builder.info.full_name,
        split=split,
        count=sum(sizes.values()),
        fingerprint=hash_facts(builder.info.full_name, key, split, sizes),
        read=_ForwardReader(stream),
        is_celeba=builder.name == "celeb_a",
    )


def _import_tfds(data: str) -> ModuleType:
    """Imports tensorflow_datasets, without log lines and without an accelerator. Raises: UserError if it is not installed."""
    try:
        tfds = import_tfds()
    except ImportError as error:
        raise UserError(f"`data` {data}: {make_printable(str(error), 160)}; or give a folder") from error
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)  # hides its remarks on unprepared data sets, next to our message
    return tfds


def _open_builder(tfds: ModuleType, data: str, name: str):
    """Returns TFDS's builder of a prepared data set. Raises: UserError if the set is unknown or not prepared."""
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        raise UserError(f"`data` {data}: TFDS has no such data set; nearest: {', '.join(near) or 'none'}") from error
    except (ValueError, AssertionError, ImportError) as error:  # an unknown config or version, a missing dependency
        raise UserError(f"`data` {data}: {(str(error) or repr(error)).splitlines()[0]}") from error
    if not builder.is_prepared():
        raise UserError(
            f"`data` {data} is not prepared under {builder.data_dir}: give a folder or zip of its images, or run once"
            f" python -c \"import tensorflow_datasets as t; t.builder('{name}').download_and_prepare()\""
        )
    return builder


def _choose_image_feature(tfds: ModuleType, data: str, features) -> str:
    """Returns the name of the image feature: `image`, else the first one. Raises: UserError if the data set has no images."""
    keys = [key for key in features if isinstance(features[key], tfds.features.Image)]
    if not keys:
        raise UserError(f"`data` {data}: this data set has no images, only {', '.join(features)}; give another one")
    return "image" if "image" in keys else keys[0]
