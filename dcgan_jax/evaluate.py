"""Scores a run or pictures, with or without a pretrained network: python -m dcgan_jax.evaluate --run runs/article"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dcgan_jax import cli
from dcgan_jax.arguments import fill_flags
from dcgan_jax.config import Crop, Split, UserError
from dcgan_jax.data import download
from dcgan_jax.data.batches import permute_epoch
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.run import backend, evaluation, feature_nets, figures, image_sets
from dcgan_jax.run.evaluation import Comparison, ConditionScores, Difference, Interval, Neighbours, ProbeScores, Score
from dcgan_jax.run.image_sets import ImageSet

FEWEST = 12  # images of a score by features: each half of the real ones has more than the neighbours that are looked for


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Sliced Wasserstein distance between a run's faces and real ones, per pyramid level; smaller is better.

    Compare only at equal count and size, and beside the floor that is printed: one half of the real pictures against the
    other, at half the count. It sees texture and shape, not brightness or contrast.

    With --inception also FID, KID, precision, recall, density and coverage on the original FID's features, with --features
    the same on those of a function of your own.
    """

    run: str
    """the run's folder, as runs/article; or pictures in its place: a folder, .zip or .npy of squares, all of one size"""
    against: str = ""
    """another run, or other pictures, scored too; with --repeats it says whether the difference is more than noise"""
    data: str = ""
    """real pictures; empty: those the run was trained on"""
    split: Split | None = None
    """part of a partitioned set; none: the run's own part of its own pictures, all of others"""
    crop: Crop | None = None
    """square of each real picture; none: as the run was trained, the centre for pictures"""
    count: int = 5000
    """images from each side; a score says nothing at another count"""
    seed: int = 0
    """first of the seeds that are drawn, and the seed of the score's own choices"""
    repeats: int = 1
    """scores, each of --count other seeds or pictures: gives an interval"""
    step: int | Literal["best"] | None = None
    """checkpoint to score; none: the newest; best: by the scores of its training"""
    inception: str = ""
    """the FID Inception's weights, pt_inception-2015-12-05-6726825d.pth or its arrays as .npz or .safetensors; download:
    PyTorch's cache, or from GitHub, 95 MB, once; empty: no FID"""
    features: str = ""
    """FILE.py:FUNCTION of your own, from uint8 (B, S, S, 3) to (B, D), run as it is"""
    infinity: bool = False
    """also the Frechet distance of infinitely many faces, by a line over 1 / N; takes twice as many faces as features"""
    neighbours: bool = False
    """also the training pictures nearest to the run's faces, as neighbours.png in the run and numbers"""
    probe: bool = False
    """also how much of the pictures' known attributes a linear probe reads in D's features, in an untrained D's and in pixels"""
    asked: bool = False
    """also, of a conditional run, how often its faces have the attributes they were asked to have, by a linear probe that was
    fitted to real pictures, on --features (none: an untrained D's and the pixels)"""
    out: str = ""
    """file that gets the numbers as one more line of JSON each; empty: scores.jsonl in the run, none for pictures"""


class Evaluation(NamedTuple):
    """What was asked, answered."""

    scores: list[Score]
    intervals: list[Interval]  # of sets that were scored more than once
    differences: list[Difference]  # of two sets
    neighbours: Neighbours | None = None
    probe: ProbeScores | None = None
    conditions: ConditionScores | None = None
    file: Path | None = None  # the numbers were appended here, a line of JSON each
    neighbours_file: Path | None = None


def main() -> int:
    ask = cli.parse_flags(Evaluate, sys.argv[1:], prog="python -m dcgan_jax.evaluate")
    backend.start_backend(get_cache_dir())
    print("\n".join(describe(evaluate(**vars(ask)))))
    return 0


def evaluate(
    run: str | Path,
    against: str | Path = "",
    data: str | Path = "",
    split: Split | None = None,
    crop: Crop | None = None,
    count: int = 5000,
    seed: int = 0,
    repeats: int = 1,
    step: int | Literal["best"] | None = None,
    inception: str | Path = "",
    features: str = "",
    infinity: bool = False,
    neighbours: bool = False,
    probe: bool = False,
    asked: bool = False,
    out: str | Path = "",
) -> Evaluation:
    """Scores a run's samples, or images, against real images. The arguments are the command's flags: see `Evaluate`.

    Appends its numbers to `out`, or to scores.jsonl in the run. Raises: UserError.
    """
    ask = fill_flags(Evaluate, locals())
    _check_flags(ask)
    networks = _open_networks(ask)
    sets = _open_image_sets(ask)
    real = image_sets.open_real_images(sets[0], ask.data, ask.split, ask.crop)
    _check_sets(ask, sets, len(real.images), real.index["source"]["name"])
    # Any real images, but always the same for one count: their own order may be by person or class.
    chosen = np.sort(permute_epoch(ask.seed, ask.count, len(real.images))[: ask.count])
    of = Comparison(real, chosen, networks, ask.count, ask.seed, ask.infinity)
    scores = [
        score
        for images in sets
        for repeat in range(ask.repeats)
        for score in _score_all(of, images, ask.seed + repeat * ask.count)
    ]
    found = Evaluation(
        scores=scores,
        intervals=evaluation.compute_intervals(scores),
        differences=evaluation.compute_differences(scores),
        neighbours=evaluation.find_neighbours(of, sets[0]) if ask.neighbours else None,
        probe=evaluation.probe_discriminator(of, sets[0]) if ask.probe else None,
        conditions=evaluation.check_conditions(of, sets[0]) if ask.asked else None,
    )
    return _write(ask, found, of, sets)


def _score_all(of: Comparison, images: ImageSet, first: int) -> list[Score]:
    by_features = [evaluation.score_features(of, network, images, first) for network in of.networks]
    return [evaluation.score_sliced_wasserstein(of, images, first), *by_features]


# ---- What is compared ----


def _check_flags(ask: Evaluate) -> None:
    """Raises: UserError for flags that do not fit together, before anything is opened."""
    if ask.count < 2 or ask.repeats < 1 or not 0 <= ask.seed <= 2**32 - ask.count * ask.repeats:
        raise UserError(
            f"`count` {ask.count} `seed` {ask.seed} `repeats` {ask.repeats}: at least 2 images, from seeds of 0 to {2**32 - 1}"
        )
    if ask.infinity and not (ask.inception or ask.features):
        raise UserError("`infinity`: needs `inception` or `features`")
    if ask.count < FEWEST and (ask.inception or ask.features):
        raise UserError(f"`count` {ask.count}: a network's scores need {FEWEST} images at least, and say something from 5000 on")
    if ask.against and os.path.realpath(ask.against) == os.path.realpath(ask.run):
        raise UserError(f"`against` {ask.against}: is `run` itself")


def _open_networks(ask: Evaluate) -> list[feature_nets.FeatureNetwork]:
    found = [feature_nets.open_feature_network(_find_inception(ask.inception), "inception")] if ask.inception else []
    return found + ([feature_nets.open_feature_network(ask.features, "features")] if ask.features else [])


def _find_inception(place: str) -> str:
    if place != "download":
        return place
    # pytorch-fid and torch-fidelity leave them there; feature_nets.py checks the hash that the name promises.
    torch = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    there = Path(torch) / "hub" / "checkpoints" / download.INCEPTION.name
    return str(there if there.is_file() else download.download_file(download.INCEPTION, get_cache_dir() / "weights"))


def _open_image_sets(ask: Evaluate) -> list[ImageSet]:
    places = [place for place in (ask.run, ask.against) if place]
    runs = {place: image_sets.open_run_samples(place, ask.step, ask.seed) for place in places if image_sets.is_run(place)}
    channels = next(iter(runs.values())).shape[1] if runs else 3
    return [runs.get(place) or image_sets.open_images(place, channels, ask.seed) for place in places]


def _check_sets(ask: Evaluate, sets: list[ImageSet], real_count: int, real_name: str) -> None:
    """Raises: UserError for images that do not compare, or are too few."""
    for images in sets:
        crops = {one.config.data.crop for one in (images, sets[0]) if one.config}
        if images.shape != sets[0].shape or len(crops) > 1:
            raise UserError(
                f"`against` {images.name}: has other sizes, channels or crops than {sets[0].name}: their scores do not compare"
            )
        if images.most < ask.count * ask.repeats:
            raise UserError(f"`count` {ask.count} `repeats` {ask.repeats}: {images.name} has {images.most} pictures")
    if real_count < ask.count:
        raise UserError(
            f"`count` {ask.count}: {real_name} has {real_count} pictures; a score of fewer images is "
            f"another quantity, so ask for `count` {real_count} yourself"
        )
    for flag in ("neighbours", "probe", "asked"):
        if getattr(ask, flag) and not sets[0].config:
            raise UserError(f"`{flag}`: {ask.run} is no run, and its networks and training pictures are not known")
    if ask.neighbours and (ask.data or ask.split):
        raise UserError("`neighbours`: is of the run's own pictures; leave `data` and `split` out")


# ---- What is written ----


def _write(ask: Evaluate, found: Evaluation, of: Comparison, sets: list[ImageSet]) -> Evaluation:
    """The same with its files. Raises: UserError where they cannot be written."""
    by_name = {images.name: images for images in sets}
    lines = [_make_score_line(score, of, by_name[score.name], is_other=score.name != sets[0].name) for score in found.scores]
    shared = of.real_facts | {"seed": of.seed, "networks": {one.name: one.sha256 for one in of.networks}} | sets[0].facts
    lines += [line | shared for line in _make_other_lines(found)]
    neighbours_file = None
    if found.neighbours:
        neighbours_file = Path(ask.run) / "neighbours.png"
        if os.path.lexists(neighbours_file) and (neighbours_file.is_symlink() or not neighbours_file.is_file()):
            raise UserError(f"{neighbours_file}: is a link, or no file; remove it")
        figures.save_grid(neighbours_file, found.neighbours.images, columns=found.neighbours.columns)
    file = Path(ask.out) if ask.out else Path(ask.run) / "scores.jsonl" if sets[0].config else None
    if file:
        _append(file, lines, is_asked=bool(ask.out))
    return found._replace(file=file, neighbours_file=neighbours_file)


def _make_score_line(score: Score, of: Comparison, images: ImageSet, is_other: bool) -> dict:
    network, floor, values = score.network, score.floor, score.values
    if not network:
        floor, values = round(floor, 3), {name: round(value, 3) for name, value in values.items()}
    by = {"network": network.name, "network_sha256": network.sha256, "resize": network.resize} if network else {}
    return {
        "score": score.kind,
        **by,
        "floor": floor,
        "floor_count": score.floor_count,
        "of_count": score.some_count,
        "values": values,
        "count": score.count,
        **of.real_facts,
        "size": images.shape[0],
        **({"fake": score.name} if is_other else {}),
        **images.facts,
        "seeds" if images.config else "pictures": [score.seeds.start, score.seeds.stop - 1],
    }


def _make_other_lines(found: Evaluation) -> Iterator[dict]:
    memory, probe, conditions = found.neighbours, found.probe, found.conditions
    if memory:
        yield {"score": "memorisation", "samples": memory.samples, "values": memory.values}
    if probe:
        values = {"accuracy": probe.accuracy, "mean": probe.mean, "balanced_mean": probe.balanced_mean}
        yield {"score": "probe", "fitted": probe.fitted, "tested": probe.tested, "values": values}
    if conditions:
        counts = {"fitted": conditions.fitted, "tested": conditions.tested, "faces": conditions.samples}
        yield {"score": "asked", "by": conditions.by, **counts, "values": conditions.values}


def _append(file: Path, lines: list[dict], is_asked: bool) -> None:
    try:
        if not is_asked and os.path.lexists(file) and (file.is_symlink() or not file.is_file()):  # in a stranger's run, perhaps
            raise UserError(f"{file}: is a link, or no file; remove it, or give another `out`")
        with file.open("a") as opened:
            opened.writelines(json.dumps(line) + "\n" for line in lines)
    except OSError as fault:
        raise UserError(f"{file}: {fault.strerror}; give an `out` that can be written") from None


# ---- What is printed ----


def describe(found: Evaluation) -> list[str]:
    """Lines for people."""
    lines = [f"{score.name}: {_describe_score(score)}" for score in found.scores]
    lines += [f"{of.name}: {of.kind}: {of.mean:.2f} +- {of.half:.2f} (95 % of {of.sets} sets)" for of in found.intervals]
    lines += [
        f"{of.kind}: {of.names[0]} - {of.names[1]}: {of.gap:.2f} +- {of.half:.2f}: "
        + ("noise" if of.is_noise else "more than the noise of sampling; that of training takes several runs")
        for of in found.differences
    ]
    if found.neighbours:
        lines.append(_describe_neighbours(found.neighbours, found.neighbours_file))
    if found.probe:
        lines += _describe_probe(found.probe)
    if found.conditions:
        lines += _describe_conditions(found.conditions)
    return lines + ([f"written to {found.file}"] if found.file else [])


def _describe_score(score: Score) -> str:
    values, network = score.values, score.network
    kind = "pictures" if score.step is None else "seeds"
    which = f"{kind} {score.seeds.start}..{score.seeds.stop - 1}"
    at = "" if score.step is None else f", step {score.step:,}"
    if not network:
        levels = "  ".join(f"{name} px {value:.2f}" for name, value in values.items() if name != "mean")
        which = f"{kind} {score.seeds.start}..{score.seeds.start + score.some_count - 1}"
        return (
            f"sliced Wasserstein x1e3{at}, N {score.some_count}, {which}: mean {values['mean']:.2f}  ({levels}); "
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
    )


def _describe_neighbours(found: Neighbours, file: Path | None) -> str:
    said = "; ".join(
        f"by {name} {of['samples_over_held_out_to_training']:.3f} times as far from the nearest training picture as held-out "
        f"pictures are, and {of['to_training_over_to_held_out']:.3f} times as far as from held-out ones, of as many"
        for name, of in found.values.items()
    )
    return (
        f"{found.name}: its faces are {said}; copies would be far below 1. {file}: the {found.columns} faces nearest to a "
        f"training picture, and under each the nearest by {', then by '.join(found.values)}"
    )


def _describe_probe(found: ProbeScores) -> list[str]:
    names = found.accuracy["D"]
    return [
        f"{'attribute':22}" + "".join(f"{name:>15}" for name in found.accuracy),
        *(f"{name:22}" + "".join(f"{shares[name]:15.3f}" for shares in found.accuracy.values()) for name in names),
        f"{'mean':22}" + "".join(f"{value:15.3f}" for value in found.mean.values()),
        f"{'balanced mean':22}"
        + "".join(f"{'none' if value is None else f'{value:.3f}':>15}" for value in found.balanced_mean.values())
        + f"{0.5:15.3f}",
    ]


def _describe_conditions(found: ConditionScores) -> list[str]:
    nan = float("nan")  # printed for what cannot be told
    rows = [{name: nan if value is None else value for name, value in of.items()} for of in found.values.values()]
    return [
        f"{found.name}: what was asked for, found in {found.samples} faces by {found.by} (0.5: by chance)",
        f"{'balanced accuracy of':22}" + "".join(f"{kind:>15}" for kind in found.values),
        *(f"{name:22}" + "".join(f"{of[name]:15.3f}" for of in rows) for name in rows[0]),
    ]


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
