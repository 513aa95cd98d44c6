import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from packs import NO_REAL_FACES, REAL_FACES, encode, folder, pack, packs
from PIL import Image

from dcgan_jax.config import UserError
from dcgan_jax.data import drawn_faces
from dcgan_jax.data import pack as pack_module
from dcgan_jax.data.cache import TEMP
from dcgan_jax.data.pack import pack_images, read_all_labels, read_labels
from dcgan_jax.data.pack_index import describe_left_out, find_changed_labels
from dcgan_jax.data.sources import open_source

# ---- The cache ----


def test_pack_holds_every_image_in_order_read_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pack_module, "CHUNK_BYTES", 1)  # one image per chunk, to test the order
    path = folder(tmp_path)
    result = pack(path, size=16)
    assert isinstance(result.images, np.memmap)
    assert (result.images.shape, result.images.dtype) == ((40, 16, 16, 3), np.uint8)
    assert not result.images.flags.writeable
    for at in (0, 7, 39):
        with Image.open(path / f"{at:03}.png") as image:
            expected = image.crop((0, 2, 20, 22)).resize((16, 16), Image.Resampling.BILINEAR)
        inner = slice(1, -1)  # at the edges the filter of a box uses pixels outside, which `expected` has lost
        assert_array_equal(result.images[at][inner, inner], np.asarray(expected)[inner, inner])
    facts = {key: result.index[key] for key in ("count", "found", "skipped", "upscaled", "size", "channels", "crop")}
    assert facts == {"count": 40, "found": 40, "skipped": 0, "upscaled": 0, "size": 16, "channels": 3, "crop": "centre"}
    assert result.index["source"]["fingerprint"] == open_source(str(path)).fingerprint
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_second_call_decodes_nothing(tmp_path, monkeypatch, capsys):
    first = pack(folder(tmp_path))
    capsys.readouterr()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    second = pack(tmp_path / "in")
    assert (second.path, second.index) == (first.path, first.index)
    assert_array_equal(second.images, first.images)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["source", "size", "channels", "crop"])
def test_pack_differs_by_whatever_changes_pixels(tmp_path, change):
    first = pack(folder(tmp_path))
    if change == "source":
        os.utime(tmp_path / "in" / "000.png", (1e9, 1e9))
    changes = {"source": {}, "size": {"size": 8}, "channels": {"channels": 1}, "crop": {"crop": "squash"}}[change]
    second = pack(tmp_path / "in", **changes)
    assert second.path != first.path
    assert second.index["fingerprint"] != first.index["fingerprint"]


def test_folder_and_its_zip_pack_to_the_same_pixels(tmp_path):
    path = folder(tmp_path)
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in path.iterdir():
            archive.write(file, file.name)
    assert_array_equal(pack(path).images, pack(tmp_path / "in.zip").images)


@pytest.mark.parametrize(
    "harm", ["no index", "cut index", "other index", "list index", "cut images", "no images", "other images"]
)
def test_broken_pack_is_remade_with_a_warning(tmp_path, capsys, harm):
    good = pack(folder(tmp_path))
    pixels = np.array(good.images)
    index, images = good.path / "index.json", good.path / "images.npy"
    if harm.startswith("no"):
        (index if "index" in harm else images).unlink()
    elif harm.startswith("cut"):
        os.truncate(index if "index" in harm else images, 200)
    elif harm == "other index":
        index.write_text(json.dumps(good.index | {"fingerprint": "0" * 64}))
    elif harm == "list index":
        index.write_text("[]")
    else:
        np.save(images, pixels[:-1])
    capsys.readouterr()
    again = pack(tmp_path / "in", progress=False)
    assert_array_equal(again.images, pixels)
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken" in line and str(good.path) in line


@pytest.mark.parametrize("harm", ["missing", "cut", "other labels", "other shape", "pipe"])
def test_pack_with_broken_attributes_is_remade(capsys, harm):
    source = open_source("drawn:40")
    good = pack_images(source, size=16, channels=3, crop="centre", progress=False, check=False)
    file = good.path / "attributes.npy"
    values = np.load(file)
    file.unlink()
    if harm == "cut":
        np.save(file, values)
        os.truncate(file, 200)
    elif harm == "other labels":
        np.save(file, 1 - values)
    elif harm == "other shape":
        np.save(file, values[:-1])
    elif harm == "pipe":
        os.mkfifo(file)
    capsys.readouterr()
    again = pack_images(source, size=16, channels=3, crop="centre", progress=False, check=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken" in line and "making it again" in line
    assert_array_equal(read_labels(again, "all")[1], values)


def test_every_file_of_a_pack_is_flushed_before_the_rename(monkeypatch):
    flushed, fsync, rename = [], os.fsync, os.rename

    def record(descriptor):
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def check(old, new):
        assert {"images.npy", "attributes.npy", "index.json", os.path.basename(old)} <= set(flushed)
        rename(old, new)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "rename", check)
    assert pack_images(open_source("drawn:40"), size=16, channels=3, crop="centre", progress=False).path.is_dir()


def test_facts_come_from_the_source_not_from_an_equal_one(tmp_path):
    """Two folders with equal images share a pack. Their names and other files differ."""
    first = pack(folder(tmp_path, name="first"))
    shutil.copytree(tmp_path / "first", tmp_path / "second")  # with the dates
    (tmp_path / "second" / "photo.HEIC").write_bytes(b"x")
    second = pack(tmp_path / "second")
    assert second.path == first.path
    assert second.index["source"]["name"] == "second" and first.index["source"]["name"] == "first"
    assert (second.index["ignored"], second.index["ignored_types"]) == (1, {".HEIC": 1})
    assert pack(tmp_path / "first").index == first.index


def test_photos_that_are_left_out_are_a_warning(tmp_path, capsys):
    path = folder(tmp_path)
    for name in ("a.HEIC", "b.HEIC", "c.txt"):
        (path / name).write_bytes(b"x")
    index = pack(path, progress=False).index
    (line,) = capsys.readouterr().err.splitlines()
    assert "in: 2 .HEIC files are left out (each is a HEIC photo): pip install pillow-heif" in line
    assert describe_left_out(index) == "2 .HEIC, 1 .txt"


# ---- Labels ----


def label_folder(tmp_path, rows):
    """Packs three images with a table. Returns: the pack."""
    path = folder(tmp_path, 3)
    (path / "list_attr_celeba.csv").write_text("image_id,Smiling,Male\n" + rows)
    return pack(path, progress=False)


GOOD_ROWS = "000.png,1,0\n001.png,0,1\n002.png,1,0\n"


def test_table_that_is_added_or_corrected_is_used(tmp_path):
    assert pack(folder(tmp_path, 3)).index["attributes"] == []
    before = label_folder(tmp_path, GOOD_ROWS)
    assert read_labels(before, "all")[1].tolist() == [[1, 0], [0, 1], [1, 0]]
    after = label_folder(tmp_path, GOOD_ROWS.replace("001.png,0", "001.png,1"))
    assert read_labels(after, "Smiling")[1].tolist() == [[1], [1], [1]]
    assert find_changed_labels(before.index, after.index, "Male") == []
    assert find_changed_labels(before.index, after.index, "all") == ["Smiling"]
    assert find_changed_labels({"attributes": ["Smiling"]}, after.index, "all") == []  # written by an older version


def test_refused_column_cannot_be_a_condition(tmp_path, capsys):
    """Without a condition it is a warning, whenever the pack is opened."""
    packed = label_folder(tmp_path, GOOD_ROWS.replace("001.png,0", "001.png,unsure"))
    for _ in range(2):
        (line,) = capsys.readouterr().err.splitlines()
        assert "row 3, column 'Smiling': 'unsure' is not a label" in line
        pack(tmp_path / "in", progress=False)
    assert read_labels(packed, "Male")[0] == ("Male",)
    for condition in ("Smiling", "Male,Smiling", "all"):
        with pytest.raises(UserError, match="row 3, column 'Smiling': 'unsure'.*correct it"):
            read_labels(packed, condition)
    assert read_all_labels(packed)[0] == ("Male",)  # commands that take no --condition must not be stopped by a column


def test_condition_in_the_other_unicode_form(tmp_path):
    path = folder(tmp_path, 3)
    (path / "list_attr_celeba.csv").write_text("image_id,zoe\u0308\n000.png,1\n001.png,0\n002.png,1\n", encoding="utf-8")
    names, labels = read_labels(pack(path, progress=False), "zo\u00eb")
    assert names == ("zoe\u0308",) and labels.tolist() == [[1], [0], [1]]


def test_attributes_that_differ_in_their_unicode_form_only(tmp_path):
    path, forms = folder(tmp_path, 3), ("zo\u00eb", "zoe\u0308")
    (path / "list_attr_celeba.csv").write_text(
        f"image_id,{','.join(forms)}\n000.png,1,0\n001.png,0,0\n002.png,1,1\n", encoding="utf-8"
    )
    packed = pack(path, progress=False)
    assert read_all_labels(packed)[0] == forms
    assert read_labels(packed, forms[0])[1].tolist() == [[1], [0], [1]]
    assert read_labels(packed, forms[1])[1].tolist() == [[0], [0], [1]]


def test_condition_without_attributes_says_why(tmp_path):
    path = folder(tmp_path, 3)
    for part in ("train", "test"):
        shutil.copytree(path, tmp_path / "splits" / part)
    with pytest.raises(UserError, match="has no attributes: the folders test, train are splits"):
        read_labels(pack(tmp_path / "splits"), "all")
    with pytest.raises(UserError, match="in has no attributes; give `data`"):
        read_labels(pack(path), "Smiling")


def test_pipe_in_a_pack_is_not_opened(tmp_path, capsys):
    path = pack(folder(tmp_path)).path
    (path / "images.npy").unlink()
    os.mkfifo(path / "images.npy")
    assert len(pack(tmp_path / "in").images) == 40
    assert "not a regular file" in capsys.readouterr().err


def test_killed_packer_leaves_no_pack_next_cleans_up(tmp_path, cache):
    folder(tmp_path)
    script = f"""
import os, signal
from dcgan_jax.data import pack
from dcgan_jax.data.sources import open_source
pack.CHUNK_BYTES, rows = 1, pack.decode_images
def chunk(source, positions, *rest):
    if positions[0] == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows(source, positions, *rest)
pack.decode_images = chunk
pack.pack_images(open_source({str(tmp_path / "in")!r}), size=16, channels=3, crop="centre")
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    (left,) = packs(cache)
    assert left.startswith(".packing@")
    living = cache / "packs" / f".packing@{os.getpid()}@{left.split('@')[2]}@live"
    container = f"{socket.gethostname()}[1]"  # of the same name, where other processes have these numbers
    elsewhere, contained, old = (
        cache / "packs" / name
        for name in (
            ".packing@1@another-machine@young",
            f".packing@999999999@{container}@young",
            ".packing@1@another-machine@old",
        )
    )
    for path in (living, elsewhere, contained, old):
        path.mkdir()
    os.utime(old, (time.time() - 2e5,) * 2)
    result = pack(tmp_path / "in")
    assert result.images.shape[0] == 40
    assert packs(cache) == sorted([living.name, elsewhere.name, contained.name, result.path.name])


def test_concurrent_packers_share_one_pack(tmp_path, cache):
    source, results, together = open_source(str(folder(tmp_path))), [], threading.Barrier(4)

    def work():
        together.wait()
        results.append(pack_images(source, size=16, channels=3, crop="centre"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(results) == 4
    assert packs(cache) == [results[0].path.name]
    for result in results:
        assert_array_equal(result.images, results[0].images)


def test_ctrl_c_leaves_nothing(tmp_path, cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack_module, "decode_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(folder(tmp_path))
    assert packs(cache) == []


def test_signal_after_the_first_folder_leaves_nothing(tmp_path, cache, monkeypatch):
    make = Path.mkdir

    def interrupted(path, *rest, **more):
        make(path, *rest, **more)
        if path.name.startswith(TEMP):
            raise SystemExit(143)

    source = folder(tmp_path)
    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(SystemExit):
        pack(source)
    assert packs(cache) == []


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, cache, monkeypatch):
    import resource

    path, (soft, hard) = folder(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the pack needs 30,848 bytes, so writing fails midway
    try:
        with pytest.raises(UserError, match="DCGAN_JAX_CACHE") as caught:
            pack(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value) and os.strerror(errno.EFBIG) in str(caught.value)
    assert packs(cache) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=30_000))
    with pytest.raises(UserError, match="too full"):
        pack(path)
    assert packs(cache) == []


def test_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="file/below.*DCGAN_JAX_CACHE"):
        pack(folder(tmp_path))


def test_published_crop_of_other_data_warns(tmp_path, capsys):
    """For other images than CelebA a published crop is the centre square, with a warning."""
    path = folder(tmp_path)
    result = pack(path, crop="carpedm20", progress=False)
    assert result.index["crop"] == "centre"
    assert "not aligned CelebA" in capsys.readouterr().err
    assert result.path == pack(path, crop="centre").path


@pytest.mark.parametrize("crop, warns", [("carpedm20", True), ("centre", False)])
def test_published_crop_because_of_a_table_alone_warns(tmp_path, capsys, crop, warns):
    path = folder(tmp_path, 3)
    (path / "list_attr_celeba.csv").write_text("image_id,Smiling,Male\n" + GOOD_ROWS)
    pack(path, crop=crop, progress=False)
    assert ("give `crop` centre unless it is" in capsys.readouterr().err) == warns
    path.rename(tmp_path / "img_align_celeba")
    pack(tmp_path / "img_align_celeba", crop=crop, progress=False)
    assert "give `crop` centre" not in capsys.readouterr().err


def test_small_images_are_enlarged_with_one_warning(tmp_path, capsys):
    result = pack(folder(tmp_path), size=32, progress=False)
    assert (result.index["upscaled"], result.images.shape) == (40, (40, 32, 32, 3))
    (line,) = capsys.readouterr().err.splitlines()
    assert "40 of 40" in line and "32 px" in line


def test_drawn_faces_pack_as_drawn_with_attributes():
    result = pack_images(open_source("drawn:300"), size=16, channels=3, crop="carpedm20", progress=False)
    assert_array_equal(result.images, drawn_faces.draw_faces(0, np.arange(300), 16))
    values = np.load(result.path / "attributes.npy")
    assert_array_equal(values, drawn_faces.compute_face_attributes(0, np.arange(300)))
    assert result.index["attributes"] == list(drawn_faces.ATTRIBUTES)
    grey = pack_images(open_source("drawn:300"), size=16, channels=1, crop="centre", progress=False).images
    assert_allclose(grey[..., 0], result.images @ [0.299, 0.587, 0.114], atol=1)


def test_few_real_faces_pack(tmp_path):
    if not os.path.isdir(REAL_FACES):
        pytest.skip(NO_REAL_FACES)
    with zipfile.ZipFile(os.path.join(REAL_FACES, "img_align_celeba.zip")) as archive:
        archive.extractall(tmp_path, [f"img_align_celeba/{number:06}.jpg" for number in range(1, 51)])
    result = pack(tmp_path, size=32, crop="torch")
    assert (result.images.shape, result.index["crop"], result.index["skipped"]) == ((50, 32, 32, 3), "torch", 0)
    spread = np.asarray(result.images).reshape(50, -1).astype(float)
    assert 30 < spread.mean(0).std() + spread.std(0).mean() < 150  # they have contrast and differ


# ---- Bad images ----


BAD = {
    "truncated.png": lambda good: good[: len(good) // 2],
    "zero.png": lambda good: b"",
    "page.jpg": lambda good: b"<html>no such image</html>",
    "script.png": lambda good: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # PIL would run it with Ghostscript
    "bomb.png": lambda good: encode(Image.new("1", (10_000, 8_001))),  # below PIL's limit, above ours
    "float.tiff": lambda good: encode(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"),
}


REASONS = {"truncated.png": "", "zero.png": "empty", "page.jpg": "not an image", "script.png": "not an image",
           "bomb.png": "too large", "float.tiff": "floating"}  # fmt: skip


def spoil(path, names):
    for name in names:
        (path / name).write_bytes(BAD[name]((path / "000.png").read_bytes()))


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
def test_bad_images_are_skipped_counted_and_named(tmp_path, capsys, as_zip):
    good = pack(folder(tmp_path, 140), progress=False).images
    path = tmp_path / "in"
    spoil(path, BAD)
    (path / "link.png").symlink_to("/etc/hostname")
    if as_zip:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for file in path.iterdir():
                archive.write(file, "../link.png" if file.is_symlink() else file.name)
    result = pack(tmp_path / "in.zip" if as_zip else path, progress=False)
    assert_array_equal(result.images, good)  # without gaps
    assert (result.index["count"], result.index["skipped"], result.index["found"]) == (140, 7, 147)
    reasons = {os.path.basename(name): why for name, why in result.index["skipped_first"]}
    assert reasons.keys() == {*BAD, "link.png"}
    assert all(words in reasons[name] and reasons[name] for name, words in REASONS.items())
    (line,) = capsys.readouterr().err.splitlines()
    assert "7 of 147" in line and all(name in line for name in reasons)


def test_over_five_percent_bad_images_stop_the_pack(tmp_path, cache):
    """The error lists the bad images, and no file remains."""
    path = folder(tmp_path, 38)
    spoil(path, ["page.jpg", "zero.png"])  # 2 of 40: exactly 5 %
    assert pack(path).index["skipped"] == 2
    spoil(path, ["truncated.png"])
    before = packs(cache)
    with pytest.raises(UserError, match=r"3 of 41.*page\.jpg \(not an image but a web page\).*zero\.png \(empty\)") as caught:
        pack(path)
    assert "\n" not in str(caught.value)
    assert packs(cache) == before


def test_strict_stops_at_the_first_bad_image(tmp_path, cache):
    """`strict` also stops if the pack is already in the cache."""
    path = folder(tmp_path)
    spoil(path, ["zero.png"])
    with pytest.raises(UserError, match=r"zero\.png: empty.*`strict`"):
        pack(path, strict=True)
    assert packs(cache) == []
    pack(path)
    with pytest.raises(UserError, match=r"zero\.png: empty.*`strict`"):
        pack(path, strict=True)


def test_damaged_zip_entry_is_a_bad_image(tmp_path):
    path = folder(tmp_path)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in sorted(path.iterdir()):
            archive.write(file, file.name)
    content = (tmp_path / "in.zip").read_bytes()
    pixels = (path / "004.png").read_bytes()[-60:-20]
    (tmp_path / "in.zip").write_bytes(content.replace(pixels, pixels[::-1]))
    result = pack(tmp_path / "in.zip")
    assert [name for name, _ in result.index["skipped_first"]] == ["004.png"]
    assert "CRC" in result.index["skipped_first"][0][1]


def test_memory_is_bounded_by_the_chunks_in_flight(tmp_path, monkeypatch):
    """With a slow consumer, chunks start only for the workers, the queue and the chunk in use."""
    begun = []
    monkeypatch.setattr(pack_module, "count_cores", lambda: 3)
    monkeypatch.setattr(pack_module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(pack_module, "_make_chunk", lambda source, positions, *_: begun.append(positions))
    for done, _ in enumerate(pack_module._make_chunks(open_source("drawn:500"), 16, 3, "drawn"), start=1):
        assert len(begun) <= done + 3 + 3
    assert len(begun) == 500
