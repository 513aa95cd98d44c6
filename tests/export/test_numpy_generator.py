"""The NumPy generator gives the same images as the checkpoint, from the same seeds."""

import dataclasses

import jax
import numpy as np
import pytest
from generators import VARIANTS, get_generator_case

from dcgan_jax.config import Nets
from dcgan_jax.export.numpy_generator import Generator, NumPyOps, apply_generator, draw_seed_latents
from dcgan_jax.gan.sampling import make_seed_latents

SEEDS = [0, 1, 2, 12345, 2**31, 2**32 - 1]


@pytest.mark.parametrize("way", VARIANTS)
def test_images_equal_the_networks(way):
    it = get_generator_case(way)
    # Without g_refine, which the generator finds from the weights, because older exports lack it.
    fields = {name: value for name, value in it.flat.items() if name != "g_refine"}
    ours = apply_generator(NumPyOps, fields, it.weights, it.latents, it.labels)
    assert ours.dtype == np.float32 and it.images.std() > 0.05  # not a constant image
    np.testing.assert_allclose(ours, it.images, atol=2e-5)


@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_latents_equal_jax(law):
    nets = dataclasses.replace(Nets(), latent_law=law, latent_dim=101)
    seeds = np.array(SEEDS + list(range(1000, 1200)), np.uint32)
    theirs = np.asarray(jax.jit(make_seed_latents(nets))(seeds))
    ours = draw_seed_latents(seeds, 101, law)
    assert ours.dtype == np.float32
    if law == "uniform":
        np.testing.assert_array_equal(ours, theirs)
    else:  # logarithm and root may round differently
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_labels_are_the_tables_unless_given():
    it = get_generator_case("article, conditional")
    table = np.uint8([[0, 0], [0, 1], [1, 1]])
    gan, seeds = Generator(it.weights, it.flat, table), [2, 3, 2**32 - 1]
    np.testing.assert_array_equal(gan.sample(seeds), gan.sample(seeds, table[[2, 0, 0]]))
    assert (gan.sample(seeds) != gan.sample(seeds, table[[1, 1, 1]])).any()


def test_old_export_config_is_read_if_its_net_is_known():
    """Older config.json files contain removed fields. These are accepted at their neutral values and refused otherwise."""
    it = get_generator_case("article")
    removed = dict.fromkeys(("g_modulation", "residual", "image_skips", "box_kernels"), False) | {"bn_momentum": 0.9}
    kept = {name: value for name, value in it.flat.items() if name not in removed}
    np.testing.assert_array_equal(Generator(it.weights, kept | removed).sample(0), Generator(it.weights, kept).sample(0))
    with pytest.raises(ValueError, match="^residual True: no longer supported; use the generator.py that was exported with it$"):
        Generator(it.weights, kept | removed | {"residual": True})


@pytest.mark.parametrize("seeds", [[2**32], np.array([2**32]), -1, np.array([-1]), 0.5, "7", [], [[1]], [2**70], [True]])
def test_invalid_seeds_are_one_line(seeds):
    with pytest.raises(ValueError, match="^seeds: give whole numbers from 0 to 4294967295$"):
        draw_seed_latents(seeds, 4, "uniform")


@pytest.mark.parametrize(
    ("way", "ask", "says"),
    [
        ("article", lambda gan: gan.images(np.zeros((3, 7))), r"latents \(3, 7\): give \(N, 100\)"),
        ("article", lambda gan: gan.images(np.zeros(100)), r"latents \(100,\): give"),
        ("article", lambda gan: gan.sample(0, [[1]]), "labels: not supported, the run was trained without --condition"),
        ("article, conditional", lambda gan: gan.sample(0), r"labels \(\): give \(1, 2\) of 0 and 1.*Smiling,Male"),
        ("article, conditional", lambda gan: gan.sample([0, 1], [[1, 0]]), r"labels \(1, 2\): give \(2, 2\)"),
    ],
)
def test_bad_arguments_are_one_line(way, ask, says):
    it = get_generator_case(way)
    with pytest.raises(ValueError, match=says) as fault:
        ask(Generator(it.weights, it.flat))
    assert "\n" not in str(fault.value)
