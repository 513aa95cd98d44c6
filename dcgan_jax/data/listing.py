"""Lists the image files of a folder or a zip, without decoding any.

Names and sizes come from strangers: an entry that would lead out of the folder or the zip, or that is too large, is refused and
named. Other files are counted.
"""

import os
import re
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dcgan_jax.config import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
MAX_FILE_BYTES = 256 * 2**20  # no photograph is larger; a zip entry that claims more is a bomb
SAFE_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile inflates the others, a millionfold, without a bound
# What zipfile raises for bytes that are no zip, or that are made to do harm.
BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, MemoryError, struct.error)
ALIGNED = "img_align_celeba"
CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class Entry(NamedTuple):
    """One file of a folder or a zip."""

    name: str  # relative, with /
    place: Path | zipfile.ZipInfo
    size_bytes: int = 0
    version: int = 0  # changes with the content: a modification time in ns, or a checksum
    problem: str = ""  # why the file is refused; "" where it is not


class Listing(NamedTuple):
    """The result of sorting entries."""

    images: list[Entry]  # in the order of their names
    refused: list[tuple[str, str]]  # (name, reason), sorted
    ignored: Counter[str]  # suffix -> number of files that are no images


def make_one_line(name: str) -> str:
    """The name itself where it can be printed, else its ASCII form in quotes."""
    return name if name.isprintable() else ascii(name)


def list_folder(root: Path) -> Iterator[Entry]:
    """Yields every file below root. No link to a folder is followed: one inside would count twice, one outside is refused."""
    home, folders = os.path.realpath(root), [""]
    while folders:
        folder = folders.pop()
        try:
            children = list(os.scandir(root / folder))
        except OSError as error:
            yield Entry(folder or str(root), root, problem=f"cannot be listed: {error.strerror}")
            continue
        for child in children:
            name, place = folder + child.name, Path(child.path)
            try:
                is_out = child.is_symlink() and os.path.commonpath([home, os.path.realpath(place)]) != home
                if is_out and (child.is_dir() or name.lower().endswith(IMAGE_SUFFIXES)):
                    yield Entry(name, place, problem="a link out of the folder")
                elif child.is_dir(follow_symlinks=False):
                    folders.append(name + "/")
                elif child.is_file():  # not a pipe, which would block the reader
                    status = child.stat()
                    yield Entry(name, place, status.st_size, status.st_mtime_ns)
            except OSError as error:
                yield Entry(name, place, problem=error.strerror or str(error))


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip for as long as its source is in use. Raises: UserError where it is a web page or not whole, OSError."""
    with open(path, "rb") as file:
        head = file.read(1024).lower()
    if b"<html" in head or b"<!doctype html" in head:
        raise UserError(
            f"`data` {path} is a web page, not a zip: the download got an error page (Google Drive's quota does"
            f" that for CelebA); delete it, then download {ALIGNED}.zip in a browser from {CELEBA_PAGE}"
        )
    try:
        return zipfile.ZipFile(path)
    except BAD_ZIP as error:
        size_bytes = path.stat().st_size
        raise UserError(f"`data` {path} ({size_bytes} bytes) is not a whole zip: {error}; download it again") from error


def list_zip(archive: zipfile.ZipFile) -> Iterator[Entry]:
    """Yields every file of the zip; the problem of an entry says why it cannot be read safely."""
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        problem = ""
        if re.match("/|[A-Za-z]:/", name) or ".." in name.split("/"):
            problem = "a path out of the zip"
        elif info.flag_bits & 1:
            problem = "encrypted"
        elif info.compress_type not in SAFE_COMPRESSION:
            problem = f"compression method {info.compress_type}, which is not read"
        if not name.endswith("/"):  # info.is_dir() fails where a name is empty
            yield Entry(name, info, info.file_size, info.CRC, problem)


def sort_entries(path: Path, entries: Iterable[Entry]) -> Listing:
    """Separates the images of a folder or zip from what is refused or ignored. Raises: UserError where there are no images."""
    images, refused, ignored = [], [], Counter()
    for entry in entries:
        parts = entry.name.split("/")
        if any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts):
            ignored["hidden"] += 1  # __MACOSX holds a Mac's resource forks, named like the images
        elif entry.problem:
            refused.append((make_one_line(entry.name), entry.problem))
        elif not parts[-1].lower().endswith(IMAGE_SUFFIXES):
            ignored[os.path.splitext(parts[-1])[1] or "without suffix"] += 1
        elif entry.size_bytes > MAX_FILE_BYTES:
            refused.append((make_one_line(entry.name), f"{entry.size_bytes} bytes: too large for an image"))
        else:
            images.append(entry)
    refused.sort()
    if not images:
        seen = [f"{count} {make_one_line(suffix)}" for suffix, count in ignored.most_common(3)]
        seen += [f"refused {name}: {problem}" for name, problem in refused[:1]]
        seen = ", ".join(seen) or "it is empty"
        raise UserError(f"`data` {path} holds no images ({seen}): put JPEG, PNG, WebP, BMP, GIF or TIFF files there")
    images.sort(key=lambda entry: entry.name)  # the same images have the same order in a folder and in a zip
    return Listing(images, refused, ignored)


def read_image_file(place: Path) -> bytes:
    """Returns a file's bytes. Raises: anything, such as for a file that grew, vanished or became a pipe since it was listed."""
    with open(os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("no longer a plain file")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("grew too large for an image")
    return content
