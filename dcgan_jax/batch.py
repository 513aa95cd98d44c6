"""What the data pipeline hands to the training step."""

from typing import NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray | jax.ShapeDtypeStruct  # of a batch on the device, on the host, or only its shape


class Batch(NamedTuple):
    """Real images with their labels. A pytree: stacked batches have one axis more in front.

    images: (B, S, S, C) uint8, or float32 in G's output range once the step has scaled them.
    labels: (B, A) uint8 of 0 and 1, the images' attributes; None where the recipe is not conditional.
    """

    images: jax.Array
    labels: jax.Array | None = None
