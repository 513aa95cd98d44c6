"""A batch: the data pipeline's output and the training step's input."""

from typing import NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray | jax.ShapeDtypeStruct  # a batch on the device, on the host, or only its shape


class Batch(NamedTuple):
    """Real images with their labels. A pytree: stacked batches have one more axis in front.

    images: (B, S, S, C) uint8; after scaling by the step, float32 in G's output range.
    labels: (B, A) uint8 of 0 and 1, the images' attributes; None if the recipe is not conditional.
    """

    images: jax.Array
    labels: jax.Array | None = None
