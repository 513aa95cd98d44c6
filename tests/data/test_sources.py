import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from dcgan_jax.config import UserError
from dcgan_jax.data import drawn_faces
from dcgan_jax.data.sources import MAX_FILE_BYTES, _classes, open_source

REAL_FACES = os.path.join(os.path.dirname(__file__), "..", "..", "..", "shared", "data", "celeba")
ATTRIBUTES = "Smiling Young"


def draw(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((218, 178, 3), shade, np.uint8)).save(path)


def celeba(folder, count=6):
    """img_align_celeba/000001.jpg ... and both tables in folder; two pictures in each split, shades 0, 20, 40, ..."""
    names = [f"{number:06}.jpg" for number in range(1, count + 1)]
    for at, name in enumerate(names):
        draw(folder / "img_align_celeba" / name, 20 * at)
    tables(folder, names)
    return folder


def tables(folder, names):
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {at // 2}\n" for at, name in enumerate(names)))
    rows = "".join(f"{name} {' 1' if at % 2 else '-1'} -1\n" for at, name in enumerate(names))
    (folder / "list_attr_celeba.txt").write_text(f"{len(names)}\n{ATTRIBUTES} \n{rows}")


def zip_of(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


# ---- Laws ----


def test_a_folder_and_its_zip_list_the_same_pictures_in_the_same_order(tmp_path):
    for name in ("b/2.png", "a/3.PNG", "1.png", "a/b/4.png"):
        draw(tmp_path / "in" / name)
    folder, archive = open_source(str(tmp_path / "in")), open_source(str(zip_of(tmp_path / "in", tmp_path / "in.zip")))
    assert (folder.kind, archive.kind) == ("folder", "zip")
    assert folder.names == archive.names == ["1.png", "a/3.PNG", "a/b/4.png", "b/2.png"]
    assert folder.count == archive.count == 4
    assert [folder.read(at) for at in range(4)] == [archive.read(at) for at in range(4)]
    assert folder.label(2) == "a/b/4.png"


@pytest.mark.parametrize("change", ["add", "remove", "rename", "rewrite", "touch"])
def test_any_change_of_a_folder_changes_the_fingerprint(tmp_path, change):
    for at in range(3):
        draw(tmp_path / f"{at}.png", at)
    before = open_source(str(tmp_path)).fingerprint
    assert open_source(str(tmp_path)).fingerprint == before
    one = tmp_path / "1.png"
    if change == "add":
        draw(tmp_path / "3.png")
    elif change == "remove":
        one.unlink()
    elif change == "rename":
        one.rename(tmp_path / "9.png")
    elif change == "rewrite":  # another size at the old date
        old = one.stat()
        one.write_bytes(one.read_bytes() + b" ")
        os.utime(one, ns=(old.st_atime_ns, old.st_mtime_ns))
    else:
        os.utime(one, (1e9, 1e9))
    assert open_source(str(tmp_path)).fingerprint != before


def test_a_zip_is_known_by_its_content_not_its_date(tmp_path):
    draw(tmp_path / "in" / "1.bmp", 1)  # BMP: another shade has the same number of bytes
    path = zip_of(tmp_path / "in", tmp_path / "a.zip")
    before = open_source(str(path)).fingerprint
    os.utime(path, (1e9, 1e9))
    assert open_source(str(path)).fingerprint == before
    draw(tmp_path / "in" / "1.bmp", 2)
    zip_of(tmp_path / "in", path)
    assert open_source(str(path)).fingerprint != before


# ---- What is a picture ----


def test_what_is_no_picture_is_ignored_and_counted(tmp_path):
    draw(tmp_path / "photo.jpg")
    for junk in ("notes.txt", "Thumbs.db", ".DS_Store", ".hidden.jpg", "__MACOSX/photo.jpg"):
        (tmp_path / junk).parent.mkdir(exist_ok=True)
        (tmp_path / junk).write_bytes(b"junk")
    for source in (open_source(str(tmp_path)), open_source(str(zip_of(tmp_path, tmp_path.parent / "junk.zip")))):
        assert (source.names, source.ignored, source.refused) == (["photo.jpg"], 5, ())


def test_links_out_of_the_folder_are_refused_and_named(tmp_path):
    draw(tmp_path / "outside" / "secret.png")
    draw(tmp_path / "in" / "a" / "own.png")
    (tmp_path / "in" / "file.png").symlink_to(tmp_path / "outside" / "secret.png")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "a")  # inside: listed once, nothing to refuse
    (tmp_path / "in" / "near.png").symlink_to(tmp_path / "in" / "a" / "own.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    source = open_source(str(tmp_path / "in"))
    assert source.names == ["a/own.png", "near.png"]
    assert [name for name, _ in source.refused] == ["file.png", "folder", "loop.png"]
    assert "link" in source.refused[0][1]


def test_a_pipe_named_like_a_picture_is_not_waited_for(tmp_path):
    draw(tmp_path / "photo.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert open_source(str(tmp_path)).names == ["photo.jpg"]


def test_zip_entries_that_lead_out_or_claim_absurd_sizes_are_refused_and_named(tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("fine.png", "../up.png", "/root.png", "C:\\disk.png", "a/../../b.png", "line\nbreak.png"):
            archive.writestr(name, b"x")
        archive.writestr("bomb.png", b"x")
        archive.getinfo("bomb.png").file_size = MAX_FILE_BYTES + 1  # what the central directory will claim
    source = open_source(str(path))
    assert source.names == ["fine.png", "line\nbreak.png"]
    assert source.label(1) == r"'line\nbreak.png'"
    assert {name for name, _ in source.refused} == {
        "../up.png", "/root.png", "C:/disk.png", "a/../../b.png", "bomb.png"
    }  # fmt: skip


def test_a_zip_entry_without_a_name_is_ignored(tmp_path):
    path = tmp_path / "nameless.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fine.png", b"x")
        archive.writestr("x", b"x")
        archive.getinfo("x").filename = ""
    assert open_source(str(path)).names == ["fine.png"]


# ---- CelebA as people have it ----


@pytest.mark.parametrize(
    "form", ["folder", "parent", "torchvision", "zip", "folder with zip", "torchvision zip", "csv", "nested"]
)
def test_celeba_is_recognised_with_its_tables_in_every_usual_form(tmp_path, form):
    root = celeba(tmp_path / "celeba")
    inner, data = root / "img_align_celeba", root
    if form == "folder":
        data = inner
    elif form == "torchvision":
        data = tmp_path
    elif form == "nested":  # Kaggle's, unpacked, given at its deepest
        inner.rename(root / "same")
        inner.mkdir()
        data = (root / "same").rename(inner / "img_align_celeba")
    elif "zip" in form:
        data = zip_of(inner, root / "img_align_celeba.zip", "img_align_celeba/")
        for file in inner.iterdir():
            file.unlink()
        inner.rmdir()
        data = {"zip": data, "folder with zip": root, "torchvision zip": tmp_path}[form]
    elif form == "csv":  # Kaggle: one archive, all in it
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
    names, values = source.attributes()
    assert names == ("Smiling", "Young")
    assert_array_equal(values, [[0, 0], [1, 0]] * 3)


def test_celeba_is_known_by_a_name_inside_and_the_split_is_part_of_the_fingerprint(tmp_path):
    root = celeba(tmp_path / "celeba", 2)  # both are training pictures
    assert open_source(str(root), "train").names == open_source(str(root)).names
    assert open_source(str(root), "train").fingerprint != open_source(str(root)).fingerprint
    bare = open_source(str(zip_of(root / "img_align_celeba", tmp_path / "faces.zip", "x/img_align_celeba/")))
    assert (bare.is_celeba, bare.attributes()) == (True, None)


def test_attributes_that_miss_a_picture_are_left_out(tmp_path):
    root = celeba(tmp_path)
    draw(root / "img_align_celeba" / "000099.jpg")
    assert open_source(str(root)).attributes() is None


def test_the_articles_zip_is_pictures_but_not_aligned_celeba(tmp_path):
    draw(tmp_path / "in" / "processed_celeba_small" / "celeba" / "1.jpg")
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "__MACOSX" / "._1.jpg").write_bytes(b"junk")
    source = open_source(str(zip_of(tmp_path / "in", tmp_path / "processed-celeba-small.zip")))
    assert (source.kind, source.count, source.ignored, source.is_celeba) == ("zip", 1, 1, False)


def test_the_real_celeba_beside_the_repository():
    if not os.path.isdir(REAL_FACES):
        pytest.skip("no ../shared/data/celeba beside the repository")
    source = open_source(REAL_FACES, "train")  # this cut of CelebA holds training pictures only
    assert (source.count, source.is_celeba, source.names[0]) == (10_000, True, "img_align_celeba/000001.jpg")
    with pytest.raises(UserError, match="valid"):
        open_source(REAL_FACES, "valid")


# ---- Arrays, drawn faces, TFDS ----


@pytest.mark.parametrize("shape", [(3, 8, 9), (3, 8, 9, 1), (3, 8, 9, 3), (3, 8, 9, 4)])
def test_npy_pictures_come_back(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", images)
    source = open_source(str(tmp_path / "a.npy"))
    assert (source.kind, source.count, source.label(2)) == ("npy", 3, "a.npy #2")
    assert_array_equal(source.read(2), images[2].squeeze())
    np.save(tmp_path / "a.npy", images[:2])
    assert open_source(str(tmp_path / "a.npy")).fingerprint != source.fingerprint


def test_drawn_faces_are_the_default_number_or_as_many_as_asked():
    assert open_source("drawn").count == 20_000
    source = open_source("drawn:7")
    assert (source.kind, source.count, source.is_celeba) == ("drawn", 7, False)
    assert_array_equal(source.draw(np.array([5, 2]), 16), drawn_faces.draw_faces(0, np.array([5, 2]), 16))
    assert source.attributes()[1].shape == (7, len(drawn_faces.ATTRIBUTES))
    assert source.fingerprint != open_source("drawn:8").fingerprint


def test_drawn_faces_that_look_different_have_another_fingerprint(monkeypatch):
    before = open_source("drawn:7").fingerprint
    draw_faces = drawn_faces.draw_faces
    monkeypatch.setattr(drawn_faces, "draw_faces", lambda *args: draw_faces(*args) // 2)
    assert open_source("drawn:7").fingerprint != before


@pytest.fixture
def mocked_celeb_a(tmp_path):
    """TFDS's celeb_a as it looks once prepared, with random JPEGs. Imports TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    prepared = tmp_path / "tfds" / "celeb_a" / "2.1.0"
    prepared.mkdir(parents=True)
    counts = {"train": "9", "validation": "4", "test": "5"}
    splits = [{"name": name, "shardLengths": [count], "numBytes": "1"} for name, count in counts.items()]
    info = {"name": "celeb_a", "version": "2.1.0", "fileFormat": "tfrecord", "splits": splits}
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    with tfds.testing.mock_data(num_examples=9, data_dir=str(tmp_path / "tfds")):
        yield


def test_tfds_gives_the_encoded_pictures_of_the_split(mocked_celeb_a):
    source = open_source("tfds:celeb_a", "train")
    assert (source.kind, source.is_celeba, source.count) == ("tfds", True, 9)
    assert [open_source("tfds:celeb_a", split).count for split in ("valid", "test", "all")] == [4, 5, 18]
    pictures = {at: source.read(at) for at in (3, 0, 1, 2, 8, 4)}  # not quite in order, as threads ask
    assert all(picture[:3] == b"\xff\xd8\xff" for picture in pictures.values())
    assert len(set(pictures.values())) == 6
    assert source.read(0) == pictures[0]  # from the front once more
    assert open_source("tfds:celeb_a").read(17) == b""  # the mock has nine: a stream that ends early is no crash


def test_tfds_that_is_missing_is_one_line_with_the_remedy(tmp_path, monkeypatch, caplog):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    words_of = {"celeb_a": "download_and_prepare", "celeb_aa": "nearest: celeb_a", "../x": "write tfds:NAME"}
    for data, words in words_of.items():
        with pytest.raises(UserError, match=words) as caught:
            open_source(f"tfds:{data}")
        assert f"tfds:{data}" in str(caught.value)
    assert not caplog.records  # nor does TFDS add lines of its own


def test_nothing_else_imports_tensorflow():
    script = "import sys, dcgan_jax.data.pack, dcgan_jax.data.sources as s; s.open_source('drawn:1'); "
    script += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# ---- Bad input: one line that names the file or flag ----


def npy(array):
    return lambda path: np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("nowhere", None, "does not exist"),
        ("empty", lambda path: path.mkdir(), "no pictures .it is empty"),
        ("text", lambda path: (path.mkdir(), (path / "a.heic").touch()), r"no pictures .1 \.heic"),
        ("list.txt", lambda path: path.write_text("words"), "neither a folder"),
        ("page.zip", lambda path: path.write_text("<HTML lang=en>Quota exceeded</HTML>"), "web page"),
        ("page2.zip", lambda path: path.write_text("<!DOCTYPE html><title>Quota exceeded</title>"), "web page"),
        ("broken.zip", lambda path: path.write_bytes(b"PK\3\4" + bytes(99)), "not a whole zip"),
        ("zero.zip", lambda path: path.touch(), "not a whole zip"),
        ("bare.zip", lambda path: zipfile.ZipFile(path, "w").close(), "no pictures"),
        ("float.npy", npy(np.zeros((2, 8, 8, 3))), "float64, not uint8"),
        ("objects.npy", npy(np.array([{}, []], object)), "not a whole .npy"),
        ("one.npy", npy(np.zeros((64, 64, 3), np.uint8)), r"\(64, 64, 3\)"),
        ("first.npy", npy(np.zeros((2, 3, 64, 64), np.uint8)), r"\(2, 3, 64, 64\)"),
        ("none.npy", npy(np.zeros((0, 8, 8, 3), np.uint8)), r"shape|whole"),
        ("short.npy", lambda path: npy(np.zeros((9, 8, 8), np.uint8))(path) or os.truncate(path, 300), "not a whole"),
        ("html.npy", lambda path: path.write_text("<html>"), "not a whole .npy"),
    ],
)  # fmt: skip
def test_bad_data_is_one_line_that_names_it(tmp_path, name, make, words):
    if make:
        make(tmp_path / name)
    with pytest.raises(UserError, match=words) as caught:
        open_source(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", ["", "\0", "x" * 5000, "drawn:", "drawn:0", "drawn:-1", "drawn:many", "drawn:1.5"])
def test_impossible_values_are_bad_input(data):
    with pytest.raises(UserError, match="`data`"):
        open_source(data)


def test_two_entries_of_one_name_in_a_zip_are_two_pictures(tmp_path):
    draw(tmp_path / "a.png", 7)
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.write(tmp_path / "a.png", "a.png")
    assert open_source(str(tmp_path / "faces.zip")).count == 2


@pytest.mark.parametrize("table", ["list_eval_partition.txt", "list_attr_celeba.txt"])
def test_a_web_page_in_place_of_a_table_is_told_from_it(tmp_path, table):
    folder = celeba(tmp_path / "faces")
    (folder / table).write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    with pytest.raises(UserError, match=f"{table} is a web page"):
        source = open_source(str(folder), "train")
        source.attributes()


def test_splits_need_a_partition(tmp_path):
    draw(tmp_path / "1.jpg")
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    for data in (str(tmp_path), str(tmp_path / "a.npy"), "drawn"):
        with pytest.raises(UserError, match="`split` train.*`split` all"):
            open_source(data, "train")
    with pytest.raises(UserError, match="train, valid, test, all"):
        open_source("drawn", "tiny")
    tables(tmp_path, ["000001.jpg"])  # a partition that knows other pictures
    draw(tmp_path / "other" / "000001.jpg")  # beside CelebA's tables, but not said to be CelebA
    with pytest.raises(UserError, match="has no list_eval_partition"):
        open_source(str(tmp_path / "other"), "train")
    (tmp_path / "other" / "000001.jpg").unlink()
    with pytest.raises(UserError, match="puts no picture"):
        open_source(str(tmp_path), "train")


# ---- A folder for each class ----


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
def test_folders_are_classes_where_each_picture_is_in_one_of_several(names, classes):
    found = _classes(names)
    if classes is None:
        assert found is None
    else:
        assert found[0] == classes
        assert found[1].dtype == np.uint8 and (found[1].sum(1) == 1).all() and found[1][0, 0] == 1
