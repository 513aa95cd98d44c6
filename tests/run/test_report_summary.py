import json
import math
import shutil

import pytest
from numpy.testing import assert_allclose

from dcgan_jax.config import Config, flatten, replace
from dcgan_jax.files import write_json
from dcgan_jax.run import compact
from dcgan_jax.run.report_scores import find_evaluated
from dcgan_jax.run.report_summary import (
    describe_images_shown,
    describe_uncounted_images,
    estimate_training_s,
    find_median_speed,
    format_duration,
    list_facts,
)


def log_sessions(*sessions):
    """Makes the columns of metrics.jsonl. A session is [(seconds, images)] of its lines, from the end of the first dispatch."""
    images, speeds, start = [], [], 0
    for lines in sessions:
        images += [start + count for _, count in lines]
        speeds += [count / seconds if seconds else math.nan for seconds, count in lines]
        start = images[-1]
    return {"images": images, "images_per_s": speeds}


def test_training_time_is_exact_where_speed_changes():
    """With progressive growing the speed falls during a run. The estimate sums time, not mean speeds."""
    assert_allclose(estimate_training_s(log_sessions([(0, 10), (1, 310), (2, 610), (12, 910)])), 12 * 900 / 910, rtol=0.02)
    assert_allclose(estimate_training_s(log_sessions([(1, 300), (2, 600), (12, 900)])), 12)


def test_training_time_adds_resumed_sessions():
    slow, fast = [(10, 100), (20, 200)], [(1, 100), (2, 200)]
    assert_allclose(estimate_training_s(log_sessions(slow, fast)), 22)
    assert_allclose(estimate_training_s(log_sessions(fast, [(0, 0), *slow])), 22)  # the first dispatch has no speed


def test_training_time_adds_a_session_that_is_slower():
    fast, slow = ([(seconds * i, 100 * i) for i in range(1, 21)] for seconds in (1, 2))
    assert_allclose(estimate_training_s(log_sessions(fast, slow)), 60)


@pytest.mark.parametrize("speeds", [[], [math.nan] * 2, [0.0, 0.0], [-1.0, 1e-300], [math.inf, math.nan]])
def test_unknown_speed_is_no_training_time(speeds):
    assert estimate_training_s({"images": [1, 2], "images_per_s": speeds}) is None


def test_median_speed_skips_lines_without_one():
    assert find_median_speed({"images_per_s": [math.nan, 10.0, 30.0, 20.0]}) == 20
    assert find_median_speed({"images_per_s": [math.nan]}) is None and find_median_speed({}) is None


@pytest.mark.parametrize(
    "seconds, words", [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1 h 30 min"), (93900, "26 h 05 min")]
)
def test_duration_has_a_readable_unit(seconds, words):
    assert format_duration(seconds) == words


def test_first_screen_of_a_run_without_numbers(tmp_path):
    facts = {fact.label: (fact.value, fact.note) for fact in list_facts(tmp_path, 0, 128, {}, "")}
    assert facts["Images shown"] == ("0", "128 a step") and facts["Training time"] == ("not measured", "no speed was logged")
    assert facts["Score"][0] == "none yet" and "--score-every-kimg" in facts["Score"][1]


def test_first_screen_has_time_and_score(tmp_path):
    line = {"score": "training", "step": 5, "value": 12.345, "by": "sliced-wasserstein", "sha256": "", "count": 2000}
    (tmp_path / "scores.jsonl").write_text(json.dumps(line) + "\n")
    metrics = log_sessions([(10, 1000), (600, 60000)])
    facts = {fact.label: (fact.value, fact.note) for fact in list_facts(tmp_path, 10, 128, metrics, "1 x cpu")}
    assert facts["Training time"] == ("about 10 min", "100 images a second on 1 x cpu")
    assert facts["Best score in training"] == ("12.35", "sliced Wasserstein x1000, N 2000, step 5; smaller is better")
    assert "Score" not in facts


def test_headline_score_is_the_best_comparable_fid(tmp_path):
    of = {"step": 1, "count": 5000, "real": "r", "real_fingerprint": "0", "score": "inception"}
    lines = [
        of | {"count": 1000, "values": {"frechet": 1.0}},
        of | {"values": {"frechet": 30.0}},
        of | {"step": 2, "values": {"frechet": 40.0}},
        of | {"score": "sliced_wasserstein_x1e3", "values": {"mean": 5.0}},
        of | {"values": {"frechet": math.nan}},
    ]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = find_evaluated(tmp_path)
    assert found and (found.step, found.measure, found.count, found.value) == ("1", "FID", "5000", "30")


def test_low_resolution_stage_is_part_of_the_story(tmp_path):
    """Progressive growing: the report counts images and time of the first stage too."""
    stage = tmp_path / compact.LOW_RESOLUTION
    stage.mkdir()
    write_json(stage / "config.json", flatten(replace(Config(), size=32, steps=2)))
    lines = [{"step": step, "images": 100 * step, "images_per_s": 10.0} for step in (1, 2)]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {fact.label: fact.note for fact in list_facts(tmp_path, 10, 128, {}, "")}
    assert facts["Images shown"] == "128 a step; before, 200 at 32 px"
    assert facts["Training time"] == "no speed was logged; before, about 20 s at 32 px"
    assert describe_images_shown(tmp_path, 1280) == "1,280, after 200 at 32 px"
    assert describe_uncounted_images([tmp_path / "plain", tmp_path]).endswith(f"(before: {tmp_path.name} 200 at 32 px)")
    assert describe_uncounted_images([tmp_path / "plain"]) == ""
    earlier = stage / compact.LOW_RESOLUTION
    earlier.mkdir()
    write_json(earlier / "config.json", flatten(replace(Config(), size=16, steps=2)))
    (earlier / "metrics.jsonl").write_text(json.dumps({"step": 1, "images": 3000, "images_per_s": 1000.0}) + "\n")
    assert describe_images_shown(tmp_path, 1280) == "1,280, after 3,000 at 16 px and 200 at 32 px"
    assert describe_images_shown(stage, 200) == "200, after 3,000 at 16 px"
    notes = [fact.note for fact in list_facts(tmp_path, 10, 128, {}, "")]
    assert "no speed was logged; before, about 3 s at 16 px and 20 s at 32 px" in notes
    shutil.rmtree(earlier)
    (stage / "metrics.jsonl").write_text("not JSON\n" + json.dumps(lines[0]) + "\n")
    assert describe_images_shown(tmp_path, 1280) == "1,280"  # a damaged stage does not stop the run that shows it
