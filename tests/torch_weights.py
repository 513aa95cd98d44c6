"""Converts PyTorch's layouts to ours, so that parity fixtures can be compared with the trees of a GanState.

torch's conv (out, in, kh, kw) and transposed conv (in, out, kh, kw) both become (kh, kw, C_large, C_small) without a flip.
Dense layers next to a feature map also change the order of its values, from channels-first to channels-last
(docs/published-dcgans.md, T15).
"""

import numpy as np
import parity_inputs as inputs

BASE_PX = 4
LAYERS = {
    "torch64": {
        "G": {
            "main.0": "head",
            "main.1": "head_norm",
            "main.3": "up1",
            "main.4": "up1_norm",
            "main.6": "up2",
            "main.7": "up2_norm",
            "main.9": "up3",
            "main.10": "up3_norm",
            "main.12": "image",
        },
        "D": {
            "main.0": "down1",
            "main.2": "down2",
            "main.3": "down2_norm",
            "main.5": "down3",
            "main.6": "down3_norm",
            "main.8": "down4",
            "main.9": "down4_norm",
            "main.11": "head",
        },
    },
    "article": {
        "G": {
            "fc": "head",
            "t_conv1.0": "up1",
            "t_conv1.1": "up1_norm",
            "t_conv2.0": "up2",
            "t_conv2.1": "up2_norm",
            "t_conv3.0": "image",
        },
        "D": {
            "conv1.0": "down1",
            "conv2.0": "down2",
            "conv2.1": "down2_norm",
            "conv3.0": "down3",
            "conv3.1": "down3_norm",
            "fc": "head",
        },
    },
}
NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def conv_kernel(weight: np.ndarray) -> np.ndarray:
    """Converts torch conv (C_small, C_large, k, k) to (k, k, C_large, C_small). Transposed convs are also (small, large)."""
    return weight.transpose(2, 3, 1, 0)


def to_ours(recipe: str, net: str, name: str, tensor: np.ndarray) -> tuple[str, str, np.ndarray]:
    """Converts one torch tensor to our (layer, leaf, array)."""
    module, leaf = name.rsplit(".", 1)
    layer = LAYERS[recipe][net][module]
    if layer.endswith("_norm"):
        return layer, NORM_LEAVES[leaf], tensor
    if layer != "head":
        return layer, "kernel", conv_kernel(tensor)
    if net == "D":  # conv (1, C, 4, 4) or Linear (1, C * 4 * 4) -> (4 * 4 * C, 1)
        is_bias = leaf == "bias"
        return (layer, "bias", tensor) if is_bias else (layer, "kernel", _channels_last(tensor.reshape(-1, BASE_PX, BASE_PX, 1)))
    if leaf == "bias":  # (C * 4 * 4,) -> (4 * 4 * C,)
        return layer, "bias", _channels_last(tensor.reshape(-1, BASE_PX, BASE_PX, 1)).squeeze(1)
    if recipe == "article":  # Linear (C * 4 * 4, z) -> (4 * 4 * C, z) -> (z, 4 * 4 * C)
        return layer, "kernel", _channels_last(tensor.reshape(-1, BASE_PX, BASE_PX, tensor.shape[1])).T
    return layer, "kernel", _channels_last(tensor.transpose(1, 2, 3, 0)).T  # transposed conv (z, C, 4, 4) of a 1x1 image


def _channels_last(tensor: np.ndarray) -> np.ndarray:
    """Reorders (C, 4, 4, rest) to (4 * 4 * C, rest)."""
    return tensor.transpose(1, 2, 0, 3).reshape(-1, tensor.shape[3])


def to_torch(run: inputs.Run, net: str, name: str, tree: dict) -> np.ndarray:
    """Returns our leaf for torch's `name`, flat in torch's order. It inverts `to_ours` by converting an array of positions."""
    shapes = inputs.parameter_shapes(run.recipe, run.width)[net]
    shape = shapes.get(name) or shapes[name.replace("running_mean", "weight").replace("running_var", "weight")]
    layer, leaf, order = to_ours(run.recipe, net, name, np.arange(np.prod(shape)).reshape(shape))
    ours = np.asarray(tree[layer][leaf])
    assert ours.shape == order.shape, (name, ours.shape, order.shape)
    flat = np.empty(ours.size, ours.dtype)
    flat[order.reshape(-1)] = ours.reshape(-1)
    return flat


def tree_of(run: inputs.Run, net: str, tensors: dict[str, np.ndarray]) -> dict:
    """Converts the named torch tensors of one net to our tree."""
    tree = {}
    for name, tensor in tensors.items():
        layer, leaf, array = to_ours(run.recipe, net, name, tensor)
        tree.setdefault(layer, {})[leaf] = array
    return tree
