"""G as a program that JAX keeps readable: StableHLO for CPU, CUDA and TPU in one file, any batch size, weights inside.

It is the Flax generator itself. The program is traced once for all three, on the machine that exports it. So its convolutions
are `lax`'s, and not those of gan/conv/ that are fast on CPUs.
"""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from dcgan_jax.config import Nets
from dcgan_jax.gan.models import Generator

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(nets: Nets, params: dict, stats: dict) -> bytes:
    """What `jax.export.deserialize` reads: f(latents (N, latent_dim) float32[, labels (N, A) float32 of 0 and 1]) -> images
    (N, S, S, C) float32 from 0 to 1. Labels are an input where the recipe is conditional.

    Args: params, stats, the generator's parameters and BN statistics. It computes in float32, whatever nets.compute_dtype is.
    """
    generator = Generator(dataclasses.replace(nets, compute_dtype="float32"), conv_implementation="lax")
    variables = jax.tree.map(np.asarray, {"params": params, "batch_stats": stats})  # the program's constants

    def generate(latents, labels=None):
        images = generator.apply(variables, latents, False, labels)
        return (images + 1) / 2 if nets.g_output == "tanh" else images

    [count] = jax.export.symbolic_shape("n")
    widths = [nets.latent_dim] + ([len(nets.conditions)] if nets.conditions else [])
    inputs = [jax.ShapeDtypeStruct((count, width), jnp.float32) for width in widths]
    with jax.default_matmul_precision("highest"):  # TPUs and GPUs would round to less, in convolutions as well
        return jax.export.export(jax.jit(generate), platforms=PLATFORMS)(*inputs).serialize()
