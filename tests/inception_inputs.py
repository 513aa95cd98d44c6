"""What both implementations of the Inception are given: weights by name and images. NumPy alone, for PyTorch's environment."""

import numpy as np

CENTRE = 16  # channels kept of each layer, at the middle pixel of each picture


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """He-normal kernels and uneven statistics, each array a function of its name's place in the sorted names."""
    found = {}
    for place, name in enumerate(sorted(shapes)):
        random, shape = np.random.Generator(np.random.Philox(place)), shapes[name]
        if name.endswith("conv.weight"):
            values = random.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        elif name.endswith(("bn.weight", "running_var")):
            values = random.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            values = 0.1 * random.standard_normal(shape, np.float32)
        found[name] = values
    return found


def make_images() -> np.ndarray:
    """(2, 64, 64, 3) uint8: ramps under noise, so that resizing and both borders show."""
    random = np.random.Generator(np.random.Philox(0))
    ramp = np.linspace(0, 200, 64)[None, :, None, None] + np.linspace(0, 55, 64)[None, None, :, None]
    return np.clip(ramp + random.normal(0, 20, (2, 64, 64, 3)), 0, 255).astype(np.uint8)


def summarise_layer(layer: np.ndarray) -> np.ndarray:
    """Of (B, h, w, C) outputs: mean, mean square, and the middle pixel's first channels of each picture."""
    layer = layer.astype(np.float64)
    middle = layer[:, layer.shape[1] // 2, layer.shape[2] // 2, :CENTRE]
    return np.concatenate([[layer.mean(), np.square(layer).mean()], middle.ravel()])
