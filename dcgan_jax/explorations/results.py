"""What an exploration returns: images in rows with their captions, and numbers."""

import dataclasses

import numpy as np

from dcgan_jax.run import figures


@dataclasses.dataclass(frozen=True)
class Exploration:
    """Samples in rows with their captions. `numbers` is what else was found, as JSON takes it."""

    title: str
    rows: list[tuple[str, np.ndarray]] = dataclasses.field(repr=False)  # name, (N, S, S, C) uint8; N may differ
    columns: list[str] = dataclasses.field(repr=False)  # a word above each, or none

    def make_sheet(self) -> np.ndarray:
        """(H, W, 3) uint8: all rows with their captions."""
        return figures.make_captioned_sheet(self.title, self.rows, self.columns)

    def _repr_png_(self) -> bytes:
        return figures.encode_png(self.make_sheet())

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

    _repr_png_ = None  # pyrefly: ignore[bad-override] - IPython's word for "no image": a film is no sheet


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


def _to_json(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value
