"""Results of explorations: rows of images with captions, and numbers."""

import dataclasses

import numpy as np

from dcgan_jax.run import figures


@dataclasses.dataclass(frozen=True)
class Exploration:
    """Rows of samples with captions. A notebook shows them as a sheet; `numbers` holds all other results, ready for JSON."""

    title: str
    rows: list[tuple[str, np.ndarray]] = dataclasses.field(repr=False)  # name, (N, S, S, C) uint8; N may differ
    columns: list[str] = dataclasses.field(repr=False)  # a caption above each column, or none

    def make_sheet(self) -> np.ndarray:
        """Makes one image of all rows with their captions: (H, W, 3) uint8."""
        return figures.make_captioned_sheet(self.title, self.rows, self.columns)

    def _repr_png_(self) -> bytes:
        return figures.encode_png(self.make_sheet())

    @property
    def numbers(self) -> dict:
        """All fields but images and captions, as JSON values."""
        own = dataclasses.fields(self)[len(dataclasses.fields(Exploration)) :]
        return {field.name: _to_json(getattr(self, field.name)) for field in own}


@dataclasses.dataclass(frozen=True)
class Truncation(Exploration):
    """A row for each seed, a column for each truncation."""

    seeds: np.ndarray
    truncations: tuple[float, ...]
    spread_grey_levels: list[float]  # standard deviation over samples, averaged over pixels
    spread_of_faces: int  # number of samples that it was measured on


@dataclasses.dataclass(frozen=True)
class Morph(Exploration):
    """A row for each pair of successive seeds."""

    seeds: np.ndarray
    shares: np.ndarray  # 0: the first seed's latent, 1: the next one's


@dataclasses.dataclass(frozen=True)
class Walk(Exploration):
    """One row: the frames of a looping animation."""

    seeds: np.ndarray
    frames: int
    frames_each: int  # from one seed to the next

    _repr_png_ = None  # pyrefly: ignore[bad-override] - tells IPython that there is no image to show


@dataclasses.dataclass(frozen=True)
class Arithmetic(Exploration):
    """A row for each term, with its mean last; then a row with the result and eight samples near it."""

    equation: str
    result: np.ndarray  # (L,) float32: latent of the result
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
    attributes: list[str]  # A names, each with a direction
    left_out: list[str]  # all or none of the images that the probe is fitted to have these
    probe_balanced_accuracy: np.ndarray  # (A,), NaN where all or none of the held-out images have it
    changes_sd: np.ndarray  # (A, A): row: the direction, column: the attribute that changes
    directions: np.ndarray  # (A, L)
    steps_sd: tuple[float, ...]
    space: str
    data: str
    counts: tuple[int, int]  # numbers of images that the probe was fitted to and tested on

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
    starts: np.ndarray  # their seeds
    iterations: int
    losses: np.ndarray  # (N,) ascending
    start_of: np.ndarray  # (N,) the seed that each started from
    losses_before: np.ndarray  # (N,)
    loss_of_untouched_seeds: float  # median before the descent
    rms_grey_levels: float  # difference between the photo and the nearest sample
    latents: np.ndarray  # (N, L)

    @property
    def is_close(self) -> bool:
        """Whether the descent came close to the photo: a third of the starts' median loss, or less."""
        return bool(self.losses[0] <= self.loss_of_untouched_seeds / 3)


def _to_json(value: object) -> object:
    """Converts arrays and NumPy's numbers, which users may give for a count or a seed."""
    if isinstance(value, tuple):
        return tuple(map(_to_json, value))
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
