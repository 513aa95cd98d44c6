"""Truncation of latents, interpolation between them (morphs and walks), and the DCGAN paper's vector arithmetic."""

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

SPREAD_SAMPLES = 256  # the spread is measured on so many samples
NOISE = 0.25  # half the range of the uniform noise that the paper adds (arXiv:1511.06434, figure 7)
MOST_FRAMES = 20_000


def truncate(
    gan: "TrainedGAN", seeds: Seeds = "0-7", truncations: Sequence[float] = (), condition: Condition = None
) -> Truncation:
    """Generates the same seeds with their latents truncated more and more: samples vary less and fail less often.

    truncations: largest magnitudes, in standard deviations of normal latents, or as shares of the range of uniform ones; none:
        five values. Raises: UserError.
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
    title = make_title(gan, condition, "latents truncated to magnitudes")
    return Truncation(title, rows, [f"{cut:g}" for cut in cuts], found, cuts, spread, SPREAD_SAMPLES)


def morph(gan: "TrainedGAN", seeds: Seeds = "0-5", columns: int = 9, condition: Condition = None) -> Morph:
    """Interpolates from each seed's face to the next one's. columns: images in a row, including both ends. Raises: UserError."""
    check_whole(columns=columns)
    if not 2 <= columns <= 1000:
        raise UserError(f"`columns` {columns}: give 2 to 1,000")
    found, shares = read_two_or_more(seeds), np.linspace(0, 1, columns, dtype=np.float32)
    points, nets, rows = gan.latents(found), gan.config.nets, []
    labels = gan.labels(found, condition)
    for i in range(len(found) - 1):
        way = np.asarray(latents.interpolate(points[i], points[i + 1], shares, nets))
        # Labels are 0 or 1, so they are not interpolated: from the middle on they are the second seed's.
        towards = None if labels is None else labels[np.where(shares < 0.5, i, i + 1)]
        rows.append((f"{found[i]} to {found[i + 1]}", gan.images(way, towards)))
    title = make_title(gan, condition, "from seed to seed")
    return Morph(title, rows, [f"{share:.0%}" for share in shares], found, shares)


def walk(gan: "TrainedGAN", seeds: Seeds = "0-5", frames_each: int = 24, condition: Condition = None) -> Walk:
    """Generates the frames of a looping animation through all seeds and back to the first.

    frames_each: frames from one seed to the next. Raises: UserError.
    """
    found = read_two_or_more(seeds)
    check_whole(frames_each=frames_each)
    if not 0 < frames_each * len(found) <= MOST_FRAMES:
        raise UserError(f"`frames_each` {frames_each}: give 1 to {MOST_FRAMES // len(found):,} with {len(found)} seeds")
    way = np.asarray(latents.interpolate_loop(gan.latents(found), frames_each, gan.config.nets))
    labels = gan.labels(found, condition)
    near = None if labels is None else labels[(np.arange(len(way)) + frames_each // 2) // frames_each % len(found)]
    legs = [f"seed {a} to {b}" for a, b in zip(found, np.roll(found, -1), strict=True)]
    columns = [legs[i // frames_each] for i in range(len(way))]
    return Walk(make_title(gan, condition), [("", gan.images(way, near))], columns, found, len(way), frames_each)


def arithmetic(
    gan: "TrainedGAN", equation: str = "0,1,2 - 3,4,5 + 6,7,8", noise_seed: int = 0, condition: Condition = None
) -> Arithmetic:
    """Adds and subtracts mean latents of chosen seeds, as the DCGAN paper does (arXiv:1511.06434, figure 7).

    Args: equation, terms of seeds with + or - between them; noise_seed, of the noise for eight more latents near the result.
    Raises: UserError.
    """
    check_whole(noise_seed=noise_seed)
    if noise_seed < 0:
        raise UserError(f"`noise_seed` {noise_seed}: give 0 or more")
    terms, nets = _read_terms(equation), gan.config.nets
    # As normal latents: sums of uniform ones leave the range that G was trained on.
    points = [np.asarray(latents.to_normal(gan.latents(seeds), nets)) for _, seeds in terms]
    means = np.stack([of.mean(0) for of in points])
    result = functools.reduce(operator.add, (sign * mean for (sign, _), mean in zip(terms, means, strict=True)))
    around = np.random.default_rng(noise_seed).uniform(-NOISE, NOISE, (8, len(result))).astype(np.float32)
    near = np.concatenate([result[None], result + around])
    labels = gan.labels(terms[0][1][:1], condition)  # the first seed's labels for all images

    def generate(some: np.ndarray) -> np.ndarray:
        return gan.images(latents.from_normal(some, nets), None if labels is None else labels.repeat(len(some), 0))

    rows: list[tuple[str, np.ndarray]] = []
    for (sign, seeds), of, mean in zip(terms, points, means, strict=True):
        rows.append((f"{'+' if sign > 0 else '-'} {','.join(map(str, seeds))}", generate(np.concatenate([of, mean[None]]))))
    rows.append(("= and samples near it", generate(near)))
    title = make_title(gan, condition, f"{equation}; the last image of a term's row is the mean")
    return Arithmetic(title, rows, [], equation, np.asarray(latents.from_normal(result, nets)), NOISE, noise_seed)


def _read_terms(equation: str) -> list[tuple[int, np.ndarray]]:
    """Parses 1,2,3 - 4-6 + 7 into [(+1 or -1, seeds)]. A minus with spaces around it subtracts; without, it is a range."""
    signs = ["+", *re.findall(r"\s([+-])\s", equation)]
    return [
        (1 if sign == "+" else -1, read_seeds(term, "equation"))
        for sign, term in zip(signs, re.split(r"\s[+-]\s", equation), strict=True)
    ]
