import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_run import get_refusal, run_command

from dcgan_jax import prepare
from dcgan_jax.data.download import PUBLISHED
from dcgan_jax.data.pack import pack_images
from dcgan_jax.data.sources import open_source
from dcgan_jax.prepare import PREVIEW_IMAGES


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DCGAN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """A folder with 40 good images of 24 x 20, one broken image and one text file."""
    (tmp_path / "in").mkdir()
    for at in range(40):
        Image.fromarray(np.full((20, 24, 3), 6 * at, np.uint8)).save(tmp_path / "in" / f"{at:02}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "in" / "read me.txt").write_text("hello")
    return tmp_path / "in"


def run_prepare(*arguments):
    done = run_command(prepare, *arguments)
    assert done.code == 0, done
    return done


def test_prepare_shows_what_it_found(folder, cache):
    done = run_prepare("--data", folder, "--size", 16)
    assert done.out.startswith("folder: in, split all\n")
    assert "40 images packed at 16 px, 3 channels, crop centre" in done.out
    assert "1 skipped, 0 enlarged, 1 other files ignored" in done.out
    assert "broken.png" in done.err
    path = Path(re.search(r"pack (\S+)", done.out)[1])
    assert path.parent == cache / "packs"
    with Image.open(re.search(r"look at (\S+)", done.out)[1]) as preview:
        shades = {shade for _, shade in preview.convert("L").getcolors()}
    assert shades == {*range(0, 240, 6), 255}  # every image, on a white background


def test_prepared_pack_is_found_again_and_by_train(folder, monkeypatch):
    first = run_prepare("--data", folder, "--size", 16)

    def decodes(*args):
        raise AssertionError("packed anew")

    monkeypatch.setattr("dcgan_jax.data.pack.decode_images", decodes)
    assert run_prepare("--data", folder, "--size", 16).out == first.out
    assert len(pack_images(open_source(str(folder)), size=16, channels=3, crop="centre").images) == 40


def test_shown_images_are_spread_over_the_set(tmp_path):
    np.save(tmp_path / "many.npy", np.repeat(np.arange(250, dtype=np.uint8), 16 * 16 * 3).reshape(250, 16, 16, 3))
    done = run_prepare("--data", tmp_path / "many.npy", "--size", 16)
    with Image.open(re.search(r"look at (\S+)", done.out)[1]) as preview:
        shades = sorted(shade for _, shade in preview.convert("L").getcolors())
    assert len(shades) == PREVIEW_IMAGES + 1
    assert (shades[0], shades[-2]) == (0, 249)
    assert max(np.diff(shades[:-1])) <= 5


def test_drawn_faces_have_attributes():
    assert re.search(r"\d\d attributes: \w+, ", run_prepare("--data", "drawn:40", "--size", 16).out)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_grey_and_colour_are_prepared(folder, channels, mode):
    done = run_prepare("--data", folder, "--size", 16, "--channels", channels)
    with Image.open(re.search(r"look at (\S+)", done.out)[1]) as preview:
        assert preview.mode == mode


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--size", 33), ["--size 33", "16 or 32"]),
        (("--size", -16), ["--size -16"]),
        (("--crop", "middle"), ["--crop", "middle"]),
        (("--channels", 2), ["--channels", "2"]),
        (("--split", "half"), ["--split", "half"]),
        (("--strict",), ["broken.png", "--strict"]),
        (("--sise", 16), ["--sise", "--size"]),
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_leave_no_pack(folder, cache, arguments, says):
    line = get_refusal(prepare, "--data", folder, *arguments)
    assert all(part in line for part in says), line
    assert not list(cache.rglob("index.json"))


def test_missing_data_flag_is_named():
    assert "--data" in get_refusal(prepare)


# ---- --download ----


@pytest.fixture
def fetched(folder, monkeypatch):
    """The arguments of each call of download(), which is replaced: it returns a zip of the folder's images."""
    requests = []

    def download(file, to):
        requests.append((file, to))
        return Path(shutil.make_archive(str(folder.parent / "faces"), "zip", folder))

    monkeypatch.setattr("dcgan_jax.data.download.download_file", download)
    return requests


def test_download_is_packed_and_named_for_training(fetched, cache, folder):
    done = run_prepare("--download", "article", "--size", 16)
    assert "40 images packed" in done.out and f"train on it with --data {folder.parent / 'faces.zip'}\n" in done.out
    ((file, to),) = fetched
    assert file == PUBLISHED["article"] and to == cache / "downloads"


@pytest.mark.parametrize(
    ("flags", "sha256", "size_bytes"),
    [
        ([], PUBLISHED["celeba"].sha256, PUBLISHED["celeba"].size_bytes),
        (["--sha256", "A" * 64], "a" * 64, 0),
        (["--sha256", "none"], "", 0),
    ],
)
def test_celeba_url_must_match_the_published_hash(fetched, tmp_path, flags, sha256, size_bytes):
    """--sha256 replaces the published hash."""
    run_prepare("--download", "celeba", "--url", "https://host/celeba.zip", "--to", tmp_path / "to", "--size", 16, *flags)
    ((file, to),) = fetched
    assert (file.url, file.sha256, file.size_bytes) == ("https://host/celeba.zip", sha256, size_bytes)
    assert file.name == "img_align_celeba.zip" and to == tmp_path / "to"


def test_celeba_without_a_url_is_tfds(folder, monkeypatch):
    monkeypatch.setattr("dcgan_jax.data.download.prepare_with_tfds", lambda: str(folder))
    assert "40 images packed" in run_prepare("--download", "celeba", "--size", 16).out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--data PATH or --download"),
        (["--data", "drawn", "--download", "article"], "not both"),
        (["--data", "drawn", "--url", "https://host/x"], "leave them out"),
        (["--download", "faces"], "--download"),
        (["--download", "article", "--sha256", "abc"], "64 hexadecimal digits"),
        (["--download", "article", "--url", "ftp://host/x"], "ftp is not downloaded"),
        (["--download", "celeba", "--to", "x"], "TFDS_DATA_DIR"),
        (["--download", "celeba", "--sha256", "none"], "or give --url"),
    ],
)
def test_bad_download_flags_are_one_line(flags, words, cache):
    assert words in get_refusal(prepare, *flags)
    assert not cache.exists()
