"""Computes the numbers at the top of report.html: images shown, training time and scores."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dcgan_jax.config import UserError
from dcgan_jax.run import logs, online_score, workdir
from dcgan_jax.run.report_scores import find_best, find_evaluated
from dcgan_jax.run.report_text import escape

MEASURES = {online_score.SLICED_WASSERSTEIN: "sliced Wasserstein x1000", "inception": "FID"}  # `by` of a score -> its name
LONGEST_S = 1e9  # longer times come from a damaged file
SLOWEST = 0.25  # of a session's mean speed: between two lines, less than this means that the run was resumed


class Fact(NamedTuple):
    """Holds a number at the top of the page, with its label and a line that explains it."""

    label: str
    value: str
    note: str


class LowResolutionStage(NamedTuple):
    """A stage of progressive growing before the last."""

    size: int  # pixels
    images: int  # shown
    seconds: float  # 0 if no speed was logged


def read_low_resolution_stages(run: Path) -> list[LowResolutionStage]:
    """Reads what the run's low-resolution stages did, from the smallest image side on. Stages with damaged files are left out."""
    stages = []
    for stage in workdir.list_low_resolution_stages(run):
        try:
            config, metrics = workdir.read_config(stage), logs.read_metrics(stage)
        except UserError:  # every save writes the report: it must not end a run whose own files are intact
            continue
        images = [value for value in metrics.get("images", ()) if math.isfinite(value)]
        stages.append(LowResolutionStage(config.nets.size, int(max(images, default=0)), estimate_training_s(metrics) or 0.0))
    return stages


def _describe_images(stages: Sequence[LowResolutionStage]) -> str:
    return " and ".join(f"{stage.images:,} at {stage.size} px" for stage in stages)


def describe_images_shown(run: Path, images: int) -> str:
    """Formats the number of images shown, with those of the low-resolution stages."""
    before = _describe_images(read_low_resolution_stages(run))
    return f"{images:,}" + (f", after {before}" if before else "")


def describe_uncounted_images(runs: Sequence[Path]) -> str:
    """Names the runs with low-resolution stages, whose images do not count as training images. "" if there is none."""
    stages = [(run.name, found) for run in runs if (found := read_low_resolution_stages(run))]
    each = [f"{escape(name)} {_describe_images(found)}" for name, found in stages]
    return f" at full resolution (before: {', '.join(each)})" if each else ""


def list_facts(run: Path, step: int, images_per_step: int, metrics: dict[str, list[float]], devices: str) -> list[Fact]:
    """Lists the numbers at the top of the page, in the order in which they are shown.

    Args: step: steps made; metrics: columns of metrics.jsonl; devices: "" if unknown.
    """
    seconds, speed, stages = estimate_training_s(metrics), find_median_speed(metrics), read_low_resolution_stages(run)
    machine = f" on {devices}" if devices else ""
    before = f"; before, {_describe_images(stages)}" if stages else ""
    times = [f"{format_duration(stage.seconds)} at {stage.size} px" for stage in stages if stage.seconds]
    earlier = f"; before, about {' and '.join(times)}" if times else ""
    facts = [
        Fact("Images shown", f"{step * images_per_step:,}", f"{images_per_step:,} a step{before}"),
        Fact(
            "Training time",
            f"about {format_duration(seconds)}" if seconds else "not measured",
            (f"{speed:,.0f} images a second{machine}" if speed else "no speed was logged") + earlier,
        ),
    ]
    best, evaluated = find_best(run), find_evaluated(run)
    if best:
        note = f"{name_measure(best)}, N {best.get('count')}, step {best['step']:,}; smaller is better"
        facts.append(Fact("Best score in training", f"{best['value']:.2f}", note))
    if evaluated:
        floor = f"; floor {evaluated.floor} (N {evaluated.floor_count})" if evaluated.floor else ""
        note = f"by evaluate, N {evaluated.count}, step {evaluated.step}; smaller is better{floor}"
        facts.append(Fact(evaluated.measure.partition(", resize")[0], evaluated.value, note))
    if not best and not evaluated:
        facts.append(
            Fact(
                "Score",
                "none yet",
                "train with --score-every-kimg 20, or run python -m dcgan_jax.evaluate, then python -m dcgan_jax.report",
            )
        )
    return facts


def render_facts(facts: list[Fact]) -> str:
    """Renders a description list, one tile for each number."""
    tiles = "".join(
        f"<div><dt>{escape(fact.label)}</dt><dd><b>{escape(fact.value)}</b><span>{escape(fact.note)}</span></dd></div>"
        for fact in facts
    )
    return f"<dl class=tiles>{tiles}</dl>"


def name_measure(line: dict) -> str:
    """Returns the name of the measure of a score during training."""
    by = Path(str(line.get("by"))).name  # earlier versions wrote the path as it was given
    return MEASURES.get(by, f"Frechet distance by {by}")


def find_median_speed(metrics: dict[str, list[float]]) -> float | None:
    """Returns the median of the logged speeds, in images per second; None if no speed was logged."""
    speeds = [value for value in metrics.get("images_per_s", ()) if value > 0 and math.isfinite(value)]
    return statistics.median(speeds) if speeds else None


def estimate_training_s(metrics: dict[str, list[float]]) -> float | None:
    """Estimates the seconds of training, with saves and scores, without compilation and pauses. No speed was logged: None.

    metrics.jsonl has no clock: `images_per_s` is the mean speed since the run was started or resumed. A resumed run shows as a
    line without a speed, as a mean that implies less time than the line before, or as a long time for few images.
    """
    total_s, session_s, start, last = 0.0, 0.0, 0.0, 0.0
    for images, speed in zip(metrics.get("images", ()), metrics.get("images_per_s", ()), strict=False):
        if not images >= last:  # or NaN
            continue
        if not (speed > 0 and math.isfinite(speed)):
            total_s, session_s, start = total_s + session_s, 0.0, images
        else:
            passed_s = (images - start) / speed - session_s
            if passed_s < 0 or images - last < SLOWEST * speed * passed_s:
                total_s, session_s, start = total_s + session_s, 0.0, last
            session_s = (images - start) / speed
        last = images
    found_s = total_s + session_s
    return found_s if 0 < found_s < LONGEST_S else None


def format_duration(seconds: float) -> str:
    """Formats a duration, for example as 42 s, 12 min or 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60:,} h {minutes % 60:02} min"


def describe_best(run: Path) -> str:
    """Describes the best score in training; "" without scores."""
    best = find_best(run)
    return f"best score {best['value']:.2f} at step {best['step']:,}" if best else ""


def find_best_of_runs(runs: list[Path]) -> int | None:
    """Returns the position of the run with the best score in training; None unless all have scores of the same measure."""
    lines = [find_best(run) for run in runs]
    found = [line for line in lines if line]
    same = {(*online_score.identify_measure(line), online_score.identify_real_images(line)) for line in found}
    if len(found) < len(runs) or len(same) != 1 or len(runs) < 2:
        return None
    values = [line["value"] for line in found]
    return values.index(min(values))
