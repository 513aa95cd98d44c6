"""A run in Python gives what the verbs give, and one clear line where it is asked for something else."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from toy_run import STEPS, call, whole

import dcgan_jax
from dcgan_jax import sample
from dcgan_jax.api import ImageArray
from dcgan_jax.config import UserError


@pytest.fixture(scope="module")
def gan():
    return dcgan_jax.load(whole().run)


def test_faces_are_the_verbs(gan, tmp_path):
    call(sample, "--run", whole().run, "--seeds", "3,70-72,4294967295", "--out", tmp_path / "a.npy")
    images = gan.sample([3, 70, 71, 72, 2**32 - 1])
    np.testing.assert_array_equal(images, np.load(tmp_path / "a.npy"))
    assert images.shape == (5, 16, 16, 3) and images.dtype == np.uint8
    assert gan.step == STEPS


def test_a_seed_goes_by_way_of_its_latent(gan):
    seeds = range(100)
    latents = gan.latents(seeds)
    assert latents.shape == (100, gan.config.nets.latent_dim) and latents.dtype == np.float32
    near = np.abs(gan.images(latents).astype(int) - gan.sample(seeds).astype(int))
    assert near.max() <= 1 and near.mean() < 1e-3  # another program may round another way


@pytest.mark.parametrize("seeds", [7, [7], (7,), np.array([7]), np.array([7], np.uint32), iter([7])])
def test_seeds_come_in_any_form(gan, seeds):
    np.testing.assert_array_equal(gan.sample(seeds), gan.sample([7, 8])[:1])


def test_one_latent_needs_no_batch(gan):
    latents = gan.latents([1, 2])
    np.testing.assert_array_equal(gan.images(latents[1]), gan.images(latents)[1:])


def test_truncation_draws_faces_together(gan):
    spread = [gan.sample(range(64), truncation=cut).std(0, dtype=np.float64).mean() for cut in (1.0, 0.5, 0.01)]
    assert spread[0] > spread[1] > spread[2]
    np.testing.assert_allclose(gan.latents(3, 0.5), gan.latents(3) / 2)  # a uniform law's


def test_d_judges_each_picture_alone(gan):
    images = gan.sample(range(70))
    logits = gan.discriminate(images)
    assert logits.shape == (70,) and logits.dtype == np.float32 and len(set(logits.tolist())) > 60
    np.testing.assert_allclose(gan.discriminate(images[69:]), logits[69:], rtol=1e-4, atol=1e-5)
    features = gan.features(images)
    assert features.shape[0] == 70 and features.dtype == np.float32
    np.testing.assert_allclose(gan.features(images[69:]), features[69:], rtol=1e-4, atol=1e-5)


def test_a_notebook_shows_faces_and_runs(gan):
    for shown, side in ((gan, (4 * 18 + 2) * 6), (gan.sample(range(4)), (2 * 18 + 2) * 6), (gan.sample(0)[0], (18 + 2) * 6)):
        with Image.open(io.BytesIO(shown._repr_png_())) as picture:
            assert picture.size == (side, side)
    assert repr(gan) == f"<{whole().run}: article, 16 px, step {STEPS}>"


def test_what_is_no_picture_any_more_is_shown_as_numbers(gan):
    images = gan.sample(range(4))
    assert isinstance(images, ImageArray)
    for other in (images / 255, images[:, :8], images[..., :2], images[0, 0], images[:0], images.mean()):
        assert getattr(other, "_repr_png_", lambda: None)() is None


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda gan: gan.sample(-1), "whole numbers from 0 to"),
        (lambda gan: gan.sample([2**32]), "whole numbers from 0 to"),
        (lambda gan: gan.sample([]), "whole numbers from 0 to"),
        (lambda gan: gan.sample(0.5), "0.5"),
        (lambda gan: gan.sample("seven"), "seven"),
        (lambda gan: gan.sample(0, condition={"Smiling": 1}), "trained without `condition`"),
        (lambda gan: gan.sample(0, truncation=0), "`truncation` 0"),
        (lambda gan: gan.latents(0, truncation=float("nan")), "`truncation` nan"),
        (lambda gan: gan.images(np.zeros((3, 7))), r"`latents` \(3, 7\): .* takes \(N, 100\)"),
        (lambda gan: gan.images(np.zeros((1, 3, 100))), "latents"),
        (lambda gan: gan.images(gan.latents(0), np.zeros((1, 1))), "trained without `condition`"),
        (lambda gan: gan.discriminate(np.zeros((1, 32, 32, 3), np.uint8)), r"takes uint8 \(N, 16, 16, 3\)"),
        (lambda gan: gan.discriminate(np.zeros((1, 16, 16, 3))), "float64"),
        (lambda gan: gan.features(np.zeros((16, 16, 3), np.uint8)), "takes uint8"),
        (lambda gan: dcgan_jax.load("nowhere"), "nowhere: no run is there"),
        (lambda gan: dcgan_jax.load(gan.name, step=5), "`step` 5"),
    ],
)
def test_what_cannot_be_is_one_line(gan, ask, said):
    with pytest.raises(UserError, match=said) as fault:
        ask(gan)
    assert "\n" not in str(fault.value)


def test_importing_the_package_starts_nothing():
    """Verbs set what must stand before JAX starts."""
    code = "import sys, dcgan_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
