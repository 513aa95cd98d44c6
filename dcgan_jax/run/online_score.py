"""Scores a run while it trains, and reads its scores."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from dcgan_jax.config import Config, UserError
from dcgan_jax.files import append_json_lines
from dcgan_jax.quality import scores
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run.checkpoints import list_steps
from dcgan_jax.run.feature_nets import open_feature_network
from dcgan_jax.run.feature_summaries import RealImages, load_reference, split_parts, summarise_features
from dcgan_jax.run.random_choices import choose_kept

SCORES_FILE = "scores.jsonl"
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
            "seeds": [0, len(self.seeds) - 1],  # sliced Wasserstein uses only `count` of them
            "size": self.config.nets.size,
            "seconds": round(self.last_s, 1),
        }
        append_json_lines(self.run / SCORES_FILE, [line])
        return (
            f"score of step {step:,}: {value:.2f} by {self.by}, N {count} ({self.last_s:.1f} s; scores took "
            f"{share:.1%} of the time so far)"
        )


def read_score_lines(run: Path) -> list[dict]:
    """Reads scores.jsonl: scores in training and of `evaluate`. Skips broken lines and lines without a step."""
    if not os.path.isfile(run / SCORES_FILE):
        return []
    lines = []
    with (run / SCORES_FILE).open(encoding="utf-8", errors="replace") as opened:
        for text in iter(lambda: opened.readline(MAX_SCORE_LINE), ""):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and type(line.get("step")) is int and 0 <= line["step"] < 2**31:
                lines.append(line)
    return lines


def read_online_scores(run: Path) -> dict[int, dict]:
    """Reads step -> line of its score in training, for scores comparable with the last one."""
    lines = [
        line
        for line in read_score_lines(run)
        if line.get("score") == "training" and type(line.get("value")) is float and math.isfinite(line["value"])
    ]
    return {line["step"]: line for line in lines if identify_measure(line) == identify_measure(lines[-1])}


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
    scores_by_step = {step: value for step, value in read_score_curve(run).items() if step in there}
    return min(scores_by_step, key=scores_by_step.__getitem__, default=None)


def resolve_step(run: Path, step: int | Literal["best"] | None) -> int | None:
    """Resolves --step: a number, None for the newest, or "best". Raises: UserError if there is no score."""
    if step != "best":
        return step
    best = find_best_step(run)
    if best is None:
        raise UserError(
            f"`step` best: no checkpoint of {run} has a score; leave out `step` for the newest, or train with `score_every_kimg`"
        )
    return best
