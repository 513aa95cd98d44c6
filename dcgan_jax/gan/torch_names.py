"""Converts weights between this project's layout and that of PyTorch's DCGAN example (pytorch/examples, dcgan/main.py).

In PyTorch, transposed convolutions are (C_in, C_out, k, k) and convolutions (C_out, C_in, k, k); neither needs a flip. Our dense
head of G or D is a convolution with kernel 4 there (docs/published-dcgans.md, T15).
"""

import itertools
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import SIZES, Mark, Nets, UserError, list_fields

HEAD_PX = 4
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
AVERAGED = re.compile(r"ema|averag|avg|swa(?![a-z])|shadow", re.IGNORECASE)
# Names that are parameters of a layer. Numbers without a dimension and an optimiser's arrays are not.
PARAMETER = re.compile(r"(^|\.)(weight|bias|running_|original)[a-z0-9_]*$")
MAX_LAYERS = 1000  # of files whose layers are compared by order
# The defaults of `Nets` are PyTorch's network. A field without one of these marks must have its default, also a future field.
FREE_FIELDS = list_fields(Mark.ANY_IN_TORCH) | list_fields(Mark.TRAINING_ONLY)


def check_torch_layout(nets: Nets, about: str, remedy: str) -> None:
    """Checks that PyTorch's example can represent this network. Raises: UserError that names the field which differs.

    about: the start of the message, such as the flag; remedy: its end.
    """
    for field, value in vars(Nets()).items():
        if field not in FREE_FIELDS and getattr(nets, field) != value:
            raise UserError(
                f"{about}: PyTorch's example has no network with `{field}` {getattr(nets, field)!r} (only {value!r}); {remedy}"
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
    net: str, tensors: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray | jax.Array], about: str, prefix: str = "main."
) -> dict[str, np.ndarray]:
    """Converts PyTorch's state dict to leaves by name, with the names and shapes of `like`. The inverse of `to_torch`.

    prefix: what stands before 0.weight in the names of the tensors. Raises: UserError as `check_tensors`.
    """
    check_tensors(net, tensors, like, about, prefix)
    found = {}
    for name, wanted in _list_tensors(net, like).items():
        tensor = tensors[prefix + name].astype(np.float32)
        is_kernel = wanted.leaf.endswith("kernel")
        found[wanted.leaf] = _from_torch_kernel(net, wanted.layer, tensor) if is_kernel else tensor
    return found


def check_tensors(
    net: str, tensors: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray | jax.Array], about: str, prefix: str
) -> None:
    """Checks that the tensors with this prefix are a network as in `like`, and no other tensor belongs to it.

    Raises: UserError that names a tensor which is missing, superfluous, of another shape or no floating-point number.
    """
    wanted = _list_tensors(net, like)
    for name, (_, _, shape) in wanted.items():
        tensor = tensors.get(prefix + name)
        if tensor is None or tensor.shape != shape:
            actual = "missing" if tensor is None else tensor.shape
            remedy = _explain_missing(net, name, tensors, like) if tensor is None else _suggest_flags(net, tensors, prefix)
            raise UserError(f"{about}: {prefix}{name} is {actual}, the recipe needs {shape}; {remedy}")
        if not jnp.issubdtype(tensor.dtype, jnp.floating):  # quantised weights need scales, which the example does not have
            raise UserError(f"{about}: {prefix}{name} has {tensor.dtype} numbers; save the network in floating-point numbers")
    owner = prefix.removesuffix("main.")
    for name in tensors:
        inner = name.removeprefix(owner).removeprefix("main.") if name.startswith(owner) else ""
        if PARAMETER.search(inner) and inner not in wanted and (prefix != owner or re.match(r"\d+\.", inner)):
            raise UserError(
                f"{about}: also contains {name} {tensors[name].shape}, which PyTorch's example does not have, so its network is "
                "another one; train the example's network, or start without it"
            )


def find_networks(net: str, tensors: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray | jax.Array]) -> list[str]:
    """Lists the prefixes under which the tensors have all names and shapes of this network.

    A prefix is what wrappers and dictionaries add to the names, such as "module.main." or "state_dict.generator.main.".
    Order: that of the tensors, but averaged networks (EMA) come first.
    """
    wanted = _list_tensors(net, like)
    found = [
        prefix
        for prefix in list_prefixes(net, tensors)
        if all(prefix + name in tensors and tensors[prefix + name].shape == shape for name, (_, _, shape) in wanted.items())
    ]
    return sorted(found, key=lambda prefix: not AVERAGED.search(prefix))


def list_prefixes(net: str, tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Lists the prefixes of tensors that may be this network, of any shape: its first kernel is there."""
    begun = [name.removesuffix("0.weight") for name in tensors if re.search(r"(^|\.)0\.weight$", name)]
    # G's second module has weights (BN), D's has none (leaky ReLU) but its third has (a convolution).
    others = {"G": lambda prefix: f"{prefix}1.weight" not in tensors and f"{prefix}2.weight" in tensors}
    others["D"] = lambda prefix: f"{prefix}1.weight" in tensors
    return [prefix for prefix in begun if not others[net](prefix)]


def match_by_order(
    net: str, tensors: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray | jax.Array]
) -> list[dict[str, str]]:
    """Lists the networks whose layers have other names but the kernels and BN layers of this one: PyTorch's name -> theirs.

    Kernels must have the same shapes in the order of the tensors, and so must BN layers. A network is everything below a common
    prefix; with any other parameter there, it is another network.
    """
    layers = _group_layers({name: tensors[name].shape for name in list_parameters(tensors)})
    if len(layers) > MAX_LAYERS:
        return []
    wanted = _group_layers({name: shape for name, (_, _, shape) in _list_tensors(net, like).items()})
    paths = [layer.split(".") for layer in layers]
    prefixes = dict.fromkeys(".".join(path[:depth]) for path in paths for depth in range(len(path)))
    found = {}
    for prefix in prefixes:
        inner = {layer: parts for layer, parts in layers.items() if not prefix or layer.startswith(f"{prefix}.")}
        if len(inner) == len(wanted):
            found.setdefault(tuple(inner), _pair_layers(wanted, inner))
    return [pairs for pairs in found.values() if pairs]


def list_parameters(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Lists the tensors that are parameters or statistics of layers, by their names."""
    return [name for name in tensors if PARAMETER.search(name)]


def describe_saving(net: str) -> str:
    """Says how to save G or D in PyTorch, so that it can be read here."""
    return f'save it with torch.save(net{net}.state_dict(), "net{net}.pth")'


def describe_names(net: str, like: Mapping[str, np.ndarray | jax.Array]) -> str:
    """Says that layers have other names than in PyTorch's example, and which names are read."""
    *names, last = (f"main.{name}" for name in _list_tensors(net, like))
    return (
        f"its layers have other names than in PyTorch's DCGAN example; if the network is the same, rename the keys to "
        f"{', '.join(names[:6])} ... {last}"
    )


def _explain_missing(net: str, name: str, tensors: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray | jax.Array]) -> str:
    """Says why a tensor of the network may be missing, and the remedy. name: without prefix."""
    if "running_" in name and not any("running_" in other for other in tensors):
        return (
            "its BatchNorm layers have no running statistics (track_running_stats=False), or only the parameters were saved: "
            f"train it with running statistics, and {describe_saving(net)}"
        )
    return f"the file is incomplete, or {describe_names(net, like)}"


def _suggest_flags(net: str, tensors: Mapping[str, np.ndarray], prefix: str) -> str:
    """Says which flags give the network that the tensors have, if PyTorch's example has it."""
    names = [f"{prefix}{_number_modules(net, i)[0]}.weight" for i in range(len(SIZES) + 2)]
    shapes = [tensors[name].shape if name in tensors else () for name in names]
    kernels = list(itertools.takewhile(lambda shape: shape[2:] == (HEAD_PX, HEAD_PX), shapes))
    size = HEAD_PX * 2 ** (len(kernels) - 1)
    if size not in SIZES:
        return "give the `size`, `width` and `latent_dim` of the trained network"
    width, channels = kernels[-1][:2] if net == "G" else kernels[0][:2]
    latent = f" `latent_dim` {kernels[0][0]}" if net == "G" else ""
    return f"give `size` {size} `width` {width} `channels` {channels}{latent}, as in the file"


Layers = Mapping[str, dict[str, tuple[int, ...]]]  # name of a layer -> its parameters: name -> shape


def _group_layers(shapes: Mapping[str, tuple[int, ...]]) -> Layers:
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, {})[part] = shape
    return layers


def _pair_layers(wanted: Layers, others: Layers) -> dict[str, str]:
    """Pairs the parameters of two networks: name -> the other's name. {} if kernels or BN layers differ in order or shape."""
    pairs = {}
    for is_kernel in (True, False):
        mine, theirs = ([name for name, parts in layers.items() if (len(parts) == 1) == is_kernel] for layers in (wanted, others))
        if [wanted[name] for name in mine] != [others[name] for name in theirs]:
            return {}
        pairs |= {f"{name}.{part}": f"{other}.{part}" for name, other in zip(mine, theirs, strict=True) for part in wanted[name]}
    return pairs


class _Wanted(NamedTuple):
    leaf: str  # ours
    layer: str
    shape: tuple[int, ...]  # PyTorch's


def _list_tensors(net: str, like: Mapping[str, np.ndarray | jax.Array]) -> dict[str, _Wanted]:
    """Lists the tensors of a network like this: name without prefix, such as 0.weight -> our leaf, layer and PyTorch's shape."""
    found = {}
    for i, (layer, norm) in enumerate(_list_layers(net, like)):
        conv, bn = _number_modules(net, i)
        kernel = f"{layer}/kernel"
        found[f"{conv}.weight"] = _Wanted(kernel, layer, _to_torch_kernel(net, layer, like[kernel]).shape)
        for ours, theirs in NORM.items() if norm else ():
            found[f"{bn}.{theirs}"] = _Wanted(f"{norm}/{ours}", layer, like[f"{norm}/{ours}"].shape)
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
