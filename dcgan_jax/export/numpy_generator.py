"""A generator in NumPy. This file is copied next to exported weights as generator.py, and does not import dcgan_jax.

    import generator                              # its name there
    images = generator.load(".").sample([0, 1])   # (2, S, S, C) uint8, the images of these seeds

The folder holds generator.safetensors, config.json, and labels.npy if the run was trained with --condition.
`apply_generator` is the network for any library of layers: NumPy here, ONNX in the package. `draw_seed_latents` uses JAX's
Threefry: uniform latents equal JAX's bit for bit; normal ones may differ in their last bits.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SEEDS = 2**32
# Layers that only older versions could train. The generator.py exported with such weights supports them.
REMOVED = ("g_modulation", "residual", "image_skips", "box_kernels")


class Generator:
    """A trained generator.

    weights: name, such as head/kernel -> float32 array; config: the run's settings, as in config.json; table: (T, A) of 0 and 1,
    the labels of the seeds 0, 1 ... (repeated after T seeds), if the run was trained with --condition.
    Raises: ValueError if the config has layers that this version does not support.
    """

    def __init__(self, weights: dict[str, np.ndarray], config: dict, table: np.ndarray | None = None):
        for name in REMOVED:
            if config.get(name):
                raise ValueError(f"{name} {config[name]}: no longer supported; use the generator.py that was exported with it")
        self.weights = {name: np.asarray(array, np.float32) for name, array in weights.items()}
        self.config, self.table = config, table

    def sample(self, seeds: ArrayLike, labels: ArrayLike | None = None) -> np.ndarray:
        """Generates the images of seeds: (N, S, S, C) uint8.

        labels: (N, A) of 0 and 1, the requested attributes, if the run was trained with --condition; None: those of the table.
        Raises: ValueError.
        """
        latents = draw_seed_latents(seeds, self.config["latent_dim"], self.config["latent_law"])
        if labels is None and self.table is not None:
            labels = self.table[np.atleast_1d(seeds) % len(self.table)]
        return self.images(latents, labels)

    def images(self, latents: ArrayLike, labels: ArrayLike | None = None) -> np.ndarray:
        """Generates the images of latents (N, latent_dim): (N, S, S, C) uint8. labels: required if trained with --condition."""
        latents = np.asarray(latents, np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.config["latent_dim"]:
            raise ValueError(f"latents {latents.shape}: give (N, {self.config['latent_dim']})")
        attributes = self.config.get("condition") or None  # older exports have no such field
        if attributes is None and labels is not None:
            raise ValueError("labels: not supported, the run was trained without --condition")
        if attributes is not None:
            shape = (len(latents), len(attributes.split(",")))
            given = () if labels is None else np.shape(labels)
            if given != shape:
                raise ValueError(f"labels {given}: give {shape} of 0 and 1, the requested values of {attributes}")
            labels = np.asarray(labels, np.float32)
        return np.rint(255 * apply_generator(NumPyOps, self.config, self.weights, latents, labels)).astype(np.uint8)


def load(folder: str | Path) -> Generator:
    """Loads the generator from the folder of an export. Needs safetensors."""
    from safetensors.numpy import load_file

    weights, table = load_file(Path(folder, "generator.safetensors")), Path(folder, "labels.npy")
    return Generator(
        weights, json.loads(Path(folder, "config.json").read_text(encoding="utf-8")), np.load(table) if table.exists() else None
    )


# ---- Seeds to latents ----


def draw_seed_latents(seeds: ArrayLike, latent_dim: int, law: str) -> np.ndarray:
    """Returns (N, latent_dim) float32 for integer seeds from 0 to 2**32 - 1, as jax.random.uniform or normal of key(seed).

    Raises: ValueError for other seeds.
    """
    seeds = np.atleast_1d(seeds)
    if seeds.ndim != 1 or seeds.dtype.kind not in "iu" or (seeds.size and not 0 <= seeds.min() <= seeds.max() < SEEDS):
        raise ValueError(f"seeds: give whole numbers from 0 to {SEEDS - 1}")
    seeds = seeds.astype(np.uint32)
    bits = np.bitwise_xor(
        *_threefry(
            np.zeros_like(seeds)[:, None],
            seeds[:, None],
            np.zeros((1, latent_dim), np.uint32),
            np.arange(latent_dim, dtype=np.uint32)[None],
        )
    )
    share = ((bits >> np.uint32(9)) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)  # [0, 1)
    lowest = np.float32(-1) if law == "uniform" else np.nextafter(np.float32(-1), np.float32(0))
    uniform = np.maximum(lowest, share * (np.float32(1) - lowest) + lowest)
    return uniform if law == "uniform" else np.float32(2**0.5) * _inverse_erf(uniform)


def _threefry(key0: np.ndarray, key1: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    with np.errstate(over="ignore"):
        x0, x1 = x0 + keys[0], x1 + keys[1]
        for group in range(5):
            for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
                x0 = x0 + x1
                x1 = ((x1 << np.uint32(turn)) | (x1 >> np.uint32(32 - turn))) ^ x0
            x0, x1 = x0 + keys[(group + 1) % 3], x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _inverse_erf(x: np.ndarray) -> np.ndarray:
    """In float32, as in XLA (Giles 2012, "Approximating the erfinv function")."""
    w = -np.log1p(-x * x)
    near = np.polyval(
        np.array(
            [
                2.81022636e-08,
                3.43273939e-07,
                -3.5233877e-06,
                -4.39150654e-06,
                0.00021858087,
                -0.00125372503,
                -0.00417768164,
                0.246640727,
                1.50140941,
            ],
            np.float32,
        ),
        w - np.float32(2.5),
    )
    far = np.polyval(
        np.array(
            [
                -0.000200214257,
                0.000100950558,
                0.00134934322,
                -0.00367342844,
                0.00573950773,
                -0.0076224613,
                0.00943887047,
                1.00167406,
                2.83297682,
            ],
            np.float32,
        ),
        np.sqrt(np.maximum(w, 5)) - np.float32(3),
    )
    return np.where(w < 5, near, far).astype(np.float32) * x


# ---- The network ----


def apply_generator(ops: Any, config: dict, weights: dict[str, np.ndarray], latents: Any, labels: Any = None) -> Any:
    """Applies the network: latents (N, latent_dim) and labels (N, A) of 0 and 1, or None -> images (N, S, S, C) from 0 to 1.

    The same network as dcgan_jax.gan.models.Generator, with its stored statistics folded into the weights.
    ops: computes the layers: `NumPyOps` below, or a class with the same methods for other tensors.
    """
    if labels is not None:
        latents = ops.concatenate(latents, ops.affine(labels, 2.0, -1.0))
    is_residual = config.get("architecture") == "residual"  # older exports have no such field
    x = (_apply_residual if is_residual else _apply_strided)(ops, config, weights, latents)
    return ops.sigmoid(x) if config["g_output"] == "sigmoid" else ops.affine(ops.tanh(x), 0.5, 0.5)


def _apply_strided(ops: Any, config: dict, weights: dict[str, np.ndarray], latents: Any) -> Any:
    """Applies the network up to its output activation."""
    x = ops.dense(latents, *_fold_norm(config, weights, "head", "head_norm", 1))
    # Once folded, a norm per unit and a norm per channel are the same. Without a norm there is no activation.
    if config["head_norm"] != "none":
        x = _activate(ops, config, x)
    x = ops.reshape_to_image(x, config["base_px"])  # (N, px, px, C)
    ups = _list_layers(weights, "up{}")
    for i, up in enumerate(ups):
        kernel, bias = _fold_norm(config, weights, up, f"{up}_norm", 2)
        is_smooth = i >= len(ups) - config.get("g_smooth_inner", 0)  # older exports have no such field
        x = _activate(ops, config, _upsample(ops, config, x, kernel, bias, is_smooth))
    for block in _list_layers(weights, "refine{}_in"):
        block = block.removesuffix("_in")
        y = _activate(ops, config, ops.conv(x, *_fold_norm(config, weights, f"{block}_in", f"{block}_norm", 3)))
        x = ops.add(x, ops.conv(y, *_fold_norm(config, weights, f"{block}_out", "", 3)))
    kernel, bias = _fold_norm(config, weights, "image", "", 2)
    if config["g_last_kernel"]:
        return ops.conv(x, kernel, bias)
    return _upsample(ops, config, x, kernel, bias, config.get("g_smooth", False))


def _apply_residual(ops: Any, config: dict, weights: dict[str, np.ndarray], latents: Any) -> Any:
    """Applies the network of --architecture residual (gan/residual.py) up to its output activation."""
    basis, kernel, bias = weights["basis/kernel"], weights["head/kernel"], weights.get("head/bias")
    # The product with the learned map is part of the dense layer.
    kernel = (basis[None] * kernel[:, None, None]).reshape(len(kernel), -1)
    x = ops.dense(latents, kernel, None if bias is None else (basis * bias).reshape(-1))
    x = ops.reshape_to_image(x, config["base_px"])  # (N, px, px, C)
    for stage in ("first", *(layer.partition("/")[0] for layer in _list_layers(weights, "up{}/block1/expand"))):
        if f"{stage}/transition/kernel" in weights:
            x = ops.conv(x, weights[f"{stage}/transition/kernel"], None)
        blocks = [f"{stage}/{block}" for block in ("block1", "block2")]
        if stage != "first":
            x = ops.upsample(x, weights[f"{blocks[0]}/expand/kernel"].shape[2])
        for block in blocks:
            x = ops.add(x, _apply_block(ops, weights, block, x))
    return ops.conv(x, weights["image/kernel"], None)


def _apply_block(ops: Any, weights: dict[str, np.ndarray], block: str, x: Any) -> Any:
    """The branch of a residual block."""
    y = ops.leaky_relu(ops.conv(x, weights[f"{block}/expand/kernel"], weights[f"{block}/expand/bias"]), 0.2)
    kernel = weights[f"{block}/grouped/kernel"]  # (3, 3, C / groups, C)
    y = ops.leaky_relu(ops.conv(y, kernel, weights[f"{block}/grouped/bias"], kernel.shape[3] // kernel.shape[2]), 0.2)
    return ops.conv(y, weights[f"{block}/reduce/kernel"], None)


def _upsample(ops: Any, config: dict, x: Any, kernel: np.ndarray, bias: np.ndarray | None, is_smooth: bool) -> Any:
    """Applies a transposed convolution, with a blur if is_smooth: (N, h, w, C) -> (N, 2h, 2w, C_out)."""
    if is_smooth:
        return ops.conv_transpose(x, _blur_kernel(kernel), bias, _count_cut_pixels(config) + 1)
    return ops.conv_transpose(x, kernel, bias, _count_cut_pixels(config))


def _activate(ops: Any, config: dict, x: Any) -> Any:
    return ops.leaky_relu(x, 0.0 if config["g_activation"] == "relu" else 0.2)


def _list_layers(weights: dict[str, np.ndarray], pattern: str) -> list[str]:
    """Names of the layers up1, up2 ... that have weights."""
    names = []
    while f"{pattern.format(len(names) + 1)}/kernel" in weights:
        names.append(pattern.format(len(names) + 1))
    return names


def _fold_norm(
    config: dict, weights: dict[str, np.ndarray], layer: str, norm: str, axis: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """(kernel, bias or None) of a layer, with the norm after it (if any) folded in along this axis of the kernel."""
    kernel, bias = weights[f"{layer}/kernel"], weights.get(f"{layer}/bias")
    if f"{norm}/var" not in weights:
        return kernel, None if bias is None else bias.reshape(-1)
    gain = weights[f"{norm}/scale"] / np.sqrt(weights[f"{norm}/var"].astype(np.float64) + config["bn_epsilon"])
    shift = weights[f"{norm}/bias"] - weights[f"{norm}/mean"] * gain
    outputs = kernel.shape[axis]
    gain, shift = np.resize(gain, outputs), np.resize(shift, outputs)  # per channel: repeated over the pixels of the head
    bias = shift if bias is None else shift + bias.reshape(-1) * gain
    shape = [outputs if i == axis else 1 for i in range(kernel.ndim)]
    return (kernel * gain.reshape(shape)).astype(np.float32), bias.astype(np.float32)


def _blur_kernel(kernel: np.ndarray) -> np.ndarray:
    """(k, k, ...) -> (k + 2, k + 2, ...): the kernel followed by a blur (gan/models.py)."""
    shifted = (
        np.pad(kernel, ((i, 2 - i), (j, 2 - j), (0, 0), (0, 0))) * np.float32(weight / 16)
        for i, row in enumerate(((1, 2, 1), (2, 4, 2), (1, 2, 1)))
        for j, weight in enumerate(row)
    )
    return functools.reduce(np.add, shifted)


def _count_cut_pixels(config: dict) -> int:
    """Pixels that are cut above and left of a transposed convolution's output (gan/conv/)."""
    return (config["kernel"] - (1 if config["padding"] == "symmetric" else 2)) // 2


class NumPyOps:
    """Layers on (N, ...) float32 arrays, channels last. Kernels of `conv_transpose` are (k, k, C_out, C_in), of `conv`
    (k, k, C_in / groups, C_out)."""

    @staticmethod
    def dense(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        return x @ kernel if bias is None else x @ kernel + bias

    @staticmethod
    def reshape_to_image(x: np.ndarray, px: int) -> np.ndarray:
        return x.reshape(x.shape[0], px, px, -1)

    @staticmethod
    def conv_transpose(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None, cut: int) -> np.ndarray:
        """Stride 2. cut: pixels removed above and left, so that the side is exactly doubled."""
        batch, h, w, _ = x.shape
        k = kernel.shape[0]
        large = np.zeros((batch, 2 * h + k - 2, 2 * w + k - 2, kernel.shape[2]), np.float32)
        for i in range(k):
            for j in range(k):
                large[:, i : i + 2 * h : 2, j : j + 2 * w : 2] += x @ kernel[i, j].T
        large = large[:, cut : cut + 2 * h, cut : cut + 2 * w]
        return large if bias is None else large + bias

    @staticmethod
    def conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None, groups: int = 1) -> np.ndarray:
        """Stride 1, same size."""
        if groups > 1:
            parts = zip(np.split(x, groups, 3), np.split(kernel, groups, 3), strict=True)
            out = np.concatenate([NumPyOps.conv(*part, None) for part in parts], 3)
            return out if bias is None else out + bias
        k, (_, h, w, _) = kernel.shape[0], x.shape
        padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
        products = (padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(k) for j in range(k))
        out = functools.reduce(np.add, products)
        return out if bias is None else out + bias

    @staticmethod
    def upsample(x: np.ndarray, channels: int) -> np.ndarray:
        """Doubles the side: weights [1 3 3 1] / 4 along each axis, with zeros outside."""
        for axis in (1, 2):
            padded = np.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
            before, after = (np.take(padded, range(start, start + x.shape[axis]), axis) for start in (0, 2))
            pair = np.stack([(3 * x + before) / 4, (3 * x + after) / 4], axis + 1)
            x = pair.reshape([-1 if i == axis else side for i, side in enumerate(x.shape)])
        return x

    @staticmethod
    def leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
        return np.where(x > 0, x, slope * x)

    @staticmethod
    def tanh(x: np.ndarray) -> np.ndarray:
        return np.tanh(x)

    @staticmethod
    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 0.5 * np.tanh(0.5 * x) + 0.5

    @staticmethod
    def affine(x: np.ndarray, gain: float, shift: float) -> np.ndarray:
        return x * np.float32(gain) + np.float32(shift)

    @staticmethod
    def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + y

    @staticmethod
    def concatenate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.concatenate([x, y], 1)
