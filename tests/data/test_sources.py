import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from image_files import draw, zip_of
from numpy.testing import assert_array_equal
from packs import NO_REAL_FACES, REAL_FACES

from dcgan_jax.config import UserError
from dcgan_jax.data import drawn_faces
from dcgan_jax.data.sources import open_source

# ---- Properties of every source ----


def test_folder_and_zip_list_the_same_images_in_order(tmp_path):
    for name in ("b/2.png", "a/3.PNG", "1.png", "a/b/4.png"):
        draw(tmp_path / "in" / name)
    folder, archive = open_source(str(tmp_path / "in")), open_source(str(zip_of(tmp_path / "in", tmp_path / "in.zip")))
    assert (folder.kind, archive.kind) == ("folder", "zip")
    assert folder.names == archive.names == ["1.png", "a/3.PNG", "a/b/4.png", "b/2.png"]
    assert folder.count == archive.count == 4
    assert [folder.read(at) for at in range(4)] == [archive.read(at) for at in range(4)]
    assert folder.label(2) == "a/b/4.png"


@pytest.mark.parametrize("change", ["add", "remove", "rename", "rewrite", "touch"])
def test_any_change_of_a_folder_changes_its_fingerprint(tmp_path, change):
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
    elif change == "rewrite":  # another size with the old date
        old = one.stat()
        one.write_bytes(one.read_bytes() + b" ")
        os.utime(one, ns=(old.st_atime_ns, old.st_mtime_ns))
    else:
        os.utime(one, (1e9, 1e9))
    assert open_source(str(tmp_path)).fingerprint != before


def test_zip_is_identified_by_content_not_date(tmp_path):
    draw(tmp_path / "in" / "1.bmp", 1)  # a BMP of another shade has the same number of bytes
    path = zip_of(tmp_path / "in", tmp_path / "a.zip")
    before = open_source(str(path)).fingerprint
    os.utime(path, (1e9, 1e9))
    assert open_source(str(path)).fingerprint == before
    draw(tmp_path / "in" / "1.bmp", 2)
    zip_of(tmp_path / "in", path)
    assert open_source(str(path)).fingerprint != before


def test_article_zip_is_not_aligned_celeba(tmp_path):
    """The article's zip contains images of CelebA, but not in the aligned format."""
    draw(tmp_path / "in" / "processed_celeba_small" / "celeba" / "1.jpg")
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "__MACOSX" / "._1.jpg").write_bytes(b"junk")
    source = open_source(str(zip_of(tmp_path / "in", tmp_path / "processed-celeba-small.zip")))
    assert (source.kind, source.count, source.is_celeba) == ("zip", 1, False)
    assert source.ignored == {"in __MACOSX": 1}


def test_real_celeba_splits_as_published():
    if not os.path.isdir(REAL_FACES):
        pytest.skip(NO_REAL_FACES)
    source = open_source(REAL_FACES, "train")
    assert (source.is_celeba, source.names[0]) == (True, "img_align_celeba/000001.jpg")
    assert source.count == min(open_source(REAL_FACES).count, 162_770)  # the full set, or its first images
    if source.count < 162_770:
        with pytest.raises(UserError, match="valid"):
            open_source(REAL_FACES, "valid")


@pytest.mark.parametrize("name", ["dataset.json", "a/metadata.jsonl", "Labels.csv", "annotations.xlsx", "classes.txt"])
def test_labels_of_other_programs_are_named_once(tmp_path, name):
    for at in range(3):
        draw(tmp_path / "a" / f"{at}.png")
    (tmp_path / name).write_text("{}")
    (tmp_path / "a" / "labels.json.bak").write_text("{}")
    (line,) = open_source(str(tmp_path)).warnings
    assert line.startswith(f"{name} may contain labels and is not read")
    (tmp_path / "list_attr_celeba.csv").write_text("image_id,Smiling\n0.png,1\n1.png,0\n2.png,1\n")
    assert not open_source(str(tmp_path)).warnings


# ---- Arrays, drawn faces, TFDS ----


@pytest.mark.parametrize("shape", [(3, 8, 9), (3, 8, 9, 1), (3, 8, 9, 3), (3, 8, 9, 4)])
def test_npy_images_come_back(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", images)
    source = open_source(str(tmp_path / "a.npy"))
    assert (source.kind, source.count, source.label(2)) == ("npy", 3, "a.npy #2")
    assert_array_equal(source.read(2), images[2].squeeze())
    np.save(tmp_path / "a.npy", images[:2])
    assert open_source(str(tmp_path / "a.npy")).fingerprint != source.fingerprint


def test_drawn_faces_count_defaults_or_is_as_requested():
    assert open_source("drawn").count == 20_000
    source = open_source("drawn:7")
    assert (source.kind, source.count, source.is_celeba) == ("drawn", 7, False)
    assert_array_equal(source.draw(np.array([5, 2]), 16), drawn_faces.draw_faces(0, np.array([5, 2]), 16))
    assert source.attributes()[1].shape == (7, len(drawn_faces.ATTRIBUTES))
    assert source.fingerprint != open_source("drawn:8").fingerprint


def test_drawn_faces_that_changed_change_the_fingerprint(monkeypatch):
    before = open_source("drawn:7").fingerprint
    draw_faces = drawn_faces.draw_faces
    monkeypatch.setattr(drawn_faces, "draw_faces", lambda *args: draw_faces(*args) // 2)
    assert open_source("drawn:7").fingerprint != before


@pytest.fixture
def mocked_celeb_a(tmp_path):
    """TFDS's celeb_a as if prepared, with random JPEGs. Imports TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    prepared = tmp_path / "tfds" / "celeb_a" / "2.1.0"
    prepared.mkdir(parents=True)
    counts = {"train": "9", "validation": "4", "test": "5"}
    splits = [{"name": name, "shardLengths": [count], "numBytes": "1"} for name, count in counts.items()]
    info = {"name": "celeb_a", "version": "2.1.0", "fileFormat": "tfrecord", "splits": splits}
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    with tfds.testing.mock_data(num_examples=9, data_dir=str(tmp_path / "tfds")):
        yield


@pytest.mark.tensorflow
def test_tfds_gives_the_encoded_images_of_the_split(mocked_celeb_a):
    source = open_source("tfds:celeb_a", "train")
    assert (source.kind, source.is_celeba, source.count) == ("tfds", True, 9)
    assert [open_source("tfds:celeb_a", split).count for split in ("valid", "test", "all")] == [4, 5, 18]
    files = {at: source.read(at) for at in (3, 0, 1, 2, 8, 4)}  # nearly in order, like requests of threads
    assert all(file[:3] == b"\xff\xd8\xff" for file in files.values())
    assert len(set(files.values())) == 6
    assert source.read(0) == files[0]  # restarts the stream
    assert open_source("tfds:celeb_a").read(17) == b""  # the mock has nine images: a stream that ends early must not raise


@pytest.mark.tensorflow
def test_missing_tfds_is_one_line_with_the_remedy(tmp_path, monkeypatch, caplog):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    words_of = {"celeb_a": "download_and_prepare", "celeb_aa": "nearest: celeb_a", "../x": "write tfds:NAME"}
    for data, words in words_of.items():
        with pytest.raises(UserError, match=words) as caught:
            open_source(f"tfds:{data}")
        assert f"tfds:{data}" in str(caught.value)
    assert not caplog.records  # TFDS adds no log lines


def test_only_tfds_imports_tensorflow():
    script = "import sys, dcgan_jax.data.pack, dcgan_jax.data.sources as s; s.open_source('drawn:1'); "
    script += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)

# ---- Bad input: one line that names the file or flag ----


def npy(array):
    return lambda path: np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("nowhere", None, "does not exist"),
        ("empty", lambda path: path.mkdir(), "no images .it is empty"),
        ("text", lambda path: (path.mkdir(), (path / "a.heic").touch()), r"no images .1 \.heic"),
        ("list.txt", lambda path: path.write_text("words"), "neither a folder"),
        ("page.zip", lambda path: path.write_text("<HTML lang=en>Quota exceeded</HTML>"), "web page"),
        ("page2.zip", lambda path: path.write_text("<!DOCTYPE html><title>Quota exceeded</title>"), "web page"),
        ("broken.zip", lambda path: path.write_bytes(b"PK\3\4" + bytes(99)), "not a complete zip"),
        ("zero.zip", lambda path: path.touch(), "not a complete zip"),
        ("bare.zip", lambda path: zipfile.ZipFile(path, "w").close(), "no images"),
        ("float.npy", npy(np.zeros((2, 8, 8, 3))), "float64, not uint8"),
        ("objects.npy", npy(np.array([{}, []], object)), r"Python objects.*save np\.stack\(images\)"),
        ("zip.npy", lambda path: zipfile.ZipFile(path, "w").close(), "is a .npz or another zip.*rename it to zip.npz"),
        ("one.npy", npy(np.zeros((64, 64, 3), np.uint8)), r"\(64, 64, 3\)"),
        ("first.npy", npy(np.zeros((2, 3, 64, 64), np.uint8)), r"\(2, 3, 64, 64\), with channels first"),
        ("none.npy", npy(np.zeros((0, 8, 8, 3), np.uint8)), r"shape|complete"),
        ("short.npy", lambda path: npy(np.zeros((9, 8, 8), np.uint8))(path) or os.truncate(path, 300), "not a complete"),
        ("html.npy", lambda path: path.write_text("<html>"), "not a complete .npy"),
    ],
)  # fmt: skip
def test_bad_data_is_one_line_that_names_it(tmp_path, name, make, words):
    if make:
        make(tmp_path / name)
    with pytest.raises(UserError, match=words) as caught:
        open_source(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong, remedy",
    [
        (IMAGES.transpose(0, 3, 1, 2), "x.transpose(0, 2, 3, 1)"),
        (IMAGES.astype(np.int64), "x.astype(np.uint8)"),
        (IMAGES.astype(np.uint16) * 256 + 7, "(x // 256).astype(np.uint8)"),
        (IMAGES / 255, "(x * 255).round().astype(np.uint8)"),
        (IMAGES[..., 0] > 99, "x.astype(np.uint8) * 255"),
    ],
)
def test_conversion_of_an_array_is_proposed_and_works(tmp_path, wrong, remedy):
    np.save(tmp_path / "x.npy", wrong)
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path / "x.npy"))
    assert remedy in str(caught.value)
    np.save(tmp_path / "x.npy", eval(remedy, {"x": wrong, "np": np}))
    read = open_source(str(tmp_path / "x.npy")).read(0)
    np.testing.assert_array_equal(read, (IMAGES[0, ..., 0] > 99) * 255 if wrong.dtype == bool else IMAGES[0])


def test_address_is_to_be_downloaded_first():
    with pytest.raises(UserError, match="`data` https://host/faces.zip is an address: download the file first"):
        open_source("https://host/faces.zip")


@pytest.mark.parametrize("data", ["", "\0", "x" * 5000, "drawn:", "drawn:0", "drawn:-1", "drawn:many", "drawn:1.5"])
def test_impossible_values_raise_user_error(data):
    with pytest.raises(UserError, match="`data`"):
        open_source(data)
