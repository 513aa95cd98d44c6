import os
import zipfile

import pytest
from image_files import draw, zip_of

from dcgan_jax.data.listing import MAX_FILE_BYTES
from dcgan_jax.data.sources import open_source


def test_other_files_are_ignored_and_counted(tmp_path):
    draw(tmp_path / "photo.jpg")
    for junk in ("notes.txt", "Thumbs.db", ".DS_Store", ".hidden.jpg", "__MACOSX/photo.jpg"):
        (tmp_path / junk).parent.mkdir(exist_ok=True)
        (tmp_path / junk).write_bytes(b"junk")
    for source in (open_source(str(tmp_path)), open_source(str(zip_of(tmp_path, tmp_path.parent / "junk.zip")))):
        assert (source.names, source.refused) == (["photo.jpg"], ())
        assert source.ignored == {"hidden": 2, "in __MACOSX": 1, "Thumbs.db": 1, ".txt": 1}


def test_links_out_of_the_folder_are_refused(tmp_path):
    draw(tmp_path / "outside" / "secret.png")
    draw(tmp_path / "in" / "a" / "own.png")
    (tmp_path / "in" / "file.png").symlink_to(tmp_path / "outside" / "secret.png")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "a")  # inside the folder: listed once, not refused
    (tmp_path / "in" / "near.png").symlink_to(tmp_path / "in" / "a" / "own.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    source = open_source(str(tmp_path / "in"))
    assert source.names == ["a/own.png", "near.png"]
    assert [name for name, _ in source.refused] == ["file.png", "folder", "loop.png"]
    assert "link" in source.refused[0][1]


def test_pipe_named_like_an_image_is_not_opened(tmp_path):
    draw(tmp_path / "photo.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert open_source(str(tmp_path)).names == ["photo.jpg"]


def test_unsafe_zip_entries_are_refused_by_name(tmp_path):
    """Some entries lead out of the zip, and some claim impossible sizes."""
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("fine.png", "../up.png", "/root.png", "C:\\disk.png", "a/../../b.png", "line\nbreak.png"):
            archive.writestr(name, b"x")
        archive.writestr("bomb.png", b"x")
        archive.getinfo("bomb.png").file_size = MAX_FILE_BYTES + 1  # the size in the central directory
    source = open_source(str(path))
    assert source.names == ["fine.png", "line\nbreak.png"]
    assert source.label(1) == r"'line\nbreak.png'"
    assert {name for name, _ in source.refused} == {
        "../up.png", "/root.png", "C:/disk.png", "a/../../b.png", "bomb.png"
    }  # fmt: skip


def test_zip_entry_without_a_name_is_ignored(tmp_path):
    path = tmp_path / "nameless.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fine.png", b"x")
        archive.writestr("x", b"x")
        archive.getinfo("x").filename = ""
    assert open_source(str(path)).names == ["fine.png"]


def test_zip_entries_of_one_name_are_two_images(tmp_path):
    draw(tmp_path / "a.png", 7)
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.write(tmp_path / "a.png", "a.png")
    assert open_source(str(tmp_path / "faces.zip")).count == 2
