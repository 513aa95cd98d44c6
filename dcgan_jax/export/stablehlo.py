"""Exports the generator as StableHLO: one file with its weights, for CPU, CUDA and TPU and any batch size.

The program is the Flax generator, traced once for all platforms. So its convolutions are those of `lax`, and not the faster
ones of gan/conv/ for CPUs.
"""

import dataclasses
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from dcgan_jax.api import TrainedGAN
from dcgan_jax.config import Nets
from dcgan_jax.export import Export
from dcgan_jax.export.writing import Written, describe_latent, describe_shape
from dcgan_jax.gan.models import Generator
from dcgan_jax.gan.state import LABELS

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(nets: Nets, params: dict, stats: dict) -> bytes:
    """Returns bytes for `jax.export.deserialize`.

    The program is f(latents (N, latent_dim) float32[, labels (N, A) float32 of 0 and 1]) -> images (N, S, S, C) float32 from 0 to
    1. Labels are an input only if the recipe is conditional.

    Args: params, stats, the generator's parameters and BN statistics. It computes in float32, whatever nets.compute_dtype is.
    """
    generator = Generator(dataclasses.replace(nets, compute_dtype="float32"), conv_implementation="lax")
    variables = jax.tree.map(np.asarray, {"params": params, "batch_stats": stats})  # constants of the program

    def generate(latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        images = generator.apply(variables, latents, False, labels)
        # pyrefly: ignore[bad-return, unsupported-operation] - `apply` gives a pair only with `mutable`
        return (images + 1) / 2 if nets.g_output == "tanh" else images

    [count] = jax.export.symbolic_shape("n")
    widths = [nets.latent_dim] + ([len(nets.conditions)] if nets.conditions else [])
    inputs = [jax.ShapeDtypeStruct((count, width), jnp.float32) for width in widths]
    with jax.default_matmul_precision("highest"):  # TPUs and GPUs would use a lower precision
        return bytes(jax.export.export(jax.jit(generate), platforms=PLATFORMS)(*inputs).serialize())


# ---- The export ----


def write(gan: TrainedGAN, folder: Path, ask: Export) -> Written:
    """Writes generator.stablehlo, and reads it back."""
    file = folder / "generator.stablehlo"
    file.write_bytes(export_stablehlo(gan.config.nets, *gan.generator))
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    labels = f'\nlabels = np.load("labels.npy")[seeds % {LABELS}].astype(np.float32)' if gan.attributes else ""
    usage = f"""StableHLO for {", ".join(PLATFORMS)}, calling convention {program.calling_convention_version}, any batch size,
written by jax {jax.__version__}; JAX can read it for at least the compatibility window of `jax.export` (six months).

```python
import jax, jax.export, numpy as np
program = jax.export.deserialize(bytearray(open("generator.stablehlo", "rb").read()))
seeds = np.arange(16, dtype=np.uint32)
latents = jax.vmap(lambda seed: {describe_latent(gan)})(seeds){labels}
images = jax.jit(program.call)(latents{", labels" if gan.attributes else ""})  # (N, {describe_shape(gan)}) float32 from 0 to 1
```
"""

    def generate(*inputs: np.ndarray | None) -> np.ndarray:
        return np.asarray(program.call(*(of for of in inputs if of is not None)))

    return Written(file, generate, usage)
