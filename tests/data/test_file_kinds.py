import io
import logging
import re
import shlex
import sys
import types
import warnings

import pytest
from packs import encode
from PIL import Image

from dcgan_jax.data import file_kinds
from dcgan_jax.data.file_kinds import (
    BY_SUFFIX,
    KINDS,
    can_open,
    count_photos,
    describe_ignored,
    fill_remedy,
    find_kind,
    find_kind_of_content,
    has_image_suffix,
    hide_pillow_messages,
    name_clutter,
    suggest_remedy,
)


@pytest.mark.parametrize(
    "name",
    ["Thumbs.db", "a/desktop.ini", ".DS_Store", "._1.jpg", "a/.thumbnails/1.jpg", ".ipynb_checkpoints/1.jpg", "__MACOSX/1.jpg"]
    + ["@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/1.jpg", "$RECYCLE.BIN/1.jpg", "lost+found/1.jpg", "1.jpg~", "1.jpg.part"]
    + ["1.jpg_original", "1.jpg.crdownload", "Faces Previews.lrdata/0/1.jpg", "My.photoslibrary/resources/derivatives/1.jpg"]
    + ["~snapshot/1.jpg", "@GMT-2020.01.01/1.jpg", "1.sync-conflict-2020.jpg", "1 (conflicted copy).jpg", "FOUND.000/1.jpg"]
    + ["1 (Bob's conflicted copy 2020-01-01).jpg", "Trash/files/1.jpg", ".Trash-1000/1.jpg", "Recycle Bin/1.jpg", "1.THM.jpg"]
    + ["DfsrPrivate/1.jpg", "_gsdata_/1.jpg", "_thumbs/1.jpg", "Thumbs/1.jpg", "AlbumArtSmall.jpg", "Folder.jpg", "1.THM"]
    + ["AppleDouble/1.jpg", "@SynoEAStream/1.jpg", "a/_vti_cnf/1.jpg"],
)  # fmt: skip
def test_clutter_of_systems_is_recognised(name):
    assert name_clutter(name)


@pytest.mark.parametrize(
    "name",
    ["1.jpg", "thumbnails128x128/1.jpg", "My.photoslibrary/originals/1.jpg", "../up.jpg", "a@b/1.jpg"]
    + ["trash/1.jpg", "Trash/1.jpg", "conflict/1.jpg", "my folder.jpg", "found/1.jpg"],
)
def test_images_of_the_user_are_no_clutter(name):
    assert not name_clutter(name)


def test_every_kind_has_its_own_name_and_a_remedy():
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        remedy = fill_remedy(kind, "my faces/file.x")
        assert kind.name.startswith(("a ", "an ", "one ")) and len(remedy) > 15
        assert "{" not in remedy
        assert "my faces" not in remedy or "'my faces/file.x'" in remedy or "'my faces/file'" in remedy


def test_remedy_keeps_patterns_for_the_shell():
    remedy = fill_remedy(BY_SUFFIX[".heic"], "my faces/*.HEIC")
    assert "pip install pillow-heif" in remedy
    assert shlex.split(remedy.partition("magick")[2])[-1] == "my faces/*.HEIC"
    assert remedy.endswith("'my faces'/*.HEIC")


@pytest.mark.parametrize(
    "name, suffix",
    [("a.HEIC", ".heic"), ("x/a.NEF", ".nef"), ("a.tfrecord-00000-of-00010", ".tfrecord"), ("a.zip.001", ".001")]
    + [("a.z01", ".z01"), ("a.tar.gz", ".tar"), ("train-images-idx3-ubyte.gz", ".idx3-ubyte"), ("a.part1.rar", ".rar")],
)  # fmt: skip
def test_kind_is_found_by_name(name, suffix):
    assert find_kind(name) == BY_SUFFIX[suffix]


@pytest.mark.parametrize(
    "head, suffix",
    [(b"PAR1", ".parquet"), (b"\0\0\0\x18ftypheic", ".heic"), (b"PK\7\x08", ".z01"), (b"\n<!DOCTYPE html>", ".html")]
    + [(bytes(257) + b"ustar", ".tar"), (b"version https://git-lfs.github.com", ".git-lfs"), (b"\x89HDF\r\n\x1a\n", ".h5")],
)  # fmt: skip
def test_kind_is_found_by_content(head, suffix):
    assert find_kind_of_content(head) == BY_SUFFIX[suffix]
    assert find_kind_of_content(b"\xff\xd8\xff") is None


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "TGA", "PCX", "SGI", "QOI"])
def test_content_decides_what_is_an_image(form):
    content = encode(Image.new("RGB", (8, 8)), form)
    assert can_open(io.BytesIO(content), f"face.{form.lower()}")
    assert not can_open(io.BytesIO(b"some text, not an image"), "face.tga")


def test_icons_and_programs_are_no_images():
    assert not can_open(io.BytesIO(encode(Image.new("RGB", (16, 16)), "ICO")), "face")
    assert not can_open(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "face")


def test_heic_counts_as_an_image_with_its_plugin(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if not installed
    file_kinds.list_formats.cache_clear()
    try:
        assert not has_image_suffix("a.HEIC")
        plugin = types.SimpleNamespace(register_heif_opener=lambda: monkeypatch.setitem(Image.OPEN, "HEIF", (None, None)))
        monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
        file_kinds.list_formats.cache_clear()
        assert has_image_suffix("a.HEIC") and has_image_suffix("a.jpg")
    finally:
        file_kinds.list_formats.cache_clear()


def test_messages_of_pillow_are_hidden_and_no_others(capsys):
    with hide_pillow_messages():
        warnings.warn_explicit("odd", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")
        logging.getLogger("PIL.TiffImagePlugin").warning("more samples per pixel")
        with pytest.raises(UserWarning, match="ours"):  # the tests turn warnings into errors
            warnings.warn_explicit("ours", UserWarning, "pack.py", 1, module="dcgan_jax.data.pack")
    assert capsys.readouterr().err == ""


def test_ignored_files_are_counted_in_words():
    assert describe_ignored({".txt": 2, ".HEIC": 2400, "hidden": 2}) == "2,400 .HEIC, 2 .txt, 2 hidden"
    assert describe_ignored({f".x{number}": 1 for number in range(20)}).endswith("12 others")
    assert [(count, type_) for count, type_, _ in count_photos({".HEIC": 3, ".txt": 9, ".nef": 1})] == [(3, ".HEIC"), (1, ".nef")]


@pytest.mark.parametrize(
    "problems, words",
    [
        (["a link out of the folder"] * 3, "cp -rL"),
        (["Bad CRC-32 for file 'a.jpg'"] * 3, "the zip is damaged"),
        (["not an image but a Git LFS pointer"] * 3 + ["empty"], "git lfs pull"),
        (["[Errno 13] Permission denied: 'a.jpg'"], "chmod"),
        (["empty", "not an image", "encrypted"], "remove or replace them"),
        ([], "remove or replace them"),
    ],
)
def test_remedy_fits_the_cause_of_most_problems(problems, words):
    assert re.search(words, suggest_remedy(problems))
