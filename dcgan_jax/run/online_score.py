"""Features of sets of images, computed in parts to bound memory, and the scores of a run during training."""

import hashlib
import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np

from dcgan_jax.config import Config, UserError
from dcgan_jax.files import atomic_write
from dcgan_jax.quality import scores
from dcgan_jax.quality.scores import Moments
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run.checkpoints import list_steps
from dcgan_jax.run.feature_nets import FeatureNetwork, open_feature_network
from dcgan_jax.run.random_choices import choose_kept

PART = 1000  # images at a time
REFERENCE_VERSION = 2  # increase it when the same key would hold other features
REFERENCE_ARRAYS = ("count", "mean", "covariance", "some")


class RealImages(NamedTuple):
    """Real images to compare with."""

    images: np.ndarray  # (N, S, S, C) uint8, a memory map
    chosen: np.ndarray  # positions of those that are used
    index: dict  # the pack's
    cache: Path  # folder for their features


class FeatureSummary(NamedTuple):
    """A network's features of a set."""

    moments: Moments  # of all images
    some: np.ndarray  # (K, D) float32: of some images; 80 MB for 10,000 with the Inception


def summarise_features(network: FeatureNetwork, parts: Iterable[np.ndarray], kept: np.ndarray) -> FeatureSummary:
    """Computes the features of a set.

    Args: parts, (n, S, S, C) uint8 each, n at least 2; kept, (K,) ascending positions in the set of the features to keep.
    """
    moments, some, start = None, [], 0
    for part in parts:
        features = network.features(part)
        part_moments = scores.compute_moments(features)
        moments = scores.merge_moments(moments, part_moments) if moments else part_moments
        first, last = np.searchsorted(kept, (start, start + len(part)))
        some.append(features[kept[first:last] - start])
        start += len(part)
    assert moments  # there was a part
    return FeatureSummary(moments, np.concatenate(some))


def iterate_parts(images: np.ndarray, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the chosen rows of a memory map in order, about PART at a time."""
    for some in split_parts(chosen):
        yield images[some]


def split_parts(positions: np.ndarray) -> list[np.ndarray]:
    """Splits positions into parts of nearly equal size, so that no part is a single image."""
    return np.array_split(positions, -(-len(positions) // PART))


def load_reference(network: FeatureNetwork, reals: RealImages, kept: np.ndarray) -> FeatureSummary:
    """Loads a network's features of real images from the cache, or computes and caches them.

    The key is a hash of the pixels, the network's file, the backend that computes, the chosen positions and those of the kept
    features among them.
    """
    facts = [
        REFERENCE_VERSION,
        reals.index["pixels"],
        network.name.rpartition(":")[2],
        network.sha256,
        jax.default_backend(),  # a GPU's features differ from a CPU's by more than rounding if the function does not prevent it
        *(hashlib.sha256(np.ascontiguousarray(some, np.int64).data).hexdigest() for some in (reals.chosen, kept)),
    ]
    file = reals.cache / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.npz"
    cached = _read_reference(file)
    if cached:
        return cached
    found = summarise_features(network, iterate_parts(reals.images, reals.chosen), kept)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(file.parent).free > 2 * (found.some.nbytes + found.moments.covariance.nbytes):
            with atomic_write(file) as partial, partial.open("wb") as opened:
                np.savez(
                    opened,
                    count=found.moments.count,
                    mean=found.moments.mean,
                    covariance=found.moments.covariance,
                    some=found.some,
                )
    except OSError:
        return found  # without a cache it only takes longer
    return found


def _read_reference(file: Path) -> FeatureSummary | None:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            count, mean, covariance, some = (arrays[name] for name in REFERENCE_ARRAYS)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing or truncated: computed again
        return None
    return FeatureSummary(Moments(int(count), mean, covariance), some)


def compute_feature_scores(real: FeatureSummary, fake: FeatureSummary, seed: int) -> dict[str, float]:
    """Computes the Frechet distance of all images; KID, precision, recall, density and coverage of those with kept features."""
    return {
        "frechet": scores.frechet(real.moments, fake.moments),
        **scores.kid(real.some, fake.some, seed=seed),
        **scores.score_manifolds(real.some, fake.some),
    }


# ---- During training ----

FILE = "scores.jsonl"
MAX_SCORE_LINE = 2**16
SLICED_WASSERSTEIN = "sliced-wasserstein"  # the value of --score-by that needs no network


class OnlineScorer:
    """Scores a run while it trains. Time is bounded: a score that would exceed its share of the time is skipped."""

    def __init__(self, config: Config, run: Path, reals: RealImages, generate: Callable[[dict, dict, np.ndarray], np.ndarray]):
        """generate: (params, stats, seeds) -> uint8 images. Raises: UserError if the network cannot be opened or fails."""
        self.config, self.run, self.reals, self.generate = config, run, reals, generate
        self.every_images = config.output.score_every_kimg * 1000
        place = config.output.score_by
        self.network = None if place == SLICED_WASSERSTEIN else open_feature_network(place, "score_by")
        self.by = Path(self.network.name).name if self.network else SLICED_WASSERSTEIN  # without the user's folders
        if self.network:  # fail now, not at the first score, which would lose the steps before it
            self.network.features(reals.images[reals.chosen[:2]])
        self.seeds = np.arange(len(reals.chosen))
        self.began, self.spent_s, self.last_s = time.monotonic(), 0.0, 0.0

    def is_due(self, steps: range, total: int) -> bool:
        """Whether a score is due at the end of these steps. Depends on the steps only."""
        before, after = (step * self.config.images_per_step // self.every_images for step in (steps.start, steps.stop))
        return after > before or steps.stop == total

    def has_time(self) -> bool:
        """Whether another score stays within its share of the elapsed time. The first always does."""
        elapsed_s = time.monotonic() - self.began
        return not self.last_s or self.spent_s + self.last_s <= self.config.output.score_share * elapsed_s

    def score(self, step: int, params: dict, stats: dict) -> str:
        """Scores the samples and appends a line to scores.jsonl. Returns the message."""
        start = time.monotonic()
        kept = choose_kept(0, len(self.seeds))  # as in evaluate, which shares the cached reference
        count = len(self.seeds) if self.network else len(kept)
        if self.network:
            real = load_reference(self.network, self.reals, kept)
            parts = (self.generate(params, stats, some) for some in split_parts(self.seeds))
            value = scores.frechet(real.moments, summarise_features(self.network, parts, kept[:0]).moments)
        else:  # patches of more images would take gigabytes
            value = sliced_wasserstein(self.reals.images[self.reals.chosen[kept]], self.generate(params, stats, kept))["mean"]
        self.last_s = time.monotonic() - start
        self.spent_s += self.last_s
        share = self.spent_s / (time.monotonic() - self.began)
        line = {
            "score": "training",
            "step": step,
            "value": value,
            "by": self.by,
            "sha256": self.network.sha256 if self.network else "",
            "resize": self.network.resize if self.network else "",
            "count": count,
            "real": self.reals.index["source"]["name"],
            "real_fingerprint": self.reals.index["fingerprint"],
            "real_pixels": self.reals.index["pixels"],
            "seeds": [0, len(self.seeds) - 1],
            "size": self.config.nets.size,
            "seconds": round(self.last_s, 1),
        }
        with (self.run / FILE).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        return (
            f"score of step {step:,}: {value:.2f} by {self.by}, N {count} ({self.last_s:.1f} s; scores took "
            f"{share:.1%} of the time so far)"
        )


def read_score_lines(run: Path) -> list[dict]:
    """Reads scores.jsonl: scores in training and of `evaluate`. Skips broken lines and lines without a step."""
    if not os.path.isfile(run / FILE):
        return []
    found = []
    with (run / FILE).open(encoding="utf-8", errors="replace") as lines:
        for text in iter(lambda: lines.readline(MAX_SCORE_LINE), ""):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and type(line.get("step")) is int and 0 <= line["step"] < 2**31:
                found.append(line)
    return found


def read_online_scores(run: Path) -> dict[int, dict]:
    """Reads step -> line of its score in training, for scores comparable with the last one."""
    found = [
        line
        for line in read_score_lines(run)
        if line.get("score") == "training" and type(line.get("value")) is float and math.isfinite(line["value"])
    ]
    return {line["step"]: line for line in found if identify_measure(line) == identify_measure(found[-1])}


def identify_measure(line: dict) -> tuple[str, str, str]:
    """Returns what must be equal in two scores of a run to compare them: the network's hash, its function, and the count.

    Not the paths: a resumed run may find its network and its images elsewhere. Its images are the same, pixel for pixel.
    """
    return str(line.get("sha256")), str(line.get("by")).partition(".py:")[2], str(line.get("count"))


def identify_real_images(line: dict) -> str:
    """Returns a hash of the real images of a score. Lines of earlier versions have only that of their files."""
    return str(line.get("real_pixels", line.get("real_fingerprint", "")))


def read_score_curve(run: Path) -> dict[int, float]:
    """Reads step -> score in training, for scores comparable with the last one."""
    return {step: line["value"] for step, line in read_online_scores(run).items()}


def find_best_step(run: Path) -> int | None:
    """Finds the step with the best score in training among those with a checkpoint; None if there is none."""
    there = set(list_steps(run))
    found = {step: value for step, value in read_score_curve(run).items() if step in there}
    return min(found, key=found.__getitem__, default=None)


def resolve_step(run: Path, step: int | Literal["best"] | None) -> int | None:
    """Resolves --step: a number, None for the newest, or "best". Raises: UserError if there is no score."""
    if step != "best":
        return step
    found = find_best_step(run)
    if found is None:
        raise UserError(
            f"`step` best: no checkpoint of {run} has a score; leave out `step` for the newest, or train with `score_every_kimg`"
        )
    return found
