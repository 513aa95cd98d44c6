"""Evaluations of a run's samples, or of images. Each is a function that returns numbers; the command `evaluate` prints them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from dcgan_jax.config import Config, UserError
from dcgan_jax.data.batches import permute_epoch, select_held_out, select_training
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.pack import Pack, read_all_labels, read_labels
from dcgan_jax.gan.logits import make_extract_features
from dcgan_jax.gan.state import init_state
from dcgan_jax.quality import intervals, memorisation, scores
from dcgan_jax.quality.linear_probe import TESTED, fit_and_score_probe, fit_probe, score_probe, split_fit_and_test
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run import feature_summaries
from dcgan_jax.run.feature_nets import FeatureNetwork
from dcgan_jax.run.image_sets import ImageSet
from dcgan_jax.run.random_choices import choose_kept, split_halves

SHOWN = 12  # samples shown with their nearest training images


class Comparison(NamedTuple):
    """What all parts of one evaluation share."""

    real: Pack
    chosen: np.ndarray  # (count,) positions of the real images that are used
    networks: list[FeatureNetwork]
    count: int  # images from each side
    seed: int  # of the scores' random choices; also the first seed of the samples
    infinity: bool

    @property
    def kept(self) -> np.ndarray:
        """Positions, among those of each side, of the images that are used where all would be too many: ascending."""
        return choose_kept(self.seed, self.count)

    @property
    def real_facts(self) -> dict:
        return {"real": self.real.index["source"]["name"], "real_fingerprint": self.real.index["fingerprint"]}


# ---- Distances ----


class Score(NamedTuple):
    """A distance between a set of images and real images. Smaller is better. Compare only at equal count and size."""

    name: str  # of the run or the images that are scored
    kind: str  # sliced_wasserstein_x1e3, inception or features
    value: float  # the main entry of `values`
    values: dict[str, float]
    floor: float  # the score of one half of the real images against the other
    floor_count: int  # images in each half
    count: int  # images from each side
    kept_count: int  # images used for KID, precision, recall, density and coverage, or for patches
    seeds: range  # of a run's samples; for images, their positions in random order
    step: int | None  # the checkpoint's step; None for images
    network: FeatureNetwork | None = None
    feature_count: int = 0  # D, the network's features per image


def score_sliced_wasserstein(of: Comparison, fake: ImageSet, first: int) -> Score:
    """Computes the sliced Wasserstein distance x1e3 per pyramid level. It measures texture and shape, not brightness."""
    real, images = of.real.images[of.chosen[of.kept]], fake.get(first + of.kept)  # patches of more would take gigabytes
    values = sliced_wasserstein(real, images, seed=of.seed)
    one, other = split_halves(of.seed, len(real))
    floor = sliced_wasserstein(real[one], real[other], seed=of.seed)["mean"]
    seeds = range(first, first + of.count)
    kind, value = "sliced_wasserstein_x1e3", round(values["mean"], 3)
    return Score(fake.name, kind, value, values, floor, len(one), of.count, len(real), seeds, fake.step)


def score_features(of: Comparison, network: FeatureNetwork, fake: ImageSet, first: int) -> Score:
    """Computes Frechet distance (FID with the Inception), KID, precision, recall, density and coverage on a network's features.

    Raises: UserError if there are too few images for the distance at infinity.
    """
    kept = np.arange(of.count) if of.infinity else of.kept
    images = feature_summaries.RealImages(of.real.images, of.chosen, of.real.index, get_cache_dir() / "references")
    real = feature_summaries.load_reference(network, images, kept)
    feature_count = real.kept_features.shape[1]
    least = scores.count_least_at_infinity(feature_count)
    if of.infinity and of.count < least:
        raise UserError(
            f"`infinity` `count` {of.count}: {network.name} has {feature_count} features, which need at least {least} images"
        )

    def parts() -> Iterator[np.ndarray]:
        for some in feature_summaries.split_parts(np.arange(of.count)):
            yield fake.get(first + some)

    found = feature_summaries.summarise_features(network, parts(), kept)
    few_real, few_found = real, found
    if of.infinity:
        few_real, few_found = (one._replace(kept_features=one.kept_features[of.kept]) for one in (real, found))
    values = feature_summaries.compute_feature_scores(few_real, few_found, of.seed)
    halves = split_halves(of.seed, len(real.kept_features))
    floor = scores.frechet(*(scores.compute_moments(real.kept_features[half]) for half in halves))
    if of.infinity:
        values["frechet_at_infinity"] = scores.frechet_at_infinity(real.moments, found.kept_features, seed=of.seed)
    return Score(
        name=fake.name,
        kind="inception" if network.name == "inception" else "features",
        value=values["frechet"],
        values=values,
        floor=floor,
        floor_count=len(halves[0]),
        count=of.count,
        kept_count=len(few_found.kept_features),
        seeds=range(first, first + of.count),
        step=fake.step,
        network=network,
        feature_count=feature_count,
    )


class Interval(NamedTuple):
    """The mean of a score over sets of different seeds or images, and half the width of its 95 % interval."""

    name: str
    kind: str
    mean: float
    half: float
    sets: int


class Difference(NamedTuple):
    """The first set's mean score minus the second's, and half the width of its 95 % interval."""

    kind: str
    names: tuple[str, str]
    gap: float
    half: float

    @property
    def is_noise(self) -> bool:
        """Whether the choice of seeds alone may explain it. The noise of training is not included; it takes several runs."""
        return abs(self.gap) <= self.half


def compute_intervals(found: list[Score]) -> list[Interval]:
    """Computes an interval for each kind of score of each set that was scored more than once."""
    groups = _group_values(found)
    return [
        Interval(name, kind, *intervals.compute_interval(values), len(values))
        for (kind, name), values in groups.items()
        if len(values) > 1
    ]


def compute_differences(found: list[Score]) -> list[Difference]:
    """Computes a difference for each kind of score, if two sets were scored more than once."""
    groups = _group_values(found)
    differences = []
    for kind in dict.fromkeys(kind for kind, _ in groups):
        by_name = {name: values for (of, name), values in groups.items() if of == kind}
        if len(by_name) == 2 and min(map(len, by_name.values())) > 1:
            (one, of_one), (other, of_other) = by_name.items()
            gap, half = intervals.compute_interval_of_difference(of_one, of_other)
            differences.append(Difference(kind, (one, other), gap, half))
    return differences


def _group_values(found: list[Score]) -> dict[tuple[str, str], list[float]]:
    groups: dict[tuple[str, str], list[float]] = {}
    for score in found:
        groups.setdefault((score.kind, score.name), []).append(score.value)
    return groups


# ---- Memorisation ----


class Neighbours(NamedTuple):
    """Distances of a run's samples to its training images, relative to held-out images."""

    name: str
    samples: int
    values: dict[str, dict]  # "pixels" and each network's name -> ratios and counts
    images: np.ndarray  # (rows * SHOWN at most, S, S, C): a row of the samples nearest to a training image; below, their nearest
    columns: int  # of those images


def find_neighbours(of: Comparison, run: ImageSet) -> Neighbours:
    """Finds the training images nearest to the run's samples. Raises: UserError if the run has no held-out images."""
    assert run.config, "the images are no run's"
    images, most = of.real.images, run.config.guard.held_out
    training, fresh = select_training(len(images), most), select_held_out(len(images), most)
    if not len(fresh):
        raise UserError(f"`neighbours`: {run.name} has no held-out images to compare with (`held_out` {most} of {len(images)})")
    # In random order, so that each part of the training images, and some of the held-out ones, are like all of them.
    training = training[permute_epoch(of.seed, 0, len(training))]
    fresh = fresh[permute_epoch(of.seed, 0, len(fresh))]
    fresh = fresh[: min(feature_summaries.PART // 2, len(training))]  # each part of the training images has at least as many
    samples = run.get(of.seed + np.arange(min(of.count, feature_summaries.PART)))
    # For a network's features, as many training images as samples: all would take hours.
    few = training[: max(of.count, len(fresh))]
    spaces = {"pixels": (lambda some: some.reshape(len(some), -1).astype(np.float32) / 255, training)}
    spaces |= {network.name: (network.features, few) for network in of.networks}
    found = {
        name: memorisation.measure_memorisation(
            see(samples),
            see(images[fresh]),
            (see(some) for some in feature_summaries.iterate_parts(images, looked_at)),
            seed=of.seed,
        )
        for name, (see, looked_at) in spaces.items()
    }
    values = {
        name: {
            "to_training_over_to_held_out": found[name].ratio,
            "samples_over_held_out_to_training": found[name].to_training,
            "training_count": len(looked_at),
            "held_out_count": len(fresh),
        }
        for name, (_, looked_at) in spaces.items()
    }
    suspicious = np.argsort(found["pixels"].distances, kind="stable")[:SHOWN]
    rows = [samples, *(images[looked_at[found[name].nearest]] for name, (_, looked_at) in spaces.items())]
    return Neighbours(run.name, len(samples), values, np.concatenate([row[suspicious] for row in rows]), len(suspicious))


# ---- D as a representation ----


class ProbeScores(NamedTuple):
    """Accuracy of linear probes on images that they were not fitted to. D was trained on most of them, without attributes."""

    fitted: int
    tested: int
    accuracy: dict[str, dict[str, float]]  # D, untrained D, pixels, most frequent -> attribute -> share
    mean: dict[str, float]
    balanced_mean: dict[str, float | None]  # None if no attribute varies among the tested images


def probe_discriminator(of: Comparison, run: ImageSet) -> ProbeScores:
    """Scores linear probes of the images' attributes on D's features, on those of an untrained D and on pixels."""
    assert run.config, "the images are no run's"
    fit, test = _split_real(of)
    names, values = read_all_labels(of.real)
    images = of.real.images
    views = {
        "D": _see_by(run.config, *run.restore_discriminator()),
        "untrained D": _see_by_untrained(run.config),
        "pixels": _see_pixels,
    }
    found = {
        name: fit_and_score_probe(see(images[fit]), values[fit], see(images[test]), values[test]) for name, see in views.items()
    }
    accuracy = {name: dict(zip(names, map(float, one.accuracy), strict=True)) for name, one in found.items()}
    accuracy["most frequent"] = dict(zip(names, map(float, found["D"].most_frequent), strict=True))
    means = {name: float(np.mean(list(shares.values()))) for name, shares in accuracy.items()}
    balanced = {name: None if np.isnan(one.balanced).all() else float(np.nanmean(one.balanced)) for name, one in found.items()}
    return ProbeScores(len(fit), len(test), accuracy, means, balanced)


def _split_real(of: Comparison) -> tuple[np.ndarray, np.ndarray]:
    index = of.real.index
    try:
        return split_fit_and_test(permute_epoch(of.seed, 0, len(of.real.images)), index["attributes"], index["source"]["name"])
    except ValueError as fault:
        raise UserError(f"`data`: {fault}") from None


def _see_by(config: Config, params: dict, stats: dict) -> Callable[[np.ndarray], np.ndarray]:
    program = jax.jit(make_extract_features(config))

    def see(images: np.ndarray) -> np.ndarray:
        parts = np.array_split(images, -(-len(images) // 100))
        return np.concatenate([np.asarray(program(params, stats, part)) for part in parts])

    return see


def _see_by_untrained(config: Config) -> Callable[[np.ndarray], np.ndarray]:
    state = jax.jit(lambda: init_state(config))()
    return _see_by(config, state.d_params, state.d_stats)


def _see_pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / np.float32(255)


# ---- Conditions ----


class ConditionScores(NamedTuple):
    """How often samples have the requested attributes: balanced accuracy of a linear probe fitted to real images."""

    name: str
    by: str  # the features that the probe uses
    fitted: int
    tested: int
    samples: int
    values: dict[str, dict[str, float | None]]  # "samples", "real images" -> attribute -> value; None: all are alike


def check_conditions(of: Comparison, run: ImageSet) -> ConditionScores:
    """Scores whether samples have the requested attributes. Raises: UserError if the run is not conditional."""
    assert run.config, "the images are no run's"
    names = run.config.nets.conditions
    if not names:
        raise UserError(f"`condition_accuracy`: {run.name} was trained without `condition`")
    fit, test = _split_real(of)
    labels = read_labels(of.real, run.config.nets.condition)[1]
    if of.networks:
        by, see = of.networks[-1].name, of.networks[-1].features
    else:
        by, untrained = "an untrained D and pixels", _see_by_untrained(run.config)

        def see(images: np.ndarray) -> np.ndarray:
            return np.concatenate([untrained(images), _see_pixels(images)], 1)

    images = of.real.images
    margins = fit_probe(see(images[fit]), labels[fit])
    seeds = of.seed + np.arange(min(of.count, TESTED))
    requested = run.get_labels(seeds)
    assert requested is not None  # the run is conditional
    found = {
        "samples": score_probe(margins(see(run.get(seeds))), requested, labels[fit]),
        "real images": score_probe(margins(see(images[test])), labels[test], labels[fit]),
    }
    balanced = {  # JSON has no NaN, the value if all or none of the tested images have an attribute
        kind: {name: None if np.isnan(value) else float(value) for name, value in zip(names, one.balanced, strict=True)}
        for kind, one in found.items()
    }
    return ConditionScores(run.name, by, len(fit), len(test), len(seeds), balanced)
