import errno
import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from dcgan_jax.run import figures
from dcgan_jax.run.figures import (
    DENSE,
    GAP_PX,
    SPARSE,
    delete_old_grids,
    enlarge,
    make_captioned_sheet,
    make_grid,
    save_grid,
    save_losses,
    save_png,
)


def noise(count, side=16, channels=3):
    return np.random.default_rng(0).integers(0, 255, (count, side, side, channels), np.uint8)  # at most 254: no white pixel


# ---- Sheets ----


@pytest.mark.parametrize(
    "count, columns, shape",
    [
        (1, None, (1, 1)),
        (4, None, (2, 2)),
        (5, None, (2, 3)),
        (64, None, (8, 8)),
        (20, 10, (2, 10)),
        (7, 10, (1, 10)),
        (3, 1, (3, 1)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sheet_holds_every_image_in_rows_on_white(count, columns, shape, channels):
    images, side = noise(count, channels=channels), 16 + GAP_PX
    sheet = make_grid(images, columns)
    assert sheet.shape == (shape[0] * side + GAP_PX, shape[1] * side + GAP_PX, channels)
    assert sheet.dtype == np.uint8
    for i, image in enumerate(images):
        top, left = GAP_PX + i // shape[1] * side, GAP_PX + i % shape[1] * side
        assert_array_equal(sheet[top : top + 16, left : left + 16], image)
        sheet[top : top + 16, left : left + 16] = 255
    assert (sheet == 255).all()


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_png_keeps_every_pixel(tmp_path, channels, mode):
    image = noise(1, channels=channels)[0]
    save_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as file:
        assert (file.format, file.mode, file.size) == ("PNG", mode, (16, 16))
        assert_array_equal(np.asarray(file).reshape(16, 16, channels), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_enlarge_repeats_whole_pixels(channels):
    image = noise(1, 32, channels)[0]
    large = enlarge(image, 32)
    assert large.shape == (96, 96, channels)
    for down in range(3):
        assert_array_equal(large[down::3, down::3], image)


@pytest.mark.parametrize("side, scale", [(16, 6), (32, 3), (64, 1), (256, 1)])
def test_small_images_are_enlarged_by_whole_pixels(tmp_path, side, scale):
    save_grid(tmp_path / "a.png", noise(4, side))
    with Image.open(tmp_path / "a.png") as file:
        assert file.size == (scale * (2 * side + 3 * GAP_PX),) * 2


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["png", "losses"])
def test_file_is_replaced_atomically(tmp_path, monkeypatch, what):
    write = {"png": lambda: save_png(tmp_path / "file", noise(1)[0]), "losses": lambda: save_losses(tmp_path / "file", {})}[what]
    file = tmp_path / "file"
    file.write_bytes(b"the old one")
    monkeypatch.setattr(os, "replace", full_disk)  # everything is written, then the rename fails
    with pytest.raises(OSError, match="No space"):
        write()
    assert file.read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    monkeypatch.undo()
    write()
    assert file.read_bytes() != b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


# ---- Curves ----


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_loss_curves_of_any_length_are_an_image(tmp_path, length):
    series = {"step": [*range(1, length + 1)], "d_loss": [0.5] * length, "g_loss": [1.0] * length}
    save_losses(tmp_path / "losses.png", series)
    with Image.open(tmp_path / "losses.png") as file:
        shown = np.asarray(file.convert("RGB"))
    blue, orange = (np.abs(shown.astype(int) - colour).max(-1).min() < 60 for colour in ((31, 119, 180), (255, 127, 14)))
    assert (blue, orange) == ((length > 0,) * 2)


def test_smoothed_curve_is_a_running_mean(tmp_path, monkeypatch):
    """The mean of five steps is plotted at the last of them."""
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **style: drawn.append((np.array(x), np.array(y))))
    monkeypatch.setattr(Axes, "legend", lambda self: None)
    values = np.arange(100.0)
    save_losses(tmp_path / "a.png", {"step": [*range(1, 101)], "d_loss": [*values], "g_loss": [*-values]})
    raw, smooth = drawn[0], drawn[1]
    assert_array_equal(raw[1], values)
    assert_array_equal(smooth[0], np.arange(5, 101))
    assert_allclose(smooth[1], values[4:] - 2)


def grids_after(folder, saves, interruptions=()):
    """Saves grids and thins them out after each save. Returns: the steps of the grids that are left."""
    folder.mkdir()
    for step in sorted({*range(0, 500 * saves + 1, 500), *interruptions}):
        (folder / f"{step:08d}.png").touch()
        delete_old_grids(folder, 500)
    return sorted(int(path.stem) for path in folder.iterdir())


def test_grids_are_dense_at_first_then_thinned(tmp_path):
    assert grids_after(tmp_path / "short", DENSE) == list(range(0, 500 * DENSE + 1, 500))
    kept = grids_after(tmp_path / "long", 1001)
    assert kept[: DENSE + 1] == list(range(0, 500 * DENSE + 1, 500))
    assert kept[-1] == 500 * 1001  # the newest is always kept
    assert len(kept) <= DENSE + SPARSE + 2
    gaps = np.diff(kept[DENSE + 1 : -1])
    assert set(gaps) == {500 * 16}


def test_thinning_does_not_depend_on_interruptions(tmp_path):
    stopped = grids_after(tmp_path / "stopped", 400, interruptions=(123_456, 7_777))
    assert [step for step in stopped if step != 7_777] == grids_after(tmp_path / "whole", 400)


def test_thinning_deletes_nothing_else(tmp_path):
    for name in ("mine.png", "00000500.txt", "notes"):
        (tmp_path / name).touch()
    delete_old_grids(tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("names", [("seed 0", "seed 1"), ("Mouth_Slightly_Open", "Mouth_Slightly_Opel")])
def test_row_name_is_shown_completely(names):
    one, other = (make_captioned_sheet("", [(name, noise(1))]) for name in names)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_slowest_animation_can_be_read(tmp_path, suffix):
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    figures.save_animation(tmp_path / f"a{suffix}", frames, 0.01)
    with Image.open(tmp_path / f"a{suffix}") as film:
        film.load()
        assert film.info["duration"] == 100_000
