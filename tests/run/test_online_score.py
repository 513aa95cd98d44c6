import json

import numpy as np
import pytest
from noise_features import IMAGES, INDEX, network
from numpy.testing import assert_allclose

from dcgan_jax.config import Config, UserError, replace
from dcgan_jax.run import feature_summaries, online_score, random_choices
from dcgan_jax.run.feature_summaries import RealImages
from dcgan_jax.run.online_score import OnlineScorer
from dcgan_jax.run.report_summary import name_measure


def scorer(run, index=INDEX, **changes):
    config = replace(Config(), size=16, batch_size=10, score_every_kimg=0.1, score_count=30, **changes)
    reals = RealImages(IMAGES, np.arange(30), index, run / "references")
    return OnlineScorer(config, run, reals, lambda params, stats, seeds: np.roll(IMAGES, params, 0)[seeds])


def test_scores_are_taken_at_their_steps_and_the_end(tmp_path):
    is_due = scorer(tmp_path).is_due
    assert [step for step in range(1, 36) if is_due(range(step - 1, step), 35)] == [10, 20, 30, 35]
    assert [stop for stop in range(4, 37, 4) if is_due(range(stop - 4, stop), 99)] == [12, 20, 32]  # several steps per dispatch


def test_scores_stay_within_their_time_share(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(online_score.time, "monotonic", lambda: now[0])
    real = online_score.sliced_wasserstein

    def slow(*args):
        now[0] += 6
        return real(*args)

    monkeypatch.setattr(online_score, "sliced_wasserstein", slow)
    ours = scorer(tmp_path)
    assert ours.has_time()
    message = ours.score(10, 1, {})
    assert "scores took 100.0% of the time so far" in message
    assert not ours.has_time()
    now[0] = 239
    assert not ours.has_time()
    now[0] = 240
    assert ours.has_time()  # together 12 s of 240, which is 5 %


@pytest.mark.parametrize(
    "code, words",
    [
        ("import no_such_package", "No module named 'no_such_package'"),
        ("def f(x): return x", r"returned uint8 \(50, 16, 16, 3\)"),
        ("import numpy\ndef f(x): return numpy.full((50, 2), numpy.nan)", "returned a NaN"),
    ],
)
def test_invalid_network_is_named_before_any_step(tmp_path, code, words):
    (tmp_path / "net.py").write_text(code)
    with pytest.raises(UserError, match=words):
        scorer(tmp_path, score_by=f"{tmp_path}/net.py:f")


def test_best_step_compares_equal_scores_that_exist(tmp_path):
    """It compares only scores of the same measure, and only steps that have a checkpoint."""
    assert online_score.find_best_step(tmp_path) is None and online_score.read_score_curve(tmp_path) == {}
    ours = scorer(tmp_path)
    for step, shift in ((10, 3), (20, 0), (30, 5)):
        ours.score(step, shift, {})
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    curve = online_score.read_score_curve(tmp_path)
    assert curve[20] == 0 and online_score.find_best_step(tmp_path) == 20  # the same images
    (tmp_path / "checkpoints" / "20").rmdir()
    assert online_score.find_best_step(tmp_path) == min((10, 30), key=curve.get)
    with (tmp_path / "scores.jsonl").open("a") as lines:  # evaluate, a crash or a stranger may add lines
        lines.write('{"score": "features", "step": 10}\n[1]\n{"score": "training", "step": "x", "value": 1.0}\n{"sco\n')
    assert online_score.read_score_curve(tmp_path) == curve
    other = json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0]) | {"count": 31, "value": -1.0, "step": 30}
    with (tmp_path / "scores.jsonl").open("a") as lines:
        lines.write(json.dumps(other) + "\n")
    assert online_score.read_score_curve(tmp_path) == {30: -1.0}


def test_best_step_is_kept_when_files_have_moved(tmp_path):
    """A resumed run may find its images and its network in another folder: copied images have another fingerprint."""
    code = "def f(x): return x.reshape(len(x), 16, -1).mean(2).astype('float32')"
    for place, index, step, shift in (("here", INDEX, 10, 0), ("there", INDEX | {"fingerprint": "g"}, 20, 3)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "net.py").write_text(code)
        scorer(tmp_path, index, score_by=f"{tmp_path / place}/net.py:f").score(step, shift, {})
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    assert set(online_score.read_score_curve(tmp_path)) == {10, 20}
    assert online_score.find_best_step(tmp_path) == 10  # the same images
    other_function = json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0]) | {"by": "net.py:g", "step": 30}
    with (tmp_path / "scores.jsonl").open("a") as lines:
        lines.write(json.dumps(other_function) + "\n")
    assert set(online_score.read_score_curve(tmp_path)) == {30}


def test_score_by_inception_is_named_fid_without_its_path(tmp_path, monkeypatch):
    net = network()[0]._replace(name="inception")
    monkeypatch.setattr(online_score, "open_feature_network", lambda place, argument: net)
    message = scorer(tmp_path, score_by="/home/me/pt_inception.pth").score(10, 0, {})
    [line] = online_score.read_score_lines(tmp_path)
    assert line["by"] == "inception" and name_measure(line) == "FID"
    assert "/home/me" not in message + json.dumps(line)


def test_score_by_features_generates_in_parts(tmp_path, monkeypatch):
    """All samples at once would be gigabytes. The parts give the same score."""
    monkeypatch.setattr(online_score, "open_feature_network", lambda place, argument: network()[0])
    whole = scorer(tmp_path, score_by="net.py:f")
    whole.score(10, 3, {})
    sizes = []
    monkeypatch.setattr(feature_summaries, "PART", 7)
    parts = scorer(tmp_path, score_by="net.py:f")
    generate = parts.generate
    parts.generate = lambda params, stats, seeds: sizes.append(len(seeds)) or generate(params, stats, seeds)
    parts.score(20, 3, {})
    assert max(sizes) <= 7 and sum(sizes) == 30
    curve = online_score.read_score_curve(tmp_path)
    assert_allclose(curve[10], curve[20], rtol=1e-9)


def test_sliced_wasserstein_uses_a_bounded_number_of_images(tmp_path, monkeypatch):
    """Patches of more images would be gigabytes. The line and the message say how many were used."""
    sizes = []
    monkeypatch.setattr(random_choices, "MAX_KEPT", 20)
    ours = scorer(tmp_path)
    generate = ours.generate
    ours.generate = lambda params, stats, seeds: sizes.append(len(seeds)) or generate(params, stats, seeds)
    message = ours.score(10, 3, {})
    [line] = online_score.read_score_lines(tmp_path)
    assert sizes == [20] and line["count"] == 20 and "N 20 (" in message
