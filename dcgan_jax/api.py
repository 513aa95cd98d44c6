"""A trained run in Python: dcgan_jax.load("runs/faces").sample(range(8)) returns an array of images. A notebook shows it."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from dcgan_jax.config import Config, UserError, make_printable
from dcgan_jax.data.attributes import match_name, suggest_nearest
from dcgan_jax.explorations import directions as direction_search
from dcgan_jax.explorations import interpolation, photo
from dcgan_jax.gan import latents as latent_space
from dcgan_jax.gan.directions import make_extract_first_features
from dcgan_jax.gan.logits import make_compute_logits, make_extract_features
from dcgan_jax.gan.sampling import generate_images, jit_cached, make_seed_latents, run_in_batches, sample_images, select_labels
from dcgan_jax.gan.state import describe_state
from dcgan_jax.places import expand_home
from dcgan_jax.run import checkpoints, figures, online_score, pretrained, workdir
from dcgan_jax.run.numerics import find_devices, pin_methods
from dcgan_jax.seeds import Seeds, to_seed_array

NOTEBOOK_SAMPLES = 16  # a notebook shows so many samples of a run


class ImageArray(np.ndarray):
    """(N, S, S, C) uint8 images: a NumPy array that a notebook shows as a sheet."""

    def _repr_png_(self) -> bytes | None:
        if self.ndim not in (3, 4) or self.dtype != np.uint8 or self.shape[-1] not in (1, 3) or not self.size:
            return None
        images = np.asarray(self).reshape(-1, *self.shape[-3:])
        if images.shape[1] != images.shape[2]:
            return None
        return figures.encode_png(figures.enlarge(figures.make_grid(images), images.shape[1]))


@pin_methods
class TrainedGAN:
    """A trained generator and discriminator, from one checkpoint of a run. No method changes them.

    The same arguments always give the same result. Seeds are given as 7, range(8) or "7,12,40-47". Methods raise UserError for
    impossible arguments.
    Attributes: name, the run as it was given to `load`; folder, where it is; config, its settings; step, of the checkpoint;
    attributes, names that samples can be conditioned on.
    """

    name: str
    folder: Path
    config: Config
    attributes: tuple[str, ...]
    step: int

    # Each is also a command of `python -m dcgan_jax.explore`, and returns images with captions and numbers.
    truncate, morph, walk, arithmetic = interpolation.truncate, interpolation.morph, interpolation.walk, interpolation.arithmetic
    directions, attribute_directions = direction_search.directions, direction_search.attribute_directions
    invert = photo.invert

    def __init__(self, run: Path, step: int | Literal["best"] | None):
        find_devices()
        self.name, self.folder = str(run), pretrained.find_run(run)
        self.config = workdir.read_config(self.folder)
        self.attributes = self.config.nets.conditions
        self.step, self._params, self._stats, self._table = checkpoints.restore_generator(
            self.folder, describe_state(self.config), online_score.resolve_step(self.folder, step)
        )

    def sample(self, seeds: Seeds, condition: Mapping[str, int] | None = None, truncation: float | None = None) -> ImageArray:
        """Generates the seeds' samples, (N, S, S, C) uint8: the same images as `python -m dcgan_jax.sample`.

        Args: condition, for a conditional run: attribute -> 0 or 1 for all samples, such as {"Smiling": 1}. Other attributes are
            as frequent as in the training images. truncation, see `latents`.
        Raises: UserError.
        """
        seeds = to_seed_array(seeds)  # an iterator can be read only once
        labels = self.labels(seeds, condition)
        if truncation is not None:
            return self.images(self.latents(seeds, truncation), labels)
        return sample_images(self.config.nets, self._params, self._stats, seeds, labels).view(ImageArray)

    def latents(self, seeds: Seeds, truncation: float | None = None) -> np.ndarray:
        """Returns the seeds' latents, (N, latent_dim) float32.

        truncation: the largest magnitude. With a smaller one samples vary less and fail less often (gan/latents.py). None: no
            truncation, as in training.
        """
        if truncation is not None and not truncation > 0:
            raise UserError(f"`truncation` {truncation}: give more than 0")
        nets = self.config.nets
        found = run_in_batches(jit_cached(make_seed_latents, nets), to_seed_array(seeds))
        return found if truncation is None else np.asarray(latent_space.truncate(found, truncation, nets))

    def labels(self, seeds: Seeds, condition: Mapping[str, int] | None = None) -> np.ndarray | None:
        """Returns the labels that the seeds' samples are conditioned on, (N, A) uint8; None if the run is not conditional."""
        if not isinstance(condition, Mapping | None):
            raise UserError(f"`condition` {condition!r}: give a dict from attributes to 0 or 1, such as {{'Smiling': 1}}")
        labels = select_labels(self._table, to_seed_array(seeds))
        table = self._table
        exclusive = table is not None and table.shape[1] > 1 and (table.sum(1) == 1).all()  # a folder for each class
        if labels is not None and exclusive and 1 in (condition or {}).values():
            labels[:] = 0
        for given, value in (condition or {}).items():
            name = match_name(given, self.attributes)
            about = f"`condition` {make_printable(name, 100)}"
            if labels is None:
                raise UserError(f"{about}: {self.name} was trained without `condition`")
            if name not in self.attributes:
                raise UserError(f"{about}: {self.name} was not trained on it; {suggest_nearest(name, self.attributes)}")
            if value not in (0, 1):
                raise UserError(f"{about}={value}: give 1 or 0")
            labels[:, self.attributes.index(name)] = value
        return labels

    def images(self, latents: latent_space.Latents, labels: np.ndarray | None = None) -> ImageArray:
        """Generates samples: latents (N, latent_dim) -> (N, S, S, C) uint8. labels: (N, A) of 0 and 1, for a conditional run."""
        nets, latents = self.config.nets, np.atleast_2d(np.asarray(latents, np.float32))
        if latents.ndim != 2 or latents.shape[1] != nets.latent_dim:
            raise UserError(f"`latents` {latents.shape}: {self.name} takes (N, {nets.latent_dim})")
        labels = self._check_labels(labels, len(latents))
        return generate_images(nets, self._params, self._stats, latents, labels).view(ImageArray)

    def discriminate(self, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Computes D's logits of (N, S, S, C) uint8 images: (N,) float32. A larger logit means "more real" to D.

        Compare logits only with each other (gan/logits.py). labels: (N, A), for a conditional run.
        """
        images = self._check_images(images)
        compute_logits = functools.partial(jit_cached(make_compute_logits, self.config), *self.discriminator)
        return run_in_batches(compute_logits, images, self._check_labels(labels, len(images)))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Computes D's features of (N, S, S, C) uint8 images: (N, P) float32 (gan/logits.py)."""
        return run_in_batches(
            functools.partial(jit_cached(make_extract_features, self.config), *self.discriminator), self._check_images(images)
        )

    @property
    def label_table(self) -> np.ndarray | None:
        """Labels of all seeds, (LABELS, A) uint8: seed i has row i % LABELS. None if the run is not conditional."""
        return self._table

    @property
    def generator(self) -> tuple[dict, dict]:
        """Parameters of the EMA generator and its BN statistics: float32 trees."""
        return self._params, self._stats

    def first_features(self, points: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Computes the outputs of G's first up-sampling: normal latents (N, latent_dim) -> (N, F) float32 (gan/directions.py)."""
        program = functools.partial(jit_cached(make_extract_first_features, self.config.nets), self._params, self._stats)
        return run_in_batches(program, np.asarray(points, np.float32), self._check_labels(labels, len(points)))

    @functools.cached_property
    def discriminator(self) -> tuple[dict, dict]:
        """Parameters of the discriminator and its BN statistics."""
        return checkpoints.restore_discriminator(self.folder, describe_state(self.config), self.step)

    def _check_images(self, images: np.ndarray) -> np.ndarray:
        nets, images = self.config.nets, np.asarray(images)
        shape = (nets.size, nets.size, nets.channels)
        if images.dtype != np.uint8 or images.shape[1:] != shape or images.ndim != 4:
            raise UserError(f"`images` {images.dtype} {images.shape}: {self.name} takes uint8 (N, {', '.join(map(str, shape))})")
        return images

    def _check_labels(self, labels: np.ndarray | None, count: int) -> np.ndarray | None:
        if self.attributes and labels is None:
            raise UserError(
                f"`labels`: {self.name} is conditional, so give labels of 0 and 1, (N, {len(self.attributes)}): "
                f"{', '.join(self.attributes)}"
            )
        if not self.attributes and labels is not None:
            raise UserError(f"`labels`: {self.name} was trained without `condition`")
        if labels is None:
            return None
        labels = np.asarray(labels)
        if labels.shape != (count, len(self.attributes)) or not np.isin(labels, (0, 1)).all():
            raise UserError(f"`labels` {labels.shape}: give ({count}, {len(self.attributes)}) of 0 and 1")
        return labels.astype(np.uint8)

    def __repr__(self) -> str:
        nets = self.config.nets
        return f"<{self.name}: {self.config.run.preset}, {nets.size} px, step {self.step:,}>"

    def _repr_png_(self) -> bytes | None:
        return self.sample(range(NOTEBOOK_SAMPLES))._repr_png_()


def load(run: str | Path, step: int | Literal["best"] | None = None) -> TrainedGAN:
    """Loads a trained run from its folder, or a generator of the package: "drawn32" or "drawn64". A path that exists comes first.

    step: of the checkpoint; None: the newest; "best": the one with the best score during training.
    Raises: UserError where there is no run, or no such checkpoint.
    """
    if not (step is None or step == "best" or (type(step) is int)):
        raise UserError(f"`step` {make_printable(repr(step), 100)}: give a whole number, 'best' or None")
    return TrainedGAN(Path(expand_home(str(run))), step)
