"""The Inception-v3 of the original FID (weights of 2015) as a pure function. Layers are named as in the widely used weight file.

It differs from torchvision's: average pools exclude padding, the last block uses a maximum pool, and images are resized by
TensorFlow 1's bilinear filter without antialiasing. These are properties of the TensorFlow graph inception-2015-12-05, which
Heusel et al. 2017, arXiv:1706.08500, used. An independent implementation gives the same outputs, layer by layer
(experiments/inception_parity.py). Source: Szegedy et al. 2016, arXiv:1512.00567.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.quality.folding import NORM_PARTS, check_shapes, fold_convolution

SIDE = 299  # pixels
FEATURES = 2048
CLASSES = 1008  # of the last layer, which the features do not need
BN_EPSILON = 1e-3
Layers = dict[str, tuple[jax.Array, jax.Array]]  # name -> kernel (kh, kw, I, O), bias (O,), float32
LAYERS = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
    "Mixed_5b",
    "Mixed_5c",
    "Mixed_5d",
    "Mixed_6a",
    "Mixed_6b",
    "Mixed_6c",
    "Mixed_6d",
    "Mixed_6e",
    "Mixed_7a",
    "Mixed_7b",
    "Mixed_7c",
)


def list_weight_shapes() -> dict[str, tuple[int, ...]]:
    """Lists the arrays that `fold_batch_norm` needs: name in the weight file -> shape, (O, I, kh, kw) or (O,)."""
    shapes = {}
    for name, (inputs, outputs, rows, columns) in _CONVS.items():
        shapes[f"{name}.conv.weight"] = outputs, inputs, rows, columns
        shapes |= {f"{name}.bn.{part}": (outputs,) for part in NORM_PARTS}
    return shapes


def fold_batch_norm(weights: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Folds each batch normalisation into its convolution: layer -> (kernel (kh, kw, I, O), bias (O,)), float32.

    Raises: ValueError that names the first missing or wrong array, or recognises torchvision's weights.
    """
    if (
        "fc.weight" in weights and weights["fc.weight"].shape[0] != CLASSES
    ):  # the only array whose shape differs in torchvision's file
        raise ValueError(
            f"fc.weight has {weights['fc.weight'].shape[0]} classes, not {CLASSES}: these are not the FID "
            "Inception's weights; torchvision's give other numbers"
        )
    check_shapes(weights, list_weight_shapes(), "the FID Inception's")
    return {name: fold_convolution(weights, f"{name}.conv", f"{name}.bn", BN_EPSILON) for name in _CONVS}


def extract_features(
    layers: Layers, images: jax.Array, every_layer: bool = False
) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Computes features: (B, S, S, 3) uint8, any S -> (B, 2048) float32. Pure: jit it. layers: from `fold_batch_norm`.

    every_layer: also return the outputs of LAYERS, name -> (B, h, w, C).
    """
    x = (resize_bilinear(images) - 128) / 128
    return _apply_network(layers, x, every_layer)


def resize_bilinear(images: jax.Array) -> jax.Array:
    """Resizes (B, H, W, C) uint8 -> (B, 299, 299, C) float32 in [0, 255] like TensorFlow 1's resize_bilinear.

    Output pixel i is interpolated at position i * H / 299, without centring pixels. Downsampling does not average.
    """
    x = images.astype(jnp.float32)
    for axis in (1, 2):
        side = x.shape[axis]
        at = np.arange(SIDE) * (side / SIDE)
        low = np.floor(at).astype(int)
        share = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = jnp.take(x, low, axis), jnp.take(x, np.minimum(low + 1, side - 1), axis)
        x = below + (above - below) * share
    return x


def _apply_network(layers: Layers, x: jax.Array, every_layer: bool = False) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Applies the network to x (B, S, S, 3) float32 in [-1, 1], S at least 75. Returns: as `extract_features`."""
    outputs = {}
    for name in LAYERS:
        if name in _BLOCKS:
            x = jnp.concatenate(_BLOCKS[name](layers, x, name), 3)
        else:
            x = _conv(layers, x, name, stride=2 if name == "Conv2d_1a_3x3" else 1, same=name == "Conv2d_2b_3x3")
        outputs[name] = x
        if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
            x = _max_pool(x, 2)
    x = x.mean((1, 2))
    return (x, outputs) if every_layer else x


# ---- Blocks: each returns the outputs of its branches, to be concatenated ----


def _block_5x5(layers: Layers, x: jax.Array, name: str) -> list[jax.Array]:
    """Mixed_5b to 5d: 1x1, 5x5 and two 3x3 convolutions side by side. Size kept."""
    return [
        _chain(layers, x, name, "branch1x1"),
        _chain(layers, x, name, "branch5x5_1", "branch5x5_2"),
        _chain(layers, x, name, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        _pool_branch(layers, x, name),
    ]


def _block_reduce_3x3(layers: Layers, x: jax.Array, name: str) -> list[jax.Array]:
    """Mixed_6a: halves the size by strided 3x3 convolutions and a maximum."""
    deep = _chain(layers, x, name, "branch3x3dbl_1", "branch3x3dbl_2")
    return [
        _conv(layers, x, f"{name}.branch3x3", 2, same=False),
        _conv(layers, deep, f"{name}.branch3x3dbl_3", 2, same=False),
        _max_pool(x, 2),
    ]


def _block_7x7(layers: Layers, x: jax.Array, name: str) -> list[jax.Array]:
    """Mixed_6b to 6e: 7x7 convolutions as 1x7 and 7x1. Size kept."""
    return [
        _chain(layers, x, name, "branch1x1"),
        _chain(layers, x, name, *(f"branch7x7_{i}" for i in range(1, 4))),
        _chain(layers, x, name, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
        _pool_branch(layers, x, name),
    ]


def _block_reduce_7x7(layers: Layers, x: jax.Array, name: str) -> list[jax.Array]:
    """Mixed_7a: halves the size, one branch after a 7x7 convolution as 1x7 and 7x1."""
    deep = _chain(layers, x, name, *(f"branch7x7x3_{i}" for i in range(1, 4)))
    return [
        _conv(layers, _chain(layers, x, name, "branch3x3_1"), f"{name}.branch3x3_2", 2, same=False),
        _conv(layers, deep, f"{name}.branch7x7x3_4", 2, same=False),
        _max_pool(x, 2),
    ]


def _block_wide(layers: Layers, x: jax.Array, name: str) -> list[jax.Array]:
    """Mixed_7b and 7c: branches that split into 1x3 and 3x1. Size kept. The last block uses a maximum pool."""
    wide, deep = _chain(layers, x, name, "branch3x3_1"), _chain(layers, x, name, "branch3x3dbl_1", "branch3x3dbl_2")
    is_last = name == "Mixed_7c"
    return [
        _chain(layers, x, name, "branch1x1"),
        *(_chain(layers, wide, name, f"branch3x3_2{i}") for i in "ab"),
        *(_chain(layers, deep, name, f"branch3x3dbl_3{i}") for i in "ab"),
        _conv(layers, _max_pool(x, 1), f"{name}.branch_pool") if is_last else _pool_branch(layers, x, name),
    ]


_BLOCKS = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), _block_5x5),
    "Mixed_6a": _block_reduce_3x3,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _block_7x7),
    "Mixed_7a": _block_reduce_7x7,
    **dict.fromkeys(("Mixed_7b", "Mixed_7c"), _block_wide),
}

# ---- Layers ----


def _conv(layers: Layers, x: jax.Array, name: str, stride: int = 1, same: bool = True) -> jax.Array:
    """Applies a convolution with folded batch normalisation, then ReLU. same: zero padding keeps the size at stride 1."""
    kernel, bias = layers[name]
    rows, columns = kernel.shape[:2]
    padding = [(rows // 2,) * 2, (columns // 2,) * 2] if same else "VALID"
    # The default precision of GPUs and TPUs is lower than float32, and features must not depend on the machine.
    x = lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )
    return jax.nn.relu(x + bias.reshape(1, 1, 1, -1))


def _chain(layers: Layers, x: jax.Array, block: str, *parts: str) -> jax.Array:
    """Applies the block's convolutions with these names, one after the other."""
    for part in parts:
        x = _conv(layers, x, f"{block}.{part}")
    return x


def _pool_branch(layers: Layers, x: jax.Array, block: str) -> jax.Array:
    return _conv(layers, _average_pool(x), f"{block}.branch_pool")


def _max_pool(x: jax.Array, stride: int) -> jax.Array:
    """Applies 3x3 max pooling. Stride 1 keeps the size."""
    padding = ((0, 0), (0, 0)) if stride == 2 else ((1, 1), (1, 1))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), ((0, 0), *padding, (0, 0)))


def _average_pool(x: jax.Array) -> jax.Array:
    """Applies 3x3 average pooling and keeps the size. The average excludes padding."""
    return _sum_3x3(x) / _sum_3x3(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _sum_3x3(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))


def _list_convs() -> dict[str, tuple[int, int, int, int]]:
    """Lists layer -> (inputs, outputs, kernel rows, kernel columns)."""
    convs = {
        "Conv2d_1a_3x3": (3, 32, 3, 3),
        "Conv2d_2a_3x3": (32, 32, 3, 3),
        "Conv2d_2b_3x3": (32, 64, 3, 3),
        "Conv2d_3b_1x1": (64, 80, 1, 1),
        "Conv2d_4a_3x3": (80, 192, 3, 3),
    }

    def add(block: str, branch: str, inputs: int, *layers: tuple[int, int, int]) -> None:
        # A single layer has the branch's name; several are numbered.
        for i, (outputs, rows, columns) in enumerate(layers, 1):
            convs[f"{block}.{branch}_{i}" if len(layers) > 1 else f"{block}.{branch}"] = inputs, outputs, rows, columns
            inputs = outputs

    for block, inputs, pool in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        add(block, "branch1x1", inputs, (64, 1, 1))
        add(block, "branch5x5", inputs, (48, 1, 1), (64, 5, 5))
        add(block, "branch3x3dbl", inputs, (64, 1, 1), (96, 3, 3), (96, 3, 3))
        add(block, "branch_pool", inputs, (pool, 1, 1))
    add("Mixed_6a", "branch3x3", 288, (384, 3, 3))
    add("Mixed_6a", "branch3x3dbl", 288, (64, 1, 1), (96, 3, 3), (96, 3, 3))
    for block, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        add(block, "branch1x1", 768, (192, 1, 1))
        add(block, "branch7x7", 768, (inner, 1, 1), (inner, 1, 7), (192, 7, 1))
        add(block, "branch7x7dbl", 768, (inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7))
        add(block, "branch_pool", 768, (192, 1, 1))
    add("Mixed_7a", "branch3x3", 768, (192, 1, 1), (320, 3, 3))
    add("Mixed_7a", "branch7x7x3", 768, (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3))
    for block, inputs in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        add(block, "branch1x1", inputs, (320, 1, 1))
        convs[f"{block}.branch3x3_1"] = inputs, 384, 1, 1
        convs |= {f"{block}.branch3x3_2a": (384, 384, 1, 3), f"{block}.branch3x3_2b": (384, 384, 3, 1)}
        convs |= {f"{block}.branch3x3dbl_1": (inputs, 448, 1, 1), f"{block}.branch3x3dbl_2": (448, 384, 3, 3)}
        convs |= {f"{block}.branch3x3dbl_3a": (384, 384, 1, 3), f"{block}.branch3x3dbl_3b": (384, 384, 3, 1)}
        add(block, "branch_pool", inputs, (192, 1, 1))
    return convs


_CONVS = _list_convs()
