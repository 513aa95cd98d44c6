"""Both nets under the names and in the layouts of PyTorch's example (pytorch/examples, dcgan/main.py), and back.

Transposed convolutions are (C_in, C_out, k, k), convolutions (C_out, C_in, k, k), in both without a flip; dense layers that touch
a feature map are its k4 convolutions of a 1x1 image (docs/published-dcgans.md, T15).
"""

from collections.abc import Mapping

import jax
import numpy as np

from dcgan_jax.config import Mark, Nets, UserError, list_fields

HEAD_PX = 4
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# PyTorch's networks are our defaults. A field without one of these marks must have its default: a new one is safe at first.
FREE_FIELDS = list_fields(Mark.ANY_IN_TORCH) | list_fields(Mark.TRAINING_ONLY)


def check_torch_layout(nets: Nets, about: str, otherwise: str = "") -> None:
    """Raises: UserError where PyTorch's example has no such network, naming the field.

    about: what needs that network; otherwise: another way, behind a semicolon, where there is one.
    """
    for field, value in vars(Nets()).items():
        if field not in FREE_FIELDS and getattr(nets, field) != value:
            raise UserError(
                f"{about}: PyTorch's example has no network with `{field}` {getattr(nets, field)!r} (there: {value!r});"
                f" the presets torch32, torch64 and torch128 are its{otherwise}"
            )


def to_torch(net: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our leaves of G or D (head/kernel, up1_norm/mean ...) as its state dict, numbers of batches (0) included."""
    found = {}
    layers = _list_layers(net, weights)
    for i, (layer, norm) in enumerate(layers):
        conv, bn = _number_modules(net, i)
        found[f"main.{conv}.weight"] = np.ascontiguousarray(_to_torch_kernel(net, layer, weights[f"{layer}/kernel"]))
        if norm:
            found |= {f"main.{bn}.{theirs}": weights[f"{norm}/{ours}"] for ours, theirs in NORM.items()}
            found[f"main.{bn}.num_batches_tracked"] = np.zeros((), np.int64)
    return found


def from_torch(
    net: str, tensors: dict[str, np.ndarray], like: Mapping[str, np.ndarray | jax.Array], about: str
) -> dict[str, np.ndarray]:
    """The inverse: leaves as those of `like`, by name. Raises: UserError naming a tensor that is missing or of another shape."""
    found = {}
    for i, (layer, norm) in enumerate(_list_layers(net, like)):
        conv, bn = _number_modules(net, i)
        wanted = {f"{layer}/kernel": f"main.{conv}.weight"}
        wanted |= {f"{norm}/{ours}": f"main.{bn}.{theirs}" for ours, theirs in NORM.items()} if norm else {}
        for ours, theirs in wanted.items():
            shape = _to_torch_kernel(net, layer, like[ours]).shape if ours.endswith("kernel") else like[ours].shape
            if theirs not in tensors or tensors[theirs].shape != shape:
                there = tensors[theirs].shape if theirs in tensors else "absent"
                raise UserError(
                    f"{about}: {theirs} is {there}, the recipe's is {shape}; give the `size`, `width` and `latent_dim`"
                    " it was trained with"
                )
            tensor = tensors[theirs].astype(np.float32)
            found[ours] = _from_torch_kernel(net, layer, tensor) if ours.endswith("kernel") else tensor
    return found


def _list_layers(net: str, weights: Mapping[str, np.ndarray | jax.Array]) -> list[tuple[str, str | None]]:
    """(layer, its normalisation or None), from the input on."""
    middle = "up" if net == "G" else "down"
    inner = [f"{middle}{i}" for i in range(1, 1 + sum(name.startswith(middle) and name.endswith("/kernel") for name in weights))]
    order = ["head", *inner, "image"] if net == "G" else [*inner, "head"]
    return [(layer, f"{layer}_norm" if f"{layer}_norm/var" in weights else None) for layer in order]


def _number_modules(net: str, i: int) -> tuple[int, int]:
    """Numbers of layer i's convolution and BN in the nn.Sequential: D's first has no BN."""
    return (3 * i, 3 * i + 1) if net == "G" else (max(3 * i - 1, 0), 3 * i)


def _to_torch_kernel(net: str, layer: str, kernel: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    if layer != "head":
        return kernel.transpose(3, 2, 0, 1)
    if net == "G":  # (z, 4 * 4 * C) -> (z, C, 4, 4)
        return kernel.reshape(len(kernel), HEAD_PX, HEAD_PX, -1).transpose(0, 3, 1, 2)
    return kernel.reshape(HEAD_PX, HEAD_PX, -1, 1).transpose(3, 2, 0, 1)  # (4 * 4 * C, 1) -> (1, C, 4, 4)


def _from_torch_kernel(net: str, layer: str, tensor: np.ndarray) -> np.ndarray:
    if layer != "head":
        return np.ascontiguousarray(tensor.transpose(2, 3, 1, 0))
    if net == "G":
        return tensor.transpose(0, 2, 3, 1).reshape(len(tensor), -1)
    return tensor.transpose(2, 3, 1, 0).reshape(-1, 1)
