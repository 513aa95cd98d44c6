"""Inversion: finds the latents whose samples are nearest to a photo."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import UserError
from dcgan_jax.data.decode import decode_image_file
from dcgan_jax.explorations.checks import Condition, check_whole, make_title
from dcgan_jax.explorations.results import Inversion
from dcgan_jax.gan import latents
from dcgan_jax.gan.inversion import make_inversion
from dcgan_jax.run.training_images import find_used_crop

if TYPE_CHECKING:
    from dcgan_jax.api import TrainedGAN


def invert(
    gan: "TrainedGAN", photo: str | Path, starts: int = 8, iterations: int = 300, condition: Condition = None
) -> Inversion:
    """Finds the latents whose samples are nearest to a photo, by gradient descent from several starts.

    Args: photo, an image file: a square is not cropped, another image is cropped as the training images were; starts, number of
        starts, which are the latents of seeds 0, 1 and so on; iterations, gradient steps from each.
    Raises: UserError.
    """
    check_whole(starts=starts, iterations=iterations)
    if not 0 < starts <= 1024 or not 0 < iterations <= 100_000:
        raise UserError(f"`starts` {starts} `iterations` {iterations}: give 1 to 1,024 starts and 1 to 100,000 iterations")
    nets, seeds = gan.config.nets, np.arange(starts)
    crop = find_used_crop(gan.folder, gan.config) or "centre"  # drawn images have no crop
    image = decode_image_file(str(photo), nets.size, nets.channels, crop)
    labels = gan.labels(seeds, condition)
    points, losses, before = _descend(gan, image, seeds, labels, iterations)
    rank = np.argsort(losses, kind="stable")
    points = points[rank]
    samples = gan.images(points, None if labels is None else labels[rank])
    name = Path(photo).name
    return Inversion(
        title=make_title(gan, condition, f"{name} and the nearest faces, with their loss"),
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


def _descend(
    gan: "TrainedGAN", image: np.ndarray, seeds: np.ndarray, labels: np.ndarray | None, iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs gradient descent from each seed's latent: (N, L) latents, (N,) their losses, (N,) losses before the descent."""
    nets = gan.config.nets
    start, step = make_inversion(nets)
    step = jax.jit(functools.partial(step, *gan.generator, image))
    state = begun = start(jnp.asarray(latents.to_normal(gan.latents(seeds), nets)))
    before = np.asarray(step(state, labels)[1])
    for _ in range(iterations):
        state, _ = step(state, labels)
    losses = np.asarray(step(state, labels)[1])  # of the last points
    ended = jnp.where((losses <= before)[:, None], state[0], begun[0])  # a start that is the exact solution can only get worse
    return np.asarray(latents.from_normal(ended, nets)), np.minimum(losses, before), before
