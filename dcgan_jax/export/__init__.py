"""A run's generator for use elsewhere: a folder with its weights in some format, and a model card."""

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
LARGEST = 1e-4  # difference, of 0 to 1, that summing in another order may make


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes the EMA generator, with its statistics, for use elsewhere: a folder with a model card. What is written computes
    in float32, whatever the run's --compute-dtype, and before it is done its faces are compared with the checkpoint's, computed
    alike: more than 0.0001 (of 0 to 1) between them is refused, unless --weights asks for smaller ones."""

    run: str
    """the run's folder, as runs/article"""
    format: Format
    """onnx: for onnxruntime and its like; stablehlo: for jax.export; safetensors: weights and a NumPy file that draws with them;
    torch: state dicts of PyTorch's DCGAN example, of runs with its networks; web: a page that draws in the browser"""
    out: str
    """folder to write, which must not be there yet"""
    weights: Weights = "float32"
    """how kernels are stored; sums are float32 in any case. onnx takes all four, web all but bfloat16, safetensors float32 and
    float16"""
    runtime: str = "cached"
    """web: what draws in browsers, the npm package onnxruntime-web. download: gets it from registry.npmjs.org, 33 MB, once;
    cached: the one that was downloaded; else the path of its .tgz"""
    step: int | Literal["best"] | None = None
    """checkpoint to take; none: the newest; best: by the scores of its training"""


# onnxruntime-web has no bfloat16 for WebGPU.
STORES = {
    "onnx": typing.get_args(Weights),
    "web": ("float32", "float16", "int8"),
    "safetensors": ("float32", "float16"),
    "stablehlo": ("float32",),
    "torch": ("float32",),
}


class Exported(NamedTuple):
    """What was written, and how far it is from the checkpoint."""

    folder: Path
    file: Path  # the generator's
    size_bytes: int  # of that file
    comparison: "Deviation | None"  # none where what reads the format is not installed
    compute_dtype: str  # the run's own


class InexactExportError(RuntimeError):
    """An export generates other images than the checkpoint, so nothing was written: the message, on one line."""


def export(
    run: str | Path,
    format: Format,
    out: str | Path,
    weights: Weights = "float32",
    runtime: str | Path = "cached",
    step: int | Literal["best"] | None = None,
) -> Exported:
    """Writes the EMA generator, with its statistics, as a new folder `out`. The arguments are the command's flags: see `Export`.

    Raises: UserError; InexactExportError.
    """
    arguments = locals()
    from dcgan_jax.api import load
    from dcgan_jax.arguments import fill_flags
    from dcgan_jax.config import UserError

    ask = fill_flags(Export, arguments)
    folder = Path(ask.out)
    if os.path.lexists(folder):
        raise UserError(f"`out` {ask.out}: is there already; name another folder, or remove it")
    if ask.weights not in STORES[ask.format]:
        raise UserError(f"`weights` {ask.weights}: {ask.format} takes {' or '.join(STORES[ask.format])}")
    if ask.format in ("onnx", "web") and importlib.util.find_spec("onnx") is None:
        raise UserError(f"`format` {ask.format}: needs the package onnx: pip install onnx")
    gan = load(ask.run, ask.step)
    # Half an export is never under its name.
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        written = _write_folder(gan, partial, ask)
        os.rename(partial, folder)
    except OSError as fault:
        raise UserError(f"`out` {ask.out}: {fault.strerror or fault}; give a place that can be written") from None
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
    # What smaller weights cost is printed; that they overflow is not worth a file.
    if comparison and not comparison.largest <= (LARGEST if ask.weights == "float32" else 1.0):
        raise InexactExportError(
            f"`format` {ask.format}: with {ask.weights} weights faces are up to {comparison.largest:.1e} (of 0 to 1) "
            "from the checkpoint's, so nothing was written; give another `format`, `weights` or `step`, and report it"
        )
    if gan.label_table is not None:
        np.save(folder / "labels.npy", np.asarray(gan.label_table))
    files.write_json(folder / "config.json", flatten(gan.config))
    found = Exported(folder, written.file, written.file.stat().st_size, comparison, gan.config.nets.compute_dtype)
    (folder / "README.md").write_text(make_card(gan, ask, written.usage, found))
    return found
