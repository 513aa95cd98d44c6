"""Seeds to images: each seed its own latent, the EMA generator with recalibrated statistics, rounded uint8 pixels."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from flax.core import unfreeze

from dcgan_jax.config import Config, Nets
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.pixels import to_uint8
from dcgan_jax.gan.state import LABELS, GanState

RECALIBRATION_BATCHES = 8
RECALIBRATION_BATCH = LABELS // RECALIBRATION_BATCHES
# All sampling goes through one program of this batch size, the last batch padded: kernels for other sizes may sum in another
# order, and an image must not depend on how many are requested.
SAMPLES_PER_BATCH = 64


def sample_latents(key: jax.Array, count: int, nets: Nets) -> jax.Array:
    """(count, latent_dim) float32 from the recipe's law."""
    shape = (count, nets.latent_dim)
    return jax.random.normal(key, shape) if nets.latent_law == "normal" else jax.random.uniform(key, shape, minval=-1, maxval=1)


def make_recalibrate(config: Config) -> Callable[[GanState], GanState]:
    """f(state) -> the state with ema_stats recomputed for ema_params from 1,024 latents; other leaves untouched.

    An average of weights was never run in training, so running statistics do not belong to it. The latents are a function
    of the state's key alone, so a state has one set of statistics. Means and variances are those of all batches together.
    """
    generator = Generator(config.nets, bn_momentum=0.0)  # after a pass the "running" statistics are that batch's own

    def compute_batch_stats(state: GanState, key: jax.Array, labels: jax.Array | None) -> dict:
        variables = {"params": state.ema_params, "batch_stats": state.ema_stats}
        latents = sample_latents(key, RECALIBRATION_BATCH, config.nets)
        _, new = generator.apply(variables, latents, True, labels, mutable="batch_stats")
        return unfreeze(new).get("batch_stats", {})

    def recalibrate(state: GanState) -> GanState:
        if not state.ema_stats:
            return state
        keys = jax.random.split(jax.random.fold_in(state.key, 2**32 - 1), RECALIBRATION_BATCHES)  # no step has this number
        labels = None if state.labels is None else state.labels.reshape(RECALIBRATION_BATCHES, RECALIBRATION_BATCH, -1)
        batches = jax.lax.map(lambda each: compute_batch_stats(state, *each), (keys, labels))  # (8, C) each
        merged = {
            name: {"mean": layer["mean"].mean(0), "var": layer["var"].mean(0) + layer["mean"].var(0)}
            for name, layer in batches.items()
        }
        return state.replace(ema_stats=merged)

    return recalibrate


def select_labels(table: np.ndarray | None, seeds: np.ndarray) -> np.ndarray | None:
    """(N, A) uint8: the labels that samples of these seeds are conditioned on, from the state's `labels`; None if it has none."""
    return None if table is None else np.asarray(table)[np.asarray(seeds) % len(table)]


def make_seed_latents(nets: Nets) -> Callable[[jax.Array], jax.Array]:
    """f(seeds (B,) uint32) -> (B, latent_dim) float32, each seed its own."""
    return jax.vmap(lambda seed: sample_latents(jax.random.key(seed), 1, nets)[0])


def make_generate(nets: Nets) -> Callable[..., jax.Array]:
    """f(ema_params, ema_stats, latents (B, latent_dim), labels (B, A) or None) -> (B, S, S, C) uint8; image i is a function of
    latent i and its label alone: stored statistics keep a face independent of its neighbours in the batch.
    """
    generator = Generator(nets)

    def generate(params: dict, stats: dict, latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        images = generator.apply({"params": params, "batch_stats": stats}, latents, False, labels)
        return to_uint8(images, nets)  # pyrefly: ignore[bad-argument-type] - `apply` gives a pair only with `mutable`

    return generate


def make_sample(nets: Nets) -> Callable[..., jax.Array]:
    """f(ema_params, ema_stats, seeds (B,) uint32, labels (B, A) or None) -> (B, S, S, C) uint8; image i is a function of seed i,
    and its label alone.
    """
    latents, generate = make_seed_latents(nets), make_generate(nets)
    return lambda params, stats, seeds, labels=None: generate(params, stats, latents(seeds), labels)


def sample_images(nets: Nets, params: dict, stats: dict, seeds: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """seeds (N,) uint32 -> (N, S, S, C) uint8 on the host, byte for byte the same in any batching of the seeds.

    labels: (N, A) of 0 and 1, where the recipe is conditional; `select_labels` gives a run's own.
    """
    return run_in_batches(functools.partial(jit_cached(make_sample, nets), params, stats), np.asarray(seeds, np.uint32), labels)


def generate_images(nets: Nets, params: dict, stats: dict, latents: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """The same of latents (N, latent_dim) float32."""
    return run_in_batches(
        functools.partial(jit_cached(make_generate, nets), params, stats), np.asarray(latents, np.float32), labels
    )


def run_in_batches(program: Callable[..., jax.Array], first: np.ndarray, *others: np.ndarray | None) -> np.ndarray:
    """program(first, *others) on the host, of (N, ...) arrays with the same N, or None, SAMPLES_PER_BATCH at a time."""
    arrays, count, found = (first, *others), len(first), []
    for start in range(0, max(count, 1), SAMPLES_PER_BATCH):
        missing = max(start + SAMPLES_PER_BATCH - count, 0)
        some = [None if array is None else array[start : start + SAMPLES_PER_BATCH] for array in arrays]
        some = [None if array is None else np.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1))) for array in some]
        found.append(np.asarray(program(*some))[: SAMPLES_PER_BATCH - missing])
    return np.concatenate(found)


@functools.cache  # one program a kind and recipe
def jit_cached(kind: Callable[..., Callable], recipe: Config | Nets) -> Callable:
    """kind(recipe), compiled: one of the functions here, or alike."""
    return jax.jit(kind(recipe))
