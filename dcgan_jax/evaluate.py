"""Scores a run or pictures, with or without a pretrained network: python -m dcgan_jax.evaluate --run runs/article"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np

from dcgan_jax import cli
from dcgan_jax.api import open_training_images
from dcgan_jax.config import Crop, Split, UserError
from dcgan_jax.data import download
from dcgan_jax.data.batches import permute_epoch, select_held_out, select_training
from dcgan_jax.data.cache import get_cache_dir
from dcgan_jax.data.decode import measure_square_side
from dcgan_jax.data.pack import Pack, pack_images, read_labels
from dcgan_jax.data.sources import open_source
from dcgan_jax.gan.logits import make_extract_features
from dcgan_jax.gan.sampling import sample_images, select_labels
from dcgan_jax.gan.state import init_state
from dcgan_jax.quality import intervals, memorisation, scores
from dcgan_jax.quality.linear_probe import TESTED, fit_and_score_probe, fit_probe, score_probe, split_fit_and_test
from dcgan_jax.quality.sliced_wasserstein import sliced_wasserstein
from dcgan_jax.run import backend, checkpoints, feature_nets, figures, online_score, workdir

SHOWN = 12  # samples beside their nearest training pictures
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


class Side(NamedTuple):
    """What is scored: a run's faces or pictures."""

    name: str
    facts: dict  # of every line
    shape: tuple[int, int]  # S, C
    draw: Callable[[int, int], np.ndarray]  # (first, count) -> (count, S, S, C) uint8
    most: int  # pictures there are
    config: object = None  # a run's
    asked: Callable[[int, int], np.ndarray | None] = lambda first, count: None  # (count, A): what those faces are asked to be


def main() -> int:
    ask = cli.parse_flags(Evaluate, sys.argv[1:], prog="python -m dcgan_jax.evaluate")
    backend.start_backend(get_cache_dir())
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
    networks = [feature_nets.open_feature_network(_find_inception(ask.inception), "inception")] if ask.inception else []
    networks += [feature_nets.open_feature_network(ask.features, "features")] if ask.features else []
    places = [place for place in (ask.run, ask.against) if place]
    runs = {place: _open_run_side(Path(place), ask) for place in places if _is_run(place)}
    channels = next(iter(runs.values())).shape[1] if runs else 3
    sides = [runs.get(place) or _open_image_side(place, ask, channels) for place in places]
    packed = _open_reals(ask, sides[0])
    for side in sides:
        crops = {one.config.data.crop for one in (side, sides[0]) if one.config}
        if side.shape != sides[0].shape or len(crops) > 1:
            raise UserError(
                f"`against` {side.name}: has other sizes, channels or crops than {sides[0].name}: their scores do not compare"
            )
        if side.most < ask.count * ask.repeats:
            raise UserError(f"`count` {ask.count} `repeats` {ask.repeats}: {side.name} has {side.most} pictures")
    if len(packed.images) < ask.count:
        there = len(packed.images)
        raise UserError(
            f"`count` {ask.count}: {packed.index['source']['name']} has {there} pictures; a score of fewer images is "
            f"another quantity, so ask for `count` {there} yourself"
        )
    for flag in ("neighbours", "probe", "asked"):
        if getattr(ask, flag) and not sides[0].config:
            raise UserError(f"--{flag}: {ask.run} is no run, and its networks and training pictures are not known")

    # Any real pictures, but always the same for one count: their own order may be by person or class.
    chosen = np.sort(permute_epoch(ask.seed, ask.count, len(packed.images))[: ask.count])
    lines, means = [], {}
    for side in sides:
        of = {
            "count": ask.count,
            "real": packed.index["source"]["name"],
            "real_fingerprint": packed.index["fingerprint"],
            "size": side.shape[0],
            **({} if side is sides[0] else {"fake": side.name}),
        } | side.facts
        for repeat in range(ask.repeats):
            first = ask.seed + repeat * ask.count
            found = [_sliced(ask, packed, chosen, side, first)]
            found += [_by_features(ask, network, packed, chosen, side, first) for network in networks]
            for line, said in found:
                lines.append(line | of | {"seeds" if side.config else "pictures": [first, first + ask.count - 1]})
                means.setdefault(line["score"], {}).setdefault(side.name, []).append(_main_number(line))
                print(f"{side.name}: {said}")
    for score, by_side in means.items():
        for name, values in by_side.items():
            if len(values) > 1:
                mean, half = intervals.compute_interval(values)
                print(f"{name}: {score}: {mean:.2f} +- {half:.2f} (95 % of {len(values)} sets)")
        if len(sides) == 2 and ask.repeats > 1:
            gap, half = intervals.compute_interval_of_difference(*by_side.values())
            print(
                f"{score}: {sides[0].name} - {sides[1].name}: {gap:.2f} +- {half:.2f}: "
                + ("noise" if abs(gap) <= half else "more than the noise of sampling; that of training takes several runs")
            )
    of = {
        "real": packed.index["source"]["name"],
        "real_fingerprint": packed.index["fingerprint"],
        "seed": ask.seed,
        "networks": {network.name: network.sha256 for network in networks},
    } | sides[0].facts
    if ask.neighbours:
        line, said = _neighbours(ask, networks, packed, sides[0])
        lines.append(line | of)
        print(said)
    if ask.probe:
        line, said = _probe(ask, packed, sides[0])
        lines.append(line | of)
        print(said)
    if ask.asked:
        line, said = _asked(ask, networks, packed, sides[0])
        lines.append(line | of)
        print(said)
    file = Path(ask.out) if ask.out else Path(ask.run) / "scores.jsonl" if sides[0].config else None
    if file:
        _append(file, lines, is_asked=bool(ask.out))
        print(f"written to {file}")
    return 0


def _main_number(line):
    return line["values"].get("mean", line["values"].get("frechet"))


def _append(file, lines, is_asked):
    try:
        if not is_asked and os.path.lexists(file) and (file.is_symlink() or not file.is_file()):  # in a stranger's run, perhaps
            raise UserError(f"{file}: is a link, or no file; remove it, or give another `out`")
        with file.open("a") as opened:
            opened.writelines(json.dumps(line) + "\n" for line in lines)
    except OSError as fault:
        raise UserError(f"{file}: {fault.strerror}; give an `out` that can be written") from None


# ---- What is compared ----


def _find_inception(place: str) -> str:
    if place != "download":
        return place
    # pytorch-fid and torch-fidelity leave them there; feature_nets.py checks the hash that the name promises.
    torch = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    there = Path(torch) / "hub" / "checkpoints" / download.INCEPTION.name
    return str(there if there.is_file() else download.download_file(download.INCEPTION, get_cache_dir() / "weights"))


def _is_run(place: str) -> bool:
    """Whether it is told as a run: what is one, and what is neither one nor pictures."""
    path = Path(place)
    if os.path.isdir(place):
        entries = os.listdir(place)
        return "config.json" in entries or not entries or any(path.glob("*/config.json"))
    return not os.path.exists(place) or (path.is_file() and path.suffix.lower() not in (".zip", ".npy"))


def _open_image_side(place: str, ask: Evaluate, channels: int) -> Side:
    try:
        source = open_source(place)
    except UserError as error:
        raise UserError(str(error).removeprefix("`data` ")) from error  # it was `run` or `against` that named the place
    side = measure_square_side(source)
    if side not in (16, 32, 64, 128, 256):
        raise UserError(f"{place}: pictures of {side} px; the side must be a power of two from 16 to 256")
    drawn = pack_images(source, size=side, channels=channels, crop="centre", check=False)
    facts = {"fake": drawn.index["source"]["name"], "fake_fingerprint": drawn.index["fingerprint"]}
    return Side(
        place,
        facts,
        (side, channels),
        lambda first, count: drawn.images[first - ask.seed : first - ask.seed + count],
        len(drawn.images),
    )


def _open_run_side(run: Path, ask: Evaluate) -> Side:
    config = workdir.read_config(run)
    shapes = jax.eval_shape(lambda: init_state(config))
    step, params, stats, table = checkpoints.restore_generator(run, shapes, online_score.resolve_step(run, ask.step))

    def asked(first, count):
        return select_labels(table, np.arange(first, first + count))

    def draw(first, count):
        return sample_images(config.nets, params, stats, np.arange(first, first + count), asked(first, count))

    return Side(str(run), {"step": step}, (config.nets.size, config.nets.channels), draw, 2**32 - ask.seed, config, asked)


def _open_reals(ask: Evaluate, side: Side) -> Pack:
    size, channels = side.shape
    if not side.config:
        if not ask.data:
            raise UserError(f"`run` {ask.run}: is no run, so give `data`: the real pictures it is compared with")
        return pack_images(open_source(ask.data, ask.split or "all"), size=size, channels=channels, crop=ask.crop or "centre")
    run, config = Path(ask.run), side.config
    if ask.crop not in (None, config.data.crop):
        raise UserError(f"`crop` {ask.crop}: {run} was trained with `crop` {config.data.crop}, and other crops do not compare")
    return open_training_images(run, config, ask.data, ask.split)


# ---- Scores ----


def _sliced(ask, packed, chosen, side, first):
    some = min(ask.count, online_score.SOME)  # of more its patches would take gigabytes
    real, fake = packed.images[chosen[:some]], side.draw(first, some)
    half = some // 2
    values = sliced_wasserstein(real, fake, seed=ask.seed)
    floor = sliced_wasserstein(real[0 : 2 * half : 2], real[1 : 2 * half : 2], seed=ask.seed)["mean"]
    levels = "  ".join(f"{name} px {value:.2f}" for name, value in values.items() if name != "mean")
    said = (
        f"sliced Wasserstein x1e3{_at(side)}, N {some}, {_which(side, first, some)}: mean {values['mean']:.2f}  ({levels}); "
        f"floor {floor:.2f} at N {half}"
    )
    return {
        "score": "sliced_wasserstein_x1e3",
        "of_count": some,
        "floor": round(floor, 3),
        "floor_count": half,
        "values": {name: round(value, 3) for name, value in values.items()},
    }, said


def _by_features(ask, network, packed, chosen, side, first):
    keep = ask.count if ask.infinity else online_score.SOME
    real = online_score.load_reference(
        network, online_score.RealImages(packed.images, chosen, packed.index, get_cache_dir() / "references"), keep
    )
    least = scores.count_least_at_infinity(real.some.shape[1])
    if ask.infinity and ask.count < least:
        raise UserError(
            f"`infinity` `count` {ask.count}: {network.name} has {real.some.shape[1]} features, for which it takes "
            f"{least} images at least"
        )

    def parts() -> Iterator[np.ndarray]:
        for some in online_score.split_parts(np.arange(ask.count)):
            yield side.draw(first + int(some[0]), len(some))

    fake = online_score.summarise_features(network, parts(), keep)
    half = len(real.some) // 2
    values = online_score.compute_feature_scores(
        *(of._replace(some=of.some[: online_score.SOME]) for of in (real, fake)), ask.seed
    )
    floor = scores.frechet(
        scores.compute_moments(real.some[0 : 2 * half : 2]), scores.compute_moments(real.some[1 : 2 * half : 2])
    )
    distance = "FID" if network.name == "inception" else f"Frechet distance by {network.name}"
    if ask.infinity:
        values["frechet_at_infinity"] = scores.frechet_at_infinity(real.moments, fake.some, seed=ask.seed)
    said = (
        f"{distance}{_at(side)}, N {ask.count}, {_which(side, first, ask.count)}, resize {network.resize}: "
        f"{values['frechet']:.2f} (floor {floor:.2f} at N {half}), KID x1e3 {1e3 * values['kid']:.2f} +- "
        f"{1e3 * values['kid_sd']:.2f}, "
        + ", ".join(f"{name} {values[name]:.3f}" for name in ("precision", "recall", "density", "coverage"))
        + (f", {distance} at infinity {values['frechet_at_infinity']:.2f}" if ask.infinity else "")
    )
    return {
        "score": "inception" if network.name == "inception" else "features",
        "network": network.name,
        "network_sha256": network.sha256,
        "resize": network.resize,
        "floor": floor,
        "floor_count": half,
        "of_count": len(fake.some[: online_score.SOME]),  # what KID, precision, recall, density and coverage are of
        "values": values,
    }, said


def _at(side):
    return f", step {side.facts['step']:,}" if side.config else ""


def _which(side, first, count):
    return f"{'seeds' if side.config else 'pictures'} {first}..{first + count - 1}"


# ---- Memory ----


def _neighbours(ask, networks, packed, side):
    """The training pictures that the run's faces are nearest to, and whether nearer than fresh pictures are."""
    config, images = side.config, packed.images
    if ask.data or ask.split:
        raise UserError("`neighbours`: is of the run's own pictures; leave `data` and `split` out")
    most = config.guard.held_out
    training, fresh = select_training(len(images), most), select_held_out(len(images), most)
    if not len(fresh):
        raise UserError(f"`neighbours`: {ask.run} held no pictures out (`held_out` {most} of {len(images)}) to compare with")
    fresh = fresh[: min(online_score.PART // 2, len(training))]  # a part of the training pictures has as many at least
    samples = side.draw(ask.seed, min(ask.count, online_score.PART))
    spaces = {"pixels": lambda some: some.reshape(len(some), -1).astype(np.float32) / 255}
    # In a network's features as many training pictures as asked for: all would take hours.
    spaces |= {network.name: network.features for network in networks}
    values, rows = {}, [samples]
    for name, space in spaces.items():
        few = training[permute_epoch(ask.seed, 0, len(training))[: max(ask.count, len(fresh))]]
        looked_at = training if name == "pixels" else few
        found = memorisation.measure_memorisation(
            space(samples),
            space(images[fresh]),
            (space(some) for some in online_score.iterate_parts(images, looked_at)),
            seed=ask.seed,
        )
        values[name] = {
            "to_training_over_to_held_out": found.ratio,
            "samples_over_held_out_to_training": found.to_training,
            "training_count": len(looked_at),
            "held_out_count": len(fresh),
        }
        rows.append(images[looked_at[found.nearest]])
        if name == "pixels":
            suspicious = np.argsort(found.distances, kind="stable")[:SHOWN]
    file = Path(ask.run) / "neighbours.png"
    if os.path.lexists(file) and (file.is_symlink() or not file.is_file()):
        raise UserError(f"{file}: is a link, or no file; remove it")
    figures.save_grid(file, np.concatenate([row[suspicious] for row in rows]), columns=SHOWN)
    said = "; ".join(
        f"by {name} {found['samples_over_held_out_to_training']:.3f} times as far from the nearest training picture as held-out "
        f"pictures are, and {found['to_training_over_to_held_out']:.3f} times as far as from held-out ones, of as many"
        for name, found in values.items()
    )
    return {"score": "memorisation", "samples": len(samples), "values": values}, (
        f"{side.name}: its faces are {said}; copies would be far below 1. {file}: the {len(suspicious)} faces nearest to a "
        f"training picture, and under each the nearest by {', then by '.join(spaces)}"
    )


# ---- D as a representation ----


def _probe(ask, packed, side):
    """Accuracy on pictures that the probe was not fitted to; D has seen most of them, but no attribute."""
    fit, test = _fit_and_test(ask, packed)
    names, values = read_labels(packed, "all")
    config, run = side.config, Path(ask.run)
    shapes = jax.eval_shape(lambda: init_state(config))
    like = checkpoints.add_sharding(shapes)
    trained = checkpoints.restore_step(run, like, side.facts["step"])
    views = {"D": _seen_by(config, trained), "untrained D": _untrained(config), "pixels": _pixels}
    found = {
        name: fit_and_score_probe(see(packed.images[fit]), values[fit], see(packed.images[test]), values[test])
        for name, see in views.items()
    }
    accuracy = {name: dict(zip(names, map(float, one.accuracy), strict=True)) for name, one in found.items()}
    accuracy["most frequent"] = dict(zip(names, map(float, found["D"].most_frequent), strict=True))
    means = {name: float(np.mean(list(values.values()))) for name, values in accuracy.items()}
    balanced = {name: None if np.isnan(one.balanced).all() else float(np.nanmean(one.balanced)) for name, one in found.items()}
    rows = [f"{'attribute':22}" + "".join(f"{name:>15}" for name in accuracy)]
    rows += [f"{name:22}" + "".join(f"{values[name]:15.3f}" for values in accuracy.values()) for name in names]
    rows += [f"{'mean':22}" + "".join(f"{value:15.3f}" for value in means.values())]
    rows += [
        f"{'balanced mean':22}"
        + "".join(f"{'none' if value is None else f'{value:.3f}':>15}" for value in balanced.values())
        + f"{0.5:15.3f}"
    ]
    return {
        "score": "probe",
        "fitted": len(fit),
        "tested": len(test),
        "values": {"accuracy": accuracy, "mean": means, "balanced_mean": balanced},
    }, "\n".join(rows)


def _fit_and_test(ask, packed):
    return split_fit_and_test(
        permute_epoch(ask.seed, 0, len(packed.images)), packed.index["attributes"], packed.index["source"]["name"]
    )


def _seen_by(config, state):
    program = jax.jit(make_extract_features(config))

    def see(images):
        return np.concatenate(
            [np.asarray(program(state.d_params, state.d_stats, part)) for part in np.array_split(images, -(-len(images) // 100))]
        )

    return see


def _untrained(config):
    return _seen_by(config, jax.jit(lambda: init_state(config))())


def _pixels(images):
    return images.reshape(len(images), -1) / np.float32(255)


# ---- What was asked for ----


def _asked(ask, networks, packed, side):
    """How often faces have what they were asked to have, as a probe that knows real pictures sees it."""
    names = side.config.nets.conditions
    if not names:
        raise UserError(f"`asked`: {ask.run} was trained without `condition`")
    fit, test = _fit_and_test(ask, packed)
    values = read_labels(packed, side.config.nets.condition)[1]
    untrained = _untrained(side.config)
    by, see = (
        (networks[-1].name, networks[-1].features)
        if networks
        else ("an untrained D and pixels", lambda images: np.concatenate([untrained(images), _pixels(images)], 1))
    )
    margins = fit_probe(see(packed.images[fit]), values[fit])
    count = min(ask.count, TESTED)
    wanted = side.asked(ask.seed, count)
    found = {
        "faces": score_probe(margins(see(side.draw(ask.seed, count))), wanted, values[fit]),
        "real pictures": score_probe(margins(see(packed.images[test])), values[test], values[fit]),
    }
    rows = [f"{'balanced accuracy of':22}" + "".join(f"{name:>15}" for name in found)]
    rows += [f"{name:22}" + "".join(f"{of.balanced[i]:15.3f}" for of in found.values()) for i, name in enumerate(names)]
    # NaN, where all or none of the tested have an attribute, is no JSON.
    balanced = {
        of: {name: None if np.isnan(value) else float(value) for name, value in zip(names, one.balanced, strict=True)}
        for of, one in found.items()
    }
    said = f"{side.name}: what was asked for, found in {count} faces by {by} (0.5: by chance)\n" + "\n".join(rows)
    return {"score": "asked", "by": by, "fitted": len(fit), "tested": len(test), "faces": count, "values": balanced}, said


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
