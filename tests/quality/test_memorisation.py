import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dcgan_jax.quality import memorisation


@pytest.mark.parametrize("copied, low, high", [(0.0, 0.9, 1.1), (0.5, 0.35, 0.65), (1.0, 0.0, 0.01)])
def test_copies_of_training_images_are_detected(copied, low, high):
    random = np.random.default_rng(0)
    training, held_out, new = (random.normal(size=(count, 8)) for count in (600, 200, 100))
    chosen = random.permutation(600)[:100]
    samples = np.where(np.arange(100)[:, None] < copied * 100, training[chosen], new)
    found = memorisation.measure_memorisation(samples, held_out, np.split(training, 3), seed=1)
    assert low <= found.to_training <= high
    assert (found.nearest[: int(copied * 100)] == chosen[: int(copied * 100)]).all()
    whole = memorisation.measure_memorisation(samples, held_out, [training], seed=1)
    assert_allclose(found.to_training, whole.to_training)  # independent of the parts
    assert_array_equal(found.nearest, whole.nearest)


def test_copies_are_nearer_at_equal_counts():
    """`ratio` compares with as many training images as are held out."""
    random = np.random.default_rng(0)
    training, held_out = random.normal(size=(2, 200, 8))
    assert memorisation.measure_memorisation(training, held_out, [training]).ratio < 0.01
    assert 0.95 < memorisation.measure_memorisation(random.normal(size=(200, 8)), held_out, [training]).ratio < 1.05
    with pytest.raises(ValueError, match="has as many as the 200 held-out images"):
        memorisation.measure_memorisation(training, held_out, [training[:199]])
