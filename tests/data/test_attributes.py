import os
import re

import numpy as np
import pytest
from image_files import ATTRIBUTES, celeba, draw, tables, zip_of
from numpy.testing import assert_array_equal

from dcgan_jax.config import UserError
from dcgan_jax.data.class_folders import make_folder_attributes
from dcgan_jax.data.sources import open_source


@pytest.mark.parametrize(
    "form", ["folder", "parent", "torchvision", "zip", "folder with zip", "torchvision zip", "csv", "nested"]
)
def test_celeba_every_usual_form_is_recognised(tmp_path, form):
    """CelebA is recognised, with its tables, in every layout in which it is distributed."""
    root = celeba(tmp_path / "celeba")
    inner, data = root / "img_align_celeba", root
    if form == "folder":
        data = inner
    elif form == "torchvision":
        data = tmp_path
    elif form == "nested":  # Kaggle's archive, unpacked, given by its deepest folder
        inner.rename(root / "same")
        inner.mkdir()
        data = (root / "same").rename(inner / "img_align_celeba")
    elif "zip" in form:
        data = zip_of(inner, root / "img_align_celeba.zip", "img_align_celeba/")
        for file in inner.iterdir():
            file.unlink()
        inner.rmdir()
        data = {"zip": data, "folder with zip": root, "torchvision zip": tmp_path}[form]
    elif form == "csv":  # Kaggle: one archive with everything
        for table in ("list_eval_partition", "list_attr_celeba"):
            rows = (root / f"{table}.txt").read_text().splitlines()
            header, rows = (ATTRIBUTES, rows[2:]) if "attr" in table else ("partition", rows)
            rows = [f"image_id {header}", *rows]
            (root / f"{table}.csv").write_text("\n".join(",".join(row.split()) for row in rows))
            (root / f"{table}.txt").unlink()
        data = zip_of(root, tmp_path / "archive.zip")
    source = open_source(str(data))
    assert (source.kind, source.is_celeba, source.count) == ("celeba", True, 6)
    assert [name[-5] for name in source.names] == list("123456")
    for at, split in enumerate(("train", "valid", "test")):
        part = open_source(str(data), split)
        assert [name[-5] for name in part.names] == [str(2 * at + 1), str(2 * at + 2)]
        assert part.read(0) == source.read(2 * at)
        assert part.fingerprint != source.fingerprint
    names, values, *_ = source.attributes()
    assert names == ("Smiling", "Young")
    assert_array_equal(values, [[0, 0], [1, 0]] * 3)


def test_celeba_split_is_part_of_the_fingerprint(tmp_path):
    """CelebA is recognised by the name of a folder in it."""
    root = celeba(tmp_path / "celeba", 2)  # both are training images
    assert open_source(str(root), "train").names == open_source(str(root)).names
    assert open_source(str(root), "train").fingerprint != open_source(str(root)).fingerprint
    bare = open_source(str(zip_of(root / "img_align_celeba", tmp_path / "faces.zip", "x/img_align_celeba/")))
    assert (bare.is_celeba, bare.attributes().values) == (True, None)


def test_attributes_missing_an_image_are_left_out(tmp_path):
    root = celeba(tmp_path)
    draw(root / "img_align_celeba" / "000099.jpg")
    attributes = open_source(str(root)).attributes()
    assert attributes.values is None
    assert "list_attr_celeba.txt is not used: it has no row for 1 of 7 images, such as 000099.jpg" in attributes.warnings[0]


@pytest.mark.parametrize("table", ["list_eval_partition.txt", "list_attr_celeba.txt"])
def test_table_that_is_a_web_page_is_refused(tmp_path, table):
    folder = celeba(tmp_path / "faces")
    (folder / table).write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    with pytest.raises(UserError, match=f"{table} is a web page"):
        source = open_source(str(folder), "train")
        source.attributes()


def test_split_without_partition_table_is_refused(tmp_path):
    draw(tmp_path / "1.jpg")
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    for data in (str(tmp_path), str(tmp_path / "a.npy"), "drawn"):
        with pytest.raises(UserError, match="`split` train.*`split` all"):
            open_source(data, "train")
    with pytest.raises(UserError, match="train, valid, test, all"):
        open_source("drawn", "tiny")
    tables(tmp_path, ["000001.jpg"])  # a partition of other images
    draw(tmp_path / "other" / "000001.jpg")  # beside CelebA's tables, but without a name that says CelebA
    with pytest.raises(UserError, match="has no list_eval_partition"):
        open_source(str(tmp_path / "other"), "train")
    (tmp_path / "other" / "000001.jpg").unlink()
    with pytest.raises(UserError, match="no row for any of the images: row 1"):
        open_source(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["a/1.png", "b/2.png", "b/deeper/3.png"], ("a", "b")),
        (["set/x/a/1.png", "set/x/b/2.png", "set/x/b/3.png"], ("a", "b")),
        (["a/1.png", "a/2.png"], None),
        (["1.png", "2.png"], None),
        (["a/1.png", "b/2.png", "3.png"], None),
        (["a,b/1.png", "c/2.png"], ("a_b", "c")),
    ],
)
def test_class_folders_give_each_image_one_class(names, classes):
    """Folders are classes if there are several and every image is in one of them."""
    attributes = make_folder_attributes(names)
    if classes is None:
        assert attributes.values is None
    else:
        assert attributes[0] == classes
        assert attributes[1].dtype == np.uint8 and (attributes[1].sum(1) == 1).all() and attributes[1][0, 0] == 1


# ---- Tables of other programs ----


def write_table(root, content, name="list_attr_celeba.csv"):
    (root / "list_attr_celeba.txt").unlink(missing_ok=True)
    (root / name).write_text(content)
    return open_source(str(root))


GOOD_TABLE = "image_id;Smiling;Young\n" + "".join(f"{number:06}.jpg;{number % 2}.0;yes\n" for number in range(1, 7))


def test_table_of_another_program_is_used(tmp_path):
    attributes = write_table(celeba(tmp_path), GOOD_TABLE).attributes()
    assert (attributes.names, attributes.warnings) == (("Smiling", "Young"), ())
    assert_array_equal(attributes.values, [[1, 1], [0, 1]] * 3)


def test_column_not_understood_is_refused_with_its_row(tmp_path):
    """The other columns are used. Nothing becomes 0."""
    attributes = write_table(celeba(tmp_path), GOOD_TABLE.replace("3.jpg;1.0", "3.jpg;perhaps")).attributes()
    assert attributes.names == ("Young",)
    assert "list_attr_celeba.csv: row 4, column 'Smiling': 'perhaps' is not a label" in attributes.warnings[0]
    assert dict(attributes.refused).keys() == {"Smiling"}


def test_columns_equal_after_cleaning_are_refused(tmp_path):
    table = GOOD_TABLE.replace("Smiling;Young", '"Big,Nose";Big_Nose')
    attributes = write_table(celeba(tmp_path), table).attributes()
    assert attributes.names == () and "several columns are called Big_Nose" in attributes.warnings[0]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("list_attr_celeba.csv", GOOD_TABLE.split("\n", 1)[1], "it has no header"),
        (
            "list_attr_celeba.csv",
            "image_id" + ",a" * 257 + "\n" + "000001.jpg" + ",1" * 257,
            "257 columns besides the names, more than 256",
        ),
        ("list_attr_celeba.csv", GOOD_TABLE.replace("000004.jpg", "other.jpg"), "no row for 1 of 6 images, such as .*000004.jpg"),
    ],
)
def test_table_that_cannot_be_used_is_one_warning(tmp_path, name, content, words):
    attributes = write_table(celeba(tmp_path), content, name).attributes()
    assert attributes.names == ()
    (warning,) = attributes.warnings
    assert str(tmp_path / name) in warning and re.search(words, warning)


@pytest.mark.parametrize(
    "name, words",
    [
        ("list_attr_celeba.xlsx", "save it as list_attr_celeba.csv"),
        ("list_attr_celeba.csv.gz", "save it as list_attr_celeba.csv"),
        ("list_attr_celeba (1).csv", "rename it"),
        ("list_attr_celeba.csv.txt", "rename it"),
    ],
)
@pytest.mark.parametrize("is_inside", [False, True])
def test_table_of_another_name_is_one_warning(tmp_path, name, words, is_inside):
    root = celeba(tmp_path)
    if is_inside or " " in name:
        source = write_table(root, GOOD_TABLE, f"img_align_celeba/{name}")
    else:
        source = write_table(root, GOOD_TABLE, name)
    (warning,) = source.warnings
    assert name in warning and words in warning
    assert source.attributes().values is None


def test_second_table_is_one_warning(tmp_path):
    root = celeba(tmp_path)
    (root / "list_attr_celeba.csv").write_text(GOOD_TABLE)
    (warning,) = open_source(str(root)).warnings
    assert "list_attr_celeba.csv is not used: " in warning and "list_attr_celeba.txt is" in warning


def test_table_beside_other_images_is_a_note(tmp_path):
    celeba(tmp_path / "celeba")
    draw(tmp_path / "celeba" / "other" / "000001.jpg")
    source = open_source(str(tmp_path / "celeba" / "other"))
    assert source.warnings == () and source.attributes().values is None
    assert "not aligned CelebA" in source.notes[0]


def test_link_named_like_a_table_is_not_followed(tmp_path):
    draw(tmp_path / "in" / "000001.jpg")
    (tmp_path / "secret").write_text("image_id,Smiling\n000001.jpg,1\n")
    (tmp_path / "in" / "list_attr_celeba.csv").symlink_to(tmp_path / "secret")
    source = open_source(str(tmp_path / "in"))
    assert source.attributes().values is None and "a link out of the folder" in source.warnings[0]


@pytest.mark.parametrize("change", ["add", "correct", "remove"])
def test_changed_table_changes_the_fingerprint(tmp_path, change):
    root = celeba(tmp_path)
    table = root / "list_attr_celeba.txt"
    content, status = table.read_text(), table.stat()
    if change == "add":
        table.unlink()
    before = open_source(str(root)).fingerprint
    if change == "remove":
        table.unlink()
    else:
        table.write_text(content if change == "add" else content.replace("000001.jpg -1", "000001.jpg  1"))
        os.utime(table, ns=(status.st_atime_ns, status.st_mtime_ns))  # an editor may keep the date, and the size is the same
    assert open_source(str(root)).fingerprint != before


@pytest.mark.parametrize(
    "rows, codes",
    [
        ("image_id,partition\n000001.jpg,0.0\n000002.jpg,2\n", [0, 2]),
        ("000001,train\n000002,test\n", [0, 2]),
        ("image_id;identity;split\n000001;7;val\n000002;8;train\n", [1, 0]),
    ],
)
def test_partition_of_another_program_is_read(tmp_path, rows, codes):
    root = celeba(tmp_path, 2)
    (root / "list_eval_partition.txt").unlink()
    (root / "list_eval_partition.csv").write_text(rows)
    for name, code in zip(("000001.jpg", "000002.jpg"), codes, strict=True):
        assert name in open_source(str(root), ("train", "valid", "test")[code]).names[0]


def test_partition_not_understood_is_refused_with_its_row(tmp_path):
    root = celeba(tmp_path)
    (root / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 3\n")
    with pytest.raises(UserError, match="list_eval_partition.txt: row 2.*'3' is not a split"):
        open_source(str(root), "train")


def test_images_in_no_split_are_a_warning(tmp_path):
    root = celeba(tmp_path)
    draw(root / "img_align_celeba" / "000099.jpg")
    (warning,) = open_source(str(root), "train").warnings
    assert "no row for 1 of 7 images" in warning
