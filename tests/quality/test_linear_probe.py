"""The linear probe, on features that determine the attributes."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dcgan_jax.quality.linear_probe import fit_and_score_probe, split_fit_and_test

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(700, 30)) * np.logspace(-2, 2, 30) + 5  # scales from 0.01 to 100
LINES = RANDOM.normal(size=(30, 3))
LABELS = ((X - 5) / np.logspace(-2, 2, 30) @ LINES > [0, 0, 4]).astype(np.uint8)


def probe(x, labels):
    return fit_and_score_probe(x[:400], labels[:400], x[400:], labels[400:])


def test_separable_attribute_is_predicted():
    found = probe(X, LABELS)
    assert found.accuracy.min() > 0.9
    assert found.balanced.min() > 0.8


def test_independent_attribute_is_a_guess():
    found = probe(X, RANDOM.integers(0, 2, (700, 4)))
    assert np.abs(found.balanced - 0.5).max() < 0.1
    assert found.most_frequent.max() < 0.6


def test_more_features_than_images_is_no_harm():
    """Features that are noise or constant do not spoil the fit."""
    wide = np.concatenate([X, RANDOM.normal(size=(700, 400)), np.ones((700, 5))], 1)
    assert probe(wide, LABELS).accuracy.min() > 0.6


def test_probe_ignores_scale_and_shift_of_features():
    scales, shifts = RANDOM.uniform(0.1, 10, (2, 30))
    ours, theirs = probe(X, LABELS), probe(X * scales + shifts, LABELS)
    assert_allclose(ours.accuracy, theirs.accuracy, atol=0.01)


def test_universal_attribute_has_no_balanced_accuracy():
    labels = LABELS.copy()
    labels[:, 0] = 1
    found = probe(X, labels)
    assert found.accuracy[0] == found.most_frequent[0] == 1
    assert np.isnan(found.balanced[0]) and not np.isnan(found.balanced[1:]).any()


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="features"):
        fit_and_score_probe(X[:400], LABELS[:399], X[400:], LABELS[400:])


@pytest.mark.parametrize("count, sizes", [(20, (13, 7)), (85, (56, 29)), (5000, (3333, 1667)), (9000, (4000, 2000))])
def test_no_image_is_both_fitted_to_and_tested_on(count, sizes):
    fit, test = split_fit_and_test(RANDOM.permutation(count), ["Male"], "faces")
    assert (len(fit), len(test)) == sizes
    assert len({*fit, *test}) == sum(sizes)


@pytest.mark.parametrize("count, attributes, says", [(19, ["Male"], "^faces: too few"), (20, [], "has no attributes")])
def test_unusable_training_images_are_refused(count, attributes, says):
    """Refuses too few images, and images without attributes."""
    with pytest.raises(ValueError, match=says):
        split_fit_and_test(np.arange(count), attributes, "faces")
