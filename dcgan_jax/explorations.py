"""What a generator's latents mean: morphs, walks, arithmetic, directions, the latent of a photo. Each is a method of TrainedGAN.

Nothing here prints or writes. `python -m dcgan_jax.explore` draws and saves what these functions return.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import UserError, make_printable
from dcgan_jax.data.batches import permute_epoch
from dcgan_jax.data.pack import decode_image_file, read_labels, suggest_nearest
from dcgan_jax.gan import directions as latent_directions
from dcgan_jax.gan import latents
from dcgan_jax.gan.inversion import make_inversion
from dcgan_jax.quality.linear_probe import fit_probe, score_probe, split_fit_and_test
from dcgan_jax.run import training_images
from dcgan_jax.seeds import Seeds, describe_seeds, to_seed_array

if TYPE_CHECKING:
    from dcgan_jax.api import TrainedGAN

FITTED = 4000  # samples that directions are fitted to
MEASURED = 256  # samples that are moved along each direction, to see what changes
STEPS_SD = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # standard deviations
NOISE = 0.25  # of the paper's arithmetic, each way (arXiv:1511.06434, figure 7)
MOST_SEEDS, MOST_FRAMES = 1000, 20_000

Condition = Mapping[str, int] | None


@dataclasses.dataclass(frozen=True)
class Exploration:
    """Samples in rows with their captions. `numbers` is what else was found, as JSON takes it."""

    title: str
    rows: list[tuple[str, np.ndarray]] = dataclasses.field(repr=False)  # name, (N, S, S, C) uint8; N may differ
    columns: list[str] = dataclasses.field(repr=False)  # a word above each, or none

    @property
    def numbers(self) -> dict:
        own = dataclasses.fields(self)[len(dataclasses.fields(Exploration)) :]
        return {field.name: _to_json(getattr(self, field.name)) for field in own}


@dataclasses.dataclass(frozen=True)
class Truncation(Exploration):
    """Rows of seeds, columns of truncations."""

    seeds: np.ndarray
    truncations: tuple[float, ...]
    spread_grey_levels: list[float]  # standard deviation of a pixel over samples, the mean of all pixels
    spread_of_faces: int  # samples that it is of


@dataclasses.dataclass(frozen=True)
class Morph(Exploration):
    """A row from each seed to the next."""

    seeds: np.ndarray
    shares: np.ndarray  # of the way, 0 to 1


@dataclasses.dataclass(frozen=True)
class Walk(Exploration):
    """One row: the frames of an endless film."""

    seeds: np.ndarray
    frames: int
    frames_each: int  # from one seed to the next


@dataclasses.dataclass(frozen=True)
class Arithmetic(Exploration):
    """A row for each term, its mean last, and one of the result with eight around it."""

    equation: str
    result: np.ndarray  # (L,) float32: its latent
    noise: float
    noise_seed: int


@dataclasses.dataclass(frozen=True)
class Directions(Exploration):
    """A strip for each direction and seed."""

    seeds: np.ndarray
    method: str
    shares_of_variance: np.ndarray  # (D,)
    directions: np.ndarray  # (D, L) float32, unit vectors
    steps_sd: tuple[float, ...]

    @property
    def numbers(self) -> dict:
        return super().numbers | {"directions": self.directions.round(6).tolist()}


@dataclasses.dataclass(frozen=True)
class AttributeDirections(Exploration):
    """A strip for each shown attribute and seed."""

    seeds: np.ndarray
    attributes: list[str]  # A of them, each with a direction
    left_out: list[str]  # which all or none of the images that the probe is fitted to have
    probe_balanced_accuracy: np.ndarray  # (A,), NaN where the tested images do not differ
    changes_sd: np.ndarray  # (A, A): row: the direction, column: the attribute that changes
    directions: np.ndarray  # (A, L)
    steps_sd: tuple[float, ...]
    space: str
    data: str
    counts: tuple[int, int]  # images that the probe was fitted to, and tested on

    @property
    def numbers(self) -> dict:
        found = super().numbers | {
            "probe_balanced_accuracy": [None if np.isnan(of) else round(float(of), 4) for of in self.probe_balanced_accuracy],
            "changes_sd": self.changes_sd.round(4).tolist(),
            "directions": self.directions.round(6).tolist(),
        }
        return {name: value for name, value in found.items() if name != "counts"}


@dataclasses.dataclass(frozen=True)
class Inversion(Exploration):
    """The photo and the nearest samples, best first."""

    photo: str
    starts: np.ndarray  # the seeds
    iterations: int
    losses: np.ndarray  # (N,) ascending
    start_of: np.ndarray  # (N,) the seed that each began from
    losses_before: np.ndarray  # (N,)
    loss_of_untouched_seeds: float  # the median
    rms_grey_levels: float  # of the nearest
    latents: np.ndarray  # (N, L)

    @property
    def is_close(self) -> bool:
        """Whether the photo is at all like what G generates."""
        return bool(self.losses[0] <= self.loss_of_untouched_seeds / 3)


def _to_json(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


# ---- Ways between latents ----


def truncate(
    gan: "TrainedGAN", seeds: Seeds = "0-7", truncations: Sequence[float] = (), condition: Condition = None
) -> Truncation:
    """The same seeds with latents cut to smaller and smaller magnitudes: samples get more alike, and fail less.

    truncations: largest magnitudes, in standard deviations of a normal law or shares of a uniform one's reach; none: five.
    """
    cuts = tuple(truncations)
    if not cuts:
        cuts = (3.0, 2.0, 1.0, 0.7, 0.4) if gan.config.nets.latent_law == "normal" else (1.0, 0.8, 0.6, 0.4, 0.2)
    found = _read_seeds(seeds)
    labels = gan.labels(found, condition)
    for cut in cuts:
        if not cut > 0:
            raise UserError(f"`truncations` {cut}: give magnitudes above 0")
    samples = [gan.images(gan.latents(found, cut), labels) for cut in cuts]
    many = np.arange(MEASURED)
    spread = [
        float(gan.images(gan.latents(many, cut), gan.labels(many, condition)).std(0, dtype=np.float64).mean()) for cut in cuts
    ]
    rows = [(f"seed {seed}", np.stack([some[i] for some in samples])) for i, seed in enumerate(found)]
    title = _make_title(gan, condition, "latents cut to magnitudes")
    return Truncation(title, rows, [f"{cut:g}" for cut in cuts], found, cuts, spread, MEASURED)


def morph(gan: "TrainedGAN", seeds: Seeds = "0-5", columns: int = 9, condition: Condition = None) -> Morph:
    """From each seed's face to the next one's, a row each. columns: images of a row, its ends among them."""
    if not 2 <= columns <= 1000:
        raise UserError(f"`columns` {columns}: give 2 to 1,000")
    found, shares = _read_two_or_more(seeds), np.linspace(0, 1, columns, dtype=np.float32)
    points, nets, rows = gan.latents(found), gan.config.nets, []
    labels = gan.labels(found, condition)
    for i in range(len(found) - 1):
        way = np.asarray(latents.interpolate(points[i], points[i + 1], shares, nets))
        # A label has no halves: the second one's from the middle on.
        towards = None if labels is None else labels[np.where(shares < 0.5, i, i + 1)]
        rows.append((f"{found[i]} to {found[i + 1]}", gan.images(way, towards)))
    title = _make_title(gan, condition, "from seed to seed")
    return Morph(title, rows, [f"{share:.0%}" for share in shares], found, shares)


def walk(gan: "TrainedGAN", seeds: Seeds = "0-5", frames_each: int = 24, condition: Condition = None) -> Walk:
    """The frames of an endless film through all seeds and back to the first. frames_each: from one seed to the next."""
    found = _read_two_or_more(seeds)
    if not 0 < frames_each * len(found) <= MOST_FRAMES:
        raise UserError(f"`frames_each` {frames_each}: {len(found)} seeds of 1 or more make at most 20,000 frames")
    way = np.asarray(latents.interpolate_loop(gan.latents(found), frames_each, gan.config.nets))
    labels = gan.labels(found, condition)
    near = None if labels is None else labels[(np.arange(len(way)) + frames_each // 2) // frames_each % len(found)]
    legs = [f"seed {a} to {b}" for a, b in zip(found, np.roll(found, -1), strict=True)]
    columns = [legs[i // frames_each] for i in range(len(way))]
    return Walk(_make_title(gan, condition), [("", gan.images(way, near))], columns, found, len(way), frames_each)


def arithmetic(gan: "TrainedGAN", equation: str = "0,1,2 - 3,4,5 + 6,7,8", noise_seed: int = 0, condition: Condition = None):
    """The paper's vector arithmetic: means of chosen seeds' latents, added and subtracted (arXiv:1511.06434, figure 7).

    Args: equation, terms of seeds with + or - between; noise_seed, of the eight latents around the result.
    """
    terms, nets = _read_terms(equation), gan.config.nets
    # As normal ones: sums of uniform latents leave the cube that G knows.
    points = [np.asarray(latents.to_normal(gan.latents(seeds), nets)) for _, seeds in terms]
    means = np.stack([of.mean(0) for of in points])
    result = sum(sign * mean for (sign, _), mean in zip(terms, means, strict=True))
    around = np.random.default_rng(noise_seed).uniform(-NOISE, NOISE, (8, len(result))).astype(np.float32)
    near = np.concatenate([result[None], result + around])
    labels = gan.labels(terms[0][1][:1], condition)  # one answer for all

    def generate(some):
        return gan.images(latents.from_normal(some, nets), None if labels is None else labels.repeat(len(some), 0))

    rows = []
    for (sign, seeds), of, mean in zip(terms, points, means, strict=True):
        rows.append((f"{'+' if sign > 0 else '-'} {','.join(map(str, seeds))}", generate(np.concatenate([of, mean[None]]))))
    rows.append(("= and near it", generate(near)))
    title = _make_title(gan, condition, f"{equation}; the last of a term's row is their mean")
    return Arithmetic(title, rows, [], equation, np.asarray(latents.from_normal(result, nets)), NOISE, noise_seed)


# ---- Directions ----


def directions(
    gan: "TrainedGAN",
    seeds: Seeds = "0",
    method: Literal["principal", "factorised"] = "principal",
    count: int = 8,
    condition: Condition = None,
) -> Directions:
    """Directions along which samples vary most, without labels, the strongest first; and strips of the seeds moved along each.

    method: principal, GANSpace, by what the second layer sees; factorised, SeFa, by the first layer's weights alone.
    """
    found, nets = _read_seeds(seeds), gan.config.nets
    if not 0 < count <= nets.latent_dim:
        raise UserError(f"`count` {count}: give 1 to {nets.latent_dim}")
    if method not in ("principal", "factorised"):
        raise UserError(f"`method` {make_printable(str(method), 100)}: give principal or factorised")
    if method == "factorised":
        vectors, shares = latent_directions.factorise_first_layer(*gan.generator, nets, count)
    else:
        many = np.arange(min(FITTED, 2000))  # a square matrix of them is factorised
        points = np.asarray(latents.to_normal(gan.latents(many), nets))
        features = gan.first_features(points, gan.labels(many, condition))
        vectors, shares = latent_directions.find_principal_directions(features, points, count)
    rows = [
        (f"{i + 1}: {share:.1%}" + (f", seed {seed}" if len(found) > 1 else ""), strip)
        for i, (vector, share) in enumerate(zip(vectors, shares, strict=True))
        for seed, strip in zip(found, _make_strips(gan, found, vector, condition), strict=True)
    ]
    title = _make_title(gan, condition, f"seed {describe_seeds(seeds)} along {method} directions")
    return Directions(title, rows, _name_steps(), found, method, shares, vectors, STEPS_SD)


def attribute_directions(
    gan: "TrainedGAN",
    seeds: Seeds = "0",
    attributes: Sequence[str] = (),
    data: str | Path = "",
    condition: Condition = None,
) -> AttributeDirections:
    """One direction for each attribute of the training images, by a linear probe on D's features; and strips along them.

    Args: attributes, which are shown; none: the twelve that their directions change most; data, images with attributes; empty:
        those the run was trained on.
    """
    found, nets = _read_seeds(seeds), gan.config.nets
    known = _fit_attribute_probe(gan, data, attributes)
    many = np.arange(FITTED)
    points, labels = gan.latents(many), gan.labels(many, condition)
    scores = known.margins(gan.features(gan.images(points, labels)))
    if scores.std(0).min() < 1e-9:  # margins are around -1 and 1
        raise UserError(
            f"{gan.name}: D sees no difference between the faces of step {gan.step:,}, so nothing is known to change "
            "them; try another `step`"
        )
    vectors = latent_directions.fit_attribute_directions(np.asarray(latents.to_normal(points, nets)), scores)
    changes = _measure_changes(gan, vectors, known.margins, scores.std(0), condition)
    strongest = [known.names[i] for i in np.argsort(-np.diag(changes), kind="stable")[:12]]
    rows = [
        (f"{name} {seed}" if len(found) > 1 else name, strip)
        for name in list(attributes) or strongest
        for seed, strip in zip(found, _make_strips(gan, found, vectors[known.names.index(name)], condition), strict=True)
    ]
    return AttributeDirections(
        title=_make_title(gan, condition, f"seed {describe_seeds(seeds)} along attributes"),
        rows=rows,
        columns=_name_steps(),
        seeds=found,
        attributes=known.names,
        left_out=known.left_out,
        probe_balanced_accuracy=known.balanced_accuracy,
        changes_sd=changes,
        directions=vectors,
        steps_sd=STEPS_SD,
        space="latents as normal ones (dcgan_jax.gan.latents.to_normal)",
        data=known.data,
        counts=known.counts,
    )


@dataclasses.dataclass(frozen=True)
class _AttributeProbe:
    names: list[str]
    left_out: list[str]
    margins: object  # (N, P) features -> (N, A)
    balanced_accuracy: np.ndarray  # (A,)
    data: str
    counts: tuple[int, int]


def _fit_attribute_probe(gan, data, shown) -> _AttributeProbe:
    packed = training_images.open_training_images(Path(gan.name), gan.config, str(data))
    source = packed.index["source"]["name"]
    fit, test = split_fit_and_test(permute_epoch(0, 0, len(packed.images)), packed.index["attributes"], source)
    names, values = read_labels(packed, "all")
    alike = [name for name, has in zip(names, values[fit].T, strict=True) if has.all() or not has.any()]
    among = f"of the {len(fit):,} pictures that the probe is fitted to, all or none have"
    for name in shown:
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
    return _AttributeProbe(names, alike, margins, seen.balanced, source, (len(fit), len(test)))


def _measure_changes(gan, vectors, margins, spread, condition):
    """(A, A): what moving other samples by two standard deviations each way changes, in `spread` of each margin.

    Row: the direction, column: what changes.
    """
    others = np.arange(FITTED, FITTED + MEASURED)
    points, labels = gan.latents(others), gan.labels(others, condition)
    changes = []
    for vector in vectors:
        moved = _move(points, vector, (2.0, -2.0), gan.config.nets)
        more, less = (margins(gan.features(gan.images(some, labels))).mean(0) for some in moved)
        changes.append((more - less) / np.maximum(spread, 1e-12))
    return np.stack(changes)


def _move(points, direction, steps, nets):
    """(F, N, L)."""
    return np.swapaxes(latents.move_along(points, jnp.asarray(direction, jnp.float32), jnp.asarray(steps), nets), 0, 1)


def _make_strips(gan, seeds, direction, condition):
    labels = gan.labels(seeds, condition)
    samples = [gan.images(moved, labels) for moved in _move(gan.latents(seeds), direction, STEPS_SD, gan.config.nets)]
    return np.stack(samples, 1)  # (N, F, S, S, C)


def _name_steps():
    return [f"{step:+g} sd" for step in STEPS_SD]


# ---- A photo ----


def invert(gan: "TrainedGAN", photo: str | Path, starts: int = 8, iterations: int = 300, condition: Condition = None) -> Inversion:
    """The latents whose samples are nearest to a photo, by gradient descent from several starts.

    Args: photo, an image file, cut as the training images were; starts, latents of the seeds 0, 1 ... to begin from.
    """
    if not 0 < starts <= 1024 or not 0 < iterations <= 100_000:
        raise UserError(f"`starts` {starts} `iterations` {iterations}: give 1 to 1,024 starts and 1 to 100,000 iterations")
    nets, seeds = gan.config.nets, np.arange(starts)
    image = decode_image_file(str(photo), nets.size, nets.channels, gan.config.data.crop)
    labels = gan.labels(seeds, condition)
    points, losses, before = _descend(gan, image, seeds, labels, iterations)
    rank = np.argsort(losses, kind="stable")
    points = points[rank]
    samples = gan.images(points, None if labels is None else labels[rank])
    name = Path(photo).name
    return Inversion(
        title=_make_title(gan, condition, f"{name} and the faces nearest to it, by loss"),
        rows=[("", np.concatenate([image[None], samples[:9]]))],
        columns=["photo", *(f"{losses[i]:.4f}" for i in rank[:9])],
        photo=name,
        starts=seeds,
        iterations=iterations,
        losses=losses[rank],
        start_of=rank,
        losses_before=before[rank],
        loss_of_untouched_seeds=float(np.median(before)),
        rms_grey_levels=float(np.sqrt(np.square(samples[0].astype(float) - image).mean())),
        latents=points,
    )


def _descend(gan, image, seeds, labels, iterations):
    """(N, L) latents, (N,) their losses, (N,) the losses before the descent."""
    nets = gan.config.nets
    start, step = make_inversion(nets)
    step = jax.jit(functools.partial(step, *gan.generator, image))
    state = begun = start(jnp.asarray(latents.to_normal(gan.latents(seeds), nets)))
    before = np.asarray(step(state, labels)[1])
    for _ in range(iterations):
        state, _ = step(state, labels)
    losses = np.asarray(step(state, labels)[1])  # of the points where the descent ended
    ended = jnp.where((losses <= before)[:, None], state[0], begun[0])  # a start on the face itself only loses by it
    return np.asarray(latents.from_normal(ended, nets)), np.minimum(losses, before), before


# ---- Arguments ----


def _read_seeds(seeds, argument="seeds"):
    return to_seed_array(seeds, argument, MOST_SEEDS)


def _read_two_or_more(seeds):
    found = _read_seeds(seeds)
    if len(found) < 2:
        raise UserError(f"`seeds` {describe_seeds(seeds)}: give at least two")
    return found


def _read_terms(equation):
    """[(+1 or -1, seeds)] of 1,2,3 - 4-6 + 7: a minus with spaces around it subtracts."""
    signs = ["+", *re.findall(r"\s([+-])\s", equation)]
    return [
        (1 if sign == "+" else -1, _read_seeds(term, "equation"))
        for sign, term in zip(signs, re.split(r"\s[+-]\s", equation), strict=True)
    ]


def _make_title(gan, condition, what=""):
    asked = ",".join(f"{name}={value}" for name, value in (condition or {}).items())
    return f"{gan.name}, step {gan.step:,}" + (f", {asked}" if asked else "") + (f": {what}" if what else "")
