"""Scores, confidence intervals, differences, nearest neighbours and probes of `evaluate`."""

import json

import numpy as np
import pytest
from evaluations import evaluate_run
from PIL import Image
from toy_run import DATA, get_refusal, refuse_column, run_command, train_toy

import dcgan_jax
from dcgan_jax import evaluate, sample
from dcgan_jax.quality.scores import compute_moments, frechet
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run import feature_summaries, image_sets, random_choices

pytestmark = pytest.mark.integration


def test_too_few_images_for_a_network_are_one_line(run, net):
    assert "need at least 12 images" in get_refusal(evaluate, "--run", run, "--count", 11, "--features", net)
    assert "need at least 98 images" in get_refusal(evaluate, "--run", run, "--count", 40, "--features", net, "--infinity")
    few = net.replace("features", "three_each")
    assert "need at least 20 images" in get_refusal(evaluate, "--run", run, "--count", 15, "--features", few, "--infinity")


@pytest.fixture
def twins(tmp_path):
    """Images in sorted order, each beside a copy that differs in one pixel."""
    ones = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    ones[20:] //= 4
    images = ones.repeat(2, 0)
    images[::2, 0, 0] = 0
    np.save(tmp_path / "twins.npy", images)
    return tmp_path / "twins.npy"


def test_floor_is_not_lowered_by_near_duplicates(net, twins):
    """Nor by any other likeness of neighbours in a sorted set: with every second image in each half it would be almost 0."""
    for score in dcgan_jax.evaluate(twins, data=twins, count=80, features=net).scores:
        assert score.floor_count == 40
        alternating = np.load(twins)[::2], np.load(twins)[1::2]
        if not score.network:
            assert score.floor > 3 * sliced_wasserstein(*alternating)["mean"]
        else:
            assert score.floor > 10 * frechet(*(compute_moments(score.network.features(half)) for half in alternating))


def test_scores_of_many_images_use_a_random_part(net, twins, monkeypatch):
    """The real images are sorted. Scores of pairs use 20 of 80, which must not be the first 20."""
    monkeypatch.setattr(random_choices, "MAX_KEPT", 20)
    seen, real_scores = [], feature_summaries.compute_feature_scores

    def spy(real, fake, seed):
        seen.append((real.kept_features, fake.kept_features))
        return real_scores(real, fake, seed)

    monkeypatch.setattr(feature_summaries, "compute_feature_scores", spy)
    for infinity in (False, True):
        few = net.replace("features", "three_each") if infinity else net
        patches, by_features = dcgan_jax.evaluate(twins, data=twins, count=80, features=few, infinity=infinity).scores
        assert (patches.kept_count, by_features.kept_count, by_features.count) == (20, 20, 80)
        assert patches.floor_count == 10 and by_features.floor_count == (40 if infinity else 10)
        for some in seen.pop():
            dark = np.sum(some.mean(1) < 64)  # the second half of the set
            assert len(some) == 20 and 3 < dark < 17


def test_neighbours_look_at_all_of_a_sorted_set(run, monkeypatch):
    """Parts of the training images, and the held-out images of a large set, are random."""
    monkeypatch.setattr(feature_summaries, "PART", 4)
    seen, real_parts = [], feature_summaries.iterate_parts

    def spy(images, positions):
        seen.append(positions)
        return real_parts(images, positions)

    monkeypatch.setattr(feature_summaries, "iterate_parts", spy)
    _, lines = evaluate_run(run, "--count", 20, "--neighbours")
    [positions] = seen
    assert len(set(positions)) == 81 and max(positions[:4]) > 20
    assert lines[-1]["values"]["pixels"]["held_out_count"] == 2


def test_difference_of_two_sides_is_classified(run, net, tmp_path):
    """The message says so if a difference is within the noise."""
    assert run_command(sample, "--run", run, "--seed", 500, "--count", 60, "--out", tmp_path / "others.npy").code == 0
    question = ["--count", 20, "--repeats", 3, "--features", net, "--data", DATA]
    said, _ = evaluate_run(run, "--against", tmp_path / "others.npy", *question)
    assert said.count("noise") == 2
    assert "more than" not in said
    np.save(tmp_path / "black.npy", np.zeros((60, 16, 16, 3), np.uint8))
    said, _ = evaluate_run(run, "--against", tmp_path / "black.npy", *question)
    assert f"features: {run} - {tmp_path / 'black.npy'}: -" in said
    assert said.count("more than the noise") == 2
    assert "(95 % of 3 sets)" in said


def test_neighbours_give_a_figure_and_numbers(run, net):
    said, lines = evaluate_run(run, "--count", 40, "--features", net, "--neighbours")
    values = lines[-1]["values"]
    assert lines[-1]["score"] == "memorisation" and values.keys() == {"pixels", net}
    assert values["pixels"]["training_count"] == 81 and values["pixels"]["held_out_count"] == 4
    assert all(found["to_training_over_to_held_out"] > 0.5 for found in values.values())
    with Image.open(run / "neighbours.png") as picture:
        assert picture.width > 3.8 * picture.height  # twelve faces, each with two neighbours below
    assert "neighbours.png" in said


def test_probe_compares_d_with_baselines(run, monkeypatch):
    """A column of the table that is not understood does not stop it."""
    monkeypatch.setattr(image_sets, "open_training_images", refuse_column(image_sets.open_training_images))
    said, lines = evaluate_run(run, "--count", 20, "--probe")
    values = lines[-1]["values"]
    assert (lines[-1]["score"], lines[-1]["fitted"], lines[-1]["tested"]) == ("probe", 56, 29)
    assert values["mean"].keys() == {"D", "untrained D", "pixels", "most frequent"}
    assert all(0 <= share <= 1 for one in values["accuracy"].values() for share in one.values())
    assert "balanced mean" in said and all(name in said for name in values["accuracy"]["D"])


def test_accuracy_without_tested_images_is_null(tmp_path):
    """JSON has no NaN, so the value is null."""
    assert train_toy(tmp_path, "--condition", "Smiling,Goatee", "--no-tensorboard", steps=4).code == 0
    run = tmp_path / "article"
    flags = ("--run", run, "--condition-accuracy", "--data", "drawn:20")
    assert run_command(evaluate, *flags, "--count", 20).code == 0
    line = json.loads((run / "scores.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert line["values"]["real images"]["Goatee"] is None
    assert line["values"]["real images"]["Smiling"] >= 0
    assert "--data: 10 drawn faces: too few" in get_refusal(evaluate, *flags[:-1], "drawn:10", "--count", 10)
