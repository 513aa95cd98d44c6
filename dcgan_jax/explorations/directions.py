"""Directions in latent space: those of the largest variation, without labels, and those of the training images' attributes."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import Nets, UserError, make_printable
from dcgan_jax.data.attributes import suggest_nearest
from dcgan_jax.data.batches import permute_epoch
from dcgan_jax.data.pack import read_all_labels
from dcgan_jax.explorations.checks import Condition, check_whole, make_title, read_seeds
from dcgan_jax.explorations.results import AttributeDirections, Directions
from dcgan_jax.gan import latents
from dcgan_jax.gan.directions import factorise_first_layer, find_principal_directions, fit_attribute_directions
from dcgan_jax.quality.linear_probe import fit_probe, score_probe, split_fit_and_test
from dcgan_jax.run.training_images import open_training_images
from dcgan_jax.seeds import Seeds, describe_seeds

if TYPE_CHECKING:
    from dcgan_jax.api import TrainedGAN

FIT_SAMPLES = 4000  # directions of attributes are fitted to so many samples
PRINCIPAL_SAMPLES = 2000  # for principal directions; the (N, N) matrix of the samples is decomposed, at a cost of N^3
EFFECT_SAMPLES = 256  # so many samples measure what each direction changes
STEPS_SD = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # standard deviations


def directions(
    gan: "TrainedGAN",
    seeds: Seeds = "0",
    method: Literal["principal", "factorised"] = "principal",
    count: int = 8,
    condition: Condition = None,
) -> Directions:
    """Finds the latent directions along which samples vary most, and moves the seeds' samples along each. Needs no labels.

    Args: method, principal (GANSpace, from the outputs of G's first up-sampling) or factorised (SeFa, from the weights of G's
        first layer); count, number of directions, the strongest first.
    Raises: UserError.
    """
    found, nets = read_seeds(seeds), gan.config.nets
    check_whole(count=count)
    if not 0 < count <= nets.latent_dim:
        raise UserError(f"`count` {count}: give 1 to {nets.latent_dim}")
    if method not in ("principal", "factorised"):
        raise UserError(f"`method` {make_printable(str(method), 100)}: give principal or factorised")
    if method == "factorised":
        vectors, shares = factorise_first_layer(*gan.generator, nets, count)
    else:
        many = np.arange(PRINCIPAL_SAMPLES)
        points = np.asarray(latents.to_normal(gan.latents(many), nets))
        features = gan.first_features(points, gan.labels(many, condition))
        vectors, shares = find_principal_directions(features, points, count)
    rows = [
        (f"{i + 1}: {share:.1%}" + (f", seed {seed}" if len(found) > 1 else ""), strip)
        for i, (vector, share) in enumerate(zip(vectors, shares, strict=True))
        for seed, strip in zip(found, _make_strips(gan, found, vector, condition), strict=True)
    ]
    title = make_title(gan, condition, f"seed {describe_seeds(seeds)} along {method} directions")
    return Directions(title, rows, _name_steps(), found, method, shares, vectors, STEPS_SD)


def attribute_directions(
    gan: "TrainedGAN", seeds: Seeds = "0", attributes: Sequence[str] = (), data: str | Path = "", condition: Condition = None
) -> AttributeDirections:
    """Finds a latent direction for each attribute of the training images, and moves the seeds' samples along them.

    A linear probe on D's features measures the attributes of samples.
    Args: attributes, those to show; none: the twelve that change most along their own direction; data, images with attributes;
        empty: the training images of the run.
    Raises: UserError.
    """
    found, nets = read_seeds(seeds), gan.config.nets
    known = _fit_attribute_probe(gan, data, attributes)
    many = np.arange(FIT_SAMPLES)
    points, labels = gan.latents(many), gan.labels(many, condition)
    scores = known.margins(gan.features(gan.images(points, labels)))
    if scores.std(0).min() < 1e-9:  # usual margins are near -1 and 1
        raise UserError(
            f"{gan.name}: D sees no difference between the samples of step {gan.step:,}, so no direction can be found; "
            "try another `step`"
        )
    vectors = fit_attribute_directions(np.asarray(latents.to_normal(points, nets)), scores)
    changes = _measure_changes(gan, vectors, known.margins, scores.std(0), condition)
    strongest = [known.names[i] for i in np.argsort(-np.diag(changes), kind="stable")[:12]]
    rows = [
        (f"{name} {seed}" if len(found) > 1 else name, strip)
        for name in list(attributes) or strongest
        for seed, strip in zip(found, _make_strips(gan, found, vectors[known.names.index(name)], condition), strict=True)
    ]
    return AttributeDirections(
        title=make_title(gan, condition, f"seed {describe_seeds(seeds)} along attributes"),
        rows=rows,
        columns=_name_steps(),
        seeds=found,
        attributes=known.names,
        left_out=known.left_out,
        probe_balanced_accuracy=known.balanced_accuracy,
        changes_sd=changes,
        directions=vectors,
        steps_sd=STEPS_SD,
        space="normal latents (dcgan_jax.gan.latents.to_normal)",
        data=known.data,
        counts=known.counts,
    )


@dataclasses.dataclass(frozen=True)
class _AttributeProbe:
    names: list[str]
    left_out: list[str]
    margins: Callable[[np.ndarray], np.ndarray]  # (N, P) features -> (N, A)
    balanced_accuracy: np.ndarray  # (A,)
    data: str
    counts: tuple[int, int]


def _fit_attribute_probe(gan: "TrainedGAN", data: str | Path, shown: Sequence[str]) -> _AttributeProbe:
    packed = open_training_images(gan.folder, gan.config, str(data))
    source = packed.index["source"]["name"]
    try:
        fit, test = split_fit_and_test(permute_epoch(0, 0, len(packed.images)), packed.index["attributes"], source)
    except ValueError as fault:
        raise UserError(f"`data`: {fault}") from None
    names, values = read_all_labels(packed)
    alike = [name for name, has in zip(names, values[fit].T, strict=True) if has.all() or not has.any()]
    among = f"all or none of the {len(fit):,} images that the probe is fitted to have"
    for name in shown:
        if name not in names:
            raise UserError(
                f"`attributes` {make_printable(name, 100)}: not an attribute of {source}; {suggest_nearest(name, names)}"
            )
        if name in alike:
            raise UserError(f"`attributes` {name}: {among} it; leave it out, or give other `data`")
    if len(alike) == len(names):
        raise UserError(f"`data`: {source}: {among} their attributes, {', '.join(alike)}; give images that differ")
    values = values[:, [name not in alike for name in names]]
    names = [name for name in names if name not in alike]
    margins = fit_probe(gan.features(packed.images[fit]), values[fit])
    seen = score_probe(margins(gan.features(packed.images[test])), values[test], values[fit])
    return _AttributeProbe(names, alike, margins, seen.balanced, source, (len(fit), len(test)))


def _measure_changes(
    gan: "TrainedGAN", vectors: np.ndarray, margins: Callable[[np.ndarray], np.ndarray], spread: np.ndarray, condition: Condition
) -> np.ndarray:
    """Measures how attributes of new samples change from -2 to +2 standard deviations along each direction: (A, A).

    Row: the direction. Column: the attribute that changes. Unit: `spread`, the standard deviation of each attribute's margin.
    """
    others = np.arange(FIT_SAMPLES, FIT_SAMPLES + EFFECT_SAMPLES)
    points, labels = gan.latents(others), gan.labels(others, condition)
    changes = []
    for vector in vectors:
        moved = _move(points, vector, (2.0, -2.0), gan.config.nets)
        more, less = (margins(gan.features(gan.images(some, labels))).mean(0) for some in moved)
        changes.append((more - less) / np.maximum(spread, 1e-12))
    return np.stack(changes)


def _move(points: np.ndarray, direction: np.ndarray, steps: tuple[float, ...], nets: Nets) -> np.ndarray:
    """Moves (N, L) latents by each of F steps along a direction: (F, N, L)."""
    return np.swapaxes(latents.move_along(points, jnp.asarray(direction, jnp.float32), jnp.asarray(steps), nets), 0, 1)


def _make_strips(gan: "TrainedGAN", seeds: np.ndarray, direction: np.ndarray, condition: Condition) -> np.ndarray:
    """Generates each seed's samples at all steps along a direction: (N, F, S, S, C) uint8."""
    labels = gan.labels(seeds, condition)
    samples = [gan.images(moved, labels) for moved in _move(gan.latents(seeds), direction, STEPS_SD, gan.config.nets)]
    return np.stack(samples, 1)


def _name_steps() -> list[str]:
    return [f"{step:+g} sd" for step in STEPS_SD]
