"""Features of a MobileNetV2 trained on ImageNet, for `evaluate --features` and `train --score-by`. Not FID's.

    FACE_SCORE=face_score.py python -m dcgan_jax.evaluate --run RUN --features experiments/mobilenet.py:features

The environment variable FACE_SCORE names face_score.py, with mobilenetv2-features.npz beside it. They compute the Frechet
distances of RESULTS.md and are not in this repository. The module has load_weights() and mobilenet(weights, images), which
turns (B, S, S, 3) float32 in [0, 1] into (B, 1280).
"""

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import UserError

SIDE = 128  # pixels; face_score.py's default


@functools.cache
def network():
    """face_score.py's network with its weights, compiled. Raises: UserError without FACE_SCORE."""
    tool = os.environ.get("FACE_SCORE", "")
    if not os.path.isfile(tool):
        raise UserError(f"FACE_SCORE {tool or 'is not set'}: set this environment variable to the path of face_score.py")
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
