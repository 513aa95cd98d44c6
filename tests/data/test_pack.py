import errno
import io
import json
import os
import signal
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
from PIL import Image

from dcgan_jax.config import UserError
from dcgan_jax.data import drawn_faces
from dcgan_jax.data import pack as pack_module
from dcgan_jax.data.pack import CROPS, get_cache_dir, pack_images
from dcgan_jax.data.sources import Source, open_source

REAL_FACES = os.path.join(os.path.dirname(__file__), "..", "..", "..", "shared", "data", "celeba")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder(tmp_path, count=40, name="in"):
    """PNGs of noise, 20 x 24, in a folder: different pictures, all good."""
    rng = np.random.default_rng(0)
    for at in range(count):
        path = tmp_path / name / f"{at:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)
    return tmp_path / name


def packed(path, **changes):
    return pack_images(open_source(str(path)), **({"size": 16, "channels": 3, "crop": "centre"} | changes))


def packs(cache):
    return sorted(os.listdir(cache / "packs")) if (cache / "packs").exists() else []


def one(payload, size, channels=3, crop="squash", is_celeba=False):
    """The one picture of a source, packed: (S, S, C) uint8."""
    name = str(hash(payload if isinstance(payload, bytes) else payload.tobytes()))
    source = Source("folder", "test", "all", 1, name, read=lambda _: payload, is_celeba=is_celeba)
    return pack_images(source, size=size, channels=channels, crop=crop).images[0]


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


# ---- Laws of the cache ----


def test_a_pack_is_every_picture_in_order_and_read_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pack_module, "CHUNK_BYTES", 1)  # a chunk for each picture: their order must survive the threads
    path = folder(tmp_path)
    result = packed(path, size=16)
    assert isinstance(result.images, np.memmap)
    assert (result.images.shape, result.images.dtype) == ((40, 16, 16, 3), np.uint8)
    assert not result.images.flags.writeable
    for at in (0, 7, 39):
        with Image.open(path / f"{at:03}.png") as image:
            expected = image.crop((0, 2, 20, 22)).resize((16, 16), Image.Resampling.BILINEAR)
        inner = slice(1, -1)  # at its edge a box sees the pixels outside, which a picture cut before no longer has
        assert_array_equal(result.images[at][inner, inner], np.asarray(expected)[inner, inner])
    facts = {key: result.index[key] for key in ("count", "found", "skipped", "upscaled", "size", "channels", "crop")}
    assert facts == {"count": 40, "found": 40, "skipped": 0, "upscaled": 0, "size": 16, "channels": 3, "crop": "centre"}
    assert result.index["source"]["fingerprint"] == open_source(str(path)).fingerprint
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_second_call_decodes_nothing(tmp_path, monkeypatch, capsys):
    first = packed(folder(tmp_path))
    capsys.readouterr()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    second = packed(tmp_path / "in")
    assert (second.path, second.index) == (first.path, first.index)
    assert_array_equal(second.images, first.images)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["source", "size", "channels", "crop"])
def test_whatever_changes_the_pixels_makes_another_pack(tmp_path, change):
    first = packed(folder(tmp_path))
    if change == "source":
        os.utime(tmp_path / "in" / "000.png", (1e9, 1e9))
    changes = {"source": {}, "size": {"size": 8}, "channels": {"channels": 1}, "crop": {"crop": "squash"}}[change]
    second = packed(tmp_path / "in", **changes)
    assert second.path != first.path
    assert second.index["fingerprint"] != first.index["fingerprint"]


def test_a_folder_and_its_zip_pack_to_the_same_pixels(tmp_path):
    path = folder(tmp_path)
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in path.iterdir():
            archive.write(file, file.name)
    assert_array_equal(packed(path).images, packed(tmp_path / "in.zip").images)


@pytest.mark.parametrize(
    "harm", ["no index", "cut index", "other index", "list index", "cut images", "no images", "other images"]
)
def test_a_broken_pack_is_made_again_with_a_warning(tmp_path, capsys, harm):
    good = packed(folder(tmp_path))
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
    again = packed(tmp_path / "in", progress=False)
    assert_array_equal(again.images, pixels)
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken" in line and str(good.path) in line


def test_a_pipe_in_a_pack_is_not_waited_for(tmp_path, capsys):
    path = packed(folder(tmp_path)).path
    (path / "images.npy").unlink()
    os.mkfifo(path / "images.npy")
    assert len(packed(tmp_path / "in").images) == 40
    assert "no plain file" in capsys.readouterr().err


def test_a_killed_packer_leaves_no_pack_and_the_next_one_cleans_up(tmp_path, cache):
    folder(tmp_path)
    script = f"""
import os, signal
from dcgan_jax.data import pack
from dcgan_jax.data.sources import open_source
pack.CHUNK_BYTES, rows = 1, pack._pack_chunk
def chunk(source, positions, *rest):
    if positions[0] == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows(source, positions, *rest)
pack._pack_chunk = chunk
pack.pack(open_source({str(tmp_path / "in")!r}), size=16, channels=3, crop="centre")
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    (left,) = packs(cache)
    assert left.startswith(".packing@")
    living = cache / "packs" / f".packing@{os.getpid()}@{left.split('@')[2]}@live"
    elsewhere, old = (cache / "packs" / f".packing@1@another-machine@{age}" for age in ("young", "old"))
    for path in (living, elsewhere, old):
        path.mkdir()
    os.utime(old, (time.time() - 2e5,) * 2)
    result = packed(tmp_path / "in")
    assert result.images.shape[0] == 40
    assert packs(cache) == sorted([living.name, elsewhere.name, result.path.name])


def test_packers_of_the_same_source_share_one_pack(tmp_path, cache):
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

    monkeypatch.setattr(pack_module, "_pack_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packed(folder(tmp_path))
    assert packs(cache) == []


def test_a_signal_right_behind_the_first_folder_leaves_nothing(tmp_path, cache, monkeypatch):
    make = Path.mkdir

    def interrupted(path, *rest, **more):
        make(path, *rest, **more)
        if path.name.startswith(pack_module.TEMP):
            raise SystemExit(143)

    source = folder(tmp_path)
    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(SystemExit):
        packed(source)
    assert packs(cache) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, cache, monkeypatch):
    import resource

    path, (soft, hard) = folder(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the pack needs 30,848 bytes: a write fails half-way
    try:
        with pytest.raises(UserError, match="DCGAN_JAX_CACHE") as caught:
            packed(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value) and os.strerror(errno.EFBIG) in str(caught.value)
    assert packs(cache) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=30_000))
    with pytest.raises(UserError, match="too full"):
        packed(path)
    assert packs(cache) == []


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="file/below.*DCGAN_JAX_CACHE"):
        packed(folder(tmp_path))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert get_cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("DCGAN_JAX_CACHE")
    assert str(get_cache_dir()) == "/x/dcgan_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert str(get_cache_dir()) == "/h/.cache/dcgan_jax"


# ---- Crops: the ramp's pixel value is its coordinate ----

BOXES = {  # docs/published-dcgans.md section 3, pixels of 178 x 218
    "carpedm20": (35, 55, 143, 163),
    "soumith": (30, 40, 168, 178),
    "torch": (0, 7 * 218 / 78, 178, 71 * 218 / 78),
    "centre": (0, 20, 178, 198),
    "squash": (0, 0, 178, 218),
}


def ramp(width, height):
    """Red is x and green is y, in pixels of 178 x 218, at pixel centres."""
    image = np.zeros((height, width, 3))
    image[..., 0] = (np.arange(width) + 0.5) * 178 / width
    image[..., 1] = (np.arange(height)[:, None] + 0.5) * 218 / height
    return image.round().astype(np.uint8)


@pytest.mark.parametrize("shape", [(178, 218), (89, 109)], ids=["full size", "half size"])
@pytest.mark.parametrize("crop", CROPS)
def test_each_crop_cuts_its_published_box_at_any_scale(crop, shape):
    left, top, right, bottom = BOXES[crop]
    cut = one(ramp(*shape), 64, crop=crop, is_celeba=True).astype(float)
    centres = (np.arange(64) + 0.5) / 64
    inner = slice(2, -2)  # at the picture's own edge the filter has nothing to average on one side
    # Half a level from rounding the ramp, half from rounding the result; the half-size centre square starts at a pixel.
    within = 1.0 if shape == (178, 218) or crop != "centre" else 2.0
    assert_allclose(cut[inner, inner, 0].mean(0), (left + (right - left) * centres)[inner], atol=within)
    assert_allclose(cut[inner, inner, 1].mean(1), (top + (bottom - top) * centres)[inner], atol=within)


def test_the_torch_crop_is_resize_then_centre_crop():
    noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    resized = Image.fromarray(noise).resize((64, 78), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[7:71].astype(int)
    # PIL rounds the filter's position once where we give it a box: one level, in a few pixels.
    assert_allclose(one(noise, 64, crop="torch", is_celeba=True), expected, atol=1)


def test_a_published_crop_of_other_pictures_is_the_centre_square_and_said(tmp_path, capsys):
    path = folder(tmp_path)
    result = packed(path, crop="carpedm20", progress=False)
    assert result.index["crop"] == "centre"
    assert "not aligned CelebA" in capsys.readouterr().err
    assert result.path == packed(path, crop="centre").path


def test_reducing_does_not_alias():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    inner = one(stripes, 8)[:, 1:-1].astype(int)  # half of the filter is missing at the edge
    assert_allclose(inner, 128, atol=1)  # a filter that looks at one pixel gives 0 or 255


def test_a_picture_of_the_right_size_is_kept_bit_for_bit():
    noise = np.random.default_rng(0).integers(0, 256, (16, 17, 3), dtype=np.uint8)
    assert_array_equal(one(noise, 16, crop="centre"), noise[:, :16])


def test_small_pictures_are_enlarged_counted_and_warned_of_once(tmp_path, capsys):
    result = packed(folder(tmp_path), size=32, progress=False)
    assert (result.index["upscaled"], result.images.shape) == (40, (40, 32, 32, 3))
    (line,) = capsys.readouterr().err.splitlines()
    assert "40 of 40" in line and "32 px" in line


# ---- Conversions, by their pixel values ----

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
COLOUR = np.stack([GREY, 255 - GREY, GREY.T], -1)


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma():
    assert_array_equal(one(encoded(Image.fromarray(GREY)), 8), GREY[..., None].repeat(3, -1))
    luma = COLOUR @ [0.299, 0.587, 0.114]
    assert_allclose(one(encoded(Image.fromarray(COLOUR)), 8, channels=1)[..., 0], luma, atol=1)
    assert_array_equal(one(encoded(Image.fromarray(GREY)), 8, channels=1)[..., 0], GREY)


def test_alpha_lies_over_white():
    alpha = np.full((8, 8), 64, np.uint8)
    over = COLOUR * (64 / 255) + 255 * (191 / 255)
    assert_allclose(one(encoded(Image.fromarray(np.dstack([COLOUR, alpha]))), 8), over, atol=1)
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    assert_allclose(one(encoded(grey), 8, channels=1)[..., 0], GREY * (64 / 255) + 191, atol=1)
    assert_allclose(one(np.dstack([COLOUR, alpha]), 8), over, atol=1)  # from a .npy


def test_palettes_are_looked_up_and_their_transparent_colour_is_white():
    image = Image.fromarray(np.tile(np.array([0, 1], np.uint8), (8, 4)))
    image.putpalette([200, 10, 20, 30, 140, 50])
    plain = one(encoded(image), 8)
    assert_array_equal(plain[0, :2], [[200, 10, 20], [30, 140, 50]])
    assert_array_equal(one(encoded(image, transparency=1), 8)[0, :2], [[200, 10, 20], [255, 255, 255]])
    assert_array_equal(one(encoded(image, "GIF", transparency=0), 8)[0, :2], [[255, 255, 255], [30, 140, 50]])


def test_cmyk_is_ink_on_white():
    ink = Image.merge("CMYK", [Image.new("L", (8, 8), value) for value in (255, 0, 51, 102)])
    expected = [0, 255 * 0.6, 204 * 0.6]  # (1 - ink) times (1 - black)
    assert_allclose(one(encoded(ink, "TIFF"), 8)[4, 4], expected, atol=2)
    assert_allclose(one(encoded(ink, "JPEG", quality=100), 8)[4, 4], expected, atol=3)  # Adobe's are stored inverted


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(form):
    wide = GREY.astype(np.uint16) * 257
    assert_array_equal(one(encoded(Image.fromarray(wide), form), 8)[..., 1], GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_orientation_is_applied(orientation):
    quadrants = np.zeros((16, 16, 3), np.uint8)
    quadrants[:8, :8], quadrants[:8, 8:], quadrants[8:, :8] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    turned = {  # what a camera stores, so that the orientation tag brings the picture back
        1: quadrants, 2: quadrants[:, ::-1], 3: quadrants[::-1, ::-1], 4: quadrants[::-1], 5: quadrants.swapaxes(0, 1),
        6: np.rot90(quadrants), 7: np.rot90(quadrants, 2).swapaxes(0, 1), 8: np.rot90(quadrants, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = one(encoded(Image.fromarray(turned.copy()), "PNG", exif=exif), 16)
    assert_array_equal(picture, quadrants)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#c80000", "#00c800")]
    for form in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        still = one(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options), 8)
        assert_array_equal(still[4, 4], [200, 0, 0])


def test_one_pixel_becomes_a_plain_picture():
    assert_array_equal(one(encoded(Image.new("RGB", (1, 1), (200, 10, 20))), 8), np.full((8, 8, 3), (200, 10, 20)))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("is_tall", [False, True])
def test_of_a_very_long_picture_the_centre_square_is_taken(form, is_tall):
    shape = (30_000, 32, 3) if is_tall else (32, 30_000, 3)
    middle = (slice(14_984, 15_016), slice(None)) if is_tall else (slice(None), slice(14_984, 15_016))
    long = np.zeros(shape, np.uint8)
    long[middle] = np.kron(COLOUR, np.ones((4, 4, 1), np.uint8))
    picture = encoded(Image.fromarray(long), form, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))
    # At the edges a JPEG's blocks, which do not begin at the square's corner, hold something of the black beside it.
    inner = slice(8, 24) if form == "JPEG" else slice(None)
    assert_allclose(one(picture, 32, crop="centre")[inner, inner], long[middle][inner, inner], atol=3 if form == "JPEG" else 0)


def test_a_photo_decoded_at_reduced_scale_is_the_photo():
    photo = Image.fromarray(drawn_faces.draw_faces(1, np.arange(1), 512)[0])  # 512 px to 16: decoded at 1/8
    expected = np.asarray(photo.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    smaller = encoded(photo.resize((256, 192)), "JPEG")
    assert pack_module._decode(smaller, 3, 16).size == (128, 96)  # 1/4 would leave less than 4 times 16
    difference = one(encoded(photo, "JPEG", quality=95), 16) - expected
    assert np.abs(difference).mean() < 1  # grey levels; the JPEG itself costs some
    assert np.abs(difference).max() < 8


def test_drawn_faces_pack_as_drawn_with_their_attributes():
    result = pack_images(open_source("drawn:300"), size=16, channels=3, crop="carpedm20", progress=False)
    assert_array_equal(result.images, drawn_faces.draw_faces(0, np.arange(300), 16))
    values = np.load(result.path / "attributes.npy")
    assert_array_equal(values, drawn_faces.compute_face_attributes(0, np.arange(300)))
    assert result.index["attributes"] == list(drawn_faces.ATTRIBUTES)
    grey = pack_images(open_source("drawn:300"), size=16, channels=1, crop="centre", progress=False).images
    assert_allclose(grey[..., 0], result.images @ [0.299, 0.587, 0.114], atol=1)


def test_a_few_real_faces_pack(tmp_path):
    if not os.path.isdir(REAL_FACES):
        pytest.skip("no ../shared/data/celeba beside the repository")
    with zipfile.ZipFile(os.path.join(REAL_FACES, "img_align_celeba.zip")) as archive:
        archive.extractall(tmp_path, [f"img_align_celeba/{number:06}.jpg" for number in range(1, 51)])
    result = packed(tmp_path, size=32, crop="torch")
    assert (result.images.shape, result.index["crop"], result.index["skipped"]) == ((50, 32, 32, 3), "torch", 0)
    spread = np.asarray(result.images).reshape(50, -1).astype(float)
    assert 30 < spread.mean(0).std() + spread.std(0).mean() < 150  # pictures, and different ones


# ---- Bad pictures ----

BAD = {
    "truncated.png": lambda good: good[: len(good) // 2],
    "zero.png": lambda good: b"",
    "page.jpg": lambda good: b"<html>no such picture</html>",
    "script.png": lambda good: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # would be run by Ghostscript
    "bomb.png": lambda good: encoded(Image.new("1", (10_000, 8_001))),  # within PIL's own limit, over ours
    "float.tiff": lambda good: encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"),
}
REASONS = {"truncated.png": "", "zero.png": "empty", "page.jpg": "not a picture", "script.png": "not a picture",
           "bomb.png": "too large", "float.tiff": "floating"}  # fmt: skip


def spoil(path, names):
    for name in names:
        (path / name).write_bytes(BAD[name]((path / "000.png").read_bytes()))


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
def test_bad_pictures_are_skipped_counted_and_named(tmp_path, capsys, as_zip):
    good = packed(folder(tmp_path, 140), progress=False).images
    path = tmp_path / "in"
    spoil(path, BAD)
    (path / "link.png").symlink_to("/etc/hostname")
    if as_zip:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for file in path.iterdir():
                archive.write(file, "../link.png" if file.is_symlink() else file.name)
    result = packed(tmp_path / "in.zip" if as_zip else path, progress=False)
    assert_array_equal(result.images, good)  # the others close the ranks
    assert (result.index["count"], result.index["skipped"], result.index["found"]) == (140, 7, 147)
    reasons = {os.path.basename(name): why for name, why in result.index["skipped_first"]}
    assert reasons.keys() == {*BAD, "link.png"}
    assert all(words in reasons[name] and reasons[name] for name, words in REASONS.items())
    (line,) = capsys.readouterr().err.splitlines()
    assert "7 of 147" in line and all(name in line for name in reasons)


def test_more_than_five_percent_bad_stops_with_the_list_and_leaves_nothing(tmp_path, cache):
    path = folder(tmp_path, 38)
    spoil(path, ["page.jpg", "zero.png"])  # 2 of 40: exactly 5 %
    assert packed(path).index["skipped"] == 2
    spoil(path, ["truncated.png"])
    before = packs(cache)
    with pytest.raises(UserError, match=r"3 of 41.*page\.jpg \(not a picture\).*zero\.png \(empty\)") as caught:
        packed(path)
    assert "\n" not in str(caught.value)
    assert packs(cache) == before


def test_strict_stops_at_the_first_bad_picture_even_in_a_cached_pack(tmp_path, cache):
    path = folder(tmp_path)
    spoil(path, ["zero.png"])
    with pytest.raises(UserError, match=r"zero\.png: empty.*`strict`"):
        packed(path, strict=True)
    assert packs(cache) == []
    packed(path)
    with pytest.raises(UserError, match=r"zero\.png: empty.*`strict`"):
        packed(path, strict=True)


def test_a_damaged_zip_entry_is_a_bad_picture(tmp_path):
    path = folder(tmp_path)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in sorted(path.iterdir()):
            archive.write(file, file.name)
    content = (tmp_path / "in.zip").read_bytes()
    pixels = (path / "004.png").read_bytes()[-60:-20]
    (tmp_path / "in.zip").write_bytes(content.replace(pixels, pixels[::-1]))
    result = packed(tmp_path / "in.zip")
    assert [name for name, _ in result.index["skipped_first"]] == ["004.png"]
    assert "CRC" in result.index["skipped_first"][0][1]


def test_our_own_mistakes_are_not_taken_for_bad_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(CROPS, "centre", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        packed(folder(tmp_path))


def test_memory_is_bounded_by_the_chunks_in_flight(tmp_path, monkeypatch):
    """A slow consumer: no more chunks are ever begun than workers, the queue and the one in hand allow."""
    begun = []
    monkeypatch.setattr(pack_module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(pack_module, "_pack_chunk", lambda source, positions, *_: begun.append(positions))
    for done, _ in enumerate(pack_module._chunks(open_source("drawn:500"), 16, 3, "drawn"), start=1):
        assert len(begun) <= done + (os.cpu_count() or 1) + 3
    assert len(begun) == 500


# ---- Pictures that look wrong as a whole ----


def noise(count, channels=3):
    shades = np.random.default_rng(0).integers(0, 256, (count, 16, 16, channels), np.uint8)
    return np.broadcast_to(shades, (count, 16, 16, 3))


def alike(count):
    return noise(1).repeat(count, 0) // 2 + np.random.default_rng(1).integers(0, 4, (count, 16, 16, 1), np.uint8)


def repeated(count):
    return noise(count)[np.arange(count) % (count - count // 5)]  # a fifth are copies


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (noise(500), None),
        (alike(500), "500 pictures are nearly alike (they differ by"),
        (noise(500, 1), "100.0% of the 500"),
        (repeated(500), "100 of 500 pictures are the same as an earlier one"),
        (noise(1), None),
    ],
)
def test_pictures_that_look_wrong_are_told_with_a_number_each_time(tmp_path, capsys, images, words):
    np.save(tmp_path / "images.npy", images)
    for _ in range(2):  # packed, then found
        index = packed(tmp_path / "images.npy", progress=False).index
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert told == [f"warning: images.npy: {line}" for line in pack_module.find_data_warnings(index)]
        assert len(told) == (words is not None)
        assert words is None or words in told[0]


def test_drawn_and_real_faces_look_right(tmp_path):
    assert pack_module.find_data_warnings(packed("drawn:2000", size=16, progress=False).index) == []
    if os.path.isdir(REAL_FACES):
        with zipfile.ZipFile(os.path.join(REAL_FACES, "img_align_celeba.zip")) as archive:
            archive.extractall(tmp_path, [f"img_align_celeba/{number:06}.jpg" for number in range(1, 401)])
        assert pack_module.find_data_warnings(packed(tmp_path, progress=False).index) == []
