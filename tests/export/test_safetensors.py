"""The safetensors export: weights by name, and a NumPy file that generates images from them."""

import pytest
from exports import assert_near, run_fresh_process

pytestmark = pytest.mark.integration


def test_numpy_generator_needs_no_other_package(exported):
    assert_near(
        run_fresh_process(
            """
import generator, sys
from numpy import load, rint
it = generator.load(".")
images = generator.apply_generator(generator.NumPyOps, it.config, it.weights, load("latents.npy"))
assert (it.sample(range(20)) == rint(255 * images)).all()
assert not {"jax", "flax", "torch"} & set(sys.modules)""",
            exported("safetensors"),
        )
    )
