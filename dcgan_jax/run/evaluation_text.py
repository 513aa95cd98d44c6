"""Formats an evaluation as messages and as lines of scores.jsonl."""

from collections.abc import Iterator
from pathlib import Path

from dcgan_jax.run.evaluation import Comparison, ConditionScores, Difference, Interval, Neighbours, ProbeScores, Score
from dcgan_jax.run.image_sets import ImageSet

# ---- Lines of scores.jsonl ----


def make_score_line(score: Score, of: Comparison, images: ImageSet, is_other: bool) -> dict:
    """Makes the line of a score, with all that it depends on. is_other: of the set that the run is compared with."""
    network, floor, values = score.network, score.floor, score.values
    if not network:
        floor, values = round(floor, 3), {name: round(value, 3) for name, value in values.items()}
    by = {"network": network.name, "network_sha256": network.sha256, "resize": network.resize} if network else {}
    return {
        "score": score.kind,
        **by,
        "floor": floor,
        "floor_count": score.floor_count,
        "of_count": score.kept_count,
        "values": values,
        "count": score.count,
        **of.real_facts,
        "size": images.shape[0],
        **({"fake": score.name} if is_other else {}),
        **images.facts,
        "seeds" if images.config else "positions": [score.seeds.start, score.seeds.stop - 1],
    }


def make_other_lines(memory: Neighbours | None, probe: ProbeScores | None, conditions: ConditionScores | None) -> Iterator[dict]:
    """Makes a line for each other part of the evaluation that was requested."""
    if memory:
        yield {"score": "memorisation", "samples": memory.samples, "values": memory.values}
    if probe:
        values = {"accuracy": probe.accuracy, "mean": probe.mean, "balanced_mean": probe.balanced_mean}
        yield {"score": "probe", "fitted": probe.fitted, "tested": probe.tested, "values": values}
    if conditions:
        counts = {"fitted": conditions.fitted, "tested": conditions.tested, "samples": conditions.samples}
        yield {"score": "condition_accuracy", "by": conditions.by, **counts, "values": conditions.values}


# ---- Messages ----


def describe_interval(interval: Interval) -> str:
    """Formats a mean with its confidence interval."""
    of = interval
    return f"{of.name}: {of.kind}: {of.mean:.2f} +- {of.half:.2f} (95 % of {of.sets} sets)"


def describe_difference(difference: Difference) -> str:
    """Says whether two sets differ by more than the noise of sampling."""
    of = difference
    verdict = "noise" if of.is_noise else "more than the noise of sampling; to measure the noise of training, repeat the training"
    return f"{of.kind}: {of.names[0]} - {of.names[1]}: {of.gap:.2f} +- {of.half:.2f}: {verdict}"


def describe_score(score: Score) -> str:
    """Formats a score with its floor and all that it depends on."""
    values, network = score.values, score.network
    kind = "shuffled images" if score.step is None else "seeds"
    which = f"{kind} {score.seeds.start}..{score.seeds.stop - 1}"
    at = "" if score.step is None else f", step {score.step:,}"
    if not network:
        levels = "  ".join(f"{name} px {value:.2f}" for name, value in values.items() if name != "mean")
        which += f" (a random {score.kept_count} of them)" if score.kept_count < score.count else ""
        return (
            f"sliced Wasserstein x1e3{at}, N {score.kept_count}, {which}: mean {values['mean']:.2f}  ({levels}); "
            f"floor {score.floor:.2f} at N {score.floor_count}"
        )
    distance = "FID" if network.name == "inception" else f"Frechet distance by {network.name}"
    infinite = values.get("frechet_at_infinity")
    return (
        f"{distance}{at}, N {score.count}, {which}, resize {network.resize}: "
        f"{values['frechet']:.2f} (floor {score.floor:.2f} at N {score.floor_count}), KID x1e3 {1e3 * values['kid']:.2f} +- "
        f"{1e3 * values['kid_sd']:.2f}, "
        + ", ".join(f"{name} {values[name]:.3f}" for name in ("precision", "recall", "density", "coverage"))
        + ("" if infinite is None else f", {distance} at infinity {infinite:.2f}")
        + _warn_of_few(score)
    )


def _warn_of_few(score: Score) -> str:
    if score.count > score.feature_count:
        return ""
    return (
        f"; warning: N {score.count} is not above the {score.feature_count} features, so the distance is far too large: "
        f"compare the KID, or with more images give --count {score.feature_count + 1} or more"
    )


def describe_neighbours(found: Neighbours, file: Path) -> str:
    """Formats the distances of samples to training images. file: the image of the nearest ones."""
    said = "; ".join(
        f"by {name}, {of['samples_over_held_out_to_training']:.3f} times the distance of held-out images, and "
        f"{of['to_training_over_to_held_out']:.3f} times their own distance to the nearest of as many held-out images"
        for name, of in found.values.items()
    )
    return (
        f"{found.name}: distance of samples to the nearest training image: {said}; copies would be far below 1. {file}: the "
        f"{found.columns} samples nearest to a training image, and below each the nearest by {', then by '.join(found.values)}"
    )


def describe_probe(found: ProbeScores) -> list[str]:
    """Formats a table with a row for each attribute."""
    names = found.accuracy["D"]
    return [
        f"{'attribute':22}" + "".join(f"{name:>15}" for name in found.accuracy),
        *(f"{name:22}" + "".join(f"{shares[name]:15.3f}" for shares in found.accuracy.values()) for name in names),
        f"{'mean':22}" + "".join(f"{value:15.3f}" for value in found.mean.values()),
        f"{'balanced mean':22}"
        + "".join(f"{'none' if value is None else f'{value:.3f}':>15}" for value in found.balanced_mean.values())
        + f"{0.5:15.3f}",
    ]


def describe_conditions(found: ConditionScores) -> list[str]:
    """Formats a table with a row for each attribute."""
    nan = float("nan")  # printed for a value that does not exist
    rows = [{name: nan if value is None else value for name, value in of.items()} for of in found.values.values()]
    return [
        f"{found.name}: requested attributes in {found.samples} samples, predicted by a probe on {found.by} (chance: 0.5)",
        f"{'balanced accuracy of':22}" + "".join(f"{kind:>15}" for kind in found.values),
        *(f"{name:22}" + "".join(f"{of[name]:15.3f}" for of in rows) for name in rows[0]),
    ]
