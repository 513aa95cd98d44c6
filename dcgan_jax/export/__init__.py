"""Exports the generator of a run: a folder with its weights in the requested format, and a model card."""

import dataclasses
import importlib
import importlib.util
import os
import secrets
import shutil
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from dcgan_jax.api import TrainedGAN
    from dcgan_jax.export.comparison import Deviation

Format = Literal["onnx", "stablehlo", "safetensors", "torch", "web"]
Weights = Literal["float32", "float16", "bfloat16", "int8"]
LARGEST = 1e-4  # pixel difference, on a scale of 0 to 1, that another order of sums may cause


@dataclasses.dataclass(frozen=True)
class Export:
    """Exports the EMA generator with its statistics: a folder with a model card.

    The export computes in float32, whatever the run's --compute-dtype. Its samples are compared with those of the checkpoint in
    float32. If they differ by more than 0.0001 (pixels are from 0 to 1), the export is refused, unless --weights requests a
    smaller type.
    """

    run: str
    """folder of the run, such as runs/article; or drawn32 or drawn64, from the package"""
    format: Format
    """onnx: for onnxruntime and other ONNX runtimes; stablehlo: for jax.export; web: a page that generates in the browser.
    safetensors: weights, and a NumPy file that generates from them.
    torch: state dicts of PyTorch's DCGAN example, for runs with its networks"""
    out: str
    """folder to write; it must not exist"""
    weights: Weights = "float32"
    """data type in which kernels are stored; all sums are float32.
    onnx supports all four, web all but bfloat16, safetensors float32 and float16"""
    runtime: str = "cached"
    """web: source of the npm package onnxruntime-web, which runs the generator in browsers.
    download: from registry.npmjs.org (33 MB, once); cached: as downloaded before; otherwise the path of its .tgz"""
    step: int | Literal["best"] | None = None
    """checkpoint to export; none: the newest; best: the one with the best score in training"""


# Data types of each format. onnxruntime-web has no bfloat16 for WebGPU.
STORES = {
    "onnx": typing.get_args(Weights),
    "web": ("float32", "float16", "int8"),
    "safetensors": ("float32", "float16"),
    "stablehlo": ("float32",),
    "torch": ("float32",),
}


class Exported(NamedTuple):
    """A finished export, and its deviation from the checkpoint."""

    folder: Path
    file: Path  # the generator's
    size_bytes: int  # of that file
    comparison: "Deviation | None"  # None if the package that reads the format is not installed
    compute_dtype: str  # the run's own


class InexactExportError(RuntimeError):
    """An export generates other images than the checkpoint, so nothing was written. The message is one line."""


def export(
    run: str | Path,
    format: Format,
    out: str | Path,
    weights: Weights = "float32",
    runtime: str | Path = "cached",
    step: int | Literal["best"] | None = None,
) -> Exported:
    """Exports the EMA generator with its statistics to a new folder `out`. Its arguments are the command's flags: see `Export`.

    Raises: UserError; InexactExportError.
    """
    arguments = locals()
    from dcgan_jax.api import load
    from dcgan_jax.arguments import fill_flags
    from dcgan_jax.config import UserError
    from dcgan_jax.places import check_encodable
    from dcgan_jax.run.numerics import pin_numerics

    ask = fill_flags(Export, arguments)
    folder = Path(ask.out)
    if os.path.lexists(folder):
        raise UserError(f"`out` {ask.out}: already exists; give another folder, or remove it")
    check_encodable(os.path.abspath(ask.out))
    if ask.weights not in STORES[ask.format]:
        raise UserError(f"`weights` {ask.weights}: {ask.format} supports {' or '.join(STORES[ask.format])}")
    if ask.runtime != "cached" and ask.format != "web":
        raise UserError(f"`runtime` {ask.runtime}: is for `format` web; leave it out for {ask.format}")
    if ask.format in ("onnx", "web") and importlib.util.find_spec("onnx") is None:
        raise UserError(f"`format` {ask.format}: needs the package onnx: pip install onnx")
    gan = load(ask.run, ask.step)
    # An unfinished export never has the final name.
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        with pin_numerics():
            written = _write_folder(gan, partial, ask)
        os.rename(partial, folder)
    except OSError as fault:
        raise UserError(f"`out` {ask.out}: {fault.strerror or fault}; give a folder that can be written") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written._replace(folder=folder, file=folder / written.file.name)


def _write_folder(gan: "TrainedGAN", folder: Path, ask: Export) -> Exported:
    import numpy as np

    from dcgan_jax import files
    from dcgan_jax.config import flatten
    from dcgan_jax.export.card import make_card
    from dcgan_jax.export.comparison import compare_with_checkpoint

    written = importlib.import_module(f"dcgan_jax.export.{ask.format}").write(gan, folder, ask)
    comparison = compare_with_checkpoint(gan, written.generate) if written.generate else None
    # The deviation of smaller weights is printed. An export whose weights overflow is refused.
    if comparison and not comparison.largest <= (LARGEST if ask.weights == "float32" else 1.0):
        raise InexactExportError(
            f"`format` {ask.format}: with {ask.weights} weights samples differ from the checkpoint's by up to "
            f"{comparison.largest:.1e} (pixels are from 0 to 1), so nothing was written; give another `format`, `weights` or "
            "`step`, and report it"
        )
    if gan.label_table is not None:
        np.save(folder / "labels.npy", np.asarray(gan.label_table))
    files.write_json(folder / "config.json", flatten(gan.config))
    found = Exported(folder, written.file, written.file.stat().st_size, comparison, gan.config.nets.compute_dtype)
    (folder / "README.md").write_text(make_card(gan, ask, written.usage, found), encoding="utf-8")
    return found
