"""Lists the image files of a folder or a zip, without decoding them.

Names and sizes are untrusted. An entry is refused and reported if it leads out of the folder or the zip, or is too large. Other
files are only counted.
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
MAX_FILE_BYTES = 256 * 2**20  # photographs are smaller; a zip entry that claims more is a zip bomb
SAFE_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile decompresses other methods without a size limit
# Exceptions of zipfile for files that are not zips or are malicious.
BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, MemoryError, struct.error)
ALIGNED = "img_align_celeba"
CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class Entry(NamedTuple):
    """One file of a folder or a zip."""

    name: str  # relative, with /
    place: Path | zipfile.ZipInfo
    size_bytes: int = 0
    version: int = 0  # changes with the content: a modification time in ns, or a checksum
    problem: str = ""  # why the file is refused; "" if it is not


class Listing(NamedTuple):
    """Entries sorted into images, refused files and ignored files."""

    images: list[Entry]  # in the order of their names
    refused: list[tuple[str, str]]  # (name, reason), sorted
    ignored: Counter[str]  # suffix -> number of files that are not images


def make_one_line(name: str) -> str:
    """Returns the name itself if it is printable, else its escaped form in quotes."""
    return name if name.isprintable() else ascii(name)


def list_folder(root: Path) -> Iterator[Entry]:
    """Yields every file below root, once. Links to folders inside root are skipped; links out of it are refused."""
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
    """Opens a zip; the caller keeps it open while its source is in use.

    Raises: UserError if the file is a web page or not a complete zip; OSError.
    """
    with open(path, "rb") as file:
        head = file.read(1024).lower()
    if b"<html" in head or b"<!doctype html" in head:
        raise UserError(
            f"`data` {path} is a web page, not a zip: the server sent an error page (Google Drive does when its quota is"
            f" used up); delete it, then download {ALIGNED}.zip in a browser from {CELEBA_PAGE}"
        )
    try:
        return zipfile.ZipFile(path)
    except BAD_ZIP as error:
        size_bytes = path.stat().st_size
        raise UserError(f"`data` {path} ({size_bytes} bytes) is not a complete zip: {error}; download it again") from error


def list_zip(archive: zipfile.ZipFile) -> Iterator[Entry]:
    """Yields every file of the zip. An entry that cannot be read safely has a problem."""
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        problem = ""
        if re.match("/|[A-Za-z]:/", name) or ".." in name.split("/"):
            problem = "a path out of the zip"
        elif info.flag_bits & 1:
            problem = "encrypted"
        elif info.compress_type not in SAFE_COMPRESSION:
            problem = f"unsupported compression method {info.compress_type}"
        if not name.endswith("/"):  # info.is_dir() fails for an empty name
            yield Entry(name, info, info.file_size, info.CRC, problem)


def sort_entries(path: Path, entries: Iterable[Entry]) -> Listing:
    """Sorts the entries of a folder or zip into images, refused and ignored files. Raises: UserError if there are no images."""
    images, refused, ignored = [], [], Counter()
    for entry in entries:
        parts = entry.name.split("/")
        if any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts):
            ignored["hidden"] += 1  # __MACOSX has resource forks of macOS with the names of the images
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
        contents = [f"{count} {make_one_line(suffix)}" for suffix, count in ignored.most_common(3)]
        contents += [f"refused {name}: {problem}" for name, problem in refused[:1]]
        contents = ", ".join(contents) or "it is empty"
        raise UserError(f"`data` {path} contains no images ({contents}): put JPEG, PNG, WebP, BMP, GIF or TIFF files there")
    images.sort(key=lambda entry: entry.name)  # so that a folder and its zip have the same order
    return Listing(images, refused, ignored)


def read_image_file(place: Path) -> bytes:
    """Returns a file's bytes. Raises: OSError or ValueError if the file was removed, grew or became a pipe after the listing."""
    with open(os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("no longer a regular file")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("too large for an image")
    return content
