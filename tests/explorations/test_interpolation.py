"""Interpolation between latents: truncations, morphs, walks and arithmetic."""

import numpy as np
import pytest
from exploring import assert_near, explore_run, get_cells, get_explore_refusal, run_explore
from PIL import Image
from toy_run import get_reference_run

import dcgan_jax
from dcgan_jax.gan import latents

pytestmark = pytest.mark.integration


def test_morph_row_runs_from_seed_to_seed(tmp_path, gan):
    """Each row starts at the sample of one seed and ends at that of the next, in small steps."""
    sheet, numbers, _ = explore_run(tmp_path, "morph", "--seeds", "3,9,5", "--columns", 12)
    assert numbers["seeds"] == [3, 9, 5] and len(numbers["shares"]) == 12
    for row, (a, b) in enumerate(((3, 9), (9, 5))):
        faces = get_cells(sheet, row, 12, 2)
        assert_near(faces[[0, -1]], gan.sample([a, b]))
        strides = np.abs(np.diff(faces.astype(float), axis=0)).mean((1, 2, 3))
        assert strides.max() < np.abs(faces[0].astype(float) - faces[-1]).mean()  # no jump


def test_truncation_reduces_the_spread(tmp_path, gan):
    cuts = (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.01)
    sheet, numbers, _ = explore_run(tmp_path, "truncate", "--seeds", "0,1", "--truncations", *cuts)
    assert numbers["spread_grey_levels"] == sorted(numbers["spread_grey_levels"], reverse=True)
    assert_near(get_cells(sheet, 1, 8, 2)[[0, 3]], [gan.sample(1)[0], gan.sample(1, truncation=0.7)[0]])


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_walk_is_a_loop_through_all_seeds(tmp_path, gan, suffix):
    film, numbers, _ = explore_run(tmp_path, "walk", "--seeds", "4-6", "--frames-each", 5, "--frames-a-second", 20, suffix=suffix)
    with Image.open(film) as film:
        assert (film.n_frames, film.info["loop"], numbers["frames"]) == (15, 0, 15)
        film.seek(5)
        film.load()
        assert film.info["duration"] == 50
        sheet = np.asarray(film.convert("RGB"))
        assert (sheet[:40] < 128).any()  # the title is above the samples
        frame = sheet[-262:-6, 12:268][8::16, 8::16].astype(float)  # centres of the enlarged pixels
    assert np.abs(frame - gan.sample(5)[0]).mean() < 12
    assert np.abs(frame - gan.sample(4)[0]).mean() > 2 * np.abs(frame - gan.sample(5)[0]).mean()


def test_mp4_needs_pyav(tmp_path):
    try:
        import av
    except ImportError:
        line = get_explore_refusal("walk", "--run", get_reference_run().run, "--out", tmp_path / "a.mp4", "--frames-each", 2)
        assert "pip install av" in line
        return
    out = tmp_path / "a.mp4"
    assert run_explore("walk", "--run", get_reference_run().run, "--out", out, "--frames-each", 4, "--seeds", "0-2").code == 0
    with av.open(out) as film:
        assert sum(1 for _ in film.decode(video=0)) == 12


def test_arithmetic_of_a_seed_with_itself_is_the_seed(tmp_path, gan):
    sheet, numbers, _ = explore_run(tmp_path, "arithmetic", "--equation", "7 - 3-5 + 3-5")
    assert_near(get_cells(sheet, 3, 9, 4)[:1], gan.sample(7))
    np.testing.assert_allclose(numbers["result"], gan.latents(7)[0], atol=1e-4)


def test_arithmetic_is_of_means(tmp_path, gan):
    _, numbers, _ = explore_run(tmp_path, "arithmetic", "--equation", "1,2 + 3 - 4,5")
    nets = gan.config.nets
    z = np.asarray(latents.to_normal(gan.latents(range(6)), nets))
    wanted = latents.from_normal(z[1:3].mean(0) + z[3] - z[4:6].mean(0), nets)
    np.testing.assert_allclose(numbers["result"], wanted, atol=1e-4)


def test_explorations_use_the_condition(tmp_path, conditional):
    for command in ("morph", "walk", "truncate", "directions", "arithmetic"):
        sheet, *_ = explore_run(
            tmp_path, command, "--condition", "Male=1", suffix=".webp" if command == "walk" else ".png", run=conditional
        )
        if command == "morph":
            assert_near(get_cells(sheet, 0, 9, 5)[[0, -1]], dcgan_jax.load(conditional).sample([0, 1], {"Male": 1}))
