"""Batch normalisation with stored statistics, folded into the convolution before it: for pretrained networks of features."""

from collections.abc import Mapping

import numpy as np

NORM_PARTS = ("weight", "bias", "running_mean", "running_var")  # arrays of a batch normalisation


def check_shapes(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], network: str) -> None:
    """Raises: ValueError that names the first array of `shapes` that is missing or has another shape. network: "the X's"."""
    for name, shape in shapes.items():
        if name not in weights:
            raise ValueError(f"{name} is missing: these are not {network} weights")
        if weights[name].shape != shape:
            raise ValueError(f"{name} is {weights[name].shape}, not {shape}: these are not {network} weights")


def fold_convolution(weights: Mapping[str, np.ndarray], conv: str, norm: str, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Folds the batch normalisation `norm` into the kernel of `conv` before it. Computes in float64.

    weights: PyTorch's names -> conv.weight (O, I, kh, kw); norm.weight, .bias, .running_mean and .running_var (O,).
    Returns: kernel (kh, kw, I, O) and bias (O,), float32.
    """
    names = (f"{conv}.weight", *(f"{norm}.{part}" for part in NORM_PARTS))
    kernel, gain, bias, mean, variance = (np.asarray(weights[name], np.float64) for name in names)
    gain = gain / np.sqrt(variance + epsilon)
    return (kernel.transpose(2, 3, 1, 0) * gain).astype(np.float32), (bias - mean * gain).astype(np.float32)
