"""Converts weights between this project's layout and that of PyTorch's DCGAN example (pytorch/examples, dcgan/main.py).

In PyTorch, transposed convolutions are (C_in, C_out, k, k) and convolutions (C_out, C_in, k, k); neither needs a flip. Our dense
head of G or D is a convolution with kernel 4 there (docs/published-dcgans.md, T15).
"""

from collections.abc import Mapping

import jax
import numpy as np

from dcgan_jax.config import Mark, Nets, UserError, list_fields

HEAD_PX = 4
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# The defaults of `Nets` are PyTorch's network. A field without one of these marks must have its default, also a future field.
FREE_FIELDS = list_fields(Mark.ANY_IN_TORCH) | list_fields(Mark.TRAINING_ONLY)


def check_torch_layout(nets: Nets, about: str, otherwise: str = "") -> None:
    """Checks that PyTorch's example can represent this network. Raises: UserError that names the field which differs.

    about: the start of the message, such as the flag; otherwise: its end, such as "; or ...".
    """
    for field, value in vars(Nets()).items():
        if field not in FREE_FIELDS and getattr(nets, field) != value:
            raise UserError(
                f"{about}: PyTorch's example has no network with `{field}` {getattr(nets, field)!r} (only {value!r});"
                f" use preset torch32, torch64 or torch128{otherwise}"
            )


def to_torch(net: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts leaves of G or D (head/kernel, up1_norm/mean ...) to PyTorch's state dict, with num_batches_tracked 0."""
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
    """Converts PyTorch's state dict to leaves by name, with the names and shapes of `like`. The inverse of `to_torch`.

    Raises: UserError that names a tensor which is missing or has another shape.
    """
    found = {}
    for i, (layer, norm) in enumerate(_list_layers(net, like)):
        conv, bn = _number_modules(net, i)
        wanted = {f"{layer}/kernel": f"main.{conv}.weight"}
        wanted |= {f"{norm}/{ours}": f"main.{bn}.{theirs}" for ours, theirs in NORM.items()} if norm else {}
        for ours, theirs in wanted.items():
            shape = _to_torch_kernel(net, layer, like[ours]).shape if ours.endswith("kernel") else like[ours].shape
            if theirs not in tensors or tensors[theirs].shape != shape:
                actual = tensors[theirs].shape if theirs in tensors else "missing"
                raise UserError(
                    f"{about}: {theirs} is {actual}, the recipe needs {shape}; give the `size`, `width` and `latent_dim`"
                    " of the trained network"
                )
            tensor = tensors[theirs].astype(np.float32)
            found[ours] = _from_torch_kernel(net, layer, tensor) if ours.endswith("kernel") else tensor
    return found


def _list_layers(net: str, weights: Mapping[str, np.ndarray | jax.Array]) -> list[tuple[str, str | None]]:
    """Lists (layer, its normalisation or None), from the input to the output."""
    middle = "up" if net == "G" else "down"
    inner = [f"{middle}{i}" for i in range(1, 1 + sum(name.startswith(middle) and name.endswith("/kernel") for name in weights))]
    order = ["head", *inner, "image"] if net == "G" else [*inner, "head"]
    return [(layer, f"{layer}_norm" if f"{layer}_norm/var" in weights else None) for layer in order]


def _number_modules(net: str, i: int) -> tuple[int, int]:
    """Returns the positions of layer i's convolution and BN in PyTorch's nn.Sequential. D's first layer has no BN."""
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
