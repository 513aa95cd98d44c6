"""The FID Inception equals an independent implementation, layer by layer. Fixtures: experiments/inception_parity.py."""

import functools
from pathlib import Path

import feature_inputs as inputs
import jax
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose

from dcgan_jax.quality import inception

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "inception.npz", allow_pickle=False)


@functools.cache
def outputs():
    """Returns (features (2, 2048), {layer: output})."""
    layers = inception.fold_batch_norm(inputs.weights(inception.list_weight_shapes()))
    network = jax.jit(functools.partial(inception.extract_features, every_layer=True))
    return jax.device_get(network(layers, inputs.make_images()))


@pytest.mark.parametrize("layer", inception.LAYERS)
def test_each_layer_equals_torch_fidelity(layer):
    # Tolerance: sums of up to 3,456 products in another order, through up to 20 layers.
    assert_allclose(inputs.summarise_layer(outputs()[1][layer]), FIXTURE[layer], rtol=1e-3, atol=1e-3)


def test_features_equal_torch_fidelity():
    features, _ = outputs()
    assert features.shape == (2, inception.FEATURES)
    assert_allclose(features, FIXTURE["features"], rtol=1e-3, atol=1e-3)
    assert np.abs(features[0] - features[1]).mean() > 1e-2  # so that the tolerance distinguishes the two images


def test_resize_is_tensorflow_1():
    row = np.array([0, 100, 200], np.uint8).reshape(1, 1, 3, 1)
    wide = np.asarray(inception.resize_bilinear(np.broadcast_to(row, (1, 3, 3, 1))))[0, 0, :, 0]
    assert_allclose(wide, np.minimum(np.arange(299) * (3 / 299), 2) * 100, rtol=1e-5)
    same = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3), np.uint8)
    assert_allclose(inception.resize_bilinear(same), same)


def test_convolutions_have_the_highest_precision():
    """GPUs and TPUs compute with fewer bits by default, so features would differ from those of a CPU."""
    shapes = inception.list_weight_shapes()
    layers = jax.eval_shape(
        lambda: inception.fold_batch_norm({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    )
    program = jax.make_jaxpr(inception.extract_features)(layers, jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8))
    found = [one.params["precision"] for one in program.eqns if one.primitive.name in ("conv_general_dilated", "dot_general")]
    assert len(found) == 94 and set(found) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}


def test_other_weights_are_refused_by_name():
    shapes = inception.list_weight_shapes()
    zeros = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match="Mixed_7c.branch_pool.conv.weight is missing"):
        inception.fold_batch_norm({name: array for name, array in zeros.items() if name != "Mixed_7c.branch_pool.conv.weight"})
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3.bn.bias is \(3,\), not \(32,\)"):
        inception.fold_batch_norm(zeros | {"Conv2d_1a_3x3.bn.bias": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="1000 classes, not 1008"):  # torchvision's other arrays have the same names and shapes
        inception.fold_batch_norm(zeros | {"fc.weight": np.zeros((1000, 2048), np.float32)})
