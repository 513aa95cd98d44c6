"""The layers of D that `freeze_d` keeps fixed while a trained GAN is fine-tuned on other images.

Source: FreezeD, Mo et al. 2020, arXiv:2002.10964, which does not train the layers of D next to the image.
"""

from typing import NamedTuple


class Split(NamedTuple):
    """D's parameters in two parts, which have no layer in common."""

    frozen: dict
    trained: dict


def split_frozen(params: dict, count: int) -> Split:
    """Splits D's parameters, layer name -> tree of arrays, into those of its first `count` layers and the rest.

    Layers are counted from the image. Layer i is the strided convolution down{i} with its bias and BN. The residual blocks
    follow down1 at the same side, so they belong to layer 1. The head and the labels' layer are always trained.
    With the architecture residual, down{i} holds the blocks before its down-sampling, and layer 1 includes the first convolution.
    """
    frozen = {name: layer for name, layer in params.items() if _is_frozen(name, count)}
    return Split(frozen, {name: layer for name, layer in params.items() if name not in frozen})


def _is_frozen(name: str, count: int) -> bool:
    layer = name.partition("_")[0]  # down2_norm -> down2, refine1_in -> refine1
    if layer.startswith("refine") or layer == "image":
        return count >= 1
    return layer.startswith("down") and int(layer.removeprefix("down")) <= count
