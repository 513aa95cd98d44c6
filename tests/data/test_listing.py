import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from image_files import draw, zip_of

from dcgan_jax.config import UserError
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


def test_zip_entries_below_a_dot_are_not_hidden(tmp_path):
    path = tmp_path / "dots.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("./a/./1.png", "./2.png", "./.hidden/3.png", ".//root.png", "./C:/disk.png", "./"):
            archive.writestr(name, b"x")
    source = open_source(str(path))
    assert (source.names, source.ignored) == (["2.png", "a/1.png"], {"hidden": 1})
    assert [name for name, _ in source.refused] == ["/root.png", "C:/disk.png"]


@pytest.mark.parametrize("name", ["zoë.png", "zoe\u0308.png", "北京.png"])
def test_zip_names_without_the_flag_for_utf8(tmp_path, name):
    path = tmp_path / "mac.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x" * len(name.encode()), b"x")
    path.write_bytes(path.read_bytes().replace(b"x" * len(name.encode()), name.encode()))
    assert open_source(str(path)).names == [name]


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


# ---- Which files count as images ----


def test_images_are_found_by_content_and_suffix(tmp_path):
    for name in ("a.JPG", "b.jfif", "c.avif", "d.webp"):
        draw(tmp_path / name)
    for name, other in (("no suffix", "a.png"), ("e.happy", "a.gif"), ("f.001", "a.bmp"), ("g.jpg", "a.tga")):
        draw(tmp_path / other)
        (tmp_path / other).rename(tmp_path / name)
    (tmp_path / "h.dat").write_bytes(b"no image")
    source = open_source(str(tmp_path))
    assert source.names == sorted(["a.JPG", "b.jfif", "c.avif", "d.webp", "no suffix", "e.happy", "f.001", "g.jpg"])
    assert source.ignored == {".dat": 1}
    archive = open_source(str(zip_of(tmp_path, tmp_path.parent / "all.zip")))
    assert (archive.names, archive.ignored) == (source.names, source.ignored)


def test_thumbnails_of_a_nas_are_left_out_and_counted(tmp_path):
    draw(tmp_path / "1.jpg")
    for size in ("M", "XL"):
        draw(tmp_path / "@eaDir" / "1.jpg" / f"SYNOPHOTO_THUMB_{size}.jpg")
    source = open_source(str(tmp_path))
    assert (source.names, source.ignored) == (["1.jpg"], {"in @eaDir": 2})


# ---- Nothing that can be read: the remedy fits the cause ----


def zip_with(path, files, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def patch_zip(path, offset, value):
    """Changes a byte of every entry, in its own header and in the directory, where it is two bytes later."""
    content = bytearray(path.read_bytes())
    for sign, at in ((b"PK\3\4", offset), (b"PK\1\2", offset + 2)):
        for found in re.finditer(re.escape(sign), bytes(content)):
            content[found.start() + at] = value
    path.write_bytes(content)
    return path


def make_links(folder, count=1):
    (folder / "in").mkdir()
    for at in range(1, count + 1):
        draw(folder / "away" / f"{at}.jpg")
        (folder / "in" / f"{at}.jpg").symlink_to(folder / "away" / f"{at}.jpg")
    return folder / "in"


def cut_off_head(path):
    zip_with(path, {f"{number}.jpg": b"x" * 99 for number in range(9)})
    path.write_bytes(path.read_bytes()[500:])
    return path


def make_broken_link(folder):
    links = make_links(folder)
    (folder / "away" / "1.jpg").unlink()
    return links


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cut_zip(path):
    """Makes the last part of a split zip: the end of its directory says that this is disk 1."""
    content = bytearray(zip_with(path, {"1.jpg": b"x"}).read_bytes())
    content[content.rfind(b"PK\5\6") + 4] = 1
    path.write_bytes(content)
    return path


CAUSES = {
    "links": (make_links, "1 refused: a link out of the folder.*cp -rL .*away"),
    "deflate64": (lambda d: patch_zip(zip_with(d / "a.zip", {"1.jpg": b"x"}), 8, 9), "compressed by Deflate64.*unpack the zip"),
    "encrypted": (lambda d: patch_zip(zip_with(d / "a.zip", {"1.jpg": b"x"}), 6, 1), "encrypted.*with its password"),
    "bzip2": (lambda d: zip_with(d / "a.zip", {"1.jpg": b"x"}, zipfile.ZIP_BZIP2), "compressed by bzip2.*unpack the zip"),
    "zip in a zip": (lambda d: zip_with(d / "a.zip", {"b.zip": b"PK"}), r"1 \.zip.*unpack .*a.zip first.*`data` b.zip"),
    "zip in a folder": (lambda d: write(d / "x" / "a.zip").parent, "give the zip itself, `data` .*x/a.zip"),
    "zip and text": (lambda d: [write(d / "x" / f) for f in ("1.txt", "2.txt", "a.zip")][0].parent, "give the zip itself"),
    "first part": (lambda d: write(d / "a.zip.001", b"PK\3\4"), r"one part of a split archive.*cat .*a\.zip\.0\*"),
    "middle part": (lambda d: write(d / "a.z01", b"PK\7\x08"), r"one part of a split zip.*zip -s 0 .*a\.zip"),
    "last part": (lambda d: cut_zip(d / "a.zip"), "one part of a split zip"),
    "heic": (lambda d: write(d / "x" / "1.HEIC").parent, r"1 \.HEIC.*pip install pillow-heif.*magick .*/x/\*\.HEIC"),
    "raw": (lambda d: write(d / "x" / "1.CR2").parent, "develop such files"),
    "lmdb": (lambda d: write(d / "x" / "data.mdb").parent, "Images in containers"),
    "parquet": (lambda d: write(d / "a.parquet", b"PAR1"), "a Parquet table.*Images in containers"),
    "hdf5 by content": (lambda d: write(d / "x" / "data", b"\x89HDF\r\n\x1a\n").parent, "open it with h5py"),
    "tar": (lambda d: write(d / "my faces.tar.gz", b"\x1f\x8b"), "tar -xf '.*my faces.tar.gz'"),
    "torch": (lambda d: write(d / "a.pt", b"PK\3\4"), "a PyTorch file.*torch.load"),
    "one image": (lambda d: draw(d / "x" / "1.png") or d / "x" / "1.png", "a single image.*`data` .*/x"),
    "hidden": (lambda d: draw(d / ".x" / "1.png") or d, "1 hidden.*another name"),
    "links to nowhere": (make_broken_link, "the links lead to .*/away/1.jpg, which is not there: mount that disk"),
    "dead link inside": (lambda d: (d / "1.jpg").symlink_to("no.jpg") or d, "1 refused: a link to a file that is not.*git annex"),
    "last half": (lambda d: cut_off_head(d / "xab"), "xab is the last part of a zip that was cut.*in their order$"),
    "cut npz": (lambda d: write(d / "cut.npz", b"PK\3\4"), "an incomplete .npz, or one part of one"),
    "cut zip": (lambda d: write(d / "img", b"PK\3\4"), "an incomplete zip, or one part of one.* joined by cat"),
    "cut zip.1": (lambda d: write(d / "img.zip.1", b"PK\3\4"), "an incomplete zip"),
    "xaa": (lambda d: write(d / "xaa", b"PK\3\4"), "an incomplete zip"),
    "npy.1": (lambda d: write(d / "x.npy.1", b"\x93NUMPY"), r"a NumPy array.*rename it to x\.npy\.1\.npy"),
    "npy": (lambda d: write(d / "x", b"\x93NUMPY"), r"a NumPy array.*rename it to x\.npy"),
    "npy called zip": (lambda d: write(d / "x.zip", b"\x93NUMPY"), r"a NumPy array.*rename it to x\.zip\.npy"),
    "crdownload": (lambda d: write(d / "a.zip.crdownload", b"PK\3\4"), "an unfinished download.*: finish the download"),
    "downloads": (lambda d: write(d / "x" / "a.zip.part").parent, "1 unfinished download.*: finish the download"),
    "iso": (lambda d: write(d / "a.iso"), "a disk image.*7z x"),
    "zarr 2": (lambda d: write(d / "x" / "0.0") and write(d / "x" / ".zarray").parent, r"1 \.zarr.*open it with zarr"),
    "zarr 3": (lambda d: write(d / "x" / "c" / "0") and write(d / "x" / "zarr.json").parent, "open it with zarr"),
    "split tar": (lambda d: write(d / "a.tar.gz.aa", b"\x1f\x8b"), r"cut by split.*cat .*a\.tar\.gz\.\?\? > .*a\.tar\.gz;"),
    "split zip": (lambda d: write(d / "a.zip.ab", b"?"), r"cut by split.*cat .*a\.zip\.\?\?"),
    "unreadable name": (lambda d: write(d / "x" / "1.foo").parent, "1 .foo.*give a folder or zip of JPEG"),
}  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES)
def test_remedy_fits_the_cause(tmp_path, cause):
    make, words = CAUSES[cause]
    with pytest.raises(UserError) as caught:
        open_source(str(make(tmp_path)))
    assert re.search(words, str(caught.value)), str(caught.value)


def draw_three(folder):
    for at in range(3):
        draw(folder / f"{at}.png")
    return folder


def split_zip(folder, *endings):
    """Cuts a zip of three images into a.zip + each ending, as `split` does."""
    content = zip_of(draw_three(folder / "faces"), folder / "whole.zip").read_bytes()
    (folder / "whole.zip").unlink()
    step = -(-len(content) // len(endings))
    for at, ending in enumerate(endings):
        (folder / f"a.zip{ending}").write_bytes(content[at * step : (at + 1) * step])
    return folder / f"a.zip{endings[0]}"


def pack_tar(folder):
    with tarfile.open(folder / "my faces.tar.gz", "w:gz") as archive:
        archive.add(draw_three(folder / "drawn"), "unpacked")
    return folder / "my faces.tar.gz"


def save_npy(folder):
    np.save(folder / "x.npy", np.zeros((3, 8, 8, 3), np.uint8))
    return (folder / "x.npy").rename(folder / "x.npy.1")


# (what is given, the command in the message, what it makes)
REMEDIES = {
    "links": (lambda d: make_links(d, 3), r"(cp -rL .* NEW), then", "NEW"),
    "links, their folder": (lambda d: make_links(d, 3), r"or give `data` (\S+)$", None),
    "tar": (pack_tar, r"(tar -xf .*)\) and give", "unpacked"),
    "numbered parts": (lambda d: split_zip(d, ".001", ".002", ".003"), r"(cat .* > whole.zip), or", "whole.zip"),
    "parts of split": (lambda d: split_zip(d, ".aa", ".ab"), r"(cat \S+ > \S+);", "a.zip"),
    "renamed array": (save_npy, r"rename it to (\S+)$", "x.npy.1.npy"),
    "zip in a folder": (lambda d: zip_of(draw_three(d / "faces"), write(d / "x" / "a.zip")).parent, r"`data` (\S+a.zip)", None),
}


@pytest.mark.parametrize("cause", REMEDIES)
def test_command_of_a_remedy_makes_what_can_be_read(tmp_path, cause):
    make, pattern, result = REMEDIES[cause]
    place = make(tmp_path)
    with pytest.raises(UserError) as caught:
        open_source(str(place))
    (proposed,) = re.search(pattern, str(caught.value)).groups()
    if cause == "renamed array":
        place.rename(place.with_name(proposed))
    elif result:
        subprocess.run(["bash", "-c", proposed], check=True, cwd=tmp_path)
    assert open_source(str(tmp_path / result) if result else proposed).count == 3


def test_remedy_of_npz_makes_the_npy(tmp_path):
    images = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "my faces.npz", pictures=images)
    with pytest.raises(UserError, match="holds NumPy arrays") as caught:
        open_source(str(tmp_path / "my faces.npz"))
    command = shlex.split(str(caught.value).partition("python ")[2].partition(", then")[0])
    subprocess.run([sys.executable, *command], check=True, cwd=tmp_path)
    assert open_source(str(tmp_path / "faces.npy")).count == 3
