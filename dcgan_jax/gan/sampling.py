"""Generates images from seeds: one latent per seed, the EMA generator with recalibrated BN statistics, uint8 pixels."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze

from dcgan_jax.config import Config, Nets
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.pixels import to_uint8
from dcgan_jax.gan.state import GanState, make_key

# With 1,024 latents, scores at 64 px vary by two points with the choice of the latents (experiments/notes/equal-time.md).
RECALIBRATION_BATCHES = 32
RECALIBRATION_BATCH = 128
FIRST_RECALIBRATION_BATCHES = 4  # in step 0 with random weights, whose samples need no accuracy: training begins sooner
# All sampling uses this batch size; the last batch is padded. A program for another size may sum in another order, but an image
# must not depend on how many are requested.
SAMPLES_PER_BATCH = 64


def sample_latents(key: jax.Array, count: int, nets: Nets) -> jax.Array:
    """Samples (count, latent_dim) float32 latents from the recipe's distribution."""
    shape = (count, nets.latent_dim)
    return jax.random.normal(key, shape) if nets.latent_law == "normal" else jax.random.uniform(key, shape, minval=-1, maxval=1)


def make_recalibrate(config: Config) -> Callable[[GanState], GanState]:
    """Makes f(state) -> state, which recomputes ema_stats for ema_params. Other leaves stay. Pure: jit it.

    The EMA generator is never run in training, so it has no running statistics of its own. Here it generates images from 4,096
    latents, or from 512 if its weights are the random ones of step 0. The latents depend only on the state's key, so each state
    has one set of statistics. Means and variances are those of all batches together.
    """
    has_random_start = not (config.run.start or config.run.grow_kimg)  # else step 0 has weights of another run or stage
    first_batches = FIRST_RECALIBRATION_BATCHES if has_random_start else RECALIBRATION_BATCHES
    generator = Generator(config.nets, bn_momentum=0.0)  # after a pass the "running" statistics are those of that batch

    def compute_batch_stats(state: GanState, key: jax.Array, labels: jax.Array | None) -> dict:
        variables = {"params": state.ema_params, "batch_stats": state.ema_stats}
        latents = sample_latents(key, RECALIBRATION_BATCH, config.nets)
        _, new = generator.apply(variables, latents, True, labels, mutable="batch_stats")
        return unfreeze(new).get("batch_stats", {})

    def recalibrate(state: GanState) -> GanState:
        if not state.ema_stats:
            return state
        keys = jax.random.split(jax.random.fold_in(state.key, 2**32 - 1), RECALIBRATION_BATCHES)  # no step has this number
        labels = None if state.labels is None else _repeat_labels(state.labels)
        count = jnp.where(state.step == 0, first_batches, RECALIBRATION_BATCHES)

        def add_batch(i: jax.Array, statistics: dict) -> dict:
            # Cloned, because JAX's check for reused keys (--debug) takes an array of keys that a loop reads as one key.
            new = compute_batch_stats(state, jax.random.clone(keys[i]), None if labels is None else labels[i])
            return jax.tree.map(lambda rows, row: rows.at[i].set(row), statistics, new)

        empty = jax.tree.map(lambda leaf: jnp.zeros((RECALIBRATION_BATCHES, *leaf.shape), leaf.dtype), state.ema_stats)
        statistics = jax.lax.fori_loop(0, count, add_batch, empty)  # (32, C) each
        return state.replace(ema_stats={name: _merge_batches(layer, count) for name, layer in statistics.items()})

    return recalibrate


def _merge_batches(layer: dict, count: jax.Array) -> dict:
    """Merges the statistics of the first `count` batches, {"mean", "var"} (32, C) each -> (C,) each."""
    is_used = jnp.arange(RECALIBRATION_BATCHES)[:, None] < count
    means, variances = layer["mean"], layer["var"]
    return {"mean": means.mean(0, where=is_used), "var": variances.mean(0, where=is_used) + means.var(0, where=is_used)}


def _repeat_labels(table: jax.Array) -> jax.Array:
    """Repeats the table of labels for all latents of a recalibration: (LABELS, A) -> (batches, latents of a batch, A)."""
    return jnp.resize(table, (RECALIBRATION_BATCHES, RECALIBRATION_BATCH, table.shape[1]))


def select_labels(table: np.ndarray | None, seeds: np.ndarray) -> np.ndarray | None:
    """Selects the labels for samples of these seeds from table, the state's `labels`: (N, A) uint8, or None if table is None."""
    return None if table is None else np.asarray(table)[np.asarray(seeds) % len(table)]


def make_seed_latents(nets: Nets) -> Callable[[jax.Array], jax.Array]:
    """Makes f(seeds (B,) uint32) -> (B, latent_dim) float32. Each latent depends on its seed alone."""
    return jax.vmap(lambda seed: sample_latents(make_key(seed), 1, nets)[0])


def make_generate(nets: Nets) -> Callable[..., jax.Array]:
    """Makes a function that generates images from latents with stored BN statistics. Pure: jit it.

    Returns: f(ema_params, ema_stats, latents (B, latent_dim), labels (B, A) or None) -> (B, S, S, C) uint8. Image i depends on
        latent i and label i alone, not on the rest of the batch.
    """
    generator = Generator(nets)

    def generate(params: dict, stats: dict, latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        images = generator.apply({"params": params, "batch_stats": stats}, latents, False, labels)
        return to_uint8(images, nets)  # pyrefly: ignore[bad-argument-type] - `apply` gives a pair only with `mutable`

    return generate


def make_sample(nets: Nets) -> Callable[..., jax.Array]:
    """Makes a function that generates images from seeds with stored BN statistics. Pure: jit it.

    Returns: f(ema_params, ema_stats, seeds (B,) uint32, labels (B, A) or None) -> (B, S, S, C) uint8. Image i depends on seed i
        and label i alone.
    """
    latents, generate = make_seed_latents(nets), make_generate(nets)
    return lambda params, stats, seeds, labels=None: generate(params, stats, latents(seeds), labels)


def sample_images(nets: Nets, params: dict, stats: dict, seeds: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Generates images from seeds: (N,) uint32 -> (N, S, S, C) uint8 on the host. Each image depends on its seed and label alone.

    labels: (N, A) of 0 and 1. A conditional recipe needs them; `select_labels` gives the default ones.
    """
    return run_in_batches(functools.partial(jit_cached(make_sample, nets), params, stats), np.asarray(seeds, np.uint32), labels)


def generate_images(nets: Nets, params: dict, stats: dict, latents: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Generates images from latents: (N, latent_dim) float32 -> (N, S, S, C) uint8 on the host. labels: as in `sample_images`."""
    return run_in_batches(
        functools.partial(jit_cached(make_generate, nets), params, stats), np.asarray(latents, np.float32), labels
    )


def run_in_batches(program: Callable[..., jax.Array], first: np.ndarray, *others: np.ndarray | None) -> np.ndarray:
    """Runs program(first, *others) on SAMPLES_PER_BATCH rows at a time and joins the results on the host.

    first, others: arrays (N, ...) with the same N; others may be None.
    """
    arrays, count, results = (first, *others), len(first), []
    for start in range(0, max(count, 1), SAMPLES_PER_BATCH):
        missing = max(start + SAMPLES_PER_BATCH - count, 0)
        some = [None if array is None else array[start : start + SAMPLES_PER_BATCH] for array in arrays]
        some = [None if array is None else np.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1))) for array in some]
        results.append(np.asarray(program(*some))[: SAMPLES_PER_BATCH - missing])
    return np.concatenate(results)


@functools.cache  # one program per factory and settings
def jit_cached(factory: Callable[..., Callable], settings: Config | Nets) -> Callable:
    """Returns jax.jit(factory(settings)), cached. factory: a function such as `make_generate`."""
    return jax.jit(factory(settings))
