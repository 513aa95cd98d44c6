"""The stride-2 convolution and its gradients on CPU, by Winograd's minimal filtering: fewer multiplications than direct GEMMs.

Folding 2x2 pixels into channels turns a convolution with kernel 4 and stride 2 into one with 2x2 taps and stride 1 (kernel 5: 3x3
taps). In one dimension, two neighbouring outputs of a 2-tap filter share a product:

    y0 = d0 g0 + d1 g1 = (d0 - d1) g0 + d1 (g0 + g1)
    y1 = d1 g0 + d2 g1 =                d1 (g0 + g1) + (d2 - d1) g1

So 3 products are enough instead of 4, and 9 instead of 16 for a tile of 2x2 outputs. With 3 taps it is 4 instead of 6, and 16
instead of 36. Each product is a GEMM over the tiles of all images. With the data, kernel and output matrices B, G, A:

    forward          y = A' [(G g) (B d)]
    input gradient   d = B  [(G g) (A y)]     forward's transpose in d
    weight gradient  g = G' [(B d) (A y)]     forward's transpose in g

So each array needs one transform to the products and one back. Source: Lavin and Gray 2016, arXiv:1509.09308; Winograd 1980.

Besides the GEMMs, a pass costs memory traffic. Three rules keep it low (measured in docs/speed.md). Separate arrays are not
stacked or concatenated. `call_unfused` prevents XLA from fusing a transform into the one before. A batch whose products exceed
the cache is processed in parts.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from dcgan_jax.gan.conv.no_fusion import call_unfused
from dcgan_jax.gan.conv.products import multiply

# Number of taps -> the matrices B, G, A, with one row per product. Interpolation points: 0, 1, infinity; for three taps also -1.
MATRICES = {
    2: (np.array([[1, -1, 0], [0, 1, 0], [0, -1, 1]]), np.array([[1, 0], [1, 1], [0, 1]]), np.array([[1, 0], [1, 1], [0, 1]])),
    3: (
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]),
        np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
        np.array([[1, 0], [1, 1], [1, -1], [0, 1]]),
    ),
}
# Largest size of the transformed operands of one part, at 4 bytes a number. Chosen on two Xeon cores with a large cache, where
# smaller parts are slower (docs/speed.md). More parts take longer to compile.
PART_BYTES = 64 * 2**20
MOST_PARTS = 8

Arrays = Sequence[jax.Array]


def forward(x: jax.Array, kernel: jax.Array, before: int, dtype: DTypeLike, stride: int = 2) -> jax.Array:
    """Convolves x (B, H, W, C) with kernel (k, k, C, O) -> (B, h, w, O), where H = stride h.

    before: pixels of padding above and left. dtype: of the operands of the products, see `products`. stride: 2, or 1 for k 3.
    """
    taps = _count_taps(kernel.shape[0], stride)
    y_shape = (x.shape[0], x.shape[1] // stride, x.shape[2] // stride, kernel.shape[3])

    def convolve_part(x: jax.Array, *kernels: jax.Array) -> jax.Array:
        data = _transform_data(x, taps, before, dtype, stride)
        products = [multiply(rows, g) for rows, g in zip(data, kernels, strict=True)]
        return _restore_outputs(products, taps, (len(x), *y_shape[1:]))

    kernels = _transform_kernel(kernel, dtype, stride)
    return jnp.concatenate(_run_in_parts(convolve_part, (x,), kernels, taps, y_shape, stride**2 * x.shape[3]))


def input_gradient(y: jax.Array, kernel: jax.Array, before: int, dtype: DTypeLike, stride: int = 2) -> jax.Array:
    """Applies the transpose of `forward` in x: y (B, h, w, O), kernel (k, k, C, O) -> (B, H, W, C)."""
    taps = _count_taps(kernel.shape[0], stride)

    def compute_part(y: jax.Array, *kernels: jax.Array) -> jax.Array:
        outputs = _transform_outputs(y, taps, dtype)
        products = [multiply(rows, g, contract=(1, 1)) for rows, g in zip(outputs, kernels, strict=True)]
        return _restore_image(products, taps, y.shape, before, stride)

    kernels = _transform_kernel(kernel, dtype, stride)
    return jnp.concatenate(_run_in_parts(compute_part, (y,), kernels, taps, y.shape, stride**2 * kernel.shape[2]))


def weight_gradient(x: jax.Array, dy: jax.Array, k: int, before: int, dtype: DTypeLike, stride: int = 2) -> jax.Array:
    """Applies the transpose of `forward` in the kernel: x (B, H, W, C), dy (B, h, w, O) -> (k, k, C, O)."""
    taps = _count_taps(k, stride)

    def compute_part(x: jax.Array, dy: jax.Array) -> list[jax.Array]:  # (O, K) each: faster than its transpose
        data, outputs = _transform_data(x, taps, before, dtype, stride), _transform_outputs(dy, taps, dtype)
        return [multiply(rows, d, contract=(0, 0)) for rows, d in zip(outputs, data, strict=True)]

    parts = _run_in_parts(compute_part, (x, dy), (), taps, dy.shape, stride**2 * x.shape[3])
    products = [functools.reduce(lax.add, same) for same in zip(*parts, strict=True)]
    return _restore_kernel(products, k, x.shape[3], stride)


def _count_taps(k: int, stride: int) -> int:
    return math.ceil(k / stride)


def _count_tiles(outputs: int) -> int:
    """Counts the tiles of two outputs along a side. The last tile may be half empty."""
    return math.ceil(outputs / 2)


def _run_in_parts(part: Callable, arrays: Arrays, shared: Arrays, taps: int, y_shape: tuple[int, ...], folded: int) -> list:
    """Calls part(*arrays, *shared) for parts of the batch. y_shape: of the outputs; folded: K, channels of the folded image."""
    batch, h, w, out = y_shape
    products = (taps + 1) ** 2
    image_bytes = 4 * products * _count_tiles(h) * _count_tiles(w) * (folded + out)
    count = min(MOST_PARTS, batch, math.ceil(batch * image_bytes / PART_BYTES))
    if count == 1 or jax.device_count() > 1:  # with several devices, a part would be on some of them only
        return [part(*arrays, *shared)]
    edges = [batch * i // count for i in range(count + 1)]
    return [
        call_unfused(part, *(lax.slice_in_dim(array, start, end) for array in arrays), *shared)
        for start, end in itertools.pairwise(edges)
    ]


def _mix(matrix: np.ndarray, parts: Arrays) -> list[jax.Array]:
    """Computes one weighted sum of the parts for each row of coefficients. Most are 0, 1 or -1, so most sums need only adds."""
    return [functools.reduce(lax.add, (_scale(part, c) for c, part in zip(row, parts, strict=True) if c)) for row in matrix]


def _scale(part: jax.Array, coefficient: float) -> jax.Array:
    return part if coefficient == 1 else -part if coefficient == -1 else part * np.asarray(coefficient, part.dtype)


def _transform_data(x: jax.Array, taps: int, before: int, dtype: DTypeLike, stride: int) -> list[jax.Array]:
    """Transforms the image, B d along rows and columns: (B, H, W, C) -> for each product (tiles, K) of this dtype.

    K is stride^2 C: squares of stride x stride pixels are folded into channels.
    """
    data = MATRICES[taps][0]
    batch, height, width, channels = x.shape
    rows, columns = _count_tiles(height // stride), _count_tiles(width // stride)
    # Pads to whole squares, taps - 1 squares more than the tiles cover.
    after = [stride * (2 * tiles + taps - 1) - before - side for tiles, side in ((rows, height), (columns, width))]
    zero = np.zeros((), x.dtype)
    x = call_unfused(lambda x: lax.pad(x, zero, [(0, 0, 0), (before, after[0], 0), (before, after[1], 0), (0, 0, 0)]), x)
    if stride == 2:
        x = x.reshape(batch, 2 * rows + taps - 1, 2, 2 * columns + taps - 1, 2 * channels)
        x = call_unfused(lambda x: x.transpose(0, 1, 3, 2, 4), x).reshape(*x.shape[:2], x.shape[3], 4 * channels)  # folded

    def slice_windows(x: jax.Array, tiles: int, axis: int) -> list[jax.Array]:
        return [lax.slice_in_dim(x, i, i + 2 * tiles - 1, 2, axis) for i in range(taps + 1)]

    def transform(x: jax.Array) -> list[jax.Array]:
        mixed_rows = _mix(data, slice_windows(x, rows, 1))
        return [part.astype(dtype) for row in mixed_rows for part in _mix(data, slice_windows(row, columns, 2))]

    return [part.reshape(batch * rows * columns, stride**2 * channels) for part in call_unfused(transform, x)]


def _transform_outputs(y: jax.Array, taps: int, dtype: DTypeLike) -> list[jax.Array]:
    """Transforms the outputs, A y along rows and columns: (B, h, w, O) -> for each product (tiles, O) of this dtype."""
    output = MATRICES[taps][2]
    batch, h, w, out = y.shape
    rows, columns = _count_tiles(h), _count_tiles(w)
    if (h, w) != (2 * rows, 2 * columns):
        y = lax.pad(y, np.zeros((), y.dtype), [(0, 0, 0), (0, 2 * rows - h, 0), (0, 2 * columns - w, 0), (0, 0, 0)])

    def split_pairs(y: jax.Array, axis: int) -> list[jax.Array]:
        return [lax.index_in_dim(y, i, axis, keepdims=False) for i in range(2)]

    def transform(y: jax.Array) -> list[jax.Array]:
        return [part.astype(dtype) for row in _mix(output, split_pairs(y, 2)) for part in _mix(output, split_pairs(row, 3))]

    parts = call_unfused(transform, y.reshape(batch, rows, 2, columns, 2, out))
    return [part.reshape(batch * rows * columns, out) for part in parts]


def _transform_kernel(kernel: jax.Array, dtype: DTypeLike, stride: int) -> list[jax.Array]:
    """Transforms the kernel, G g along rows and columns: (k, k, C, O) -> for each product (K, O) of this dtype."""
    k, _, channels, out = kernel.shape
    taps = _count_taps(k, stride)
    matrix = MATRICES[taps][1]
    missing = (0, stride * taps - k, 0)
    kernel = lax.pad(kernel, np.zeros((), kernel.dtype), [missing, missing, (0, 0, 0), (0, 0, 0)]) if missing[1] else kernel

    def transform(kernel: jax.Array) -> list[jax.Array]:  # (T, stride, T, stride, C, O): tap, pixel of its square, both twice
        mixed_rows = _mix(matrix, list(kernel))
        return [part.astype(dtype) for row in mixed_rows for part in _mix(matrix, [row[:, i] for i in range(taps)])]

    parts = call_unfused(transform, kernel.reshape(taps, stride, taps, stride, channels, out))
    return [part.reshape(stride**2 * channels, out) for part in parts]


def _restore_outputs(products: Arrays, taps: int, y_shape: tuple[int, ...]) -> jax.Array:
    """Makes the outputs from the products, A' along rows and columns: (tiles, O) each -> (B, h, w, O)."""
    output = MATRICES[taps][2].T
    batch, h, w, _ = y_shape
    rows, columns = _count_tiles(h), _count_tiles(w)
    products = [product.reshape(batch, rows, columns, -1) for product in products]

    def transform(products: Arrays) -> jax.Array:
        across = [_mix(output, row) for row in _split_grid(products)]  # [row product][left or right]
        left, right = ([interleaved[i] for interleaved in across] for i in range(2))
        return _interleave([_interleave(pair, 3) for pair in zip(_mix(output, left), _mix(output, right), strict=True)], 2)

    y = call_unfused(transform, products).reshape(batch, 2 * rows, 2 * columns, -1)
    return y[:, :h, :w]


def _restore_image(products: Arrays, taps: int, y_shape: tuple[int, ...], before: int, stride: int) -> jax.Array:
    """Makes the image from the products, B along rows and columns: (tiles, K) each -> (B, H, W, C). Overlapping tiles add."""
    data = MATRICES[taps][0].T
    batch, h, w, _ = y_shape
    rows, columns = _count_tiles(h), _count_tiles(w)
    channels = products[0].shape[1] // stride**2
    products = [product.reshape(batch, rows, columns, -1) for product in products]

    # Entry i of tile t's window is pixel 2t + i: entries 0 and 1 are the tile's own pair, 2 and 3 the next tile's.
    def add_overlapping(windows: Arrays, axis: int) -> jax.Array:
        zero = np.zeros((), windows[0].dtype)
        pads = [[(0, 0, 0)] * axis + [pad] + [(0, 0, 0)] * (windows[0].ndim - axis - 1) for pad in ((0, 1, 0), (1, 0, 0))]
        both: list[jax.Array] = []
        for parity in range(2):
            same = [lax.pad(window, zero, pads[i]) for i, window in enumerate(windows[parity::2])]
            both.append(functools.reduce(lax.add, same))
        return _interleave(both, axis + 1)

    def add_rows(products: Arrays) -> list[jax.Array]:
        return [add_overlapping(_mix(data, column), 1) for column in zip(*_split_grid(products), strict=True)]

    def unfold(image: jax.Array) -> jax.Array:  # and drop the padding
        height, width = 2 * rows + 2, 2 * columns + 2
        image = image.reshape(batch, height, width, stride, stride * channels).transpose(0, 1, 3, 2, 4)
        image = image.reshape(batch, stride * height, stride * width, channels)
        return image[:, before : before + stride * h, before : before + stride * w]

    image = call_unfused(add_rows, products)
    image = call_unfused(lambda image: add_overlapping(_mix(data, image), 3), image)  # (B, rows + 1, 2, columns + 1, 2, K)
    return call_unfused(unfold, image)


def _restore_kernel(products: Arrays, k: int, channels: int, stride: int) -> jax.Array:
    """Makes the kernel from the products, G' along rows and columns: (O, K) each -> (k, k, C, O)."""
    taps = _count_taps(k, stride)
    matrix = MATRICES[taps][1].T

    def transform(products: Arrays) -> list[list[jax.Array]]:
        columns = [_mix(matrix, column) for column in zip(*_split_grid(products), strict=True)]  # [column product][row tap]
        return [_mix(matrix, row) for row in zip(*columns, strict=True)]  # [row tap][column tap]

    def unfold(folded: Sequence[Arrays]) -> jax.Array:
        folded = [[tap.reshape(-1, stride, 1, stride, channels).transpose(1, 2, 3, 4, 0) for tap in row] for row in folded]
        return lax.concatenate([lax.concatenate(row, 1)[None] for row in folded], 0)  # (T, stride, T, stride, C, O)

    kernel = call_unfused(unfold, call_unfused(transform, products))
    return kernel.reshape(stride * taps, stride * taps, channels, -1)[:k, :k]


def _split_grid(parts: Arrays) -> list[Arrays]:
    side = math.isqrt(len(parts))
    return [parts[i * side : (i + 1) * side] for i in range(side)]


def _interleave(pair: Arrays, axis: int) -> jax.Array:
    """Stacks two arrays along a new axis, by a select: XLA vectorises a select but not a stack."""
    shape = (*pair[0].shape[:axis], 2, *pair[0].shape[axis:])
    first, second = (lax.broadcast_in_dim(part, shape, [i for i in range(len(shape)) if i != axis]) for part in pair)
    return lax.select(lax.broadcasted_iota(np.int32, shape, axis) == 0, first, second)
