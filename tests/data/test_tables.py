"""Tables in the spellings of many programs: read as meant, or refused with the row and the column."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dcgan_jax.data.tables import (
    MAX_TABLE_BYTES,
    NameMatcher,
    TableError,
    WebPageError,
    decode_table,
    parse_label,
    parse_table,
    read_columns,
    read_table,
)

NAMES = [f"{number:06}.jpg" for number in range(1, 9)]
LABELS = np.array([[1, 1], [0, 0], [1, 0], [0, 1], [1, 0], [0, 0], [1, 1], [0, 0]])


def write(head="image_id,Smiling,Male", sep=",", label=str, name=str, end="\n"):
    rows = [sep.join((name(each), label(int(a)), label(int(b)))) for each, (a, b) in zip(NAMES, LABELS, strict=True)]
    return end.join([head.replace(",", sep), *rows, ""])


def read(text, names=NAMES, root="/data/img_align_celeba"):
    return read_columns(parse_table(text), NameMatcher(root, names), parse_label)


READ = {
    "minus one": write(label=lambda value: "1" if value else "-1"),
    "decimals": write(label=lambda value: f"{1 if value else -1:.1f}"),
    "exponents": write(label=lambda value: f"{value:.6e}"),
    "truth": write(label=lambda value: str(bool(value))),
    "words": write(label=lambda value: "YES" if value else "no"),
    "semicolons, CRLF": write(sep=";", end="\r\n"),
    "decimal commas": write(sep=";", label=lambda value: "1,0" if value else "-1,0"),
    "tabs": write(sep="\t"),
    "bars": write(sep="|"),
    "old Mac lines": write(end="\r"),
    "Excel's hint": "sep=;\n" + write(sep=";"),
    "quotes": write('"image_id","Smiling","Male"', label=lambda value: f'"{value}"', name=lambda name: f'"{name}"'),
    "single quotes": write(label=lambda value: f"'{value}'", name=lambda name: f"'{name}'"),
    "paths": write(name=lambda name: "img_align_celeba/" + name),
    "paths of another machine": write(name=lambda name: "/home/somebody/faces/" + name),
    "Windows paths": write(name=lambda name: "C:\\faces\\" + name),
    "no suffix": write(name=lambda name: name[:-4]),
    "another suffix": write(name=lambda name: name[:-4] + ".png"),
    "spaces around": write().replace(",", " , "),
    "comments": "# made by hand\n\n" + write() + "# end\n",
    "commas at the end": write().replace("\n", ",\n"),
    "commas at the end of rows": write().replace("\n", ",\n").replace("Male,", "Male"),
    "index of pandas": "".join(f"{number - 1 if number else ''},{line}\n" for number, line in enumerate(write().splitlines())),
    "CelebA's own": "8\n" + write("Smiling Male ", " ", lambda value: " 1 " if value else "-1 "),
    "of R": write('"Smiling","Male"', " ", name=lambda name: f'"{name}"'),
}


@pytest.mark.parametrize("kind", READ)
def test_usual_spellings_are_read_as_meant(kind):
    columns = read(READ[kind])
    named = [at for at, name in enumerate(columns.names) if name]
    assert [columns.names[at] for at in named] == ["Smiling", "Male"]
    assert_array_equal(columns.values[:, named] == 1, LABELS == 1)
    assert not {at: problem for at, problem in columns.problems.items() if at in named}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_of_windows_are_read(encoding):
    assert decode_table(write("image_id,Lächeln,Male").encode(encoding)).startswith("image_id,Lächeln")


@pytest.mark.parametrize(
    "field, value",
    [("1", 1), ("+1", 1), ("1.0", 1), (" -1", -1), ("0", 0), ("-0.0", 0), ("TRUE", 1), ("False", 0), ("y", 1), ("N", 0)]
    + [(field, None) for field in ("", "2", "0.5", "nan", "inf", "maybe", "male", "-2", "1e9", "None", "#N/A")],
)  # fmt: skip
def test_only_clear_labels_are_understood(field, value):
    assert parse_label(field) == value


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("000005.jpg,1,0", "000005.jpg,maybe,0", "row 6, column 'Smiling': 'maybe'"),
        ("000005.jpg,1,0", "000005.jpg,,0", "row 6, column 'Smiling': an empty cell"),
        ("000005.jpg,1,0", "000005.jpg,2,0", "row 6, column 'Smiling': '2'"),
        ("000006.jpg,0,0", "000006.jpg,-1,0", "row 3, column 'Smiling': '0' in a column that also has '-1'"),
    ],
)
def test_value_not_understood_is_a_problem_of_its_column(old, new, problem):
    assert read(write().replace(old, new)).problems == {0: problem}


def test_empty_last_cell_is_a_problem_not_a_zero():
    assert read(write().replace("000005.jpg,1,0", "000005.jpg,1,")).problems == {1: "row 6, column 'Male': an empty cell"}


@pytest.mark.parametrize("marks, problem", [("xx......", "'x'"), ("........", "an empty cell")])
def test_column_of_mostly_empty_cells_is_a_problem(marks, problem):
    """The empty cells count when the delimiter is chosen."""
    rows = "".join(f"{name},{mark.strip('.')}\n" for name, mark in zip(NAMES, marks, strict=True))
    assert read("image_id,Smiling\n" + rows).problems == {0: f"row 2, column 'Smiling': {problem}"}


def test_column_without_a_name_keeps_the_other_names():
    columns = read(write("image_id,Smiling,"))
    assert columns.names == ["Smiling", ""]
    assert_array_equal(columns.values, LABELS)


def test_quoted_line_break_is_read():
    text = "image_id,Smiling,Note\n" + "".join(f'{name},1,"a\nb"\n' for name in NAMES * 9)  # more rows than decide
    assert read(text).values[:, 0].tolist() == [1] * 8


def test_zero_is_unknown_if_another_image_has_minus_one():
    """Some tables write 0 for unknown. It must not be read as no because only a part of the images is here."""
    text = write(label=lambda value: str(value)) + "other.jpg,-1,-1\n"
    assert read(text).problems.keys() == {0, 1}


REFUSED = {
    "conflict": (write() + "000002.jpg,1,1\n", "rows 3 and 10 .* different values"),
    "long row": (write().replace("000005.jpg,1,0", "000005.jpg,1,0,1"), "row 6 has 4 columns"),
    "unquoted spaces": ("image_id Big Nose Male\n" + write(sep=" ").split("\n", 1)[1], "row 1 names 4 columns"),
    "other images": (write(name=lambda name: "x" + name), "no row for any of the images: row 2 begins with 'x000001.jpg'"),
    "no delimiter": ("image_id\n000001.jpg\n", "separated neither by commas"),
    "open quote": (write().replace("000005.jpg", '"000005.jpg'), "row 6: a quote .* is not closed in '\"000005.jpg,1,0'"),
    "open quote in the first row": ('"' + write(), "row 1: a quote .* is not closed"),
    "open quote before many rows": (
        write(name=lambda name: '"' * (name == NAMES[3]) + name) + "x.jpg,1,0\n" * 20_000,
        "row 5: a quote",
    ),
    "no names of columns": (write("image_id,,"), "row 1 has empty cells instead of the columns' names; write the names"),
    "empty": ("\n# nothing\n", "no rows"),
    "long line": (write() + "x" * 70_000, "65,536 characters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unclear_table_is_refused_with_its_row(kind):
    text, words = REFUSED[kind]
    with pytest.raises(TableError, match=words):
        read(text)


@pytest.mark.parametrize(
    "content, words",
    [(b"n\xe4me,a\nb,1\n", "row 1: its encoding"), (b"PK\3\4" + bytes(99), "not text"), (b"a,b\n\0\0\n", "not text")],
)
def test_content_that_is_no_utf_8_is_refused(content, words):
    with pytest.raises(TableError, match=words):
        decode_table(content)


def test_web_page_has_its_own_error():
    with pytest.raises(WebPageError):
        decode_table(b"<!DOCTYPE html><title>Quota exceeded</title>")


def test_very_large_table_is_refused_with_its_size(tmp_path):
    with open(tmp_path / "large.csv", "wb") as file:
        file.truncate(MAX_TABLE_BYTES + 1)
    with open(tmp_path / "large.csv", "rb") as file, pytest.raises(TableError, match="larger than 64 MiB"):
        read_table(file)


def test_table_without_a_header_has_no_names():
    assert read(write().split("\n", 1)[1]).names == []


def test_images_of_equal_names_are_told_apart_by_their_folders():
    names = ["test/1.jpg", "train/1.jpg"]
    text = "image_id,Smiling\ntrain/1.jpg,1\ntest/1.jpg,0\nval/1.jpg,1\n"
    assert read(text, names).values.tolist() == [[0], [1]]
    assert read(text, ["1.jpg"], "/data/train").values.tolist() == [[1]]
    with pytest.raises(TableError, match="row 2: '1.jpg' is the name of 2 images"):
        read("image_id,Smiling\n1.jpg,1\n", names)


def test_names_with_dots_and_accents_match():
    names = ["a.1.jpg", "a.2.jpg", "Zoe\u0308.jpg"]  # macOS writes the letter and its dots separately
    columns = read("image_id,Smiling\na.1.jpg,1\na.2,0\nZoë.jpg,1\n", names)
    assert columns.values[:, 0].tolist() == [1, 0, 1]
