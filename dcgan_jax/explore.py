"""Walks, morphs, arithmetic, directions, inversion: python -m dcgan_jax.explore morph --run runs/article --seeds 0-5"""

import dataclasses
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax import cli, files
from dcgan_jax.api import TrainedGAN, load, open_training_images
from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.attributes import suggest_nearest
from dcgan_jax.data.batches import permute_epoch
from dcgan_jax.data.decode import decode_image_file
from dcgan_jax.data.pack import read_labels
from dcgan_jax.gan import directions, latents
from dcgan_jax.gan.inversion import make_inversion
from dcgan_jax.quality.linear_probe import fit_probe, score_probe, split_fit_and_test
from dcgan_jax.run import figures

DRAWN = 4000  # faces that directions are fitted to
MEASURED = 256  # faces that are moved along each direction, to see what changes
STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # standard deviations
NOISE = 0.25  # of the paper's arithmetic, each way (arXiv:1511.06434, figure 7)


@dataclasses.dataclass(frozen=True)
class Explore:
    run: str
    """the run's folder, as runs/article"""
    step: int | Literal["best"] | None = None
    """checkpoint to draw from; none: the newest; best: by the scores of its training"""
    condition: str = ""
    """of a conditional run, what all faces are to be, as Smiling=1,Male=0"""
    out: str = ""
    """the picture; empty: the command's name in the run's folder explore/. The numbers go beside it, as .json"""


@dataclasses.dataclass(frozen=True)
class Truncate(Explore):
    """The same seeds with latents cut to smaller and smaller magnitudes: faces get more alike, and fail less."""

    seeds: str = "0-7"
    """seeds and ranges, as 7,12,40-47"""
    truncations: tuple[float, ...] = ()
    """largest magnitudes, in standard deviations of a normal law or shares of a uniform one's reach; none: five of them"""


@dataclasses.dataclass(frozen=True)
class Morph(Explore):
    """From each seed's face to the next one's, a row each."""

    seeds: str = "0-5"
    """seeds and ranges, as 7,12,40-47; at least two"""
    columns: int = 9
    """pictures of a row, its ends among them"""


@dataclasses.dataclass(frozen=True)
class Walk(Explore):
    """An endless film from seed to seed: .webp, .gif, or .mp4 where PyAV is installed."""

    seeds: str = "0-5"
    """seeds and ranges, as 7,12,40-47; at least two"""
    frames_each: int = 24
    """frames from one seed to the next"""
    frames_a_second: float = 24.0
    """speed; browsers show GIFs in whole hundredths of a second a frame"""


@dataclasses.dataclass(frozen=True)
class Arithmetic(Explore):
    """The paper's vector arithmetic: means of chosen seeds' latents, added and subtracted (arXiv:1511.06434, figure 7)."""

    equation: str = "0,1,2 - 3,4,5 + 6,7,8"
    """terms of seeds, with + or - between, as for man with glasses - man + woman"""
    noise_seed: int = 0
    """of the eight latents around the result, each coordinate up to 0.25 away"""


@dataclasses.dataclass(frozen=True)
class Attributes(Explore):
    """One direction for each attribute of the training pictures, by a linear probe on what D sees, with sliders' strips."""

    seeds: str = "0"
    """faces to move, a strip each"""
    attributes: tuple[str, ...] = ()
    """which are shown, as Smiling Male; none: the twelve that their directions change most"""
    data: str = ""
    """pictures with attributes; empty: those the run was trained on"""


@dataclasses.dataclass(frozen=True)
class Directions(Explore):
    """Directions along which faces vary most, without labels."""

    seeds: str = "0"
    """faces to move, a strip each"""
    method: Literal["principal", "factorised"] = "principal"
    """principal: GANSpace, by what the second layer sees; factorised: SeFa, by the first layer's weights alone"""
    count: int = 8
    """directions, the strongest first"""


@dataclasses.dataclass(frozen=True)
class Invert(Explore):
    """The latent whose face is nearest to a photo's, by gradient descent from several starts."""

    photo: str = ""
    """a picture file; it is cut as the training pictures were"""
    starts: int = 8
    """latents of the seeds 0, 1 ... that the descent begins from"""
    iterations: int = 300
    """steps of the descent"""


COMMANDS: dict[str, type[Explore]] = {
    "truncate": Truncate,
    "morph": Morph,
    "walk": Walk,
    "arithmetic": Arithmetic,
    "attributes": Attributes,
    "directions": Directions,
    "invert": Invert,
}


def main() -> int:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print("python -m dcgan_jax.explore COMMAND --run RUN, where COMMAND is one of (each with a --help of its own):\n")
        print("\n".join(f"  {name:12}{command.__doc__}" for name, command in COMMANDS.items()))
        return 0
    if name.startswith("-"):
        raise UserError(f"{make_printable(name, 100)}: a command comes first: {', '.join(COMMANDS)}")
    if name not in COMMANDS:
        raise UserError(f"{make_printable(name, 100)}: is no command; {suggest_nearest(name, tuple(COMMANDS))}")
    ask = cli.parse_flags(COMMANDS[name], arguments, prog=f"python -m dcgan_jax.explore {name}")
    suffixes = (".webp", ".gif", ".mp4") if isinstance(ask, Walk) else (".png",)
    out = Path(ask.out or Path(ask.run) / "explore" / f"{name}{suffixes[0]}")
    if out.suffix not in suffixes:
        raise UserError(f"`out` {ask.out}: ends in {' or '.join(suffixes)}")
    gan = load(ask.run, ask.step)
    _make_room(out)
    numbers = EXPLORERS[type(ask)](ask, gan, out)
    of = {"command": name, "run": ask.run, "step": gan.step, "preset": gan.config.run.preset, "condition": ask.condition}
    files.write_json(out.with_suffix(".json"), of | numbers)
    print(f"{out}, and its numbers beside it")
    return 0


# ---- Ways ----


def truncate(ask: Truncate, gan: TrainedGAN, out: Path) -> dict:
    """Rows of seeds, columns of truncations."""
    seeds = _seeds(ask.seeds, "seeds")
    asked = _labels(gan, ask, seeds)
    cuts = ask.truncations or ((3.0, 2.0, 1.0, 0.7, 0.4) if gan.config.nets.latent_law == "normal" else (1.0, 0.8, 0.6, 0.4, 0.2))
    for cut in cuts:
        if not cut > 0:
            raise UserError(f"`truncations` {cut}: give magnitudes above 0")
    faces = [gan.images(gan.latents(seeds, cut), asked) for cut in cuts]
    many = np.arange(MEASURED)
    spread = [float(gan.images(gan.latents(many, cut), _labels(gan, ask, many)).std(0, dtype=np.float64).mean()) for cut in cuts]
    rows = [(f"seed {seed}", np.stack([some[i] for some in faces])) for i, seed in enumerate(seeds)]
    _save(ask, gan, out, "latents cut to magnitudes", rows, [f"{cut:g}" for cut in cuts])
    return {"seeds": seeds.tolist(), "truncations": cuts, "spread_grey_levels": spread, "spread_of_faces": MEASURED}


def morph(ask: Morph, gan: TrainedGAN, out: Path) -> dict:
    """Rows from each seed to the next."""
    if not 2 <= ask.columns <= 1000:
        raise UserError(f"`columns` {ask.columns}: give 2 to 1,000")
    seeds, shares = _two_or_more(ask), np.linspace(0, 1, ask.columns, dtype=np.float32)
    points, nets, rows = gan.latents(seeds), gan.config.nets, []
    asked = _labels(gan, ask, seeds)
    for i in range(len(seeds) - 1):
        way = np.asarray(latents.interpolate(points[i], points[i + 1], shares, nets))
        # What a face is asked to be has no halves: the second one's from the middle on.
        towards = None if asked is None else asked[np.where(shares < 0.5, i, i + 1)]
        rows.append((f"{seeds[i]} to {seeds[i + 1]}", gan.images(way, towards)))
    _save(ask, gan, out, "from seed to seed", rows, [f"{share:.0%}" for share in shares])
    return {"seeds": seeds.tolist(), "shares": shares.tolist()}


def walk(ask: Walk, gan: TrainedGAN, out: Path) -> dict:
    """A film through all seeds and back to the first."""
    seeds = _two_or_more(ask)
    if not 0 < ask.frames_each * len(seeds) <= 20_000:
        raise UserError(f"`frames_each` {ask.frames_each}: {len(seeds)} seeds of 1 or more make at most 20,000 frames")
    if not 0.01 <= ask.frames_a_second <= 100:  # a GIF's frame lasts 655 s at most
        raise UserError(f"`frames_a_second` {ask.frames_a_second:g}: give 0.01 to 100")
    way = np.asarray(latents.interpolate_loop(gan.latents(seeds), ask.frames_each, gan.config.nets))
    asked = _labels(gan, ask, seeds)
    near = None if asked is None else asked[(np.arange(len(way)) + ask.frames_each // 2) // ask.frames_each % len(seeds)]
    faces = gan.images(way, near)
    scale, title = max(1, 256 // faces.shape[1]), _title(ask, gan)
    legs = [f"seed {a} to {b}" for a, b in zip(seeds, np.roll(seeds, -1), strict=True)]
    frames = [
        figures.make_captioned_sheet(title, [("", face[None].repeat(scale, 1).repeat(scale, 2))], [legs[i // ask.frames_each]])
        for i, face in enumerate(faces)
    ]
    figures.save_animation(out, np.stack(frames), ask.frames_a_second)
    return {"seeds": seeds.tolist(), "frames": len(way), "frames_each": ask.frames_each, "frames_a_second": ask.frames_a_second}


def arithmetic(ask: Arithmetic, gan: TrainedGAN, out: Path) -> dict:
    """A row for each term, its mean last, and the result with eight around it."""
    terms, nets = _terms(ask.equation), gan.config.nets
    # As normal ones: sums of uniform latents leave the cube that G knows.
    points = [np.asarray(latents.to_normal(gan.latents(seeds), nets)) for _, seeds in terms]
    means = np.stack([of.mean(0) for of in points])
    result = sum(sign * mean for (sign, _), mean in zip(terms, means, strict=True))
    around = np.random.default_rng(ask.noise_seed).uniform(-NOISE, NOISE, (8, len(result))).astype(np.float32)
    near = np.concatenate([result[None], result + around])
    first = terms[0][1][:1]  # one answer to what all are asked to be

    def drawn(some):
        asked = _labels(gan, ask, first)
        return gan.images(latents.from_normal(some, nets), None if asked is None else asked.repeat(len(some), 0))

    rows = []
    for (sign, seeds), of, mean in zip(terms, points, means, strict=True):
        rows.append((f"{'+' if sign > 0 else '-'} {','.join(map(str, seeds))}", drawn(np.concatenate([of, mean[None]]))))
    rows.append(("= and near it", drawn(near)))
    _save(ask, gan, out, f"{ask.equation}; the last of a term's row is their mean", rows)
    return {
        "equation": ask.equation,
        "result": np.asarray(latents.from_normal(result, nets)).tolist(),
        "noise": NOISE,
        "noise_seed": ask.noise_seed,
    }


# ---- Directions ----


def attributes(ask: Attributes, gan: TrainedGAN, out: Path) -> dict:
    """Strips of faces moved along each attribute's direction, with what a probe sees change."""
    seeds, nets = _seeds(ask.seeds, "seeds"), gan.config.nets
    packed = open_training_images(Path(ask.run), gan.config, ask.data)
    source = packed.index["source"]["name"]
    fit, test = split_fit_and_test(permute_epoch(0, 0, len(packed.images)), packed.index["attributes"], source)
    names, values = read_labels(packed, "all")
    alike = [name for name, has in zip(names, values[fit].T, strict=True) if has.all() or not has.any()]
    among = f"of the {len(fit):,} pictures that the probe is fitted to, all or none have"
    for name in ask.attributes:
        if name not in names:
            raise UserError(
                f"`attributes` {make_printable(name, 100)}: the pictures have no such attribute; {suggest_nearest(name, names)}"
            )
        if name in alike:
            raise UserError(f"`attributes` {name}: {among} it; leave it out, or give other `data`")
    if len(alike) == len(names):
        raise UserError(f"`data`: {source}: {among} their attributes, {', '.join(alike)}; give pictures that differ")
    values = values[:, [name not in alike for name in names]]
    names = [name for name in names if name not in alike]
    margins = fit_probe(gan.features(packed.images[fit]), values[fit])
    seen = score_probe(margins(gan.features(packed.images[test])), values[test], values[fit])

    many = np.arange(DRAWN)
    points, asked = gan.latents(many), _labels(gan, ask, many)
    scores = margins(gan.features(gan.images(points, asked)))
    if scores.std(0).min() < 1e-9:  # margins are around -1 and 1
        raise UserError(
            f"{ask.run}: D sees no difference between the faces of step {gan.step:,}, so nothing is known to change "
            "them; try another `step`"
        )
    normal = np.asarray(latents.to_normal(points, nets))
    found = directions.fit_attribute_directions(normal, scores)

    # What moving other faces by two standard deviations each way changes, in those of the faces as they are.
    others = np.arange(DRAWN, DRAWN + MEASURED)
    points, asked, spread = gan.latents(others), _labels(gan, ask, others), np.maximum(scores.std(0), 1e-12)
    changes = []  # (A, A): row: the direction, column: what changes
    for one in found:
        more, less = (margins(gan.features(gan.images(moved, asked))).mean(0) for moved in _moved(points, one, (2.0, -2.0), nets))
        changes.append((more - less) / spread)
    changes = np.stack(changes)
    strongest = [names[i] for i in np.argsort(-np.diag(changes), kind="stable")[:12]]
    shown = list(ask.attributes) or strongest
    rows = [
        (f"{name} {seed}" if len(seeds) > 1 else name, strip)
        for name in shown
        for seed, strip in zip(seeds, _strips(ask, gan, seeds, found[names.index(name)]), strict=True)
    ]
    _save(ask, gan, out, f"seed {ask.seeds} along attributes", rows, [f"{step:+g} sd" for step in STEPS])
    side = np.abs(changes - np.diag(np.diag(changes)))
    print(f"{'attribute':22}{'probe':>8}{'change':>8}  most beside it")
    for i, name in enumerate(names):
        print(
            f"{name:22}{seen.balanced[i]:8.3f}{changes[i, i]:8.2f}  {names[side[i].argmax()]} {changes[i, side[i].argmax()]:.2f}"
        )
    print(
        f"probe: balanced accuracy on {len(test)} other pictures; change: of its margin over 4 sd of the latent, in sd of faces"
    )
    if alike:
        print(f"left out: {', '.join(alike)}: {among} them")
    return {
        "seeds": seeds.tolist(),
        "attributes": names,
        "left_out": alike,
        "probe_balanced_accuracy": [_number(value) for value in seen.balanced],
        "changes_sd": changes.round(4).tolist(),
        "directions": found.round(6).tolist(),
        "steps_sd": STEPS,
        "space": "latents as normal ones (dcgan_jax.gan.latents.to_normal)",
        "data": source,
    }


def find_directions(ask: Directions, gan: TrainedGAN, out: Path) -> dict:
    """Strips of faces moved along the strongest directions."""
    seeds, nets = _seeds(ask.seeds, "seeds"), gan.config.nets
    if not 0 < ask.count <= nets.latent_dim:
        raise UserError(f"`count` {ask.count}: give 1 to {nets.latent_dim}")
    if ask.method == "factorised":
        found, shares = directions.factorise_first_layer(*gan.generator, nets, ask.count)
    else:
        many = np.arange(min(DRAWN, 2000))  # a square matrix of them is factorised
        points = np.asarray(latents.to_normal(gan.latents(many), nets))
        found, shares = directions.find_principal_directions(
            gan.first_features(points, _labels(gan, ask, many)), points, ask.count
        )
    rows = [
        (f"{i + 1}: {share:.1%}" + (f", seed {seed}" if len(seeds) > 1 else ""), strip)
        for i, (one, share) in enumerate(zip(found, shares, strict=True))
        for seed, strip in zip(seeds, _strips(ask, gan, seeds, one), strict=True)
    ]
    _save(ask, gan, out, f"seed {ask.seeds} along {ask.method} directions", rows, [f"{step:+g} sd" for step in STEPS])
    return {
        "seeds": seeds.tolist(),
        "method": ask.method,
        "shares_of_variance": shares.tolist(),
        "directions": found.round(6).tolist(),
        "steps_sd": STEPS,
    }


def _moved(points, direction, steps, nets):
    """(F, N, L)."""
    return np.swapaxes(latents.move_along(points, jnp.asarray(direction, jnp.float32), jnp.asarray(steps), nets), 0, 1)


def _strips(ask, gan, seeds, direction):
    asked = _labels(gan, ask, seeds)
    faces = [gan.images(moved, asked) for moved in _moved(gan.latents(seeds), direction, STEPS, gan.config.nets)]
    return np.stack(faces, 1)  # (N, F, S, S, C)


def _number(value):
    return None if np.isnan(value) else round(float(value), 4)


# ---- A photo ----


def invert(ask: Invert, gan: TrainedGAN, out: Path) -> dict:
    """The photo, the nearest face, and what each start came to."""
    if not 0 < ask.starts <= 1024 or not 0 < ask.iterations <= 100_000:
        raise UserError(
            f"`starts` {ask.starts} `iterations` {ask.iterations}: give 1 to 1,024 starts and 1 to 100,000 iterations"
        )
    nets, seeds = gan.config.nets, np.arange(ask.starts)
    photo = decode_image_file(ask.photo, nets.size, nets.channels, gan.config.data.crop)
    asked = _labels(gan, ask, seeds)
    start, step = make_inversion(nets)
    step = jax.jit(functools.partial(step, *gan.generator, photo))
    state = begun = start(jnp.asarray(latents.to_normal(gan.latents(seeds), nets)))
    untouched = np.asarray(step(state, asked)[1])
    for _ in range(ask.iterations):
        state, _ = step(state, asked)
    losses = np.asarray(step(state, asked)[1])  # of the points where the descent ended
    ended = jnp.where((losses <= untouched)[:, None], state[0], begun[0])  # a start on the face itself only loses by it
    losses = np.minimum(losses, untouched)
    rank = np.argsort(losses, kind="stable")
    points = np.asarray(latents.from_normal(ended, nets))[rank]
    faces = gan.images(points, None if asked is None else asked[rank])
    typical = float(np.median(untouched))
    error = float(np.sqrt(np.square(faces[0].astype(float) - photo).mean()))
    names = ["photo", *(f"{losses[i]:.4f}" for i in rank[:9])]
    _save(
        ask,
        gan,
        out,
        f"{Path(ask.photo).name} and the faces nearest to it, by loss",
        [("", np.concatenate([photo[None], faces[:9]]))],
        names,
    )
    print(
        f"nearest face: {error:.1f} grey levels away (root mean square); losses {losses[rank[0]]:.4f} to "
        f"{losses[rank[-1]]:.4f}, before the descent {untouched.min():.4f} to {untouched.max():.4f}, median {typical:.4f}"
    )
    if losses[rank[0]] > typical / 3:
        print(
            f"warning: {ask.photo}: nothing that the generator draws is much like it; is it a face, cut as the training "
            "pictures are?",
            file=sys.stderr,
        )
    return {
        "photo": Path(ask.photo).name,
        "starts": seeds.tolist(),
        "iterations": ask.iterations,
        "losses": losses[rank].tolist(),
        "start_of": rank.tolist(),
        "losses_before": untouched[rank].tolist(),
        "loss_of_untouched_seeds": typical,
        "rms_grey_levels": error,
        "latents": points.tolist(),
    }


EXPLORERS: dict[type[Explore], Callable[..., dict]] = {
    Truncate: truncate,
    Morph: morph,
    Walk: walk,
    Arithmetic: arithmetic,
    Attributes: attributes,
    Directions: find_directions,
    Invert: invert,
}


# ---- What is asked, and what is written ----


def _seeds(text, flag):
    return cli.parse_seeds(text, flag, most=1000)


def _two_or_more(ask):
    seeds = _seeds(ask.seeds, "seeds")
    if len(seeds) < 2:
        raise UserError(f"`seeds` {ask.seeds}: give at least two")
    return seeds


def _labels(gan, ask, seeds):
    return gan.labels(np.asarray(seeds, np.uint32), cli.parse_condition(ask.condition))


def _terms(equation):
    """[(+1 or -1, seeds)] of 1,2,3 - 4-6 + 7: a minus with spaces around it subtracts."""
    signs = ["+", *re.findall(r"\s([+-])\s", equation)]
    return [
        (1 if sign == "+" else -1, _seeds(term, "equation"))
        for sign, term in zip(signs, re.split(r"\s[+-]\s", equation), strict=True)
    ]


def _make_room(out):
    """Refuses, before the work rather than after it, what cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for file in (out, out.with_suffix(".json")):
            if file.is_dir():
                raise UserError(f"`out` {out}: {file} is a folder; give another name")
            partial = file.with_name(f"{file.name}.partial")  # what is written first (workdir.whole), and the longest name
            partial.touch()
            partial.unlink()
    except OSError as fault:
        raise UserError(f"`out` {out}: {fault.strerror}; give a place that can be written") from None


def _title(ask, gan):
    return f"{gan.name}, step {gan.step:,}" + (f", {ask.condition}" if ask.condition else "")


def _save(ask, gan, out, what, rows, columns=()):
    figures.save_png(out, figures.make_captioned_sheet(f"{_title(ask, gan)}: {what}", rows, columns))


def entry() -> None:
    """The console script."""
    cli.run_command(main)


if __name__ == "__main__":
    entry()
