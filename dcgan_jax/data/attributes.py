"""Reads attributes of images and CelebA's splits from CelebA's tables, or from tables of other programs under the same names.

The tables are CelebA's list_attr_celeba.txt and list_eval_partition.txt, or Kaggle's .csv files with the same content. They are
found inside the folder or zip, or beside it.
"""

import difflib
import functools
import hashlib
import os
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.class_folders import Attributes, clean_attribute
from dcgan_jax.data.listing import CELEBA_PAGE, Entry, make_one_line, open_entry, open_regular_file
from dcgan_jax.data.tables import (
    MAX_TABLE_BYTES,
    Columns,
    NameMatcher,
    TableError,
    WebPageError,
    parse_label,
    read_columns,
    read_table,
)

LABELS_VERSION = 2  # increase it when the same table or folders give other labels: packs are then made again
READABLE = (".txt", ".csv", ".tsv")
UNREADABLE = (".xlsx", ".xls", ".ods", ".numbers", ".csv.gz", ".txt.gz", ".csv.zip", ".txt.zip", ".csv.txt", ".txt.txt")
LABELS = "1 or 0, 1 or -1, true or false, yes or no"
SPLIT_CODES = {"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}


class TableFile(NamedTuple):
    """One of CelebA's tables, not yet read."""

    name: str
    is_inside: bool  # whether it is inside the folder or zip, not beside it
    open: Callable[[], IO[bytes]]
    problem: str = ""  # why it cannot be used; "" if nothing is known yet

    def hash(self) -> str:
        """Returns the SHA-256, in hex, of the content: a corrected table must give other labels."""
        if self.problem:
            return self.problem
        try:
            with self.open() as file:
                return hashlib.sha256(file.read(MAX_TABLE_BYTES + 1)).hexdigest()
        except Exception as error:  # noqa: BLE001 - as in `_read_columns`, which reports it
            return repr(error)


def find_tables(stem: str, path: Path, entries: Sequence[Entry], archive: zipfile.ZipFile | None) -> list[TableFile]:
    """Finds the files that may be the table `stem`: in the folder or zip, in its parent and in its parent's parent.

    entries: the files named like tables in the folder or zip. Returns: all of the first place that has some, the best one first.
    """
    inside = [entry for entry in entries if entry.name.rpartition("/")[2].lower().startswith(stem)]
    if inside:
        inside.sort(key=lambda entry: (entry.name.count("/"), _rank(entry.name, stem), entry.name))
        inside.sort(key=lambda entry: bool(entry.problem or _find_problem(entry.name, stem)))
        return [_describe_inside(entry, stem, path, archive) for entry in inside]
    for folder in path.absolute().parents[:2]:
        files = [file for suffix in (*READABLE, *UNREADABLE) if (file := folder / f"{stem}{suffix}").is_file()]
        # A link out of the folder is not followed.
        files = [file for file in files if os.path.dirname(os.path.realpath(file)) == os.path.realpath(folder)]
        if files:
            return [
                TableFile(str(file), False, functools.partial(open_regular_file, file), _find_problem(file.name, stem))
                for file in files
            ]
    return []


def _describe_inside(entry: Entry, stem: str, path: Path, archive: zipfile.ZipFile | None) -> TableFile:
    name = entry.name if archive else str(path / entry.name)
    problem = entry.problem or _find_problem(entry.name, stem)
    return TableFile(name, True, functools.partial(open_entry, entry, archive), problem)


def _rank(name: str, stem: str) -> int:
    names = [f"{stem}{suffix}" for suffix in READABLE]
    last = name.rpartition("/")[2].lower()
    return names.index(last) if last in names else len(names)


def _find_problem(name: str, stem: str) -> str:
    """Returns why a file of this name is not read, with the remedy."""
    last = name.rpartition("/")[2].lower()
    if _rank(name, stem) < len(READABLE):
        return ""
    if last.endswith(READABLE):
        return f"only {stem}.txt, .csv and .tsv are read; rename it"
    return f"only text is read; save it as {stem}.csv"


def describe_unused(tables: Sequence[TableFile]) -> tuple[str, ...]:
    """Returns one line for each table that is there but not used, besides the first one."""
    lines = []
    for at, table in enumerate(tables):
        if why := table.problem or (f"{make_one_line(tables[0].name)} is" if at else ""):
            lines.append(f"{make_one_line(table.name)} is not used: {why}")
    return tuple(lines)


def _read_columns(table: TableFile, matcher: NameMatcher, parse: Callable[[str], int | None]) -> Columns:
    """Reads a table. Raises: TableError if it is not understood; UserError if it is damaged or a web page."""
    try:
        with table.open() as file:
            parsed = read_table(file)
    except WebPageError as error:
        why = str(error)
    except TableError:
        raise
    except Exception as error:  # noqa: BLE001 - for a broken zip entry zipfile raises many types
        why = f"damaged ({(str(error) or repr(error)).splitlines()[0]})"
    else:
        return read_columns(parsed, matcher, parse)
    raise UserError(
        f"{make_one_line(table.name)} is {why}, not CelebA's table: delete it and download it again from {CELEBA_PAGE}"
    ) from None


# ---- Splits ----


def read_partition(table: TableFile, root: Path, names: Sequence[str]) -> list[int | None]:
    """Returns each image's code in list_eval_partition (0, 1 or 2), or None for an image that is not in the table.

    Raises: UserError with the row if the table is not understood.
    """
    try:
        columns = _read_columns(table, NameMatcher(str(root.absolute()), names), _parse_split)
        lower = [name.lower() for name in columns.names]
        column = next((lower.index(name) for name in ("partition", "split", "set", "subset") if name in lower), 0)
        if columns.values.shape[1] != 1 and lower[column : column + 1] not in (["partition"], ["split"], ["set"], ["subset"]):
            raise TableError("it has several columns and none is called partition; name it")
        if column in columns.problems:
            raise TableError(f"{columns.problems[column]} is not a split; write 0, 1 or 2 for train, valid and test")
    except TableError as error:
        raise UserError(f"{make_one_line(table.name)}: {error}") from None
    return [int(code) if row else None for code, row in zip(columns.values[:, column], columns.rows, strict=True)]


def _parse_split(field: str) -> int | None:
    word = field.strip("'").lower()
    if word in SPLIT_CODES:
        return SPLIT_CODES[word]
    try:
        number = float(word)
    except ValueError:
        return None
    return int(number) if number in (0, 1, 2) else None


# ---- Attributes ----


def read_celeba_attributes(table: TableFile, root: Path, names: Sequence[str]) -> Attributes:
    """Reads list_attr_celeba for the images with these names, relative to root.

    A table that is not understood gives a warning and no attributes. A column with a value that is not understood is refused,
    with its first such row. Raises: UserError if the table is damaged or a web page.
    """
    shown = make_one_line(table.name)
    try:
        columns = _read_columns(table, NameMatcher(str(root.absolute()), names), parse_label)
        _check_columns(columns, names)
    except TableError as error:
        return Attributes(warnings=(f"{shown} is not used: {error}",))
    cleaned = [clean_attribute(name) for name in columns.names]
    problems = {at: f"{where} is not a label ({LABELS})" for at, where in columns.problems.items()}
    for at, name in enumerate(cleaned):
        if cleaned.count(name) > 1:
            problems[at] = f"several columns are called {name}; rename them"
    refused = {cleaned[at]: f"{shown}: {why}" for at, why in sorted(problems.items()) if cleaned[at]}
    kept = [at for at, name in enumerate(cleaned) if name and at not in problems]
    warnings = ()
    if refused:
        others = f", nor are {len(refused) - 1} other columns" if len(refused) > 1 else ""
        warnings = (f"{next(iter(refused.values()))}; this column is not used{others}",)
    values = (columns.values[:, kept] == 1).astype(np.uint8) if kept else None
    return Attributes(tuple(cleaned[at] for at in kept), values, warnings, refused=tuple(refused.items()))


def _check_columns(columns: Columns, names: Sequence[str]) -> None:
    """Raises TableError if the table has no header or no row for some image."""
    if not columns.names:
        raise TableError("it has no header; write the columns' names into its first row, such as image_id,Smiling")
    missing = np.flatnonzero(columns.rows == 0)
    if len(missing):
        raise TableError(
            f"it has no row for {len(missing):,} of {len(names):,} images, such as {make_one_line(names[missing[0]])}; add them"
            " or remove the images"
        )


def match_name(name: str, available: Sequence[str]) -> str:
    """Returns the available name that is written as `name`, perhaps in another form of Unicode (macOS); else `name`."""
    if name in available:
        return name
    composed = unicodedata.normalize("NFC", name)
    alike = [other for other in available if unicodedata.normalize("NFC", other) == composed]
    return alike[0] if len(alike) == 1 else name


def suggest_nearest(name: str, available: Sequence[str]) -> str:
    """Returns the end of an error message about an unknown name: similar names, or all names if none is similar."""
    lower = {other.lower(): other for other in available}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.4)]
    return make_printable(f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(available)}", 500)
