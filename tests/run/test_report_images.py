import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from report_pages import decode_image, faces, make_run_facts, read_page_data

from dcgan_jax.config import Config, replace
from dcgan_jax.run import report
from dcgan_jax.run.figures import save_grid
from dcgan_jax.run.report import render_page


def test_grids_are_in_order_at_their_own_size(tmp_path):
    faces(tmp_path, [500, 0, 12000])
    for name in ("00000012 (1).png", "._00000012.png", "best.png"):  # copies by a cloud drive, by macOS and by a user
        (tmp_path / "samples" / name).write_bytes((tmp_path / "samples" / "00000500.png").read_bytes())
    grids = read_page_data(render_page([make_run_facts(tmp_path)]))["runs"][0]["grids"]
    assert [(grid["step"], grid["kimg"]) for grid in grids] == [(0, 0), (500, 64), (12000, 1536)]
    with Image.open(tmp_path / "samples" / "00012000.png") as file:
        large = np.asarray(file)
    found = decode_image(grids[-1]["src"])
    assert large.shape == (3 * found.shape[0], 3 * found.shape[1], 3)  # the file is enlarged; the page enlarges by itself
    assert np.abs(found.astype(int) - large[::3, ::3]).mean() < 8  # lossy


def test_first_and_newest_grids_stay_page_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "IMAGES_BYTES", 12_000)
    faces(tmp_path, range(0, 4000, 100))
    text = render_page([make_run_facts(tmp_path)])
    steps = [grid["step"] for grid in read_page_data(text)["runs"][0]["grids"]]
    assert steps[0] == 0 and steps[-1] == 3900 and 3 < len(steps) < 39
    assert len({*np.diff(steps[:-1])}) == 1  # every 2nd, 4th ...
    assert sum(len(grid["src"]) for grid in read_page_data(text)["runs"][0]["grids"]) < 15_000
    before = {*steps}
    faces(tmp_path, [4000])
    after = {grid["step"] for grid in read_page_data(render_page([make_run_facts(tmp_path)]))["runs"][0]["grids"]}
    assert after - before <= {4000} | {*range(0, 4000, 100)} and len(before & after) >= len(before) - 1  # few are encoded again


def test_large_grids_are_reduced(tmp_path):
    faces(tmp_path, [0], side=256, count=36)
    (grid,) = read_page_data(render_page([make_run_facts(tmp_path, config=replace(Config(), size=256))]))["runs"][0]["grids"]
    assert decode_image(grid["src"]).shape[0] == 1100


@pytest.mark.parametrize("content", [b"", b"no picture", "cut", "GIF"])
def test_file_that_is_no_png_is_left_out(tmp_path, content):
    faces(tmp_path, [0, 100])
    file = tmp_path / "samples" / "00000100.png"
    if content == "GIF":
        Image.new("RGB", (8, 8)).save(file, "GIF")
    else:
        file.write_bytes(file.read_bytes()[:300] if content == "cut" else content)
    assert [grid["step"] for grid in read_page_data(render_page([make_run_facts(tmp_path)]))["runs"][0]["grids"]] == [0]


def test_grid_is_encoded_once(tmp_path, monkeypatch):
    faces(tmp_path, [0, 100])
    encoded = []
    real = Image.Image.save

    def counted(self, file, *args, **how):
        encoded.append(file)
        real(self, file, *args, **how)

    monkeypatch.setattr(Image.Image, "save", counted)
    one, again = render_page([make_run_facts(tmp_path)]), render_page([make_run_facts(tmp_path)])
    assert one == again and len(encoded) == 2
    assert_array_equal(
        decode_image(read_page_data(one)["runs"][0]["grids"][0]["src"]),
        decode_image(read_page_data(again)["runs"][0]["grids"][0]["src"]),
    )


def test_old_grids_much_larger_stay_within_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "IMAGES_BYTES", 20_000)
    faces(tmp_path, range(0, 3000, 100), count=64)
    (tmp_path / "samples" / "00003000.png").write_bytes(b"")
    save_grid(tmp_path / "samples" / "00003000.png", np.zeros((4, 32, 32, 3), np.uint8))  # as after mode collapse
    assert sum(len(grid["src"]) for grid in read_page_data(render_page([make_run_facts(tmp_path)]))["runs"][0]["grids"]) <= 20_000
