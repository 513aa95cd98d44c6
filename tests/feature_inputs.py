"""Inputs for two implementations of a network of features: weights by name, and images. NumPy only, for PyTorch's environment."""

import numpy as np

CENTRE = 16  # channels kept of each layer, at the middle pixel of each image


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Makes He-normal kernels and varied statistics. Each array depends on the position of its name among the sorted names."""
    arrays = {}
    for place, name in enumerate(sorted(shapes)):
        random, shape = np.random.Generator(np.random.Philox(place)), shapes[name]
        if len(shape) == 4:  # a kernel
            values = random.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        elif name.endswith((".weight", "running_var")):
            values = random.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            values = 0.1 * random.standard_normal(shape, np.float32)
        arrays[name] = values
    return arrays


def make_images() -> np.ndarray:
    """Makes (2, 64, 64, 3) uint8 images: gradients with noise, so that errors of resizing and at the borders show."""
    random = np.random.Generator(np.random.Philox(0))
    ramp = np.linspace(0, 200, 64)[None, :, None, None] + np.linspace(0, 55, 64)[None, None, :, None]
    return np.clip(ramp + random.normal(0, 20, (2, 64, 64, 3)), 0, 255).astype(np.uint8)


def summarise_layer(layer: np.ndarray) -> np.ndarray:
    """Summarises outputs (B, h, w, C): mean, mean square, and the first channels of the middle pixel of each image."""
    layer = layer.astype(np.float64)
    middle = layer[:, layer.shape[1] // 2, layer.shape[2] // 2, :CENTRE]
    return np.concatenate([[layer.mean(), np.square(layer).mean()], middle.ravel()])
