import numpy as np
import pytest
from noise_features import IMAGES, INDEX, network
from numpy.testing import assert_allclose, assert_array_equal

from dcgan_jax.quality import scores
from dcgan_jax.run import feature_summaries
from dcgan_jax.run.feature_summaries import RealImages


def test_chunked_score_equals_the_whole(monkeypatch):
    net, _ = network()
    monkeypatch.setattr(feature_summaries, "PART", 7)
    kept = np.array([0, 6, 7, 20, 21, 48, 59])
    found = feature_summaries.summarise_features(net, feature_summaries.iterate_parts(IMAGES, np.arange(60)), kept)
    whole = scores.compute_moments(net.features(IMAGES))
    assert found.moments.count == 60
    assert_allclose(found.moments.mean, whole.mean, rtol=1e-12)
    assert_allclose(found.moments.covariance, whole.covariance, rtol=1e-9, atol=1e-9)
    assert_array_equal(found.kept_features, net.features(IMAGES[kept]))


def test_features_are_cached_and_remade_if_truncated(tmp_path):
    reals = RealImages(IMAGES, np.arange(0, 60, 2), INDEX, tmp_path / "references")
    net, calls = network()
    kept = np.arange(30)
    first = feature_summaries.load_reference(net, reals, kept)
    seen = len(calls)
    again = feature_summaries.load_reference(net, reals, kept)
    assert len(calls) == seen
    assert_array_equal(again.kept_features, first.kept_features)
    assert scores.frechet(again.moments, first.moments) == pytest.approx(0, abs=1e-6)
    [file] = reals.cache.iterdir()
    file.write_bytes(file.read_bytes()[:-40])
    assert_array_equal(feature_summaries.load_reference(net, reals, kept).kept_features, first.kept_features)
    assert len(calls) == 2 * seen
    feature_summaries.load_reference(net, reals, kept)
    assert len(calls) == 2 * seen


@pytest.mark.parametrize(
    "change",
    [
        {"chosen": np.arange(30)},
        {"index": INDEX | {"pixels": "q"}},
        {"sha256": "another"},
        {"kept": np.arange(20)},
        {"kept": np.arange(10, 30)},
        {"backend": "gpu"},
    ],
    ids=str,
)
def test_cache_is_not_used_for_another_score(tmp_path, monkeypatch, change):
    reals, kept = RealImages(IMAGES, np.arange(0, 60, 2), INDEX, tmp_path), np.arange(10)
    feature_summaries.load_reference(network()[0], reals, kept)
    net, calls = network(change.get("sha256", "one"))
    changed = {name: value for name, value in change.items() if name in RealImages._fields}
    if "backend" in change:
        monkeypatch.setattr(feature_summaries.jax, "default_backend", lambda: change["backend"])
    feature_summaries.load_reference(net, reals._replace(**changed), change.get("kept", kept))
    assert calls


def test_unwritable_cache_only_costs_time(tmp_path):
    (tmp_path / "file").write_text("")
    net, _ = network()
    reals = RealImages(IMAGES, np.arange(30), INDEX, tmp_path / "file" / "x")
    assert len(feature_summaries.load_reference(net, reals, np.arange(30)).kept_features) == 30
