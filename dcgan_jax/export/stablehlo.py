"""G as a program that JAX keeps readable: StableHLO for CPU, CUDA and TPU in one file, any batch size, weights inside.

`numpy_generator.walk_generator` is the network; here are its layers: `lax`'s convolutions on every backend. Those fast on
CPUs (gan/conv/) are chosen when a program is traced, which is now, for all three.
"""

import functools
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.api import TrainedGAN
from dcgan_jax.config import flatten
from dcgan_jax.export import Export
from dcgan_jax.export.numpy_generator import NumPyOps, walk_generator
from dcgan_jax.export.writing import Written, describe_latent, describe_shape, name_weights
from dcgan_jax.gan.state import LABELS

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(config: dict, weights: dict[str, np.ndarray], labels: int) -> bytes:
    """What `jax.export.deserialize` reads: f(latents (N, latent_dim) float32[, labels (N, A) float32 of 0 and 1]) -> images
    (N, S, S, C) float32 from 0 to 1.

    Args: config, weights as of `numpy_generator.walk_generator`; labels, A, 0 where the recipe is not conditional.
    """
    [count] = jax.export.symbolic_shape("n")
    inputs = [jax.ShapeDtypeStruct((count, width), jnp.float32) for width in (config["latent_dim"], labels) if width]
    program = jax.jit(functools.partial(walk_generator, Lax, config, weights))
    return jax.export.export(program, platforms=PLATFORMS)(*inputs).serialize()


class Lax:
    """The layers of `walk_generator`, as of `NumPyOps`. At full precision: TPUs and GPUs would round to less."""

    @staticmethod
    def dense(x, kernel, bias=None):
        x = jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST)
        return x if bias is None else x + bias[None]

    @staticmethod
    def pointwise(x, kernel):
        return jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST)

    @staticmethod
    def doubled(x, kernel, bias, before):
        k = kernel.shape[0]
        padding = [(k - 1 - before, before + 1)] * 2
        x = lax.conv_general_dilated(
            x,
            kernel[::-1, ::-1],
            (1, 1),
            padding,
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWOI", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        return x if bias is None else x + bias[None, None, None]

    @staticmethod
    def convolved(x, kernel, bias):
        x = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
        )
        return x if bias is None else x + bias[None, None, None]

    @staticmethod
    def leaky(x, slope):
        return jnp.where(x > 0, x, slope * x)

    # The same of any array.
    squares = staticmethod(NumPyOps.squares)
    enlarged = staticmethod(NumPyOps.enlarged)
    affine = staticmethod(NumPyOps.affine)
    sum = staticmethod(NumPyOps.sum)

    tanh = staticmethod(jnp.tanh)
    sigmoid = staticmethod(jax.nn.sigmoid)

    @staticmethod
    def scaled(x, gain, shift):
        axes = tuple(range(1, x.ndim - 1))
        return x * jnp.expand_dims(gain, axes) + jnp.expand_dims(shift, axes)

    @staticmethod
    def concatenated(x, y):
        return jnp.concatenate([x, y], 1)


# ---- The export ----


def write(gan: TrainedGAN, folder: Path, ask: Export) -> Written:
    """Writes generator.stablehlo, and reads it back."""
    file = folder / "generator.stablehlo"
    file.write_bytes(export_stablehlo(flatten(gan.config), name_weights(gan.generator), len(gan.attributes)))
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    labels = f'\nlabels = np.load("labels.npy")[seeds % {LABELS}].astype(np.float32)' if gan.attributes else ""
    usage = f"""StableHLO for {", ".join(PLATFORMS)}, calling convention {program.calling_convention_version}, any batch size,
written by jax {jax.__version__}; JAX reads it for at least the compatibility window of `jax.export` (six months).

```python
import jax, jax.export, numpy as np
program = jax.export.deserialize(bytearray(open("generator.stablehlo", "rb").read()))
seeds = np.arange(16, dtype=np.uint32)
latents = jax.vmap(lambda seed: {describe_latent(gan)})(seeds){labels}
images = jax.jit(program.call)(latents{", labels" if gan.attributes else ""})  # (N, {describe_shape(gan)}) float32 from 0 to 1
```
"""

    def generate(*inputs):
        return np.asarray(program.call(*(of for of in inputs if of is not None)))

    return Written(file, generate, usage)
