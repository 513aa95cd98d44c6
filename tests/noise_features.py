"""Images of noise, the index of their pack, and a small feature network that counts its calls."""

import numpy as np

from dcgan_jax.run.feature_nets import FeatureNetwork

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
INDEX = {"fingerprint": "f", "pixels": "p", "source": {"name": "noise"}}


def network(sha256="one"):
    calls = []

    def function(images):
        calls.append(len(images))
        return images.reshape(len(images), 16, -1).mean(2).astype(np.float32)

    return FeatureNetwork("net.py:f", sha256, "none", function), calls
