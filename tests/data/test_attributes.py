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
