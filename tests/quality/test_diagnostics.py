"""Each check warns on metrics and images made to fail it, and gives no warning on healthy ones."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dcgan_jax.quality.diagnostics import diagnose, measure_pairwise_distance

HEALTHY = {
    "d_loss": (0.5, 0.2),
    "g_loss": (2.2, 0.7),
    "d_real_hits": (0.93, 0.04),
    "d_fake_hits": (0.95, 0.04),
    "g_grad_norm": (18.0, 6.0),
}  # mean and standard deviation of `article` on drawn faces


def columns(lines=60, every=10, batch=128, **changes):
    """Columns of metrics.jsonl: independent normal numbers with the given (mean, sd), or the given arrays."""
    random = np.random.default_rng(0)
    given = HEALTHY | changes
    values = {name: each if isinstance(each, np.ndarray) else random.normal(*each, lines) for name, each in given.items()}
    for hits in ("d_real_hits", "d_fake_hits"):
        values[hits] = np.clip(values[hits], 0, 1)
    steps = every * np.arange(1, lines + 1)
    values = {"step": steps, "images": batch * steps} | values
    return {name: column.tolist() for name, column in values.items()}


def make_images(count=64, sd=50.0):
    return np.clip(np.random.default_rng(1).normal(128, sd, (count, 16, 16, 3)), 0, 255).astype(np.uint8)


def logits(mean, count=64, sd=1.0):
    return np.random.default_rng(2).normal(mean, sd, count).astype(np.float32)


def run_diagnosis(metrics=None, samples=None, real_logits=None, held_out_logits=None, **others):
    return diagnose(
        columns() if metrics is None else metrics,
        make_images() if samples is None else samples,
        make_images(),
        logits(2) if real_logits is None else real_logits,
        logits(1.9) if held_out_logits is None else held_out_logits,
        logits(-2),
        **others,
    )


WON = {"d_real_hits": (1, 0), "d_fake_hits": (1, 0), "d_loss": (0.005, 0.003), "g_loss": (7, 1), "g_grad_norm": (110, 35)}
FROZEN = {"d_loss": (1.27, 0.02), "g_loss": (1.03, 0.03), "g_grad_norm": (7.8, 0.18)}
ALIKE = np.clip(make_images(1) + np.random.default_rng(3).integers(0, 9, (64, 16, 16, 3)), 0, 255).astype(np.uint8)
MEMORISING = {"held_out_logits": logits(-1)}

FAILING = {
    "d-has-won": {"metrics": columns(**WON)},
    "losses-frozen": {"metrics": columns(**FROZEN)},
    "g-collapsed": {"samples": ALIKE},
    "memorising": MEMORISING,
}


def test_healthy_run_gives_no_warning():
    assert run_diagnosis() == {}


@pytest.mark.parametrize("kind", FAILING)
def test_each_diagnosis_is_one_line_with_a_remedy(kind):
    messages = run_diagnosis(**FAILING[kind])
    assert list(messages) == [kind]
    assert re.fullmatch(r"[^\n]*\d[^\n]*; (try|go back)[^\n]*", messages[kind])
    assert messages == run_diagnosis(**FAILING[kind])


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize(
    "young",
    [
        {"lines": 49},  # 490 steps
        {"lines": 60, "batch": 16},  # 9,600 images
        {"lines": 19, "every": 100},  # too few lines
    ],
    ids=["steps", "images", "lines"],
)
def test_too_few_lines_give_no_warning(kind, young):
    changes = {"d-has-won": WON, "losses-frozen": FROZEN}.get(kind, {})
    assert run_diagnosis(**(FAILING[kind] | {"metrics": columns(**changes, **young)})) == {}


def test_all_diagnoses_can_be_given_at_once():
    won_and_frozen = WON | {"g_grad_norm": (110, 1), "g_loss": (7, 0.01), "d_loss": (0.005, 0.001)}
    assert set(run_diagnosis(columns(**won_and_frozen), ALIKE, **MEMORISING)) == set(FAILING)


def test_only_the_last_500_steps_count():
    def after(lines, every=10):  # D has won in the first lines, then not
        values = {name: np.concatenate([np.full(lines, WON[name][0]), np.full(100, HEALTHY[name][0])]) for name in HEALTHY}
        noise = np.random.default_rng(0).normal(1, 0.3, lines + 100)
        return run_diagnosis(columns(lines + 100, every, **(values | {"g_grad_norm": values["g_grad_norm"] * noise})))

    def before(lines):  # D has won in the last lines only
        values = {name: np.concatenate([np.full(100, HEALTHY[name][0]), np.full(lines, WON[name][0])]) for name in HEALTHY}
        noise = np.random.default_rng(0).normal(1, 0.3, lines + 100)
        return run_diagnosis(columns(lines + 100, **(values | {"g_grad_norm": values["g_grad_norm"] * noise})))

    assert after(100) == {}
    assert before(45) == {}
    assert list(before(50)) == ["d-has-won"]


def test_sparse_lines_count_as_far_as_the_fewest():
    """If lines are rare, the window reaches back over the least number of lines."""
    assert "the last 1,900 steps" in run_diagnosis(columns(30, every=100, **WON))["d-has-won"]
    assert "the last 490 steps" in run_diagnosis(columns(300, every=10, **WON))["d-has-won"]


# ---- D has won


@pytest.mark.parametrize("change", [{"d_real_hits": (0.98, 0.01)}, {"d_fake_hits": (0.98, 0.01)}])
def test_d_that_errs_on_either_kind_has_not_won(change):
    assert run_diagnosis(columns(**(WON | change))) == {}


def test_d_has_won_gives_g_gradient_norms():
    """The warning names G's gradient norm now and at the start."""
    grows = np.linspace(40, 400, 60)
    assert re.search(
        r"100\.0% of real and 100\.0% of generated images correctly.* norm is 25\d, 98(\.\d)? at the start",
        run_diagnosis(columns(**(WON | {"g_grad_norm": grows})))["d-has-won"],
    )


@pytest.mark.parametrize("factor, kinds", [(1.0, []), (0.01, ["d-has-won"]), (100.0, ["d-has-won"])])
def test_wasserstein_d_has_won_only_if_g_has_no_gradient(factor, kinds):
    norms = np.random.default_rng(0).normal(30, 9, 100) * np.where(np.arange(100) < 25, 1, factor)
    assert list(run_diagnosis(columns(100, **(WON | {"g_grad_norm": norms, "d_loss": (-5, 2)})), loss="wasserstein")) == kinds


def test_lines_without_the_needed_numbers_are_skipped():
    for changes, names in ((WON, ("g_grad_norm", "d_real_hits", "d_fake_hits")), (FROZEN, ("g_grad_norm", "d_loss", "g_loss"))):
        assert run_diagnosis(columns(**(changes | {"g_grad_norm": np.full(60, np.nan)}))) == {}
        for name in names:
            metrics = columns(**changes)
            del metrics[name]
            assert run_diagnosis(metrics) == {}


# ---- G has collapsed


def test_pairwise_distance_by_hand():
    three = np.zeros((3, 2, 2, 1), np.uint8)
    three[1], three[2, 0] = 30, 40  # differ from the first by 30 everywhere, by 40 in one half
    between = np.sqrt((10**2 + 30**2) / 2)
    assert_allclose(measure_pairwise_distance(three), (30 + 40 / np.sqrt(2) + between) / 3, rtol=1e-12)


def test_pairwise_distance_ignores_order_and_shift():
    images = make_images(20, sd=20)
    assert measure_pairwise_distance(images) == measure_pairwise_distance(images[::-1])
    assert_allclose(measure_pairwise_distance(images + 10), measure_pairwise_distance(images), rtol=1e-12)


def test_third_of_the_real_variety_is_no_collapse():
    """An untrained G varies about as much; its samples differ by noise."""
    assert run_diagnosis(samples=make_images(sd=50 / 3)) == {}
    assert list(run_diagnosis(samples=make_images(sd=50 / 8))) == ["g-collapsed"]


def test_few_samples_or_equal_reals_give_no_warning():
    assert run_diagnosis(samples=ALIKE[:7]) == {}
    same = np.repeat(ALIKE[:1], 64, 0)
    for samples in (ALIKE, same):
        assert diagnose(columns(), samples, same, logits(2), logits(2), logits(-2)) == {}


# ---- frozen losses


def test_losses_that_still_fall_are_not_frozen():
    falling = FROZEN | {"g_loss": np.linspace(1.05, 1.0, 60)}
    assert run_diagnosis(columns(**falling)) == {}


@pytest.mark.parametrize(
    "loss, changes",
    [
        ("wasserstein", {"d_loss": (-0.4, 0.15), "g_loss": (0.46, 0.13)}),
        ("hinge", {"d_loss": (1.65, 0.14), "g_loss": (0.0, 0.12)}),
    ],
)
def test_frozen_is_detected_despite_noisy_losses(loss, changes):
    assert list(run_diagnosis(columns(**(FROZEN | changes)), loss=loss)) == ["losses-frozen"]


def test_g_without_gradient_is_frozen():
    dead = {"d_loss": np.zeros(60), "g_loss": np.full(60, 3.0), "g_grad_norm": np.zeros(60)}
    assert list(run_diagnosis(columns(**dead))) == ["losses-frozen"]


# ---- memorising


@pytest.mark.parametrize("unseen, kinds", [(1.9, []), (0.5, []), (-0.5, ["memorising"]), (-2.0, ["memorising"])])
def test_overfitting_starts_half_way_to_samples(unseen, kinds):
    """Warns once the mean held-out logit is at least half way from that of training images to that of samples."""
    assert list(run_diagnosis(held_out_logits=logits(unseen))) == kinds


def test_overfitting_gives_hit_rates_and_r_v():
    # The boundary is 0, the middle of 2 and -2: two sd below the mean of training images, one above that of held-out images.
    assert re.search(
        r"9[5-9]% of training .* only 1\d% of held-out ones \(r_v 0\.75\)", run_diagnosis(**MEMORISING)["memorising"]
    )


def test_difference_within_noise_gives_no_warning():
    wide = {"real_logits": logits(0.2, 64, sd=3), "held_out_logits": logits(-1.5, 12, sd=3)}
    assert run_diagnosis(**wide) == {}


def test_under_eight_held_out_images_give_no_warning():
    assert run_diagnosis(held_out_logits=logits(-2, 7)) == {}
    assert run_diagnosis(held_out_logits=logits(0, 0)) == {}
    assert list(run_diagnosis(held_out_logits=logits(-2, 8))) == ["memorising"]


def test_d_that_prefers_samples_gives_no_warning():
    assert diagnose(columns(), make_images(), make_images(), logits(0), logits(-2), logits(3)) == {}
