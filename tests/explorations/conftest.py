"""Generators that the tests explore."""

import pytest
import toy_run
from toy_run import get_reference_run

import dcgan_jax


@pytest.fixture(scope="module")
def gan():
    return dcgan_jax.load(get_reference_run().run)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A conditional run of four steps. Tests must not change it."""
    parent = tmp_path_factory.mktemp("conditional")
    assert toy_run.train_toy(parent, "--condition", "Smiling,Male", "--no-tensorboard", steps=4).code == 0
    return parent / "article"
