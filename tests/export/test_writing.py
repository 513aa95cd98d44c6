"""Names of weights, and the code that model cards show."""

import types

import jax
import numpy as np
import pytest
from tiny import make_tiny_config

from dcgan_jax.export.writing import describe_latent, describe_shape, name_weights
from dcgan_jax.gan.sampling import make_seed_latents


def test_name_weights_joins_parameters_and_statistics():
    found = name_weights(({"head": {"kernel": np.ones(2)}}, {"head_norm": {"mean": np.zeros(3)}}))
    assert {name: array.shape for name, array in found.items()} == {"head/kernel": (2,), "head_norm/mean": (3,)}


def test_describe_shape_grey_has_one_channel():
    assert describe_shape(types.SimpleNamespace(config=make_tiny_config("article", channels=1))) == "16, 16, 1"


@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_describe_latent_is_code_that_gives_the_latent(law):
    config = make_tiny_config("article", latent_law=law)
    code = describe_latent(types.SimpleNamespace(config=config))
    wanted = make_seed_latents(config.nets)(np.array([5], np.uint32))[0]
    np.testing.assert_array_equal(eval(code, {"jax": jax, "seed": 5}), wanted)
