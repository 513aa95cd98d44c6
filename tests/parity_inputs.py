"""Inputs of the PyTorch parity fixtures, computed again instead of stored. NumPy only, because both sides import it.

`experiments/torch_parity.py` feeds these to PyTorch and stores the outputs; the tests feed the same to JAX. All
weights, statistics and feature maps are in TORCH layouts: conv (out, in, kh, kw), transposed conv (in, out, kh, kw),
Linear (out, in), maps (B, C, H, W). Only `reals` is in the layout of the data, (B, H, W, C). Steps count from 0.
"""

from itertools import pairwise
from math import gcd, prod
from typing import NamedTuple

import numpy as np

# Seeds: one per group, so that no two groups share a stream. RUNS below describes the runs.
CONV_SEED, BN_SEED, ADAM_SEED = 10, 11, 12

# Index numbers inside a run's seed. A parameter's index is its net's base plus its position in `parameter_shapes`;
# biases and betas have a position too, although they are zero and use no random numbers.
INDEX_G, INDEX_D, INDEX_LATENTS_D, INDEX_LATENTS_G, INDEX_REALS = 0, 100, 1000, 2000, 3000

BN_MOMENTUM = 0.1  # torch's convention, 0.9 in flax
SD = 0.02


class Run(NamedTuple):
    """One recorded training run. `updates`: how often one iteration updates the running statistics of that net."""

    recipe: str
    seed: int
    width: int
    batch: int
    steps: int
    image_size: int
    updates: dict[str, int]


RUNS = {
    "torch64": Run("torch64", seed=1, width=64, batch=8, steps=1, image_size=64, updates={"G": 1, "D": 3}),
    "torch64_width16": Run("torch64", seed=2, width=16, batch=8, steps=20, image_size=64, updates={"G": 1, "D": 3}),
    "article": Run("article", seed=3, width=32, batch=16, steps=20, image_size=32, updates={"G": 2, "D": 3}),
}


class ConvCase(NamedTuple):
    """`same` is TensorFlow's SAME: pads (1, 2) on a conv; transposed, k5 s2 p1 less its last row and column."""

    transposed: bool
    kernel: int
    stride: int
    padding: int
    output_padding: int
    same: bool
    batch: int
    size: int  # height and width of the input


def _conv_cases() -> dict[str, ConvCase]:
    cases = {"convT_k4s1p0_1": ConvCase(True, 4, 1, 0, 0, False, 2, 1), "conv_k4s1p0_4": ConvCase(False, 4, 1, 0, 0, False, 2, 4)}
    # 6 halves to the odd 3, and 3 doubles to 6; these have batch 1.
    for batch, conv_size, transposed_size in ((2, 8, 8), (1, 6, 3)):
        for label, kernel, padding, output_padding, same in (
            ("k4s2p1", 4, 1, 0, False), ("k5s2p2", 5, 2, 1, False), ("k5s2same", 5, 1, 0, True)
        ):  # fmt: skip
            cases[f"conv_{label}_{conv_size}"] = ConvCase(False, kernel, 2, padding, 0, same, batch, conv_size)
            cases[f"convT_{label}_{transposed_size}"] = ConvCase(
                True, kernel, 2, padding, output_padding, same, batch, transposed_size
            )
    return cases


CONV_CASES = _conv_cases()  # its order gives the index numbers of `conv_inputs`
CONV_IN, CONV_OUT = 3, 5

# Beyond both ends of the range where float32 probabilities have gradients. None is 1 or -1, where hinge has no unique gradient.
LOGITS = np.array([-20.0, -16.0, -5.0, -1.5, -0.5, 0.0, 0.25, 1.25, 4.0, 16.0, 20.0])
REAL_LOGITS, FAKE_LOGITS = LOGITS, np.roll(LOGITS, 3)  # pair i of a D loss; rolled, so no pair is (x, -x) throughout

ADAM_LEARNING_RATE, ADAM_B1, ADAM_B2, ADAM_STEPS = 2e-4, 0.5, 0.999, 5
ADAM_SCALES = np.array([1e-1, 1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10])


def _raw(seed: int, index: int, count: int) -> np.ndarray:
    return np.atleast_1d(np.random.Philox(key=[seed, index]).random_raw(count))  # (count,) uint64


def uniform(seed: int, index: int, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Makes float32 in [low, high] from Philox's raw words. NumPy may change its distributions, but not these."""
    fractions = (_raw(seed, index, prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (low + (high - low) * fractions).astype(np.float32).reshape(shape)


def latents(run: Run, base: int, step: int) -> np.ndarray:
    """Makes latents (B, 100), uniform in [-1, 1]. base: INDEX_LATENTS_D or INDEX_LATENTS_G."""
    return uniform(run.seed, base + step, (run.batch, 100), -1.0, 1.0)


def reals(run: Run, step: int) -> np.ndarray:
    """Makes images (B, H, W, 3) uint8 from the top byte of each raw word."""
    shape = (run.batch, run.image_size, run.image_size, 3)
    return (_raw(run.seed, INDEX_REALS + step, prod(shape)) >> np.uint64(56)).astype(np.uint8).reshape(shape)


def scaled(images: np.ndarray) -> np.ndarray:
    """Scales uint8 images to float32 in [-1, 1]."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def parameter_shapes(recipe: str, width: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns {"G": {name: torch shape}, "D": ...} in PyTorch's parameter order. 1-D names ending in .weight are BN gammas."""
    return {"torch64": _torch64_shapes, "article": _article_shapes}[recipe](width)


def _torch64_shapes(width: int) -> dict[str, dict[str, tuple[int, ...]]]:
    g, d = {}, {"main.0.weight": (width, 3, 4, 4)}
    channels = [100, 8 * width, 4 * width, 2 * width, width]
    for level, (fan_in, fan_out) in enumerate(pairwise(channels)):
        g |= _conv_and_bn((fan_in, fan_out, 4, 4), fan_out, f"main.{3 * level}", f"main.{3 * level + 1}")
    g["main.12.weight"] = (width, 3, 4, 4)
    for level in range(3):
        fan_in, fan_out = width * 2**level, 2 * width * 2**level
        d |= _conv_and_bn((fan_out, fan_in, 4, 4), fan_out, f"main.{3 * level + 2}", f"main.{3 * level + 3}")
    d["main.11.weight"] = (1, 8 * width, 4, 4)
    return {"G": g, "D": d}


def _article_shapes(width: int) -> dict[str, dict[str, tuple[int, ...]]]:
    g = {"fc.weight": (64 * width, 100), "fc.bias": (64 * width,)}
    g |= _conv_and_bn((4 * width, 2 * width, 4, 4), 2 * width, "t_conv1.0", "t_conv1.1")
    g |= _conv_and_bn((2 * width, width, 4, 4), width, "t_conv2.0", "t_conv2.1")
    g["t_conv3.0.weight"] = (width, 3, 4, 4)
    d = {"conv1.0.weight": (width, 3, 4, 4)}
    d |= _conv_and_bn((2 * width, width, 4, 4), 2 * width, "conv2.0", "conv2.1")
    d |= _conv_and_bn((4 * width, 2 * width, 4, 4), 4 * width, "conv3.0", "conv3.1")
    d |= {"fc.weight": (1, 64 * width), "fc.bias": (1,)}
    return {"G": g, "D": d}


def _conv_and_bn(shape: tuple[int, ...], channels: int, conv: str, bn: str) -> dict[str, tuple[int, ...]]:
    return {f"{conv}.weight": shape, f"{bn}.weight": (channels,), f"{bn}.bias": (channels,)}


def bn_names(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Lists the BN modules of one net in order, such as main.1."""
    return [name.removesuffix(".weight") for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 1]


def tensor_names(recipe: str, width: int, net: str) -> list[str]:
    """Lists one net's parameters, then running_mean and running_var of each BN. The fixtures have this order."""
    shapes = parameter_shapes(recipe, width)[net]
    return [*shapes, *(f"{bn}.{kind}" for bn in bn_names(shapes) for kind in ("running_mean", "running_var"))]


def initial_parameters(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """Returns {"G": {name: float32, torch layout}, "D": ...} before step 0. Running means start at 0, variances at 1."""
    bases = {"G": INDEX_G, "D": INDEX_D}
    return {
        net: {name: _initial(run.seed, bases[net] + i, name, shape) for i, (name, shape) in enumerate(shapes.items())}
        for net, shapes in parameter_shapes(run.recipe, run.width).items()
    }


def _initial(seed: int, index: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    centre = 1.0 if len(shape) == 1 else 0.0
    half_width = SD * 3**0.5
    return uniform(seed, index, shape, centre - half_width, centre + half_width)


def conv_inputs(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the input (B, 3, H, W), the weight in torch layout, and the index number for `conv_upstream`."""
    case, index = CONV_CASES[name], 10 * list(CONV_CASES).index(name)
    channels = (CONV_IN, CONV_OUT) if case.transposed else (CONV_OUT, CONV_IN)
    x = uniform(CONV_SEED, index, (case.batch, CONV_IN, case.size, case.size), -1.0, 1.0)
    weight = uniform(CONV_SEED, index + 1, (*channels, case.kernel, case.kernel), -0.5, 0.5)
    return x, weight, index + 2


def conv_upstream(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Makes the gradient with respect to the output, whose torch shape is (B, 5, H', W')."""
    return uniform(CONV_SEED, conv_inputs(name)[2], shape, -1.0, 1.0)


BN_SHAPES = {"map": (4, 3, 4, 4), "vector": (4, 6)}  # n = 64 and 4 values per channel; with 4, n / (n - 1) is large


def bn_inputs(name: str) -> dict[str, np.ndarray]:
    """Returns x0 and x1, batches of two train-mode updates; upstream, the gradient of x0's output; gamma and beta per channel."""
    shape, index = BN_SHAPES[name], 10 * list(BN_SHAPES).index(name)
    return {
        "x0": uniform(BN_SEED, index, shape, -1.0, 2.0),
        "x1": uniform(BN_SEED, index + 1, shape, 0.0, 4.0),
        "upstream": uniform(BN_SEED, index + 2, shape, -1.0, 1.0),
        "gamma": uniform(BN_SEED, index + 3, shape[1:2], 0.5, 1.5),
        "beta": uniform(BN_SEED, index + 4, shape[1:2], -0.5, 0.5),
    }


def adam_gradients() -> np.ndarray:
    """Makes (5, 8) float32: one gradient vector per step. Each column has its own scale, from 0.1 down to 1e-10."""
    return (uniform(ADAM_SEED, 0, (ADAM_STEPS, ADAM_SCALES.size), -1.0, 1.0) * ADAM_SCALES).astype(np.float32)


def sample_indices(size: int, count: int = 64) -> np.ndarray:
    """Chooses up to count positions of a flattened tensor, or all positions of a smaller one.

    The stride is the largest one up to size // count that shares no factor with size. An even stride would show only one of the
    16 taps of a 4x4 kernel, and so hide a kernel flip.
    """
    if size <= count:
        return np.arange(size)
    stride = next(stride for stride in range(size // count, 0, -1) if gcd(stride, size) == 1)
    return np.arange(count) * stride


def sample(tensor: np.ndarray, count: int = 64) -> np.ndarray:
    """Returns up to count entries of a tensor, flattened in TORCH layout (C order)."""
    flat = np.asarray(tensor).reshape(-1)
    return flat[sample_indices(flat.size, count)]


def biased_running_var(running_var: np.ndarray, n: int, updates: int) -> np.ndarray:
    """Converts PyTorch's running variance (a mean of unbiased variances that starts at 1) to Flax's, which is biased."""
    start = (1 - BN_MOMENTUM) ** updates
    return start + (np.asarray(running_var, np.float64) - start) * (n - 1) / n
