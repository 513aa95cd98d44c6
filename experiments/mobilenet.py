"""Features of the face score tool's MobileNetV2, for `evaluate --features` and `train --score-by`: not FID's.

    python -m dcgan_jax.evaluate --run RUN --features experiments/mobilenet.py:features

The tool, face_score.py with its weights beside it, is not part of this repository. FACE_SCORE names it; without FACE_SCORE it is
looked for in ../shared/tools, beside the checkout.
"""

import functools
import importlib.util
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 128  # pixels, the tool's default


@functools.cache
def network():
    """The tool's network with its weights, compiled."""
    tool = os.environ.get("FACE_SCORE") or Path(__file__).parents[2] / "shared/tools/face_score.py"
    spec = importlib.util.spec_from_file_location("face_score", tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    weights = module.load_weights()

    @jax.jit
    def see(images):
        small = images.astype(jnp.float32) / 255
        return module.mobilenet(weights, jax.image.resize(small, (len(images), SIDE, SIDE, 3), "bilinear"))

    return see


def features(images: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B, 1280) float32."""
    return np.asarray(network()(images))
