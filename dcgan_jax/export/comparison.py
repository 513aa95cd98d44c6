"""Measures how much the images of an export differ from those of the checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from dcgan_jax.api import TrainedGAN
from dcgan_jax.gan.models import Generator

COMPARED_SEEDS = 64  # samples of the seeds 0, 1 ... that are compared


class Deviation(NamedTuple):
    """Differences over COMPARED_SEEDS samples."""

    largest: float  # pixels from 0 to 1, before rounding, against the checkpoint computed in float32
    largest_grey_levels: int  # after rounding, against `sample`, which uses the run's compute_dtype
    mean_grey_levels: float


def compare_with_checkpoint(gan: TrainedGAN, generate: Callable[..., np.ndarray]) -> Deviation:
    """Compares samples of an export. generate: (latents, labels or None) -> (N, S, S, C) from 0 to 1."""
    seeds, nets = np.arange(COMPARED_SEEDS, dtype=np.uint32), dataclasses.replace(gan.config.nets, compute_dtype="float32")
    labels, latents = gan.labels(seeds), gan.latents(seeds)
    there = generate(latents, None if labels is None else labels.astype(np.float32))
    params, stats = gan.generator
    with jax.default_matmul_precision("highest"):  # GPUs and TPUs would use a lower precision
        here = np.asarray(Generator(nets).apply({"params": params, "batch_stats": stats}, latents, False, labels))
    here = (here + 1) / 2 if nets.g_output == "tanh" else here
    gap = np.abs(np.rint(255 * np.nan_to_num(there)) - gan.sample(seeds))
    return Deviation(float(np.abs(there - here).max()), int(gap.max()), float(gap.mean()))


def describe_comparison(found: Deviation | None, compute_dtype: str) -> str:
    """Describes the deviation. compute_dtype: of the run."""
    if not found:
        return "not compared with the checkpoint: onnxruntime is not installed"
    before, after = "", ""
    if compute_dtype != "float32":
        before, after = ", computed in float32,", f"; `sample` computes this run in {compute_dtype}"
    return (
        f"images of {COMPARED_SEEDS} seeds{before} differ from the checkpoint's by at most {found.largest:.1e} "
        f"(pixels are from 0 to 1); rounded, by at most {found.largest_grey_levels} of 255 grey levels, "
        f"{found.mean_grey_levels:.4f} on average{after}"
    )
