"""Where pictures come from: `open_source` turns one --data value into a `Source`. Lists and reads; decodes nothing.

Folders, zips (read in place), CelebA as people have it, TFDS, a .npy, drawn faces. Names come from strangers: what
would leave the folder or the zip is refused and named, what is no picture is ignored and counted.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import os
import re
import stat
import struct
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dcgan_jax.config import UserError
from dcgan_jax.data import drawn_faces

SPLITS = ("train", "valid", "test", "all")  # the first three are codes 0, 1, 2 of CelebA's partition file
PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
MAX_FILE_BYTES = 256 * 2**20  # no photograph is larger; a zip entry that says so is a bomb
MAX_PICTURE_PIXELS = 80_000_000  # 240 MB as RGB
MAX_TABLE_BYTES, MAX_TABLE_LINE_BYTES, MAX_ATTRIBUTES = 64 * 2**20, 2**16, 256  # CelebA's: 26 MB, 600 bytes, 40
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile inflates the others, a millionfold, without a bound
# What zipfile raises where bytes are no zip, or are made to harm.
BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, MemoryError, struct.error)
DRAWN_COUNT, DRAWN_SEED = 20_000, 0  # one fixed set of faces: the run's own seed must not change its data
MAX_DRAWN = 10_000_000
ALIGNED = "img_align_celeba"
CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"

Attributes = tuple[tuple[str, ...], np.ndarray]  # names, (count, A) uint8 of 0 and 1


@dataclasses.dataclass(frozen=True)
class Source:
    """Pictures by position, not yet decoded. Exactly one of `read` and `draw` is there.

    read: position -> a file's bytes, or uint8 (H, W) or (H, W, 3 or 4); from any thread; may raise anything.
    draw: (positions (N,), size) -> (N, size, size, 3) uint8, drawn at that size.
    """

    kind: str  # folder, zip, celeba, tfds, npy or drawn
    name: str  # short, for people
    split: str
    count: int  # pictures listed; some may turn out unreadable
    fingerprint: str  # hex; changes with any name, size, date or checksum, and with the split
    read: Callable[[int], bytes | np.ndarray] | None = None
    draw: Callable[[np.ndarray, int], np.ndarray] | None = None
    is_celeba: bool = False  # aligned CelebA at any scale: the published crops apply
    names: Sequence[str] = ()
    size_bytes: Callable[[int], int] = lambda position: 0  # what `read` will take, where that may be much
    refused: tuple[tuple[str, str], ...] = ()  # (name, reason) of what looked like a picture and is not among the count
    ignored: int = 0  # files that are not pictures
    attributes: Callable[[], Attributes | None] = lambda: None  # None where no file covers every picture

    def label(self, position: int) -> str:
        """A picture's name for reports, on one line."""
        return _make_one_line(self.names[position]) if self.names else f"{self.name} #{position}"


def open_source(data: str, split: str = "all") -> Source:
    """Finds out what `data` is and lists its pictures, in an order that depends on their names alone.

    Args:
        data: drawn, drawn:COUNT, tfds:NAME, or the path of a folder, a .zip or a .npy (uint8 (N, H, W[, C])).
        split: train, valid, test or all; the first three need CelebA's list_eval_partition file or a TFDS split.
    Raises: UserError, one line, for whatever is missing, broken, empty or unknown.
    """
    if split not in SPLITS:
        raise UserError(f"`split` {split}: splits are {', '.join(SPLITS)}")
    scheme, _, rest = data.partition(":")
    if scheme == "drawn":
        return _open_drawn(data, rest, split)
    if scheme == "tfds":
        return _open_tfds(data, rest, split)
    path = Path(data).expanduser()
    if not data or not os.path.exists(path):  # os.path: also false, not an error, for names no file can have
        given = data or "''"
        raise UserError(f"`data` {given} does not exist: give a folder or .zip of pictures, a .npy, tfds:NAME or drawn")
    try:
        inside = [path / below / ALIGNED for below in ("", "celeba")]  # torchvision keeps CelebA in celeba/
        path = next((p for p in (*inside, *(p.with_suffix(".zip") for p in inside)) if p.exists()), path)
        if path.is_dir():
            return _open_files(path, None, _folder_entries(path), split)
        if not path.is_file():  # a pipe would be waited for, a device may have no end
            raise UserError(f"`data` {path} is a pipe or a device: give a folder or .zip of pictures, or a .npy")
        if path.suffix.lower() == ".npy":
            return _open_npy(path, split)
        if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            archive = _open_zip(path)
            return _open_files(path, archive, _zip_entries(archive), split)
    except OSError as error:
        raise UserError(f"`data` {path} cannot be read: {error.strerror or error}") from error
    raise UserError(f"`data` {path} is neither a folder, a .zip nor a .npy: unpack other archives and give the folder")


def hash_facts(*facts) -> str:
    """Hex SHA-256 of anything json can write."""
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def _make_one_line(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _refuse_split(data: str | Path, split: str) -> None:
    if split != "all":
        raise UserError(f"`split` {split}: {data} has no splits; pass `split` all")


# ---- Folders and zips ----


class _Entry(NamedTuple):
    name: str  # relative, with /
    place: Path | zipfile.ZipInfo
    size_bytes: int = 0
    version: int = 0  # changes with the content: a date, or a checksum
    problem: str = ""


def _folder_entries(root: Path) -> Iterator[_Entry]:
    """Every file below root. No link to a folder is followed: one inside would count twice, one outside is refused."""
    home, folders = os.path.realpath(root), [""]
    while folders:
        folder = folders.pop()
        try:
            children = list(os.scandir(root / folder))
        except OSError as error:
            yield _Entry(folder or str(root), root, problem=f"cannot be listed: {error.strerror}")
            continue
        for child in children:
            name, place = folder + child.name, Path(child.path)
            try:
                is_out = child.is_symlink() and os.path.commonpath([home, os.path.realpath(place)]) != home
                if is_out and (child.is_dir() or name.lower().endswith(PICTURES)):
                    yield _Entry(name, place, problem="a link out of the folder")
                elif child.is_dir(follow_symlinks=False):
                    folders.append(name + "/")
                elif child.is_file():  # not a pipe, which would block whoever reads it
                    stat = child.stat()
                    yield _Entry(name, place, stat.st_size, stat.st_mtime_ns)
            except OSError as error:
                yield _Entry(name, place, problem=error.strerror or str(error))


def _open_zip(path: Path) -> zipfile.ZipFile:
    with open(path, "rb") as file:
        head = file.read(1024).lower()
    if b"<html" in head or b"<!doctype html" in head:
        raise UserError(
            f"`data` {path} is a web page, not a zip: the download got an error page (Google Drive's quota does"
            f" that for CelebA); delete it, then download {ALIGNED}.zip in a browser from {CELEBA_PAGE}"
        )
    try:
        return zipfile.ZipFile(path)  # stays open as long as the source
    except BAD_ZIP as error:
        size_bytes = path.stat().st_size
        raise UserError(f"`data` {path} ({size_bytes} bytes) is not a whole zip: {error}; download it again") from error


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        problem = ""
        if re.match("/|[A-Za-z]:/", name) or ".." in name.split("/"):
            problem = "a path out of the zip"
        elif info.flag_bits & 1:
            problem = "encrypted"
        elif info.compress_type not in METHODS:
            problem = f"compression method {info.compress_type}, which is not read"
        if not name.endswith("/"):  # info.is_dir() fails where a name is empty
            yield _Entry(name, info, info.file_size, info.CRC, problem)


def read_image_file(place: Path) -> bytes:
    """A picture's bytes. Raises: anything, such as for what grew, vanished or became a pipe since it was listed."""
    with open(os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("no longer a plain file")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("grew too large for a picture")
    return content


def _open_files(path: Path, archive: zipfile.ZipFile | None, entries: Iterable[_Entry], split: str) -> Source:
    """The source of a folder (archive None) or a zip, with CelebA's tables from in it, beside it or its parent."""
    found, refused, ignored = [], [], Counter()
    for entry in entries:
        parts = entry.name.split("/")
        if any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts):
            ignored["hidden"] += 1  # __MACOSX holds a Mac's resource forks, named like the pictures
        elif entry.problem:
            refused.append((_make_one_line(entry.name), entry.problem))
        elif not parts[-1].lower().endswith(PICTURES):
            ignored[os.path.splitext(parts[-1])[1] or "without suffix"] += 1
        elif entry.size_bytes > MAX_FILE_BYTES:
            refused.append((_make_one_line(entry.name), f"{entry.size_bytes} bytes: too large for a picture"))
        else:
            found.append(entry)
    if not found:
        seen = [f"{count} {_make_one_line(suffix)}" for suffix, count in ignored.most_common(3)]
        seen += [f"refused {name}: {problem}" for name, problem in sorted(refused)[:1]]
        seen = ", ".join(seen) or "it is empty"
        raise UserError(f"`data` {path} holds no pictures ({seen}): put JPEG, PNG, WebP, BMP, GIF or TIFF files there")
    found.sort(key=lambda entry: entry.name)  # the same pictures have the same order in a folder and in a zip
    refused.sort()

    partition, attributes = (_find_table(stem, path, archive) for stem in ("list_eval_partition", "list_attr_celeba"))
    is_celeba = ALIGNED in path.name or any(ALIGNED in entry.name for entry in found)
    is_celeba |= any(table is not None and table.is_inside for table in (partition, attributes))
    if split != "all":
        if partition is None or not is_celeba:
            where = f"{path} has no list_eval_partition.txt in it or beside it"
            raise UserError(f"`split` {split}: {where}; put it there or pass `split` all")
        listed = {_stem(entry.name) for entry in found}
        codes = {_stem(row[0]): row[1] for row in partition.rows() if len(row) == 2 and _stem(row[0]) in listed}
        found = [entry for entry in found if codes.get(_stem(entry.name)) == str(SPLITS.index(split))]
        if not found:
            raise UserError(f"`split` {split}: {partition.name} puts no picture of {path} there; pass another split")

    names, places, lock = [entry.name for entry in found], [entry.place for entry in found], threading.Lock()
    sizes = [entry.size_bytes for entry in found]

    def read(position: int) -> bytes:
        if archive is None:
            return read_image_file(places[position])
        # zipfile's own locks have holes before Python 3.13; inflating is short beside decoding
        with lock, archive.open(places[position]) as file:
            # Not read() alone: it inflates all there is before it cuts to the size that the zip tells. Checks the CRC.
            return file.read(places[position].file_size)

    return Source(
        kind="celeba" if is_celeba else "folder" if archive is None else "zip",
        name=_make_one_line(path.resolve().name),
        split=split,
        count=len(found),
        fingerprint=hash_facts(split, is_celeba, [(*entry[:1], *entry[2:4]) for entry in found], refused),
        read=read,
        is_celeba=is_celeba,
        names=names,
        size_bytes=sizes.__getitem__,
        refused=tuple(refused),
        ignored=ignored.total(),
        attributes=lambda: _celeba_attributes(attributes, names) if is_celeba and attributes else _classes(names),
    )


def _classes(names: Sequence[str]) -> Attributes | None:
    """An attribute a folder, where below the folder that holds them all every picture is in one of several."""
    above = os.path.commonpath([name.rpartition("/")[0] or "." for name in names])
    inside = [name if above in ("", ".") else name[len(above) + 1 :] for name in names]
    found = [name.partition("/")[0] if "/" in name else "" for name in inside]
    classes = sorted(set(found))
    if "" in classes or not 1 < len(classes) <= MAX_ATTRIBUTES:
        return None
    values = np.array(found)[:, None] == np.array(classes)
    return tuple(_make_one_line(name).replace(",", "_") for name in classes), values.astype(
        np.uint8
    )  # commas part names in flags


# ---- CelebA's tables ----


class _Table(NamedTuple):
    """A text file of rows: CelebA's own .txt, or the .csv that Kaggle made of it."""

    name: str
    is_inside: bool  # in the folder or zip itself, not beside it
    open: Callable[[], BinaryIO]

    def rows(self) -> Iterator[list[str]]:
        """Raises: UserError where it is none of CelebA's tables."""
        size_bytes = 0
        try:
            with self.open() as file:
                while line := file.readline(MAX_TABLE_LINE_BYTES):
                    if not size_bytes and line.lstrip().lower().startswith((b"<html", b"<!doctype html")):
                        raise ValueError("a web page")
                    size_bytes += len(line)
                    if len(line) == MAX_TABLE_LINE_BYTES or size_bytes > MAX_TABLE_BYTES:
                        raise ValueError("too large")
                    yield line.decode("utf-8", "replace").replace(",", " ").split()
        except Exception as error:  # noqa: BLE001 - a broken zip entry makes zipfile raise nearly anything
            why = "a web page" if str(error) == "a web page" else f"not whole ({(str(error) or repr(error)).splitlines()[0]})"
            raise UserError(
                f"{_make_one_line(self.name)} is {why}, not CelebA's table: delete it and download it again from {CELEBA_PAGE}"
            ) from error


def _find_table(stem: str, path: Path, archive: zipfile.ZipFile | None) -> _Table | None:
    names = (f"{stem}.txt", f"{stem}.csv")
    for info in archive.infolist() if archive else ():
        if info.filename.rpartition("/")[2] in names and info.compress_type in METHODS:
            return _Table(info.filename, True, functools.partial(archive.open, info))
    for file in (folder / name for folder in (path, *path.absolute().parents[:2]) for name in names):
        # Not a link out of its folder; a pipe is no file.
        if file.is_file() and os.path.dirname(os.path.realpath(file)) == os.path.realpath(file.parent):
            return _Table(str(file), file.parent == path, functools.partial(open, file, "rb"))
    return None


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]  # "a/000001.png" is the table's 000001.jpg


def _celeba_attributes(table: _Table, names: Sequence[str]) -> Attributes | None:
    rows = table.rows()
    header = next((row for row in rows if len(row) > 1), [])  # the .txt opens with a count, the .csv with image_id
    header = tuple(map(_make_one_line, header[1:] if header[:1] == ["image_id"] else header))
    if len(header) > MAX_ATTRIBUTES:
        raise UserError(
            f"{_make_one_line(table.name)} names {len(header):,} attributes, CelebA's has 40: delete it, or get it anew"
        )
    position = {_stem(name): at for at, name in enumerate(names)}
    values, seen = np.zeros((len(names), len(header)), np.uint8), np.zeros(len(names), bool)
    for name, *fields in filter(None, rows):
        at = position.get(_stem(name))
        if at is not None and len(fields) == len(header):
            values[at], seen[at] = [field == "1" for field in fields], True  # the files say 1 and -1
    return (header, values) if header and seen.all() else None


# ---- What has no files of its own ----


def map_npy(path: Path) -> np.memmap:
    """The array of a .npy, mapped read-only; never unpickled. Raises: OSError, ValueError of one line where it is not whole."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise ValueError("no plain file")
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
        raise UserError(f"`data` {path} is not a whole .npy of numbers ({why}): save it again with np.save") from error
    if images.dtype != np.uint8:
        remedy = "save (x * 255).round().astype(np.uint8) where x is in 0..1"
        raise UserError(f"`data` {path} holds {str(images.dtype)[:100]}, not uint8: {remedy}")
    axes = images.shape
    # (H, W, 3) is one picture whose first axis was forgotten, not H pictures three pixels wide.
    if 0 in axes or not (len(axes) == 4 and axes[3] in (1, 3, 4) or len(axes) == 3 and axes[2] > 4):
        raise UserError(f"`data` {path} has shape {axes}, not (N, H, W) or (N, H, W, C) with C of 1, 3 or 4")
    if axes[1] * axes[2] > MAX_PICTURE_PIXELS:
        raise UserError(f"`data` {path} has pictures of {axes[2]} x {axes[1]} pixels: too large; reduce them")
    images = images[..., 0] if axes[3:] == (1,) else images
    stat = path.stat()
    return Source(
        kind="npy",
        name=_make_one_line(path.name),
        split=split,
        count=axes[0],
        fingerprint=hash_facts(path.name, axes, stat.st_size, stat.st_mtime_ns),
        read=lambda position: np.ascontiguousarray(images[position]),
        size_bytes=lambda position: images[position].nbytes,
    )


def _open_drawn(data: str, count: str, split: str) -> Source:
    _refuse_split(data, split)
    if data != "drawn" and not (re.fullmatch("[0-9]{1,9}", count) and 0 < int(count) <= MAX_DRAWN):
        raise UserError(
            f"`data` {data}: drawn:COUNT takes a whole number of faces from 1 to {MAX_DRAWN}, such as drawn:{DRAWN_COUNT}"
        )
    number = int(count or DRAWN_COUNT)
    # A few faces stand for the program that draws them: a change of their looks changes the fingerprint by itself.
    sample = drawn_faces.draw_faces(DRAWN_SEED, np.arange(16), 16).tobytes()
    return Source(
        kind="drawn",
        name=f"{number} drawn faces",
        split=split,
        count=number,
        fingerprint=hash_facts("drawn", DRAWN_SEED, number, hashlib.sha256(sample).hexdigest()),
        draw=lambda positions, size: drawn_faces.draw_faces(DRAWN_SEED, positions, size),
        attributes=lambda: (drawn_faces.ATTRIBUTES, drawn_faces.compute_face_attributes(DRAWN_SEED, np.arange(number))),
    )


class _InOrder:
    """Positions of a stream that can only be read forwards, for threads that stray a little from its order."""

    def __init__(self, start: Callable[[], Iterator[bytes]]):
        self.start, self.lock = start, threading.Lock()
        self.stream, self.next, self.early = start(), 0, {}

    def __call__(self, position: int) -> bytes:
        with self.lock:
            if position < self.next and position not in self.early:  # passed already: once more from the front
                self.stream, self.next, self.early = self.start(), 0, {}
            while position not in self.early:
                self.early[self.next] = next(self.stream, b"")  # a stream that ends early gives empty, so bad, pictures
                self.next += 1
            return self.early.pop(position)


def _open_tfds(data: str, name: str, split: str) -> Source:
    """A TFDS set that is already on this machine. Nothing is downloaded: TFDS's own errors there help nobody."""
    if not re.fullmatch(r"\w+(/[\w.+-]+)?(:[\d.]+)?", name):  # no namespaces: TFDS would ask the network about them
        raise UserError(f"`data` {data}: write tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION, such as tfds:celeb_a")
    try:
        import absl.logging
        import tensorflow as tf
        import tensorflow_datasets as tfds  # takes seconds and brings TensorFlow: only for who asks for it
    except ImportError as error:
        raise UserError(f"`data` {data} needs pip install tensorflow-datasets tensorflow; or give a folder") from error
    tf.config.set_visible_devices([], "GPU")  # before it starts: the accelerator's memory is JAX's
    absl.logging.set_verbosity(absl.logging.ERROR)  # its remarks on sets that are not prepared would drown our line
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        raise UserError(f"`data` {data}: TFDS has no such set; nearest: {', '.join(near) or 'none'}") from error
    except (ValueError, AssertionError, ImportError) as error:  # an unknown config or version, a missing dependency
        raise UserError(f"`data` {data}: {(str(error) or repr(error)).splitlines()[0]}") from error
    if not builder.is_prepared():
        raise UserError(
            f"`data` {data} is not prepared under {builder.data_dir}: give a folder or zip of its pictures, or run once"
            f" python -c \"import tensorflow_datasets as t; t.builder('{name}').download_and_prepare()\""
        )
    features, splits = builder.info.features, builder.info.splits
    keys = [key for key in features if isinstance(features[key], tfds.features.Image)]
    if not keys:
        raise UserError(f"`data` {data}: this set has no pictures, only {', '.join(features)}; give another")
    key = "image" if "image" in keys else keys[0]
    wanted = {"all": tuple(splits), "valid": ("validation", "valid")}.get(split, (split,))
    sizes = {name: splits[name].num_examples for name in wanted if name in splits and splits[name].num_examples}
    if not sizes:
        raise UserError(f"`split` {split}: {data} only has the splits {', '.join(splits)}; pass another, or all")

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
        read=_InOrder(stream),
        is_celeba=builder.name == "celeb_a",
    )
