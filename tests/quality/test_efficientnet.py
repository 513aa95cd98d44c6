"""EfficientNet-Lite0 equals an independent implementation. Fixture: experiments/efficientnet_parity.py."""

from pathlib import Path

import feature_inputs as inputs
import jax
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose

from dcgan_jax.quality import efficientnet

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "efficientnet.npz", allow_pickle=False)


def fold():
    return efficientnet.fold_batch_norm(inputs.weights(efficientnet.list_weight_shapes()))


def test_features_equal_an_independent_implementation():
    features = jax.jit(efficientnet.extract_features)(fold(), inputs.make_images())
    assert features.shape == (2, efficientnet.FEATURES)
    # Tolerance: sums of up to 1,152 products in another order, through 50 layers. Features are up to 6.
    assert_allclose(features, FIXTURE["features"], rtol=0, atol=1e-3)
    assert np.abs(features[0] - features[1]).mean() > 1e-2  # so that the tolerance distinguishes the two images


def test_convolutions_have_the_highest_precision():
    """GPUs and TPUs compute with fewer bits by default, so features would differ from those of a CPU."""
    program = jax.make_jaxpr(efficientnet.extract_features)(fold(), jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8))
    found = [one.params["precision"] for one in program.eqns if one.primitive.name == "conv_general_dilated"]
    assert len(found) == 33 and set(found) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}


def test_other_weights_are_refused_by_name():
    arrays = {name: np.broadcast_to(np.float32(1), shape) for name, shape in efficientnet.list_weight_shapes().items()}
    with pytest.raises(ValueError, match="_conv_head.weight is missing: these are not EfficientNet-Lite0's weights"):
        efficientnet.fold_batch_norm({name: array for name, array in arrays.items() if name != "_conv_head.weight"})
    with pytest.raises(ValueError, match=r"_bn0.bias is \(3,\), not \(32,\)"):
        efficientnet.fold_batch_norm(arrays | {"_bn0.bias": np.zeros(3, np.float32)})
