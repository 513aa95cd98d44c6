"""Reads attributes of images and CelebA's splits, from CelebA's tables or from the names of folders.

The tables are CelebA's list_attr_celeba.txt and list_eval_partition.txt, or Kaggle's .csv files with the same content. They are
found inside the folder or zip, or beside it.
"""

import difflib
import functools
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.listing import CELEBA_PAGE, SAFE_COMPRESSION, make_one_line

MAX_TABLE_BYTES, MAX_TABLE_LINE_BYTES, MAX_ATTRIBUTES = 64 * 2**20, 2**16, 256  # CelebA has 26 MB, 600 bytes, 40

Attributes = tuple[tuple[str, ...], np.ndarray]  # names, (count, A) uint8 of 0 and 1


class Table(NamedTuple):
    """One of CelebA's tables, not yet read."""

    name: str
    is_inside: bool  # whether it is inside the folder or zip, not beside it
    open: Callable[[], IO[bytes]]

    def rows(self) -> Iterator[list[str]]:
        """Yields the fields of each line. Raises: UserError if the file is not a table of CelebA."""
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
        except Exception as error:  # noqa: BLE001 - for a broken zip entry zipfile raises many types
            why = "a web page" if str(error) == "a web page" else f"damaged ({(str(error) or repr(error)).splitlines()[0]})"
            raise UserError(
                f"{make_one_line(self.name)} is {why}, not CelebA's table: delete it and download it again from {CELEBA_PAGE}"
            ) from error


def find_table(stem: str, path: Path, archive: zipfile.ZipFile | None) -> Table | None:
    """Finds stem.txt or stem.csv in the archive, or in the folder `path`, its parent or its parent's parent."""
    names = (f"{stem}.txt", f"{stem}.csv")
    if archive:
        for info in archive.infolist():
            if info.filename.rpartition("/")[2] in names and info.compress_type in SAFE_COMPRESSION:
                return Table(info.filename, True, functools.partial(archive.open, info))
    for file in (folder / name for folder in (path, *path.absolute().parents[:2]) for name in names):
        # A link out of the folder is not followed, and a pipe is not a file.
        if file.is_file() and os.path.dirname(os.path.realpath(file)) == os.path.realpath(file.parent):
            return Table(str(file), file.parent == path, functools.partial(open, file, "rb"))
    return None


def read_partition(table: Table, names: Sequence[str]) -> list[str | None]:
    """Returns each image's code in list_eval_partition ("0", "1" or "2"), or None for an image that is not in the table."""
    stems = [_get_stem(name) for name in names]
    wanted = set(stems)
    codes = {_get_stem(row[0]): row[1] for row in table.rows() if len(row) == 2 and _get_stem(row[0]) in wanted}
    return [codes.get(stem) for stem in stems]


def read_celeba_attributes(table: Table, names: Sequence[str]) -> Attributes | None:
    """Reads list_attr_celeba for the images with these names. Returns None if an image is not in the table."""
    rows = table.rows()
    header = next((row for row in rows if len(row) > 1), [])  # the .txt starts with a count, the .csv with image_id
    header = tuple(map(make_one_line, header[1:] if header[:1] == ["image_id"] else header))
    if len(header) > MAX_ATTRIBUTES:
        raise UserError(
            f"{make_one_line(table.name)} has {len(header):,} attributes instead of CelebA's 40: delete it, or download it again"
        )
    positions = {_get_stem(name): position for position, name in enumerate(names)}
    values, has_row = np.zeros((len(names), len(header)), np.uint8), np.zeros(len(names), bool)
    for name, *fields in filter(None, rows):
        position = positions.get(_get_stem(name))
        if position is not None and len(fields) == len(header):
            values[position], has_row[position] = [field == "1" for field in fields], True  # the tables have 1 and -1
    return (header, values) if header and has_row.all() else None


def make_folder_attributes(names: Sequence[str]) -> Attributes | None:
    """Makes one attribute for each folder, if every image is in one of several folders. Otherwise returns None.

    These folders are the direct children of the deepest folder that contains all images.
    """
    above = os.path.commonpath([name.rpartition("/")[0] or "." for name in names])
    inside = [name if above in ("", ".") else name[len(above) + 1 :] for name in names]
    folders = [name.partition("/")[0] if "/" in name else "" for name in inside]
    classes = sorted(set(folders))
    if "" in classes or not 1 < len(classes) <= MAX_ATTRIBUTES:
        return None
    values = np.array(folders)[:, None] == np.array(classes)
    attributes = tuple(make_one_line(name).replace(",", "_") for name in classes)  # commas separate names in flags
    return attributes, values.astype(np.uint8)


def suggest_nearest(name: str, available: Sequence[str]) -> str:
    """Returns the end of an error message about an unknown name: similar names, or all names if none is similar."""
    lower = {other.lower(): other for other in available}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.4)]
    return make_printable(f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(available)}", 500)


def _get_stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]  # "a/000001.png" matches the table's 000001.jpg
