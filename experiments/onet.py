"""Features of a face detector, MTCNN's last network: a second opinion by a network that was trained on faces only.

    pip download --no-deps facenet-pytorch && unzip -j facenet_pytorch-*.whl '*/onet.pt'
    ONET=onet.pt python -m dcgan_jax.evaluate --run RUN --features experiments/onet.py:features
    ONET=onet.pt python experiments/onet.py FACES.npy [FACES.npy ...]     # the share that it classifies as faces

The weights are read as data, without PyTorch. Source: Zhang et al. 2016, arXiv:1604.02878, section 3 (O-Net), with
facenet-pytorch's weights.
"""

import functools
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.run import weight_files

SIDE = 48  # pixels
SHARE = 0.7  # of the image's side, central crop: O-Net was trained on tight boxes; with this crop it accepts 0.99 of real faces


@functools.cache
def network():
    """(B, S, S, 3) uint8 -> (features (B, 256), probability (B,) of a face), compiled."""
    layers = {name: jnp.asarray(array) for name, array in weight_files.read_arrays(Path(os.environ["ONET"])).items()}

    def prelu(x, n):
        return jnp.where(x > 0, x, layers[f"prelu{n}.weight"] * x)

    def conv(x, n):
        kernel = layers[f"conv{n}.weight"].transpose(2, 3, 1, 0)
        x = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return prelu(x + layers[f"conv{n}.bias"], n)

    def pool(x, side):  # PyTorch's ceil_mode: an incomplete last window counts
        short = -(x.shape[1] - side) % 2
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, side, side, 1), (1, 2, 2, 1), ((0, 0), (0, short), (0, short), (0, 0)))

    @jax.jit
    def see(images):
        side = images.shape[1]
        edge = round(side * (1 - SHARE) / 2)
        x = images[:, edge : side - edge, edge : side - edge].astype(jnp.float32)
        x = (jax.image.resize(x, (len(x), SIDE, SIDE, 3), "bilinear") - 127.5) / 128
        x = conv(pool(conv(pool(conv(pool(conv(x, 1), 3), 2), 3), 3), 2), 4)  # (B, 3, 3, 128)
        x = x.transpose(0, 2, 1, 3).reshape(len(x), -1)  # the weights' order: columns first
        x = prelu(x @ layers["dense5.weight"].T + layers["dense5.bias"], 5)
        return x, jax.nn.softmax(x @ layers["dense6_1.weight"].T + layers["dense6_1.bias"])[:, 1]

    return see


def features(images: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B, 256) float32."""
    return np.asarray(network()(images)[0])


if __name__ == "__main__":
    for file in sys.argv[1:]:
        faces = np.load(file)
        seen = np.concatenate([network()(faces[i : i + 500])[1] for i in range(0, len(faces), 500)])
        print(f"{file}: {np.mean(seen > 0.5):.3f} of {len(faces)} are faces")
