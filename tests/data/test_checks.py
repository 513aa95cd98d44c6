import os
import zipfile

import numpy as np
import pytest
from packs import REAL_FACES, pack

from dcgan_jax.data.checks import find_data_warnings


def noise(count, channels=3):
    shades = np.random.default_rng(0).integers(0, 256, (count, 16, 16, channels), np.uint8)
    return np.broadcast_to(shades, (count, 16, 16, 3))


def alike(count):
    return noise(1).repeat(count, 0) // 2 + np.random.default_rng(1).integers(0, 4, (count, 16, 16, 1), np.uint8)


def make_repeated_images(count):
    return noise(count)[np.arange(count) % (count - count // 5)]  # a fifth of them are copies


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (noise(500), None),
        (alike(500), "500 images are nearly alike (they differ by"),
        (noise(500, 1), "100.0% of the 500"),
        (make_repeated_images(500), "100 of 500 images are the same as an earlier one"),
        (noise(1), None),
    ],
)
def test_suspicious_images_warn_with_a_number(tmp_path, capsys, images, words):
    """Each check warns once about suspicious images, with a number."""
    np.save(tmp_path / "images.npy", images)
    for _ in range(2):  # first packed, then read from the cache
        index = pack(tmp_path / "images.npy", progress=False).index
        warning_lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert warning_lines == [f"warning: images.npy: {line}" for line in find_data_warnings(index)]
        assert len(warning_lines) == (words is not None)
        assert words is None or words in warning_lines[0]


def test_drawn_and_real_faces_pass_the_checks(tmp_path):
    assert find_data_warnings(pack("drawn:2000", size=16, progress=False).index) == []
    if os.path.isdir(REAL_FACES):
        with zipfile.ZipFile(os.path.join(REAL_FACES, "img_align_celeba.zip")) as archive:
            archive.extractall(tmp_path, [f"img_align_celeba/{number:06}.jpg" for number in range(1, 401)])
        assert find_data_warnings(pack(tmp_path, progress=False).index) == []
