"""Reads label tables: text with one row for each image, in the spellings that people's programs write.

The csv module parses. Encoding, delimiter and the column of the names are recognised from the content. What is not understood
raises TableError or is a problem of its column, with the row, because a wrong label would be trained on without a sign.
"""

import codecs
import csv
import functools
import io
import itertools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

from dcgan_jax.config import make_printable
from dcgan_jax.data.file_kinds import SUFFIXES

MAX_TABLE_BYTES, MAX_TABLE_LINE_BYTES, MAX_ATTRIBUTES = 64 * 2**20, 2**16, 256  # CelebA has 26 MB, 600 bytes, 40
DELIMITERS = (",", ";", "\t", "|", " ")
SAMPLE_LINES = 50  # that decide about the delimiter
NAME_HEADERS = ("image_id", "image", "filename", "file_name", "file", "name", "path", "img", "image_name", "image_path", "id")
BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


class TableError(ValueError):
    """Why a table is not used, with the place and the remedy. It does not name the table."""


class WebPageError(TableError):
    """A web page is there instead of the table."""


class Row(NamedTuple):
    """One row of a table."""

    number: int  # of its line in the file, from 1
    fields: list[str]


class Table(NamedTuple):
    """A table whose lines are not yet split."""

    lines: list[tuple[int, str]]  # (number, text), without empty lines and comments
    delimiter: str


class Columns(NamedTuple):
    """What a table says about N images."""

    names: list[str]  # of the A columns besides the images' names; empty if the table has no header
    values: np.ndarray  # (N, A) int8; meaningless in columns with a problem and for images without a row
    rows: np.ndarray  # (N,) int64, the number of each image's row, 0 if it has none
    problems: dict[int, str]  # column -> its first value that is not understood, with its row


def read_table(file: IO[bytes]) -> Table:
    """Reads a table without splitting its rows. Raises: TableError, and what reading the file raises."""
    content = file.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise TableError(f"larger than {MAX_TABLE_BYTES / 2**20:.0f} MiB; keep only the rows and columns that you need")
    return parse_table(decode_table(content))


def decode_table(content: bytes) -> str:
    """Decodes a table: UTF-8, or UTF-16 and UTF-32 as Excel and Windows write them. Raises: TableError."""
    if content[:1024].lower().lstrip().startswith((b"<html", b"<!doctype html")):
        raise WebPageError("a web page")
    encoding = next((name for bom, name in BOMS if content.startswith(bom)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:2]:  # without a mark
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TableError(f"row {line}: its encoding is not UTF-8; save it as UTF-8") from None
    if "\0" in text:
        raise TableError("it is not text; save it as CSV")
    return text


def parse_table(text: str) -> Table:
    """Finds the lines and the delimiter of a table. Raises: TableError."""
    lines = [(number, line.strip(" \n")) for number, line in enumerate(io.StringIO(text, newline=None), start=1)]
    lines = [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if any(len(line) > MAX_TABLE_LINE_BYTES for _, line in lines):
        raise TableError(f"a line has more than {MAX_TABLE_LINE_BYTES:,} characters; keep one row for each image")
    if lines and lines[0][1].lower().startswith("sep="):  # Excel's hint
        lines = lines[1:]
    if lines and lines[0][1].strip().isdigit():  # the number of rows, with which CelebA's .txt begins
        lines = lines[1:]
    if not lines:
        raise TableError("it has no rows; fill it or remove it")
    return Table(lines, _choose_delimiter(lines[:SAMPLE_LINES]))


def _choose_delimiter(lines: Sequence[tuple[int, str]]) -> str:
    """Returns the delimiter that gives most rows the same number of fields, more than one. Raises: TableError."""
    scores, faults = {}, []
    for delimiter in DELIMITERS:
        widths = []
        try:
            widths += (len(row.fields) for row in _split(lines, delimiter, keep_empty=True))
        except TableError as fault:  # the rows before it decide
            faults.append(fault)
        head, *counts = widths or [0]
        usual = max(set(counts or [head]), key=(counts or [head]).count)
        # CelebA's .txt has no name above the names. Without this rule, decimal commas would count as delimiters.
        scores[delimiter] = (usual > 1, head in (usual, usual - 1), counts.count(usual))
    best = max(scores, key=lambda delimiter: scores[delimiter])
    if not scores[best][0]:
        if faults:
            raise faults[0]
        raise TableError(
            f"its columns are separated neither by commas, semicolons, tabs, | nor spaces ({quote(lines[0][1])}); save it as CSV"
        )
    return best


def _split(lines: Sequence[tuple[int, str]], delimiter: str, keep_empty: bool = False) -> Iterator[Row]:
    """Yields the rows, without empty cells at their ends unless keep_empty. Raises: TableError."""
    reader, read = csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True), 0
    try:
        for fields in reader:
            _check_quotes(lines[read : reader.line_num])
            number, read = lines[read][0], reader.line_num
            fields = [field.strip() for field in fields]
            yield Row(number, fields if keep_empty else _drop_empty_end(fields))
    except csv.Error as error:
        _check_quotes(lines[read : reader.line_num])
        raise TableError(f"row {lines[min(read, len(lines) - 1)][0]}: {error}; save it as CSV") from None


def _drop_empty_end(fields: list[str]) -> list[str]:
    """Returns the fields of a row without an empty last column, or a delimiter at the end. The first field stays."""
    count = max((at for at, field in enumerate(fields, start=1) if field), default=1)
    return fields[:count]


def _check_quotes(lines: Sequence[tuple[int, str]]) -> None:
    """Checks that a row of several lines is one because of a quoted line break. Raises: TableError if its quote never ends."""
    if len(lines) > 1 and sum(line.count('"') for _, line in lines) % 2:
        number, line = next((number, line) for number, line in lines if line.count('"') % 2)
        raise TableError(f'row {number}: a quote (") is not closed in {quote(line)}; close or remove it')


def quote(text: str) -> str:
    """Returns the beginning of a text, in quotes, for messages; "" for no text."""
    return repr(make_printable(text, 60)) if text else ""


# ---- Values ----

TRUE, FALSE = {"true", "yes", "t", "y"}, {"false", "no", "f", "n"}


@functools.lru_cache(maxsize=1024)
def parse_label(field: str) -> int | None:
    """Returns 1, 0 or -1 for a label that says yes or no, else None."""
    word = field.strip("'\"").lower()
    if word in TRUE or word in FALSE:
        return int(word in TRUE)
    try:
        number = float(word.replace(",", "."))  # some languages write 1,0
    except ValueError:
        return None
    return int(number) if number in (-1, 0, 1) else None


# ---- Names of images ----


class NameMatcher:
    """Finds the images that the rows of a table name: by path, file name, or file name without suffix."""

    def __init__(self, root: str, names: Sequence[str]):
        """root: path of the folder or zip; tables may name images from further up. names: of the images, relative to root."""
        above = _split_path(root)
        self.paths = [above + _split_path(name) for name in names]
        self.by_stem: dict[str, list[int]] = {}
        for position, path in enumerate(self.paths):
            self.by_stem.setdefault(_get_stem(path[-1]), []).append(position)

    def find(self, name: str) -> tuple[list[int], tuple[int, bool]]:
        """Returns the positions of the images that fit the name best, and how well: folders in common, and an equal suffix."""
        path = _split_path(name.strip("'"))
        positions = self.by_stem.get(_get_stem(path[-1]), []) if path else []
        if len(positions) == 1:
            return positions, _compare(path, self.paths[positions[0]])
        scores = [_compare(path, self.paths[position]) for position in positions]
        best = max(scores, default=(0, False))
        if len(path) > 1 and best[0] == 0:  # in a folder with none of these images
            return [], best
        return [position for position, score in zip(positions, scores, strict=True) if score == best], best


def _split_path(name: str) -> list[str]:
    if name.isascii() and "/" not in name and "\\" not in name:
        return [name] if name else []
    name = unicodedata.normalize("NFC", name)  # macOS stores names in another form
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _get_stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in SUFFIXES else name


def _compare(one: Sequence[str], other: Sequence[str]) -> tuple[int, bool]:
    common = 0
    for mine, theirs in zip(reversed(one[:-1]), reversed(other[:-1]), strict=False):
        if mine != theirs:
            break
        common += 1
    return common, one[-1] == other[-1]


# ---- Columns ----


def read_columns(table: Table, matcher: NameMatcher, parse: Callable[[str], int | None]) -> Columns:
    """Reads what the table says about the matcher's images.

    parse: returns the small integer that a field means, or None. Raises: TableError if the rows cannot be assigned to images.
    """
    sample = itertools.islice(_split(table.lines, table.delimiter, keep_empty=True), 1 + SAMPLE_LINES)
    cells, *all_cells = (row.fields for row in sample)
    header, *rows = map(_drop_empty_end, [cells, *all_cells])
    widths = [len(row) for row in rows or [header]]
    width = max(set(widths), key=widths.count)
    if width - 1 > MAX_ATTRIBUTES:
        raise TableError(f"it has {width - 1:,} columns besides the names, more than {MAX_ATTRIBUTES}; remove some")
    has_header = not _is_data(header, matcher, parse)
    if has_header and len(header) < width == len(cells):
        if len(header) == 1:
            raise TableError(f"row {table.lines[0][0]} has empty cells instead of the columns' names; write the names")
        header = cells  # columns without a name are left out
    if has_header and len(header) == width - 1 and header[0].lower() not in NAME_HEADERS:
        header = ["", *header]  # nothing is written above the names, as in CelebA's .txt
    if has_header and len(header) > width and len(header) in [*widths, *map(len, all_cells)]:  # most rows end with empty cells
        width = len(header)
    if has_header and len(header) != width and len(table.lines) > 1:
        raise TableError(
            f"row {table.lines[0][0]} names {len(header)} columns and the next rows have {width}; quote names with spaces,"
            " and fill all cells"
        )
    lower = [name.lower() for name in header] if has_header else []
    named = [lower.index(name) for name in NAME_HEADERS if name in lower]
    for column in dict.fromkeys([*named, *range(width)]):
        columns = _read_with_names_in(column, table, header if has_header else [], width, matcher, parse)
        if columns.rows.any():
            return columns
    first = next(_split(table.lines[has_header:], table.delimiter), None)
    example = f": row {first.number} begins with {quote(first.fields[0])}" if first else ""
    raise TableError(f"it has no row for any of the images{example}; the names in it must be those of the images")


def _is_data(fields: Sequence[str], matcher: NameMatcher, parse: Callable[[str], int | None]) -> bool:
    """Whether the first row is no header."""
    return any(matcher.find(field)[0] for field in fields) or all(parse(field) is not None for field in fields[1:] or fields)


def _read_with_names_in(
    column: int, table: Table, header: list[str], width: int, matcher: NameMatcher, parse: Callable[[str], int | None]
) -> Columns:
    """Reads all rows, where this column names the images. Raises: TableError."""
    count, others = len(matcher.paths), [at for at in range(width) if at != column]
    columns = Columns(
        [header[at] for at in others] if header else [], np.zeros((count, len(others)), np.int8), np.zeros(count, np.int64), {}
    )
    quality: list[tuple[int, bool]] = [(-1, False)] * count
    elsewhere: list[set[int | None]] = [set() for _ in others]  # the values of each column in rows of other images
    for row in _split(table.lines[bool(header) :], table.delimiter):
        if len(row.fields) > width:
            raise TableError(f"row {row.number} has {len(row.fields)} columns, and the rows before have {width}; correct it")
        row.fields.extend([""] * (width - len(row.fields)))
        positions, fit = matcher.find(row.fields[column])
        if len(positions) > 1:
            name = quote(row.fields[column])
            raise TableError(f"row {row.number}: {name} is the name of {len(positions):,} images; write their paths")
        parsed = [parse(row.fields[at]) for at in others]
        if not positions:
            for values, value in zip(elsewhere, parsed, strict=True):
                values.add(value)
        elif fit >= quality[positions[0]]:
            _store(columns, positions[0], row, parsed, others, fit == quality[positions[0]])
            quality[positions[0]] = fit
    _find_unknown_zeros(columns, elsewhere)
    return columns


def _store(columns: Columns, position: int, row: Row, parsed: list[int | None], others: Sequence[int], is_repeated: bool) -> None:
    """Stores a row as that of the image at this position. Raises: TableError if another row says something else."""
    problems = {
        at: f"row {row.number}, column {_name(columns, at)}: {quote(row.fields[others[at]]) or 'an empty cell'}"
        for at, value in enumerate(parsed)
        if value is None
    }
    values = [value or 0 for value in parsed]
    if is_repeated and values != columns.values[position].tolist():
        raise TableError(
            f"rows {columns.rows[position]} and {row.number} name the same image with different values; remove one of them"
        )
    columns.values[position], columns.rows[position] = values, row.number
    for at, problem in problems.items():
        columns.problems.setdefault(at, problem)


def _find_unknown_zeros(columns: Columns, elsewhere: Sequence[set[int | None]]) -> None:
    """Adds a problem for each column with 0 beside 1 and -1: some tables write 0 for unknown, and others for no."""
    with_row = columns.rows > 0
    for at, others in enumerate(elsewhere):
        zeros, negatives = (with_row & (columns.values[:, at] == value) for value in (0, -1))
        if zeros.any() and (negatives.any() or -1 in others):
            columns.problems.setdefault(
                at, f"row {columns.rows[zeros.argmax()]}, column {_name(columns, at)}: '0' in a column that also has '-1'"
            )


def _name(columns: Columns, at: int) -> str:
    return quote(columns.names[at]) if columns.names else f"number {at + 1}"
