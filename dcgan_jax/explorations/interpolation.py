"""Ways between latents: truncations, morphs, walks, and the paper's arithmetic."""

import functools
import operator
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dcgan_jax.config import UserError
from dcgan_jax.explorations.checks import Condition, check_whole, make_title, read_seeds, read_two_or_more
from dcgan_jax.explorations.results import Arithmetic, Morph, Truncation, Walk
from dcgan_jax.gan import latents
from dcgan_jax.seeds import Seeds

if TYPE_CHECKING:
    from dcgan_jax.api import TrainedGAN

SPREAD_SAMPLES = 256  # samples whose spread is measured
NOISE = 0.25  # of the paper's arithmetic, each way (arXiv:1511.06434, figure 7)
MOST_FRAMES = 20_000


def truncate(
    gan: "TrainedGAN", seeds: Seeds = "0-7", truncations: Sequence[float] = (), condition: Condition = None
) -> Truncation:
    """The same seeds with latents cut to smaller and smaller magnitudes: samples get more alike, and fail less.

    truncations: largest magnitudes, in standard deviations of a normal law or shares of a uniform one's reach; none: five.
    """
    cuts = tuple(truncations)
    if not cuts:
        cuts = (3.0, 2.0, 1.0, 0.7, 0.4) if gan.config.nets.latent_law == "normal" else (1.0, 0.8, 0.6, 0.4, 0.2)
    found = read_seeds(seeds)
    labels = gan.labels(found, condition)
    for cut in cuts:
        if not cut > 0:
            raise UserError(f"`truncations` {cut}: give magnitudes above 0")
    samples = [gan.images(gan.latents(found, cut), labels) for cut in cuts]
    many = np.arange(SPREAD_SAMPLES)
    spread = [
        float(gan.images(gan.latents(many, cut), gan.labels(many, condition)).std(0, dtype=np.float64).mean()) for cut in cuts
    ]
    rows = [(f"seed {seed}", np.stack([some[i] for some in samples])) for i, seed in enumerate(found)]
    title = make_title(gan, condition, "latents cut to magnitudes")
    return Truncation(title, rows, [f"{cut:g}" for cut in cuts], found, cuts, spread, SPREAD_SAMPLES)


def morph(gan: "TrainedGAN", seeds: Seeds = "0-5", columns: int = 9, condition: Condition = None) -> Morph:
    """From each seed's face to the next one's, a row each. columns: images of a row, its ends among them."""
    check_whole(columns=columns)
    if not 2 <= columns <= 1000:
        raise UserError(f"`columns` {columns}: give 2 to 1,000")
    found, shares = read_two_or_more(seeds), np.linspace(0, 1, columns, dtype=np.float32)
    points, nets, rows = gan.latents(found), gan.config.nets, []
    labels = gan.labels(found, condition)
    for i in range(len(found) - 1):
        way = np.asarray(latents.interpolate(points[i], points[i + 1], shares, nets))
        # A label has no halves: the second one's from the middle on.
        towards = None if labels is None else labels[np.where(shares < 0.5, i, i + 1)]
        rows.append((f"{found[i]} to {found[i + 1]}", gan.images(way, towards)))
    title = make_title(gan, condition, "from seed to seed")
    return Morph(title, rows, [f"{share:.0%}" for share in shares], found, shares)


def walk(gan: "TrainedGAN", seeds: Seeds = "0-5", frames_each: int = 24, condition: Condition = None) -> Walk:
    """The frames of an endless film through all seeds and back to the first. frames_each: from one seed to the next."""
    found = read_two_or_more(seeds)
    check_whole(frames_each=frames_each)
    if not 0 < frames_each * len(found) <= MOST_FRAMES:
        raise UserError(f"`frames_each` {frames_each}: {len(found)} seeds of 1 or more make at most {MOST_FRAMES:,} frames")
    way = np.asarray(latents.interpolate_loop(gan.latents(found), frames_each, gan.config.nets))
    labels = gan.labels(found, condition)
    near = None if labels is None else labels[(np.arange(len(way)) + frames_each // 2) // frames_each % len(found)]
    legs = [f"seed {a} to {b}" for a, b in zip(found, np.roll(found, -1), strict=True)]
    columns = [legs[i // frames_each] for i in range(len(way))]
    return Walk(make_title(gan, condition), [("", gan.images(way, near))], columns, found, len(way), frames_each)


def arithmetic(
    gan: "TrainedGAN", equation: str = "0,1,2 - 3,4,5 + 6,7,8", noise_seed: int = 0, condition: Condition = None
) -> Arithmetic:
    """The paper's vector arithmetic: means of chosen seeds' latents, added and subtracted (arXiv:1511.06434, figure 7).

    Args: equation, terms of seeds with + or - between; noise_seed, of the eight latents around the result.
    """
    check_whole(noise_seed=noise_seed)
    if noise_seed < 0:
        raise UserError(f"`noise_seed` {noise_seed}: give 0 or more")
    terms, nets = _read_terms(equation), gan.config.nets
    # As normal ones: sums of uniform latents leave the cube that G knows.
    points = [np.asarray(latents.to_normal(gan.latents(seeds), nets)) for _, seeds in terms]
    means = np.stack([of.mean(0) for of in points])
    result = functools.reduce(operator.add, (sign * mean for (sign, _), mean in zip(terms, means, strict=True)))
    around = np.random.default_rng(noise_seed).uniform(-NOISE, NOISE, (8, len(result))).astype(np.float32)
    near = np.concatenate([result[None], result + around])
    labels = gan.labels(terms[0][1][:1], condition)  # one answer for all

    def generate(some: np.ndarray) -> np.ndarray:
        return gan.images(latents.from_normal(some, nets), None if labels is None else labels.repeat(len(some), 0))

    rows: list[tuple[str, np.ndarray]] = []
    for (sign, seeds), of, mean in zip(terms, points, means, strict=True):
        rows.append((f"{'+' if sign > 0 else '-'} {','.join(map(str, seeds))}", generate(np.concatenate([of, mean[None]]))))
    rows.append(("= and near it", generate(near)))
    title = make_title(gan, condition, f"{equation}; the last of a term's row is their mean")
    return Arithmetic(title, rows, [], equation, np.asarray(latents.from_normal(result, nets)), NOISE, noise_seed)


def _read_terms(equation: str) -> list[tuple[int, np.ndarray]]:
    """[(+1 or -1, seeds)] of 1,2,3 - 4-6 + 7: a minus with spaces around it subtracts."""
    signs = ["+", *re.findall(r"\s([+-])\s", equation)]
    return [
        (1 if sign == "+" else -1, read_seeds(term, "equation"))
        for sign, term in zip(signs, re.split(r"\s[+-]\s", equation), strict=True)
    ]
