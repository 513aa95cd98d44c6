"""Networks whose features compare images: the FID Inception from its weight file, or a user's own function."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dcgan_jax.config import UserError
from dcgan_jax.quality import inception
from dcgan_jax.run import weight_files

IMAGES_PER_CALL = 50  # the Inception needs 0.5 GB for them


class FeatureNetwork(NamedTuple):
    """A function from images to feature vectors."""

    name: str  # "inception", or FILE.py:FUNCTION as given
    sha256: str  # of its file; features of different files do not compare
    resize: str  # how it resizes images, for messages
    function: Callable[[np.ndarray], np.ndarray]  # (IMAGES_PER_CALL, S, S, 3) uint8 -> (IMAGES_PER_CALL, D)

    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, S, S, C) uint8, grey or colour -> (N, D) float32. Raises: UserError if the function returns something else."""
        parts = []
        for start in range(0, len(images), IMAGES_PER_CALL):
            some = images[start : start + IMAGES_PER_CALL]
            padded = np.zeros((IMAGES_PER_CALL, *images.shape[1:3], 3), np.uint8)  # a constant shape: one compiled program
            padded[: len(some)] = some  # repeats the channel of grey images
            with jax.default_matmul_precision("highest"):  # that of GPUs and TPUs is lower, and features must not depend on them
                found = np.asarray(self.function(padded))
            if found.ndim != 2 or len(found) != IMAGES_PER_CALL or not np.issubdtype(found.dtype, np.floating):
                raise UserError(
                    f"{self.name}: returned {found.dtype} {found.shape} for {IMAGES_PER_CALL} images; it must return "
                    f"floating-point numbers, ({IMAGES_PER_CALL}, D)"
                )
            if not np.isfinite(found[: len(some)]).all():
                raise UserError(f"{self.name}: returned a NaN or an infinity for images of {images.shape[1]} px")
            parts.append(found[: len(some)].astype(np.float32))
        return np.concatenate(parts)


def open_feature_network(place: str, argument: str) -> FeatureNetwork:
    """Opens FILE.py:FUNCTION or the FID Inception's weight file. Raises: UserError that names the argument."""
    return _open_own(place, argument) if ".py:" in place else _open_inception(Path(place), argument)


def _open_inception(file: Path, argument: str) -> FeatureNetwork:
    weights, sha256 = weight_files.read_arrays(file), _hash_file(file)
    try:
        layers = inception.fold_batch_norm(weights)
    except ValueError as fault:
        raise UserError(f"`{argument}` {file}: {fault}") from None
    promised = file.stem.rpartition("-")[2]
    if file.suffix == ".pth" and len(promised) == 8 and not sha256.startswith(promised):
        raise UserError(
            f"`{argument}` {file}: its SHA-256 begins with {sha256[:8]}, not {promised} as in its name; download it again"
        )
    network = jax.jit(inception.extract_features)
    return FeatureNetwork("inception", sha256, "TensorFlow 1 bilinear to 299 px", lambda images: network(layers, images))


def _open_own(place: str, argument: str) -> FeatureNetwork:
    file, _, name = place.rpartition(":")
    if not (file.endswith(".py") and name.isidentifier()):
        raise UserError(f"`{argument}` {place}: expected FILE.py:FUNCTION, a function from uint8 (B, S, S, 3) to (B, D)")
    try:
        sha256 = _hash_file(Path(file))
    except OSError as fault:
        raise UserError(f"`{argument}` {place}: {file}: {fault.strerror}") from None
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec and spec.loader  # the file ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as fault:
        raise UserError(f"`{argument}` {place}: {fault}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"`{argument}` {place}: {file} has no function {name}")
    return FeatureNetwork(place, sha256, "its own", function)


def _hash_file(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
