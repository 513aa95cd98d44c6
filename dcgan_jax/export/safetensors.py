"""Exports the generator as named weights, with a NumPy file that generates from them."""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from dcgan_jax.api import TrainedGAN
from dcgan_jax.config import flatten
from dcgan_jax.export import Export, numpy_generator
from dcgan_jax.export.writing import Written, describe_shape, name_weights


def write(gan: TrainedGAN, folder: Path, ask: Export) -> Written:
    """Writes generator.safetensors, and generator.py, which reads it."""
    file = folder / "generator.safetensors"
    stored = {
        name: array.astype(ask.weights) if name.endswith("kernel") else array
        for name, array in name_weights(gan.generator).items()
    }
    file.write_bytes(save(stored, metadata={"preset": gan.config.run.preset, "step": str(gan.step)}))
    shutil.copyfile(numpy_generator.__file__, folder / "generator.py")
    config, read = flatten(gan.config), numpy_generator.Generator(load_file(file), flatten(gan.config))
    usage = f"""Weights by name, and `generator.py`, which needs numpy and safetensors.

```python
import generator
images = generator.load(".").sample([0, 1, 2])  # (N, {describe_shape(gan)}) uint8, the faces of these seeds
```
"""

    def generate(*inputs: np.ndarray | None) -> np.ndarray:
        return numpy_generator.apply_generator(numpy_generator.NumPyOps, config, read.weights, *inputs)

    return Written(file, generate, usage)
