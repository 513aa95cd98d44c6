"""Finds directions in latent space along which one property of the samples changes, with labels or without.

Directions are unit vectors in the space of normal latents (gan/latents.py). `latents.move_along` uses them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import Nets
from dcgan_jax.gan.latents import from_normal
from dcgan_jax.gan.models import Generator, list_g_widths

RIDGE = 1e-2  # ridge penalty of the regression, relative to a coordinate's mean square times the number of latents
DAMPING = 0.05  # added to the diagonal of the slopes' Gram matrix, relative to the diagonal's mean


def fit_attribute_directions(points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Fits one direction per attribute, (A, L). Along row a, attribute a grows and the others stay constant, to first order.

    A ridge regression of the scores on the latents gives the slopes. A direction is the shortest vector with slope 1 for its own
    attribute and slope 0 for the others. Damping keeps the solution stable: attributes that cannot be separated (beard and
    moustache) get similar directions.
    Args: points (N, L), normal latents; scores (N, A) float, how strongly the sample of each latent shows each attribute.
    Returns: (A, L) float64; a row of zeros for an attribute that does not vary.
    Source: conditional manipulation, Shen et al. 2020, arXiv:1907.10786, section 3.2, there one pair at a time.
    """
    points, scores = points.astype(np.float64), scores.astype(np.float64)
    scores = (scores - scores.mean(0)) / np.maximum(scores.std(0), 1e-12)
    centred = points - points.mean(0)
    squares = centred.T @ centred
    ridge = RIDGE * np.trace(squares) / len(squares)
    slopes = np.linalg.solve(squares + ridge * np.eye(len(squares)), centred.T @ scores).T  # (A, L)
    gram = slopes @ slopes.T
    damping = max(DAMPING * np.trace(gram) / len(gram), 1e-30)
    return _normalise_rows(np.linalg.solve(gram + damping * np.eye(len(gram)), slopes))


def find_principal_directions(features: np.ndarray, points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the directions along which features vary most.

    Args: features (N, F) of the samples of points (N, L), normal latents. The cost grows with N^3.
    Returns: ((count, L) directions, (count,) shares of the variance), largest share first.
    Source: GANSpace, Härkönen et al. 2020, arXiv:2004.02546, section 2.2, equation 4: latents regressed on coordinates.
    """
    centred = features.astype(np.float64) - features.mean(0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    coordinates = vectors[:, ::-1][:, :count]  # (N, count), orthonormal
    directions = coordinates.T @ (points - points.mean(0))
    return _fix_signs(_normalise_rows(directions)), values[::-1][:count] / max(values.sum(), 1e-30)


def factorise_first_layer(params: dict, stats: dict, nets: Nets, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the directions that G's first layer amplifies most, from its weights and normalisation alone.

    Returns: as `find_principal_directions`.
    Source: SeFa, Shen and Zhou 2021, arXiv:2007.06600, section 3.2.
    """
    kernel = np.asarray(params["head"]["kernel"], np.float64)[: nets.latent_dim]  # without the rows of the labels
    if nets.architecture == "residual":  # each output is a channel of a learned map
        kernel = kernel * np.linalg.norm(np.asarray(params["basis"]["kernel"], np.float64), axis=(0, 1))[None]
    if nets.head_norm != "none":
        norm = stats["head_norm"]
        gain = 1 / np.sqrt(np.asarray(norm["var"], np.float64) + nets.bn_epsilon) * np.asarray(params["head_norm"]["scale"])
        kernel = kernel * np.resize(gain, kernel.shape[1])[None]  # channels are the last axis: the gains repeat for each pixel
    values, vectors = np.linalg.eigh(kernel @ kernel.T)
    return _fix_signs(_normalise_rows(vectors.T[::-1][:count])), values[::-1][:count] / max(values.sum(), 1e-30)


def make_extract_first_features(nets: Nets) -> Callable[..., jax.Array]:
    """Makes a function that gives the output of G's first upsampling layer, after its normalisation. Pure: jit it.

    Returns: f(params, stats, points (B, L) normal latents, labels (B, A) or None) -> (B, F) float32.
    """
    generator = Generator(nets)
    # With a single level, the first upsampling layer is the one that makes the image.
    layer = "image" if len(list_g_widths(nets)) == 1 else "up1_norm" if nets.g_norm == "batch" else "up1"

    def extract_features(params: dict, stats: dict, points: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        _, captured = generator.apply(
            {"params": params, "batch_stats": stats},
            from_normal(points, nets),
            False,
            labels,
            capture_intermediates=lambda module, _: module.name == layer,
            mutable="intermediates",
        )
        [x] = captured["intermediates"][layer]["__call__"]
        return x.reshape(len(x), -1).astype(jnp.float32)

    return extract_features


def _normalise_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def _fix_signs(rows: np.ndarray) -> np.ndarray:
    # The sign of an eigenvector is arbitrary: make its largest coordinate positive.
    return rows * np.sign(np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1))
